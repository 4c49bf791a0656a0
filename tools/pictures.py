"""Make the pictures of the documentation again, from the embedded corpus.

`python tools/pictures.py` builds a dataset, measures it, trains 20 small models and the rivals, and
writes the figures to `docs/_static/pictures`. It needs the extras `plots`, `proxy` and `laws`, and
about ten minutes of two cores. What is finished in the working directory is not made again.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import curate

PICTURES = Path(__file__).parents[1] / "docs" / "_static" / "pictures"

SHOWN = {
    "shares": "start",
    "methods": "methods",
    "predictions": "laws",
    "curves": "evidence",
    "rivals": "evidence",
    "entropies": "entropy",
    "saturation": "entropy",
    "divergence": "report",
}
"""Figures, each with the page that shows it."""


def recipe(work: Path) -> dict[str, object]:
    """Return the recipe of the dataset that all pictures are of."""
    names = ("python_code", "docstrings", "c_headers", "manuals")
    proxy = {
        "preset": "nano", "runs": 20, "tokens": 81_920, "sequence_length": 64, "batch": 8,
        "validation_tokens": 3000,
    }  # fmt: skip
    return {
        "name": "pictures",
        "tokenizer": {"train": {"vocab_size": 2048, "sample_bytes": 2_000_000}},
        "domains": [{"name": name, "paths": f"corpus://{name}"} for name in names],
        "mixture": {"method": "joint", "evidence": {"proxy": proxy}},
        "max_epochs": 8,
        "budget_tokens": 4_000_000,
        "validation": {"documents": 0.02},
        "output": {"dir": str(work / "out")},
        "cache": str(work / "cache"),
    }


def make(work: Path) -> None:
    """Make the dataset, all evidence about it, and the figures in `work/figures`."""
    loaded = curate.load_recipe(recipe(work.resolve()))
    curate.build(loaded, progress="terminal")
    curate.stats(loaded, intervals=True, progress="terminal")
    curate.compare(loaded, progress="terminal")
    curate.validate(loaded, seeds=3, progress="terminal")
    curate.report(loaded, plots=work / "figures", progress="terminal")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("out/pictures"), help="working directory")
    work = parser.parse_args().work
    make(work)
    PICTURES.mkdir(exist_ok=True)
    for name in SHOWN:
        shutil.copyfile(work / "figures" / f"{name}.svg", PICTURES / f"{name}.svg")
        print(f"{name}.svg: {(PICTURES / f'{name}.svg').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
