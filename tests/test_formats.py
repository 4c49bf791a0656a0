"""Every format keeps its contract: all comes back, damage is found, nothing is half-written."""

from __future__ import annotations

import importlib.util
import io
import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import slow_if
from format_contract import (
    CONTRACT,
    Case,
    damaged,
    describes_itself,
    some_batches,
    written_bytes,
)

from curate.errors import RecipeError, ShardError
from curate.formats import (
    FORMATS,
    TextBatch,
    TextFormat,
    TokenBatch,
    TokenFormat,
    find,
    jsonl,
    megatron,
    npy,
    parquet,
)
from curate.formats.base import (
    READ_BATCH_BYTES,
    READ_BATCH_TOKENS,
    DatasetFolder,
    runs,
    write_tokens,
)

HEADERS = {
    "megatron": (".idx", 0, 34),
    "npy": (".npy", 0, 128),
    "olmo": (".csv.gz", 0, 40),
    "datatrove": (".ds.metadata", len("tokenizer.json"), 24),  # all but the name
    "mds": (".mds", 0, 12),  # count and two offsets
    "litdata": (".bin", 0, 8),
    "llmc": (".bin", 0, 1020),  # all but whether the end token at the front was added
    "input_ids": (".parquet", 0, 4),
    "parquet": (".parquet", 0, 4),
    "arrow": (".arrow", 0, 256),  # the schema
    "webdataset": (".tar", 0, 512),
    "jsonl": (".jsonl.zst", 0, 7),  # magic, flags and size of the first frame
}
"""Format → file, and from where to where any flip is found."""

ONE_WIDTH = ("llmc",)
"""Formats with a single dtype."""

WIDTH_IS_IN_THE_INDEX = ("litdata",)
"""Formats whose shards do not say their dtype."""

SNIPPET_CHECKS = {
    "megatron": "print(sum(int(documents[i].sum()) for i in range(len(documents))))",
    "npy": "print(int(tokens.sum()))",
    "olmo": "print(int(tokens.sum()))",
    "datatrove": "print(sum(int(window['input_ids'].sum()) for window in windows))",
    "mds": "print(sum(int(sample['tokens'].sum()) for sample in samples))",
    "litdata": "print(sum(int(block.sum()) for block in blocks))",
    "llmc": "print(int(tokens.sum()))",
    "input_ids": "print(sum(sum(row) for row in rows.to_pylist()))",
    "parquet": "print(sum(map(len, documents['text'].to_pylist())))",
    "arrow": "print(sum(map(len, documents['text'])))",
    "webdataset": "print(sum(len(document['txt']) for document in documents))",
    "jsonl": "print(sum(len(document['text']) for document in documents))",
}
"""Format → a line after its snippet that prints a sum over what was loaded."""


CASES = {name: Case(form) for name, form in FORMATS.items()}
TEXT_CASES = {name: case for name, case in CASES.items() if isinstance(case.format, TextFormat)}
TOKEN_CASES = {name: case for name, case in CASES.items() if name not in TEXT_CASES}


