"""Faults of the machine end a run with one line that names the file, and blame no data."""

from __future__ import annotations

import ast
import bz2
import csv
import errno
import gzip
import json
import lzma
import os
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import slow_if

from curate.curation import attribute_tables, evaluation_sets
from curate.curation.attribute_tables import AttributeTable
from curate.curation.excluded import read_names
from curate.dataset import ownership
from curate.errors import EngineError, InputError, RecipeError
from curate.formats.base import open_shard
from curate.laws import likelihoods
from curate.laws.run_tables import columns
from curate.recipe import load
from curate.runtime.files import open_input, read_json
from curate.runtime.machine import (
    DISK_FAILED,
    DISK_FULL,
    NO_ANSWER,
    NO_PROCESS,
    OUT_OF_MEMORY,
    TOO_MANY_FILES,
    fault_line,
    faults_named,
    machine_fault,
)
from curate.sources import saved_datasets
from curate.sources.discover import matching_files
from curate.sources.hub import hub_errors
from curate.sources.records import InputFile
from curate.sources.remote import remote_errors
from curate.sources.search import beginning
from curate.sources.tables import states_impossible_length
from curate.tokens import tokenizer
from curate.tokens.domain import read_numbers

ROOT = Path(__file__).parents[1]

DOCUMENTS = 60


def numpy_error() -> Exception:
    try:
        np.empty(1 << 62, np.uint8)
    except MemoryError as error:
        return error
    raise AssertionError("the array fits")


def loader_error() -> Exception:
    """Return an error of llvmlite, which leaves the lack of memory to the error before it."""
    try:
        try:
            raise OSError("libllvmlite.so: failed to map segment from shared object")
        except OSError:
            raise OSError("Could not find/load shared object file 'libllvmlite.so'")  # noqa: B904
    except OSError as error:
        return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (MemoryError(), OUT_OF_MEMORY),
        (numpy_error(), OUT_OF_MEMORY),
        (loader_error(), OUT_OF_MEMORY),
        (pa.ArrowMemoryError("malloc of size 128 failed"), OUT_OF_MEMORY),
        (zlib.error("Error -4 while decompressing data"), OUT_OF_MEMORY),
        (
            zstandard.ZstdError("zstd decompressor error: Allocation error : not enough memory"),
            OUT_OF_MEMORY,
        ),
        (OSError("LZ4 decompress failed: ERROR_allocation_failed"), OUT_OF_MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OUT_OF_MEMORY),
        (ImportError("x.so: cannot allocate memory in static TLS block"), OUT_OF_MEMORY),
        (RuntimeError("can't start new thread"), NO_PROCESS),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), NO_PROCESS),
        (OSError(errno.EMFILE, "Too many open files"), TOO_MANY_FILES),
        (OSError(errno.ENFILE, "Too many open files in system"), TOO_MANY_FILES),
        (OSError(errno.ENOSPC, "No space left on device"), DISK_FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DISK_FULL),
        (OSError(errno.EIO, "Input/output error"), DISK_FAILED),
        (OSError("Error reading bytes from file. Detail: Input/output error"), DISK_FAILED),
        (OSError(errno.ESTALE, "Stale file handle"), NO_ANSWER),
        (TimeoutError(), NO_ANSWER),
        (ConnectionResetError(), NO_ANSWER),
        (OSError("Couldn't deserialize thrift: TProtocolException"), None),
        (PermissionError(errno.EACCES, "Permission denied"), None),
        (FileNotFoundError(errno.ENOENT, "No such file", "/out of memory/timed out"), None),
        (FileNotFoundError(errno.ENOENT, "No such file"), None),
        (zlib.error("Error -3 while decompressing data: invalid block type"), None),
        (zstandard.ZstdError("zstd decompressor error: Data corruption detected"), None),
        (pa.ArrowInvalid("a cell says: out of memory, timed out"), None),
        (msgspec.DecodeError("JSON is malformed"), None),
        (csv.Error("unexpected end of data"), None),
        (RecipeError("domains[timed out].paths"), None),
        (RuntimeError("a worker failed:\nTraceback (most recent call last):\n timed out"), None),
    ],
)
def test_faults_are_told_from_data(error: BaseException, fault: str | None) -> None:
    assert machine_fault(error) == fault
    assert fault_line(error, "a.gz") == (fault and f"a.gz: {fault}")


