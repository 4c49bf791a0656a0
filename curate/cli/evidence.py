"""The commands that turn training runs into evidence for a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate import __version__
from curate.cli.session import Screen

if TYPE_CHECKING:
    from curate.laws import Law, RunTable


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--laws", default="all", show_default=True, help="Names with commas, or all.")
@click.option("--folds", default=5, show_default=True, help="Of the cross-validation by mixture.")
@click.option(
    "--experts",
    type=click.Path(path_type=Path),
    help="Log-probabilities of an expert a domain: adds regressions with and without them.",
)
@click.option("--targets", help="Losses to fit, names with commas; default: every one.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="Where fit.json goes.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: the cores.")
@click.option("--json", "as_json", is_flag=True, help="Print fit.json instead of a table.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def fit(runs: tuple[Path, ...], laws: str, folds: int, **options: Any) -> None:
    """Fit laws to a run table and compare them on mixtures they have not seen.

    RUNS is a runs.csv, or two files: mixtures (ratios.csv) and losses (metrics.csv).
    """
    from curate.laws import LAWS
    from curate.laws.crossval import cross_validate
    from curate.laws.run_tables.read import read_runs
    from curate.report.laws import law_table, problems
    from curate.runtime.files import hash_file, write_json
    from curate.runtime.workers import default_workers

    screen = Screen(options["as_json"], options["quiet"])
    targets = options["targets"].split(",") if options["targets"] else None
    table, notices = read_runs(runs, targets)
    for notice in notices:
        screen.observer.notice(notice)
    names = list(LAWS) if laws == "all" else laws.split(",")
    chosen: list[str | Law] = [*names, *_with_experts(options["experts"], table)]
    found = cross_validate(table, chosen, folds, options["workers"] or default_workers())
    result = {
        "schema": 1,
        "curate_version": __version__,
        "inputs": {str(path): hash_file(path) for path in (*runs, options["experts"]) if path},
        "notices": list(notices),
        "table": {
            "rows": len(table.runs),
            "runs": len(set(table.runs)),
            "domains": list(table.domains),
            "targets": list(table.targets),
        },
        **found.to_json(),
    }
    options["out"].mkdir(parents=True, exist_ok=True)
    write_json(options["out"] / "fit.json", result)
    for problem in problems(result):
        screen.observer.notice(f"left out: {problem}")
    screen.show(result, lambda: law_table(result))
    if screen.console is not None:
        screen.console.print(_noise_line(result["seed_noise"]), highlight=False)


def _with_experts(path: Path | None, table: RunTable) -> list[Law]:
    """Every regression that can take experts' losses, each with them and without."""
    if path is None:
        return []
    from curate.laws.forms.expert_regression import INFORMED, ablated, informed
    from curate.laws.likelihoods import read_likelihoods
    from curate.mixture.methods.expert_features import expert_features

    experts = expert_features(read_likelihoods(path), table.domains)
    return [law for name in INFORMED for law in (informed(name, experts), ablated(name))]


def _noise_line(noise: dict[str, Any]) -> str:
    if not noise["groups"]:
        return "no mixture was run twice, so seed noise is unknown; = : ties by paired errors alone"
    spread = noise["relative_of_mean"]
    return (
        f"seed noise, {noise['groups']} mixtures run more than once: {spread * 100:.3f} % of the "
        "mean loss; = : cannot be told from the best"
    )