def over(cases: dict[str, Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


# --- the contract ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_registered_under_its_name_and_describes_itself(name: str) -> None:
    assert find(name) is FORMATS[name]
    describes_itself(name)


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@over(CASES)
def test_a_format_keeps_the_contract(
    case: Case, check: Callable[[Case, Path], None], tmp_path: Path
) -> None:
    check(case, tmp_path)


@over(CASES)
def test_any_changed_byte_of_the_header_is_found(case: Case, tmp_path: Path) -> None:
    stem = tmp_path / "shard"
    case.write(stem, some_batches(case))
    suffix, start, stop = HEADERS[case.format.name]
    path = stem.with_name(stem.name + suffix)
    whole = path.read_bytes()
    for position in range(start, stop):
        for flip in (0xFF, 0x01):
            changed = bytearray(whole)
            changed[position] ^= flip
            path.write_bytes(changed)
            damaged(case, stem)


@pytest.mark.parametrize("name", slow_if("webdataset".__eq__, CASES))
def test_memory_does_not_grow_with_the_shard(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    stem = tmp_path / "shard"
    steps = 60
    if isinstance(case.format, TokenFormat):
        batch = case.batch(np.random.default_rng(0), [1000] * 1000)
        limit_bytes = 20 << 20  # shard of 120 MB; two of a reader's batches are 16 MB
        if case.format.name == "input_ids":
            limit_bytes += 40 << 20  # and row groups on their way to a batch, as Arrow and as ours
    else:
        rows = [chr(97 + row % 26) * 16_000 for row in range(128)]
        names = [str(row) for row in range(128)]
        batch = TextBatch(rows, names, names, ["{}"] * 128)
        limit_bytes = 80 << 20  # shard of 123 MB; frames and row groups are 16 MB
    arrow_peak_bytes = 0

    def stream() -> Iterator[Any]:
        nonlocal arrow_peak_bytes
        for _ in range(steps):
            arrow_peak_bytes = max(arrow_peak_bytes, pa.total_allocated_bytes())
            yield batch

    tracemalloc.start()
    try:
        case.write(stem, stream())
        assert tracemalloc.get_traced_memory()[1] + arrow_peak_bytes < limit_bytes
        tracemalloc.reset_peak()
        arrow_peak_bytes = 0
        total = 0
        for found in case.read(stem):
            arrow_peak_bytes = max(arrow_peak_bytes, pa.total_allocated_bytes())
            total += case.content_sum([found])
        assert tracemalloc.get_traced_memory()[1] + arrow_peak_bytes < limit_bytes
    finally:
        tracemalloc.stop()
    assert total == steps * case.content_sum([batch])


@over(CASES)
def test_the_snippet_loads_a_shard(case: Case, tmp_path: Path) -> None:
    for library in re.findall(r"^(?:from|import) (\w+)", case.format.snippet, re.MULTILINE):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    batches = some_batches(case)
    stem = tmp_path / "train" / "shard"
    case.write(stem, batches)
    if case.format.finish is not None:
        dtype = case.dtype if isinstance(case.format, TokenFormat) else np.dtype(np.uint16)
        case.format.finish(DatasetFolder(tmp_path, {"train": [stem], "validation": []}, dtype))
    code = case.format.snippet.format(path=stem) + SNIPPET_CHECKS[case.format.name]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout) == ("", f"{case.content_sum(batches)}\n")


def test_an_unknown_format_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match=r"is called 'megatorn'; did you mean 'megatron'\?"):
        find("megatorn")
    with pytest.raises(RecipeError, match=r"'Jsonl'; did you mean 'jsonl'\? \(known: megatron, "):
        find("Jsonl")


def test_runs_cover_every_item_once_within_the_limits() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths = rng.integers(0, 50, rng.integers(0, 60))
        cuts = list(runs(lengths, limit=60, most=7))
        assert [start for start, _ in cuts] + [len(lengths)] == [0] + [stop for _, stop in cuts]
        for start, stop in cuts:
            assert start < stop <= start + 7
            assert lengths[start:stop].sum() <= 60 or stop == start + 1
            full = stop == start + 7 or stop == len(lengths)
            assert full or lengths[start : stop + 1].sum() > 60


# --- token formats --------------------------------------------------------------------------


def batch_of(tokens: list[int], lengths: list[int], dtype: str) -> TokenBatch:
    return TokenBatch(np.array(tokens, dtype), np.array(lengths, np.int64))


@pytest.mark.parametrize(
    ("dtype_for", "highest_id", "expected"),
    [
        (megatron.dtype_for, 0, "uint16"),
        (megatron.dtype_for, 65_498, "uint16"),  # vocabulary 65 499 < 65 500
        (megatron.dtype_for, 65_499, "int32"),
        (megatron.dtype_for, 65_536, "int32"),
        (megatron.dtype_for, 2**31 - 1, "int32"),
        (npy.dtype_for, 65_499, "uint16"),
        (npy.dtype_for, 65_535, "uint16"),
        (npy.dtype_for, 65_536, "uint32"),
        (npy.dtype_for, 2**32 - 1, "uint32"),
    ],
)
def test_dtype_follows_the_highest_id(
    dtype_for: Callable[[int], np.dtype[Any]], highest_id: int, expected: str
) -> None:
    assert dtype_for(highest_id) == np.dtype(expected)


def test_an_id_beyond_the_format_is_refused() -> None:
    with pytest.raises(RecipeError, match="megatron holds token ids up to 2147483647.*2147483648"):
        megatron.dtype_for(2**31)
    with pytest.raises(RecipeError, match="npy holds token ids up to 4294967295.*4294967296"):
        npy.dtype_for(2**32)
    with pytest.raises(RecipeError, match=r"llmc \(variant llmc\) holds .*take variant: nemo if"):
        find("llmc").dtype_for(70_000)


@over(TOKEN_CASES)
@pytest.mark.parametrize("source", ["uint16", "int32", "uint32"])
def test_every_width_of_batch_is_stored_at_every_width_of_disk(
    case: Case, source: str, tmp_path: Path
) -> None:
    form = case.format
    assert isinstance(form, TokenFormat)
    highest_ids = (100,) if form.name in ONE_WIDTH else (100, 70_000)
    for dtype in map(form.dtype_for, highest_ids):
        batch = batch_of([0, 65_498, 7], [1, 2], source)
        form.write(tmp_path / "shard", [batch], dtype)
        found = list(form.read(tmp_path / "shard", dtype))
        assert [read.tokens.dtype for read in found] == [dtype]
        assert case.content(found) == case.content([batch])


@over(TOKEN_CASES)
@pytest.mark.parametrize("token", [65_536, 2**31 - 1, -1])
def test_an_id_that_would_wrap_round_is_refused(case: Case, token: int, tmp_path: Path) -> None:
    batches = [batch_of([1], [1], "int32"), batch_of([3, token, 4], [3], "int32")]
    with pytest.raises(ShardError, match=rf"token id {token} does not fit uint16 \(0 to 65535\)"):
        case.write(tmp_path / "shard", batches)
    assert list(tmp_path.iterdir()) == []


class ThreeByteFile(io.RawIOBase):
    """Takes three bytes a call, as a raw file may stop anywhere."""

    def __init__(self) -> None:
        self.taken = b""

    def write(self, block: Any) -> int:
        self.taken += bytes(block[:3])
        return min(3, len(block))


def test_writes_that_stop_short_are_continued() -> None:
    file = ThreeByteFile()
    write_tokens(file, batch_of([1, 2, 3, 4, 5], [5], "uint16"), np.dtype(np.uint16))
    assert file.taken == b"\1\0\2\0\3\0\4\0\5\0"


@over(TOKEN_CASES)
def test_strided_tokens_are_stored_in_order(case: Case, tmp_path: Path) -> None:
    tokens = np.arange(20, dtype=case.dtype)[::2]
    case.write(tmp_path / "shard", [TokenBatch(tokens, np.array([4, 6]))])
    assert [read.tokens.tolist() for read in case.read(tmp_path / "shard")] == [tokens.tolist()]


@over(TOKEN_CASES)
@pytest.mark.parametrize("lengths", [[2], [4], [4, -1], []])
def test_lengths_that_contradict_the_tokens_are_refused(
    case: Case, lengths: list[int], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="lengths add up to"):
        case.write(tmp_path / "shard", [batch_of([1, 2, 3], lengths, "uint16")])
    assert list(tmp_path.iterdir()) == []


@over(TOKEN_CASES)
def test_the_wrong_dtype_is_refused_both_ways(case: Case, tmp_path: Path) -> None:
    form = case.format
    assert isinstance(form, TokenFormat)
    with pytest.raises(ValueError, match="dtype must be uint16.*int64"):
        form.write(tmp_path / "other", [], np.dtype(np.int64))
    if form.name in ONE_WIDTH + WIDTH_IS_IN_THE_INDEX:
        return
    narrow, wide = form.dtype_for(100), form.dtype_for(70_000)
    for stored, asked in ((narrow, wide), (wide, narrow)):
        form.write(tmp_path / "shard", [batch_of([1, 2], [2], "uint16")], stored)
        with pytest.raises(ShardError, match=f"expected tokens of {asked.name}.*{stored.name}"):
            list(form.read(tmp_path / "shard", asked))


@over(TOKEN_CASES)
def test_readers_hand_out_at_most_four_million_tokens(case: Case, tmp_path: Path) -> None:
    lengths = [1, READ_BATCH_TOKENS - 1, 5, 2 * READ_BATCH_TOKENS, 1, 1]
    tokens = np.arange(sum(lengths)).astype(case.dtype)
    case.write(tmp_path / "shard", [TokenBatch(tokens, np.array(lengths))])
    found = list(case.read(tmp_path / "shard"))
    np.testing.assert_array_equal(np.concatenate([batch.tokens for batch in found]), tokens)
    if case.format.keeps_documents:  # type: ignore[union-attr]
        assert [batch.lengths.tolist() for batch in found] == [
            lengths[:2], lengths[2:3], lengths[3:4], lengths[4:],
        ]  # fmt: skip
    else:
        assert max(batch.tokens.size for batch in found) == READ_BATCH_TOKENS


# --- megatron -------------------------------------------------------------------------------


def test_megatron_index_by_hand(tmp_path: Path) -> None:
    batches = [batch_of([5, 6, 7], [3], "uint16"), batch_of([8], [1], "uint16")]
    bin_path, idx_path = megatron.write(tmp_path / "shard", batches, np.dtype(np.uint16))
    assert (bin_path.name, idx_path.name) == ("shard.bin", "shard.idx")
    assert bin_path.read_bytes() == b"\5\0\6\0\7\0\x08\0"
    assert idx_path.read_bytes() == (
        b"MMIDIDX\0\0"
        b"\1\0\0\0\0\0\0\0"  # version
        b"\x08"  # uint16
        b"\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0"  # two sequences, three boundaries
        b"\3\0\0\0\1\0\0\0"  # their tokens
        b"\0\0\0\0\0\0\0\0\6\0\0\0\0\0\0\0"  # the second begins three tokens of two bytes later
        b"\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0"
    )


@pytest.mark.parametrize("highest_id", [65_498, 200_000])
def test_megatron_read_by_its_specification(highest_id: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(highest_id)
    dtype = megatron.dtype_for(highest_id)
    documents = [rng.integers(0, highest_id + 1, rng.integers(1, 90)) for _ in range(500)]
    batches = [
        TokenBatch(
            np.concatenate(documents[start : start + 37]).astype(dtype),
            np.array([len(document) for document in documents[start : start + 37]]),
        )
        for start in range(0, 500, 37)
    ]
    bin_path, idx_path = megatron.write(tmp_path / "shard", batches, dtype)

    index, tokens = idx_path.read_bytes(), bin_path.read_bytes()
    code, width, kind = (8, 2, "H") if highest_id == 65_498 else (4, 4, "i")
    assert len(index) == 34 + 4 * 500 + 8 * 500 + 8 * 501
    assert index[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack_from("<QBQQ", index, 9) == (1, code, 500, 501)
    lengths = struct.unpack_from("<500i", index, 34)
    begins = struct.unpack_from("<500q", index, 34 + 4 * 500)
    boundaries = struct.unpack_from("<501q", index, 34 + 12 * 500)
    assert boundaries == tuple(range(501))
    assert begins[-1] + lengths[-1] * width == len(tokens)
    for document, length, begin in zip(documents, lengths, begins, strict=True):
        assert list(struct.unpack_from(f"<{length}{kind}", tokens, begin)) == document.tolist()


def test_megatron_index_is_the_same_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [batch_of(list(range(50)), [5] * 10, "uint16")]
    whole = written_bytes(megatron.write(tmp_path / "shard", batches, np.dtype(np.uint16)))
    for piece in (1, 3, 10, 11):
        monkeypatch.setattr(megatron, "INDEX_PIECE", piece)
        paths = megatron.write(tmp_path / "again", batches, np.dtype(np.uint16))
        assert written_bytes(paths) == whole
        assert len(list(megatron.read(tmp_path / "again", np.dtype(np.uint16)))) == 1


@pytest.mark.parametrize(
    ("offset", "kind", "value", "message"),
    [
        (0, "<B", 0x4E, r"starting b'MMIDIDX.*found b'NMIDIDX"),
        (9, "<Q", 2, "version 1, found .* version 2"),
        (17, "<B", 5, "expected tokens of uint16, found code 5: a dtype curate does not write"),
        (17, "<B", 4, "expected tokens of uint16, found code 4: int32"),
        (18, "<Q", 4, "expected 5 document boundaries for 4 sequences, found 4"),
        (26, "<Q", 9, "expected 4 document boundaries for 3 sequences, found 9"),
        (34, "<i", -2, "sequence 0 has -2 tokens"),
        (34, "<i", 5, "byte offset of sequence 1: expected 10, found 4"),
        (42, "<i", 5, "bin: expected 20 bytes for 10 tokens, found 18"),
        (46, "<q", 2, "byte offset of sequence 0: expected 0, found 2"),
        (62, "<q", 12, "byte offset of sequence 2: expected 10, found 12"),
        (70, "<q", 1, "first sequence of document 0: expected 0, found 1"),
        (94, "<q", 4, "first sequence of document 3: expected 3, found 4"),
    ],
)
def test_megatron_every_field_of_the_index_is_checked(
    offset: int, kind: str, value: int, message: str, tmp_path: Path
) -> None:
    batch = batch_of(list(range(9)), [2, 3, 4], "uint16")
    _, idx_path = megatron.write(tmp_path / "shard", [batch], np.dtype(np.uint16))
    index = bytearray(idx_path.read_bytes())
    assert len(index) == 102
    struct.pack_into(kind, index, offset, value)
    idx_path.write_bytes(index)
    expected = message if message.startswith("bin") else f"shard.idx: .*{message}"
    with pytest.raises(ShardError, match=expected):
        list(megatron.read(tmp_path / "shard", np.dtype(np.uint16)))


def test_megatron_lengths_swapped_between_sequences_are_found(tmp_path: Path) -> None:
    batch = batch_of(list(range(5)), [2, 3], "uint16")
    _, idx_path = megatron.write(tmp_path / "shard", [batch], np.dtype(np.uint16))
    index = bytearray(idx_path.read_bytes())
    struct.pack_into("<2i", index, 34, 3, 2)
    idx_path.write_bytes(index)
    with pytest.raises(ShardError, match="byte offset of sequence 1: expected 6, found 4"):
        list(megatron.read(tmp_path / "shard", np.dtype(np.uint16)))


def test_megatron_refuses_a_document_longer_than_its_index_can_say(tmp_path: Path) -> None:
    endless = np.broadcast_to(np.zeros(1, np.uint16), (2**31,))  # takes no memory
    batch = TokenBatch(endless, np.array([2**31]))
    with pytest.raises(ShardError, match="has 2147483648 tokens, megatron indexes at most"):
        megatron.write(tmp_path / "shard", [batch], np.dtype(np.uint16))
    assert list(tmp_path.iterdir()) == []


def test_megatron_old_index_never_meets_new_tokens(tmp_path: Path) -> None:
    (tmp_path / "shard.idx").mkdir()  # an index that cannot be replaced
    with pytest.raises(OSError):
        megatron.write(tmp_path / "shard", [batch_of([1], [1], "uint16")], np.dtype(np.uint16))
    assert [path.name for path in tmp_path.iterdir()] == ["shard.idx"]


def test_megatron_tokens_are_in_place_before_the_index(tmp_path: Path) -> None:
    (tmp_path / "shard.bin").mkdir()  # tokens that cannot be put in place
    with pytest.raises(OSError):
        megatron.write(tmp_path / "shard", [batch_of([1], [1], "uint16")], np.dtype(np.uint16))
    assert [path.name for path in tmp_path.iterdir()] == ["shard.bin"]


# --- npy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count_tokens", [0, 1, 9, 10, 123_456])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_npy_is_what_numpy_saves(count_tokens: int, dtype: str, tmp_path: Path) -> None:
    tokens = np.arange(count_tokens).astype(dtype)
    batches = [TokenBatch(part, np.array([part.size])) for part in np.array_split(tokens, 3)]
    (path,) = npy.write(tmp_path / "shard", batches, np.dtype(dtype))
    saved = io.BytesIO()
    np.save(saved, tokens)
    assert path.read_bytes() == saved.getvalue()
    assert len(npy.header(2**63, np.dtype(dtype))) == 128
    if count_tokens:
        mapped = np.load(path, mmap_mode="r")
        assert (mapped.ndim, mapped.dtype) == (1, np.dtype(dtype))
        np.testing.assert_array_equal(mapped, tokens)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3), np.uint16), "expected a NumPy header of 128 bytes as curate writes it"),
        (np.zeros(3, np.float32), "expected a NumPy header of 128 bytes as curate writes it"),
        (np.zeros(3, np.uint32), "expected tokens of uint16, found uint32"),
    ],
)
def test_npy_of_another_kind_is_refused(
    array: np.ndarray[Any, Any], message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "shard.npy", array)
    with pytest.raises(ShardError, match=message):
        list(npy.read(tmp_path / "shard", np.dtype(np.uint16)))


