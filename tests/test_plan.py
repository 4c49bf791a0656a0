"""Whole tokens: the budget to the token, whatever the floats."""

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InfeasiblePlan, RecipeError
from curate.mixture import METHODS, DomainSupply, MixtureOptions, MixtureRequest, mix
from curate.mixture.apportion import apportion, fits, largest_total, quota_bounds
from curate.plan.budget import make_plan


def hamilton(weights, total):
    """Largest remainder as its definition reads, in rational numbers."""
    whole = sum(Fraction(weight) for weight in weights)
    quotas = [Fraction(weight) * total / whole for weight in weights]
    counts = [math.floor(quota) for quota in quotas]
    ranked = sorted(
        range(len(weights)), key=lambda i: (counts[i] - quotas[i], -Fraction(weights[i]), i)
    )
    for i in ranked[: total - sum(counts)]:
        counts[i] += 1
    return counts


@pytest.mark.parametrize(
    ("weights", "budget", "expected"),
    [
        ([1 / 3] * 3, 10, [4, 3, 3]),  # truncation gives 9
        ([0.2] * 5, 99, [20, 20, 20, 20, 19]),  # truncation gives 95
        ([0.5, 0.3, 0.2], 11, [6, 3, 2]),  # remainders .5, .3, .2
        ([0.25, 0.5, 0.25], 2, [1, 1, 0]),  # .5, 1, .5: the tie goes to the earlier
        ([0.125, 0.375, 0.5], 4, [0, 2, 2]),  # .5, 1.5, 2: the tie goes to the larger
        ([1.0], 0, [0]),
        ([0.0, 7.0], 5, [0, 5]),
    ],
)
def test_apportion_by_hand(weights, budget, expected):
    assert apportion(weights, budget) == expected


def random_weights(rng):
    count = int(rng.integers(1, 200))
    kind = rng.integers(3)
    if kind == 0:
        return rng.dirichlet(np.full(count, rng.choice([0.05, 1, 100]))).tolist()
    if kind == 1:
        return (10.0 ** rng.uniform(-300, 0, count)).tolist()
    return [1 / count] * count


def test_apportion_keeps_its_promises_in_thousands_of_cases():
    rng = np.random.default_rng(0)
    for case in range(2000):
        weights = random_weights(rng)
        if not any(weights):
            continue
        budget = int(10 ** rng.uniform(0, 18)) if case % 10 else 10**18
        counts = apportion(weights, budget)
        assert sum(counts) == budget
        bounds = quota_bounds(weights, budget)
        assert all(low <= c <= high for c, (low, high) in zip(counts, bounds, strict=True))
        if case % 20 == 0:
            assert counts == hamilton(weights, budget)


def test_hundreds_of_domains_that_truncation_gets_wrong():
    rng = np.random.default_rng(1)
    for _ in range(50):
        weights = rng.dirichlet(np.ones(17)).tolist()
        truncated = sum(int(weight * 10**9) for weight in weights)
        assert truncated < 10**9 == sum(apportion(weights, 10**9))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0, 1e308, allow_subnormal=True), min_size=1, max_size=30).filter(any),
    st.integers(0, 10**18),
)
def test_apportion_is_hamilton_for_any_floats(weights, budget):
    assert apportion(weights, budget) == hamilton(weights, budget)


def test_apportion_does_not_care_for_the_scale_of_weights():
    rng = np.random.default_rng(2)
    for _ in range(100):
        weights = rng.random(9).tolist()
        doubled = [weight * 2.0**-40 for weight in weights]
        assert apportion(weights, 10**15 + 7) == apportion(doubled, 10**15 + 7)


@pytest.mark.parametrize(
    ("weights", "budget", "message"),
    [
        ([], 5, "expected a positive weight"),
        ([0.0], 5, "expected a positive weight"),
        ([-0.1, 1], 5, "finite weights of at least 0"),
        ([math.inf], 5, "finite weights of at least 0"),
        ([math.nan], 5, "finite weights of at least 0"),
        ([1.0], -1, "total of at least 0, got -1"),
    ],
)
def test_apportion_refuses(weights, budget, message):
    with pytest.raises(ValueError, match=message):
        apportion(weights, budget)


# --- limits


def test_limits_move_single_tokens_by_remainder():
    # Quotas 2.5, 3.75, 3.75: floors leave 2, for the last two; b at 3 leaves one for a.
    assert apportion([2, 3, 3], 10) == [2, 4, 4]
    assert apportion([2, 3, 3], 10, [9, 3, 9]) == [3, 3, 4]
    assert fits([2, 3, 3], 10, [9, 3, 9])
    assert not fits([2, 3, 3], 10, [9, 2, 9])
    with pytest.raises(ValueError, match="limits hold 9 where weight is positive, not 10"):
        apportion([2, 3, 0], 10, [4, 5, 9])
    with pytest.raises(ValueError, match="expected 2 limits, got 1"):
        apportion([1, 1], 10, [4])


def test_limits_hold_and_sums_stay_exact():
    rng = np.random.default_rng(3)
    for _ in range(1000):
        count = int(rng.integers(1, 40))
        weights = (10.0 ** rng.uniform(-rng.choice([1, 30]), 0, count)).tolist()
        limits = [int(limit) for limit in 10 ** rng.uniform(0, rng.choice([2, 17]), count)]
        total = sum(limits) * int(rng.choice([300, 990, 1000])) // 1000
        counts = apportion(weights, total, limits)
        assert sum(counts) == total
        assert all(0 <= c <= limit for c, limit in zip(counts, limits, strict=True))
        if fits(weights, total, limits):
            slack = total // 10**12
            bounds = quota_bounds(weights, total)
            assert all(
                low - slack <= c <= high + slack
                for c, (low, high) in zip(counts, bounds, strict=True)
            )


