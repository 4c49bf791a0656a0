"""Pictures of the nano study, from what it left behind: `python tools/studies/plots.py`.

Needs matplotlib, and torch only as the study does. Run `nano.py` first.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from curves import fit_settled_curve, settled_from
from matplotlib import pyplot as plt
from nano import over_seeds

from curate.laws import LAWS
from curate.laws.fitting.features import run_folds
from curate.laws.law import Array, RunTable
from curate.laws.run_tables.read import read_runs
from curate.laws.scores import spearman
from curate.runtime.files import read_json

FOLDS, AHEAD = 8, 4
RANKED = ("joint", "bimix", "own_share")
"""The law that ranks best, the paper's, and the best dummy."""
BLUE, ORANGE, GREY = "#1f5fa8", "#d1690e", "#888888"
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "curate", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlesize": 9, "axes.titlelocation": "left",
    "legend.frameon": False, "font.family": "sans-serif",
}  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--work", type=Path, default=Path("bench-work/nano-study"))
    arguments.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    options = arguments.parse_args()
    options.out.mkdir(exist_ok=True)
    mpl.rcParams.update(STYLE)
    curves, _ = read_runs([options.work / "longer" / "runs.csv"])
    save(draw_curves(first_seed(curves)), options.out / "curves.svg")
    runs, _ = read_runs([options.work / "runs.csv"])
    save(draw_ranking(over_seeds(runs)), options.out / "ranking.svg")
    validations = [read_json(path) for path in sorted(options.work.glob("validation-*.json"))]
    save(draw_rivals(validations), options.out / "rivals.svg")


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    print(f"{path}: {path.stat().st_size:,} bytes")


def first_seed(runs: RunTable) -> RunTable:
    """One run of each mixture, as a curve of means would be smoother than what is extrapolated."""
    mixtures = [tuple(row) for row in runs.weights]
    first: dict[tuple[float, ...], str] = {}
    for mixture, run in zip(mixtures, runs.runs, strict=True):
        first[mixture] = min(first.get(mixture, run), run)
    return runs.take(np.isin(runs.runs, list(first.values())))


def draw_curves(runs: RunTable) -> Any:
    """A panel a domain: measured losses, and BiMix's curve through those it was fitted on."""
    figure, panels = plt.subplots(1, len(runs.targets), figsize=(10, 2.9), sharex=True)
    names = np.array(runs.runs)
    for run, label, colour in zip(
        dict.fromkeys(runs.runs), ("natural", "equal shares"), (BLUE, ORANGE), strict=True
    ):
        rows = np.flatnonzero(names == run)
        rows = rows[np.argsort(runs.tokens[rows])]
        tokens = runs.tokens[rows] / 1000
        for target, panel in enumerate(panels):
            losses = runs.losses[rows, target]
            first = settled_from(tokens[:-AHEAD], losses[:-AHEAD])
            curve = fit_settled_curve(tokens[:-AHEAD], losses[:-AHEAD])
            fitted = slice(first, len(rows) - AHEAD)
            panel.plot(tokens[:first], losses[:first], "o", ms=3, mfc="white", mec=colour)
            panel.plot(tokens[fitted], losses[fitted], "o", ms=3, color=colour)
            panel.plot(tokens[-AHEAD:], losses[-AHEAD:], "D", ms=4, color=colour, mec="black",
                       mew=0.6)  # fmt: skip
            later = np.linspace(tokens[first], tokens[-1], 50)
            panel.plot(later, curve.predict(later), color=colour, lw=1.2, label=label)
            panel.set_title(runs.targets[target])
            panel.set_xlabel("thousand tokens")
    panels[0].set_ylabel("held-out loss, nats per token")
    panels[0].legend(loc="upper right", handlelength=1.2)
    figure.tight_layout()
    return figure


def draw_ranking(runs: RunTable) -> Any:
    """A panel a law: mean loss at the end of each mixture, left out, against what was measured."""
    figure, panels = plt.subplots(1, len(RANKED), figsize=(10, 3.2), sharey=True)
    last = runs.tokens == runs.tokens.max()
    measured = runs.losses[last].mean(axis=1)
    for law, panel in zip(RANKED, panels, strict=True):
        predicted = left_out(runs, law)[last].mean(axis=1)
        both = np.concatenate([measured, predicted])
        ends = [both.min() - 0.03, both.max() + 0.03]
        panel.plot(ends, ends, color=GREY, lw=0.8)
        panel.plot(predicted, measured, "o", ms=4, color=ORANGE if law == "own_share" else BLUE)
        rank = spearman(predicted, measured)
        dummy = " (a dummy)" if law == "own_share" else ""
        panel.set_title(f"{law}{dummy}: Spearman {rank:.2f}")
        panel.set_xlabel("predicted mean loss, mixture left out")
    panels[0].set_ylabel("measured mean loss, nats per token")
    figure.tight_layout()
    return figure


def left_out(runs: RunTable, law: str) -> Array:
    """Losses of every row by the law fitted on the other folds."""
    predicted = np.full_like(runs.losses, np.nan)
    for held in run_folds(runs, FOLDS):
        fitted = LAWS[law].fit(runs.take(~held))
        rows = runs.take(held)
        predicted[held] = fitted.predict(rows.weights, rows.tokens, rows.params)
    return predicted


def draw_rivals(validations: list[dict[str, Any]]) -> Any:
    """A panel a recommendation: how much less it loses than its rivals, with 95 % intervals."""
    figure, panels = plt.subplots(
        1, len(validations), figsize=(10, 1.9), sharex=True, squeeze=False
    )
    for validation, panel in zip(validations, panels[0], strict=True):
        rivals = validation["sizes"][0]["against"]
        for place, row in enumerate(rivals.values()):
            panel.plot([row["low"], row["high"]], [place, place], color=BLUE, lw=2)
            panel.plot([row["mean"]], [place], "o", color=BLUE)
            panel.annotate(row["verdict"], (row["mean"], place), (0, 6), ha="center",
                           textcoords="offset points", color=GREY)  # fmt: skip
            panel.set_yticks(range(len(rivals)), [f"minus {rival}" for rival in rivals])
        panel.axvline(0, color=GREY, lw=0.8)
        panel.set_ylim(-0.6, len(rivals) - 0.3)
        method = validation["method"]
        panel.set_title(f"recommended by {'the law joint' if method == 'law' else method}")
        panel.set_xlabel("mean loss, nats per token; left of 0 is better")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()
