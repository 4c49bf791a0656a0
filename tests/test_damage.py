"""Damaged datasets, and manifests of strangers: always a verdict, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RECIPE, Listener, forge_manifest
from warm import run_curate

import curate
from curate.dataset.certificate import certificate_damage
from curate.dataset.hashed_json import has_hash, is_whole, with_hash
from curate.dataset.manifest import file_damage, load_manifest, read_plan, read_provenance
from curate.errors import CurateError, EngineError, InputError, ShardError
from curate.formats import FORMATS
from curate.formats.parquet import damage_named
from curate.runtime.files import hash_file
from curate.runtime.machine import TOO_MANY_FILES

LENGTH = 64


@pytest.fixture(scope="module")
def make(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Path]]:
    """Build a tiny dataset in a format; return its recipe and its directory.

    After a hyphen, a word keeps a dataset that a test damages apart.
    """
    root = tmp_path_factory.mktemp("damage")

    def one(name: str) -> tuple[Path, Path]:
        recipe = root / f"{name}.yaml"
        if not recipe.exists():
            text = RECIPE.format(data=corpus / "data").replace("30000", "6000")
            form = name.partition("-")[0]
            output = f"output: {{dir: {name}, format: {form}, shard_tokens: 4000}}\ncache: cache\n"
            recipe.write_text(text + output, "utf-8")
            assert curate.build(recipe, workers=1).ok
        return recipe, root / name

    return one


@pytest.fixture
def copied(make: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> Path:
    """A copy of a dataset in the format npy."""
    return Path(shutil.copytree(make("npy")[1], tmp_path / "npy"))


def contents(directory: Path) -> dict[str, bytes]:
    """Every file, by its path."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def problems(directory: Path) -> list[str]:
    result = curate.verify(directory, workers=1)
    assert result.ok is (not result.problems)
    return result.problems


