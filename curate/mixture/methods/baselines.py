"""Baseline methods, which need only token counts, and the user's own weights.

Functions take a request and return a `Preference`. `curate.mixture.mix` applies the caps, which
only UniMax has built in.
"""

from __future__ import annotations

import math
from fractions import Fraction

from curate.errors import RecipeError
from curate.mixture.request import (
    Method,
    MixtureRequest,
    Preference,
    limit_tokens,
    share_bounds,
)
from curate.mixture.simplex import normalised, project_capped, softmax

NEEDS_TEMPERATURE = (
    "mixture.temperature is missing: method 'METHOD' needs it; 1 is natural, larger is nearer to "
    "uniform (mT5: 3.33), as in mixture: {method: temperature, temperature: 3.33}"
)

SUM_SLACK = 1e-6
"""Error in the sum of weights typed by hand that causes no warning."""


def natural(request: MixtureRequest) -> Preference:
    """Choose shares proportional to supply: one pass over all text reads each document once."""
    return Preference(tuple(normalised([domain.supply_tokens for domain in request.domains])))


def uniform(request: MixtureRequest) -> Preference:
    """Choose the same share of tokens for every domain."""
    return Preference((1 / len(request.domains),) * len(request.domains))


def temperature(request: MixtureRequest) -> Preference:
    """Choose shares proportional to supply^(1 / temperature).

    Temperature 1 is `natural`; the larger it is, the nearer to `uniform`.

    Raises:
        RecipeError: No temperature is given, or it is not positive and finite.

    References:
        Arivazhagan et al. 2019, "Massively Multilingual Neural Machine Translation in the Wild",
        arXiv:1907.05019, who use 5; Xue et al. 2020, "mT5", arXiv:2010.11934, write the
        exponent 1 / temperature as alpha and use 0.3.
    """
    value = request.options.temperature
    if value is None:
        raise RecipeError(NEEDS_TEMPERATURE.replace("METHOD", request.method))
    check_temperature(value)
    logarithms = [math.log(domain.supply_tokens) for domain in request.domains]
    return Preference(tuple(softmax(logarithms, value)))


def check_temperature(value: float) -> None:
    """Check a temperature of the recipe.

    Raises:
        RecipeError: It is not positive and finite.
    """
    if not 0 < value < math.inf:
        raise RecipeError(f"mixture.temperature: {value} is not a positive finite number")


def unimax(request: MixtureRequest) -> Preference:
    """Choose shares as uniform as the epoch caps allow.

    Domains are visited in order of the tokens they can give. Each takes an equal part of the
    remaining budget, or all it can give, whichever is less.

    Differs from the paper: caps are per domain, so the order is by supply times `max_epochs`;
    units are tokens, not characters; a budget beyond all caps is refused before this runs; and
    where there are floors, the shares are the projection of equal ones, which is the same without.

    Returns:
        Shares within their caps; `unconstrained` is uniform.

    References:
        Chung et al. 2023, "UniMax", arXiv:2304.09151, Algorithm 1.
    """
    if any(request.options.floors.values()):
        bounds = share_bounds(request)
        held = project_capped(uniform(request).weights, bounds.high, bounds.low)
        return Preference(tuple(held), unconstrained=uniform(request).weights)
    limits = limit_tokens(request)
    shares = [0.0] * len(limits)
    left = Fraction(request.budget_tokens)
    order = sorted(range(len(limits)), key=lambda i: limits[i])
    for visited, i in enumerate(order):
        taken = min(Fraction(limits[i]), left / (len(order) - visited))
        shares[i] = float(taken / request.budget_tokens)
        left -= taken
    return Preference(tuple(shares), unconstrained=uniform(request).weights)


def manual(request: MixtureRequest) -> Preference:
    """Choose the recipe's own weights, as shares.

    Weights that sum to 100 are read as percent; weights with another sum than 1 are divided by it.
    A warning reports either.

    Raises:
        RecipeError: A domain has no weight, a weight is negative or not finite, or all are zero.
    """
    missing = [f"'{domain.name}'" for domain in request.domains if domain.weight is None]
    if missing:
        raise RecipeError(
            f"mixture: method 'manual' needs a weight for every domain; {', '.join(missing)} "
            f"{'has' if len(missing) == 1 else 'have'} none. Set domains[].weight or "
            "mixture.weights, 0 to leave a domain out"
        )
    weights = [float(domain.weight or 0.0) for domain in request.domains]
    for domain, weight in zip(request.domains, weights, strict=True):
        if not 0 <= weight < math.inf:
            raise RecipeError(
                f"domains[{domain.name}].weight: {weight} is not a finite number of at least 0"
            )
    if not any(weight > 0 for weight in weights):
        raise RecipeError("mixture: every weight is 0; give at least one domain a positive weight")
    total = math.fsum(weights)
    warnings = []
    if abs(total - 100) <= SUM_SLACK:
        warnings.append("manual weights sum to 100 and are read as percent of tokens")
    elif abs(total - 1) > SUM_SLACK:
        warnings.append(f"manual weights sum to {total:.10g}, not 1, and are divided by that")
    return Preference(tuple(normalised(weights)), warnings=tuple(warnings))


NATURAL = Method(
    name="natural",
    summary="shares proportional to supply",
    paper="a baseline, no paper",
    needs="token counts",
    prefer=natural,
)

UNIFORM = Method(
    name="uniform",
    summary="the same share for every domain",
    paper="a baseline, no paper",
    needs="nothing",
    prefer=uniform,
)

TEMPERATURE = Method(
    name="temperature",
    summary="shares proportional to supply^(1/temperature)",
    paper="Arivazhagan et al. 2019, arXiv:1907.05019 (sampling temperature)",
    needs="token counts and mixture.temperature",
    prefer=temperature,
    reads=("temperature",),
    requires={"temperature": NEEDS_TEMPERATURE},
)

UNIMAX = Method(
    name="unimax",
    summary="as uniform as the epoch caps allow",
    paper="Chung et al. 2023, UniMax, arXiv:2304.09151, Algorithm 1",
    needs="token counts and max_epochs",
    prefer=unimax,
)

MANUAL = Method(
    name="manual",
    summary="the recipe's own weights",
    paper="the recipe, no paper",
    needs="a weight for every domain",
    prefer=manual,
    by_hand=True,
    reads=("weights",),
)
