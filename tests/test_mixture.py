"""Mixture maths, every method's contract, and every message with the way out it offers."""

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from method_contract import check_bounds, check_contract, random_request, shares

from curate.errors import CurateError, InfeasiblePlan, MissingEvidence, RecipeError
from curate.mixture import (
    METHODS,
    DomainSupply,
    Method,
    MixtureOptions,
    MixtureRequest,
    Preference,
    limit_tokens,
    mix,
    mix_with,
)
from curate.mixture.apportion import fits
from curate.mixture.methods.baselines import uniform
from curate.mixture.request import cap_tokens
from curate.mixture.shortfall import paste_mixture
from curate.mixture.simplex import (
    normalised,
    project_capped,
    project_capped_rows,
    softmax,
)
from curate.plan.budget import make_plan
from curate.stats import entropy_statistics

DATA = Path(__file__).parent / "data"
PLAIN = [name for name, method in METHODS.items() if method.evidence is None]
"""Those that need runs or experts have their own contract test, in test_evidence_methods."""
DERIVED = [name for name in PLAIN if not METHODS[name].by_hand]


def request(method, budget, supplies, **settings):
    """Domains a, b, c, …; settings are per-domain lists or method options."""
    count = len(supplies)
    epochs = settings.pop("max_epochs", [math.inf] * count)
    weights = settings.pop("weights", [None] * count)
    entropies = settings.pop("entropy", [{}] * count)
    errors = settings.pop("entropy_error", [{}] * count)
    embeddings = settings.pop("embedding", [()] * count)
    domains = tuple(
        DomainSupply(
            chr(97 + i), supplies[i], epochs[i], entropies[i], weights[i], errors[i], embeddings[i]
        )
        for i in range(count)
    )
    return MixtureRequest(domains, budget, method, MixtureOptions(**settings))


# --- the simplex


def random_caps(rng, count):
    """Weights over many orders of magnitude, some zero, with caps they can just meet or easily."""
    weights = np.exp(rng.normal(0, rng.choice([0.5, 3, 40]), count))
    weights[rng.random(count) < 0.1] = 0.0
    weights[0] = 1.0
    caps = rng.dirichlet(np.full(count, 0.5)) * rng.choice([1.001, 1.5, 4])
    caps = np.where(weights > 0, caps, caps * 0.1)
    caps *= max(1.0, 1.0001 / caps[weights > 0].sum())
    return weights.tolist(), caps.tolist()


def bisected(weights, caps):
    """The same point by bisection on ln c."""
    low, high = -800.0, 800.0
    log_weights = [math.log(weight) if weight else -math.inf for weight in weights]

    def at(level):
        return [
            min(cap, math.exp(min(level + log_weight, 700)))
            for cap, log_weight in zip(caps, log_weights, strict=True)
        ]

    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.fsum(at(middle)) < 1 else (low, middle)
    return at(high)


def test_projection_meets_its_optimality_conditions():
    rng = np.random.default_rng(0)
    for _ in range(300):
        weights, caps = random_caps(rng, int(rng.integers(1, 30)))
        result = project_capped(weights, caps)
        assert math.isclose(math.fsum(result), 1, abs_tol=1e-12)
        free = [i for i, r in enumerate(result) if 0 < r < caps[i] * (1 - 1e-9)]
        full = [i for i, r in enumerate(result) if r >= caps[i] * (1 - 1e-9) and weights[i]]
        assert all(r == 0 for r, weight in zip(result, weights, strict=True) if weight == 0)
        assert all(r <= cap for r, cap in zip(result, caps, strict=True))
        if free:
            levels = [result[i] / weights[i] for i in free]
            assert max(levels) <= min(levels) * (1 + 1e-12)
            # A domain at its cap would get at least that at the common level.
            assert all(levels[0] * weights[i] >= caps[i] * (1 - 1e-8) for i in full)


def test_projection_equals_bisection_and_is_idempotent():
    rng = np.random.default_rng(1)
    for _ in range(200):
        weights, caps = random_caps(rng, int(rng.integers(1, 30)))
        result = project_capped(weights, caps)
        assert result == pytest.approx(bisected(weights, caps), rel=1e-9, abs=1e-12)
        assert project_capped(result, caps) == pytest.approx(result, rel=1e-12)


def test_projection_with_floors_meets_its_optimality_conditions():
    rng = np.random.default_rng(5)
    for _ in range(300):
        weights, caps = random_caps(rng, int(rng.integers(2, 20)))
        inside = project_capped([weight + 1e-3 for weight in weights], caps)
        floors = [share * rng.random() if rng.random() < 0.5 else 0.0 for share in inside]
        try:
            result = project_capped(weights, caps, floors)
        except ValueError as error:
            assert "where weight is positive" in str(error)
            continue
        assert math.isclose(math.fsum(result), 1, abs_tol=1e-12)
        levels = []
        for share, weight, cap, floor in zip(result, weights, caps, floors, strict=True):
            assert floor <= share <= max(cap, floor)
            if weight == 0:
                assert share == floor
            elif floor < share < cap * (1 - 1e-9):
                levels.append(share / weight)
        if levels:
            assert max(levels) <= min(levels) * (1 + 1e-12)
            for share, weight, floor in zip(result, weights, floors, strict=True):
                if weight and share == floor:  # at the common level it would get no more
                    assert levels[0] * weight <= floor * (1 + 1e-8)
        if all(weights):
            rows = project_capped_rows(np.array([weights]), caps, floors)
            assert rows[0].tolist() == pytest.approx(result, rel=1e-9, abs=1e-12)


