"""Mixtures from the entropies of the domains: no model is trained.

How entropies are measured, and how good the measurement is, is `curate.stats`' business.
"""

from __future__ import annotations

import difflib
import math

from curate.errors import MissingEvidence, RecipeError
from curate.mixture.base import MixtureRequest, Preference
from curate.mixture.baselines import check_temperature
from curate.mixture.simplex import softmax

MEASURES = ("shannon", "joint", "conditional", "von_neumann")
"""Entropy of the token, of the pair, of the next token given this one, and of the embeddings."""


def entropy(request: MixtureRequest) -> Preference:
    """Shares proportional to exp(entropy / temperature).

    With entropies in nats and temperature 1, the paper's, a domain's share is proportional to its
    perplexity. Supply plays no part, so small domains are soon repeated: caps matter.

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
    if measure not in MEASURES:
        near = difflib.get_close_matches(str(measure), MEASURES, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise RecipeError(
            f"mixture.measure: no entropy is called '{measure}'{hint} (known: "
            f"{', '.join(MEASURES)})"
        )
    heat = 1.0 if request.options.temperature is None else request.options.temperature
    check_temperature(heat)
    values = [domain.entropy.get(measure, math.nan) for domain in request.domains]
    lacking = [
        domain for domain, value in zip(request.domains, values, strict=True) if math.isnan(value)
    ]
    if lacking:
        names = ", ".join(f"'{domain.name}'" for domain in lacking)
        others = [known for known in MEASURES if all(known in d.entropy for d in request.domains)]
        instead = f", or set mixture.measure: {others[0]}, which all have" if others else ""
        raise MissingEvidence(
            f"mixture: method 'entropy' needs the {measure} entropy of {names}. Run "
            f"`curate stats RECIPE`, which writes domains.{lacking[0].name}.entropy.{measure} to "
            f"stats.json{instead}"
        )
    return Preference(tuple(softmax(values, heat)))
