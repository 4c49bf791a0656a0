"""Patterns find the files a person means, and files are known by content without rereading."""

from __future__ import annotations

import gzip
import os
import time
from contextlib import closing
from pathlib import Path

import fsspec
import pytest
from source_files import documents, json_lines, read_plan, write

from curate.errors import InputError
from curate.runtime.files import STAT_SAFETY_NANOSECONDS, hash_file
from curate.sources import InputPath, SegmentReader, expand, identify, segments
from curate.sources.discover import split_glob
from curate.sources.identities import (
    CACHE_NAME,
    check_unchanged,
    read_cache,
    read_whole,
    write_cache,
)
from curate.sources.places import Places
from curate.sources.records import ReadOptions

TREE = [
    "a.jsonl",
    "b.jsonl.zst",
    ".hidden.jsonl",
    "with space.jsonl",
    "-dash.jsonl",
    "ünïcødé 文件.jsonl",
    "star*[1].jsonl",
    "star1.jsonl",
    "directory.jsonl/inner.jsonl",
    "deep/er/c.jsonl",
    "deep/er/notes.txt",
    "deep/.git/config",
    "deep/.cache.jsonl",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in TREE:
        write(tmp_path / name, name.encode())
    return tmp_path


def found(tree: Path, *patterns: str, glob: str = "*") -> list[str]:
    """Names found below the tree, each of which can be opened."""
    paths = [found.path for found in expand(patterns, ReadOptions(glob=glob), tree)]
    assert all(Path(path).is_file() for path in paths)
    return [str(Path(path).relative_to(tree)) for path in paths]


VISIBLE = sorted(name for name in TREE if "/." not in f"/{name}")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.jsonl", ["a.jsonl"]),
        ("./deep/../a.jsonl", ["deep/../a.jsonl"]),
        (".", VISIBLE),
        ("**", VISIBLE),
        ("**/*", VISIBLE),
        ("*.zst", ["b.jsonl.zst"]),
        ("**/c.jsonl", ["deep/er/c.jsonl"]),
        ("deep", ["deep/er/c.jsonl", "deep/er/notes.txt"]),
        ("deep/", ["deep/er/c.jsonl", "deep/er/notes.txt"]),
        ("d*", ["deep/er/c.jsonl", "deep/er/notes.txt", "directory.jsonl/inner.jsonl"]),
        ("*/*.jsonl", ["directory.jsonl/inner.jsonl"]),
        ("directory.jsonl", ["directory.jsonl/inner.jsonl"]),
        ("d*.jsonl", ["directory.jsonl/inner.jsonl"]),
        (".hidden.jsonl", [".hidden.jsonl"]),
        (".*.jsonl", [".hidden.jsonl"]),
        ("deep/.git", ["deep/.git/config"]),
        ("deep/.*.jsonl", ["deep/.cache.jsonl"]),
        ("-*", ["-dash.jsonl"]),
        ("* *", ["with space.jsonl", "ünïcødé 文件.jsonl"]),
        ("star*[1].jsonl", ["star*[1].jsonl"]),
        ("star?.jsonl", ["star1.jsonl"]),
        ("[ab].jsonl*", ["a.jsonl", "b.jsonl.zst"]),
    ],
)
def test_patterns(tree: Path, pattern: str, expected: list[str]) -> None:
    assert found(tree, pattern) == sorted(expected)
    assert found(tree, str(tree / pattern)) == sorted(expected)


def test_files_are_sorted_and_each_is_taken_once(tree: Path) -> None:
    assert found(tree, "star1.jsonl", "*.jsonl", "a.jsonl", "deep", "deep/er", "deep/**") == [
        name for name in VISIBLE if name != "b.jsonl.zst"
    ]


def test_directories_are_walked_for_names_that_fit(tree: Path) -> None:
    assert found(tree, ".", glob="*.txt, inner.*") == [
        "deep/er/notes.txt",
        "directory.jsonl/inner.jsonl",
    ]
    assert found(tree, "a.jsonl", "deep", glob="*.txt") == ["a.jsonl", "deep/er/notes.txt"]