def test_projection_by_hand():
    # a is cut from .5 to .2; b and c share .8 as 3:2.
    assert project_capped([0.5, 0.3, 0.2], [0.2, 1, 1]) == pytest.approx([0.2, 0.48, 0.32])
    assert project_capped([1, 1], [math.inf, math.inf]) == [0.5, 0.5]
    assert project_capped([1, 1, 1], [0.25, 0.25, 0.5]) == [0.25, 0.25, 0.5]
    # The smallest float is a weight like any other.
    assert project_capped([1, 5e-324, 1e-323], [0.5, 0.4, 0.3]) == pytest.approx([0.5, 0.2, 0.3])


@pytest.mark.parametrize(
    ("weights", "caps", "message"),
    [
        ([1, 1], [0.3, 0.3], "caps sum to 0.6, less than 1, where weight is positive$"),
        ([1, 0], [0.3, 0.9], "where weight is positive; 0.9 more lies in domains of weight 0"),
        ([1, 1], [1], "as many caps as weights, got 1 and 2"),
        ([1, -1], [1, 1], "finite weights of at least 0"),
        ([0, 0], [1, 1], "expected a positive weight"),
        ([1, 1], [1, math.nan], "caps of at least 0"),
    ],
)
def test_projection_refuses(weights, caps, message):
    with pytest.raises(ValueError, match=message):
        project_capped(weights, caps)


@pytest.mark.parametrize(
    ("floors", "message"),
    [
        ([0.1], "as many floors as weights, got 1, 2"),
        ([0.7, 0], r"floors from 0 to the caps \[0.6, 1.0\], got \[0.7"),
        ([0.5, 0.6], "floors sum to 1.1, more than 1"),
    ],
)
def test_projection_refuses_floors(floors, message):
    with pytest.raises(ValueError, match=message):
        project_capped([1, 1], [0.6, 1], floors)


def test_softmax():
    assert softmax([0.0, math.log(3)]) == pytest.approx([0.25, 0.75])
    assert softmax([0.0, 2 * math.log(3)], 2) == pytest.approx([0.25, 0.75])
    assert softmax([1e308, -1e308]) == [1.0, 0.0]
    for values, temperature in [([], 1), ([math.nan], 1), ([1.0], 0), ([1.0], math.inf)]:
        with pytest.raises(ValueError, match="expected"):
            softmax(values, temperature)
    assert normalised([1e308, 1e308]) == [0.5, 0.5]


# --- the contract of a method


LOOSE = [math.inf] * 3
PLANTED = {
    "natural": (request("natural", 60, [10, 20, 30], max_epochs=LOOSE), [1 / 6, 2 / 6, 3 / 6]),
    "uniform": (request("uniform", 60, [10, 20, 30], max_epochs=LOOSE), [1 / 3] * 3),
    # 1, 4, 9 to the power 1/2
    "temperature": (request("temperature", 9, [1, 4, 9], temperature=2.0), [1 / 6, 2 / 6, 3 / 6]),
    # 10 of 100 is all that a has; 90 is left for two; b has 40.
    "unimax": (request("unimax", 100, [10, 20, 99], max_epochs=[1, 2, 1]), [0.1, 0.4, 0.5]),
    "manual": (request("manual", 9, [9, 9, 9], weights=[0.5, 0.2, 0.3]), [0.5, 0.2, 0.3]),
    "entropy": (
        request("entropy", 9, [9, 9, 9], entropy=[{"conditional": math.log(x)} for x in (1, 2, 5)]),
        [1 / 8, 2 / 8, 5 / 8],
    ),
    # Centred already; K scaled to mean diagonal 1 is 1.5 [[1, -1, 0], [-1, 1, 0], [0, 0, 0]], with
    # the eigenvalue 3 along (1, -1, 0): scores 3/33/2, 3/33/2 and 0, which counts as a hundredth of
    # the largest: over their sum 1/2, 1/2, 1/200.
    "leverage": (
        request("leverage", 9, [9, 9, 9], embedding=[(1.0, 0.0), (-1.0, 0.0), (0.0, 0.0)]),
        softmax([2.0, 2.0, 200.0], 5.0),
    ),
}
"""A request whose answer is known by hand, for every method."""


@pytest.mark.parametrize("method", PLAIN)
def test_contract(method):
    check_contract(mix, *PLANTED[method])


def mix_ignoring_caps(asked):
    return mix(
        dataclasses.replace(
            asked, options=dataclasses.replace(asked.options, on_shortfall="repeat")
        )
    )


