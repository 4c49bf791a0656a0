"""Layout of a built dataset on disk, and the manifest that lists its files.

```
<dir>/manifest.json        written last; lists every file with its hash
<dir>/train/               shards: shard-00000…, in the trainer's format; with
                           `output.shape: per-domain` in a folder for each domain
<dir>/validation/<domain>  held-out documents of each domain, in the same format
<dir>/provenance/          for each shard, which document every run of tokens came from
<dir>/trainer/             for some formats: files that trainers need for a whole split;
                           with separate domains, the trainers' mixture files
<dir>/tokenizer.json       the definition that made the tokens
<dir>/stats.json mixture.json plan.json certificate.json quarantine.jsonl README.md
```
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.errors import ShardError
from curate.formats import Settings, TextFormat, TokenFormat, configure
from curate.formats.trainer_files import DIRECTORY as TRAINER
from curate.plan import PIECE
from curate.runtime.files import atomic_path, hash_file

SCHEMA = 1

SPLITS = ("train", "validation")

PROVENANCE = np.dtype([*[(name, PIECE[name]) for name in PIECE.names or ()], ("content", "<u8")])
"""A piece and the first half of its document's content hash."""

OWN_DIRECTORIES = ("train", "validation", "provenance", TRAINER)
OWN_FILES = ("README.md", "tokenizer.json")
"""Files beside the shards; in a directory without a dataset of curate they are the user's."""

ARTIFACTS = ("stats.json", "mixture.json", "plan.json", "manifest.json", "certificate.json")
"""JSON files beside the shards; ours say which version of curate wrote them."""
QUARANTINE = "quarantine.jsonl"

MARK = ".curate"
"""Name of the file that lists the shards a directory is for."""

READER_CACHE = "cache"
"""Megatron keeps indices in `<stem>/cache` unless configured otherwise. They are keyed by the
shard's name and not its content, so they are removed when the shard is written anew."""


class FileRecord(msgspec.Struct, frozen=True):
    """A file of the dataset."""

    path: str
    """Relative to the dataset's directory."""
    bytes: int
    xxh3: str
    """xxh3-128, 32 hexadecimal digits."""


class ShardRecord(msgspec.Struct, frozen=True):
    """A shard and its provenance."""

    split: str
    stem: str
    """Stem that the format's reader takes, relative to the dataset's directory."""
    sequences: int
    tokens: int
    files: list[FileRecord]
    provenance: FileRecord


class TokenizerRecord(msgspec.Struct, frozen=True):
    """The tokenizer that made the tokens."""

    name: str
    fingerprint: str
    eos: str | None
    eos_id: int | None
    vocabulary: int
    backend: str


class InputRecord(msgspec.Struct, frozen=True):
    """An input file."""

    domain: str
    path: str
    content: str
    """Key of its content and of how it was read; see `FilePlan.keys`."""
    segments: int
    """Number of segments that it was read in."""


class Manifest(msgspec.Struct, frozen=True):
    """`manifest.json`."""

    schema: int
    curate_version: str
    name: str
    recipe_hash: str
    build_hash: str
    """Recipe, tokenizer, documents and curate version: the same hash gives the same shards."""
    format: str
    dtype: str | None
    """Type of a token on disk; None for text."""
    sequence_length: int | None
    seed: int
    budget_tokens: int
    tokenizer: TokenizerRecord
    domains: list[str]
    shards: list[ShardRecord]
    inputs: list[InputRecord]
    cache: str
    """Absolute path of the token store at build time."""
    options: dict[str, Any] = {}
    """Options of the format, as the recipe gave them."""
    folder_files: list[FileRecord] = []
    """Files that the format's readers expect beside the shards."""
    window: str = "L"
    """`L+1` where `sequence_length` is one more than the trainer's."""
    packing: str = "concat"
    """How documents form sequences; see `curate.plan.packing`."""
    plan: FileRecord | None = None
    """`plan.json`, by which the shards were written; None in datasets of earlier versions."""
    shape: str = "mixed"
    """`mixed`, or `per-domain`: a folder a domain, the mixture left to the trainer."""

    @property
    def settings(self) -> Settings:
        """Return the settings that the format was configured with."""
        return Settings(
            eos_id=self.tokenizer.eos_id,
            vocabulary=self.tokenizer.vocabulary,
            tokenizer=self.tokenizer.name,
            sequence_length=self.sequence_length and self.sequence_length - (self.window == "L+1"),
            row_tokens=None if self.packing == "whole" else self.sequence_length,
            options=self.options,
        )

    def configured(self) -> TokenFormat | TextFormat:
        """Return the format that wrote the shards, configured with its options."""
        return configure(self.format, self.settings)


@dataclass(frozen=True, slots=True)
class ShardOnDisk:
    """A shard to be checked, with its dataset and its provenance."""

    directory: Path
    """Directory of the dataset."""
    manifest: Manifest
    record: ShardRecord
    pieces: NDArray[Any]
    """shape (pieces,), dtype `PROVENANCE`."""


@dataclass(frozen=True, slots=True)
class DatasetLayout:
    """Paths of a dataset."""

    directory: Path

    @property
    def manifest(self) -> Path:
        """Written last, removed first."""
        return self.directory / "manifest.json"

    def stem(self, split: str, name: str) -> Path:
        """Return a shard's path without the format's suffix."""
        return self.directory / split / name

    def provenance(self, split: str, name: str) -> Path:
        """Return the path of a shard's provenance."""
        return self.directory / "provenance" / f"{split}-{name.replace('/', '--')}.npy"

    def relative(self, path: Path) -> str:
        """Return a path as the manifest writes it."""
        return path.relative_to(self.directory).as_posix()


