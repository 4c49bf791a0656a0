"""Tables in a terminal: what a narrow one, a pipe and a table that goes on below show."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from curate.report.terminal import mixture_table, numbers_table, terminal_console


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