@pytest.mark.parametrize("name", FORMATS)
def test_a_flip_in_any_file_is_found_and_mended(
    make: Callable[[str], tuple[Path, Path]], name: str, runslow: bool
) -> None:
    recipe, directory = make(f"{name}-flipped")
    generator = np.random.default_rng([*name.encode()])
    whole = contents(directory)
    named = ["manifest.json", "README.md", "stats.json", "tokenizer.json"]
    others = sorted(whole.keys() - set(named))
    assert len(whole) == len(named) + len(others)
    some = generator.choice(others, len(others) if runslow else 2, replace=False)
    for path in [*named, *some]:
        content = whole[path]
        flipped = bytearray(content)
        flipped[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
        (directory / path).write_bytes(flipped)
        found = problems(directory)
        assert any(path in problem for problem in found), path
        assert len(found) == 1, "damage makes no problem but itself"
        (directory / path).write_bytes(content)
        (directory / "certificate.json").write_bytes(whole["certificate.json"])
    for path in generator.choice(list(whole), 2, replace=False):
        (directory / path).write_bytes(whole[path][:-1] + b"?")
        assert curate.build(recipe, workers=1).ok
        assert contents(directory) == whole, path


@pytest.mark.parametrize("kind", ["empty", "absent", "directory", "link", "pipe"])
def test_whatever_takes_the_place_of_a_file_is_found_and_mended(
    make: Callable[[str], tuple[Path, Path]], tmp_path: Path, kind: str
) -> None:
    recipe, directory = make(f"npy-{kind}")
    whole = contents(directory)
    (tmp_path / "elsewhere").write_text("mine")
    for name in (
        "manifest.json", "certificate.json", "README.md", "plan.json", "tokenizer.json",
        "train/shard-00000.npy", "provenance/train-shard-00000.npy",
    ):  # fmt: skip
        path = directory / name
        path.unlink()
        if kind == "empty":
            path.touch()
        elif kind == "directory":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(tmp_path / "elsewhere")
        elif kind == "pipe":
            os.mkfifo(path)
        assert any(name in problem for problem in problems(directory)), name
        assert curate.build(recipe, workers=1).ok, name
        assert contents(directory) == whole, name
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_a_link_in_the_place_of_a_folder_is_mended_and_not_followed(
    make: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    recipe, directory = make("npy-folder")
    whole = contents(directory)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.txt").write_text("mine")
    for name in ("provenance", "validation", "train"):
        shutil.rmtree(directory / name)
        (directory / name).symlink_to(tmp_path / "elsewhere")
        assert not any("mine.txt" in problem for problem in problems(directory)), name
        assert curate.build(recipe, workers=1).ok, name
        assert contents(directory) == whole, name
    assert (tmp_path / "elsewhere" / "mine.txt").read_text() == "mine"


def test_a_build_says_what_it_mends(make: Callable[[str], tuple[Path, Path]]) -> None:
    recipe, directory = make("npy-told")
    for name, notice in (
        ("manifest.json", f"{directory}/manifest.json is damaged: writing the dataset again"),
        ("plan.json", "the dataset is damaged: writing it again"),
    ):
        path = directory / name
        path.write_bytes(path.read_bytes().replace(b"wiki", b"viki", 1))
        heard = Listener()
        assert curate.build(recipe, workers=1, progress=heard).ok
        assert notice in heard.notices


def test_every_byte_of_a_hashed_file_counts() -> None:
    content = with_hash(b'{\n  "schema": 2,\n  "shards": []\n}')
    assert is_whole(content) and json.loads(content)["schema"] == 2
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1
        assert not is_whole(bytes(flipped))
    assert not has_hash(b"") and not is_whole(content[:-1]) and not is_whole(content + b"\n")


def test_every_byte_of_the_head_of_a_provenance_counts(copied: Path) -> None:
    path = copied / "provenance" / "train-shard-00000.npy"
    content = path.read_bytes()
    for place in range(0, 128, 3):
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(ShardError, match=r"train-shard-00000\.npy: not provenance"):
            curate.load(copied, LENGTH, fields=["tokens", "domains"])
        assert problems(copied) == [
            "provenance/train-shard-00000.npy: content differs from the manifest's hash"
        ]


def put(path: str, value: Any, manifest: dict[str, Any]) -> None:
    """Set one value of a manifest, such as `shards.0.tokens`."""
    *parents, last = path.split(".")
    place: Any = manifest
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    place[int(last) if last.isdigit() else last] = value


STRANGE = [
    ("shards.0.files.0.path", "/etc/passwd", "not a path inside"),
    ("shards.0.files.0.path", "../npy/train/shard-00000.npy", "not a path inside"),
    ("shards.0.files.0.path", "train//shard-00000.npy", "not a path inside"),
    ("shards.0.files.0.path", "C:\\shard.npy", "not a path inside"),
    ("shards.0.files.0.path", "train/\x1b[2J", "not a manifest of curate"),
    ("shards.0.files.0.path", "validation/wiki.npy", "twice"),
    ("shards.0.stem", "../train/shard-00000", "not a path inside"),
    ("shards.0.stem", "train/other", "are elsewhere"),
    ("shards.0.split", "test", "are elsewhere"),
    ("shards.0.provenance.path", "/dev/zero", "not a path inside"),
    ("files.0.path", "a/../../b", "not a path inside"),
    ("shards.0.tokens", -1, "not a manifest of curate"),
    ("shards.0.tokens", 10**30, "not a manifest of curate"),
    ("shards.0.tokens", float("nan"), "not a manifest of curate"),
    ("shards.0.tokens", 2**53, "its shards hold more than"),
    ("shards.0.files.0.bytes", 1e300, "not a manifest of curate"),
    ("shards.0.files.0.xxh3", "x", "not a manifest of curate"),
    ("budget_tokens", 0, "not a manifest of curate"),
    ("sequence_length", "many", "not a manifest of curate"),
    ("tokenizer.vocabulary", 2**62, "not a manifest of curate"),
    ("dtype", "x", "not a manifest of curate"),
    ("domains", [], "not a manifest of curate"),
    ("domains", ["wiki", "wiki", "code"], "names a domain twice"),
    ("domains.0", "wiki\nx", "not a manifest of curate"),
    ("packing", "best-fit", "needs a sequence_length"),
    ("packing", "\x1b[31m", "not a manifest of curate"),
    ("shape", 3, "not a manifest of curate"),
    ("options", {"variant": [[[]]]}, "not a manifest of curate"),
    ("options", {"variant": "x"}, "format npy has no option 'variant'"),
    ("format", "mp3", "mp3"),
    ("cache", "\0", "not a manifest of curate"),
    ("shards", None, "not a manifest of curate"),
    ("schema", 3, "schema 3"),
]


@pytest.mark.parametrize(("place", "value", "message"), STRANGE)
def test_a_strange_manifest_is_refused_in_one_line(
    copied: Path, place: str, value: Any, message: str
) -> None:
    forge_manifest(copied, partial(put, place, value))
    (line,) = problems(copied)
    assert message in line and line.isprintable()
    with pytest.raises(CurateError, match=message) as caught:
        curate.load(copied, LENGTH)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "3", "{" * 100_000, "[" * 100_000, '{"a":' * 100_000, "\xff"]
)
def test_what_is_no_manifest_is_refused_in_one_line(copied: Path, text: str) -> None:
    (copied / "manifest.json").write_bytes(text.encode("latin-1"))
    (line,) = problems(copied)
    assert "manifest.json: " in line and line.isprintable()
    with pytest.raises(ShardError):
        curate.load(copied, LENGTH)