def test_a_fault_names_the_file_it_is_about() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/out/tokens.bin")
    with pytest.raises(EngineError, match=r"^/out/tokens\.bin: No space left on device; free"):
        with faults_named("/data/a.jsonl"):
            raise full
    with pytest.raises(EngineError, match=r"^/data/a\.jsonl: out of memory; finished work is kept"):
        with faults_named("/data/a.jsonl"):
            raise MemoryError
    for other in (ZeroDivisionError(), InputError("b"), KeyboardInterrupt()):
        with pytest.raises(type(other)) as caught, faults_named("/data/a.jsonl"):
            raise other
        assert caught.value is other


def handlers() -> Iterator[tuple[str, ast.ExceptHandler]]:
    """Yield the handlers of errors of the system in curate, each with its function's name."""
    for path in sorted((ROOT / "curate").rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and node.type is not None:
                    names = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)}
                    if names & {"OSError", "Exception", "BaseException"}:
                        yield f"{path.stem}.{function.name}", node


ASKS = {"fault_or", "remote_fault_or", "raise_fault", "machine_fault", "fault_line", "failure_of"}
"""Functions that tell faults of the machine from others."""

READS_OF_DATASETS = "`read_regular` and `process_faults_named` pass on what this process lacks"
WITHOUT_ASKING = {
    "certificate.certificate_damage": READS_OF_DATASETS,
    "manifest.load_manifest": READS_OF_DATASETS,
    "manifest.read_plan": READS_OF_DATASETS,
    "manifest.file_damage": READS_OF_DATASETS,
    "manifest.read_provenance": READS_OF_DATASETS,
    "staged.load_stages": READS_OF_DATASETS,
    "staged.load_staged_plan": READS_OF_DATASETS,
    "identities.hash_small": "`_unreadable` asks",
    "identities.read_whole": "`_unreadable` asks",
    "identities.hash_path": "`_unreadable` asks",
    "objects._store": "`refusal` asks",
    "objects.patiently": "`refusal` asks",
    "objects.call": "the process that was asked has ended",
    "files._named": "a store that fails is the machine's fault in any case",
    "files.place_directory": "raised again unless another process has made the directory",
    "files.flush_directory": "raised again unless the file system cannot flush directories",
    "join_parts.join_small_parts": "a run needs no joined parts",
    "trainer_files.link": "the copy meets the same fault",
    "escape.output_named": "raised again with a name",
    "commands.run": "`_report` asks",
    "commands._open_streams": "there is nothing that could be told",
    "session.say": "there is nothing that could be told",
    "workers._collect": "the worker has ended",
    "backends._quiet_errors": "it is closed",
    "cluster_check._look": "it says what a node cannot do",
    "cluster_check._marked": "it says what a node cannot do",
    "owners.is_running": "another user's process runs",
    "owners._space": "systems without /proc have a coarser name",
    "owners._started": "systems without /proc do not say",
    "owners._last_change": "the later time keeps a file that may be in use",
}
"""Handlers that need not ask, and why."""


def test_every_handler_of_system_errors_asks_whether_the_machine_is_at_fault() -> None:
    silent = set()
    for name, handler in handlers():
        calls = {part.id for part in ast.walk(handler) if isinstance(part, ast.Name)}
        raises_again = any(isinstance(s, ast.Raise) and s.exc is None for s in handler.body)
        if not calls & ASKS and not raises_again:
            silent.add(name)
    assert silent <= WITHOUT_ASKING.keys(), sorted(silent - WITHOUT_ASKING.keys())
    assert silent >= WITHOUT_ASKING.keys(), sorted(WITHOUT_ASKING.keys() - silent)