def mix_uniform(asked):
    return mix(dataclasses.replace(asked, method="uniform"))


def mix_first_more(asked):
    """Obeys caps, but looks at the order of the domains."""
    weights = tuple(1.0 / (1 + i) for i in range(len(asked.domains)))
    return mix_with(Method("dummy", "", "", "", lambda _: Preference(weights)), asked)


def mix_by_name(asked):
    """Obeys caps, but looks at the names."""
    weights = tuple(float(sum(map(ord, domain.name))) for domain in asked.domains)
    return mix_with(Method("dummy", "", "", "", lambda _: Preference(weights)), asked)


def mix_unnormalised(asked):
    mixture = mix(asked)
    return dataclasses.replace(
        mixture, weights={name: weight * 0.999 for name, weight in mixture.weights.items()}
    )


@pytest.mark.parametrize(
    "dummy", [mix_ignoring_caps, mix_uniform, mix_first_more, mix_by_name, mix_unnormalised]
)
@pytest.mark.parametrize("method", PLAIN)
def test_contract_refuses_dummies(dummy, method):
    # Uniform held to the caps is UniMax, so for those two it is no dummy.
    if dummy is mix_uniform and method in ("uniform", "unimax"):
        check_contract(dummy, *PLANTED[method])
    else:
        with pytest.raises(AssertionError):
            check_contract(dummy, *PLANTED[method])


def test_rows_are_complete():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary and method.needs
        assert re.search(r"arXiv:\d{4}\.\d{5}|no paper", method.paper)
    assert set(PLANTED) == set(PLAIN)


# --- single methods


def test_temperature_runs_from_natural_to_uniform():
    supplies = [3, 50, 900]
    natural = shares(mix(request("natural", 9, supplies)))
    assert shares(mix(request("temperature", 9, supplies, temperature=1.0))) == pytest.approx(
        natural
    )
    flat = shares(mix(request("temperature", 9, supplies, temperature=1e12)))
    assert flat == pytest.approx([1 / 3] * 3, rel=1e-9)


def test_unimax_is_the_projection_of_uniform():
    rng = np.random.default_rng(3)
    for _ in range(200):
        asked = random_request(rng, "unimax")
        caps = [limit / asked.budget_tokens for limit in limit_tokens(asked)]
        expected = project_capped(uniform(asked).weights, caps)
        assert list(METHODS["unimax"].prefer(asked).weights) == pytest.approx(expected, rel=1e-12)
    mixture = mix(PLANTED["unimax"][0])
    assert shares(mixture)[:2] == pytest.approx([0.1, 0.4])
    assert list(mixture.unconstrained.values()) == [1 / 3] * 3
    assert mixture.constraints_active == ("a: max_epochs 1 binds", "b: max_epochs 2 binds")
    assert mixture.epochs == pytest.approx({"a": 1, "b": 2, "c": 50 / 99})


@pytest.mark.parametrize("measure", list(entropy_statistics()))
def test_equal_entropies_give_uniform(measure):
    asked = request("entropy", 9, [1, 50, 900], entropy=[{measure: 6.5}] * 3, measure=measure)
    assert shares(mix(asked)) == [1 / 3] * 3


