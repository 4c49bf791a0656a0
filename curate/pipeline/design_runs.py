"""Write proposed training runs as `design.csv` and as JSON."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from curate.mixture.design import Design
from curate.runtime.files import atomic_path


def write_design(design: Design, path: Path) -> None:
    """Write one row for each run, with weights in columns named as in `runs.csv`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *(f"w_{name}" for name in design.domains)])
        writer.writerows([label, *shares] for label, shares in design.runs().items())


def design_json(design: Design) -> dict[str, Any]:
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
