"""Compressed files as streams that can begin in the middle."""
