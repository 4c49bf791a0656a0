"""Tell which files in an output directory are curate's, and make room for a new dataset.

Only what curate wrote is removed or replaced, whatever state a killed build or damage left it in:
files in folders are recognised by the mark, those beside the shards by their content.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.dataset.manifest import (
    BESIDE_SHARDS,
    CARDS,
    LISTS,
    OWN_DIRECTORIES,
    OWN_FILES,
    SPLITS,
    DatasetLayout,
    Manifest,
    find_manifest,
)
from curate.dataset.regular_files import read_regular
from curate.errors import ShardError
from curate.formats.trainer_files import DIRECTORY as TRAINER
from curate.runtime.artifact_names import ARTIFACTS, MARK
from curate.runtime.files import atomic_path
from curate.runtime.machine import fault_or, raise_fault
from curate.runtime.registry import counted

READER_CACHE = "cache"
"""Megatron keeps indices in `<stem>/cache` unless configured otherwise. They are keyed by the
shard's name and not its content, so they are removed when the shard is written anew."""


def has_traces(directory: Path) -> bool:
    """Return whether a directory holds a manifest, or marks of shards, in whatever state."""
    names = ["manifest.json", MARK, *(f"{name}/{MARK}" for name in OWN_DIRECTORIES)]
    return any(os.path.lexists(directory / name) for name in names)


def files_below(directory: Path) -> list[Path]:
    """List what is below a directory, sorted; nothing if it is a link, which may lead anywhere."""
    return [] if directory.is_symlink() else sorted(directory.rglob("*"))


def refuse_foreign(directory: Path) -> None:
    """Refuse to overwrite files that have an artifact's name but were not written by curate.

    In a directory with a dataset of curate, damaged artifacts count as curate's and are rewritten;
    an empty directory in the place of one is removed.

    Raises:
        ShardError: The directory holds such files; the message names some.
    """
    if _is_dataset_of_curate(directory):
        for name in {*ARTIFACTS, *BESIDE_SHARDS, *CARDS}:
            _make_way(directory / name)
        return
    foreign = [
        name
        for name in ARTIFACTS
        if (directory / name).exists() and not _is_artifact(directory / name)
    ]
    if not _is_artifact(directory / "stats.json"):
        foreign += [name for name in LISTS if (directory / name).exists()]
    _refuse(directory, foreign)


def _make_way(path: Path) -> None:
    """Remove an empty directory from the place of a file.

    Raises:
        ShardError: It is not empty.
    """
    if path.is_dir() and not path.is_symlink():
        try:
            path.rmdir()
        except OSError as error:
            blocked = ShardError(
                f"{path}: a directory is where curate writes a file, and cannot be removed "
                f"({error.strerror}); move it away"
            )
            raise fault_or(blocked, error, str(path)) from error


def holds_dataset(directory: Path) -> bool:
    """Return whether a directory holds a finished dataset: a manifest that curate wrote."""
    return _is_artifact(DatasetLayout(directory).manifest)


def _is_dataset_of_curate(directory: Path) -> bool:
    """Return whether a directory holds a dataset, finished or not."""
    marks = (directory / MARK, directory / "train" / MARK)  # the second: of earlier versions
    return any(os.path.lexists(mark) for mark in marks) or holds_dataset(directory)


def _is_artifact(path: Path) -> bool:
    """Return whether a file states the version of curate that wrote it, or holds nothing."""
    try:
        content = read_regular(path)
    except OSError as error:
        raise_fault(error, str(path))
        return False
    # The words are enough: damage elsewhere in the file does not make it the user's.
    return not content or b'"curate_version"' in content


