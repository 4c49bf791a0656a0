"""Propose training runs, and write them as `design.csv` and as JSON."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from curate.mixture import MixtureRequest
from curate.mixture.design import Design, next_runs
from curate.pipeline.results import DesignResult
from curate.runtime.files import atomic_path
from curate.runtime.progress import Observer


def design_runs(
    request: MixtureRequest,
    strategy: str,
    count: int | None,
    directory: Path | None,
    observer: Observer,
) -> DesignResult:
    """Propose the next mixtures to train.

    Args:
        request: Supply, budget, and the runs that exist.
        strategy: Name of a strategy of `curate.mixture.design`.
        count: Number of mixtures; None for as many as the domains still need.
        directory: Where to write `design.csv`; None writes nothing.
        observer: Receives a notice of how many runs are needed.

    Raises:
        CurateError: Any user-fixable error.
    """
    design = next_runs(request, strategy, count)
    path = None if directory is None else directory / "design.csv"
    where = ""
    if path is not None:
        _write_csv(design, path)
        where = f" in {path}"
    observer.notice(
        f"{len(design.domains)} domains need {design.needed} runs, 3 (domains + 1); there are "
        f"{design.existing}, and {len(design.mixtures)}{where}"
    )
    return DesignResult(_json(design), path)


def _write_csv(design: Design, path: Path) -> None:
    """Write one row for each run, with weights in columns named as in `runs.csv`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *(f"w_{name}" for name in design.domains)])
        writer.writerows([label, *shares] for label, shares in design.runs().items())


def _json(design: Design) -> dict[str, Any]:
    """Return the fields that `curate design --json` prints."""
    return {
        "strategy": design.strategy,
        "needed": design.needed,
        "existing": design.existing,
        "runs": {
            label: dict(zip(design.domains, shares, strict=True))
            for label, shares in design.runs().items()
        },
    }
