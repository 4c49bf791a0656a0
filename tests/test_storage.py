"""Files written whole or not at all, and hashes that mean what they say."""

import io
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xxhash

from curate.errors import InputError
from curate.runtime.files import (
    HASH_CHUNK_BYTES,
    atomic_directory,
    atomic_path,
    current_umask,
    hash_bytes,
    hash_file,
    hash_json,
    hash_stream,
    is_url,
    open_input,
    read_json,
    sweep,
    write_json,
)
from curate.runtime.mapping import map_file
from curate.runtime.owners import ABANDONED_SECONDS, owner_mark
from curate.runtime.sealed import SealError, read_sealed, write_sealed


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_atomic_path_appears_when_complete(tmp_path):
    final = tmp_path / "new" / "file.bin"
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent
        temporary.write_bytes(b"one")
        assert not final.exists()
    assert final.read_bytes() == b"one"
    with atomic_path(final) as temporary:
        temporary.write_bytes(b"two")
        assert final.read_bytes() == b"one"
    assert final.read_bytes() == b"two"
    assert names(final.parent) == ["file.bin"]


def test_atomic_path_leaves_nothing_on_an_exception(tmp_path):
    final = tmp_path / "file.bin"
    final.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_path(final) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert final.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_atomic_directory_appears_when_complete(tmp_path):
    final = tmp_path / "new" / "part"
    with atomic_directory(final) as temporary:
        (temporary / "a").write_bytes(b"1")
        assert not final.exists()
    assert names(final) == ["a"]
    assert names(final.parent) == ["part"]


def test_atomic_directory_leaves_nothing_on_an_exception(tmp_path):
    final = tmp_path / "part"
    with pytest.raises(ValueError, match="half way"), atomic_directory(final) as temporary:
        (temporary / "a").write_bytes(b"1")
        raise ValueError("half way")
    assert names(tmp_path) == []


def test_atomic_directory_keeps_what_another_process_put_there(tmp_path):
    final = tmp_path / "part"
    with atomic_directory(final) as temporary:
        (temporary / "mine").touch()
        final.mkdir()
        (final / "theirs").touch()
    assert names(final) == ["theirs"]
    assert names(tmp_path) == ["part"]


def test_atomic_directory_does_not_replace_a_file(tmp_path):
    final = tmp_path / "part"
    final.touch()
    with pytest.raises(OSError, match="Not a directory"), atomic_directory(final):
        pass
    assert final.is_file()
    assert names(tmp_path) == ["part"]


def test_errors_name_the_file_and_not_its_temporary_sibling(tmp_path):
    final = tmp_path / ("x" * 250)  # a name that leaves no room for the sibling's
    with pytest.raises(OSError, match="name") as raised, atomic_path(final):
        pass
    assert raised.value.filename == str(final)
    assert names(tmp_path) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        assert current_umask() == mask
        assert current_umask() == mask  # asking does not change it
        with atomic_path(tmp_path / "file"):
            pass
        with atomic_directory(tmp_path / "directory"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "directory").stat().st_mode) == 0o777 & ~mask