def load_manifest(directory: Path) -> Manifest:
    """Read a dataset's manifest.

    Raises:
        ShardError: There is no manifest, or it is not curate's.
    """
    path = DatasetLayout(directory).manifest
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise ShardError(
            f"{directory}: no manifest.json, so no finished dataset; run curate build"
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise ShardError(f"{path}: not a manifest of curate ({error})") from error
    if manifest.schema != SCHEMA:
        raise ShardError(
            f"{path}: schema {manifest.schema}, this curate reads {SCHEMA}; build it again"
        )
    return manifest


def refuse_foreign(directory: Path) -> None:
    """Refuse to overwrite files that have an artifact's name but were not written by curate.

    In a directory with a dataset of curate, damaged artifacts count as curate's and are rewritten.

    Raises:
        ShardError: The directory holds such files; the message names some.
    """
    if _holds_dataset(directory):
        return
    foreign = [
        name
        for name in ARTIFACTS
        if (directory / name).exists() and not _is_artifact(directory / name)
    ]
    if (directory / QUARANTINE).exists() and not _is_artifact(directory / "stats.json"):
        foreign.append(QUARANTINE)
    _refuse(directory, foreign)


def _holds_dataset(directory: Path) -> bool:
    return (directory / "train" / MARK).exists() or _is_artifact(DatasetLayout(directory).manifest)


def _is_artifact(path: Path) -> bool:
    """Return whether a file is JSON that states the version of curate that wrote it."""
    try:
        content = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return isinstance(content, dict) and "curate_version" in content


def _refuse(directory: Path, foreign: Sequence[str]) -> None:
    if not foreign:
        return
    shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
    raise ShardError(
        f"{directory}: holds {len(foreign)} files that curate did not write ({shown}); "
        "move them away, or give output.dir another directory"
    )


def clear(
    directory: Path,
    shards: Sequence[tuple[str, str]],
    folder_stems: Sequence[str] = (),
    trainer_stems: Sequence[str] = (),
) -> None:
    """Make room for new shards, removing curate's older shards and nothing else.

    Args:
        directory: Directory of the dataset.
        shards: (split, name) of the shards about to be written. They are recorded first, so that
            shards of a killed build are recognised as curate's too.
        folder_stems: Names, without suffix, of the files that the format writes beside the shards;
            a final `*` matches anything.
        trainer_stems: Names, without suffix, of other files written to `trainer/`.

    Raises:
        ShardError: The directory holds files that curate did not make; the message names some.
    """
    layout = DatasetLayout(directory)
    ours = _holds_dataset(directory)
    foreign = [name for name in OWN_FILES if not ours and (directory / name).exists()]
    foreign += [
        layout.relative(path)
        for name in OWN_DIRECTORIES
        for path in sorted((directory / name).rglob("*"))
        if not path.is_dir() and not _is_ours(path, directory / name)
    ]
    _refuse(directory, foreign)
    layout.manifest.unlink(missing_ok=True)
    (directory / "certificate.json").unlink(missing_ok=True)
    for name in OWN_DIRECTORIES:
        shutil.rmtree(directory / name, ignore_errors=True)
        if name != TRAINER or folder_stems or trainer_stems:
            (directory / name).mkdir(parents=True)
    marks: dict[str, list[str]] = {}
    for split in SPLITS:
        names = [name for owner, name in shards if owner == split]
        folders = sorted({name.rpartition("/")[0] for name in names} | {""})
        for folder in folders:
            (directory / split / folder).mkdir(exist_ok=True)
        prefixes = [f"{folder}/" if folder else "" for folder in folders]
        marks[split] = names + [prefix + stem for prefix in prefixes for stem in folder_stems]
    marks["provenance"] = [layout.provenance(*shard).stem for shard in shards]
    marks[TRAINER] = [*folder_stems, *trainer_stems]
    for name, stems in marks.items():
        if (directory / name).is_dir():
            (directory / name / MARK).write_text("".join(f"{stem}\n" for stem in stems), "utf-8")


def _is_ours(path: Path, owned: Path) -> bool:
    """Return whether a file is the mark, or a shard, finished or not, that the mark names."""
    if path.name == MARK or is_reader_cache(path, owned):
        return True
    if not (owned / MARK).exists():
        return False
    name = (path.parent / path.name.lstrip(".")).relative_to(owned).as_posix()
    level = name.count("/")
    stems = [stem for stem in _marked(owned) if stem.count("/") == level]
    return name.startswith(tuple(f"{stem}.".replace("*.", "") for stem in stems))


def is_reader_cache(path: Path, owned: Path) -> bool:
    """Return whether a trainer's reader cached a file beside a shard of the directory `owned`."""
    stem, separator, _ = path.relative_to(owned).as_posix().partition(f"/{READER_CACHE}/")
    return bool(separator) and stem in _marked(owned)


def _marked(owned: Path) -> list[str]:
    """List the stems that the mark of a directory names."""
    mark = owned / MARK
    return mark.read_text("utf-8").split() if mark.exists() else []


def record_file(path: Path, directory: Path) -> FileRecord:
    """Return the record of a file just written: path, size and hash."""
    return FileRecord(path.relative_to(directory).as_posix(), path.stat().st_size, hash_file(path))


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write the manifest, the last act of a build."""
    with atomic_path(DatasetLayout(directory).manifest) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))


def read_provenance(path: Path) -> NDArray[Any]:
    """Read a shard's provenance.

    Raises:
        ShardError: The file is absent or damaged.
    """
    try:
        pieces: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: provenance cannot be read ({error})") from error
    if pieces.dtype != PROVENANCE:
        raise ShardError(f"{path}: not provenance of this version of curate")
    return pieces
