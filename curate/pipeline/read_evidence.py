"""Read the evidence that a recipe names, and collect its settings for the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from curate.errors import MissingEvidence, RecipeError
from curate.mixture import METHODS
from curate.mixture.request import Evidence, SearchOptions
from curate.pipeline.domain_lineage import whereabouts
from curate.recipe import EvidenceRecipe, LoadedRecipe, MixtureRecipe, ObjectiveRecipe
from curate.runtime.files import hash_file, hash_json
from curate.tokens.domain import DomainTokens

if TYPE_CHECKING:  # laws take half a second to import
    from curate.laws.law import RunTable
    from curate.laws.run_tables.alike import Groups

MADE = {"runs": "runs.csv", "experts": "experts.parquet"}
"""Evidence that `mixture.evidence.proxy` can make, and its file in the output directory."""


def made_by_proxies(loaded: LoadedRecipe) -> Literal["runs", "experts"] | None:
    """Return the kind of evidence that the recipe leaves to proxies to make, if any."""
    named = loaded.recipe.mixture.evidence
    kind = METHODS.find(loaded.recipe.mixture.method, "mixture.method").evidence
    if named is None or named.proxy is None or kind is None or getattr(named, kind):
        return None
    return kind


def evidence_paths(loaded: LoadedRecipe) -> list[Path]:
    """List the files of the recipe's evidence, runs first; those of proxies once they exist.

    Raises:
        MissingEvidence: A file that the recipe names does not exist.
    """
    runs, experts = _paths(loaded)
    return [*runs, *experts]


def _paths(loaded: LoadedRecipe) -> tuple[list[Path], list[Path]]:
    """Return the files of runs, and those of experts."""
    evidence = loaded.recipe.mixture.evidence
    if evidence is None:
        return [], []
    named = [evidence.runs] if isinstance(evidence.runs, str) else evidence.runs or []
    runs = [loaded.base / name for name in named]
    experts = [loaded.base / evidence.experts] if evidence.experts else []
    check_files([*runs, *experts])
    kind = made_by_proxies(loaded)
    if kind is not None:
        made = loaded.output_dir / MADE[kind]
        (runs if kind == "runs" else experts).extend([made] if made.is_file() else [])
    return runs, experts


def check_files(paths: list[Path]) -> None:
    """Check that every file of evidence exists.

    Raises:
        MissingEvidence: A file does not exist.
    """
    for path in paths:
        if not path.is_file():
            raise MissingEvidence(
                f"mixture.evidence: {path} does not exist; `curate proxy RECIPE` makes run tables, "
                "`curate experts RECIPE` log-probabilities, and mixture: {evidence: {proxy: "
                "{preset: nano, runs: 16}}} either of them when needed"
            )


def evidence_hash(loaded: LoadedRecipe) -> str | None:
    """Hash the content of the evidence; None where the recipe names none."""
    paths = evidence_paths(loaded)
    if not paths:
        return None
    return hash_json([hash_file(path) for path in paths])


def read_evidence(
    loaded: LoadedRecipe,
    supply: Mapping[str, float] | None = None,
    domains: Sequence[DomainTokens] = (),
) -> Evidence | None:
    """Read the recipe's evidence; None where it names none.

    Args:
        loaded: The recipe.
        supply: Tokens of each of its domains, to which runs are carried over; None: unknown.
        domains: Its tokenised domains, in which the documents of earlier domains are looked up;
            empty: domains are known by name only.

    Raises:
        MissingEvidence: A file does not exist.
        FitError: The run table is wrong.
        InputError: The experts' file is wrong.
    """
    named = loaded.recipe.mixture.evidence or EvidenceRecipe()
    return read_evidence_files(*_paths(loaded), named, supply, domains)


def read_evidence_files(
    run_paths: list[Path],
    expert_paths: list[Path],
    named: EvidenceRecipe,
    supply: Mapping[str, float] | None = None,
    domains: Sequence[DomainTokens] = (),
) -> Evidence | None:
    """Read run tables and experts' log-probabilities; None where there is neither.

    Args:
        run_paths: Files of run tables; may be empty.
        expert_paths: At most one file.
        named: How runs are read: `far_runs`, `fill`, `absent_domains`, `became`, `alike` and
            `stage`.
        supply: Tokens of each domain of today, to which runs are carried over; None: unknown.
        domains: The tokenised domains of today; empty where there are none at hand.

    Raises:
        FitError: The run table is wrong.
        RecipeError: Parts of a domain have neither shares nor a supply.
        InputError: The experts' file is wrong.
    """
    if not run_paths and not expert_paths:
        return None
    runs, experts = None, None
    notices: tuple[str, ...] = ()
    if run_paths:
        from curate.laws.run_tables.join import Joining
        from curate.laws.run_tables.lineage import shares_of_parts, today
        from curate.laws.run_tables.read import read_runs

        became = shares_of_parts(named.became, supply)
        places = {path: whereabouts(path, domains, became) for path in run_paths if domains}
        known_content = {path: place for path, place in places.items() if place is not None}
        absent = named.absent_domains
        if known_content and len(known_content) == len(run_paths):
            absent = "zero"  # what no run drew from is known by its documents
        learnt = {path: place.became for path, place in known_content.items()}
        joining = Joining(named.fill, absent, became, named.stage, learnt)
        runs, notices = read_runs(run_paths, far_runs=named.far_runs, joining=joining)
        if supply is not None:
            every = [became, *learnt.values()]
            runs, more = today(runs, tuple(supply), every, absent)
            of_content = [said for place in known_content.values() for said in place.notices]
            notices = (*of_content, *notices, *more)
        runs = _with_likeness(runs, named.alike, domains)
    if expert_paths:
        from curate.laws.likelihoods import read_likelihoods

        experts = read_likelihoods(expert_paths[0])
    return Evidence(runs, experts, notices, named.stage)


def _with_likeness(
    runs: RunTable, alike: str | Groups | None, domains: Sequence[DomainTokens]
) -> RunTable:
    """Add the likeness of the domains of runs, where the recipe asks for it.

    Args:
        runs: The runs, on the domains of today.
        alike: The recipe's key.
        domains: The tokenised domains of today; empty where there are none at hand.

    Raises:
        RecipeError: There is no text to compare, or a pattern matches no domain.
    """
    if alike is None or runs.stages:
        return runs
    from curate.laws.run_tables.alike import likeness_of_distances, likeness_of_groups

    if not isinstance(alike, str):
        groups = likeness_of_groups(alike, runs.domains, "mixture.evidence.alike")
        return replace(runs, alike=groups)
    if not domains:
        raise RecipeError(
            "mixture.evidence.alike: tokens compares texts, and without a recipe there are none; "
            "name groups, as in alike: {code: [python, java]}"
        )
    from curate.pipeline.text_likeness import divergences

    return replace(runs, alike=likeness_of_distances(divergences(runs.domains, domains)))


def search_options(
    mixture: MixtureRecipe, seed: int, keep: Mapping[str, float] | None = None
) -> SearchOptions:
    """Collect the recipe's settings of the methods that optimise.

    Args:
        mixture: The settings.
        seed: Seed of the search.
        keep: Relative shares of the domains that keep their proportions, as `kept_shares` returns
            them.
    """
    goal = mixture.objective
    parts = ObjectiveRecipe() if isinstance(goal, str) else goal
    objective: str | dict[str, float] = goal if isinstance(goal, str) else parts.weights or "mean"
    return SearchOptions(
        objective={parts.target: 1.0} if parts.target else objective,
        groups={
            name: (members,) if isinstance(members, str) else tuple(members)
            for name, members in (parts.groups or {}).items()
        },
        against=parts.against,
        law=mixture.law,
        at_tokens=mixture.at_tokens,
        at_params=mixture.at_params,
        kl=mixture.kl,
        prior=mixture.prior,
        keep=keep,
        trust_region=mixture.trust_region,
        replicates=mixture.replicates,
        discount_repeats=mixture.discount_repeats,
        level=mixture.level,
        seed=seed,
    )
