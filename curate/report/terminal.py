"""Show live progress on a terminal, with rich, and tables of numbers that fit into it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from curate.runtime.escape import output_named, tolerate_encodings, visible
from curate.runtime.progress import LoggingObserver, Pace, TrainingProgress

REFRESH_SECONDS = 0.25

BORDER_CHARACTERS = 3
"""Characters that a column's border and padding take; the last border takes one more."""

FOLDED_CHARACTERS = 20
"""Width at which names and lists of shares may be folded."""


PROGRESS_HEADINGS = ("documents", "tokens", "MB", "MB/s", "Mtok/s", "bad", "left")
"""Columns of the live table of domains."""

DISPENSABLE = ("Mtok/s", "MB", "bad")
"""Those that it does without on a narrow terminal, the first one first."""


class TerminalObserver(LoggingObserver):
    """Prints each stage as a line and, on a terminal, a live table of domains."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        super().__init__()
        self._console = console
        self._names: Sequence[str] = ()
        self._totals: Sequence[int] = ()
        self._pace = Pace()
        self._done = ""
        """Share of the work that is done, and time left, as shown."""
        self._shown = 0.0
        self._live: Live | None = None

    def notice(self, message: str) -> None:
        """Print a note."""
        super().notice(message)
        self._console.print(f"[yellow]note[/] {plain(message)}", highlight=False, soft_wrap=True)

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        """Start the clock and the live table of a stage.

        Args:
            stage: Name of the stage.
            names: Rows of the table.
            totals: Expected work of each row, in bytes or tokens; 0 if unknown.
        """
        super().begin(stage, names, totals)
        self.close()
        self._names, self._totals = names, totals
        self._pace, self._done = Pace(), ""
        self._shown = 0.0

    def expect(self, totals: Sequence[int]) -> None:
        """Estimate the time left from other totals."""
        self._totals = totals

    def advance(self, counters: NDArray[np.int64]) -> None:
        """Update the live table, at most every `REFRESH_SECONDS`."""
        super().advance(counters)
        now = time.monotonic()
        is_due = self._stage and now - self._shown >= REFRESH_SECONDS
        if not self._console.is_terminal or not is_due:
            return
        self._shown = now
        self._show(self._table(counters, self._seconds()))

    def work(self, done: int, total: int) -> None:
        """Show the share that is done, and the time left."""
        self._done = f" · {100 * done / total:.0f} %" if done and total else ""
        left = self._left(done, total, self._seconds())
        self._done += f", {left} left" if left and done < total else ""
        super().work(done, total)

    def _show(self, table: RenderableType) -> None:
        if self._live is None:
            # No refreshing thread: workers are forked, and a fork with other threads can deadlock.
            self._live = Live(table, console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(table, refresh=True)

    def train(self, progress: TrainingProgress) -> None:
        """Show the progress of models that train."""
        super().train(progress)
        if not self._console.is_terminal:
            return
        self._show(training_table(progress, self._seconds()))

    def end(self, summary: str = "") -> None:
        """Print the stage as a line, with its summary and time."""
        super().end(summary)
        self.close()
        self._console.print(
            f"[green]✓[/] {self._stage:<16} {plain(f'{summary} ' if summary else '')}"
            f"[dim]{self._seconds():.1f} s[/]",
            highlight=False,
            soft_wrap=True,
        )
        self._stage = ""

    def close(self) -> None:
        """Remove the live table from the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self, counters: NDArray[np.int64], seconds: float) -> RenderableType:
        title = f"{self._stage} · {seconds:.0f} s{self._done}"
        if not len(counters):
            return Text(title)  # rich shows no title of a table without columns
        table = numbers_table(title, ("domain", *PROGRESS_HEADINGS), dispensable=DISPENSABLE)
        table.box = None
        total = counters.sum(axis=0)
        left = self._left(int(total[0]), sum(self._totals), seconds)
        for name, row in zip(self._names, counters, strict=False):
            state = "" if row[0] else "waiting"
            state = left if len(counters) == 1 else state
            table.add_row(plain(name), *_progress_cells(row, seconds), state)
        if len(counters) > 1:
            table.add_row("all", *_progress_cells(total, seconds), left)
        return table

    def _left(self, done: int, total: int, seconds: float) -> str:
        """Say how much time is left, by the share of the expected work that is done."""
        left = self._pace.seconds_left(done, total, seconds)
        return "" if left is None else f"≈ {left:.0f} s" if left else "…"


def _progress_cells(counters: NDArray[np.int64], seconds: float) -> list[str]:
    """Format counters in the order of `tokens.tasks.PROGRESS`, with throughput."""
    _, text, tokens, documents, bad = counters[:5].tolist()
    elapsed = max(seconds, 1e-9)
    return [
        f"{documents:,}", f"{tokens:,}", f"{text / 1e6:.1f}", f"{text / 1e6 / elapsed:.1f}",
        f"{tokens / 1e6 / elapsed:.2f}", f"{bad:,}",
    ]  # fmt: skip