def test_names_are_paths_below_what_was_named(tree: Path) -> None:
    names = {
        pattern: [found.name for found in expand([pattern], ReadOptions(), tree)]
        for pattern in ("deep", "deep/**/*.txt", "deep/er/notes.txt", "*/*/c.jsonl", "deep/er/*")
    }
    assert names == {
        "deep": ["er/c.jsonl", "er/notes.txt"],
        "deep/**/*.txt": ["er/notes.txt"],
        "deep/er/notes.txt": ["notes.txt"],
        "*/*/c.jsonl": ["deep/er/c.jsonl"],
        "deep/er/*": ["c.jsonl", "notes.txt"],
    }


def test_paths_relative_to_the_working_directory(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree / "deep")
    here = [InputPath(f"er/{name}", f"er/{name}", ".") for name in ("c.jsonl", "notes.txt")]
    assert expand(["."], ReadOptions(), Path(".")) == here
    assert expand(["er/*", "**/*.txt"], ReadOptions(), Path("."))[0].path == "er/c.jsonl"
    assert expand(["../a.jsonl"], ReadOptions(), Path(".")) == [InputPath("../a.jsonl", "a.jsonl")]


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    try:
        (tmp_path / "caf\udce9.txt").write_bytes(b"text")
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes no such names")
    with pytest.raises(
        InputError, match=r"caf\\udce9.txt': the name is not UTF-8; rename the file"
    ):
        expand(["."], ReadOptions(), tmp_path)


def test_a_directory_with_glob_characters_in_its_name(tmp_path: Path) -> None:
    write(tmp_path / "v[1]*" / "a.jsonl", b"")
    write(tmp_path / "v1" / "b.jsonl", b"")
    assert found(tmp_path, "v[1]*/*.jsonl") == ["v[1]*/a.jsonl"]
    assert found(tmp_path / "v[1]*", "*.jsonl") == ["a.jsonl"]
    assert split_glob(str(tmp_path / "v1/x")) == (str(tmp_path / "v1/x"), "")


def test_links_to_directories_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "data/a.jsonl", b"")
    write(tmp_path / "else/b.jsonl", b"")
    (tmp_path / "data/more").symlink_to(tmp_path / "else")
    (tmp_path / "else/loop").symlink_to(tmp_path / "data")
    assert found(tmp_path, "data") == ["data/a.jsonl", "data/more/b.jsonl"]


def test_a_pattern_that_matches_nothing_says_what_is_there(tree: Path) -> None:
    def message(pattern: str, glob: str = "*") -> str:
        with pytest.raises(InputError) as caught:
            expand(["a.jsonl", pattern], ReadOptions(glob=glob), tree)
        return str(caught.value)

    assert message("deep/err/*.jsonl") == (
        f"'deep/err/*.jsonl' matches no file; did you mean 'er'? {tree / 'deep'} holds 'er', "
        "2 hidden (read only where a pattern names them)"
    )
    assert "did you mean 'with space.jsonl'" in message("with_space.jsonl")
    assert "'absent/far/x.jsonl' matches no file" in message("absent/far/x.jsonl")
    assert "1 more" in message("absent")
    assert message("deep", glob="*.md").startswith("'deep' holds no file that fits glob '*.md'")
    (tree / "empty").mkdir()
    assert message("empty") == "'empty' holds no file; it holds nothing"
    (tree / "broken.jsonl").symlink_to(tree / "nowhere")
    assert message("broken.jsonl").startswith("'broken.jsonl' matches no file")


