"""Numerics of the laws: least squares, features, Gaussian processes, prediction with trees."""