@pytest.mark.parametrize(("table", "domains"), [("bimix_pile", 22), ("bimix_slimpajama", 7)])
def test_bimix_tables(table, domains):
    """BiMix Tables 4 and 5: softmax of ln r is r, and H(joint) = H(shannon) + H(conditional)."""
    with (DATA / f"{table}.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == domains

    def by_entropy(values, measure):
        supplies = tuple(
            DomainSupply(row["domain"], 10**12, 1.0, {measure: value})
            for row, value in zip(rows, values, strict=True)
        )
        return shares(
            mix(MixtureRequest(supplies, 10**6, "entropy", MixtureOptions(None, measure)))
        )

    columns = {
        measure: [float(row[column]) for row in rows]
        for column, measure in zip(("SE", "JE", "CE", "VNE"), entropy_statistics(), strict=True)
    }
    for measure, column in columns.items():
        found = by_entropy([math.log(share) for share in column], measure)
        assert found == pytest.approx([share / sum(column) for share in column], rel=1e-12)
        assert found == pytest.approx(column, abs=1e-4)
    chained = [
        math.log(one) + math.log(following)
        for one, following in zip(columns["shannon"], columns["conditional"], strict=True)
    ]
    assert by_entropy(chained, "joint") == pytest.approx(columns["joint"], abs=1e-4)
    # The identity is sharp: the wrong pair misses it.
    assert by_entropy(chained, "joint") != pytest.approx(columns["von_neumann"], abs=1e-2)


def test_entropy_weights_carry_intervals_through_the_caps():
    rng = np.random.default_rng(11)
    for _ in range(30):
        asked = random_request(rng, "entropy")
        mixture = mix(asked)
        for domain, limit in zip(asked.domains, limit_tokens(asked), strict=True):
            low, high = mixture.low[domain.name], mixture.high[domain.name]
            assert 0 <= low <= mixture.weights[domain.name] <= high
            assert high * asked.budget_tokens <= limit * (1 + 1e-9)
        turned = dataclasses.replace(asked, domains=asked.domains[::-1])
        assert mix(turned).low == pytest.approx(mixture.low, rel=1e-9)


def test_entropy_intervals_by_hand():
    """Two domains of equal entropy: ln(w/(1-w)) is normal with the errors' hypotenuse."""
    known = [{"conditional": 5.0}] * 2
    errors = [{"conditional": 0.3}, {"conditional": 0.4}]
    mixture = mix(request("entropy", 9, [99, 99], entropy=known, entropy_error=errors))
    expected = 1 / (1 + math.exp(1.96 * 0.5))
    assert mixture.low == pytest.approx({"a": expected, "b": expected}, abs=0.015)
    assert mixture.high["a"] == pytest.approx(1 - expected, abs=0.015)
    assert mixture.warnings == (
        "a and b: entropies differ by less than their error (7.213 and 7.213 bits per token, "
        "difference 0.000 ± 1.414)",
    )
    flat = mix(request("entropy", 9, [99, 99], entropy=known, entropy_error=errors, temperature=9))
    assert flat.high["a"] - flat.low["a"] < (mixture.high["a"] - mixture.low["a"]) / 5
    plain = mix(request("entropy", 9, [99, 99], entropy=known))
    assert plain.low is None and plain.high is None and plain.warnings == ()
    alone = mix(request("entropy", 9, [99, 99], entropy=known, entropy_error=[{}, errors[0]]))
    assert alone.low is None
    assert alone.warnings == (
        "the conditional entropy of 'a' has no interval, so no weight has one",
    )


def test_projection_of_rows_is_that_of_each():
    rng = np.random.default_rng(5)
    for _ in range(50):
        count = int(rng.integers(1, 9))
        rows = rng.dirichlet(np.full(count, 0.5), 20) + 1e-12
        caps = rng.dirichlet(np.full(count, 0.5)) * rng.choice([1.001, 1.5, 4])
        caps *= max(1.0, 1.0001 / np.minimum(caps, 1).sum())
        found = project_capped_rows(rows, caps.tolist())
        for row, held in zip(rows, found, strict=True):
            assert held == pytest.approx(project_capped(row.tolist(), caps.tolist()), abs=1e-9)


def test_leverage_needs_embeddings():
    with pytest.raises(
        MissingEvidence, match=r"'leverage' needs an embedding of 'b'\. Run `curate mix RECIPE`"
    ):
        mix(request("leverage", 9, [9, 9], embedding=[(1.0,), ()]))


def test_manual_weights_are_read_as_written():
    assert mix(request("manual", 9, [9, 9], weights=[0.25, 0.75])).warnings == ()
    percent = mix(request("manual", 9, [9, 9], weights=[33.3, 66.7]))
    assert shares(percent) == pytest.approx([0.333, 0.667])
    assert percent.warnings == ("manual weights sum to 100 and are read as percent of tokens",)
    parts = mix(request("manual", 9, [9, 9], weights=[1, 4]))
    assert shares(parts) == [0.2, 0.8]
    assert parts.warnings == ("manual weights sum to 5, not 1, and are divided by that",)
    close = mix(request("manual", 9, [9, 9], weights=[33.3, 66.8]))
    assert close.warnings == ("manual weights sum to 100.1, not 1, and are divided by that",)
    almost = mix(request("manual", 9, [9, 9], weights=[0.5, 0.5000009]))
    assert almost.warnings == ()
    assert math.isclose(sum(shares(almost)), 1, abs_tol=1e-12)


def test_manual_may_leave_out_an_empty_domain():
    mixture = mix(request("manual", 9, [9, 0], weights=[1, 0]))
    assert mixture.weights == {"a": 1.0, "b": 0.0}
    assert mixture.epochs == {"a": 1.0, "b": 0.0}


# --- caps and policies


def test_caps_are_the_decimal_that_was_typed():
    # In binary 0.3 lies below 3/10, so floor(0.3 * 10) in floats would be right by luck only.
    assert [cap_tokens(DomainSupply("a", 10**15, e)) for e in (0.3, 1.1, 4)] == [
        3 * 10**14,
        11 * 10**14,
        4 * 10**15,
    ]
    assert cap_tokens(DomainSupply("a", 10, math.inf)) is None


def test_policies():
    supplies, epochs, weights = [1000, 100], [1, 2], [0.5, 0.5]
    asked = request("manual", 1000, supplies, max_epochs=epochs, weights=weights)
    with pytest.raises(InfeasiblePlan):
        mix(asked)
    options = {"max_epochs": epochs, "weights": weights}
    moved = mix(request("manual", 1000, supplies, on_shortfall="redistribute", **options))
    assert shares(moved) == [0.8, 0.2]
    assert moved.constraints_active == ("b: max_epochs 2 binds",)
    assert moved.warnings == (
        "on_shortfall redistribute: weights moved to obey max_epochs: 'a' 0.5 to 0.8, "
        "'b' 0.5 to 0.2",
    )
    repeated = mix(request("manual", 1000, supplies, on_shortfall="repeat", **options))
    assert shares(repeated) == [0.5, 0.5]
    assert repeated.constraints_active == ()
    assert repeated.warnings == ("on_shortfall repeat: 'b' is read 5 times (max_epochs 2)",)
    every = mix(request("unimax", 10_000, supplies, max_epochs=epochs, on_shortfall="repeat"))
    assert shares(every) == [0.5, 0.5]
    assert len(every.warnings) == 2


def test_json_has_the_fields_others_rely_on():
    mixture = mix(PLANTED["unimax"][0])
    read = json.loads(json.dumps(mixture.to_json()))
    assert read["weights"] == mixture.weights
    assert read["unconstrained"] == mixture.unconstrained
    assert read["constraints_active"] == ["a: max_epochs 1 binds", "b: max_epochs 2 binds"]
    assert {"method", "low", "high", "predicted_loss", "epochs", "warnings", "paper"} < set(read)
    assert (read["low"], read["high"], read["predicted_loss"]) == (None, None, None)


# --- messages, and that what they offer works


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (
            request("unimx", 9, [9]),
            RecipeError,
            "mixture.method: no method is called 'unimx'; did you mean 'unimax'? (known: natural, "
            "uniform, temperature, unimax, manual, entropy, leverage, bimix, bimix_mixed, dml, "
            "olmix, additive, autoscale, ridge, gaussian, boosted, regmix, joint, ridge_mde, "
            "gaussian_mde, boosted_mde, law, mde, mixmin)",
        ),
        (
            request("temperature", 9, [9]),
            RecipeError,
            "mixture.temperature is missing: method 'temperature' needs it; 1 is natural, larger "
            "is nearer to uniform (mT5: 3.33), as in mixture: {method: temperature, "
            "temperature: 3.33}",
        ),
        (
            request("entropy", 9, [9], temperature=-1.0),
            RecipeError,
            "mixture.temperature: -1.0 is not a positive finite number",
        ),
        (
            request("entropy", 9, [9], measure="conditionel"),
            RecipeError,
            "mixture.measure: no entropy is called 'conditionel'; did you mean 'conditional'? "
            "(known: shannon, joint, conditional, von_neumann)",
        ),
        (
            request(
                "entropy", 9, [9, 9], entropy=[{"shannon": 1, "conditional": 1}, {"shannon": 1}]
            ),
            MissingEvidence,
            "mixture: method 'entropy' needs the conditional entropy of 'b'. Run `curate stats "
            "RECIPE`, which writes domains.b.entropy.conditional to stats.json, or set "
            "mixture.measure: shannon, which all have",
        ),
        (
            request("manual", 9, [9, 9], weights=[1, None]),
            RecipeError,
            "mixture: method 'manual' needs a weight for every domain; 'b' has none. Set "
            "domains[].weight or mixture.weights, 0 to leave a domain out",
        ),
        (
            request("manual", 9, [9, 9], weights=[1, -0.5]),
            RecipeError,
            "domains[b].weight: -0.5 is not a finite number of at least 0",
        ),
        (
            request("manual", 9, [9, 9], weights=[0, 0]),
            RecipeError,
            "mixture: every weight is 0; give at least one domain a positive weight",
        ),
        (
            request("natural", 9, [9, 0, 0]),
            InfeasiblePlan,
            "plan: domains 'b', 'c' have no training tokens. Check paths, what was quarantined "
            "and validation.documents, which may hold out all, or remove them (with method "
            "manual: weight 0)",
        ),
        (
            request("manual", 9, [9, 0], weights=[0.5, 0.5], on_shortfall="repeat"),
            InfeasiblePlan,
            "plan: domain 'b' has no training tokens. Check paths, what was quarantined and "
            "validation.documents, which may hold out all, or remove it (with method manual: "
            "weight 0)",
        ),
        (
            # .4 of 10B is 4B, that is 4.7003… passes of 851M, of which 4 give 3.404B = .4 * 8.51B.
            request(
                "manual", 10**10, [9 * 10**9, 851 * 10**6], max_epochs=[4, 4], weights=[0.6, 0.4]
            ),
            InfeasiblePlan,
            "plan: 10.0B tokens at these weights need 4.71 epochs of 'b' (max_epochs 4). Either "
            "set budget_tokens: 8_510_000_000 (the most at these weights), or mixture: {method: "
            "manual, weights: {a: 0.6596, b: 0.3404}} (the nearest that fits), or max_epochs: 4.71 "
            "for 'b', or on_shortfall: redistribute (to that) or repeat",
        ),
        (
            request("manual", 1000, [100, 100], max_epochs=[4, 1], weights=[0.5, 0.5]),
            InfeasiblePlan,
            "plan: 1_000 tokens at these weights need 5 epochs of 'b' (max_epochs 1). Either set "
            "budget_tokens: 200 (the most at these weights), or max_epochs: 5 for 'a' and "
            "max_epochs: 5 for 'b', or on_shortfall: repeat",
        ),
        (
            # Quotas 3.5, 3.5 and 2: no cap is short by a token, but nobody may take the ninth.
            request("manual", 9, [3, 3, 99], max_epochs=[1, 1, 1], weights=[7, 7, 4]),
            InfeasiblePlan,
            "plan: 9 tokens at these weights need 1.34 epochs of 'a' (max_epochs 1). Either set "
            "budget_tokens: 7 (the most at these weights), or mixture: {method: manual, weights: "
            "{a: 0.3333, b: 0.3333, c: 0.3334}} (the nearest that fits), or max_epochs: 1.34 for "
            "'a' and max_epochs: 1.34 for 'b', or on_shortfall: redistribute (to that) or repeat",
        ),
        (
            request(
                "manual",
                1000,
                [100, 100, 900],
                max_epochs=[4, 1, 1],
                weights=[0.5, 0.5, 0],
                on_shortfall="redistribute",
            ),
            InfeasiblePlan,
            "plan: 1_000 tokens are requested, but within max_epochs there are 500 ('a' 100 x 4, "
            "'b' 100 x 1). Either set budget_tokens: 500 (the most they hold), or max_epochs: 5 "
            "for those with less, or on_shortfall: repeat",
        ),
        (
            # 800 tokens within caps; b and c at e passes give 200 e, a keeps 4: 1000 at 3.
            request("uniform", 1000, [100, 100, 100], max_epochs=[4, 2, 2]),
            InfeasiblePlan,
            "plan: 1_000 tokens are requested, but within max_epochs there are 800 ('a' 100 x 4, "
            "'b' 100 x 2, 'c' 100 x 2). Either set budget_tokens: 800 (the most they hold), or "
            "max_epochs: 3 for those with less, or on_shortfall: repeat",
        ),
        (
            # No recipe may have 5,000,000 epochs, so they are not offered.
            request("uniform", 10**9, [100, 100], max_epochs=[1, 1]),
            InfeasiblePlan,
            "plan: 1.0B tokens are requested, but within max_epochs there are 200 ('a' 100 x 1, "
            "'b' 100 x 1). Either set budget_tokens: 200 (the most they hold), or on_shortfall: "
            "repeat",
        ),
        (
            request("natural", 0, [9]),
            RecipeError,
            "budget_tokens: 0 is not a positive number",
        ),
        (
            request("natural", 9, [9], max_epochs=[math.nan]),
            RecipeError,
            "domains[a].max_epochs: nan is not a positive number",
        ),
        (
            request("natural", 9, [9], on_shortfall="truncate"),
            RecipeError,
            "on_shortfall: 'truncate' is not one of error, repeat, redistribute",
        ),
        (request("natural", 9, []), RecipeError, "domains: a mixture needs at least one"),
        (
            request("natural", 9, [9, 9], floors={"c": 0.1}),
            RecipeError,
            "mixture.floors names no domain 'c' (known: a, b)",
        ),
        (
            request("natural", 9, [9, 9], caps={"a": 1.5}),
            RecipeError,
            "mixture.caps[a]: 1.5 is not from 0 to 1",
        ),
        (
            # .6 of 1000 is 600, six passes of 100, of which 2.5 are .25 and fill .6 of 416.
            request("uniform", 1000, [100, 900], max_epochs=[2.5, 1], floors={"a": 0.6}),
            InfeasiblePlan,
            "mixture.floors: 'a' must have at least 0.6, but its tokens allow only 0.25 at this "
            "budget (max_epochs 2.5). Either set mixture.floors: {a: 0.25}, or budget_tokens: 416, "
            "or max_epochs: 6 for it, or on_shortfall: repeat",
        ),
        (
            request(
                "uniform", 1000, [500, 900, 900], max_epochs=[1] * 3, caps={"b": 0.2, "c": 0.1}
            ),
            InfeasiblePlan,
            "mixture.caps: the domains in use may have 0.8 of the tokens in all, less than 1. "
            "Raise the caps of 'b' 0.2, 'c' 0.1 to 0.5 in sum, or remove one",
        ),
        (
            request("manual", 1000, [900, 900], weights=[1, 0], caps={"a": 0.4}),
            InfeasiblePlan,
            "mixture.caps: the domains in use may have 0.4 of the tokens in all, less than 1. "
            "Raise the caps of 'a' 0.4 to 1 in sum, or remove one",
        ),
    ],
)
def test_messages(asked, error, message):
    with pytest.raises(error) as caught:
        mix(asked)
    assert str(caught.value) == message
    assert isinstance(caught.value, CurateError)


