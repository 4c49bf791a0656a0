"""Compare several mixtures of the same domains.

`every_method` enters all methods under the recipe's caps; `before_caps` enters those that need no
trained models, and every entropy, as they are before caps move them. `compare_mixtures` turns
either list into the rows of `mixtures.json` and of `comparison` in `entropy_report.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curate.errors import CurateError
from curate.mixture import METHODS, Mixture, MixtureOptions, MixtureRequest, mix, mix_with
from curate.mixture.caps import check_supply
from curate.mixture.methods import baselines
from curate.mixture.methods.entropic import ENTROPY
from curate.mixture.simplex import normalised
from curate.runtime.workers import map_tasks


@dataclass(frozen=True, slots=True)
class Entrant:
    """One row of a comparison, before it is computed."""

    label: str
    request: MixtureRequest
    """Its method is the one to run."""
    capped: bool = True
    """Whether the epoch caps hold; False: the method's preference, whatever `max_epochs` says."""


@dataclass(frozen=True, slots=True)
class Contender:
    """The mixture of one entrant, or the reason why there is none."""

    label: str
    mixture: Mixture | None
    problem: str
    """Why there is no mixture, or empty."""
    seconds: float
    """CPU time."""

    @property
    def line(self) -> str:
        """Say in one line how the entrant ended, for progress."""
        if self.mixture is None:
            return f"{self.label}: left out"
        loss = self.mixture.predicted_loss
        text = "" if loss is None else f"loss {loss:.4f}, "
        return f"{self.label}: {text}{self.seconds:.1f} s of CPU"


def every_method(request: MixtureRequest) -> list[Entrant]:
    """Enter every method on the same supply, caps, budget and evidence, cheapest first."""
    return [Entrant(name, replace(request, method=name)) for name in METHODS]


def before_caps(request: MixtureRequest, plugin: MixtureRequest) -> list[Entrant]:
    """Enter the methods that need no trained models, with one row for every entropy.

    The recipe's temperature is used for its own method; others have their defaults.

    Args:
        request: The recipe's request with corrected entropies, their errors, and embeddings.
        plugin: The same with plug-in entropies of all tokens.
    """
    entrants = []
    for name, method in METHODS.items():
        if method.evidence is not None:
            continue
        # The recipe's temperature is meant for its own method.
        temperature = request.options.temperature if request.method == name else None
        options = replace(request.options, temperature=temperature)
        if name != ENTROPY.name:
            entry = replace(request, method=name, options=options)
            entrants.append(Entrant(name, entry, capped=False))
            continue
        default = MixtureOptions().measure
        measures = sorted(request.domains[0].entropy, key=lambda measure: measure != default)
        for label, source, measure in (
            ("plug-in", plugin, default),
            *((measure, request, measure) for measure in measures),
        ):
            entry = replace(source, method=name, options=replace(options, measure=measure))
            entrants.append(Entrant(f"{name}, {label}", entry, capped=False))
    return entrants


def entropy_temperature(request: MixtureRequest) -> float:
    """Return the temperature at which `before_caps` compares entropies."""
    heat = request.options.temperature if request.method == ENTROPY.name else None
    return 1.0 if heat is None else heat


def compare_mixtures(
    entrants: Sequence[Entrant],
    workers: int = 1,
    on_contender: Callable[[Contender], None] = lambda _: None,
) -> dict[str, Any]:
    """Compute the mixture of every entrant.

    Args:
        entrants: At least one, with the same domains and budget, cheapest first.
        workers: Number of processes; it changes nothing but the time taken.
        on_contender: Called as each entrant ends.

    Returns:
        `budget_tokens`; `mixtures`, by label the fields of `mixture.json`, `max_epochs` (the most
        passes over a domain) and `tv_natural` (total-variation distance to shares proportional to
        supply, None without supply); `left_out`, by label why there is no mixture.
    """
    # The most expensive begin first, so that no worker is left with a long one at the end.
    ended = map_tasks(_contender, list(reversed(entrants)), workers, on_result=on_contender)
    natural = _natural(entrants[0].request)
    mixtures: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for contender in reversed(ended):
        if contender.mixture is None:
            left_out[contender.label] = contender.problem
            continue
        mixtures[contender.label] = {
            **contender.mixture.to_json(),
            "max_epochs": max(contender.mixture.epochs.values()),
            "tv_natural": natural and total_variation(contender.mixture.weights, natural),
        }
    budget = entrants[0].request.budget_tokens
    return {"budget_tokens": budget, "mixtures": mixtures, "left_out": left_out}


def total_variation(left: Mapping[str, float], right: Mapping[str, float]) -> float:
    """Compute half the sum of absolute differences: the share of tokens that moves.

    Example:
        >>> total_variation({"a": 0.5, "b": 0.5, "c": 0.0}, {"a": 0.25, "b": 0.5, "c": 0.25})
        0.25
    """
    return sum(abs(share - right[name]) for name, share in left.items()) / 2


def _natural(request: MixtureRequest) -> dict[str, float] | None:
    """Return shares proportional to supply; None where there is no supply."""
    if not any(domain.supply_tokens for domain in request.domains):
        return None
    shares = normalised(baselines.natural(request).weights)  # as `mix` does, to the last bit
    return {domain.name: share for domain, share in zip(request.domains, shares, strict=True)}


def _contender(entrant: Entrant) -> Contender:
    started = time.process_time()
    try:
        mixture = mix(entrant.request) if entrant.capped else _preferred(entrant.request)
        problem = ""
    except CurateError as error:
        mixture, problem = None, str(error)
    return Contender(entrant.label, mixture, problem, time.process_time() - started)


def _preferred(request: MixtureRequest) -> Mixture:
    """Mix without caps, but for those that a method has built in."""
    method = METHODS[request.method]
    preference = method.prefer(request)
    if preference.unconstrained is not None:  # its shares already obey the caps, so they must fit
        check_supply(request, None)
    uncapped = replace(request, options=replace(request.options, on_shortfall="repeat"))
    return mix_with(replace(method, prefer=lambda _: preference), uncapped)
