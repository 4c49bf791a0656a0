"""Mix from run tables or experts alone, without text.

Without supply, epochs are not capped, and the mean of the runs stands in for the natural mixture,
which some methods take as a prior.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace as with_fields

from curate import __version__
from curate.dataset.ownership import holds_dataset
from curate.errors import InputError, MissingEvidence, RecipeError
from curate.laws.law import domains_of_stages, stage_columns
from curate.mixture import METHODS, mix
from curate.mixture.compare_methods import (
    KeptContenders,
    compare_mixtures,
    every_method,
    select_methods,
)
from curate.mixture.front import front
from curate.mixture.keys import check_keys
from curate.mixture.request import DomainSupply, Evidence, MixtureOptions, MixtureRequest
from curate.pipeline.check import kept_shares
from curate.pipeline.read_evidence import check_files, read_evidence_files, search_options
from curate.pipeline.results import FrontResult, MethodsResult, MixtureResult
from curate.recipe import EvidenceRecipe, MixtureRecipe, parse_mixture_settings
from curate.runtime.files import hash_file
from curate.runtime.machine import fault_or
from curate.runtime.progress import Observer, write_artifact

UNKNOWN_BUDGET = 10**9
"""Tokens that stand in for the budget where supply is unknown; only shares are reported then."""


@dataclass(frozen=True, slots=True)
class RunTableInputs:
    """Evidence, supply and settings in place of a recipe, when there is no text."""

    runs: tuple[Path, ...] = ()
    """Files of run tables, see `curate.laws.run_tables.join.table_files`."""
    experts: Path | None = None
    """Log-probabilities of one expert for each domain."""
    supply: tuple[str, ...] = ()
    """`NAME=TOKENS` each, or the path of one CSV file with columns domain and tokens."""
    budget_tokens: int | None = None
    """Tokens to train on; needs `supply`."""
    max_epochs: float = 1.0
    """Most passes over a domain."""
    overrides: tuple[str, ...] = ()
    """Texts such as `mixture.method=bimix` or `seed=1`, as for `--set`."""


@dataclass(frozen=True, slots=True)
class RequestWithoutText:
    """A request made from a run table or experts."""

    request: MixtureRequest
    supply_known: bool
    """If false, epochs and tokens mean nothing."""
    mixture: MixtureRecipe
    """The settings, as the section of a recipe would hold them."""


def request_without_text(inputs: RunTableInputs, observer: Observer) -> RequestWithoutText:
    """Make a mixing request from a run table or experts, and pass notices on.

    Raises:
        MissingEvidence: There are neither runs nor experts, or a file does not exist.
        RecipeError: An override is wrong, or one of supply and budget is missing.
        InputError: The supply cannot be read, or does not match the domains.
    """
    _check_inputs(inputs)
    settings, notices = parse_mixture_settings(inputs.overrides)
    experts = [] if inputs.experts is None else [inputs.experts]
    check_files([*inputs.runs, *experts])
    mixture = settings.mixture
    named = mixture.evidence or EvidenceRecipe()
    if with_fields(named, runs=None, experts=None, proxy=None) != named:
        raise RecipeError(
            "--set mixture.evidence: without a recipe, name runs and experts with --runs and "
            "--experts; the keys to set are far_runs, fill, absent_domains, "
            "became, alike and stage"
        )
    given = _supply_pairs(inputs.supply)
    today = {name: float(number) for name, number in given.items() if number}
    evidence = read_evidence_files([*inputs.runs], experts, named, today or None)
    assert evidence is not None, "there are runs or experts"
    names = _domains(evidence)
    options = MixtureOptions(
        temperature=mixture.temperature,
        measure=mixture.measure,
        search=search_options(mixture, settings.seed, kept_shares(mixture, Path(), names)),
        floors=mixture.floors,
        caps=mixture.caps,
    )
    weights = mixture.weights
    if isinstance(weights, str):
        raise RecipeError(
            f"--set mixture.weights={weights}: without a recipe, give shares by domain, as in "
            f"mixture.weights={{{names[0]}: 1}}"
        )
    if inputs.supply:
        tokens = _supply(given, names)
        names = tuple(name for name in names if tokens[name])  # one without text is gone
        caps = inputs.max_epochs
        budget = inputs.budget_tokens or 0
    else:
        tokens, caps, budget = _assumed_supply(evidence, names), math.inf, UNKNOWN_BUDGET
        notices.insert(
            0,
            "supply is unknown: no epochs are capped, and natural means the mean of the runs; "
            "set both with --supply and --budget",
        )
    domains = tuple(
        DomainSupply(name, tokens[name], caps, weight=(weights or {}).get(name)) for name in names
    )
    request = MixtureRequest(domains, budget, mixture.method, options, evidence)
    for notice in (*notices, *evidence.notices):
        observer.notice(notice)
    return RequestWithoutText(request, bool(inputs.supply), mixture)


def _check_inputs(inputs: RunTableInputs) -> None:
    """Check that there is evidence, and that supply and settings go together.

    Raises:
        MissingEvidence: There are neither runs nor experts.
        RecipeError: An override sets something else than the mixture, one of supply and budget is
            missing, or epochs are capped without supply.
    """
    if not inputs.runs and inputs.experts is None:
        raise MissingEvidence("mixture: name a RECIPE, or a table of runs: --runs runs.csv")
    if bool(inputs.supply) != (inputs.budget_tokens is not None):
        lacking = "--budget TOKENS" if inputs.supply else "--supply NAME=TOKENS for each domain"
        raise RecipeError(f"mixture: epochs need both supply and budget; add {lacking}")
    if not inputs.supply and inputs.max_epochs != 1.0:
        raise RecipeError(
            "mixture: --max-epochs caps nothing while supply is unknown; add --supply NAME=TOKENS "
            "for each domain and --budget TOKENS"
        )
    refused = [o for o in inputs.overrides if not o.startswith(("mixture.", "seed="))]
    if refused:
        raise RecipeError(
            f"--set {refused[0]}: without a recipe there are only mixture.… and seed to set"
        )


def _domains(evidence: Evidence) -> tuple[str, ...]:
    if evidence.runs is not None:
        return domains_of_stages(evidence.runs)
    assert evidence.experts is not None
    return evidence.experts.experts


def _assumed_supply(evidence: Evidence, names: Sequence[str]) -> dict[str, int]:
    """Set tokens in proportion to the mean mixture of the runs; equal for experts alone."""
    if evidence.runs is None:
        return dict.fromkeys(names, UNKNOWN_BUDGET // len(names))
    columns = stage_columns(evidence.runs)
    padded = np.append(evidence.runs.weights.mean(axis=0), 0.0)  # of what -1 stands for
    mean = padded[columns].sum(axis=0)
    return {
        name: max(1, round(share * UNKNOWN_BUDGET))
        for name, share in zip(names, mean.tolist(), strict=True)
    }


def _supply_pairs(texts: Sequence[str]) -> dict[str, int]:
    """Read tokens by domain; empty where nothing is given."""
    if len(texts) == 1 and "=" not in texts[0]:
        pairs = _supply_file(Path(texts[0]))
    else:
        pairs = [_pair(text) for text in texts]
    return {name: _tokens(name, number) for name, number in pairs}


def _supply(tokens: dict[str, int], names: Sequence[str]) -> dict[str, int]:
    """Check that there are tokens of exactly these domains."""
    unknown = [name for name in tokens if name not in names]
    absent = [name for name in names if name not in tokens]
    if unknown:
        raise InputError(
            f"--supply: the runs have no domain '{unknown[0]}'; theirs are {', '.join(names)}"
        )
    if absent:
        raise InputError(
            f"--supply: no tokens for {', '.join(absent)}; add {absent[0]}=TOKENS, 0 for none"
        )
    return tokens


def _pair(text: str) -> tuple[str, str]:
    name, equals, number = text.rpartition("=")
    if not equals:
        raise InputError(f"--supply {text}: expected NAME=TOKENS, or one CSV file")
    return name, number


def _supply_file(path: Path) -> list[tuple[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError) as error:
        unreadable = InputError(
            f"--supply {path}: cannot be read ({error}); expected NAME=TOKENS, or a CSV file with "
            "columns domain and tokens"
        )
        raise fault_or(unreadable, error, str(path)) from None
    if not rows or not {"domain", "tokens"} <= set(rows[0]):
        raise InputError(f"--supply {path}: expected columns domain and tokens, and a row a domain")
    return [(row["domain"], row["tokens"] or "") for row in rows]


def _tokens(name: str, text: str) -> int:
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise InputError(f"--supply: '{name}' has '{text}' tokens; expected a number such as 3e9")
    return int(number)


def mix_without_text(
    inputs: RunTableInputs, directory: Path | None, observer: Observer
) -> MixtureResult:
    """Derive a mixture from a run table or experts alone.

    Args:
        inputs: Runs or experts, supply and settings. Method `natural`, the default of recipes,
            becomes `joint` for runs and `mde` for experts.
        directory: Where to write `mixture.json`; None writes nothing.
        observer: Receives notices.

    Raises:
        CurateError: Any user-fixable error.
    """
    prepared = _with_method(request_without_text(inputs, observer), observer)
    request = prepared.request
    evidence = request.evidence or Evidence()
    fields = mix(request).to_json()
    if not prepared.supply_known:
        fields["epochs"] = dict.fromkeys(fields["epochs"])
    if directory is not None and holds_dataset(directory):
        observer.notice(
            f"{directory} holds a dataset: its mixture.json is kept, and nothing is written"
        )
    else:
        _write(directory, "mixture.json", fields, observer)
    for warning in fields["warnings"]:
        if warning not in evidence.notices:
            observer.notice(warning)
    supply = {d.name: d.supply_tokens if prepared.supply_known else None for d in request.domains}
    return MixtureResult(fields, supply)


def _with_method(prepared: RequestWithoutText, observer: Observer) -> RequestWithoutText:
    """Take the method for the evidence where none is named, and check the keys for it."""
    request = prepared.request
    evidence = request.evidence or Evidence()
    mixture = prepared.mixture
    if request.method == MixtureRecipe().method:
        if evidence.runs and evidence.runs.stages:
            mixture = with_fields(mixture, law="staged")
            search = replace(request.options.search, law="staged")
            options = replace(request.options, search=search)
            request = replace(request, method="law", options=options)
            observer.notice("method: law, with law staged; --method takes another")
        else:
            request = replace(request, method="joint" if evidence.runs else "mde")
            observer.notice(f"method: {request.method}; --method takes another")
    named = with_fields(
        prepared.mixture.evidence or EvidenceRecipe(),
        runs=None if evidence.runs is None else "--runs",
        experts=None if evidence.experts is None else "--experts",
    )
    method = METHODS.find(request.method, "mixture.method")
    check_keys(with_fields(mixture, method=method.name, evidence=named), method)
    return replace(prepared, request=request, mixture=mixture)


def front_without_text(
    inputs: RunTableInputs,
    directory: Path | None,
    groups: Sequence[str],
    points: int,
    observer: Observer,
) -> FrontResult:
    """Trace the front of some groups of targets from a run table or experts alone.

    Args:
        inputs: Runs or experts, supply and settings; the method as for `mix_without_text`.
        directory: Where to write `front.json`; None writes nothing.
        groups: Names of groups of the settings, or names and patterns of targets.
        points: Most points between two groups.
        observer: Receives notices.

    Raises:
        CurateError: Any user-fixable error.
    """
    request = _with_method(request_without_text(inputs, observer), observer).request
    fields = front(request, groups, points)
    _write(directory, "front.json", fields, observer)
    for warning in fields["warnings"]:
        if request.evidence is None or warning not in request.evidence.notices:
            observer.notice(warning)
    return FrontResult(fields)


def compare_without_text(
    inputs: RunTableInputs,
    directory: Path | None,
    workers: int,
    observer: Observer,
    methods: Sequence[str] = (),
) -> MethodsResult:
    """Derive the mixtures of methods that a run table or experts allow.

    Args:
        inputs: Runs or experts, supply and settings.
        directory: Where to write `mixtures.json`; None writes nothing.
        workers: Number of processes.
        observer: Receives notices, one as each method ends.
        methods: Names of methods; empty for all.

    Raises:
        CurateError: Any user-fixable error.
    """
    names = select_methods(methods)
    prepared = request_without_text(inputs, observer)
    kept = None if directory is None else KeptContenders(directory, _fingerprint(inputs))
    comparison = compare_mixtures(
        every_method(prepared.request, names),
        workers,
        lambda ended: observer.notice(ended.line),
        kept,
        observer.notice,
    )
    if not prepared.supply_known:
        comparison["budget_tokens"] = None
        for row in comparison["mixtures"].values():
            row["max_epochs"], row["epochs"] = None, dict.fromkeys(row["epochs"])
            row["tv_natural"] = None
    _write(directory, "mixtures.json", comparison, observer)
    if kept is not None:
        kept.clear()
    return MethodsResult(comparison)


def _fingerprint(inputs: RunTableInputs) -> list[Any]:
    """Return everything that mixtures without text depend on, as JSON."""
    files = [*inputs.runs, *([] if inputs.experts is None else [inputs.experts])]
    supply = [hash_file(Path(text)) if "=" not in text else text for text in inputs.supply]
    return [
        __version__, [hash_file(path) for path in files], len(inputs.runs), supply,
        inputs.budget_tokens, inputs.max_epochs, inputs.overrides,
    ]  # fmt: skip


def _write(directory: Path | None, name: str, fields: dict[str, Any], observer: Observer) -> None:
    if directory is None:
        return
    directory.mkdir(parents=True, exist_ok=True)
    origin = {"schema": 1, "curate_version": __version__}
    write_artifact(directory / name, {**origin, **fields}, observer)
