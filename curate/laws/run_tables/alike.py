"""Likeness of domains: by groups that a user names, or by distances of their texts.

The law `joint` expects domains that are alike to have similar effects, if the runs bear it out
(`curate.laws.fitting.likeness`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from curate.errors import RecipeError
from curate.laws.law import Array
from curate.runtime.registry import list_first, nearest_hint

LEAST_SCALE = 0.01
"""Nats of divergence below which texts are the same but for chance."""

Groups = Mapping[str, str | Sequence[str]]
"""Name of a group → names and patterns of its domains."""


def likeness_of_groups(groups: Groups, domains: Sequence[str], where: str) -> Array:
    """Take domains of the same group for alike.

    The likeness of two domains is the cosine between the sets of groups that they are in.

    Args:
        groups: Domains and patterns by group.
        domains: The domains.
        where: Key or option that gives the groups, for messages.

    Returns:
        Shape (domains, domains).

    Raises:
        RecipeError: A pattern matches no domain.

    Example:
        >>> likeness_of_groups({"code": "c*"}, ("c", "cpp", "web"), "alike").tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    members = np.zeros((len(domains), len(groups)))
    for place, (group, patterns) in enumerate(groups.items()):
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            fitting = [fnmatchcase(name, pattern) for name in domains]
            if not any(fitting):
                raise RecipeError(
                    f"{where}: {group}: '{pattern}' matches no domain"
                    f"{nearest_hint(pattern, domains)} (there are: {list_first(domains, 12)})"
                )
            members[fitting, place] = 1.0
    alone = np.diag(np.where(members.any(axis=1), 0.0, 1.0))
    vectors = np.hstack([members, alone])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors @ vectors.T)


def likeness_of_distances(distances: Array) -> Array:
    """Turn divergences of texts into likeness: exp(-d / l), l the median nearest one.

    The root of the Jensen-Shannon divergence is a distance in a Hilbert space, so this is positive
    definite but for errors of estimates, which are clipped.

    Args:
        distances: shape (domains, domains), divergences; 0 on the diagonal. Infinity for domains
            whose text is unknown.

    Returns:
        Shape (domains, domains).

    References:
        Fuglede and Topsoe 2004, "Jensen-Shannon divergence and Hilbert space embedding".
    """
    others = np.where(np.eye(len(distances), dtype=bool), np.inf, distances)
    nearest = others.min(axis=1)
    nearest = nearest[np.isfinite(nearest)]
    scale = max(float(np.median(nearest)), LEAST_SCALE) if len(nearest) else 1.0
    values, vectors = np.linalg.eigh(np.exp(-distances / scale))
    matrix = (vectors * np.maximum(values, 0.0)) @ vectors.T
    root = np.sqrt(np.diag(matrix))
    return np.asarray(matrix / root / root[:, None])
