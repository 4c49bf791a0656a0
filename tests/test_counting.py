"""Bigram counts: equal to a few lines of counting, however streams are cut, merged and spilled."""

import collections

import numpy as np
import pytest

from curate.tokens import counting
from curate.tokens.count_tables import (
    CountTable,
    StoredTable,
    merge_tables,
    read_table,
    seal_table,
    table_damage,
    table_index,
    write_table,
)
from curate.tokens.counting import BigramCounter, count_stream


def random_stream(rng, symbols, documents, dtype, end=0):
    """Documents of 0 to 40 ids, few of them frequent, each with the end symbol after it."""
    pieces = []
    for _ in range(documents):
        ids = np.minimum(rng.zipf(1.3, rng.integers(0, 41)) - 1, symbols - 1)
        ids[ids == end] = symbols - 1
        pieces += [ids, [end]]
    return np.concatenate(pieces).astype(dtype) if pieces else np.empty(0, dtype)


def by_hand(stream, end):
    """What is counted, as its definition reads."""
    pairs = collections.Counter()
    for first, second in zip(stream.tolist(), stream.tolist()[1:], strict=False):
        if first != end:
            pairs[first, second] += 1
    return pairs


def pairs_of(table, first_row=0):
    rows = np.repeat(np.arange(len(table.row_starts) - 1), np.diff(table.row_starts))
    pairs = zip((rows + first_row).tolist(), table.second.tolist(), strict=True)
    return dict(zip(pairs, table.count.tolist(), strict=True))


def check_table(table, symbols):
    """What every table promises."""
    assert table.row_starts.shape == (symbols + 1,)
    assert table.row_starts[0] == 0
    assert table.row_starts[-1] == len(table.second) == len(table.count)
    assert (np.diff(table.row_starts) >= 0).all()
    assert (table.count > 0).all()
    for row in range(symbols):
        own = table.second[table.row_starts[row] : table.row_starts[row + 1]]
        assert (np.diff(own.astype(np.int64)) > 0).all()


def same(left, right):
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ("row_starts", "second", "count")
    )


def table_on_disk(path, most_entries=1 << 20):
    """All ranges of a table put together again."""
    starts, seconds, counts = [np.zeros(1, np.int64)], [], []
    rows = entries = 0
    for first_row, piece in read_table(path, most_entries):
        assert first_row == rows
        starts.append(piece.row_starts[1:] + entries)
        seconds.append(piece.second)
        counts.append(piece.count)
        rows += len(piece.row_starts) - 1
        entries += len(piece.count)
    return CountTable(*map(np.concatenate, (starts, seconds, counts)))


@pytest.mark.parametrize(
    ("dtype", "symbols"),
    [(np.uint16, 3), (np.uint16, 300), (np.uint16, 65536), (np.uint32, 50), (np.uint32, 70001)],
)
def test_counts_equal_a_few_lines_of_counting(dtype, symbols):
    rng = np.random.default_rng(symbols)
    for case in range(20):
        end = int(rng.integers(symbols)) if case % 2 else symbols - 1
        stream = random_stream(rng, symbols, int(rng.integers(0, 60)), dtype, end)
        table = count_stream(stream, end, symbols)
        expected = by_hand(stream, end)
        assert pairs_of(table) == expected
        if symbols < 1000:
            check_table(table, symbols)
        assert table.tokens == np.count_nonzero(stream != end) == sum(expected.values())
        firsts = stream[stream != end].astype(np.int64)
        assert np.array_equal(table.unigrams(), np.bincount(firsts, minlength=symbols))
        assert table.memory_bytes == 8 * (symbols + 1) + 12 * len(expected)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ([], {}),
        ([0], {}),  # one empty document
        ([0, 0, 0], {}),
        ([5, 0], {(5, 0): 1}),
        ([0, 5, 0, 0], {(5, 0): 1}),  # nothing crosses from an empty document to the next
        ([5, 0, 6, 0], {(5, 0): 1, (6, 0): 1}),  # 0 → 6 is no bigram
        ([5, 5, 5, 0], {(5, 5): 2, (5, 0): 1}),
        ([5, 6, 5, 6, 0], {(5, 6): 2, (6, 5): 1, (6, 0): 1}),
    ],
)
def test_small_streams_by_hand(stream, expected):
    for dtype in (np.uint16, np.uint32):
        table = count_stream(np.array(stream, dtype), end=0, symbols=7)
        check_table(table, 7)
        assert pairs_of(table) == expected


def test_ids_at_the_ends_of_16_bits():
    stream = np.array([65534, 65535, 65534, 65535], np.uint16)
    table = count_stream(stream, end=65535, symbols=65536)
    assert pairs_of(table) == {(65534, 65535): 2}
    wide = np.array([65536, 65537, 65536, 0], np.uint32)
    assert pairs_of(count_stream(wide, 0, 65538)) == {
        (65536, 65537): 1, (65537, 65536): 1, (65536, 0): 1,
    }  # fmt: skip


