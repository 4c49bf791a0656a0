"""Arrays over documents in files, in blocks and in memory: the same, whatever the memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_sample import make_documents, write_domain

import curate
from curate.dataset.manifest import PROVENANCE
from curate.dataset.write_tokens import _in_sequences, write_provenance
from curate.formats.base import BEST_FIT, WHOLE
from curate.plan import (
    PAD,
    PIECE,
    DocumentSampler,
    SequenceSampler,
    TokenCopier,
    packing,
    stream,
)
from curate.plan.packing import pack
from curate.plan.streams import joined, order_of_keys
from curate.runtime import external_sort, mapping, memory
from curate.runtime.external_sort import sort_rows
from curate.runtime.mapping import map_file, map_scratch, mapped_bytes
from curate.runtime.memory import Columns, block_rows, blocks, bounded, columns, take
from curate.runtime.progress import Observer
from curate.runtime.workers import Send, run_apart
from curate.stats.bigram_sample import excerpts, keyed_documents, text_numbers
from curate.stats.copies import is_among, repeated_documents, shared_documents
from curate.tokens.domain import DOCUMENT_COLUMNS, DomainTokens

LITTLE = 1 << 17
"""So little memory that a block has 128 documents, and most arrays are in files."""

SEED = 7


@pytest.fixture
def little(tmp_path: Path) -> Iterator[None]:
    """Very little memory, in a directory that is empty before and after."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with bounded(LITTLE, scratch):
        yield
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("distinct", [1, 3, 10**6])
def test_rows_are_sorted_as_in_memory(
    little: None, distinct: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[int] = []
    monkeypatch.setattr(external_sort, "worked", lambda amount, unit: work.append(amount))
    rng = np.random.default_rng(distinct)
    keys = rng.integers(0, 2**64, distinct, np.uint64)[rng.integers(0, distinct, 5000)]

    def batches() -> Iterator[Columns]:
        for rows in blocks(len(keys)):
            yield {"key": keys[rows], "number": np.arange(rows.start, rows.stop)}

    ranked = sort_rows(batches, "key", order_of_keys)
    assert np.array_equal(ranked["number"], np.argsort(keys, kind="stable"))
    assert np.array_equal(ranked["key"], np.sort(keys))
    passes = (external_sort.READING, external_sort.DEALING, external_sort.SORTING)
    assert sum(work) == sum(passes) * len(keys) and (distinct < 10 or max(work) < sum(work) / 10)
    dropped = sort_rows(batches, "key", order_of_keys, drop_key=True)
    assert list(dropped) == ["number"] and np.array_equal(dropped["number"], ranked["number"])
    assert len(keys) > block_rows()


@pytest.mark.parametrize("ranked", [0, 1, 5, 900])
@pytest.mark.parametrize("values", [0, 1, 50, 3000])
def test_values_are_looked_up_as_numpy_does(ranked: int, values: int) -> None:
    rng = np.random.default_rng(ranked + values)
    held = np.sort(rng.integers(0, 2**64, ranked, np.uint64))
    held[:1], held[1:][-1:] = 0, 2**64 - 1
    sought = rng.integers(0, 2**64, values, np.uint64)
    sought[: values // 2] = rng.choice(np.append(held, np.uint64(7)), values // 2)
    for some in (sought, sought | np.uint64(0xFFFF)):  # and neighbours of what is held
        assert np.array_equal(is_among(some, held), np.isin(some, held))


def test_files_of_arrays_go_with_the_arrays(little: None) -> None:
    before = mapped_bytes()
    made = columns(10_000, {"first": np.int64, "second": np.int32})
    made["second"][...] = np.arange(10_000)
    made["first"][...] = 7
    assert mapped_bytes() == before + 120_000
    numbers = np.random.default_rng(0).permutation(10_000)
    assert np.array_equal(take(made["second"], numbers), numbers)
    del made
    assert mapped_bytes() == before


def test_empty_arrays_need_no_file(tmp_path: Path) -> None:
    """A file without a byte cannot be mapped."""
    held = columns(LITTLE, {"first": np.int8})
    with bounded(LITTLE, tmp_path):  # all of whose memory is taken by what was made before
        assert len(columns(0, {"first": np.int64})["first"]) == 0
    assert len(held["first"]) == LITTLE


def test_arrays_that_outlive_an_inner_bound_still_count(tmp_path: Path) -> None:
    """Domains are opened under a bound of their own, and used under that of the whole build."""
    with bounded(LITTLE, tmp_path):
        with bounded(LITTLE, tmp_path):
            held = columns(LITTLE // 4, {"first": np.int8})
        before = mapped_bytes()
        assert len(held["first"]) == LITTLE // 4 and mapped_bytes() == before
        made = columns(1, {"first": np.int64})
        assert mapped_bytes() > before
    assert len(made["first"]) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is shared without forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_small_arrays_share_a_file_but_not_with_forked_processes(tmp_path: Path) -> None:
    with bounded(LITTLE, tmp_path):
        held = columns(LITTLE // 4, {"first": np.int8})
        maps = len(mapping._live)
        made = [columns(8, {"first": np.int64})["first"] for _ in range(300)]
        assert len(mapping._live) - maps == 300 * 64 * memory.SHEET_SHARE // LITTLE + 1
        process = os.fork()
        if not process:
            columns(8, {"first": np.int64})["first"][...] = 1
            os._exit(0)
        assert os.waitpid(process, 0)[1] == 0
        assert not columns(8, {"first": np.int64})["first"].any()
    del made, held
    assert len(mapping._live) == maps


RACE = """
import sys, threading, time
from pathlib import Path
import numpy as np
from curate.runtime.mapping import forget_pages, map_scratch

directory, large = Path(sys.argv[1]), 64 << 20
kept = [map_scratch(directory, 4096) for _ in range(2000)]
done = threading.Event()

def forget():
    while not done.is_set():
        forget_pages()

thread = threading.Thread(target=forget)
thread.start()
lost = 0
for _ in range(40):
    mapped = map_scratch(directory, large)
    time.sleep(0.004)
    del mapped
    other = np.empty(large - (1 << 16), np.uint8)  # at the same address, as it fits in there
    other[: 1 << 16] = 1
    time.sleep(0.004)
    lost += not other[: 1 << 16].all()
done.set()
thread.join()
sys.exit(lost)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems place memory differently")
def test_giving_pages_back_spares_memory_that_took_the_place_of_a_map(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0


def test_a_scratch_file_names_its_directory_where_none_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        map_scratch(tmp_path / "missing", 1)
    assert caught.value.filename == str(tmp_path / "missing")


@pytest.mark.parametrize("length", [1, 7, 64, 10**6])
def test_sequences_of_held_out_documents_do_not_depend_on_parts(length: int) -> None:
    rng = np.random.default_rng(length)
    pieces = np.zeros(300, PIECE)
    pieces["document"] = np.arange(300)
    pieces["tokens"] = rng.integers(1, 40, 300)
    whole = joined(_in_sequences([pieces], length))
    cut = joined(_in_sequences(np.split(pieces, [0, 1, 50, 51, 299]), length))
    assert np.array_equal(whole.pieces, cut.pieces) and np.array_equal(whole.lengths, cut.lengths)
    assert (whole.lengths[:-1] == length).all() and whole.lengths.sum() == pieces["tokens"].sum()
    assert np.array_equal(np.bincount(whole.pieces["document"], whole.pieces["tokens"]),
                          pieces["tokens"])  # fmt: skip


@pytest.mark.parametrize("how", [BEST_FIT, WHOLE])
def test_rows_do_not_depend_on_parts(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "GROUP_ROWS", 8)
    pieces = np.zeros(500, PIECE)
    pieces["document"] = np.arange(500)
    pieces["tokens"] = np.random.default_rng(1).integers(1, 90, 500)
    whole = pack(pieces, 32, how)
    cut = joined(packing.pack_parts(np.split(pieces, [0, 3, 100, 101, 450]), 32, how))
    assert np.array_equal(whole.pieces, cut.pieces) and np.array_equal(whole.lengths, cut.lengths)


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_provenance_has_the_bytes_of_numpy(tmp_path: Path, rows: int) -> None:
    pieces = np.zeros(rows, PIECE)
    pieces["domain"] = PAD
    pieces["tokens"] = np.arange(rows)
    write_provenance(tmp_path / "made.npy", pieces, [])
    expected = np.zeros(rows, PROVENANCE)
    for name in PIECE.names or ():
        expected[name] = pieces[name]
    np.save(tmp_path / "expected.npy", expected)
    assert (tmp_path / "made.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


def domains_of(store: Path) -> list[DomainTokens]:
    """Domains of several parts, one with copies of documents of another."""
    talk, code = make_documents("talk", 3000), make_documents("code", 700)
    files = {"talk": [talk[:1000], talk[1000:]], "code": [code, talk[:50]]}
    return [
        write_domain(store, name, listed, segment_documents=300) for name, listed in files.items()
    ]


def drawn(domains: list[DomainTokens]) -> list[NDArray[Any]]:
    """What planning, sampling and writing read of domains."""
    made: list[NDArray[Any]] = [shared_documents(domains)]
    streams = []
    for domain in domains:
        made += [domain.tokens, domain.content_high, domain.content_low, domain.identity]
        made += [domain.token_start, domain.part_of(np.arange(len(domain)))]
        held_out = domain.validation(0.1, 0)
        numbers = keyed_documents(domain, SEED, 100)
        repeats = [repeated_documents(domain, rows) for rows in blocks(len(domain))]
        made += [held_out, numbers, text_numbers(domain, numbers), np.concatenate(repeats)]
        made += [*excerpts(domain, 0, SEED, 200), *domain.locate(np.arange(len(domain)))]
        made.append(np.frombuffer(domain.fingerprint.encode(), np.uint8))
        supply = int(domain.tokens[~held_out].sum())
        streams.append(stream(domain, ~held_out, supply * 5 // 2, SEED))
        made += [streams[-1].documents, streams[-1].stops]
    copier = TokenCopier(domains)
    for sampler in (SequenceSampler(streams, 64, SEED), DocumentSampler(streams, domains, SEED, 9)):
        for shard in range(3):
            samples = joined(sampler.parts(shard, 3))
            tokens = np.empty(int(samples.lengths.sum()), np.uint16)
            copier.copy(samples.pieces, tokens)
            made += [samples.pieces, samples.lengths, tokens]
    return made


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether an array lies in a mapped file."""
    address = array.__array_interface__["data"][0]
    return any(start <= address < start + length for start, length in mapping._live.items())


def test_little_memory_gives_the_same_documents_order_and_tokens(tmp_path: Path) -> None:
    expected = drawn(domains_of(tmp_path / "roomy"))
    (tmp_path / "scratch").mkdir()
    with bounded(LITTLE, tmp_path / "scratch"):
        domains = domains_of(tmp_path / "little")
        arrays = [getattr(domain, name) for domain in domains for name in DOCUMENT_COLUMNS]
        mapped = [array.nbytes for array in arrays if is_mapped(array)]
        assert sum(mapped) > LITTLE, "the arrays are in memory"
        made = drawn(domains)
    for place, (array, other) in enumerate(zip(expected, made, strict=True)):
        assert np.array_equal(array, other), place


def send_rows(_: int, send: Send) -> None:
    send(block_rows())


def test_spawned_workers_have_the_bound_of_their_parent(tmp_path: Path) -> None:
    """Workers are spawned on macOS and Windows, and share nothing."""
    sent: list[int] = []
    with bounded(LITTLE, tmp_path):
        run_apart(send_rows, 1, sent.append, lambda *_: None)
        assert sent == [block_rows()]


def test_domains_of_one_part_share_its_map(tmp_path: Path) -> None:
    """10,000 domains of a few files each would map as many times the store."""
    documents = make_documents("talk", 30)
    before = mapped_bytes()
    domain = write_domain(tmp_path, "talk", [documents])
    mapped = mapped_bytes() - before
    other = DomainTokens("again", domain.files, domain.dtype)
    assert mapped_bytes() - before == mapped
    assert other.fingerprint == domain.fingerprint
    part = domain.part_paths[0] / "tokens.bin"
    content = part.read_bytes()
    part.unlink()
    part.write_bytes(content[:-2] + b"\1\1")
    renewed = DomainTokens("renewed", domain.files, domain.dtype)
    assert mapped_bytes() - before > mapped
    assert any(
        not np.array_equal(renewed.document(number), domain.document(number))
        for number in range(len(domain))
    )


class Watcher(Observer):
    """Notes the rows of a block at every event, which follow from the memory of the process."""

    def __init__(self) -> None:
        self.rows: set[int] = set()

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        self.rows.add(block_rows())

    def end(self, summary: str = "") -> None:
        self.rows.add(block_rows())

    def wrote(self, path: Path) -> None:
        self.rows.add(block_rows())


@pytest.mark.parametrize(
    "function",
    [
        curate.tokenize,
        partial(curate.stats, intervals=True),
        partial(curate.mix, overrides=["limits.memory_mb=64"]),
        partial(curate.compare, methods=["natural", "entropy"]),
        curate.plan,
        curate.build,
    ],
)
def test_each_function_runs_in_the_memory_of_its_recipe(
    recipe: Path, function: Callable[..., object]
) -> None:
    with recipe.open("a") as file:
        file.write("limits: {memory_mb: 64}\n")
    watcher = Watcher()
    function(recipe, workers=1, progress=watcher)
    assert watcher.rows == {(64 << 20) // 1024}
    assert block_rows() == (1 << 30) // 1024


@pytest.mark.parametrize("name", ["proxy", "experts", "validate"])
def test_small_models_are_trained_in_the_memory_of_their_recipe(recipe: Path, name: str) -> None:
    pytest.importorskip("torch")
    proxy = "{preset: nano, runs: 2, tokens: 1024, sequence_length: 32, batch: 4}"
    changes = ["limits.memory_mb=64", f"proxy={proxy}", "mixture.method=natural"]
    watcher = Watcher()
    loaded = curate.load_recipe(recipe, changes)
    options = {"seeds": 2} if name == "validate" else {}
    getattr(curate, name)(loaded, workers=1, progress=watcher, **options)
    assert watcher.rows == {(64 << 20) // 1024}


def test_maps_are_counted_by_several_threads(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(1 << 16))
    before = mapped_bytes()

    def make_maps(_: int) -> None:
        for _ in range(2000):
            map_file(path, np.uint8)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(make_maps, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert mapped_bytes() == before
