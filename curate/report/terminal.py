"""Live progress and final tables for a terminal, through rich."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live
from rich.table import Table

from curate.runtime.progress import Observer, TrainingProgress
from curate.stats import STATISTICS

NATS_TO_BITS = 1 / np.log(2)

REFRESH_SECONDS = 0.25


class TerminalObserver(Observer):
    """Shows stages as lines and, on a terminal, a table of domains that moves."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console
        self._stage = ""
        self._names: Sequence[str] = ()
        self._totals: Sequence[int] = ()
        self._started = 0.0
        self._shown = 0.0
        self._live: Live | None = None

    def notice(self, message: str) -> None:
        """See `Observer`."""
        self._console.print(f"[yellow]note[/] {plain(message)}", highlight=False, soft_wrap=True)

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        """See `Observer`."""
        self.close()
        self._stage, self._names, self._totals = stage, names, totals
        self._started = time.monotonic()
        self._shown = 0.0

    def advance(self, counters: NDArray[np.int64]) -> None:
        """See `Observer`."""
        now = time.monotonic()
        if not self._console.is_terminal or now - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        self._show(self._table(counters, now - self._started))

    def _show(self, table: Table) -> None:
        if self._live is None:
            # Refreshed by hand: a refreshing thread would stand in the way of forking workers.
            self._live = Live(table, console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(table, refresh=True)

    def train(self, progress: TrainingProgress) -> None:
        """See `Observer`."""
        if not self._console.is_terminal:
            return
        self._show(training_table(progress, time.monotonic() - self._started))

    def end(self, summary: str = "") -> None:
        """See `Observer`."""
        self.close()
        seconds = time.monotonic() - self._started
        self._console.print(
            f"[green]✓[/] {self._stage:<16} {plain(summary)} [dim]{seconds:.1f} s[/]",
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        """Take the moving table off the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self, counters: NDArray[np.int64], seconds: float) -> Table:
        table = Table(title=f"{self._stage} · {seconds:.0f} s", title_justify="left", box=None)
        if not len(counters):
            return table
        for heading in ("domain", "documents", "tokens", "MB", "MB/s", "Mtok/s", "bad", "left"):
            table.add_column(heading, justify="left" if heading == "domain" else "right")
        done = counters[:, 0].sum() if len(counters) else 0
        for name, row in zip(self._names, counters, strict=False):
            raw, text, tokens, documents, bad = (int(value) for value in row)
            table.add_row(
                plain(name), f"{documents:,}", f"{tokens:,}", f"{text / 1e6:.1f}",
                f"{text / 1e6 / max(seconds, 1e-9):.1f}",
                f"{tokens / 1e6 / max(seconds, 1e-9):.2f}", f"{bad:,}", "" if raw else "waiting",
            )  # fmt: skip
        if len(counters) > 1:
            total = counters.sum(axis=0)
            table.add_row(
                "all", f"{total[3]:,}", f"{total[2]:,}", f"{total[1] / 1e6:.1f}",
                f"{total[1] / 1e6 / max(seconds, 1e-9):.1f}",
                f"{total[2] / 1e6 / max(seconds, 1e-9):.2f}", f"{total[4]:,}",
                self._left(int(done), seconds),
            )  # fmt: skip
        return table

    def _left(self, done: int, seconds: float) -> str:
        """Time left, from bytes on disk and a guess of how far they unpack."""
        expected = sum(self._totals)
        if not done or not expected:
            return ""
        share = min(0.99, done / max(expected, done))
        return f"≈ {seconds * (1 - share) / share:.0f} s" if expected > done else "…"


def terminal_console() -> Console:
    """Make a console as wide as the terminal, or 120 columns for a file, a pipe or a notebook."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return Console(width=None if is_terminal else 120)


def training_table(progress: TrainingProgress, seconds: float) -> Table:
    """One row: how far a swarm is, how fast, and how long it will take.

    Args:
        progress: Of its stage.
        seconds: Since the stage began in this process.
    """
    speed = progress.fresh_tokens / max(seconds, 1e-9)
    left = (progress.total_tokens - progress.done_tokens) / max(speed, 1e-9)
    table = Table(title=f"train proxies · {seconds:.0f} s", title_justify="left", box=None)
    headings = ("models", "step", "loss", "tokens", "tokens/s", "GFLOP/s", "left")
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_row(
        f"{progress.models:,}", f"{progress.step:,} of {progress.steps:,}", f"{progress.loss:.4f}",
        f"{progress.done_tokens / max(progress.total_tokens, 1):.1%}", f"{speed:,.0f}",
        f"{speed * progress.token_flops / 1e9:,.1f}", f"≈ {left:,.0f} s" if speed else "…",
    )  # fmt: skip
    return table


def plain(text: str) -> str:
    """Text that rich will not take for markup."""
    return text.replace("[", "\\[")


def result_table(certificate: dict[str, Any], bad_records: dict[str, int] | None) -> Table:
    """Asked, planned and realised, by domain.

    Args:
        certificate: As `verify` gives it.
        bad_records: By domain; None where nobody can tell.
    """
    bad = bad_records or {}
    table = Table(title="asked, planned and realised, in shares of tokens", title_justify="left")
    table.add_column("domain")
    for heading in ("asked", "realised", "planned tokens", "realised tokens", "epochs", "bad"):
        table.add_column(heading, justify="right")
    for name, row in certificate["domains"].items():
        # Of domains written apart one pass is on disk, and the plan may take more.
        wanted = row.get("written_tokens", row["planned_tokens"])
        exact = wanted == row["realised_tokens"]
        table.add_row(
            plain(name),
            f"{row['asked_share']:.4%}",
            f"{row['realised_share']:.4%}",
            f"{row['planned_tokens']:,}",
            f"{row['realised_tokens']:,}" if exact else f"[red]{row['realised_tokens']:,}[/]",
            f"{row['epochs']:.3f}",
            f"{bad[name]:,}" if name in bad else "-",
        )
    table.add_section()
    table.add_row(
        "all", "", "", f"{certificate['budget_tokens']:,}", f"{certificate['realised_tokens']:,}",
        "", f"{sum(bad.values()):,}" if bad else "-",
    )  # fmt: skip
    return table


def trainer_table(mixture: dict[str, Any]) -> Table:
    """What one trainer will do with domains that are written apart."""
    drawn = "" if mixture["exact"] else ", on average"
    title = f"{mixture['trainer']} will draw {mixture['samples']:,} {mixture['unit']}{drawn}"
    table = Table(title=title, title_justify="left")
    table.add_column("domain")
    for heading in ("weight", mixture["unit"], "tokens", "share", "off by", "epochs", "unseen"):
        table.add_column(heading, justify="right")
    for name, row in mixture["domains"].items():
        table.add_row(
            plain(name), f"{row['weight']:.4%}", f"{row['samples']:,}", f"{row['tokens']:,}",
            f"{row['share']:.4%}", f"{row['difference']:+.4%}", f"{row['epochs']:.3f}",
            f"{row['unseen']:,}",
        )  # fmt: skip
    return table


def reader_lines(found: dict[str, Any]) -> list[str]:
    """What readers leave out, and what rows are made of, in words; of a plan or a certificate."""
    lines = []
    loss, packing = found.get("reader_loss"), found.get("packing")
    if loss is not None:
        lost = loss.get("tokens", loss.get("tokens_at_most"))
        bound = "at most " if "tokens_at_most" in loss else ""
        lines.append(
            f"readers leave out {bound}{lost:,} tokens, in windows of {loss['window_tokens']:,}"
        )
    if packing is not None:
        lines.append(
            f"{packing['packing']}: {packing['rows']:,} rows of {packing['row_tokens']:,} tokens, "
            f"{packing['padding_tokens']:,} of them filling ({packing['padding_share']:.2%}); "
            f"documents cut in {packing['cuts']:,} places"
        )
    return lines


def stats_table(stats: dict[str, Any]) -> Table:
    """Counts and plug-in entropies of each domain; entropies in bits per token."""
    table = Table(title="domains; entropies in bits per token, plug-in", title_justify="left")
    table.add_column("domain")
    counted = [name for name, row in STATISTICS.items() if row.count is not None]
    headings = ("documents", "MB", "tokens", "held out", "bytes/token", "types", *counted, "bad")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, row in stats["domains"].items():
        bits = [row["entropy"][measure]["plugin"] * NATS_TO_BITS for measure in counted]
        table.add_row(
            plain(name), f"{row['documents']:,}", f"{row['bytes'] / 1e6:.1f}",
            f"{row['tokens']:,}", f"{row['tokens_validation']:,}", f"{row['bytes_per_token']:.2f}",
            f"{row['vocabulary_used']:,}", *(f"{value:.3f}" for value in bits),
            f"{row['bad_records']:,}",
        )  # fmt: skip
    return table


def mixture_table(mixture: dict[str, Any], supply_tokens: Mapping[str, int | None]) -> Table:
    """Weights, their intervals if any, what the method wanted before caps; epochs where known."""
    table = Table(
        title=f"{mixture['method']}; weights are shares of tokens", title_justify="left",
        caption=_prediction(mixture), caption_justify="left",
    )  # fmt: skip
    low, high = mixture["low"], mixture["high"]
    table.add_column("domain", overflow="fold")
    interval = () if low is None else ("95 % interval",)
    for heading in ("weight", *interval, "before caps", "epochs", "supply tokens"):
        table.add_column(heading, justify="right")
    for name, weight in mixture["weights"].items():
        ends = () if low is None else (f"{100 * low[name]:.1f} to {100 * high[name]:.1f}",)
        epochs, supply = mixture["epochs"][name], supply_tokens[name]
        table.add_row(
            plain(name), f"{weight:.4%}", *ends, f"{mixture['unconstrained'][name]:.4%}",
            "" if epochs is None else f"{epochs:.3f}", "" if supply is None else f"{supply:,}",
        )  # fmt: skip
    return table


def _prediction(mixture: dict[str, Any]) -> str | None:
    """Predicted loss, regret and distance from the runs, for methods that have them."""
    said = []
    if mixture["predicted_loss"] is not None:
        said.append(f"predicted loss {mixture['predicted_loss']:.4f}")
    regret = mixture.get("regret", {}).get("recommendation")
    if regret is not None:
        said.append(f"expected regret {regret['mean']:.4f}")
    support = mixture.get("support")
    if support is not None:
        said.append(f"{support['distance']:.3f} from the nearest run, runs within "
                    f"{support['radius']:.3f} of each other")  # fmt: skip
    return "; ".join(said) or None


def plan_table(plan: dict[str, Any]) -> Table:
    """Whole tokens by domain."""
    table = Table(title=f"plan of {plan['budget_tokens']:,} tokens", title_justify="left")
    table.add_column("domain")
    for heading in ("weight", "tokens", "documents", "epochs", "supply tokens"):
        table.add_column(heading, justify="right")
    for name, row in plan["domains"].items():
        table.add_row(
            plain(name), f"{row['weight']:.4%}", f"{row['tokens']:,}", f"{row['documents']:,}",
            f"{row['epochs']:.3f}", f"{row['supply_tokens']:,}",
        )  # fmt: skip
    return table