def test_links_out_of_the_directory_are_not_followed(copied: Path, tmp_path: Path) -> None:
    (copied / "train").rename(tmp_path / "elsewhere")
    (copied / "train").symlink_to(tmp_path / "elsewhere")
    assert "train/shard-00000.npy: is reached through a link, which curate does not write" in (
        problems(copied)
    )
    with pytest.raises(ShardError, match="is reached through a link"):
        curate.load(copied, LENGTH)


@pytest.mark.parametrize(
    ("name", "value"),
    [("tokens", -1), ("tokens", 2**62), ("document", -1), ("domain", 9), ("domain", 65535)],
)
def test_pieces_of_no_document_are_refused(copied: Path, name: str, value: int) -> None:
    path = copied / "provenance" / "train-shard-00000.npy"
    rows = np.load(path)
    rows[name][0] = value
    np.save(path, rows)
    forge_manifest(copied, partial(put, "shards.0.provenance.xxh3", hash_file(path)))
    (line,) = problems(copied)
    assert "its pieces are not those of a shard" in line
    with pytest.raises(ShardError, match="its pieces are not those of a shard"):
        curate.load(copied, LENGTH, fields=["tokens", "domains"])


@pytest.mark.parametrize("name", ["document", "start", "content"])
def test_pieces_of_other_documents_are_found(copied: Path, name: str) -> None:
    path = copied / "provenance" / "train-shard-00000.npy"
    rows = np.load(path)
    rows[name][0] += 1
    np.save(path, rows)
    forge_manifest(copied, partial(put, "shards.0.provenance.xxh3", hash_file(path)))
    (line,) = problems(copied)
    assert "train/shard-00000: " in line


@pytest.mark.parametrize("value", [-1, 1e308, None, "x", {}, [[]], 10**40])
def test_a_strange_plan_is_one_problem(copied: Path, value: Any) -> None:
    path = copied / "plan.json"
    plan = json.loads(path.read_text())
    plan["domains"]["wiki"]["tokens"] = value
    path.write_text(json.dumps(plan))

    def change(manifest: dict[str, Any]) -> None:
        (record,) = (file for file in manifest["files"] if file["path"] == "plan.json")
        record.update(bytes=path.stat().st_size, xxh3=hash_file(path))

    forge_manifest(copied, change)
    (line,) = problems(copied)
    assert line.startswith("plan.json: not a plan of curate (") and line.isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_dataset_gets_a_verdict(copied: Path) -> None:
    before = contents(copied)
    copied.chmod(0o555)
    try:
        done = run_curate("verify", copied)
    finally:
        copied.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "certificate ok: true" in done.stdout and "--report PATH" in done.stdout
    assert contents(copied) == before


def test_a_certificate_that_cannot_be_written_changes_no_verdict(copied: Path) -> None:
    path = copied / "certificate.json"
    path.unlink()
    (path / "in the way").mkdir(parents=True)
    result = curate.verify(copied, workers=1)
    assert result.path is None and result.json["domains"]
    assert result.problems == [
        "certificate.json: is a directory, not a file; this verdict takes its place"
    ]


