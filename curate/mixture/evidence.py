"""Reads what a recipe names as evidence, and puts its settings into the methods' words."""

from __future__ import annotations

from pathlib import Path

import xxhash

from curate.errors import MissingEvidence
from curate.mixture.base import Evidence, SearchOptions
from curate.recipe import LoadedRecipe, MixtureRecipe
from curate.storage import hash_json


def evidence_paths(loaded: LoadedRecipe) -> list[Path]:
    """The files of the recipe's evidence, runs first.

    Raises:
        MissingEvidence: One of them is not there.
    """
    evidence = loaded.recipe.mixture.evidence
    if evidence is None:
        return []
    runs = [evidence.runs] if isinstance(evidence.runs, str) else evidence.runs or []
    paths = [loaded.base / name for name in [*runs, evidence.experts] if name]
    for path in paths:
        if not path.is_file():
            raise MissingEvidence(
                f"mixture.evidence: {path} is not there; `curate proxy RECIPE` makes run tables, "
                "`curate experts RECIPE` log-probabilities"
            )
    return paths


def evidence_hash(loaded: LoadedRecipe) -> str | None:
    """Hash of the content of the evidence; None where the recipe names none."""
    paths = evidence_paths(loaded)
    if not paths:
        return None
    return hash_json([xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in paths])


def read_evidence(loaded: LoadedRecipe) -> Evidence | None:
    """Read the recipe's evidence; None where it names none.

    Raises:
        MissingEvidence: A file is not there.
        FitError: The run table is wrong.
        InputError: The experts' file is wrong.
    """
    named = loaded.recipe.mixture.evidence
    paths = evidence_paths(loaded)
    if named is None or not paths:
        return None
    runs, experts = None, None
    notices: tuple[str, ...] = ()
    if named.runs:
        from curate.laws.tables import read_runs

        runs, notices = read_runs(paths[:-1] if named.experts else paths)
    if named.experts:
        from curate.laws.likelihoods import read_likelihoods

        experts = read_likelihoods(paths[-1])
    return Evidence(runs, experts, notices)


def search_options(mixture: MixtureRecipe, seed: int) -> SearchOptions:
    """The recipe's settings of the methods that optimise."""
    asked = mixture.objective
    objective: str | dict[str, float]
    if isinstance(asked, str):
        objective = asked
    else:
        objective = {asked.target: 1.0} if asked.target else dict(asked.weights or {})
    return SearchOptions(
        objective=objective,
        law=mixture.law,
        at_tokens=mixture.at_tokens,
        at_params=mixture.at_params,
        kl=mixture.kl,
        prior=mixture.prior,
        floors=mixture.floors,
        trust_region=mixture.trust_region,
        replicates=mixture.replicates,
        discount_repeats=mixture.discount_repeats,
        level=mixture.level,
        seed=seed,
    )
