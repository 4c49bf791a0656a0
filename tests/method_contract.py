"""What holds for every mixing method, ours or another package's."""

import dataclasses
import json
import math

import numpy as np
import pytest
from mixing_laws import PowerLaw, table_of

from curate.laws.fit_once import forget
from curate.laws.likelihoods import Likelihoods
from curate.mixture import (
    DomainSupply,
    Evidence,
    MixtureOptions,
    MixtureRequest,
    SearchOptions,
    limit_tokens,
    mix,
)
from curate.mixture.request import cap_tokens
from curate.mixture.simplex import project_capped
from curate.stats import entropy_statistics

NAMES = ("a", "b", "c")
SCALES, EXPONENTS = np.array([2.0, 3.0, 2.5]), np.array([0.12, 0.05, 0.2])


def shares(mixture):
    return list(mixture.weights.values())


def random_request(rng, method):
    """A feasible request with every kind of evidence; caps bind in most."""
    count = int(rng.integers(2, 12))
    supplies = rng.integers(1_000, 10**7, count)
    domains = tuple(
        DomainSupply(
            name=f"domain{i}",
            supply_tokens=int(supplies[i]),
            max_epochs=float(rng.choice([0.5, 1, 2.5, 4])),
            entropy={measure: float(rng.normal(6, 1)) for measure in entropy_statistics()},
            weight=float(rng.random() + 0.01),
            entropy_error={
                measure: float(rng.uniform(0.01, 0.3)) for measure in entropy_statistics()
            },
            embedding=tuple(rng.normal(size=4).tolist()),
        )
        for i in range(count)
    )
    budget = int(sum(cap_tokens(domain) for domain in domains) * rng.uniform(0.05, 1))
    return MixtureRequest(domains, budget, method, MixtureOptions(3.0, on_shortfall="redistribute"))


def with_random_bounds(rng, asked):
    """Add floors and caps to some domains of a request; at least one mixture obeys them all."""
    limits = np.array(limit_tokens(asked)) / asked.budget_tokens
    inside = project_capped(rng.dirichlet(np.ones(len(limits))) + 1e-3, limits)
    names = [domain.name for domain in asked.domains]
    floors = {n: s * rng.random() for n, s in zip(names, inside, strict=True) if rng.random() < 0.4}
    caps = {
        n: min(1.0, s * (1 + rng.random()))
        for n, s in zip(names, inside, strict=True)
        if rng.random() < 0.4
    }
    return dataclasses.replace(
        asked, options=dataclasses.replace(asked.options, floors=floors, caps=caps)
    )


def check_bounds(mixture, asked):
    """Check that floors and caps are obeyed, and that those that bind are named."""
    assert math.isclose(math.fsum(mixture.weights.values()), 1, abs_tol=1e-9)
    for key, bounds, sign in (
        ("floors", asked.options.floors, 1),
        ("caps", asked.options.caps, -1),
    ):
        for name, bound in bounds.items():
            room = sign * (mixture.weights[name] - bound)
            assert room >= -1e-12, (key, name)
            named = f"{name}: mixture.{key} {bound:g} binds" in mixture.constraints_active
            assert named == (room <= 1e-12), (key, name)
            if mixture.low is not None:
                ends = (mixture.low[name], mixture.high[name])
                assert all(sign * (end - bound) >= -1e-12 for end in ends), (key, name)


