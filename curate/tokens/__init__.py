"""Tokenizers, the token store, and bigram counts made while the store is filled."""
