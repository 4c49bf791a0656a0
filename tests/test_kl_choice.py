"""The strength of the KL pull by cross-validated regret."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from method_contract import asked
from mixing_laws import Linear, LogLinear, table_of

from curate.errors import FitError
from curate.laws import LAWS
from curate.laws.law import Array, RunTable
from curate.mixture import Evidence, mix
from curate.mixture.search.kl_choice import STRENGTHS, choose_kl
from curate.mixture.search.law_choice import objective_of, refit
from curate.mixture.search.objective import Problem
from curate.mixture.search.optimise import optimise
from curate.mixture.search.simplex_box import whole

pytestmark = pytest.mark.usefixtures("small_search")

DOMAINS = 5
EVEN = np.full((1, DOMAINS), 1 / DOMAINS)


def noisy_table(seed: int, count: int, noise: float) -> tuple[LogLinear, RunTable, Array]:
    """A law, runs of it, and a prior."""
    rng = np.random.default_rng(seed)
    rates = rng.normal(0, 0.4, (DOMAINS, DOMAINS)) - np.diag(rng.uniform(1, 3, DOMAINS))
    law = LogLinear(rng.uniform(1.5, 2.5, DOMAINS), rates)
    table = table_of(law, rng.dirichlet(np.full(DOMAINS, 1.5), count))
    losses = table.losses * np.exp(rng.normal(0, noise, table.losses.shape))
    return law, dataclasses.replace(table, losses=losses), rng.dirichlet(np.full(DOMAINS, 4.0))


def test_regrets_of_linear_losses_are_those_of_the_closed_form() -> None:
    """With a pull of strength k, a linear loss is least at p_i exp(-slope_i / k), normalised."""
    rng = np.random.default_rng(0)
    rates = rng.normal(0, 0.3, (DOMAINS, DOMAINS))
    table = table_of(
        Linear(np.full(DOMAINS, 3.0), rates), rng.dirichlet(np.ones(DOMAINS), 20), 0.02
    )
    prior = rng.dirichlet(np.full(DOMAINS, 4.0))
    whole_law = LAWS["ridge"].fit(table)
    problem = Problem(whole_law, whole(DOMAINS), EVEN, prior=prior, convex=True)
    refits = refit(LAWS["ridge"], whole_law, table)
    choice = choose_kl(problem, refits, table)
    spread = table.losses.mean(axis=1).std()
    assert choice.tried == pytest.approx(np.array(STRENGTHS) * spread)
    none = np.full(DOMAINS, np.nan)

    def slopes(law: object) -> Array:
        """A linear law's losses at the corners, up to a constant its slopes."""
        corners: Array = law.predict(np.eye(DOMAINS), none, none)  # type: ignore[attr-defined]
        return corners.mean(axis=1)

    def best(slope: Array, strength: float) -> Array:
        if strength == 0:
            return np.eye(DOMAINS)[slope.argmin()]
        weights = prior * np.exp(-(slope - slope.min()) / strength)
        return np.asarray(weights / weights.sum())

    of_all = slopes(whole_law)
    expected = [
        np.mean([of_all @ best(slopes(part), k) for part in refits.parts]) - of_all.min()
        for k in choice.tried
    ]
    assert choice.regret == pytest.approx(expected, abs=1e-5)
    assert choice.strength == choice.tried[int(np.argmin(choice.regret))]


def test_ties_go_to_the_larger_strength() -> None:
    """Losses that no mixture moves: every strength has the same regret."""
    table = table_of(
        Linear(np.full(2, 3.0), np.zeros((2, 3))),
        np.random.default_rng(0).dirichlet(np.ones(3), 12),
    )  # noqa: E501
    law = LAWS["ridge"].fit(table)
    problem = Problem(law, whole(3), np.full((1, 2), 0.5), prior=np.full(3, 1 / 3), convex=True)
    choice = choose_kl(problem, refit(LAWS["ridge"], law, table), table)
    assert np.allclose(choice.regret, 0, atol=1e-9) and choice.strength == choice.tried[-1]


@pytest.mark.parametrize(
    ("count", "noise", "seeds"),
    [(8, 0.1, 6), pytest.param(8, 0.1, 10, marks=pytest.mark.slow), (48, 0.01, 3)],
)
def test_it_beats_no_pull_on_few_noisy_runs_and_does_no_harm_with_many(
    count: int, noise: float, seeds: int
) -> None:
    """True mean loss above the best, averaged over tables; the strongest pull is the dummy."""
    lost = []
    for seed in range(900, 900 + seeds):
        truth, table, prior = noisy_table(seed, count, noise)
        fitted = LAWS["exponential"].fit(table)
        problem = Problem(fitted, whole(DOMAINS), EVEN, prior=prior, convex=True)
        choice = choose_kl(problem, refit(LAWS["exponential"], fitted, table), table)
        rows = [optimise(dataclasses.replace(problem, law=truth)).weights]
        rows += [
            optimise(dataclasses.replace(problem, kl=float(kl))).weights
            for kl in (0.0, choice.strength, choice.tried[-1])
        ]
        best, *means = truth.predict(np.array(rows), np.empty(0), np.empty(0)).mean(axis=1)
        lost.append([mean / best - 1 for mean in means])
    none, by_choice, strongest = np.mean(lost, axis=0)
    if count == 8:
        assert by_choice < 0.85 * none
    else:
        assert by_choice <= 1.05 * none and strongest > 5 * by_choice


def test_the_choice_is_in_the_unit_of_the_losses() -> None:
    """One group over its reference is the mean, so it chooses the same pull."""
    _, table, _ = noisy_table(3, 10, 0.03)
    evidence = Evidence(table)
    names, caps = table.domains, (np.inf,) * DOMAINS
    plain, grouped = (
        mix(asked("dml", caps, names, evidence, kl="auto", trust_region=False, groups=groups))
        for groups in ({}, {"all": ["*"]})
    )
    assert grouped.details["kl_choice"]["kl"] == pytest.approx(plain.details["kl_choice"]["kl"])
    assert grouped.weights == pytest.approx(plain.weights, abs=1e-4)
    rows = [row["kl"] for row in plain.details["kl_choice"]["tried"]]
    spread = float(objective_of(table.losses, Problem(None, whole(5), EVEN)).std())  # type: ignore[arg-type]
    assert rows == pytest.approx(np.array(STRENGTHS) * spread)


def test_too_few_mixtures_to_leave_any_out() -> None:
    _, table, _ = noisy_table(0, 2, 0.01)
    with pytest.raises(FitError, match="mixture.kl: auto leaves out a fifth of the mixtures"):
        mix(asked("bimix", (np.inf,) * DOMAINS, table.domains, Evidence(table), kl="auto"))
