"""Goals of an objective: groups of targets, their worst case, and weights by noise."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from method_contract import NAMES, asked, runs
from mixing_laws import Linear, LogLinear, PowerLaw, table_of
from scipy import optimize

from curate.errors import FitError, RecipeError
from curate.laws import LAWS
from curate.laws.law import Array, RunTable
from curate.laws.selection import noise_weights
from curate.mixture import Evidence, mix
from curate.mixture.goals import make_goals
from curate.mixture.request import SearchOptions
from curate.mixture.search.objective import Problem, goals_of, value_at
from curate.mixture.search.optimise import optimise
from curate.mixture.search.simplex_box import whole
from curate.mixture.search.trust_region import support_of
from curate.report.tables import mixture_lines

TARGETS = ("code_c", "code_py", "wiki", "law")


def goals_for(**search: Any) -> Any:
    return make_goals(SearchOptions(**search), TARGETS, None)


# --- what an objective means


def test_groups_are_named_by_targets_and_patterns() -> None:
    goals = goals_for(groups={"code": ["code_*"], "text": ["wiki", "law"]})
    assert goals.names == ("code", "text") and goals.relative and not goals.left_out
    assert goals.weights.tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    weighed = goals_for(groups={"all": ["*"]}, objective={"wiki": 3.0, "law": 1.0})
    assert weighed.weights.tolist() == [[0, 0, 0.75, 0.25]]
    some = goals_for(groups={"code": ["code_c", "code_*"]})
    assert some.left_out == ("wiki", "law") and some.weights.tolist() == [[0.5, 0.5, 0, 0]]
    assert goals_for(objective="worst").weights.tolist() == np.eye(4).tolist()
    assert not goals_for().relative and goals_for().weights.tolist() == [[0.25] * 4]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"groups": {"code": ["c_*"]}}, r"'c_\*' of group 'code' selects no target .targets: code"),
        ({"groups": {"code": ["code_pi"]}}, "selects no target; did you mean 'code_py'"),
        (
            {"groups": {"code": ["code_*"]}, "objective": {"wiki": 1.0}},
            "no target of group 'code' has a weight",
        ),
        ({"objective": "noise"}, "noise is learnt from training runs"),
    ],
)
def test_goals_that_cannot_be(search: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        goals_for(**search)


def test_a_loss_that_is_infinite_counts_in_its_goals_only() -> None:
    losses = np.array([[1.0, np.inf], [1.0, 3.0]])
    goals = np.array([[1.0, 0.0], [0.5, 0.5]])
    assert goals_of(losses, goals).tolist() == [[1.0, np.inf], [1.0, 2.0]]


# --- the worst group, against other solvers


def test_the_worst_group_of_linear_losses_is_that_of_a_linear_programme() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        domains, targets, groups = 5, 6, int(rng.integers(1, 4))
        law = Linear(rng.uniform(2, 3, targets), rng.normal(0, 1, (targets, domains)))
        goals = rng.dirichlet(np.ones(targets), groups)
        answer = optimise(Problem(law, whole(domains), goals, convex=True))
        # Least t with goals @ (floors + rates @ w) <= t.
        programme = optimize.linprog(
            np.append(np.zeros(domains), 1),
            np.hstack([goals @ law.rates, -np.ones((groups, 1))]),
            -goals @ law.floors,
            np.append(np.ones(domains), 0)[None],
            [1],
            [(0, 1)] * domains + [(None, None)],
        )
        assert answer.value == pytest.approx(programme.fun, abs=1e-6)
        assert answer.gap is not None and answer.gap < 1e-6


def test_the_worst_group_of_convex_losses_is_the_best_of_a_fine_grid() -> None:
    steps = np.linspace(0, 1, 401)
    grid = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1])
    rng = np.random.default_rng(1)
    for _ in range(5):
        law = LogLinear(rng.uniform(1, 2, 4), rng.normal(0, 1.5, (4, 3)))
        goals = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]) / rng.uniform(0.8, 1.2, (2, 1))
        problem = Problem(law, whole(3), goals, convex=True)
        answer = optimise(problem)
        least = (law.predict(grid, grid, grid) @ goals.T).max(axis=1)
        assert least.min() - 5e-3 < answer.value <= least.min() + 1e-9
        assert answer.gap is not None and answer.gap < 1e-6
        # The dummy: the mean over all targets, which leaves a group behind.
        mean = optimise(dataclasses.replace(problem, goals=goals.mean(axis=0)[None]))
        assert float(value_at(problem, mean.weights[None])[0]) > answer.value + 1e-4


@pytest.mark.parametrize("against", [None, "natural"])
def test_groups_are_measured_against_their_reference(against: str | None) -> None:
    groups = {"one": ["a", "b"], "two": ["c"]}
    mixture = mix(asked("bimix", groups=groups, against=against))
    goals = mixture.details["objective"]["goals"]
    assert mixture.details["objective"]["against"] == (against or "best_run")
    losses = mixture.details["predicted_losses"]
    assert goals["one"]["loss"] == pytest.approx((losses["a"] + losses["b"]) / 2)
    ratios = [goal["loss"] / goal["reference"] for goal in goals.values()]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-4)  # neither could gain but by the other
    if against is None:
        table = runs().losses
        assert goals["one"]["reference"] == table[:, :2].mean(axis=1).min()
        assert goals["two"]["reference"] == table[:, 2].min()
    else:
        best = LAWS["bimix"].fit(runs())
        even, none = np.full((1, 3), 1 / 3), np.full(1, np.nan)
        assert goals["two"]["reference"] == pytest.approx(best.predict(even, none, none)[0, 2])
    assert mixture.predicted_loss == max(goal["loss"] for goal in goals.values())
    lines = " ".join(mixture_lines(mixture.to_json()))
    assert f"over that of {'natural' if against else 'its best run'}: " in lines
    assert "% (95 %: " in lines
    single = mix(asked("bimix", groups={n: [n] for n in NAMES}))
    assert single.weights == pytest.approx(mix(asked("bimix", objective="worst")).weights)


def test_a_pull_keeps_its_unit_in_a_worst_case() -> None:
    """A single group is the mean over its reference, and the same KL term moves it as far."""
    plain, one = (
        mix(asked("dml", kl=0.3, trust_region=False, groups=groups))
        for groups in ({}, {"all": ["*"]})
    )
    assert one.weights == pytest.approx(plain.weights, abs=1e-5)


def test_groups_of_experts() -> None:
    groups = {"first": ["x"], "second": ["y"]}
    even = mix(asked("mde", groups=groups))
    assert even.weights == pytest.approx(mix(asked("mde", objective="worst")).weights)
    against = mix(asked("mde", groups=groups, against="natural"))
    goals = against.details["objective"]["goals"]
    assert all(goal["loss"] < goal["reference"] for goal in goals.values())
    assert against.weights != even.weights
    for search, words in (
        ({"groups": groups, "against": "best_run"}, "best_run needs training runs"),
        ({"objective": "noise"}, "noise is learnt from training runs"),
    ):
        with pytest.raises(RecipeError, match=words):
            mix(asked("mde", **search))


def test_targets_in_no_group_are_named() -> None:
    mixture = mix(asked("bimix", groups={"one": ["a"], "two": ["c"]}))
    assert any("1 target is in no group" in w and "'b'" in w for w in mixture.warnings)


# --- weights by noise


def noisy_table(seed: int, count: int, noise: tuple[float, ...]) -> tuple[LogLinear, RunTable]:
    """Runs of five domains, each with a loss of its own, of which one is noisy."""
    rng = np.random.default_rng(seed)
    rates = rng.normal(0, 0.4, (5, 5)) - np.diag(rng.uniform(1, 3, 5))
    law = LogLinear(rng.uniform(1.5, 2.5, 5), rates)
    table = table_of(law, rng.dirichlet(np.ones(5), count))
    spread = np.exp(rng.normal(0, 1, table.losses.shape) * noise)
    return law, dataclasses.replace(table, losses=table.losses * spread)


def test_weights_by_noise_are_the_factors_by_which_noisy_effects_shrink() -> None:
    """They fall with a loss's noise, and tend to equal ones with more runs."""
    noise = (0.1, 0.03, 0.003, 0.003, 0.003)
    weights = np.array([noise_weights(noisy_table(seed, 20, noise)[1]) for seed in range(20)])
    mean = weights.mean(axis=0)
    assert mean[0] < mean[1] - 0.1 < mean[2:].min() - 0.1 and mean[2:].min() > 0.97
    more = np.array([noise_weights(noisy_table(seed, 128, noise)[1]) for seed in range(5)])
    assert more.mean(axis=0)[0] > mean[0] + 0.1
    with pytest.raises(FitError, match="fewer than four mixtures"):
        noise_weights(noisy_table(0, 3, noise)[1])


