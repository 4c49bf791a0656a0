"""What whoever watches a swarm is told, and shown."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from curate.proxy import swarm_progress as module
from curate.proxy.curves import write_curves
from curate.proxy.swarm_progress import SwarmProgress
from curate.report.terminal import TerminalObserver, training_table
from curate.runtime.progress import Observer, TrainingProgress


class Listener(Observer):
    """Keeps what it is told of training."""

    def __init__(self) -> None:
        self.told: list[TrainingProgress] = []

    def train(self, progress: TrainingProgress) -> None:
        self.told.append(progress)


def test_tokens_are_counted_over_groups_and_what_was_there_is_not_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SHOW_SECONDS", 0.0)
    listener = Listener()
    progress = SwarmProgress(4, 10, 100, 6e6, listener)
    progress.resume(5, 3)
    assert progress.speed() == ""
    progress.add(6, torch.tensor([1.0, 3.0, float("nan")]))  # one broke
    progress.add(1, torch.tensor([5.0]))
    first, second = listener.told
    assert (first.done_tokens, first.fresh_tokens, first.total_tokens) == (1800, 300, 4000)
    assert (first.models, first.step, first.steps, first.loss) == (3, 6, 10, 2.0)
    assert (second.done_tokens, second.fresh_tokens, second.loss) == (1900, 400, 5.0)
    assert progress.speed().endswith(" tokens/s")


def test_a_loss_is_not_read_at_every_step() -> None:
    listener = Listener()
    progress = SwarmProgress(1, 10, 100, 6e6, listener)
    for step in range(1, 11):
        progress.add(step, torch.ones(1))
    assert listener.told == []  # within a second


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_says_loss_speed_and_time_left() -> None:
    told = TrainingProgress(16, 50, 200, 4.56789, 250, 200, 1000, 1e6)
    console = Console(file=io.StringIO(), width=100)
    console.print(training_table(told, 2.0))
    row = shown(console).splitlines()[-1].split()
    assert row == "16 50 of 200 4.5679 25.0% 100 0.1 ≈ 8 s".split()
    live = Console(file=io.StringIO(), width=100, force_terminal=True)
    observer = TerminalObserver(live)
    observer.begin("train proxies")
    observer.train(told)
    observer.end("done")
    assert "4.5679" in shown(live) and "done" in shown(live)
    quiet = Console(file=io.StringIO(), width=100)
    TerminalObserver(quiet).train(told)
    assert shown(quiet) == ""  # a file gets no moving table


def test_curves_need_a_row_for_each_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"losses of 2 runs, got shape \(1, 3\)"):
        write_curves(tmp_path / "a.parquet", [("a", 0), ("b", 0)], np.ones((1, 3), np.float32), 8)
