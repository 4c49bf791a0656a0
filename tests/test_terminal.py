"""Tables in a terminal: what a narrow one, a pipe and a table that goes on below show."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from curate.report.methods import comparison_tables
from curate.report.tables import mixture_table
from curate.report.terminal import (
    TerminalObserver,
    numbers_table,
    terminal_console,
)
from curate.report.validation import run_tables


def printed(table: object, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_part_of_a_table_leaves_out_rows_that_are_empty_there() -> None:
    table = numbers_table("t", ("domain", "a" * 15, "b" * 19, "c" * 15))
    table.add_row("x", "1", "2", "3")
    table.add_section()
    table.add_row("all", "1", "", "3")
    shown = printed(table, 40)
    assert shown.count("│ x ") == 3 and shown.count("│ all ") == 2
    assert printed(table, 80).count("│ all ") == 1


def test_a_table_is_whole_where_it_fits_to_the_column() -> None:
    table = numbers_table("", ("domain", "aaaa", "bbbb"))
    table.add_row("x", "1", "2")
    width = max(map(len, printed(table, 80).splitlines()))
    assert printed(table, width) == printed(table, 80).replace(" " * 80, " " * width)
    assert printed(table, width - 1).count("│ x ") == 2


def test_the_mixture_table_has_the_words_and_units_of_its_file() -> None:
    mixture = {
        "method": "entropy", "weights": {"a": 0.25}, "unconstrained": {"a": 0.3}, "low": {"a": 0.2},
        "high": {"a": 0.305}, "epochs": {"a": None}, "predicted_loss": None,
    }  # fmt: skip
    shown = printed(mixture_table(mixture, {"a": None}), 100)
    assert "unconstrained" in shown and "20.0% to 30.5%" in shown and "30.0000%" in shown


def test_columns_set_the_width_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_console().width == 120
    monkeypatch.setenv("COLUMNS", "80")
    assert terminal_console().width == 80


def progress_table(width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=True)
    observer = TerminalObserver(console)
    observer.begin("tokenise", ["articles", "a-domain-with-a-long-name"], [10**12, 10**12])
    observer.advance(np.array([[10**11, 10**11, 10**11 // 4, 123_456_789, 12_345]] * 2))
    observer.close()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_live_table_leaves_out_columns_and_cuts_no_number() -> None:
    wide, narrow = progress_table(140), progress_table(80)
    assert "Mtok/s" in wide and "Mtok/s" not in narrow
    for shown in (wide, narrow):
        assert "25,000,000,000" in shown and "123,456,789" in shown
        assert not re.search(r"[\d.,]…", shown)


def test_a_comparison_has_a_row_for_each_domain_and_a_line_for_what_is_left_out() -> None:
    mixture = {
        "weights": {"web": 0.75, "code": 0.25}, "low": None, "high": None, "tv_natural": 0.1,
        "predicted_loss": None, "max_epochs": 1.5,
    }  # fmt: skip
    bounded = {**mixture, "low": {"web": 0.7, "code": 0.2}, "high": {"web": 0.8, "code": 0.3}}
    tables = comparison_tables({
        "budget_tokens": 1000, "mixtures": {"natural": mixture, "entropy": bounded},
        "left_out": {"bimix": "method 'bimix' needs runs", "dml": "method 'dml' needs runs"},
    })  # fmt: skip
    shown = "".join(printed(table, 200) for table in tables)
    row = next(line for line in shown.splitlines() if "web" in line)
    assert row.split() == "│ web │ 75.0 │ 75.0 [70.0–80.0] │".split()
    assert "left out, bimix, dml: the method needs runs" in shown and "support" not in row


def test_runs_show_their_mixtures_beside_their_losses() -> None:
    rows = {"m0": {"weights": {"a": 0.125, "b": 0.875}, "loss": {"a": 3.0, "b": 5.0}}}
    mixtures, losses = (printed(table, 80) for table in run_tables(rows, "runs"))
    assert "12.5" in mixtures and "87.5" in mixtures and "5.7708" in losses
    assert len(run_tables({"a": {"loss": {"a": 3.0}}}, "experts")) == 1


def test_names_of_sub_domains_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("web:art:q1")
    table.add_row("web:x:q1")
    terminal_console().print(table)
    shown = capsys.readouterr().out
    assert "web:art:q1" in shown and "web:x:q1" in shown
