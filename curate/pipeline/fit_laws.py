"""Fit laws to a run table and compare them on mixtures that they have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from curate import __version__
from curate.laws import LAWS, Law, RunTable
from curate.laws.crossval import CrossValidation, cross_validate
from curate.laws.law import domains_of_stages
from curate.laws.run_groups import GroupComparison, compare_groups
from curate.laws.run_tables.alike import Groups, likeness_of_groups
from curate.laws.run_tables.join import Joining
from curate.laws.run_tables.lineage import today
from curate.laws.run_tables.read import read_runs
from curate.mixture.methods.law_reuse import few_of_today
from curate.recipe import FarRuns
from curate.report.laws import problems
from curate.runtime.files import hash_file
from curate.runtime.progress import Observer, write_artifact


@dataclass(frozen=True, slots=True)
class FitInputs:
    """Tables to read and laws to fit."""

    runs: tuple[Path, ...]
    """Files of run tables, see `curate.laws.run_tables.join.table_files`."""
    laws: tuple[str, ...] | None = None
    """Names of laws; None for all."""
    folds: int = 5
    """Folds of the cross-validation over mixtures."""
    experts: Path | None = None
    """Log-probabilities of one expert for each domain; adds regressions with and without them."""
    targets: tuple[str, ...] | None = None
    """Losses to fit; None for every one."""
    far_runs: FarRuns = "leave_out"
    """Whether runs that all the others contradict take part."""
    joining: Joining = field(default_factory=Joining)
    """Numbers and rules for several tables, which these do not hold."""
    alike: Groups | None = None
    """Groups of domains of similar text, for law `joint`."""


def fit_laws(
    inputs: FitInputs, directory: Path | None, workers: int, observer: Observer
) -> dict[str, Any]:
    """Fit and compare laws.

    Args:
        inputs: Tables to read and laws to fit.
        directory: Where to write `fit.json`; None writes nothing.
        workers: Number of processes.
        observer: Receives notices of the tables, and of laws that could not be fitted.

    Returns:
        The fields of `fit.json`.

    Raises:
        FitError: A table is wrong, or a law is unknown.
        InputError: The experts' file is wrong.
    """
    table, notices = read_runs(inputs.runs, inputs.targets, inputs.far_runs, inputs.joining)
    became = inputs.joining.became
    if became:
        _, said = today(table, domains_of_stages(table), [became], "refuse")
        notices = (*notices, *said)
    notices = (*notices, *few_of_today(table, len(domains_of_stages(table))))
    if inputs.alike:
        table = replace(table, alike=likeness_of_groups(inputs.alike, table.domains, "--alike"))
    for notice in notices:
        observer.notice(notice)
    names = LAWS if inputs.laws is None else inputs.laws
    laws: list[str | Law] = [*names, *_with_experts(inputs.experts, table)]
    comparison = cross_validate(table, laws, inputs.folds, workers)
    groups = _compare_groups(table, laws, comparison, workers)
    files = [*inputs.runs, *([] if inputs.experts is None else [inputs.experts])]
    fields = {
        "schema": 1,
        "curate_version": __version__,
        "inputs": {str(path): hash_file(path) for path in files},
        "notices": list(notices),
        "table": {
            "rows": len(table.runs),
            "runs": len(set(table.runs)),
            "domains": list(table.domains),
            "targets": list(table.targets),
            "unit": table.unit,
        },
        **comparison.to_json(),
        "groups": groups.to_json(table),
    }
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        write_artifact(directory / "fit.json", fields, observer)
    for problem in problems(fields):
        observer.notice(f"left out: {problem}")
    if groups.note:
        observer.notice(groups.note)
    return fields


def _compare_groups(
    table: RunTable, laws: Sequence[str | Law], comparison: CrossValidation, workers: int
) -> GroupComparison:
    """Measure what each size and length adds, with the best law that is quick enough."""
    by_name = {
        law.name: law for law in (LAWS[law] if isinstance(law, str) else law for law in laws)
    }
    fits = comparison.folds + 1
    ranked = [
        (by_name[row.law], row.seconds / fits)
        for row in comparison.comparisons
        if row.law in by_name and row.unseen is not None and row.beats_dummies
    ]
    return compare_groups(table, ranked, comparison.folds, workers)


def _with_experts(path: Path | None, table: RunTable) -> list[Law]:
    """Make each regression that can take experts' losses, once with them and once without."""
    if path is None:
        return []
    from curate.laws.forms.expert_regression import INFORMED, ablated, informed
    from curate.laws.likelihoods import read_likelihoods
    from curate.mixture.methods.expert_features import expert_features

    experts = expert_features(read_likelihoods(path), table.domains)
    return [law for name in INFORMED for law in (informed(name, experts), ablated(name))]