def test_largest_total_forgives_the_rounding_of_floats():
    # 0.1 is stored a little above 1/10, so 10 * 0.1 > 1 in exact arithmetic.
    assert largest_total([0.1, 0.2, 0.7], [1, 2, 7]) == 10
    assert largest_total([0.1, 0.9], [0, 5]) == 0
    assert largest_total([0.25, 0.75, 0.0], [2, 9, 0]) == 8


# --- plans


def plan_request(budget, supplies, weights, max_epochs=1.0, policy="error"):
    domains = tuple(
        DomainSupply(name, supply, max_epochs, weight=weight)
        for name, supply, weight in zip("abcdefgh", supplies, weights, strict=False)
    )
    return MixtureRequest(domains, budget, "manual", MixtureOptions(on_shortfall=policy))


def test_plan_by_hand():
    asked = plan_request(10, [8, 40], [0.5, 0.5])
    plan = make_plan(mix(asked), asked)
    assert json.loads(json.dumps(plan.to_json())) == {
        "budget_tokens": 10,
        "domains": {
            "a": {
                "weight": 0.5,
                "tokens": 5,
                "documents": None,
                "epochs": 0.625,
                "supply_tokens": 8,
            },
            "b": {
                "weight": 0.5,
                "tokens": 5,
                "documents": None,
                "epochs": 0.125,
                "supply_tokens": 40,
            },
        },
        "warnings": [],
    }


def test_rounding_up_never_passes_a_cap():
    # Quotas 3.5 and 3.5 of 7; Hamilton gives the tie to a, which has only 3.
    asked = plan_request(7, [3, 4], [0.5, 0.5])
    assert apportion([0.5, 0.5], 7) == [4, 3]
    assert [domain.tokens for domain in make_plan(mix(asked), asked).domains] == [3, 4]


@pytest.mark.parametrize("method", [n for n, m in METHODS.items() if m.evidence is None])
def test_every_budget_up_to_the_last_token_can_be_planned(method):
    rng = np.random.default_rng(4)
    for _ in range(60):
        count = int(rng.integers(1, 12))
        scale = 10.0 ** rng.integers(1, 17)
        domains = tuple(
            DomainSupply(
                f"d{i}",
                int(scale * rng.uniform(0.1, 1)) + 1,
                float(rng.choice([1, 1.5, 4])),
                {"conditional": float(rng.normal(6, 1))},
                float(rng.random() + 0.001),
                embedding=tuple(rng.normal(size=4).tolist()),
            )
            for i in range(count)
        )
        held = sum(int(Fraction(d.max_epochs) * d.supply_tokens) for d in domains)
        for budget in (held, max(1, held - 1), max(1, held // 2), 1):
            options = MixtureOptions(3.33, on_shortfall="redistribute")
            asked = MixtureRequest(domains, budget, method, options)
            plan = make_plan(mix(asked), asked)
            assert sum(domain.tokens for domain in plan.domains) == budget
            for domain, supply in zip(plan.domains, domains, strict=True):
                assert domain.tokens <= Fraction(supply.max_epochs) * supply.supply_tokens
                assert domain.epochs == pytest.approx(domain.tokens / supply.supply_tokens)


def test_shares_of_less_than_a_token_are_named():
    asked = plan_request(10, [99] * 4, [0.98, 0.01, 0.01, 0])
    assert make_plan(mix(asked), asked).warnings == (
        "no token at this budget, though the weight is positive: 'b' (weight 0.01), "
        "'c' (weight 0.01)",
    )
    rounded = plan_request(10, [99] * 2, [1.0, 1e-15])
    assert make_plan(mix(rounded), rounded).warnings == ()


def test_a_mixture_for_another_budget_is_refused():
    small = plan_request(100, [80, 80], [0.8, 0.2])
    large = dataclasses.replace(small, budget_tokens=120)
    with pytest.raises(InfeasiblePlan, match=r"120 tokens .* need 1.2 epochs of 'a'"):
        make_plan(mix(small), large)
    repeat = dataclasses.replace(large, options=MixtureOptions(on_shortfall="repeat"))
    assert make_plan(mix(repeat), repeat).domains[0].tokens == 96


def test_a_mixture_of_other_domains_is_refused():
    asked = plan_request(10, [99, 99], [0.5, 0.5])
    other = plan_request(10, [99, 99, 99], [0.5, 0.25, 0.25])
    with pytest.raises(RecipeError) as caught:
        make_plan(mix(asked), other)
    assert str(caught.value) == (
        "plan: the mixture and the recipe have different domains ('c' in one only). "
        "Run `curate mix RECIPE` again"
    )


def test_a_domain_that_has_become_empty_is_named():
    asked = plan_request(10, [99, 99], [0.5, 0.5], policy="repeat")
    emptied = dataclasses.replace(
        asked, domains=(asked.domains[0], dataclasses.replace(asked.domains[1], supply_tokens=0))
    )
    with pytest.raises(InfeasiblePlan, match="domain 'b' has no training tokens"):
        make_plan(mix(asked), emptied)
