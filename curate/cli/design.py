"""The command that proposes training runs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli.session import Session
from curate.cli.without_recipe import Loose, recipe_or_runs_command, wants_runs

if TYPE_CHECKING:
    from rich.table import Table

    from curate.mixture.design import Design


@click.command()
@click.option("-n", "count", type=click.IntRange(1), help="Mixtures; default: what is lacking.")
@click.option(
    "--strategy", default="filling", show_default=True,
    help="dirichlet, entropy, filling or determinant.",
)  # fmt: skip
@recipe_or_runs_command
def design(count: int | None, strategy: str, **options: Any) -> None:
    """Propose the next mixtures to train, within supply.

    Without RECIPE, for the domains of --runs.
    """
    from curate.mixture.design import next_runs
    from curate.pipeline.plan import mixture_request
    from curate.pipeline.tokenize import tokenize_domains

    session: Session | Loose
    if wants_runs(options):
        session = Loose(options)
        request, directory = session.found.request, session.directory
    else:
        session = Session(options)
        loaded = session.loaded
        request = mixture_request(
            loaded, tokenize_domains(loaded, session.workers, session.observer)
        )
        directory = loaded.output_dir
    found = next_runs(request, strategy, count)
    path = directory / "design.csv"
    _write(found, path)
    session.observer.notice(
        f"{len(found.domains)} domains need {found.needed} runs, 3 (domains + 1); there are "
        f"{found.existing}, and {len(found.mixtures)} in {path}"
    )
    runs = {
        label: dict(zip(found.domains, shares, strict=True))
        for label, shares in found.runs().items()
    }
    result = {
        "strategy": strategy, "needed": found.needed, "existing": found.existing, "runs": runs,
    }  # fmt: skip
    session.show(result, lambda: _table(found))


def _write(found: Design, path: Path) -> None:
    """Write `design.csv`: a run a row, as `runs.csv` has its weights."""
    from curate.runtime.files import atomic_path

    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *(f"w_{name}" for name in found.domains)])
        writer.writerows([label, *shares] for label, shares in found.runs().items())


def _table(found: Design) -> Table:
    from rich.table import Table

    shown = Table(title="mixtures to train, shares in %", title_justify="left")
    for heading in ("run", *found.domains):
        shown.add_column(heading.replace("[", "\\["), justify="right")
    for label, shares in found.runs().items():
        shown.add_row(label, *(f"{100 * share:.1f}" for share in shares))
    return shown