def test_requests_that_contradict_themselves():
    twice = (DomainSupply("wiki", 9, 1), DomainSupply("wiki", 9, 1))
    with pytest.raises(RecipeError, match="domains: two are called 'wiki'; give each a name"):
        mix(MixtureRequest(twice, 9, "natural"))
    with pytest.raises(ValueError, match="supply of at least 0, got -1"):
        mix(request("natural", 9, [-1]))
    with pytest.raises(RecipeError, match=r"called 'zzz' \(known"):
        mix(request("zzz", 9, [9]))


def test_floors_out_of_reach_are_met_by_each_way_that_the_message_offers():
    asked = request("uniform", 1000, [100, 900], max_epochs=[2.5, 1], floors={"a": 0.6})
    options = asked.options
    domain = dataclasses.replace(asked.domains[0], max_epochs=6)
    for mended in (
        dataclasses.replace(asked, options=dataclasses.replace(options, floors={"a": 0.25})),
        dataclasses.replace(asked, budget_tokens=416),
        dataclasses.replace(asked, domains=(domain, asked.domains[1])),
        dataclasses.replace(asked, options=dataclasses.replace(options, on_shortfall="repeat")),
    ):
        mixture = mix(mended)
        assert mixture.weights["a"] >= mended.options.floors["a"] - 1e-12
        assert sum(domain.tokens for domain in make_plan(mixture, mended).domains)