def test_streams_that_cannot_be_counted():
    with pytest.raises(ValueError, match="the stream ends with 2, not with the end symbol 0"):
        count_stream(np.array([1, 0, 2], np.uint16), end=0, symbols=3)
    with pytest.raises(ValueError, match="expected ids below 3, got 9"):
        count_stream(np.array([9, 0], np.uint16), end=0, symbols=3)
    with pytest.raises(ValueError, match="unsigned ids, got 2 of int64"):
        count_stream(np.array([1, 0], np.int64), end=0, symbols=3)
    with pytest.raises(ValueError, match="contiguous ids in this machine's byte order"):
        count_stream(np.array([1, 2, 3, 0], np.uint16)[::3], end=0, symbols=3)
    with pytest.raises(ValueError, match="contiguous ids in this machine's byte order"):
        count_stream(np.array([1, 0], ">u2"), end=0, symbols=3)
    unread = np.broadcast_to(np.uint16(0), (1 << 31,))  # takes no memory
    with pytest.raises(ValueError, match="at most 2147483647 unsigned ids, got 2147483648"):
        count_stream(unread, end=0, symbols=3)


def test_tables_add_up():
    rng = np.random.default_rng(1)
    for _ in range(50):
        symbols = int(rng.integers(2, 30))
        streams = [random_stream(rng, symbols, int(rng.integers(0, 9)), np.uint16) for _ in "abc"]
        a, b, c = (count_stream(stream, 0, symbols) for stream in streams)
        whole = count_stream(np.concatenate(streams), 0, symbols)
        check_table(a + b, symbols)
        assert same(a + b + c, whole)
        assert same(a + (b + c), whole)
        assert same(b + a, a + b)
    empty = count_stream(np.empty(0, np.uint16), 0, symbols)
    assert same(a + empty, a)


def test_tables_over_different_symbols_do_not_add_up():
    two, three = (count_stream(np.array([1, 0], np.uint16), 0, symbols) for symbols in (2, 3))
    with pytest.raises(ValueError, match="tables over 2 and 3 symbols"):
        two + three


@pytest.mark.parametrize("memory_bytes", [0, 3_000, 10_000, 1 << 30])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_counter_equals_the_direct_count_however_little_memory_it_has(
    memory_bytes, dtype, tmp_path, monkeypatch
):
    monkeypatch.setattr(counting, "COUNT_BYTES", 1)  # every document by itself
    symbols = 60
    rng = np.random.default_rng(memory_bytes)
    spill = tmp_path / "spill"
    counter = BigramCounter(0, symbols, memory_bytes, spill)
    streams = []
    for _ in range(25):
        stream = random_stream(rng, symbols, int(rng.integers(0, 30)), dtype)
        counter.add(stream)
        streams.append(stream)
    runs = len(counter.runs)
    assert (runs == 0) == (memory_bytes == 1 << 30)
    if memory_bytes == 0:
        assert runs == sum(np.count_nonzero(stream == 0) for stream in streams)
    counter.finish(tmp_path / "total")
    whole = count_stream(np.concatenate(streams), 0, symbols)
    assert same(table_on_disk(tmp_path / "total"), whole)


def test_counter_takes_tables_and_can_be_flushed_at_any_time(tmp_path):
    rng = np.random.default_rng(2)
    streams = [random_stream(rng, 9, 20, np.uint16) for _ in range(4)]
    counter = BigramCounter(0, 9, 1 << 20, tmp_path / "spill")
    counter.flush()  # nothing yet
    assert counter.runs == []
    counter.add(streams[0])
    counter.flush()
    counter.add_table(count_stream(streams[1], 0, 9))
    counter.add(streams[2])
    counter.flush()
    counter.flush()
    assert [run.name for run in counter.runs] == ["run-00000", "run-00001"]
    counter.add(streams[3])
    counter.finish(tmp_path / "total")
    assert same(table_on_disk(tmp_path / "total"), count_stream(np.concatenate(streams), 0, 9))


def test_counter_without_anything_writes_an_empty_table(tmp_path):
    BigramCounter(0, 9, 1 << 20, tmp_path / "spill").finish(tmp_path / "total")
    table = table_on_disk(tmp_path / "total")
    check_table(table, 9)
    assert table.tokens == 0


def test_counters_do_not_share_a_spill_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "COUNT_BYTES", 1)
    first, second = (BigramCounter(0, 9, 0, tmp_path / "spill") for _ in range(2))
    first.add(np.array([1, 0], np.uint16))
    with pytest.raises(AssertionError, match="another counter's"):
        second.add(np.array([2, 0], np.uint16))


