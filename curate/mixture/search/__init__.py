"""Optimisers that find the mixture of least predicted loss under the request's constraints."""