def test_the_certificate_can_be_written_elsewhere(copied: Path, tmp_path: Path) -> None:
    before = contents(copied)
    report = tmp_path / "report.json"
    result = curate.verify(copied, report=report, workers=1)
    assert result.path == report and contents(copied) == before
    assert json.loads(report.read_text())["ok"] and is_whole(report.read_bytes())
    done = run_curate("verify", copied, "--report", tmp_path / "absent" / "report.json", "--quiet")
    assert done.returncode == 0 and (tmp_path / "absent" / "report.json").exists()
    with pytest.raises(InputError, match=r"report\.json/x: cannot be written"):
        curate.verify(copied, report=report / "x", workers=1)


def test_a_damaged_certificate_is_replaced(copied: Path) -> None:
    path = copied / "certificate.json"
    path.write_text("{}")
    assert problems(copied) == [
        "certificate.json: damaged, for it differs from its own hash; this verdict takes its place"
    ]
    assert problems(copied) == []
    path.unlink()
    assert problems(copied) == ["certificate.json: missing; this verdict takes its place"]
    assert problems(copied) == []


def test_verify_names_the_directory_that_is_meant(
    make: Callable[[str], tuple[Path, Path]],
) -> None:
    recipe, directory = make("npy")
    for path in (recipe, directory / "plan.json"):
        with pytest.raises(ShardError) as caught:
            curate.verify(path)
        assert str(caught.value) == (
            f"{path}: a file, but a dataset is a directory; type curate verify {directory}"
        )
    with pytest.raises(ShardError, match="a file, but a dataset is a directory; name the one that"):
        curate.show(recipe, "shard-00000:0")
    with pytest.raises(ShardError, match="no manifest.json, so no finished dataset"):
        curate.verify(recipe.parent)


def test_a_manifest_of_an_earlier_version_is_verified_as_far_as_it_goes(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_bytes())
    plan = next(file for file in manifest["files"] if file["path"] == "plan.json")
    del manifest["files"], manifest["xxh3"]
    (copied / "manifest.json").write_text(json.dumps({**manifest, "schema": 1, "plan": plan}))
    done = run_curate("verify", copied)
    assert done.returncode == 0 and "an earlier version of curate" in done.stdout
    (copied / "plan.json").write_text("{}")
    assert problems(copied) == [f"plan.json: 2 bytes, the manifest says {plan['bytes']}"]
    (copied / "manifest.json").write_text(json.dumps({**manifest, "schema": 2}))
    (line,) = problems(copied)
    assert "differs from its own hash" in line


def test_a_build_that_was_cut_off_before_its_card_is_told(copied: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"] = [one for one in manifest["files"] if one["path"] != "README.md"]

    forge_manifest(copied, change)
    assert problems(copied) == [
        "README.md: not in the manifest, so its build was cut off; run curate build"
    ]


def test_want_of_memory_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    with pytest.raises(EngineError, match=rf"^{path}: out of memory"), damage_named(path):
        raise MemoryError("malloc of size 67108864 failed")
    with pytest.raises(EngineError, match="check the disk"), damage_named(path):
        raise OSError(errno.EIO, "Input/output error")
    with pytest.raises(ShardError, match="found damage: no such thing"), damage_named(path):
        raise OSError("no such\nthing")


def test_want_of_descriptors_is_no_damage(copied: Path) -> None:
    resource = pytest.importorskip("resource")
    manifest = load_manifest(copied)
    shard = manifest.shards[0]
    reads: list[tuple[str, Callable[[], Any]]] = [
        ("manifest.json", lambda: load_manifest(copied)),
        ("plan.json", lambda: read_plan(copied / "plan.json")),
        ("certificate.json", lambda: certificate_damage(copied / "certificate.json")),
        (shard.files[0].path, lambda: file_damage(copied, shard.files[0])),
        (
            shard.provenance.path,
            lambda: read_provenance(copied / shard.provenance.path, shard, manifest),
        ),
    ]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    errors = {}
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        for name, read in reads:
            try:
                read()
            except EngineError as error:
                errors[name] = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert errors == {name: f"{copied / name}: {TOO_MANY_FILES}" for name, _ in reads}
