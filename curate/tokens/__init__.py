"""Tokenizers, the token store, and the counts taken while it is filled."""
