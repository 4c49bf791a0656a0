"""Compare the time left that progress shows with the time that was left, at tenths of each stage.

    python tools/bench/time_left.py recipe.yaml [--workers 2] [--command tokenize]

A fresh cache and output are used. For each stage that reports its work a row has the estimate over
the truth at 10, 20, ... 90 % of its time: 1 is right, 0.67 to 1.33 is within a third. The clock is
that of the wall, so what else the machine does counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import curate
from curate.recipe import load
from curate.runtime.progress import Observer, Pace

TENTHS = range(1, 10)


class Clock(Observer):
    """Keeps when how much of a stage was done, and prints a row at the end of each stage."""

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        """Start the clock."""
        self._stage, self._start, self._expected = stage, time.monotonic(), sum(totals)
        self._reports: list[tuple[float, int, int]] = []

    def expect(self, totals: Sequence[int]) -> None:
        """Keep the better estimate."""
        self._expected = sum(totals)

    def advance(self, counters: NDArray[np.int64]) -> None:
        """Keep the work done of a stage with counters."""
        if len(counters):
            self.work(int(counters[:, 0].sum()), self._expected)

    def work(self, done: int, total: int) -> None:
        """Keep the work done."""
        self._reports.append((time.monotonic() - self._start, done, total))

    def end(self, summary: str = "") -> None:
        """Print the row of a stage."""
        seconds = time.monotonic() - self._start
        if any(done for _, done, _ in self._reports):
            cells = [_ratio(self._reports, seconds * tenth / 10, seconds) for tenth in TENTHS]
            print(f"| {self._stage} | {seconds:.1f} | {' | '.join(cells)} |", flush=True)


def _ratio(reports: list[tuple[float, int, int]], moment: float, end: float) -> str:
    """Estimate at a moment, by the reports until then, over the time that was left."""
    pace, left = Pace(), None
    for seconds, done, total in reports:
        if seconds > moment:
            break
        left = pace.seconds_left(done, total, seconds)
    return "-" if left is None else f"{left / (end - moment):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time left as shown, over the time that was left.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--command", choices=("tokenize", "build"), default="tokenize")
    options = parser.parse_args()
    print("| stage | s | " + " | ".join(f"{tenth}0 %" for tenth in TENTHS) + " |")
    print("|---" * (len(TENTHS) + 2) + "|")
    with tempfile.TemporaryDirectory(dir=".") as work:
        places = (f"cache={work}/cache", f"output.dir={work}/out")
        loaded = load(options.recipe, places)
        getattr(curate, options.command)(loaded, workers=options.workers, progress=Clock())


if __name__ == "__main__":
    main()