def test_urls(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    content = json_lines(documents(3))
    for name in ("a.jsonl", "sub/b.jsonl", "sub/.c.jsonl", "sub/d.txt", "x[1].jsonl"):
        memory.pipe(f"/curate-test/{name}", content)
    memory.pipe("/curate-test/e.jsonl.gz", gzip.compress(content))
    try:
        root = "memory://curate-test"
        options = ReadOptions()

        def names(pattern: str, glob: str = "*") -> list[str]:
            return [found.name for found in expand([pattern], ReadOptions(glob=glob), tmp_path)]

        assert names(f"{root}/a.jsonl") == ["a.jsonl"]
        assert names(f"{root}/x[1].jsonl") == ["x[1].jsonl"]
        assert names(f"{root}/*.jsonl") == ["a.jsonl", "x[1].jsonl"]
        assert names(f"{root}/sub") == ["b.jsonl", "d.txt"]
        assert names(f"{root}/s*", glob="*.jsonl") == ["sub/b.jsonl"]
        assert names(f"{root}/sub/.*.jsonl") == [".c.jsonl"]
        places = Places()
        expand([f"{root}/sub"], options, tmp_path, places)
        assert places.left_out == {"memory:///curate-test/sub/.c.jsonl": "hidden"}
        with pytest.raises(InputError, match="matches no file"):
            expand([f"{root}/absent*"], options, tmp_path)
        with pytest.raises(InputError, match="cannot be reached"):
            expand(["no-such-protocol://x"], options, tmp_path)

        files = identify(expand([f"{root}/*l", f"{root}/*.gz"], options, tmp_path), tmp_path)
        assert files[0].size_bytes == len(content)
        assert files[0].content_hash == hash_file(write(tmp_path / "same", content))
        assert len(read_cache(tmp_path)) == 3
        assert identify([InputPath(file.path, file.name) for file in files], tmp_path) == files
        with closing(SegmentReader()) as reader:
            for plan in segments(files, options, segment_bytes=50):
                assert len(read_plan(plan, reader).texts) == 3
    finally:
        memory.rm("/curate-test", recursive=True)


class Unreachable(fsspec.AbstractFileSystem):
    """A store whose library has an exception of its own, as those of most stores have."""

    protocol = "unreachable"

    class RefusedError(Exception):
        """Derived from nothing that curate knows."""

    def info(self, path: str, **kwargs: object) -> dict[str, object]:
        raise self.RefusedError("no\nroute")


def test_a_store_that_fails_in_its_own_way_is_named(tmp_path: Path) -> None:
    fsspec.register_implementation("unreachable", Unreachable, clobber=True)
    with pytest.raises(InputError, match=r"^unreachable://a/b: cannot be reached \(no route\)$"):
        expand(["unreachable://a/b"], ReadOptions(), tmp_path)


def age(path: Path, seconds: float) -> None:
    """Make a file look as if it had last been changed some time ago."""
    then = time.time_ns() - int(seconds * 1e9)
    os.utime(path, ns=(then, then))


def test_identities(tmp_path: Path) -> None:
    sizes_bytes = [number * number * 9 for number in range(400)]  # up to 1.4 MB
    paths = [
        InputPath(str(write(tmp_path / f"{size}", b"x" * size)), f"n{size}") for size in sizes_bytes
    ]
    files = identify([*paths, paths[3]], tmp_path / "cache")
    assert [file.size_bytes for file in files] == [*sizes_bytes, 81]
    assert [file.name for file in files] == [path.name for path in [*paths, paths[3]]]
    assert [file.content_hash for file in files[:-1]] == [hash_file(Path(p.path)) for p in paths]


def test_a_file_that_is_gone_is_told_before_others_are_hashed(tmp_path: Path) -> None:
    paths = [InputPath(str(write(tmp_path / f"{number}", b"")), "") for number in range(8)]
    for path, _, _ in paths:
        os.truncate(path, 1 << 30)  # sparse: takes no room, but a second to hash
    (tmp_path / "link").symlink_to("nowhere")
    started = time.process_time()
    with pytest.raises(InputError, match="a link to nowhere, which is gone"):
        identify([*paths, InputPath(str(tmp_path / "link"), "")], tmp_path / "cache")
    assert time.process_time() - started < 0.3


def test_a_file_is_read_again_only_if_it_may_have_changed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = write(tmp_path / "a", b"first")
    inputs = [InputPath(str(path), "a")]

    def content_hash() -> str:
        (file,) = identify(inputs, cache)
        return file.content_hash

    first = content_hash()
    assert read_cache(cache) == {}, "written a moment ago: the next write may leave the same time"
    age(path, seconds=60)
    assert content_hash() == first
    entry = read_cache(cache)[str(path)]
    assert entry[:2] == [5, first]

    write_cache(cache, {str(path): [5, "kept", *entry[2:]]})
    assert content_hash() == "kept", "the file is not read"
    write_cache(cache, {str(path): entry})

    status = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content_hash() == hash_file(path) != first, "the same size, time and inode"
    path.write_bytes(b"first")

    age(path, seconds=59)
    second = content_hash()
    assert second == hash_file(path) == first
    replacement = write(tmp_path / "b", b"third")
    os.utime(replacement, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    os.replace(replacement, path)
    assert content_hash() == hash_file(path) != second, "another inode"
    path.write_bytes(b"longer")
    assert content_hash() == hash_file(path)


def test_an_edit_that_keeps_the_time_ends_a_run_and_new_permissions_do_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"first")
    age(path, seconds=60)
    (file,) = identify([InputPath(str(path), "a")], tmp_path / "cache")
    time.sleep(0.02)  # so that the status change time is another one
    path.chmod(0o600)
    os.link(path, tmp_path / "b")
    check_unchanged(file)
    assert read_whole(file) == b"first"
    path.write_bytes(b"other")
    age(path, seconds=60)
    os.utime(path, ns=(path.stat().st_atime_ns, int(file.status[1])))
    for check in (check_unchanged, read_whole):
        with pytest.raises(InputError, match="changed while it was being read"):
            check(file)


@pytest.mark.parametrize("seconds", [STAT_SAFETY_NANOSECONDS / 2e9, -3600.0])
def test_a_file_changed_a_moment_ago_or_in_the_future_is_not_trusted(
    tmp_path: Path, seconds: float
) -> None:
    path = write(tmp_path / "a", b"text")
    age(path, seconds)
    identify([InputPath(str(path), "a")], tmp_path / "cache")
    assert read_cache(tmp_path / "cache") == {}


def test_a_spoilt_cache_is_made_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"text")
    age(path, seconds=60)
    for spoilt in (b"", b"{", b"[]", b'{"version": 0, "files": 5}'):
        write(tmp_path / CACHE_NAME, spoilt)
        (file,) = identify([InputPath(str(path), "a")], tmp_path)
        assert file.content_hash == hash_file(path)
        assert len(read_cache(tmp_path)) == 1


