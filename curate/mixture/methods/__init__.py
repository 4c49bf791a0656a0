"""The mixing methods, one family a file."""
