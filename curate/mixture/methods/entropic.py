"""Mix by the entropies of the domains; no model is trained.

`curate.stats` measures entropies and their errors.
"""

from __future__ import annotations

import math

import numpy as np

from curate.errors import MissingEvidence
from curate.mixture.methods.baselines import check_temperature
from curate.mixture.request import Method, MixtureRequest, Preference
from curate.mixture.simplex import softmax
from curate.recipe import MixtureRecipe
from curate.stats import entropy_statistics, find_entropy
from curate.stats.estimate import order_warnings, weight_draws
from curate.stats.statistic import SampleKind

DRAWS = 1000
"""Number of draws of the entropies for the interval of the weights."""


def entropy(request: MixtureRequest) -> Preference:
    """Choose shares proportional to exp(entropy / temperature).

    With entropies in nats and temperature 1, the paper's, a domain's share is proportional to its
    perplexity. Supply is ignored, so small domains are soon repeated and caps matter.

    Where the entropies have standard errors, the shares get intervals, and a warning names domains
    whose order is within noise.

    Returns:
        Shares of tokens, before caps.

    Raises:
        RecipeError: The measure is unknown or the temperature is not positive.
        MissingEvidence: A domain lacks this measure.

    References:
        Ge et al. 2024, "BiMix", arXiv:2405.14908v4, Eq. 13. The paper recommends the conditional
        entropy, and mixes by the measures of Eq. 12 and Appendix A.
    """
    measure = request.options.measure
    find_entropy(measure)
    heat = 1.0 if request.options.temperature is None else request.options.temperature
    check_temperature(heat)
    values = [domain.entropy.get(measure, math.nan) for domain in request.domains]
    lacking = [
        domain for domain, value in zip(request.domains, values, strict=True) if math.isnan(value)
    ]
    if lacking:
        names = ", ".join(f"'{domain.name}'" for domain in lacking)
        others = [n for n in entropy_statistics() if all(n in d.entropy for d in request.domains)]
        instead = f", or set mixture.measure: {others[0]}, which all have" if others else ""
        raise MissingEvidence(
            f"mixture: method 'entropy' needs the {measure} entropy of {names}. Run "
            f"`curate stats RECIPE`, which writes domains.{lacking[0].name}.entropy.{measure} to "
            f"stats.json{instead}"
        )
    return _with_interval(request, measure, values, heat)


def _with_interval(
    request: MixtureRequest, measure: str, values: list[float], heat: float
) -> Preference:
    """Return the shares, with intervals and warnings from the errors of the entropies."""
    weights = tuple(softmax(values, heat))
    error = {
        domain.name: domain.entropy_error[measure]
        for domain in request.domains
        if measure in domain.entropy_error
    }
    if not error:
        return Preference(weights)
    centre = {domain.name: value for domain, value in zip(request.domains, values, strict=True)}
    warnings = order_warnings(
        list(error), np.array([centre[name] for name in error]), np.array(list(error.values()))
    )
    if len(error) < len(centre):
        names = ", ".join(f"'{name}'" for name in centre if name not in error)
        lacking = f"the {measure} entropy of {names} has no interval, so no weight has one"
        return Preference(weights, warnings=(lacking, *warnings))
    draws = weight_draws(centre, error, heat, DRAWS).tolist()
    return Preference(weights, draws=draws, warnings=warnings)


def _measures(mixture: MixtureRecipe) -> tuple[SampleKind, ...]:
    """Name the sample that `mixture.measure` is estimated from, if counts do not give it.

    Example:
        >>> _measures(MixtureRecipe()), _measures(MixtureRecipe(estimator="plugin"))
        (('tokens',), ())
    """
    statistic = find_entropy(mixture.measure)
    # Without correction, the counts of all tokens are enough where they give the entropy.
    counted = mixture.estimator != "corrected" and statistic.count is not None
    return () if counted else (statistic.sample,)


ENTROPY = Method(
    name="entropy",
    summary="shares proportional to exp(entropy), by default of the next token given this one",
    paper="Ge et al. 2024, BiMix, arXiv:2405.14908v4, Eq. 13",
    needs="entropies from `curate stats`",
    prefer=entropy,
    measures=_measures,
    reads=("measure", "estimator", "temperature"),
)
