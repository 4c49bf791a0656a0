"""Predict the losses of any mixture by the law or the experts of the recipe's method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.laws import LAWS
from curate.laws.fit_once import fit_once
from curate.mixture.constraints import match_constraints
from curate.mixture.methods import METHODS
from curate.mixture.methods.needs_evidence import ExpertMethod, LawMethod
from curate.mixture.request import MixtureRequest
from curate.mixture.search.expert_mixing import experts_law

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predicted losses."""

    source: str
    """The law, or the method where experts predict."""
    targets: tuple[str, ...]
    losses: Array
    """shape (mixtures, targets), nats per token."""


def forecast(
    request: MixtureRequest, mixtures: Array, tokens: float, params: float
) -> Forecast | None:
    """Predict the losses of mixtures; None where the recipe's evidence cannot.

    A law predicts only for a size that its runs include, since runs of another size do not tell how
    losses change with size. Experts predict the loss of a mixture of models, which
    stands for a model of the mixture only in the order of mixtures (Belenki et al. 2025).

    Args:
        request: The recipe's request, with its evidence.
        mixtures: shape (mixtures, domains of the recipe), shares.
        tokens: Training tokens of a run.
        params: Parameters of the model, counted as in the run table.

    Raises:
        FitError: The runs cannot determine the law.
    """
    evidence = request.evidence
    if evidence is None:
        return None
    prefer = METHODS[request.method].prefer
    if evidence.experts is not None and isinstance(prefer, ExpertMethod):
        experts = evidence.experts
        place = match_constraints(request, experts.experts, experts.targets, "experts").place
        law = experts_law(experts, request.options.search.level or prefer.level)
        shares = _placed(mixtures, place, len(experts.experts))
        return Forecast(request.method, experts.targets, law.predict(shares, shares, shares))
    name = (isinstance(prefer, LawMethod) and prefer.law) or request.options.search.law
    runs = evidence.runs
    if runs is None or name is None:
        return None
    has_params = ~np.isnan(runs.params).all()
    if has_params and not np.isclose(runs.params, params).any():
        return None
    place = match_constraints(request, runs.domains, runs.targets, "runs").place
    shares = _placed(mixtures, place, len(runs.domains))
    at_tokens = np.full(len(shares), np.nan if np.isnan(runs.tokens).all() else tokens)
    at_params = np.full(len(shares), params if has_params else np.nan)
    fitted = fit_once(LAWS.find(name, "mixture.law", FitError), runs)
    losses = fitted.predict(shares, at_tokens, at_params)
    return Forecast(name, runs.targets, losses)


def _placed(mixtures: Array, place: NDArray[np.int64], domains: int) -> Array:
    shares = np.zeros((len(mixtures), domains))
    shares[:, place] = mixtures
    return shares