def test_weights_by_hand_obey_floors_and_caps_with_a_warning():
    weights = {"weights": [0.7, 0.2, 0.1]}
    moved = mix(request("manual", 10, [9, 9, 9], caps={"a": 0.5}, floors={"c": 0.2}, **weights))
    assert shares(moved) == pytest.approx([0.5, 0.3, 0.2])
    assert list(moved.unconstrained.values()) == pytest.approx([0.7, 0.2, 0.1])
    assert moved.warnings == (
        "weights moved to obey mixture.floors and mixture.caps: 'a' 0.7 to 0.5, 'b' 0.2 to 0.3, "
        "'c' 0.1 to 0.2",
    )
    assert moved.constraints_active == ("a: mixture.caps 0.5 binds", "c: mixture.floors 0.2 binds")
    # What is moved must still fit the supply, and what is pasted obeys the caps.
    with pytest.raises(InfeasiblePlan) as caught:
        mix(request("manual", 10, [9, 2, 9], caps={"a": 0.5}, max_epochs=[1] * 3, **weights))
    assert "{a: 0.5, b: 0.2, c: 0.3}}" in str(caught.value)
    repeated = mix(
        request("manual", 10, [1, 9, 9], caps={"a": 0.5}, on_shortfall="repeat", **weights)
    )
    assert repeated.weights["a"] == 0.5
    with pytest.raises(AssertionError):
        check_bounds(mix_ignoring_bounds(moved_request := request(
            "natural", 10, [9, 1], caps={"a": 0.5})), moved_request)  # fmt: skip