def test_npy_messages_say_expected_and_found(tmp_path: Path) -> None:
    (path,) = npy.write(
        tmp_path / "shard", [batch_of([1, 2, 3], [3], "uint16")], np.dtype(np.uint16)
    )
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardError, match="npy: expected 134 bytes for 3 tokens, found 133"):
        list(npy.read(tmp_path / "shard", np.dtype(np.uint16)))
    np.arange(99, dtype=np.uint16).tofile(path)  # headerless, as some trainers have it
    with pytest.raises(ShardError, match="expected a NumPy file starting"):
        list(npy.read(tmp_path / "shard", np.dtype(np.uint16)))


# --- text formats ---------------------------------------------------------------------------

AWKWARD = [
    "",
    "\0",
    '"quoted" \\ back\\nslash',
    "a\nb\r\nc\rd\u2028e\u2029f\u0085g\x0b\x0c\x1c",
    "日本語 🙂 e\u0301 \ufeff\uffff\U0010ffff",
    "2013-05-18T07:24:47Z",
    "null",
    "1.0",
]


@over(TEXT_CASES)
def test_awkward_text_comes_back_unchanged(case: Case, tmp_path: Path) -> None:
    metadata = ['{"b":1,"a":123456789012345678901234567890}', '{ "x" : 1.50e2 }', "{}", "{}"] * 2
    batch = TextBatch(AWKWARD, AWKWARD[::-1], AWKWARD, metadata)
    case.write(tmp_path / "shard", [batch])
    assert case.content(case.read(tmp_path / "shard")) == case.content([batch])