def check_contract(mixer, planted, expected):
    """Check what `mix` promises for every method that needs the corpus alone.

    Args:
        mixer: Stands for `mix`.
        planted: A request by the method.
        expected: Its shares, known by hand.
    """
    rng = np.random.default_rng(7)
    for _ in range(25):
        asked = random_request(rng, planted.method)
        weights = mixer(asked).weights
        assert list(weights) == [domain.name for domain in asked.domains]
        assert math.isclose(math.fsum(weights.values()), 1, abs_tol=1e-12)
        assert all(weight >= 0 for weight in weights.values())
        for domain, limit in zip(asked.domains, limit_tokens(asked), strict=True):
            assert weights[domain.name] * asked.budget_tokens <= limit * (1 + 1e-12)
        assert mixer(asked).weights == weights
        order = rng.permutation(len(asked.domains))
        moved = mixer(dataclasses.replace(asked, domains=tuple(asked.domains[i] for i in order)))
        assert moved.weights == pytest.approx(weights, rel=1e-12)
        renamed = tuple(
            dataclasses.replace(domain, name=f"{99 - i}") for i, domain in enumerate(asked.domains)
        )
        other = mixer(dataclasses.replace(asked, domains=renamed))
        assert shares(other) == list(weights.values())
        bounded = with_random_bounds(rng, asked)
        mixture = mixer(bounded)
        check_bounds(mixture, bounded)
        turned = tuple(bounded.domains[i] for i in order)
        assert mixer(dataclasses.replace(bounded, domains=turned)).weights == pytest.approx(
            mixture.weights, rel=1e-12
        )
        assert mixture.unconstrained == pytest.approx(mixer(asked).unconstrained, rel=1e-12)
    assert shares(mixer(planted)) == pytest.approx(expected, rel=1e-12)


def runs(count=60, noise=0.002, names=NAMES):
    weights = np.random.default_rng(0).dirichlet(np.full(3, 1.5), count)
    return table_of(PowerLaw(SCALES, EXPONENTS), weights, noise, names=names)


def experts(names=NAMES):
    rng = np.random.default_rng(1)
    tables = np.exp(rng.normal(0, 1, (3, 20)))
    tables /= tables.sum(axis=1, keepdims=True)
    token = rng.choice(20, size=900, p=np.array([0.5, 0.3, 0.2]) @ tables)
    starts = np.arange(0, 901, 30)
    target = (np.arange(30) >= 15).astype(np.int64)
    return Likelihoods(tuple(names), ("x", "y"), target, starts, np.log(tables[:, token]).T)


def asked(method, caps=(np.inf,) * 3, names=NAMES, evidence=None, bounds=None, **search):
    """Make a request of three domains.

    Args:
        method: Its name.
        caps: shape (domains,), most passes over each domain, which are its largest share here.
        names: The domains.
        evidence: None for runs and experts that were planted.
        bounds: `floors` and `caps` of the options.
        search: Fields of `SearchOptions`.
    """
    domains = tuple(DomainSupply(name, 1000, cap) for name, cap in zip(names, caps, strict=True))
    search.setdefault("replicates", 0)
    if method == "law":
        search.setdefault("law", "exponential")
    found = Evidence(runs(), experts()) if evidence is None else evidence
    options = MixtureOptions(search=SearchOptions(**search), **(bounds or {}))
    return MixtureRequest(domains, 1000, method, options, found)


def check_evidence_contract(method, by_name=True):
    """Check what `mix` promises for every method that needs runs or experts.

    Args:
        method: Its name.
        by_name: Whether the order of the domains plays no part.
    """
    free = mix(asked(method))
    assert sum(free.weights.values()) == pytest.approx(1, abs=1e-12)
    assert min(free.weights.values()) >= 0
    forget()  # or the second answer could not differ
    assert free.weights == mix(asked(method)).weights
    assert free.predicted_loss is not None and np.isfinite(free.predicted_loss)
    assert json.loads(json.dumps(free.to_json()))["method"] == method
    capped = mix(asked(method, caps=(0.2, np.inf, 0.3), trust_region=False))
    assert capped.weights["a"] <= 0.2 + 1e-12 and capped.weights["c"] <= 0.3 + 1e-12
    assert capped.predicted_loss >= free.predicted_loss - 1e-6
    least, most = min(free.weights, key=free.weights.get), max(free.weights, key=free.weights.get)
    bounds = {"floors": {least: free.weights[least] + 0.05}, "caps": {most: 0.3}}
    request = asked(method, bounds=bounds, trust_region=False)
    bounded = mix(request)
    check_bounds(bounded, request)
    alone = mix(asked(method, trust_region=False))
    assert bounded.unconstrained == pytest.approx(alone.weights, abs=1e-5)
    if by_name:  # random search ends near the best, not at it
        assert bounded.predicted_loss >= alone.predicted_loss - 1e-6
    if by_name:
        turned = mix(asked(method, names=("c", "a", "b")))
        for name in NAMES:
            assert turned.weights[name] == pytest.approx(free.weights[name], abs=2e-3)
