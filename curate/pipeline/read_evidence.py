"""Reads what a recipe names as evidence, and puts its settings into the methods' words."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from curate.errors import MissingEvidence
from curate.mixture import find
from curate.mixture.request import Evidence, SearchOptions
from curate.recipe import LoadedRecipe, MixtureRecipe
from curate.runtime.files import hash_file, hash_json

MADE = {"runs": "runs.csv", "experts": "experts.parquet"}
"""What `mixture.evidence.proxy` makes, and its file in the output directory."""


def made_by_proxies(loaded: LoadedRecipe) -> Literal["runs", "experts"] | None:
    """What the recipe's method needs, no file gives and `mixture.evidence.proxy` is to make."""
    named, kind = loaded.recipe.mixture.evidence, find(loaded.recipe.mixture.method).evidence
    if named is None or named.proxy is None or kind is None or getattr(named, kind):
        return None
    return kind


def evidence_paths(loaded: LoadedRecipe) -> list[Path]:
    """The files of the recipe's evidence, runs first; of what proxies make, as far as it is made.

    Raises:
        MissingEvidence: One that the recipe names is not there.
    """
    runs, experts = _paths(loaded)
    return [*runs, *experts]


def _paths(loaded: LoadedRecipe) -> tuple[list[Path], list[Path]]:
    """Files of runs, and of experts."""
    evidence = loaded.recipe.mixture.evidence
    if evidence is None:
        return [], []
    named = [evidence.runs] if isinstance(evidence.runs, str) else evidence.runs or []
    runs = [loaded.base / name for name in named]
    experts = [loaded.base / evidence.experts] if evidence.experts else []
    for path in [*runs, *experts]:
        if not path.is_file():
            raise MissingEvidence(
                f"mixture.evidence: {path} is not there; `curate proxy RECIPE` makes run tables, "
                "`curate experts RECIPE` log-probabilities, and mixture: {evidence: {proxy: "
                "{preset: nano, runs: 16}}} either of them as needed"
            )
    kind = made_by_proxies(loaded)
    if kind is not None:
        made = loaded.output_dir / MADE[kind]
        (runs if kind == "runs" else experts).extend([made] if made.is_file() else [])
    return runs, experts


def evidence_hash(loaded: LoadedRecipe) -> str | None:
    """Hash of the content of the evidence; None where the recipe names none."""
    paths = evidence_paths(loaded)
    if not paths:
        return None
    return hash_json([hash_file(path) for path in paths])


def read_evidence(loaded: LoadedRecipe) -> Evidence | None:
    """Read the recipe's evidence; None where it names none.

    Raises:
        MissingEvidence: A file is not there.
        FitError: The run table is wrong.
        InputError: The experts' file is wrong.
    """
    run_paths, expert_paths = _paths(loaded)
    if not run_paths and not expert_paths:
        return None
    runs, experts = None, None
    notices: tuple[str, ...] = ()
    if run_paths:
        from curate.laws.run_tables.read import read_runs

        runs, notices = read_runs(run_paths)
    if expert_paths:
        from curate.laws.likelihoods import read_likelihoods

        experts = read_likelihoods(expert_paths[0])
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