@contextmanager
def no_descriptor() -> Iterator[None]:
    """Let this process open nothing."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "an excluded list": ("d1", read_names),
    "an evaluation set": ('{"q": "a"}', lambda path: list(evaluation_sets._records(str(path)))),
    "a pattern of files": ("", lambda path: matching_files(str(path.parent / "*"))),
    "a saved dataset": ("{}", lambda path: saved_datasets.unlisted_files([f"{path}/a.arrow"])),
    "a table of attributes": (
        "id,a",
        lambda path: attribute_tables._read_file(path, AttributeTable("a", (path,), "id")),
    ),
    "numbers of documents": ("", lambda path: read_numbers(path, np.uint8, 0)),
    "a mark of a dataset": ("", ownership._lines),
    "an artifact": ('{"curate_version": "1"}', ownership._is_artifact),
    "a beginning": ("", lambda path: beginning(str(path), 9)),
    "a shard": ("", open_shard),
    "JSON": ("{}", read_json),
    "a recipe": ("name: a", load),
    "a tokenizer": ("{}", lambda path: tokenizer.load(path, None)),
    "a run table": ("a,b", lambda path: list(columns._cells(path))),
    "experts": ("", likelihoods._table),
}
"""A text, and what reads a file with it."""


@pytest.mark.parametrize("kind", FILES)
def test_lack_of_descriptors_is_no_fact_about_a_file(kind: str, tmp_path: Path) -> None:
    text, read = FILES[kind]
    path = tmp_path / ("state.json" if kind == "a saved dataset" else "a.csv")
    path.write_text(text)
    with no_descriptor(), pytest.raises(EngineError) as caught:
        read(path.parent if kind == "a saved dataset" else path)
    assert str(caught.value).endswith(TOO_MANY_FILES)
    assert str(caught.value).startswith(str(tmp_path))


def test_a_state_that_may_not_be_read_is_not_absent(tmp_path: Path) -> None:
    (tmp_path / "state.json").symlink_to("state.json")  # as unreadable for root, too
    with pytest.raises(InputError, match=r"state\.json: cannot be read \(Too many levels"):
        saved_datasets.unlisted_files([f"{tmp_path}/a.arrow"])


def test_faults_behind_errors_of_remote_stores_are_the_machine_s() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/hub/blobs/1")
    with pytest.raises(EngineError, match=r"^/hub/blobs/1: No space left on device; free"):
        with hub_errors("me/web", "main"):
            try:
                raise full
            except OSError as error:
                raise RuntimeError("An error happened while generating the dataset") from error
    with pytest.raises(EngineError, match=r"^s3://a: out of memory"), remote_errors("s3://a"):
        raise MemoryError
    with pytest.raises(EngineError, match=r"^s3://a: cannot be reached \(slow\)$"):
        with remote_errors("s3://a"):
            raise TimeoutError("slow")
    with pytest.raises(InputError, match=r"^s3://a: cannot be reached \(AccessDenied\)$"):
        with remote_errors("s3://a"):
            raise RuntimeError("AccessDenied")
    closed = PermissionError(errno.EACCES, "Permission denied", "/home/.cache/hub")
    with pytest.raises(InputError, match=r"/home/\.cache/hub cannot be written; set HF_HOME"):
        with hub_errors("me/web", "main"):
            raise closed


def test_only_a_length_beyond_any_memory_is_damage() -> None:
    assert states_impossible_length(pa.ArrowMemoryError(f"malloc of size {1 << 40} failed"))
    assert not states_impossible_length(pa.ArrowMemoryError(f"malloc of size {1 << 30} failed"))
    assert not states_impossible_length(MemoryError())
    assert not states_impossible_length(OSError(f"malloc of size {1 << 40} failed"))


class Losing(fsspec.AbstractFileSystem):
    """A store that answers until a file is read, and then in its library's own class."""

    class LostError(Exception):
        pass

    protocol = "losing"

    def _open(self, path: str, mode: str = "rb", **options: object) -> object:
        class File:
            def read(self, limit_bytes: int) -> bytes:
                raise Losing.LostError("the session\nhas expired")

            def seek(self, offset: int, whence: int = 0) -> int:
                return offset

            def close(self) -> None:
                pass

        return File()


