"""The laws of loss, one a file."""
