"""A mixture's request from run tables or experts alone, without text: supply is told, or unknown.

Where nothing is said of supply there are no epochs to cap, and the natural mixture, which a method
may take as a prior, is the mean of the runs.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.errors import InputError, MissingEvidence, RecipeError
from curate.mixture.request import DomainSupply, Evidence, MixtureOptions, MixtureRequest
from curate.pipeline.read_evidence import read_evidence, search_options
from curate.recipe import LoadedRecipe, parse

UNKNOWN_BUDGET = 10**9
"""Tokens that stand for any budget where supply is unknown; only shares are then told."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line says instead of a recipe."""

    runs: tuple[Path, ...] = ()
    """A run table, or a file of mixtures and one of losses."""
    experts: Path | None = None
    supply: tuple[str, ...] = ()
    """`NAME=TOKENS` each, or the path of one CSV file with columns domain and tokens."""
    budget_tokens: int | None = None
    max_epochs: float = 1.0
    overrides: tuple[str, ...] = ()
    """Of the recipe's keys below `mixture`, and `seed`, as for `--set`."""


@dataclass(frozen=True, slots=True)
class Standalone:
    """A request, and what must be said of it."""

    request: MixtureRequest
    supply_known: bool
    """False: epochs and tokens mean nothing."""
    notices: tuple[str, ...]


def standalone(asked: Asked) -> Standalone:
    """Make a request of what was asked.

    Raises:
        MissingEvidence: There are neither runs nor experts, or a file is not there.
        RecipeError: An override is wrong, or supply and budget do not belong together.
        InputError: The supply cannot be read, or does not fit the domains.
    """
    if not asked.runs and asked.experts is None:
        raise MissingEvidence("mixture: name a RECIPE, or a table of runs: --runs runs.csv")
    if bool(asked.supply) != (asked.budget_tokens is not None):
        lacking = "--budget TOKENS" if asked.supply else "--supply NAME=TOKENS for each domain"
        raise RecipeError(f"mixture: epochs need both supply and budget; add {lacking}")
    loaded = _settings(asked)
    evidence = read_evidence(loaded)
    assert evidence is not None, "there are runs or experts"
    names = _domains(evidence)
    mixture = loaded.recipe.mixture
    options = MixtureOptions(
        mixture.temperature, search=search_options(mixture, loaded.recipe.seed)
    )
    notices: tuple[str, ...] = ()
    if asked.supply:
        tokens = _supply(asked.supply, names)
        caps = asked.max_epochs
        budget = asked.budget_tokens or 0
    else:
        tokens, caps, budget = _unknown(evidence, names), math.inf, UNKNOWN_BUDGET
        notices = (
            "supply is unknown: no epochs are capped, and natural means the mean of the runs; "
            "--supply and --budget tell it",
        )
    domains = tuple(DomainSupply(name, tokens[name], caps) for name in names)
    request = MixtureRequest(domains, budget, mixture.method, options, evidence)
    return Standalone(request, bool(asked.supply), (*notices, *loaded.notices))


def _settings(asked: Asked) -> LoadedRecipe:
    """Settings below `mixture`, checked as a recipe's are; its domains play no part."""
    refused = [o for o in asked.overrides if not o.startswith(("mixture.", "seed="))]
    if refused:
        raise RecipeError(
            f"--set {refused[0]}: without a recipe there are only mixture.… and seed to set"
        )
    evidence = {
        "runs": [str(path.resolve()) for path in asked.runs] or None,
        "experts": None if asked.experts is None else str(asked.experts.resolve()),
    }
    text = {
        "name": "standalone",
        "tokenizer": {"path": "none", "eos": None},
        "domains": [{"name": "none", "paths": "none"}],
        "budget_tokens": 1,
        "mixture": {"evidence": {key: value for key, value in evidence.items() if value}},
    }
    return parse(json.dumps(text), Path(), asked.overrides, "--set")


def _domains(evidence: Evidence) -> tuple[str, ...]:
    if evidence.runs is not None:
        return evidence.runs.domains
    assert evidence.experts is not None
    return evidence.experts.experts


def _unknown(evidence: Evidence, names: Sequence[str]) -> dict[str, int]:
    """Tokens in proportion to the mean mixture of the runs; equal for experts alone."""
    if evidence.runs is None:
        return dict.fromkeys(names, UNKNOWN_BUDGET // len(names))
    mean = evidence.runs.weights.mean(axis=0)
    return {
        name: max(1, round(share * UNKNOWN_BUDGET))
        for name, share in zip(names, mean.tolist(), strict=True)
    }


def _supply(told: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Tokens by domain."""
    if len(told) == 1 and "=" not in told[0]:
        pairs = _file(Path(told[0]))
    else:
        pairs = [_pair(text) for text in told]
    tokens = {name: _tokens(name, number) for name, number in pairs}
    unknown = [name for name in tokens if name not in names]
    absent = [name for name in names if name not in tokens]
    if unknown:
        raise InputError(
            f"--supply: the runs know no domain '{unknown[0]}' (they know {', '.join(names)})"
        )
    if absent:
        raise InputError(
            f"--supply: nothing is said of {', '.join(absent)}; add {absent[0]}=TOKENS, 0 for none"
        )
    return tokens


def _pair(text: str) -> tuple[str, str]:
    name, equals, number = text.rpartition("=")
    if not equals:
        raise InputError(f"--supply {text}: expected NAME=TOKENS, or one CSV file")
    return name, number


def _file(path: Path) -> list[tuple[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--supply {path}: cannot be read ({error}); expected NAME=TOKENS, or a CSV file with "
            "columns domain and tokens"
        ) from None
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
