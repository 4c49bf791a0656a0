"""Intervals that cover, regrets that tell mixtures apart, and what is refused."""

import numpy as np
import pytest
from mixing_laws import BIMIX_EXPONENTS, PowerLaw, bimix_scales, table_of

from curate.errors import FitError
from curate.laws.law import RunTable
from curate.mixture.search.bimix_optimum import power_optimum
from curate.mixture.search.objective import Problem
from curate.mixture.search.simplex_box import whole
from curate.mixture.search.uncertainty import Resampling, bootstrap, interval

SCALES = bimix_scales(20.0)
TRUTH = power_optimum(SCALES, BIMIX_EXPONENTS, whole(7))
LAW = PowerLaw(SCALES, BIMIX_EXPONENTS)


def fit_power(table):
    """Least squares of ln L on ln r, every domain by its own share; one checkpoint."""
    x, y = np.log(table.weights), np.log(table.losses)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    slope = ((x - x_mean) * (y - y_mean)).sum(axis=0) / ((x - x_mean) ** 2).sum(axis=0)
    slope = np.minimum(slope, 0)
    return PowerLaw(np.exp(y_mean - slope * x_mean), -slope)


def solve(problem):
    return power_optimum(problem.law.scales, problem.law.exponents, problem.box)


def trial(seed, runs, noise, replicates, rivals=None):
    rng = np.random.default_rng(seed)
    table = table_of(LAW, rng.dirichlet(np.full(7, 2.0), runs), noise, seed)
    problem = Problem(fit_power(table), whole(7), np.ones((1, 7)), convex=True)
    weights = solve(problem)
    return bootstrap(
        Resampling(table, fit_power, replicates, seed, solve), problem, weights, rivals or {}
    ), weights


def test_intervals_cover_the_planted_optimum(runslow):
    covered, covered_by_dummy = [], []
    for seed in range(100 if runslow else 50):
        found, weights = trial(seed, runs=16, noise=0.01, replicates=60)
        covered.append((found.low <= TRUTH) & (found.high >= TRUTH))
        # The dummy takes the spread of the optima for that of a mean of so many draws.
        error = found.optima.std(axis=0) / np.sqrt(len(found.optima))
        covered_by_dummy.append(np.abs(weights - TRUTH) <= 1.96 * error)
    assert 0.90 <= np.mean(covered) <= 0.99
    assert np.all(np.mean(covered, axis=0) >= 0.85)
    assert np.mean(covered_by_dummy) < 0.5


def test_intervals_shrink_with_noise_and_hold_the_answer():
    loud, weights = trial(0, runs=20, noise=0.05, replicates=40)
    quiet, same = trial(0, runs=20, noise=0.0005, replicates=40)
    assert np.all(quiet.high - quiet.low < 0.1 * (loud.high - loud.low))
    assert np.all((loud.low <= weights) & (weights <= loud.high))
    assert np.all((quiet.low <= same) & (same <= quiet.high))


def test_regret_tells_a_poor_mixture_from_a_good_one():
    near = TRUTH * np.array([1.05, 0.95, 1, 1, 1, 1, 1])
    rivals = {"uniform": np.full(7, 1 / 7), "near": near / near.sum(), "poor": np.eye(7)[0] * 0.94}
    rivals["poor"] = rivals["poor"] + 0.01 * (1 - np.eye(7)[0])
    found, _ = trial(1, runs=24, noise=0.02, replicates=60, rivals=rivals)
    regret = found.regret
    assert set(regret) == {"recommendation", "uniform", "near", "poor"}
    assert regret["recommendation"].within_noise and regret["near"].within_noise
    assert not regret["poor"].within_noise
    assert 0 <= regret["recommendation"].mean < regret["uniform"].mean < regret["poor"].mean
    assert regret["poor"].high >= regret["poor"].mean
    # The true regret of equal shares is about what is said.
    true = (SCALES * (1 / 7) ** -BIMIX_EXPONENTS).sum() - (SCALES * TRUTH**-BIMIX_EXPONENTS).sum()
    assert regret["uniform"].mean == pytest.approx(true, rel=0.6)
    assert np.all(found.noise_low <= found.noise_high)


def test_answers_repeat():
    first, _ = trial(2, runs=10, noise=0.01, replicates=20)
    second, _ = trial(2, runs=10, noise=0.01, replicates=20)
    assert np.array_equal(first.optima, second.optima) and first.regret == second.regret


def test_checkpoints_of_a_run_stay_together():
    rng = np.random.default_rng(3)
    weights = np.repeat(rng.dirichlet(np.ones(7), 6), 3, axis=0)
    one = table_of(LAW, weights, 0.01)
    names = tuple(f"run-{row // 3}" for row in range(18))
    table = RunTable(
        one.domains, one.targets, names, weights, np.tile([1.0, 2, 3], 6), one.params, one.losses
    )
    seen = []

    def fit(sampled):
        seen.append(sampled)
        return fit_power(sampled)

    problem = Problem(LAW, whole(7), np.ones((1, 7)))
    bootstrap(Resampling(table, fit, 20, 0, solve), problem, TRUTH, {})
    for sampled in seen:
        assert sampled.tokens.tolist() == [1.0, 2, 3] * 6
        assert len(set(sampled.runs)) == 6


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="at least 20 replicates"):
        trial(0, runs=10, noise=0.01, replicates=19)
    with pytest.raises(FitError, match="at least 4 runs, there are 3; set mixture.replicates: 0"):
        trial(0, runs=3, noise=0.01, replicates=20)

    def never(table):
        raise FitError("no")

    table = table_of(LAW, np.random.default_rng(0).dirichlet(np.ones(7), 8))
    with pytest.raises(FitError, match="20 of 20 resamples of the 8 runs cannot determine"):
        bootstrap(
            Resampling(table, never, 20, 0, solve),
            Problem(LAW, whole(7), np.ones((1, 7))),
            TRUTH,
            {},
        )


def test_a_few_failures_are_counted():
    calls = iter(range(100))

    def sometimes(table):
        if next(calls) % 10 == 0:
            raise FitError("no")
        return fit_power(table)

    rng = np.random.default_rng(4)
    table = table_of(LAW, rng.dirichlet(np.full(7, 2.0), 12), 0.01)
    problem = Problem(fit_power(table), whole(7), np.ones((1, 7)))
    found = bootstrap(Resampling(table, sometimes, 40, 0, solve), problem, TRUTH, {})
    assert found.failed == 4 and len(found.optima) == 36


def test_expansion_by_hand():
    # Normal draws: with many runs the ends are 1.96 deviations off, with 5 they are 3.1
    # (2.776 from Student's t with 4 degrees of freedom, times sqrt(5 / 4)).
    draws = np.random.default_rng(5).normal(0, 1, (400_000, 1))
    for runs, expected in ((10_000, 1.96), (5, 3.104)):
        low, high = interval(draws, np.zeros(1), runs)
        assert -low[0] == pytest.approx(expected, rel=0.02)
        assert high[0] == pytest.approx(expected, rel=0.02)
