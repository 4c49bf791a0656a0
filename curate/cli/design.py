"""The command that proposes training runs."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import Any

import click

from curate.cli.loose import Loose, recipe_or_runs_command, wants_runs
from curate.cli.session import Session


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
    import numpy as np
    from rich.table import Table

    from curate.ingest import ingest
    from curate.mixture.design import design as propose
    from curate.mixture.design import runs_needed
    from curate.mixture.wishes import wishes
    from curate.planning import mixture_request
    from curate.storage import atomic_path

    session: Session | Loose
    if wants_runs(options):
        session = Loose(options)
        request, directory = session.found.request, session.directory
    else:
        session = Session(options)
        loaded = session.loaded
        request = mixture_request(loaded, ingest(loaded, session.workers, session.observer))
        directory = loaded.output_dir
    names = [domain.name for domain in request.domains]
    mean = replace(request.options, search=replace(request.options.search, objective="mean"))
    box = wishes(replace(request, options=mean), names, names, "domains").box
    trained = np.empty((0, len(names)))
    runs = request.evidence.runs if request.evidence else None
    if runs is not None:
        trained = runs.weights[:, wishes(request, runs.domains, runs.targets, "runs").place]
        trained = trained / np.maximum(trained.sum(axis=1, keepdims=True), 1e-12)
    lacking = runs_needed(len(names)) - len(np.unique(np.round(trained, 6), axis=0))
    found = propose(request, box, trained, strategy, count or max(lacking, 1))
    path = directory / "design.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = [f"{strategy}-{found.existing + i:04d}" for i in range(len(found.mixtures))]
    shares = found.mixtures.tolist()
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *(f"w_{name}" for name in names)])
        writer.writerows([label, *row] for label, row in zip(labels, shares, strict=True))
    session.observer.notice(
        f"{len(names)} domains need {found.needed} runs, 3 (domains + 1); there are "
        f"{found.existing}, and {len(labels)} in {path}"
    )
    result = {
        "strategy": strategy, "needed": found.needed, "existing": found.existing,
        "runs": {
            label: dict(zip(names, row, strict=True))
            for label, row in zip(labels, shares, strict=True)
        },
    }  # fmt: skip

    def table() -> Table:
        shown = Table(title="mixtures to train, shares in %", title_justify="left")
        for heading in ("run", *names):
            shown.add_column(heading.replace("[", "\\["), justify="right")
        for label, row in zip(labels, shares, strict=True):
            shown.add_row(label, *(f"{100 * share:.1f}" for share in row))
        return shown

    session.show(result, table)