def _refuse(directory: Path, foreign: Sequence[str]) -> None:
    if not foreign:
        return
    shown = ", ".join(
        f"{name}, a file where curate writes a folder"
        if name in OWN_DIRECTORIES and not (directory / name).is_dir()
        else name
        for name in foreign[:3]
    ) + (", …" if len(foreign) > 3 else "")
    raise ShardError(
        f"{directory}: holds {counted(len(foreign), 'file')} that curate did not write ({shown}); "
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
    refuse_foreign(directory)
    layout = DatasetLayout(directory)
    stems = {f"provenance/{layout.provenance(*shard).stem}" for shard in shards}
    stems |= {f"{TRAINER}/{stem}" for stem in (*folder_stems, *trainer_stems)}
    folders = {f"{split}/{name}".rpartition("/")[0] for split, name in shards} | set(SPLITS)
    stems |= {f"{split}/{name}" for split, name in shards}
    stems |= {f"{folder}/{stem}" for folder in folders for stem in folder_stems}
    ours = _is_dataset_of_curate(directory)
    owned = own_files(directory, find_manifest(directory), stems if ours else ())
    foreign = [name for name in OWN_FILES if not ours and (directory / name).exists()]
    _refuse(directory, foreign + _foreign_in_folders(directory, owned, ours))
    # Whenever this is killed, the mark lists what is left: it is replaced while there is nothing.
    if ours:
        _write_mark(directory, owned.lines())
    for file in ("manifest.json", "certificate.json", *OWN_FILES):
        (directory / file).unlink(missing_ok=True)
    for name in OWN_DIRECTORIES:
        if (directory / name).is_symlink():  # what it leads to stays
            (directory / name).unlink()
        elif (directory / name).exists():
            shutil.rmtree(directory / name)
    _write_mark(directory, stems)
    trainer = [TRAINER] if folder_stems or trainer_stems else []
    for name in ("provenance", *trainer, *sorted(folders)):
        (directory / name).mkdir(parents=True, exist_ok=True)


def _foreign_in_folders(directory: Path, owned: OwnFiles, ours: bool) -> list[str]:
    """List files in a dataset's folders that curate did not make, relative to its directory."""
    layout = DatasetLayout(directory)
    return [
        layout.relative(path)
        for name in OWN_DIRECTORIES
        for path in [directory / name, *files_below(directory / name)]
        if (path.is_symlink() or (path.exists() and not path.is_dir()))
        and not (ours and path.is_symlink() and path.parent == directory)
        and path not in owned
    ]


def check_removable(directory: Path) -> None:
    """Refuse what `remove_dataset` would refuse, before anything is removed.

    Raises:
        ShardError: Its folders hold files that curate did not make; the message names some.
    """
    if _is_dataset_of_curate(directory):
        refuse_foreign(directory)
        owned = own_files(directory, find_manifest(directory))
        _refuse(directory, _foreign_in_folders(directory, owned, ours=True))


def remove_dataset(directory: Path) -> None:
    """Remove everything that curate wrote to a directory, and it, too, if nothing is left.

    Raises:
        ShardError: Its folders hold files that curate did not make; the message names some.
    """
    if not _is_dataset_of_curate(directory):
        return
    clear(directory, ())
    for name in {*ARTIFACTS, *BESIDE_SHARDS, *CARDS}:
        (directory / name).unlink(missing_ok=True)
    for path in (*(directory / name for name in OWN_DIRECTORIES), directory):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """The files in folders of a dataset that are curate's, of finished and of killed builds."""

    directory: Path
    stems: frozenset[str]
    """Paths relative to the directory, without suffix."""
    starts: tuple[str, ...]
    """Paths of which only the start is given."""

    def lines(self) -> list[str]:
        """List the lines of a mark that names the same files."""
        return [*self.stems, *(f"{start}*" for start in self.starts)]

    def __contains__(self, path: Path) -> bool:
        """Return whether a file is curate's, be it a mark, unfinished, or cached by a reader."""
        if path.name == MARK or self.is_reader_cache(path):
            return True
        folder = path.parent.relative_to(self.directory).as_posix()
        name = path.name.lstrip(".")  # temporary files begin with a dot
        dots = [place for place, letter in enumerate(name) if letter == "."]
        if any(f"{folder}/{name[:stop]}" in self.stems for stop in (*dots, len(name))):
            return True
        starts = (start.rpartition("/") for start in self.starts)
        return any(folder == parent and name.startswith(start) for parent, _, start in starts)

    def is_reader_cache(self, path: Path) -> bool:
        """Return whether a trainer's reader cached a file beside a shard."""
        relative = path.relative_to(self.directory).as_posix()
        stem, separator, _ = relative.partition(f"/{READER_CACHE}/")
        return bool(separator) and stem in self.stems


def own_files(
    directory: Path, manifest: Manifest | None, expected: Collection[str] = ()
) -> OwnFiles:
    """Read which files are curate's, from the mark and, in case that is damaged, the manifest.

    Args:
        directory: Directory of the dataset.
        manifest: Its manifest; None if that cannot be used.
        expected: Further stems, in case both are damaged.
    """
    stems = {*expected, *_lines(directory / MARK)}
    for name in OWN_DIRECTORIES:  # marks of earlier versions
        stems |= {f"{name}/{stem}" for stem in _lines(directory / name / MARK)}
    if manifest is not None:
        stems |= {shard.stem for shard in manifest.shards}
        stems |= {file.path for file in manifest.listed}
    starts = {stem for stem in stems if stem.endswith("*")}
    return OwnFiles(directory, frozenset(stems - starts), tuple(stem[:-1] for stem in starts))


def _lines(mark: Path) -> list[str]:
    try:
        return read_regular(mark).decode("utf-8", "replace").splitlines()
    except OSError as error:  # absent, or something else is in its place
        raise_fault(error, str(mark))
        return []


def _write_mark(directory: Path, stems: Collection[str]) -> None:
    with atomic_path(directory / MARK) as temporary:
        temporary.write_text("".join(f"{stem}\n" for stem in sorted(stems)), "utf-8")
