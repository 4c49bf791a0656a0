"""BiMix's optimum is the same by closed form and by descent, and leaves out no domain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from mixing_laws import PowerLaw, table_of

from curate.laws.forms.bimix import BIMIX, LEAST_SHARE, NEAR_ZERO, FittedBimix, fit_bimix
from curate.laws.law import Array, RunTable
from curate.mixture import DomainSupply, Evidence, MixtureOptions, MixtureRequest, mix
from curate.mixture.request import SearchOptions
from curate.mixture.search.bimix_optimum import power_optimum
from curate.mixture.search.objective import Problem, value_at
from curate.mixture.search.optimise import certificate, optimise
from curate.mixture.search.simplex_box import Box, whole

SCALES, EXPONENTS = np.array([2.0, 2.2, 2.5]), np.array([0.12, 0.10, 0.03])
LAW = PowerLaw(SCALES, EXPONENTS)
NAMES = ("a", "b", "c")


def planted_runs(least: float = 0.122, count: int = 10, seed: int = 0) -> RunTable:
    """Runs in which the least share of c is `least`, about its best share (0.136) or above it."""
    rng = np.random.default_rng(seed)
    c = np.concatenate([[least], rng.uniform(least, least + 0.4, count - 1)])
    a = (1 - c) * rng.uniform(0.3, 0.7, count)
    return table_of(LAW, np.stack([a, 1 - c - a, c], axis=1))


def mixture(table: RunTable, supply: int = 10**9, **search: Any) -> Array:
    request = MixtureRequest(
        domains=tuple(DomainSupply(name, supply, 1e9) for name in NAMES),
        budget_tokens=10**9,
        method="bimix",
        options=MixtureOptions(search=SearchOptions(replicates=0, **search)),
        evidence=Evidence(table),
    )
    weights = mix(request).weights
    return np.array([weights[name] for name in NAMES])


@dataclass(frozen=True)
class Flat:
    """The dummy: the same law, but level below each domain's least share of a run."""

    inner: FittedBimix
    least: Array

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        return self.inner.predict(np.maximum(weights, self.least), tokens, params)

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        return self.inner.gradient(np.maximum(weights, self.least), tokens, params)


@pytest.mark.parametrize("least", [0.02, pytest.param(0.122, marks=pytest.mark.slow), 0.3])
@pytest.mark.parametrize(
    "search",
    [
        {},
        {"kl": 1e-9},
        {"trust_region": False, "kl": 1e-9},
        {"trust_region": False, "discount_repeats": True},
        {"trust_region": False, "discount_repeats": True, "kl": 1e-9},
    ],
)
def test_no_domain_is_dropped(least: float, search: dict[str, Any]) -> None:
    best = power_optimum(SCALES, EXPONENTS, whole(3))
    weights = mixture(planted_runs(least), **search)
    if least < 0.3 or not search.get("trust_region", True):
        assert np.abs(weights - best).max() < 2e-3
    else:
        assert weights[2] > best[2]  # held to the runs, all of which have more of it
    if search.get("discount_repeats"):
        scarce = mixture(planted_runs(least), supply=3 * 10**8, **search)
        assert 0.05 < scarce[2] and np.abs(scarce - best).max() < 0.02


def test_a_law_that_is_flat_below_the_runs_fails_this_bar() -> None:
    table = planted_runs(0.3)
    flat = Flat(fit_bimix(table), table.weights.min(axis=0))
    problem = Problem(law=flat, box=whole(3), goals=np.full((1, 3), 1 / 3))
    assert optimise(problem).weights[2] < 0.01


def test_closed_form_and_descent_agree_for_any_coefficients() -> None:
    """Also where the best share is below that at which another power continues the power."""
    below = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        domains = int(rng.integers(2, 9))
        law = PowerLaw(rng.uniform(1, 4, domains), 10 ** rng.uniform(-4, -0.5, domains))
        runs = rng.dirichlet(np.ones(domains), 4 * domains)
        fitted = fit_bimix(table_of(law, runs))
        low = rng.choice([0.0, 0.02], domains)
        box = Box(low, np.maximum(rng.choice([1.0, 0.5], domains), 1.01 / domains))
        size = fitted.sizes[0]
        exact = power_optimum(
            fitted.scale(np.nan, np.nan), size.alpha, box, (size.share_floor, NEAR_ZERO)
        )
        problem = Problem(law=fitted, box=box, goals=np.ones((1, domains)), convex=BIMIX.convex)
        found = optimise(problem)
        values = value_at(problem, np.array([exact, found.weights]))
        assert values[1] == pytest.approx(values[0], rel=1e-8)
        assert np.abs(found.weights - exact).max() < 2e-3
        gap = certificate(problem, exact)
        assert gap is not None and gap < 1e-6 * values[0], "the reported gap is the closed form's"
        assert exact.min() > 0
        below += bool((exact < size.share_floor).any())
    assert below >= 5


def test_value_slope_and_bend_at_small_shares() -> None:
    fitted = fit_bimix(planted_runs())
    assert fitted.sizes[0].share_floor == pytest.approx(np.full(3, LEAST_SHARE))
    shares = np.concatenate([[0.0, 1e-9, 1e-6], np.geomspace(1e-4, 0.2, 400)])
    weights = np.stack([shares, (1 - shares) / 2, (1 - shares) / 2], axis=1)
    unknown = np.full(len(shares), np.nan)
    losses = fitted.predict(weights, unknown, unknown)[:, 0]
    slopes = fitted.gradient(weights, unknown, unknown)[:, 0, 0]
    assert np.isfinite(losses).all() and np.isfinite(slopes).all()
    assert (np.diff(losses) < 0).all() and (np.diff(slopes) > 0).all(), "falls, and is convex"
    middle = (weights[1:] + weights[:-1]) / 2
    between = fitted.gradient(middle, unknown[1:], unknown[1:])[50:, 0, 0]
    assert between == pytest.approx((np.diff(losses) / np.diff(shares))[50:], rel=1e-3)
    assert losses[-1] == pytest.approx(2.0 * 0.2**-0.12, rel=1e-6)
    one = replace(fitted.sizes[0], share_floor=np.full(3, 1e-30))
    power = replace(fitted, sizes=(one,)).predict(weights, unknown, unknown)[:, 0]
    at = shares >= LEAST_SHARE
    assert losses[at] == pytest.approx(power[at], rel=1e-12)


def test_a_share_of_nearly_nothing_is_none() -> None:
    table = planted_runs()
    weights = table.weights.copy()
    weights[0] = [5e-324, 0.5, 0.5]
    fitted = fit_bimix(replace(table, weights=weights))
    assert fitted.sizes[0].share_floor.min() >= 1e-12
    assert np.isfinite(fitted.gradient(weights, table.tokens, table.params)).all()
