"""Odd run tables and experts: a sound table, or one line that names the file; nothing else.

Cells, headers and whole files are damaged. What is read must be fit for a law: a cheap one is
fitted to it and a mixture derived.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import EDITS, damage, fuzz
from hypothesis import strategies as st

from curate.errors import CurateError, FitError, InputError
from curate.laws import LAWS, RunTable
from curate.laws.likelihoods import read_likelihoods
from curate.laws.run_tables.read import read_runs
from curate.pipeline.from_run_table import RunTableInputs, mix_without_text
from curate.runtime.progress import Observer

pytestmark = pytest.mark.usefixtures("small_search")

ODD_CELLS = [
    "", " ", "nan", "NaN", "inf", "-inf", "-1", "0", "-0.0", "1e308", "1e-308", "5e-324", "1e999",
    "55", "0.5", "1", "100", "abc", "1,5", "1.5.5", "0x10", "1_000", "١", "½", "\x00", "\x1b[2J",
    '"', "'=1+1", "\n", "\ufeff", "\u202e", "true", "None", "9" * 400, "x" * 70_000,
]  # fmt: skip
ODD_HEADERS = [
    "", "w_", "loss_", "w_a", "loss_a", "W_a", "run", "seed", "tokens", "step", "params", "index",
    "name", "bpb_a", "w_\x1b[31m", "loss_" + "y" * 5_000, "w_a ", "\ufeffrun", "duplicate",
]  # fmt: skip

CELL_EDIT = st.tuples(st.integers(0, 12), st.integers(0, 9), st.sampled_from(ODD_CELLS))
HEADER_EDIT = st.tuples(st.integers(0, 9), st.sampled_from(ODD_HEADERS))
WRITING = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from([",", ",", ",", ";", "\t"]),
        "end": st.sampled_from(["\n", "\r\n", "\r"]),
        "encoding": st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
        "progress": st.sampled_from([(), ("tokens",), ("step", "params"), ("seed", "tokens")]),
        "rows": st.sampled_from([0, 1, 2, 5, 12]),
        "ragged": st.booleans(),
    }
)


def rows_of(writing: dict[str, Any]) -> list[list[str]]:
    """An honest table of three domains."""
    weights = np.random.default_rng(1).dirichlet(np.full(3, 2.0), 12)
    losses = 2 + 0.5 * weights**-0.2
    rows = [["run", *writing["progress"], *"w_a w_b w_c loss_a loss_b loss_c".split()]]
    for row in range(writing["rows"]):
        more = [str(1 + row % 3) for _ in writing["progress"]]
        rows.append([f"r{row}", *more, *map(str, weights[row]), *map(str, losses[row])])
    return rows


def edited(rows: list[list[str]], cells: list[Any], headers: list[Any]) -> list[list[str]]:
    for row, column, text in cells:
        if row + 1 < len(rows):
            rows[row + 1][column % len(rows[0])] = text
    for column, text in headers:
        rows[0][column % len(rows[0])] = text
    return rows


def written(rows: list[list[str]], writing: dict[str, Any]) -> bytes:
    stream = io.StringIO(newline="")
    out = csv.writer(stream, delimiter=writing["delimiter"], lineterminator=writing["end"])
    if sys.version_info < (3, 11):  # whose writer takes a NUL for a character to escape
        rows = [[cell.replace("\0", "") for cell in row] for row in rows]
    out.writerows(rows)
    text = stream.getvalue()
    if writing["ragged"]:
        text = text[: int(len(text) * 0.9)]
    return text.encode(writing["encoding"], "replace")


def one_line(error: CurateError, path: Path | None) -> None:
    text = str(error)
    assert text.isprintable(), repr(text)
    assert len(text) < 2_000
    assert path is None or str(path) in text


def is_sound(table: RunTable) -> None:
    assert len(table.runs) and len(table.domains) and len(table.targets)
    assert np.allclose(table.weights.sum(axis=1), 1, rtol=0, atol=1e-9)
    assert (table.weights >= 0).all()
    assert np.isfinite(table.losses).all() and (table.losses > 0).all()
    for column in (table.tokens, table.params):
        assert np.isnan(column).all() or (np.isfinite(column).all() and (column > 0).all())


def mix_or_one_line(inputs: RunTableInputs) -> None:
    try:
        weights = mix_without_text(inputs, None, Observer()).json["weights"]
    except CurateError as error:
        one_line(error, None)
    else:
        assert abs(sum(weights.values()) - 1) < 1e-9 and min(weights.values()) >= 0


def read_and_mix(path: Path) -> None:
    """Read the table; where it is sound, fit a law and derive a mixture from it."""
    try:
        table, notices = read_runs([path])
    except FitError as error:
        one_line(error, path)
        return
    is_sound(table)
    assert all(notice.isprintable() for notice in notices)
    for name in ("mean", "ridge"):
        try:
            law = LAWS[name].fit(table)
        except FitError as error:
            one_line(error, None)
        else:
            assert not np.isnan(law.predict(table.weights, table.tokens, table.params)).any()
    inputs = RunTableInputs((path,), overrides=("mixture.method=bimix", "mixture.replicates=0"))
    mix_or_one_line(inputs)


def test_odd_cells_and_headers(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"

    @fuzz(st.lists(CELL_EDIT, max_size=4), st.lists(HEADER_EDIT, max_size=2), WRITING)
    def check(cells: list[Any], headers: list[Any], writing: dict[str, Any]) -> None:
        path.write_bytes(written(edited(rows_of(writing), cells, headers), writing))
        read_and_mix(path)

    check()


def test_damaged_run_tables(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    writing = {"delimiter": ",", "end": "\n", "encoding": "utf-8", "ragged": False, "rows": 12}
    content = written(rows_of({**writing, "progress": ("tokens",)}), writing)

    @fuzz(EDITS)
    def check(edits: list[Any]) -> None:
        path.write_bytes(damage(content, edits))
        read_and_mix(path)

    check()


def test_a_pair_of_odd_tables(tmp_path: Path) -> None:
    ratios, metrics = tmp_path / "ratios.csv", tmp_path / "metrics.csv"

    @fuzz(st.lists(CELL_EDIT, max_size=3), st.lists(CELL_EDIT, max_size=3), WRITING)
    def check(left: list[Any], right: list[Any], writing: dict[str, Any]) -> None:
        rows = rows_of({**writing, "progress": ()})
        mixtures = [row[:4] for row in rows]
        losses = [[row[0], *row[4:]] for row in rows]
        ratios.write_bytes(written(edited(mixtures, left, []), writing))
        metrics.write_bytes(written(edited(losses, right, []), writing))
        try:
            table, notices = read_runs([ratios, metrics])
        except FitError as error:
            one_line(error, None)
            assert str(tmp_path) in str(error)
        else:
            is_sound(table)
            assert all(notice.isprintable() for notice in notices)

    check()


ODD_VALUES: list[pa.Array] = [
    pa.array([1.5, -2.0, 3.0, float("nan")]),
    pa.array([0, 1, None, 3]),
    pa.array([2**63 - 1, 0, 1, -(2**63)]),
    pa.array([0, 1, 2, 2**64 - 1], pa.uint64()),
    pa.array([3, 2, 1, 0], pa.int8()),
    pa.array([0.0, 1.0, 2.0, float("inf")]),
    pa.array([-1.0, -2.0, -3.0, 0.5]),
    pa.array([-1.0, -2.0, None, -0.5]),
    pa.array([float("-inf")] * 4),
    pa.array([-1e308, -1e308, -1e308, -1e308]),
    pa.array([-1.0, -2.0, -3.0, -0.5], pa.float32()),
    pa.array(["a", "b", "c", "d"]),
    pa.array(["a", None, "", "\x1b[31m"]),
    pa.array([b"a", b"\xff", b"", b"b"]),
    pa.array([True, False, True, None]),
    pa.array([[1.0], [2.0], [], None]),
    pa.array([{"a": 1}] * 4),
    pa.nulls(4),
    pa.array(["a", "a", "b", "b"]).dictionary_encode(),
    pa.array([1, 2, 3, 4], pa.timestamp("us")),
]
COLUMNS = ["target_domain", "document", "position", "logp_a", "logp_b", "logp_", "logp_a\n"]


def honest_experts() -> dict[str, pa.Array]:
    return {
        "target_domain": pa.array(["a", "a", "b", "b"]),
        "document": pa.array([0, 0, 1, 1]),
        "position": pa.array([0, 1, 0, 1]),
        "logp_a": pa.array([-1.0, -2.0, -3.0, -0.5]),
        "logp_b": pa.array([-2.0, -1.0, -0.5, -2.5]),
    }


def read_and_mix_experts(path: Path) -> None:
    try:
        experts = read_likelihoods(path)
    except InputError as error:
        one_line(error, path)
        return
    assert experts.logp_nats.shape == (experts.starts[-1], len(experts.experts))
    assert (experts.logp_nats <= 0).all()
    inputs = RunTableInputs(experts=path, overrides=("mixture.method=mde", "mixture.replicates=0"))
    mix_or_one_line(inputs)


def test_odd_columns_of_experts(tmp_path: Path) -> None:
    path = tmp_path / "experts.parquet"
    change = st.tuples(
        st.sampled_from(COLUMNS),
        st.one_of(st.none(), st.integers(0, len(ODD_VALUES) - 1)),
    )

    @fuzz(st.lists(change, min_size=1, max_size=2), st.integers(0, 4), st.booleans())
    def check(changes: list[Any], rows: int, twice: bool) -> None:
        columns = honest_experts()
        for name, number in changes:
            if number is None:
                columns.pop(name, None)
            else:
                columns[name] = ODD_VALUES[number]
        names = list(columns)
        values = list(columns.values())
        if twice and names:
            names, values = [*names, names[-1]], [*values, values[-1]]
        if not names:
            return
        pq.write_table(pa.table(values, names=names).slice(0, rows), path)
        read_and_mix_experts(path)

    check()


def test_damaged_experts(tmp_path: Path) -> None:
    path = tmp_path / "experts.parquet"
    pq.write_table(pa.table(honest_experts()), path)
    content = path.read_bytes()

    @fuzz(EDITS)
    def check(edits: list[Any]) -> None:
        path.write_bytes(damage(content, edits))
        read_and_mix_experts(path)

    check()
