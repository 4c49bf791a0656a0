"""Laws with known coefficients and known optima, for the tests of mixing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curate.laws.law import RunTable

BIMIX_A = np.array([1.594, 2.998, 3.143, 0.991, 2.995, 1.743, 1.901])
BIMIX_EXPONENTS = np.array([0.056, 0.020, 0.020, 0.069, 0.021, 0.048, 0.091])
BIMIX_B = np.array([0.724, 0.682, 0.708, 1.639, 0.815, 1.022, 1.471])
BIMIX_BETA = np.array([0.859, 1.053, 1.084, 1.162, 1.119, 1.095, 1.164])
"""BiMix fitted to seven SlimPajama domains; tokens in billions."""


def bimix_scales(billion_tokens):
    return BIMIX_A * (BIMIX_B * billion_tokens**-BIMIX_BETA + 1)


@dataclass(frozen=True)
class PowerLaw:
    """L_i = K_i r_i^(-a_i)."""

    scales: np.ndarray
    exponents: np.ndarray

    def predict(self, weights, tokens, params):
        return self.scales * np.maximum(weights, 1e-12) ** -self.exponents

    def gradient(self, weights, tokens, params):
        slopes = -self.scales * self.exponents
        slopes = slopes * np.maximum(weights, 1e-12) ** (-self.exponents - 1)
        return slopes[:, :, None] * np.eye(len(self.scales))


@dataclass(frozen=True)
class LogLinear:
    """L_j = c_j + exp(sum_i t_ji r_i)."""

    floors: np.ndarray
    rates: np.ndarray

    def predict(self, weights, tokens, params):
        return self.floors + np.exp(weights @ self.rates.T)

    def gradient(self, weights, tokens, params):
        return np.exp(weights @ self.rates.T)[:, :, None] * self.rates


@dataclass(frozen=True)
class Linear:
    """L_j = c_j + sum_i t_ji r_i, what ridge fits."""

    floors: np.ndarray
    rates: np.ndarray

    def predict(self, weights, tokens, params):
        return self.floors + weights @ self.rates.T

    def gradient(self, weights, tokens, params):
        return np.broadcast_to(self.rates, (len(weights), *self.rates.shape))


@dataclass(frozen=True)
class Steps:
    """No gradient: a tree's plateaus, lowest where all shares are near the middle's."""

    middle: np.ndarray

    def predict(self, weights, tokens, params):
        return np.ceil(20 * np.abs(weights - self.middle).sum(axis=1, keepdims=True)) / 20 + 1

    def gradient(self, weights, tokens, params):
        return None


@dataclass(frozen=True)
class TwoValleys:
    """Two wells in the share of the first domain; the deeper is at .8."""

    def predict(self, weights, tokens, params):
        first = weights[:, :1]
        wells = -np.exp(-(((first - 0.2) / 0.1) ** 2)) - 1.3 * np.exp(-(((first - 0.8) / 0.1) ** 2))
        return 3 + wells

    def gradient(self, weights, tokens, params):
        first = weights[:, :1]
        slope = np.zeros((len(weights), 1, weights.shape[1]))
        slope[:, :, 0] = 2 * (first - 0.2) / 0.01 * np.exp(-(((first - 0.2) / 0.1) ** 2))
        slope[:, :, 0] += 2.6 * (first - 0.8) / 0.01 * np.exp(-(((first - 0.8) / 0.1) ** 2))
        return slope


@dataclass(frozen=True)
class WithTokens:
    """A log-linear law plus a term that falls with tokens."""

    inner: LogLinear

    def predict(self, weights, tokens, params):
        return self.inner.predict(weights, tokens, params) + 5 * tokens[:, None] ** -0.1

    def gradient(self, weights, tokens, params):
        return self.inner.gradient(weights, tokens, params)


def table_of(law, weights, noise=0.0, seed=0, names=None):
    """One checkpoint of a run for each mixture."""
    rng = np.random.default_rng(seed)
    rows, domains = weights.shape
    names = names or tuple(chr(97 + i) for i in range(domains))
    missing = np.full(rows, np.nan)
    losses = law.predict(weights, missing, missing)
    losses = losses * np.exp(rng.normal(0, noise, losses.shape)) if noise else losses
    targets = (
        names if losses.shape[1] == domains else tuple(f"t{j}" for j in range(losses.shape[1]))
    )
    runs = tuple(f"run-{row}" for row in range(rows))
    return RunTable(tuple(names), targets, runs, weights, missing, missing, losses)