def test_a_store_that_fails_while_it_is_read_is_named() -> None:
    from curate.sources.decompress.open import open_stream
    from curate.sources.tables import open_table

    fsspec.register_implementation("losing", Losing, clobber=True)
    url = "losing://bucket/key"
    expected = r"^losing://bucket/key: cannot be read \(the session has expired\); run again when"
    with open_input(url) as file, pytest.raises(EngineError, match=expected):
        file.read(10)
    with pytest.raises(EngineError, match=expected):
        open_stream(url, 100)
    with pytest.raises(EngineError, match=expected):
        open_table(InputFile(url, 100, "", "key"))


def rows() -> list[dict[str, str]]:
    rng = np.random.default_rng(0)
    counts = [*[4000] * (DOCUMENTS - 1), 1_000_000]  # the last fits into no memory left free
    texts = [" ".join(map(str, rng.integers(0, 50_000, count))) for count in counts]
    return [{"id": str(number), "text": text} for number, text in enumerate(texts)]


def zstd_with_a_large_window(content: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(content) + stream.flush()


def write_parquet(path: Path, compression: str) -> None:
    pq.write_table(pa.Table.from_pylist(rows()), path, compression=compression)


def write_arrow(path: Path) -> None:
    table = pa.Table.from_pylist(rows())
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
        writer.write_table(table)


def lines() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows()).encode()


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_bytes(lines()),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(), 1)),
    "a.jsonl.zst": lambda path: path.write_bytes(zstd_with_a_large_window(lines())),
    "a.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(lines())),
    "a.jsonl.xz": lambda path: path.write_bytes(lzma.compress(lines(), preset=6)),
    "a.jsonl.lz4": lambda path: path.write_bytes(pa.compress(lines(), "lz4", asbytes=True)),
    "a.json": lambda path: path.write_text(json.dumps(rows())),
    "a.csv": lambda path: path.write_text("id,text\n" + "".join(
        f"{row['id']},{row['text']}\n" for row in rows())),
    "a.parquet": lambda path: write_parquet(path, "zstd"),
    "a.arrow": write_arrow,
}  # fmt: skip

LIMITED = """
    import os, resource, sys
    from pathlib import Path
    from curate.errors import EngineError
    from curate.runtime.files import hash_file
    from curate.sources import ReadOptions, SegmentReader, segments
    from curate.sources.records import InputFile

    path = Path(sys.argv[1])
    if path.suffix in (".parquet", ".arrow", ".lz4"):
        import curate.sources.tables  # with its libraries, which die without memory
    file = InputFile(str(path), path.stat().st_size, hash_file(path), path.name)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for extra in [*range(0, 32, 4), 40, 60, 100, 200]:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        limit = now + (extra << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        texts = bad = 0
        try:
            for plan in segments([file], ReadOptions()):
                reader, number, ended = SegmentReader(), 0, False
                while not ended:
                    for block in reader.read(plan.segment(number)):
                        texts, bad, ended = texts + len(block.texts), bad + len(block.bad), block.end_of_file
                    number += 1
            line = f"read {texts} {bad}"
        except EngineError as error:
            line = f"stopped {error}"
        except BaseException as error:
            line = f"wrong {error!r}"
        os.write(1, (line + "\\n").encode())
        os._exit(0)
"""  # noqa: E501


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, fork and a limit of memory")
@pytest.mark.parametrize("name", slow_if(("a.jsonl.xz", "a.jsonl.bz2").__contains__, WRITERS))
def test_little_memory_reads_all_or_stops(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    script = textwrap.dedent(LIMITED)
    ended = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True, text=True, cwd=ROOT, check=True, timeout=120,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},  # no memory set aside for threads
    )  # fmt: skip
    outcomes = set(ended.stdout.splitlines())
    outcomes.discard(f"stopped {path}: {NO_PROCESS}")  # a thread's stack did not fit
    assert outcomes == {f"read {DOCUMENTS} 0", f"stopped {path}: {OUT_OF_MEMORY}"}