def test_what_cannot_be_identified_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: No such file"):
        identify([InputPath(str(tmp_path / "absent"), "")], tmp_path)
    with pytest.raises(InputError, match="not a regular file"):
        identify([InputPath(str(tmp_path), "")], tmp_path)


def test_a_link_to_the_directory_above_adds_nothing(tmp_path: Path) -> None:
    write(tmp_path / "d/a.jsonl", b"")
    for name in ("self", "again"):
        (tmp_path / "d" / name).symlink_to(tmp_path / "d")
    for pattern in ("d", "d/**", "d/**/*.jsonl", "**/a.jsonl", "d/*", "d/self/**/*.jsonl"):
        assert len(found(tmp_path, pattern)) == 1, pattern
    assert found(tmp_path, "d/**/*.jsonl") == ["d/a.jsonl"]
    assert found(tmp_path, "d/self/../d/a.jsonl", "d/../d/a.jsonl", "d/*/a.jsonl", "d") == [
        "d/self/../d/a.jsonl"
    ]


def test_a_file_that_a_link_names_too_keeps_its_own_path(tmp_path: Path) -> None:
    write(tmp_path / "d/z/file.txt", b"")
    (tmp_path / "d/a").symlink_to(tmp_path / "d/z")
    (tmp_path / "d/0.txt").symlink_to(tmp_path / "d/z/file.txt")
    assert [file.name for file in expand(["d"], ReadOptions(), tmp_path)] == ["z/file.txt"]
    assert found(tmp_path, "d/0.txt") == ["d/0.txt"]


def test_what_the_recipe_writes_is_never_found(tmp_path: Path) -> None:
    for name in ("a.jsonl", "out/mine/train/s.jsonl", "out/mine/new.jsonl", "cache/tokens/x.jsonl"):
        write(tmp_path / name, b"")
    (tmp_path / "to-out").symlink_to(tmp_path / "out/mine/train")
    (tmp_path / "x.jsonl").symlink_to(tmp_path / "cache/tokens/x.jsonl")
    real = str(tmp_path.resolve())
    for pattern in (".", "**/*.jsonl", "*"):
        places = Places(f"{real}/out/mine", frozenset([f"{real}/cache", f"{real}/out/mine/train"]))
        assert [f.name for f in expand([pattern], ReadOptions(), tmp_path, places)] == ["a.jsonl"]
        assert f"{tmp_path}/to-out" in places.left_out or pattern == "**/*.jsonl"
    for pattern in ("cache", "out/mine/train/*.jsonl", "to-out", "x.jsonl"):
        with pytest.raises(InputError, match="never input"):
            expand([pattern], ReadOptions(), tmp_path, places)
    inside = expand(["out/mine"], ReadOptions(), tmp_path, places)
    assert [file.name for file in inside] == ["new.jsonl"], (
        "sources may lie in the output directory"
    )