@pytest.mark.parametrize(("small_bytes", "small_streams"), [(0, 1), (1 << 14, 1024), (60, 7)])
def test_streams_counted_together(small_bytes, small_streams, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "SMALL_BYTES", small_bytes)
    monkeypatch.setattr(counting, "SMALL_STREAMS", small_streams)
    monkeypatch.setattr(counting, "COUNT_BYTES", 3000)
    rng = np.random.default_rng(5)
    counter = BigramCounter(0, 30, 1 << 20, tmp_path / "spill")
    streams = [random_stream(rng, 30, int(rng.integers(0, 4)), np.uint16) for _ in range(300)]
    for stream in streams:
        counter.add(stream)
    counter.finish(tmp_path / "total")
    whole = count_stream(np.concatenate(streams), 0, 30)
    assert same(table_on_disk(tmp_path / "total"), whole)
    with pytest.raises(ValueError, match="the stream ends with 2, not with the end symbol 0"):
        counter.add(np.array([1, 2], np.uint16))  # at once, not when it is counted


@pytest.mark.parametrize("most", [1, 2, 7, 64, 1000])
def test_long_streams_are_cut_between_documents(most, tmp_path, monkeypatch):
    rng = np.random.default_rng(most)
    stream = random_stream(rng, 30, 40, np.uint16)
    expected = count_stream(stream, 0, 30)
    monkeypatch.setattr(counting, "COUNT_BYTES", 2 * most)
    counter = BigramCounter(0, 30, 1 << 20, tmp_path / "spill")
    counter.add(stream)
    counter.finish(tmp_path / "total")
    assert same(table_on_disk(tmp_path / "total"), expected)


def test_a_document_longer_than_a_cut_is_counted_whole(tmp_path, monkeypatch):
    long = np.append(np.random.default_rng(3).integers(1, 30, 200_000), 0).astype(np.uint16)
    stream = np.concatenate([long, [5, 0], long[:1], [0]]).astype(np.uint16)
    monkeypatch.setattr(counting, "COUNT_BYTES", 2000)
    counter = BigramCounter(0, 30, 1 << 20, tmp_path / "spill")
    counter.add(stream)
    counter.finish(tmp_path / "total")
    assert same(table_on_disk(tmp_path / "total"), count_stream(stream, 0, 30))


@pytest.mark.parametrize("most_entries", [1, 7, 50, 1 << 20])
def test_tables_on_disk_are_read_and_merged_in_ranges(most_entries, tmp_path):
    symbols = 40
    rng = np.random.default_rng(4)
    tables = [
        count_stream(random_stream(rng, symbols, documents, np.uint16), 0, symbols)
        for documents in (30, 0, 1, 12)
    ]
    paths = [tmp_path / f"table-{number}" for number in range(len(tables))]
    for path, table in zip(paths, tables, strict=True):
        write_table(path, [table], symbols)
        assert same(table_on_disk(path, most_entries), table)
    pieces = [piece for _, piece in read_table(paths[0], most_entries)]
    rows = np.diff(tables[0].row_starts)
    for piece in pieces:
        assert len(piece.count) <= max(most_entries, rows.max())
        assert len(piece.row_starts) >= 2
    assert (len(pieces) > 1) == (most_entries < len(tables[0].count))
    merge_tables(
        [StoredTable.open(path) for path in paths], tmp_path / "total", symbols, most_entries
    )
    whole = tables[0] + tables[1] + tables[2] + tables[3]
    assert same(table_on_disk(tmp_path / "total"), whole)
    totals = sum(piece.unigrams().sum() for _, piece in read_table(tmp_path / "total", 7))
    assert totals == whole.tokens == sum(table.tokens for table in tables)


def test_ranges_know_their_first_row(tmp_path):
    stream = np.array([3, 1, 3, 2, 0], np.uint16)
    write_table(tmp_path / "table", [count_stream(stream, 0, 5)], 5)
    pairs = {}
    for first_row, piece in read_table(tmp_path / "table", 1):
        pairs.update(pairs_of(piece, first_row))
    assert pairs == {(3, 1): 1, (1, 3): 1, (3, 2): 1, (2, 0): 1}


def test_merging_nothing_gives_an_empty_table(tmp_path):
    merge_tables([], tmp_path / "total", 6)
    check_table(table_on_disk(tmp_path / "total"), 6)


@pytest.mark.parametrize("name", ["second.bin", "count.bin", "row_starts.bin", "table.json"])
def test_damaged_tables_are_found(name, tmp_path):
    table = count_stream(np.array([1, 2, 3, 0], np.uint16), 0, 4)
    write_table(tmp_path / "table", [table], 4)
    path = tmp_path / "table" / name
    assert table_damage(tmp_path / "table") == tmp_path / "table" / "table.json", "not sealed yet"
    seal_table(tmp_path / "table", ["a:1"])
    assert table_damage(tmp_path / "table") is None
    assert table_index(tmp_path / "table").counted == ["a:1"]
    whole = path.read_bytes()
    for damaged in (whole[:-8], whole + b"1", bytes([whole[0] ^ 1]) + whole[1:]):
        path.write_bytes(damaged)
        assert table_damage(tmp_path / "table") == path
    path.unlink()
    assert table_damage(tmp_path / "table") == path
