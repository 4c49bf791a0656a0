"""Run tables with a known truth, for the tests of laws."""

from __future__ import annotations

import numpy as np

from curate.laws.law import Array, RunTable

DOMAINS = ("wiki", "code", "talk", "law")


def mixtures(runs: int, domains: int, seed: int, least: float = 0.02) -> Array:
    """Seeded mixtures spread over the simplex, every share at least `least`."""
    draws = np.random.default_rng(seed).dirichlet(np.ones(domains), runs)
    return least + (1 - domains * least) * draws


def true_losses(weights: Array, tokens: Array, params: Array) -> Array:
    """A truth no law here has exactly: products of powers, with help between neighbours."""
    domains = weights.shape[1]
    help_from = np.full((domains, domains), 0.05)
    np.fill_diagonal(help_from, 1.0)
    help_from += 0.3 * np.eye(domains, k=1)
    seen = weights @ help_from.T + 0.01
    floor = 1.2 + 0.3 * np.arange(domains)
    later = 0 if np.isnan(tokens).any() else 0.4 * (tokens[:, None] / 1e9) ** -0.3
    larger = 0 if np.isnan(params).any() else 0.3 * (params[:, None] / 1e8) ** -0.3
    return floor + 0.6 * seen ** (-0.4 - 0.04 * np.arange(domains)) + later + larger


def table_of(
    weights: Array,
    tokens: tuple[float, ...] = (float("nan"),),
    params: tuple[float, ...] = (float("nan"),),
    noise: float = 0.0,
    seed: int = 0,
) -> RunTable:
    """Every mixture at every size and token count, with relative noise."""
    rows = [
        (f"run{i}-{size:g}", i, count, size)
        for i in range(len(weights))
        for size in params
        for count in tokens
    ]
    names, which, counts, sizes = zip(*rows, strict=True)
    chosen = weights[list(which)]
    losses = true_losses(chosen, np.array(counts), np.array(sizes))
    losses *= np.exp(noise * np.random.default_rng(seed).standard_normal(losses.shape))
    domains = DOMAINS[: weights.shape[1]]
    return RunTable(domains, domains, names, chosen, np.array(counts), np.array(sizes), losses)