def test_weights_by_noise_of_repeated_runs_by_hand() -> None:
    rng = np.random.default_rng(0)
    weights = np.repeat(rng.dirichlet(np.ones(3), 12), 2, axis=0)
    table = table_of(PowerLaw(np.full(3, 2.0), np.full(3, 0.1)), weights)
    losses = table.losses * np.exp(rng.normal(0, 1, (24, 3)) * [0.2, 0.02, 0.0])
    table = dataclasses.replace(table, losses=losses)
    logs = np.log(losses).reshape(12, 2, 3)
    noise = logs.var(axis=1, ddof=1).mean(axis=0)
    effect = logs.mean(axis=1).var(axis=0, ddof=1)
    beyond = np.maximum(effect - noise / 2, 0.01 * effect)
    expected = beyond / (beyond + noise * 3 / 24)
    assert noise_weights(table) == pytest.approx(expected, rel=1e-9)


def test_weights_by_noise_beat_equal_ones_where_a_loss_is_noisy(runslow: bool) -> None:
    """True mean loss above the best, over tables; inverse variances, the dummy, lose to both."""
    lost: dict[str, list[float]] = {"equal": [], "noise": [], "inverse": []}
    for seed in range(100, 112 if runslow else 106):
        truth, table = noisy_table(seed, 10, (0.1, 0.003, 0.003, 0.003, 0.003))
        support = support_of(table.weights)
        law = LAWS["exponential"].fit(table)

        def solve(fitted: Any, importance: Array, support: Any = support) -> Array:
            goals = importance[None] / importance.sum()
            return optimise(Problem(fitted, whole(5), goals, support=support, convex=True)).weights

        rows = [solve(truth, np.ones(5)), solve(law, np.ones(5)), solve(law, noise_weights(table)),
                solve(law, np.array([1e-3, 1, 1, 1, 1]))]  # fmt: skip
        best, *means = truth.predict(np.array(rows), rows, rows).mean(axis=1)
        for name, mean in zip(lost, means, strict=True):
            lost[name].append(float(mean / best - 1))
    means = {name: float(np.mean(values)) for name, values in lost.items()}
    assert means["noise"] < 0.9 * means["equal"]
    assert means["inverse"] > 1.2 * means["noise"]


def test_weights_by_noise_reach_the_artifact() -> None:
    rng = np.random.default_rng(5)
    table = runs(24)
    spread = np.exp(rng.normal(0, 1, table.losses.shape) * [0.3, 0.001, 0.001])
    table = dataclasses.replace(table, losses=table.losses * spread)
    mixture = mix(asked("dml", objective="noise", evidence=Evidence(table)))
    objective = mixture.details["objective"]
    weights = objective["goals"]["weighted mean"]["weights"]
    assert objective["weighed_by_noise"] and sum(weights.values()) == pytest.approx(1)
    assert weights["a"] < 0.6 * weights["b"]
    assert any(line.startswith("weights by noise: ") for line in mixture_lines(mixture.to_json()))


def test_a_group_of_one_target_has_no_line_of_weights_by_noise() -> None:
    mixture = mix(asked("dml", objective="noise", groups={"one": ["a"], "others": ["b", "c"]}))
    lines = [line for line in mixture_lines(mixture.to_json()) if "by noise" in line]
    assert len(lines) == 1 and "(equal: 50.0%)" in lines[0]
