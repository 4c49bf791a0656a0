"""Atomic files, worker processes here or on Ray, compiled loops, registries and progress."""
