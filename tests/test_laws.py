"""One contract for every law, and planted truths for those whose form allows it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import slow_if
from curves import fit_curve, fit_settled_curve, settled_from
from law_contract import (
    CONTRACT,
    error_on_unseen,
    fitted_to_two_counts,
    one_checkpoint_without_tokens_or_sizes,
    tokens_and_model_sizes_together,
)
from law_tables import DOMAINS, mixtures, table_of

from curate.errors import FitError
from curate.laws import LAWS, Law
from curate.laws.fitting.gaussian_process import Rows, _prior, _unlikelihood
from curate.laws.fitting.progress_term import Horizon
from curate.laws.forms.additive import FittedAdditive
from curate.laws.forms.autoscale import FittedAutoscale
from curate.laws.forms.bimix import BimixCoefficients, FittedBimix, fit_bimix
from curate.laws.forms.bimix_mixed import FittedBimixMixed
from curate.laws.forms.exponential import FittedExponential
from curate.laws.forms.ridge import fit_ridge
from curate.laws.law import Array, FittedLaw, RunTable

TOKENS = (1e9, 2e9, 4e9, 8e9)
NAN = float("nan")


REFUSALS = {
    ("bimix", "a_domain_never_sampled"): "'talk' was never sampled.*at least two",
    ("boosted_regmix", "fewer_runs_than_parameters"): "4 rows.*at least 40.*--laws boosted",
    ("bimix", "identical_mixtures"): "'wiki' has the same share in every run",
    ("joint", "identical_mixtures"): "1 different mixtures of 4 domains; it needs 4",
}
"""Tables that a law cannot be fitted to, and what it says."""


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", LAWS)
def test_contract(name: str, check: Callable[[Law], None]) -> None:
    refusal = REFUSALS.get((name, check.__name__))
    if refusal is None:
        check(LAWS[name])
    else:
        with pytest.raises(FitError, match=refusal):
            check(LAWS[name])


@pytest.mark.parametrize("name", ["additive", "exponential"])
def test_a_target_is_fitted_as_if_alone(name: str) -> None:
    """Each target ends its own search; one that went on with the others would end elsewhere."""
    table = table_of(mixtures(8, 4, 0), TOKENS, noise=0.01)
    one = replace(table, targets=table.targets[:1], losses=table.losses[:, :1])
    rows = (table.weights, table.tokens, table.params)
    alone, beside = (LAWS[name].fit(fitted).predict(*rows)[:, 0] for fitted in (one, table))
    np.testing.assert_allclose(alone, beside, rtol=1e-10)


@pytest.mark.parametrize("name", LAWS)
def test_only_trees_have_no_gradient(name: str) -> None:
    weights = mixtures(6, 4, 4, least=0.05)
    slopes = fitted_to_two_counts(LAWS[name]).gradient(weights, np.full(6, 1e9), np.full(6, NAN))
    assert (slopes is None) == name.startswith("boosted")


@pytest.mark.parametrize("name", LAWS)
def test_unseen_mixtures_are_predicted_better_than_by_the_mean(name: str) -> None:
    error = error_on_unseen(LAWS[name])
    bars = {
        "joint": 0.003,
        "additive": 0.003,
        "gaussian": 0.003,
        "exponential": 0.01,
        "boosted": 0.02,
    }
    if name == "mean":
        assert error > 0.05  # the dummy fails every bar
    else:
        assert error < bars.get(name, 0.035)


@pytest.mark.parametrize(
    "check", [one_checkpoint_without_tokens_or_sizes, tokens_and_model_sizes_together]
)
def test_the_mean_fails_the_bars_of_the_contract(check: Callable[[Law], None]) -> None:
    check(LAWS["mean"])  # allowed to a dummy
    with pytest.raises(AssertionError):
        check(replace(LAWS["mean"], dummy=False))


def test_dummies_and_names() -> None:
    assert [law.name for law in LAWS.values() if law.dummy] == ["mean", "own_share"]
    message = "fit: no law is called 'aditive'; did you mean 'additive'.*known: bimix.*gaussian"
    with pytest.raises(FitError, match=message):
        LAWS.find("aditive", "fit", FitError)


# Truths of a law's own form.

HORIZON = Horizon(2.0e9, 3.0e8)
TERMS = np.log(np.array([[0.3, 0.4, 0.5, 0.3], [0.4, 0.3, 0.2, 0.5]]))
BETWEEN = np.random.default_rng(10).uniform(0, 1, (2, 4))

PLANTED: dict[str, FittedLaw] = {
    "exponential": FittedExponential(
        np.array([1.5, 2.0]), np.array([0.1, -0.3]), 2 * BETWEEN - 1.5, HORIZON, TERMS
    ),
    "additive": FittedAdditive(
        np.array([1.5, 2.0]), 0.2 + BETWEEN, 0.3 + 0.4 * BETWEEN[::-1], HORIZON, TERMS
    ),
    "autoscale": FittedAutoscale(
        np.array([1.0, 1.4]), 0.2 + 0.4 * BETWEEN, 0.05 + 0.2 * BETWEEN[::-1], 0.3 + BETWEEN,
        2.0e9, Horizon(NAN, 3.0e8), TERMS[:, 2:],
    ),
    "bimix_mixed": FittedBimixMixed(
        0.3 + BETWEEN, 0.02 + 0.2 * BETWEEN[::-1], HORIZON, TERMS
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_law_is_recovered(name: str) -> None:
    """Not its coefficients, which trade off, but what it says of other mixtures and tokens."""
    base = table_of(mixtures(40, 4, 11, 0.005), TOKENS, (1e8, 3e8, 1e9))
    losses = PLANTED[name].predict(base.weights, base.tokens, base.params)
    table = replace(base, targets=("a", "b"), losses=losses)
    found = LAWS[name].fit(table)
    weights = mixtures(50, 4, 12, 0.005)
    tokens, params = np.full(50, 1.6e10), np.full(50, 5e8)
    truth = PLANTED[name].predict(weights, tokens, params)
    error = np.abs(found.predict(weights, tokens, params) / truth - 1)
    assert error.max() < 2e-3
    dummy = LAWS["own_share"].fit(table).predict(weights, tokens, params)
    assert np.abs(dummy / truth - 1).max() > 0.05


SHARES = Path(__file__).parent / "data" / "bimix_slimpajama.csv"
ALPHA = np.array([0.056, 0.020, 0.020, 0.069, 0.021, 0.048, 0.091])
SCALE = np.array([1.594, 2.998, 3.143, 0.991, 2.995, 1.743, 1.901])
FALL = np.array([0.724, 0.682, 0.708, 1.639, 0.815, 1.022, 1.471])
BETA = np.array([0.859, 1.053, 1.084, 1.162, 1.119, 1.095, 1.164])


def slimpajama(noise: float) -> RunTable:
    """Four entropy mixtures at 20 token counts, losses by the law with plausible coefficients."""
    with SHARES.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = tuple(row["domain"] for row in rows)
    mixture = np.array([[float(row[key]) for row in rows] for key in ("SE", "CE", "JE", "VNE")])
    mixture /= mixture.sum(axis=1, keepdims=True)
    weights = np.repeat(mixture, 20, axis=0)
    tokens = np.tile(np.arange(1, 21) * 5.24, 4)
    losses = SCALE * weights**-ALPHA * (FALL * tokens[:, None] ** -BETA + 1)
    losses *= np.exp(noise * np.random.default_rng(13).standard_normal(losses.shape))
    runs = tuple(np.repeat(["SE", "CE", "JE", "VNE"], 20).tolist())
    return RunTable(names, names, runs, weights, tokens, np.full(80, NAN), losses)


@pytest.mark.parametrize(("noise", "close"), [(0.0, 1e-5), (5e-4, 0.1)])
def test_bimix_coefficients_from_the_four_entropy_mixtures(noise: float, close: float) -> None:
    table = slimpajama(noise)
    assert table.targets[0] == "ArXiv"  # the order of ALPHA
    found = fit_bimix(table)
    size = found.size(NAN)
    assert size.alpha == pytest.approx(ALPHA, rel=close)
    assert size.level == pytest.approx(SCALE, rel=close / 10)
    assert size.beta == pytest.approx(BETA, rel=close)
    amplitude = SCALE * FALL * found.tokens_unit**-BETA
    assert size.amplitude == pytest.approx(amplitude, rel=close)
    # K_i = A_i (B_i / s^beta_i + C_i), what an optimiser needs
    scale = SCALE * (FALL * 20.0**-BETA + 1)
    assert found.scale(20.0, NAN) == pytest.approx(scale, rel=close / 10)


def late_bimix(noise: float) -> tuple[RunTable, np.ndarray]:
    """Runs with ten log-spaced checkpoints; the law holds in the last five.

    Before, losses fall in steps and hardly depend on the mixture, as while a model learns the
    frequencies of single tokens.
    """
    alpha = np.array([0.05, 0.1, 0.15])
    weights = np.repeat(mixtures(16, 3, 21), 10, axis=0)
    tokens = np.tile(32 ** (np.arange(10) / 9), 16)
    losses = weights**-alpha * (4 * tokens[:, None] ** -0.6 + 2)
    early = np.tile(np.arange(10) < 5, 16)
    steps = np.array([7.0, 6.9, 6.2, 6.1, 4.6])[np.tile(np.arange(10), 16)[early]]
    losses[early] = steps[:, None] * weights[early] ** -(alpha / 10)
    losses *= np.exp(noise * np.random.default_rng(22).standard_normal(losses.shape))
    runs = tuple(f"run{row // 10}" for row in range(160))
    names = ("a", "b", "c")
    return RunTable(names, names, runs, weights, tokens, np.full(160, NAN), losses), alpha


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_bimix_leaves_out_checkpoints_at_which_it_does_not_hold_yet(noise: float) -> None:
    table, alpha = late_bimix(noise)
    law = fit_bimix(table)
    size = law.size(NAN)
    assert len(size.early_tokens) >= 5
    assert size.alpha == pytest.approx(alpha, rel=0.02 if noise == 0 else 0.15)
    last = table.tokens > 31
    earlier = table.take(~last)
    truth = table.take(last).losses
    at = table.weights[last], table.tokens[last], table.params[last]
    error = np.abs(fit_bimix(earlier).predict(*at) / truth - 1).mean()
    copied = earlier.losses[earlier.tokens == earlier.tokens.max()]
    assert error < 0.02 < np.abs(copied / truth - 1).mean()
    # Early losses are those on average, and both parts meet.
    predicted = law.predict(table.weights, table.tokens, table.params)
    assert np.abs(predicted / table.losses - 1).mean() < 0.06
    edge = size.early_tokens[-1] * np.array([1 - 1e-9, 1.0])
    below, above = law.predict(table.weights[:2] * 0 + 1 / 3, edge, np.full(2, NAN))
    assert below == pytest.approx(above, rel=1e-6)


def test_bimix_keeps_every_checkpoint_where_it_holds_throughout() -> None:
    assert not len(fit_bimix(slimpajama(5e-4)).size(NAN).early_tokens)


def test_bimix_is_finite_at_a_share_of_zero() -> None:
    coefficients = BimixCoefficients(*(np.array([v]) for v in (0.5, 1.0, 1.0, 2.0, 0.01)))
    law = FittedBimix((0,), 1.0, np.array([NAN]), (coefficients,))
    weights = np.array([[0.0, 1.0], [0.01, 0.99], [0.04, 0.96]])
    losses = law.predict(weights, np.full(3, 2.0), np.full(3, NAN))
    # 0.1^-1 (1/2 + 2) (1 + 0.5 / 0.75), 0.1^-1 (…), 0.2^-1 (…)
    assert losses[:, 0] == pytest.approx([25 * 5 / 3, 25.0, 12.5])


def test_bimix_knows_no_other_model_size_and_no_other_target() -> None:
    table = table_of(mixtures(10, 3, 14), TOKENS, (1e8, 1e9))
    found = fit_bimix(table)
    with pytest.raises(FitError, match=r"5e\+08 parameters were not among the runs \(1e\+08, 1e"):
        found.predict(table.weights[:1], np.array([1e9]), np.array([5e8]))
    with pytest.raises(FitError, match="'other' is not a training domain.*--targets.*bimix_mixed"):
        fit_bimix(replace(table, targets=("wiki", "other", "talk")))


@pytest.mark.parametrize("rows", [2, 3])
def test_bimix_takes_fewer_runs_than_it_has_parameters(rows: int) -> None:
    table = table_of(mixtures(rows, 3, 14), TOKENS[:rows])
    table = table.take(np.arange(0, rows * rows, rows + 1))  # each run at another token count
    fitted = fit_bimix(table).predict(table.weights, table.tokens, table.params)
    assert len(fitted) == rows and np.isfinite(fitted).all()


def test_bimix_with_two_token_counts_holds_beta() -> None:
    found = fit_bimix(table_of(mixtures(10, 3, 14), TOKENS[:2]))
    assert found.size(NAN).beta == pytest.approx([0.5, 0.5, 0.5])


def test_rare_domain_does_not_explode() -> None:
    """Slopes of a domain seen up to 1 % stay such that a fifth of it is not absurd."""
    weights = mixtures(30, 4, 15)
    weights[:, 3] *= 0.02
    weights /= weights.sum(axis=1, keepdims=True)
    table = table_of(weights, noise=0.01)
    law = LAWS["exponential"].fit(table)
    far = np.array([[0.25, 0.25, 0.25, 0.25]])
    found = law.predict(far, np.array([NAN]), np.array([NAN]))
    assert (found < 3 * table.losses.max()).all() and (found > 0.3 * table.losses.min()).all()


def test_curve_of_a_run_extrapolates_within_half_a_percent() -> None:
    tokens = np.arange(1, 21) * 5.24e9
    losses = 2.4 + 0.9 * (tokens / 1e9) ** -0.6
    noisy = losses * np.exp(0.001 * np.random.default_rng(16).standard_normal(20))
    curve = fit_curve(tokens[:-4], noisy[:-4])
    assert curve.predict(tokens[-4:]) == pytest.approx(losses[-4:], rel=0.005)
    with pytest.raises(FitError, match="3 different token counts.*at least 4"):
        fit_curve(tokens[:3], losses[:3])


@pytest.mark.parametrize("seed", slow_if(lambda seed: seed > 1, range(5)))
def test_a_curve_leaves_out_the_steps_that_a_run_begins_with(seed: int) -> None:
    """A plateau and a fall before the power law: the whole curve misses, the settled one hits."""
    tokens = np.arange(1, 21) * 1e5
    losses = 3 + 4 * (tokens / 1e5) ** -0.5
    losses[:5] = [6.5, 6.4, 6.0, 5.4, 4.9]
    noisy = losses * np.exp(0.0005 * np.random.default_rng(seed).standard_normal(20))
    first = settled_from(tokens[:-1], noisy[:-1])
    assert 4 <= first <= 9
    settled = fit_settled_curve(tokens[:-1], noisy[:-1]).predict(tokens[-1:])[0]
    whole = fit_curve(tokens[:-1], noisy[:-1]).predict(tokens[-1:])[0]
    assert abs(settled / losses[-1] - 1) < 0.003 < abs(whole / losses[-1] - 1)
    shuffled = np.random.default_rng(seed).permutation(19)
    again = fit_settled_curve(tokens[:-1][shuffled], noisy[:-1][shuffled])
    assert again.predict(tokens[-1:])[0] == pytest.approx(settled, rel=1e-6)
    assert settled_from(tokens[:6], noisy[:6]) == 0  # too few to choose
    with pytest.raises(FitError, match="2 different token counts"):
        fit_settled_curve(tokens[:2], losses[:2])


@pytest.mark.parametrize("seed", range(5))
def test_a_swarm_s_few_checkpoints_leave_out_the_plateau_too(seed: int) -> None:
    """Nine points 1.47 times apart, as `spacing: log` sets them, the first four of them flat."""
    tokens = 9216 * 1.47 ** np.arange(10)
    losses = 20 * (tokens / 9216) ** -0.15
    losses[:4] = 11.2 - 0.05 * np.arange(4)
    noisy = losses * np.exp(0.002 * np.random.default_rng(seed).standard_normal(10))
    assert settled_from(tokens[:-1], noisy[:-1]) >= 3
    settled = fit_settled_curve(tokens[:-1], noisy[:-1]).predict(tokens[-1:])[0]
    whole = fit_curve(tokens[:-1], noisy[:-1]).predict(tokens[-1:])[0]
    last = noisy[-2]  # a dummy
    errors = [abs(value / losses[-1] - 1) for value in (settled, whole, last)]
    assert errors[0] < 0.02 < min(errors[1:])


def test_marginal_likelihood_of_two_points_by_hand() -> None:
    """K = [[1, .83], [.83, 1]] + 10 for the unknown mean + .01 I, at distance .5."""
    rows = Rows(np.array([[0.0], [0.5]]), np.zeros((2, 0)), np.arange(2))
    theta = np.array([0.0, 0.0, -30.0, np.log(0.1)])  # length 1, step 1, hardly a plane, noise .1
    d = np.sqrt(5) * 0.5
    off = 10 + (1 + d + d * d / 3) * np.exp(-d)
    determinant = 11.01**2 - off**2
    square = (11.01 * (0.09 + 0.01) - 2 * off * 0.3 * -0.1) / determinant
    expected = 0.5 * square + 0.5 * np.log(determinant)
    prior = replace(_prior(rows), centre=theta)
    value, _ = _unlikelihood(theta, rows, np.array([[0.3], [-0.1]]), prior)
    assert value == pytest.approx(expected, rel=1e-5)


def test_ridge_takes_a_small_penalty_for_a_linear_truth() -> None:
    weights = mixtures(50, 4, 19)
    losses = 3 + weights @ np.array([[1.0, 0.2], [-1.0, 0.1], [0.5, -0.2], [0.0, 0.4]])
    table = replace(table_of(weights), targets=("a", "b"), losses=losses)
    law = fit_ridge(table)
    assert law.penalty == 1e-3
    assert law.predict(weights, table.tokens, table.params) == pytest.approx(losses, rel=1e-3)
    worse: Callable[..., Array] = LAWS["mean"].fit(table).predict
    assert np.abs(worse(weights, table.tokens, table.params) / losses - 1).max() > 0.05


def test_tables_must_fit_together() -> None:
    table = table_of(mixtures(5, 4, 20))
    with pytest.raises(ValueError, match=r"weights: expected shape \(5, 4\), got \(5, 3\)"):
        replace(table, weights=table.weights[:, :3])
    assert table.take(np.array([1, 3])).runs == (table.runs[1], table.runs[3])
    assert table.domains == DOMAINS