@over(TEXT_CASES)
def test_readers_hand_out_at_most_eight_megabytes_of_text(case: Case, tmp_path: Path) -> None:
    texts = ["a", "é" * (10 << 20), *["b" * (1 << 20)] * 20]
    batch = TextBatch(texts, texts_ids := [str(row) for row in range(22)], texts_ids, ["{}"] * 22)
    case.write(tmp_path / "shard", [batch])
    found = list(case.read(tmp_path / "shard"))
    assert case.content(found) == case.content([batch])
    for read in found:
        assert sum(map(len, read.texts)) <= READ_BATCH_BYTES or len(read.texts) == 1
    assert len(found) <= 6


@over(TEXT_CASES)
def test_a_changed_byte_of_the_content_is_found(case: Case, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stem = tmp_path / "shard"
    (path,) = case.write(stem, [case.batch(rng, [3000] * 3)])
    whole = path.read_bytes()
    for position in rng.integers(720, 2000, 40).tolist():  # within the compressed text
        changed = bytearray(whole)
        changed[position] ^= 0x10
        path.write_bytes(changed)
        damaged(case, stem)


@over(TEXT_CASES)
def test_lists_of_unequal_length_are_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        case.write(tmp_path / "shard", [TextBatch(["a", "b"], ["1"], ["x"], ["{}"])])
    assert list(tmp_path.iterdir()) == []


@over(TEXT_CASES)
def test_a_lone_surrogate_is_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="cannot be stored"):
        case.write(tmp_path / "shard", [TextBatch(["a\ud83d"], ["1"], ["x"], ["{}"])])
    assert list(tmp_path.iterdir()) == []


