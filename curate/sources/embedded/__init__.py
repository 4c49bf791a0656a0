"""The corpus that is always there, harvested from the Python installation."""