class VisibleConsole(Console):
    """A console on which text cannot act: controls and the like are shown as escapes."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; errors name standard output."""
        with output_named():
            super().print(*objects, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render as rich does, and escape the text of each segment."""
        for segment in super().render(renderable, options):
            if segment.control:  # rich's own movements of the cursor
                yield segment
            else:
                yield Segment(visible(segment.text, keep="\n"), segment.style)


def terminal_console() -> Console:
    """Make a console as wide as the terminal or as `COLUMNS` says, else 120 columns wide."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    tolerate_encodings()
    width = None if is_terminal or os.environ.get("COLUMNS") else 120
    # With emoji, the sub-domain web:art:q1 would be shown with a picture for its topic.
    return VisibleConsole(width=width, emoji=False)


def training_table(progress: TrainingProgress, seconds: float) -> Table:
    """Show the progress of a swarm in one row, with its speed and the time left.

    Args:
        progress: Progress of the stage.
        seconds: Time since the stage began in this process.
    """
    speed = progress.fresh_tokens / max(seconds, 1e-9)
    left = (progress.total_tokens - progress.done_tokens) / max(speed, 1e-9)
    cells = {
        "models": f"{progress.models:,}",
        "step": f"{progress.step:,} of {progress.steps:,}",
        "loss": f"{progress.loss:.4f}",
        "tokens": f"{progress.done_tokens / max(progress.total_tokens, 1):.1%}",
        "tokens/s": f"{speed:,.0f}",
        "GFLOP/s": f"{speed * progress.token_flops / 1e9:,.1f}",
        "left": f"≈ {left:,.0f} s" if speed else "…",
    }
    table = numbers_table(
        f"train proxies · {seconds:.0f} s", tuple(cells), dispensable=("GFLOP/s", "tokens/s")
    )
    table.box = None
    table.add_row(*cells.values())
    return table


def plain(text: str) -> str:
    """Escape text so that rich does not read it as markup, and nothing in it is invisible."""
    return escape(visible(text))


class NumbersTable(Table):
    """A table that goes on below where it is too wide for the terminal, so that no number is cut.

    Columns of numbers must not wrap (`no_wrap`); each part repeats the leading columns, and leaves
    out rows that have nothing in its other columns.
    """

    named_by: int = 1
    """First columns that say what a row is about."""

    dispensable: Sequence[str] = ()
    """Headings of columns that it does without rather than to go on below, the first one first."""

    def _shown(self, room: int, widths: Sequence[int]) -> list[int]:
        """Return the columns that are shown, without those that may go where room is short."""
        places = list(range(len(widths)))
        headings = [str(column.header) for column in self.columns]
        for heading in self.dispensable:
            if sum(widths[place] for place in places) > room:
                places.remove(headings.index(heading))
        return places

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render in as many parts as the width needs."""
        widths, full_widths = zip(
            *(self._widths(column, console) for column in self.columns), strict=True
        )
        parts: list[list[int]] = [[]]
        leading = range(self.named_by)
        room = options.max_width - 1 - sum(widths[: self.named_by])
        left = room
        for place in self._shown(options.max_width - 1, widths)[self.named_by :]:
            width = widths[place]
            if width > left and parts[-1]:
                parts.append([])
                left = room
            parts[-1].append(place)
            left -= width
        # Rich would wrap title and caption to the width of the table, which may be that of a word.
        if self.title:
            yield console.render_str(str(self.title), style="table.title")
        for number, part in enumerate(parts):
            table = Table(box=self.box)
            # Rich narrows the widest columns first, so it would cut numbers where headings could
            # wrap instead: each column gets a width, and headings the room that is left.
            spare = options.max_width - 1 - sum(widths[place] for place in (*leading, *part))
            for place in (*leading, *part):
                column = self.columns[place]
                extra = min(max(0, spare), full_widths[place] - widths[place])
                spare -= extra
                table.add_column(
                    column.header, justify=column.justify, overflow=column.overflow,
                    width=widths[place] + extra - BORDER_CHARACTERS,
                )  # fmt: skip
            for row, cells in zip(
                self.rows, zip(*(column.cells for column in self.columns), strict=True), strict=True
            ):
                shown = [cells[place] for place in part]
                if number == 0 or any(shown):
                    table.add_row(*cells[: self.named_by], *shown, end_section=row.end_section)
            yield from table.__rich_console__(console, options)
        if self.caption:
            yield console.render_str(str(self.caption), style="table.caption")

    @staticmethod
    def _widths(column: Column, console: Console) -> tuple[int, int]:
        """Return the characters that a column needs, and those for no wrapping; with its border."""
        heading, *cells = map(console.measure, (column.header, *column.cells))
        full = max(measurement.maximum for measurement in (heading, *cells))
        longest_word = max(measurement.minimum for measurement in (heading, *cells))
        needed = min(longest_word, FOLDED_CHARACTERS)
        if column.no_wrap:
            needed = max([heading.minimum, *(cell.maximum for cell in cells)])
        return needed + BORDER_CHARACTERS, full + BORDER_CHARACTERS


def numbers_table(
    title: str,
    headings: Sequence[str],
    dispensable: Sequence[str] = (),
) -> NumbersTable:
    """Make a table of one column of names and columns of numbers.

    Args:
        title: Title above the table.
        headings: Headings of all columns, that of the names first.
        dispensable: Headings that are left out where room is short, the first one first.
    """
    table = NumbersTable(title=title, title_justify="left")
    table.dispensable = dispensable
    table.add_column(headings[0], overflow="fold")  # the end of a name tells sub-domains apart
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