# --- parquet --------------------------------------------------------------------------------


def test_parquet_is_laid_out_for_readers(tmp_path: Path) -> None:
    names = [str(row) for row in range(2500)]
    (path,) = parquet.write(
        tmp_path / "shard", [TextBatch(names, names, ["wiki"] * 2500, ["{}"] * 2500)]
    )
    found = pq.read_metadata(path)
    groups = [found.row_group(group) for group in range(found.num_row_groups)]
    assert [group.num_rows for group in groups] == [1024, 1024, 452]
    assert [str(field.type) for field in pq.read_schema(path)] == ["string"] * 4
    assert pq.read_schema(path).names == ["text", "id", "source", "metadata"]
    columns = [groups[0].column(column) for column in range(4)]
    assert {column.compression for column in columns} == {"ZSTD"}
    assert [column.is_stats_set for column in columns] == [False, True, True, False]
    assert [column.has_dictionary_page for column in columns] == [False, False, True, False]


def test_parquet_row_groups_hold_at_most_64_megabytes_of_text(tmp_path: Path) -> None:
    texts = ["a" * (24 << 20)] * 5  # two fit in 64 MB
    names = [str(row) for row in range(5)]
    batches = [
        TextBatch([text], [name], [name], ["{}"]) for text, name in zip(texts, names, strict=True)
    ]
    (path,) = parquet.write(tmp_path / "shard", batches)
    found = pq.read_metadata(path)
    assert [found.row_group(group).num_rows for group in range(found.num_row_groups)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"text": ["a"]}), "expected the columns text string, id string, .* found text"),
        (
            pa.table([[1]] * 4, names=["text", "id", "source", "metadata"]),
            "found text int64, id int64",
        ),
        (pa.Table.from_pylist([{"text": None}], parquet.schema()), "row group 0: text has a null"),
    ],
)
def test_parquet_of_another_kind_is_refused(table: pa.Table, message: str, tmp_path: Path) -> None:
    pq.write_table(table, tmp_path / "shard.parquet")
    with pytest.raises(ShardError, match=f"shard.parquet: .*{message}"):
        list(parquet.read(tmp_path / "shard"))


