"""Numerics that laws are fitted with: least squares, features, trees, kernels."""