def mix_ignoring_bounds(asked):
    options = dataclasses.replace(asked.options, floors={}, caps={})
    return mix(dataclasses.replace(asked, options=options))


def test_caps_that_sum_to_one_fill_the_budget():
    caps = {"a": 1 / 3, "b": 0.333, "c": 1 - 1 / 3 - 0.333}
    asked = request("natural", 100, [50, 60, 70], caps=caps)
    tokens = [domain.tokens for domain in make_plan(mix(asked), asked).domains]
    assert sum(tokens) == 100 and max(tokens) == 34


def with_epochs(asked, message):
    """The request with every `max_epochs` the message offers, by name or for those with less."""
    pairs = re.findall(r"max_epochs: ([\d.]+) for '(\w+)'", message)
    named = {name: float(value) for value, name in pairs}
    floor = re.search(r"max_epochs: ([\d.]+) for those", message)
    least = float(floor.group(1)) if floor else 0.0
    return dataclasses.replace(
        asked,
        domains=tuple(
            dataclasses.replace(
                domain, max_epochs=max(named.get(domain.name, domain.max_epochs), least)
            )
            for domain in asked.domains
        ),
    )


def by_pasted_text(asked, message):
    """The request with the mixture that the message offers, read as the recipe would read it."""
    text = re.search(r"mixture: \{.*?\}\}", message).group(0)
    pasted = yaml.safe_load(text)["mixture"]
    assert list(pasted) == ["method", "weights"]
    domains = tuple(
        dataclasses.replace(domain, weight=pasted["weights"][domain.name])
        for domain in asked.domains
    )
    return dataclasses.replace(asked, domains=domains, method=pasted["method"])


def assert_plans(asked):
    plan = make_plan(mix(asked), asked)
    assert sum(domain.tokens for domain in plan.domains) == asked.budget_tokens
    for domain, limit in zip(plan.domains, limit_tokens(asked), strict=True):
        assert domain.tokens <= limit
    return plan