def test_arrow_with_a_null_is_refused(tmp_path: Path) -> None:
    rows = pa.RecordBatch.from_pylist([{"text": "a"}], parquet.schema())
    with pa.ipc.new_stream(tmp_path / "shard.arrow", parquet.schema()) as stream:
        stream.write_batch(rows)
    with pytest.raises(ShardError, match=r"shard\.arrow: batch 0: id has a null"):
        list(FORMATS["arrow"].read(tmp_path / "shard"))


# --- jsonl ----------------------------------------------------------------------------------


def frame_of(*lines: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(b"".join(lines))


def test_jsonl_line_by_hand(tmp_path: Path) -> None:
    batch = TextBatch(["é\n"], ["7"], ["wiki"], ['{"year":2020}'])
    (path,) = jsonl.write(tmp_path / "shard", [batch])
    with path.open("rb") as file:
        frames = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        assert frames.read().decode() == (
            '{"text":"é\\n","id":"7","source":"wiki","metadata":{"year":2020}}\n'
        )


def test_jsonl_frames_are_whole_lines_of_16_megabytes_with_checksums(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [rng.bytes(750_000).hex() for _ in range(30)]  # 45 MB
    names = [str(row) for row in range(30)]
    (path,) = jsonl.write(tmp_path / "shard", [TextBatch(texts, names, names, ["{}"] * 30)])
    compressed = path.read_bytes()
    sizes = []
    while compressed:
        parameters = zstandard.get_frame_parameters(compressed)
        assert parameters.has_checksum
        assert parameters.window_size <= 1 << 27
        frame = zstandard.ZstdDecompressor().decompressobj()
        lines = frame.decompress(compressed)
        assert parameters.content_size == len(lines)
        assert all(orjson.loads(line)["metadata"] == {} for line in lines.splitlines())
        sizes.append(len(lines))
        compressed = frame.unused_data
    assert len(sizes) == 4 and sizes[-1] == 0
    assert all(16 << 20 <= size < 18 << 20 for size in sizes[:2])
    assert sum(map(len, pa.input_stream(path).read().splitlines())) == sum(sizes) - 30


def test_jsonl_cut_between_frames_is_found(tmp_path: Path) -> None:
    line = jsonl.to_line("a", "1", "x", "{}")
    path = tmp_path / "shard.jsonl.zst"
    for content in (b"", frame_of(line), frame_of(line) + frame_of(line)):
        path.write_bytes(content)
        message = damaged(CASES["jsonl"], tmp_path / "shard")
        assert "expected an empty zstd frame at its end" in message
    path.write_bytes(frame_of(line) + frame_of() + frame_of(line))
    assert "expected its end after 2 frames, found more" in damaged(
        CASES["jsonl"], tmp_path / "shard"
    )
    path.write_bytes(frame_of(line) + frame_of(line) + frame_of())
    assert [batch.ids for batch in jsonl.read(tmp_path / "shard")] == [["1", "1"]]


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"\n",
        b'{"text":"a","id":"1","source":"x"}\n',
        b'{"text":1,"id":"1","source":"x","metadata":{}}\n',
        b'{"text":"a","id":"1","source":"x","metadata":{},"more":1}\n',
        b'{"text":"a","id":"1","source":"x","metadata":"{}"}\n',
        b'{"text":"\xff","id":"1","source":"x","metadata":{}}\n',
    ],
)
def test_jsonl_foreign_lines_are_refused_with_their_number(line: bytes, tmp_path: Path) -> None:
    good = jsonl.to_line("a", "1", "x", "{}")
    (tmp_path / "shard.jsonl.zst").write_bytes(frame_of(good) + frame_of(good, line) + frame_of())
    assert "shard.jsonl.zst:3: expected" in damaged(CASES["jsonl"], tmp_path / "shard")


def test_jsonl_without_a_last_line_feed_is_refused(tmp_path: Path) -> None:
    good = jsonl.to_line("a", "1", "x", "{}")
    (tmp_path / "shard.jsonl.zst").write_bytes(frame_of(good[:-1]) + frame_of())
    assert "zstd frames of whole lines" in damaged(CASES["jsonl"], tmp_path / "shard")


@pytest.mark.parametrize("metadata", ["", "[]", "null", "{", '{"a":1}x', '{"a":\n1}'])
def test_jsonl_refuses_metadata_that_is_not_an_object(metadata: str, tmp_path: Path) -> None:
    batch = TextBatch(["a"], ["7"], ["wiki"], [metadata])
    with pytest.raises(ShardError, match="document '7' of 'wiki': expected metadata that is"):
        jsonl.write(tmp_path / "shard", [batch])
    assert list(tmp_path.iterdir()) == []
