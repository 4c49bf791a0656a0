"""The Matern 5/2 covariance of Gaussian processes: smooth twice, no more."""

from __future__ import annotations

import numpy as np

from curate.laws.law import Array


def squared_distances(first: Array, second: Array) -> Array:
    """Between the rows of both, shape (rows of first, rows of second).

    Example:
        >>> squared_distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
        array([[25.,  1.]])
    """
    cross: Array = first @ second.T
    cross *= -2
    cross += (first**2).sum(axis=1)[:, None]
    cross += (second**2).sum(axis=1)
    return np.maximum(cross, 0, out=cross)


def matern(squares: Array) -> tuple[Array, Array]:
    """Correlations (1 + d + d^2 / 3) e^-d with d = sqrt(5 squares), and their derivatives.

    Args:
        squares: Squared distances in units of the length, any shape.

    Returns:
        Values between 0 and 1, and derivatives by the squares, of the same shape.

    Example:
        >>> value, slope = matern(np.array([0.0, 0.2]))
        >>> value.round(4).tolist(), slope.round(4).tolist()
        ([1.0, 0.8584], [-0.8333, -0.6131])
    """
    distance = np.sqrt(5 * squares)
    decay = np.exp(-distance)
    slope = (1 + distance) * decay
    value = slope + distance**2 / 3 * decay
    slope *= -5 / 6
    return value, slope
