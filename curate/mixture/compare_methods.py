"""Compare several mixtures of the same domains.

`every_method` enters all methods under the recipe's caps; `before_caps` enters those that need no
trained models, and every entropy, as they are before caps move them. `compare_mixtures` turns
either list into the rows of `mixtures.json` and of `comparison` in `entropy_report.json`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curate.errors import CurateError
from curate.mixture import METHODS, Mixture, MixtureOptions, MixtureRequest, mix, mix_with
from curate.mixture.caps import check_supply
from curate.mixture.methods import baselines
from curate.mixture.methods.entropic import ENTROPY
from curate.mixture.simplex import normalised
from curate.runtime.files import hash_json
from curate.runtime.sealed import Notice, read_cached, write_sealed
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
    """An entrant and its mixture."""

    label: str
    mixture: dict[str, Any]
    """Fields of `mixture.json`, and `max_epochs`."""
    seconds: float
    """CPU time."""
    is_kept: bool = False
    """Whether an earlier run has computed it."""

    @property
    def line(self) -> str:
        """Say in one line how the entrant ended, for progress."""
        loss = self.mixture["predicted_loss"]
        text = "" if loss is None else f"loss {loss:.4f}, "
        time_taken = "of an earlier run" if self.is_kept else f"{self.seconds:.1f} s of CPU"
        return f"{self.label}: {text}{time_taken}"


@dataclass(frozen=True, slots=True)
class OmittedEntrant:
    """An entrant that has no mixture."""

    label: str
    problem: str
    """The reason, for the user."""


@dataclass(frozen=True, slots=True)
class KeptContenders:
    """Mixtures that an interrupted comparison leaves for the next one with the same inputs."""

    directory: Path
    """Directory for `mixtures.json`; until that is written, they are in a folder beside it."""
    inputs: Any
    """JSON value of everything that the mixtures depend on, the version of curate included."""

    @property
    def _folder(self) -> Path:
        return self.directory / "mixtures.partial"

    def _path(self, label: str) -> Path:
        return self._folder / f"{hash_json([self.inputs, label])[:24]}.json"

    def read(self, label: str, notice: Notice) -> Contender | None:
        """Return the mixture of an entrant, if it is there."""
        content = read_cached(self._path(label), "the method is computed again", notice)
        if content is None:
            return None
        return Contender(label, json.loads(content), 0.0, is_kept=True)

    def write(self, contender: Contender) -> None:
        """Keep a mixture."""
        write_sealed(self._path(contender.label), json.dumps(contender.mixture).encode())

    def clear(self) -> None:
        """Remove what is kept."""
        shutil.rmtree(self._folder, ignore_errors=True)


def every_method(request: MixtureRequest, methods: Sequence[str] = ()) -> list[Entrant]:
    """Enter methods on the same supply, caps, budget and evidence, cheapest first.

    Args:
        request: Its method is ignored.
        methods: Names from `select_methods`; empty for all.
    """
    names = methods or list(METHODS)
    return [Entrant(name, replace(request, method=name)) for name in names]


def select_methods(methods: Sequence[str]) -> list[str]:
    """List the methods of these names, each once and cheapest first; all where none is named.

    Raises:
        RecipeError: No method has one of the names.
    """
    for name in methods:
        METHODS.find(name, "--methods")
    return [name for name in METHODS if not methods or name in methods]


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
    kept: KeptContenders | None = None,
    notice: Notice = lambda _: None,
) -> dict[str, Any]:
    """Compute the mixture of every entrant.

    Args:
        entrants: At least one, with the same domains and budget, cheapest first.
        workers: Number of processes; it changes nothing but the time taken.
        on_contender: Called as each entrant gives a mixture; those left out are in the result.
        kept: Mixtures of an interrupted comparison, which receives each of this one; None for none.
        notice: Called with a line that names a damaged file of `kept`.

    Returns:
        `budget_tokens`; `mixtures`, by label the fields of `mixture.json`, `max_epochs` (the most
        passes over a domain) and `tv_natural` (total-variation distance to shares proportional to
        supply, None without supply); `left_out`, by label why there is no mixture.
    """
    ended: dict[str, Contender | OmittedEntrant] = {}
    for entrant in entrants:
        contender = None if kept is None else kept.read(entrant.label, notice)
        if contender is not None:
            ended[entrant.label] = contender
            on_contender(contender)

    def end(row: Contender | OmittedEntrant) -> None:
        if isinstance(
            row, OmittedEntrant
        ):  # it ends fast, and the next comparison computes it again
            return
        if kept is not None:
            kept.write(row)
        on_contender(row)

    # The most expensive begin first, so that no worker is left with a long one at the end.
    left = [entrant for entrant in reversed(entrants) if entrant.label not in ended]
    ended |= {row.label: row for row in map_tasks(_contender, left, workers, on_result=end)}
    natural = _natural(entrants[0].request)
    mixtures: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for row in (ended[entrant.label] for entrant in entrants):
        if isinstance(row, OmittedEntrant):
            left_out[row.label] = row.problem
            continue
        mixtures[row.label] = {
            **row.mixture,
            "tv_natural": natural and total_variation(row.mixture["weights"], natural),
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


def _contender(entrant: Entrant) -> Contender | OmittedEntrant:
    started = time.process_time()
    try:
        mixture = mix(entrant.request) if entrant.capped else _preferred(entrant.request)
    except CurateError as error:
        return OmittedEntrant(entrant.label, str(error))
    fields = {**mixture.to_json(), "max_epochs": max(mixture.epochs.values())}
    return Contender(entrant.label, fields, time.process_time() - started)


def _preferred(request: MixtureRequest) -> Mixture:
    """Mix without caps, but for those that a method has built in."""
    method = METHODS[request.method]
    preference = method.prefer(request)
    if preference.unconstrained is not None:  # its shares already obey the caps, so they must fit
        check_supply(request, None)
    uncapped = replace(request, options=replace(request.options, on_shortfall="repeat"))
    return mix_with(replace(method, prefer=lambda _: preference), uncapped)