def random_shortfall(rng):
    """Weights by hand that break a cap, from ten tokens to 10^18."""
    while True:
        count = int(rng.integers(2, 9))
        scale = 10.0 ** rng.integers(1, 17)
        domains = tuple(
            DomainSupply(
                name=f"d{i}",
                supply_tokens=int(scale * rng.uniform(0.1, 1)) + 1,
                max_epochs=float(rng.choice([0.7, 1, 2, 4])),
                weight=round(float(rng.random()), int(rng.integers(1, 6))) + 1e-5,
            )
            for i in range(count)
        )
        held = sum(cap_tokens(domain) for domain in domains)
        budget = max(1, held * int(rng.choice([500, 900, 999, 1000])) // 1000)
        asked = MixtureRequest(domains, budget, "manual")
        if not fits([domain.weight for domain in domains], budget, limit_tokens(asked)):
            return asked


def test_every_way_out_of_weights_that_do_not_fit_works():
    rng = np.random.default_rng(11)
    for _ in range(300):
        asked = random_shortfall(rng)
        with pytest.raises(InfeasiblePlan) as caught:
            mix(asked)
        message = str(caught.value)
        assert "\n" not in message
        smaller = re.search(r"budget_tokens: ([\d_]+)", message)
        if smaller:
            budget = yaml.safe_load(smaller.group(1))
            assert isinstance(budget, int)
            assert_plans(dataclasses.replace(asked, budget_tokens=budget))
        pasted = by_pasted_text(asked, message)
        assert math.isclose(math.fsum(d.weight for d in pasted.domains), 1, abs_tol=1e-12)
        assert mix(pasted).warnings == ()
        assert_plans(pasted)
        assert_plans(with_epochs(asked, message))
        for policy in ("redistribute", "repeat"):
            options = MixtureOptions(on_shortfall=policy)
            assert_plans(dataclasses.replace(asked, options=options))


def test_the_budget_offered_is_the_largest():
    rng = np.random.default_rng(12)
    for _ in range(200):
        asked = random_shortfall(rng)
        with pytest.raises(InfeasiblePlan) as caught:
            mix(asked)
        found = re.search(r"budget_tokens: ([\d_]+)", str(caught.value))
        if found is None or asked.budget_tokens > 10**12:
            continue
        weights = normalised([domain.weight for domain in asked.domains])
        # Two tokens more for the domain that binds is more than rounding down can hide.
        caps = [cap_tokens(domain) for domain in asked.domains]
        beyond = min(
            math.ceil((cap + 2) / weight) for cap, weight in zip(caps, weights, strict=True)
        )
        assert int(found.group(1)) < beyond
        with pytest.raises(InfeasiblePlan):
            mix(dataclasses.replace(asked, budget_tokens=beyond))


@pytest.mark.parametrize("method", DERIVED)
def test_every_way_out_of_a_budget_beyond_all_caps_works(method):
    rng = np.random.default_rng(13)
    for _ in range(40):
        asked = random_request(rng, method)
        held = sum(cap_tokens(domain) for domain in asked.domains)
        asked = dataclasses.replace(asked, budget_tokens=held + int(rng.integers(1, 10**6)))
        with pytest.raises(InfeasiblePlan) as caught:
            mix(asked)
        message = str(caught.value)
        budget = int(re.search(r"budget_tokens: ([\d_]+)", message).group(1))
        assert budget == held
        assert_plans(dataclasses.replace(asked, budget_tokens=budget))
        raised = with_epochs(asked, message)
        assert_plans(raised)
        # A hundredth less would not do.
        least = min(
            domain.max_epochs
            for domain, before in zip(raised.domains, asked.domains, strict=True)
            if domain.max_epochs > before.max_epochs
        )
        short = tuple(
            dataclasses.replace(domain, max_epochs=max(round(least - 0.01, 2), domain.max_epochs))
            for domain in asked.domains
        )
        with pytest.raises(InfeasiblePlan):
            mix(dataclasses.replace(asked, domains=short))


def test_pasted_names_survive_yaml():
    names = ["Wikipedia (en)", "yes", "1e5", "a: b", 'say "hi"', "wiki.en", "Кот", "null"]
    text = paste_mixture(names, [1 / 8] * 8, [100] * 8, 800)
    assert list(yaml.safe_load(text)["mixture"]["weights"]) == names


def test_pasted_weights_have_few_digits_but_lose_no_domain():
    assert paste_mixture(["a", "b"], [1 / 3, 2 / 3], [1, 3], 3) == (
        "mixture: {method: manual, weights: {a: 0.3333, b: 0.6667}}"
    )
    nearest = project_capped([1e-9, 0.5, 0.5], [1.0, 1.0, 0.1])
    text = paste_mixture(["a", "b", "c"], nearest, [10**12] * 2 + [10**11], 10**12)
    assert "a: 0.00000000" in text and "c: 0.1}" in text
    # Exactly all there is: no shorter decimal than the float itself holds three sevenths.
    exact = paste_mixture(["a", "b"], project_capped([1, 1], [3 / 7, 4 / 7]), [3, 4], 7)
    assert yaml.safe_load(exact)["mixture"]["weights"] == {"a": 3 / 7, "b": 4 / 7}


def test_many_domains_are_counted_not_listed():
    with pytest.raises(InfeasiblePlan, match=r"'e' 1 x 1 and 2 more\)"):
        mix(request("natural", 100, [1] * 7, max_epochs=[1] * 7))