def test_a_killed_process_leaves_no_final_name(tmp_path):
    script = f"""
import os, signal, pathlib
from curate.runtime.files import atomic_directory, atomic_path
target = pathlib.Path({str(tmp_path)!r})
with atomic_path(target / "file") as file, atomic_directory(target / "part") as part:
    file.write_bytes(b"half")
    (part / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    root = str(Path(__file__).parents[1])
    ended = subprocess.run([sys.executable, "-c", script], cwd=root, check=False)
    assert ended.returncode == -9
    assert all(name.startswith(".") and name.endswith(".tmp") for name in names(tmp_path))
    assert len(names(tmp_path)) == 2


def test_json_goes_there_and_back(tmp_path):
    path = tmp_path / "a.json"
    value = {"z": 1, "a": ["ü", None, 0.1], "nested": {"k": True}}
    write_json(path, value)
    assert read_json(path) == value
    assert list(read_json(path)) == ["z", "a", "nested"]
    assert path.read_text("utf-8").endswith("}\n")
    assert "ü" in path.read_text("utf-8")


def test_json_takes_file_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    write_json(tmp_path / "a.json", {name: name})
    assert read_json(tmp_path / "a.json") == {name: name}
    assert hash_json(name) != hash_json(os.fsdecode(b"caf\xe8.txt"))


def test_json_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"absent\.json: No such file"):
        read_json(tmp_path / "absent.json")
    bad = tmp_path / "bad.json"
    bad.write_text('{"a": ')
    with pytest.raises(InputError, match=r"bad\.json: not valid JSON \(Expecting value"):
        read_json(bad)
    bad.write_bytes(b'"\xff"')
    with pytest.raises(InputError, match=r"bad\.json: not valid JSON"):
        read_json(bad)


def test_hash_of_pieces_depends_on_where_they_are_cut():
    assert hash_bytes(b"ab", b"c") != hash_bytes(b"a", b"bc") != hash_bytes(b"abc")
    assert hash_bytes() != hash_bytes(b"") != hash_bytes(b"", b"")
    # Length-prefixed xxh3-128, written out.
    assert hash_bytes(b"hi") == xxhash.xxh3_128_hexdigest((2).to_bytes(8, "little") + b"hi")
    assert hash_bytes(memoryview(b"ab")) == hash_bytes(b"ab")


def test_hash_of_json_depends_on_content_alone():
    assert hash_json({"a": 1, "b": [1, 2]}) == hash_json({"b": [1, 2], "a": 1})
    values = [{"a": 1}, {"a": "1"}, {"a": 1.5}, {"a": None}, ["a", 1], {"b": 1}, [1, 2], [2, 1]]
    assert len({hash_json(value) for value in values}) == len(values)


@pytest.mark.parametrize("size", [0, 1, HASH_CHUNK_BYTES, HASH_CHUNK_BYTES + 1])
def test_hash_of_a_file_is_that_of_its_bytes(size, tmp_path):
    content = np.random.default_rng(size).bytes(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    expected = xxhash.xxh3_128_hexdigest(content)
    assert hash_file(path) == expected
    assert hash_stream(io.BytesIO(content)) == expected
    rest = io.BytesIO(b"skipped" + content)
    rest.seek(7)
    assert hash_stream(rest) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("s3://bucket/key", True), ("hf://datasets/a/b", True), ("file:///x", True),
     ("a/b", False), ("/a:b", False), ("C:\\x", False)],
)  # fmt: skip
def test_is_url(path, expected):
    assert is_url(path) == expected


def test_open_input_reads_and_seeks(tmp_path):
    local = tmp_path / "-odd name ü.txt"
    local.write_bytes(b"0123456789")
    with fsspec.open("memory://storage-test/file", "wb") as file:
        file.write(b"0123456789")
    for path in (str(local), f"file://{local}", "memory://storage-test/file"):
        with open_input(path) as stream:
            assert stream.read(3) == b"012"
            stream.seek(8)
            assert stream.read() == b"89"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("absent.txt", "No such file or directory"),
        ("nul\0name", "embedded null byte"),
        ("memory://storage-test/absent", "storage-test/absent"),
        ("nosuch://x/y", "Protocol not known: nosuch"),
    ],
)
def test_open_input_names_what_it_cannot_open(path, reason):
    with pytest.raises(InputError) as caught:
        open_input(path)
    assert str(caught.value).startswith(f"{path}: cannot be opened (")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_of_a_protocols_own_library_are_input_errors():
    class StorageFaultError(Exception):
        """As the clients of object stores raise: no OSError."""

    class Faulty(fsspec.AbstractFileSystem):
        protocol = "curatefaulty"

        def _open(self, path, mode="rb", **options):
            raise StorageFaultError("no credentials\nanywhere")

    fsspec.register_implementation("curatefaulty", Faulty, clobber=True)
    with pytest.raises(InputError, match=r"cannot be opened \(no credentials anywhere\)"):
        open_input("curatefaulty://bucket/key")


def test_hashes_stay_what_they_are():
    # Caches on disk are keyed by these: a change throws them all away.
    assert hash_bytes(b"curate") == "0dafaba2b5fd760c13bf847e06755f25"
    assert hash_json({"a": [1, "é"]}) == "145674e7f258654f1e4ed03bbb114150"


def test_sweep_removes_only_what_dead_processes_left(tmp_path):
    script = (
        "import os, sys; from pathlib import Path\n"
        "from curate.runtime.files import atomic_directory, atomic_path\n"
        "with atomic_directory(Path('part')) as one, atomic_path(Path('b.json')) as two:\n"
        "    (one / 'x').write_text('half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert len(names(tmp_path)) == 2
    (tmp_path / ".foreign.tmp").write_text("not ours")
    elsewhere = tmp_path / f".part.{'0' * 8}-{os.getpid()}-1-abc.tmp"
    elsewhere.mkdir()
    (elsewhere / "x").write_text("of a container that is perhaps running")
    with atomic_path(tmp_path / "alive") as temporary:
        sweep(tmp_path)
        assert temporary.exists()
    assert names(tmp_path) == sorted([".foreign.tmp", elsewhere.name, "alive"])
    long_ago = time.time() - ABANDONED_SECONDS - 60
    os.utime(elsewhere, (long_ago, long_ago))
    sweep(tmp_path)
    assert elsewhere.exists(), "a file in it was written just now"
    os.utime(elsewhere / "x", (long_ago, long_ago))
    sweep(tmp_path)
    assert names(tmp_path) == [".foreign.tmp", "alive"]
    sweep(tmp_path / "absent")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the starts of processes")
def test_a_process_with_the_number_of_a_dead_one_keeps_nothing(tmp_path):
    space, process, start = owner_mark().split("-")
    assert int(process) == os.getpid()
    mine = tmp_path / f".a.{space}-{process}-{start}-abc.tmp"
    unknown_start = tmp_path / f".a.{space}-{process}-0-abc.tmp"
    of_an_earlier_version = tmp_path / f".a.{space}-{process}-123.tmp"
    of_the_dead = tmp_path / f".a.{space}-{process}-{int(start) - 1}-abc.tmp"
    kept = [mine, unknown_start, of_an_earlier_version]
    for path in (*kept, of_the_dead):
        path.touch()
    sweep(tmp_path)
    assert names(tmp_path) == sorted(path.name for path in kept)


def test_a_sealed_file_reads_back_and_any_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "new" / "a.json"
    for payload in (b"", b"{}", b"two\nlines\n"):
        write_sealed(path, payload)
        assert read_sealed(path) == payload
        whole = path.read_bytes()
        for position in range(len(whole)):
            for bit in range(8):
                changed = bytearray(whole)
                changed[position] ^= 1 << bit
                path.write_bytes(changed)
                with pytest.raises(SealError, match="does not match its own checksum"):
                    read_sealed(path)
        for damaged in (whole[:-1], whole + b"\n", whole[1:], payload):
            path.write_bytes(damaged)
            with pytest.raises(SealError):
                read_sealed(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_sealed(path)


def test_an_error_while_a_file_is_written_names_the_file(tmp_path):
    path = tmp_path / "a.bin"
    for error in (OSError(28, "No space left on device"), OSError("5 requested and 3 written")):
        with pytest.raises(OSError, match="No space|5 requested") as caught, atomic_path(path):
            raise error
        assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as absent, atomic_path(path) as temporary:
        temporary.unlink()
        temporary.read_bytes()
    assert absent.value.filename == str(path)
    with pytest.raises(PermissionError) as other, atomic_path(path):
        raise PermissionError(13, "Permission denied", "another")
    assert other.value.filename == "another"


def test_durable_files_reach_the_disk_before_their_names(tmp_path, monkeypatch):
    calls = []

    def traced(name):
        call = getattr(os, name)

        def record(*arguments):
            calls.append((name, arguments[0]))
            return call(*arguments)

        monkeypatch.setattr(os, name, record)

    def flushed(calls):
        return [name for name, _ in calls]

    for name in ("fsync", "replace", "rename"):
        traced(name)
    write_sealed(tmp_path / "a", b"1", durable=True)
    assert flushed(calls) == ["fsync", "replace", "fsync"]
    calls.clear()
    with atomic_directory(tmp_path / "d", durable=True) as directory:
        (directory / "x").write_bytes(b"1")
        (directory / "y").write_bytes(b"2")
    assert flushed(calls) == ["fsync"] * 3 + ["rename", "fsync"]
    calls.clear()
    write_sealed(tmp_path / "a", b"1")
    assert flushed(calls) == ["replace"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors of Linux")
def test_mapped_files_hold_no_descriptors(tmp_path):
    values = np.arange(100_000, dtype="<u2")
    values.tofile(tmp_path / "a.bin")
    before = len(os.listdir("/proc/self/fd"))
    mapped = [map_file(tmp_path / "a.bin", "<u2") for _ in range(300)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(np.array_equal(array, values) for array in mapped[::100])
    held = mapped[0][50:60]
    maps = Path("/proc/self/maps")
    assert maps.read_text().count(str(tmp_path)) == 300
    del mapped
    assert maps.read_text().count(str(tmp_path)) == 1
    assert held.tolist() == list(range(50, 60))
    with pytest.raises(ValueError, match="read-only"):
        held[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        held.flags.writeable = True


def test_ranges_are_mapped_wherever_they_begin(tmp_path):
    path = tmp_path / "a.bin"
    values = np.arange(5_000, dtype="<u8")
    values.tofile(path)
    for first, items in ((0, 1), (511, 2), (512, 3), (4_999, 1), (17, 0)):
        mapped = map_file(path, "<u8", first * 8, items)
        assert np.array_equal(mapped, values[first : first + items])
    with pytest.raises(OSError, match="ends 8 bytes early") as early:
        map_file(path, "<u8", 8, 5_000)
    assert early.value.filename == str(path)
    with pytest.raises(FileNotFoundError, match=r"b\.bin"):
        map_file(tmp_path / "b.bin", "<u8")
    (tmp_path / "b.bin").touch()
    assert len(map_file(tmp_path / "b.bin", "<u8")) == 0