def test_other_datasets_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", b"")
    write(tmp_path / "mixture.json", b'{"schema": 1, "curate_version": "1"}')
    write(tmp_path / "theirs/manifest.json", b'{"shards": []}')
    write(tmp_path / "ours/manifest.json", b'{"schema": 1, "curate_version": "1"}')
    write(tmp_path / "ours/train/b.jsonl", b"")
    write(tmp_path / "killed/train/.curate", b"b")
    write(tmp_path / "killed/train/b.jsonl", b"")
    places = Places()
    files = expand(["."], ReadOptions(), tmp_path, places)
    assert [file.name for file in files] == ["a.jsonl", "theirs/manifest.json"]
    assert sorted(map(os.path.basename, places.left_out)) == ["killed", "mixture.json", "ours"]
    assert found(tmp_path, "ours/train/*.jsonl", "killed/train") == [
        "killed/train/b.jsonl", "ours/train/b.jsonl",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"ours \(a dataset of curate\); to read it all the same"):
        expand(["ours"], ReadOptions(), tmp_path)


def test_markers_and_checksums_are_left_out_unless_named(tmp_path: Path) -> None:
    for name in ("a.jsonl", "_SUCCESS", "a.jsonl.md5", "SHA256SUMS.txt", "_init.txt"):
        write(tmp_path / name, b"")
    assert found(tmp_path, ".") == found(tmp_path, "*") == ["_init.txt", "a.jsonl"]
    assert found(tmp_path, "*.md5", "_SUCCESS") == ["_SUCCESS", "a.jsonl.md5"]
    assert found(tmp_path, ".", glob="_S*") == ["_SUCCESS"]


@pytest.mark.parametrize(
    ("name", "glob"),
    [
        ("a.part", "*.part"), ("b.jsonl.incomplete", "b*.incomplete"), ("d.tmp", "*.tmp"),
        ("c.crdownload", "*.crdownload"), ("e.jsonl~", "*~"), ("#f.jsonl#", "#*#"),
    ],
)  # fmt: skip
def test_unfinished_downloads_are_told_and_not_read_unless_named(
    tmp_path: Path, name: str, glob: str
) -> None:
    for file in ("a.jsonl", name):
        write(tmp_path / "in.tmp" / file, b"")
    places = Places()
    for pattern in ("in.tmp", "in.tmp/*", "**", "in.tmp/*.jsonl*"):
        assert [p.name for p in expand([pattern], ReadOptions(), tmp_path, places)] == [
            "in.tmp/a.jsonl" if pattern == "**" else "a.jsonl"
        ]
    path = str(tmp_path / "in.tmp" / name)
    assert places.left_out == {path: "an unfinished download or a temporary copy"}
    assert found(tmp_path, f"in.tmp/{name}") == [f"in.tmp/{name}"]
    assert found(tmp_path, f"in.tmp/{glob}") == [f"in.tmp/{name}"]
    assert found(tmp_path, "in.tmp", glob=f"*.md, {glob}") == [f"in.tmp/{name}"]


def test_hidden_directories_of_records_are_told(tmp_path: Path) -> None:
    for name in (
        "a.jsonl", ".data/deep/b.parquet", ".git/config", ".git/objects/ab/cdef", ".curate/x.jsonl",
        ".other/CACHEDIR.TAG", ".other/deep/x.jsonl", ".half/c.jsonl.part",
    ):  # fmt: skip
        write(tmp_path / "in" / name, b"")
    for number in range(1200):
        write(tmp_path / "in/.large" / f"{number}.txt", b"")
    write(tmp_path / "in/.large/z/d.jsonl", b"")
    (tmp_path / "in/.link").symlink_to(tmp_path / "in/.data")
    cache = str(tmp_path / "in/.curate")
    for pattern in ("in", "in/**", "in/**/*.jsonl"):
        places = Places(written=frozenset([cache]))
        assert len(expand([pattern], ReadOptions(), tmp_path, places)) == 1
        assert places.left_out == {str(tmp_path / "in/.data"): "hidden"}
    places = Places()
    expand(["in"], ReadOptions(glob="*.jsonl"), tmp_path, places)
    assert list(places.left_out) == [cache]
