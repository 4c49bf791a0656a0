"""A dataset in object storage, and the directory on disk through which curate reads and writes it.

Shards are written to a *staging directory*, sent once they are whole, and replaced there by
*stand-ins*: files of the same name and size that take no room. Before anything reads a stand-in,
the object is fetched to its place, and it is a stand-in again afterwards. So staging holds no more
shards than are being written or read at once. Files beside the shards are copied there.

`manifest.json` and `certificate.json` are sent last, after everything else has been read back out
of the bucket, so a bucket without them holds an unfinished run.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curate.dataset.regular_files import is_inside
from curate.errors import CurateError, EngineError, InputError, ShardError
from curate.runtime.artifact_names import MARK
from curate.runtime.files import atomic_path
from curate.runtime.locks import DIRECTORY_LOCK, holder_line, parse_holder
from curate.runtime.objects import ODD_KEY, list_with_odd
from curate.runtime.transfers import (
    delete_objects,
    describe,
    download,
    read_whole,
    upload,
    write_new,
    write_object,
)

STAND_IN_SECONDS = 0
"""Modification time of a stand-in; a file that was just written or fetched has another."""

LAST = ("manifest.json", "certificate.json")
"""Files that are sent last and removed first."""


_locks: set[bytes] = set()
"""Contents of the locks that this process holds."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A prefix of a bucket, and its staging directory."""

    url: str
    """Such as `s3://bucket/prefix`."""
    directory: Path
    folders: tuple[str, ...]
    """Folders of the dataset, whose files are stand-ins."""
    beside: frozenset[str]
    """Names of the dataset's files beside the folders, which are copied."""

    def url_of(self, path: Path) -> str:
        """Return the URL of a file in staging."""
        return f"{self.url}/{path.relative_to(self.directory).as_posix()}"

    def child(self, name: str) -> Bucket:
        """Return the place of a stage of the dataset."""
        return replace(self, url=f"{self.url}/{name}", directory=self.directory / name)

    @contextlib.contextmanager
    def opened(self, stages_of: Callable[[Path], Iterable[str]]) -> Iterator[None]:
        """Let staging show what the bucket holds during a block; errors name the bucket's files.

        Args:
            stages_of: Called with staging once it shows all but stages; names those to show, too.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        shown = [self]
        try:
            self.mirror()
            for name in stages_of(self.directory):
                shown.append(self.child(name))
                shown[-1].directory.mkdir(exist_ok=True)
                shown[-1].mirror()
            yield
        except CurateError as error:
            raise type(error)(self.named(str(error))) from error
        finally:
            for place in shown:  # a stand-in must not be taken for a shard
                place._clear()

    @contextlib.contextmanager
    def deleting(self) -> Iterator[None]:
        """Delete the objects whose files a block removes from staging."""
        before = self._files()
        yield
        removed = before - self._files()
        self._delete(sorted(removed, key=lambda name: (name not in LAST, name)))

    def _files(self) -> set[str]:
        files = (path for path in self.directory.rglob("*") if path.is_file())
        return {path.relative_to(self.directory).as_posix() for path in files}

    def named(self, text: str) -> str:
        """Name files of the bucket in the place of those in staging."""
        return text.replace(str(self.directory), self.url)

    def mirror(self, keep: Collection[str] = ()) -> None:
        """Make staging show what the bucket holds; other files of staging stay.

        Args:
            keep: Names of files beside the shards that stay as they are in staging.

        Raises:
            ShardError: A trainer may read an object among the shards that no file can stand for.
        """
        self._clear(keep)
        objects, odd = list_with_odd(self.url)
        for url, _, _ in odd:
            if url.removeprefix(f"{self.url}/").partition("/")[0] in self.folders:
                raise ShardError(f"{url}: no file can have this name, as {ODD_KEY}; delete it")
        for url, size_bytes, _ in objects:
            name = url.removeprefix(f"{self.url}/")
            path = self.directory / name
            if name in self.beside and name not in keep:
                download(url, path)
            elif "/" in name and name.partition("/")[0] in self.folders and is_inside(name):
                try:
                    _stand_in(path, size_bytes)
                except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                    raise ShardError(
                        f"{url}: lies below another object, as no file can; delete it"
                    ) from error

    def _clear(self, keep: Collection[str] = ()) -> None:
        for name in self.folders:
            shutil.rmtree(self.directory / name, ignore_errors=True)
        for name in self.beside - set(keep):
            (self.directory / name).unlink(missing_ok=True)

    def present(self) -> set[str]:
        """List the dataset's files, as `mirror` has shown them."""
        folders = (self.directory / name for name in self.folders)
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        files += [
            self.directory / name for name in self.beside if (self.directory / name).is_file()
        ]
        return {path.relative_to(self.directory).as_posix() for path in files}

    def begin(self, earlier: Collection[str]) -> None:
        """Make an earlier dataset unfinished, and have the mark name its files and the new ones.

        Args:
            earlier: Files that are in the bucket.
        """
        self._delete([name for name in LAST if name in earlier])
        lines = {path for path in earlier if "/" in path}
        lines.update((self.directory / MARK).read_text("utf-8").splitlines())
        content = "".join(f"{line}\n" for line in sorted(lines))
        write_object(f"{self.url}/{MARK}", content.encode())

    def _delete(self, names: Sequence[str]) -> None:
        if names:
            delete_objects([f"{self.url}/{name}" for name in names])

    def send(self, paths: Iterable[Path]) -> None:
        """Send those of the files that are there, and put stand-ins in the place of shards."""
        for path in paths:
            if path.exists() and not is_stand_in(path):
                upload(path, self.url_of(path))
                if path.parent != self.directory:
                    _stand_in(path, path.stat().st_size)

    def send_beside(self, listed: Collection[str], earlier: Collection[str]) -> None:
        """Send the files that are not in the bucket yet, and delete those of an earlier dataset.

        Args:
            listed: Files that the manifest lists.
            earlier: Files that were in the bucket before.
        """
        self._delete(sorted({*earlier} - {*listed, *LAST}))
        self.send(self.directory / name for name in sorted(listed))

    @contextlib.contextmanager
    def at_hand(self, paths: Iterable[Path]) -> Iterator[None]:
        """Fetch the files that are stand-ins while a block reads them.

        One that is no longer in the bucket is absent from staging during the block.
        """
        fetched = []
        try:
            for path in paths:
                if is_stand_in(path):
                    fetched.append((path, path.stat().st_size))
                    if not download(self.url_of(path), path):
                        path.unlink()
            yield
        finally:
            for path, size_bytes in fetched:
                _stand_in(path, size_bytes)

    def sha256(self, path: Path) -> str | None:
        """Return the hash that a file had when it was sent; None if the object does not say."""
        there = describe(self.url_of(path))
        return None if there is None else there.metadata.get("sha256")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the prefix against other builds, by an object that names this process.

        Raises:
            ShardError: Another process has locked it.
            InputError: Nothing may be written or deleted there.
        """
        line = holder_line({"token": os.urandom(8).hex()})
        try:
            self._delete([f"{DIRECTORY_LOCK}.absent"])  # refused now where no lock could be removed
            self._lock(line)
        except InputError as error:  # any object below the prefix would meet it
            reason = str(error)
            for name in (DIRECTORY_LOCK, f"{DIRECTORY_LOCK}.absent"):
                reason = reason.replace(f"/{name}: cannot be", ": objects there cannot be")
            raise InputError(reason) from error
        _locks.add(line)
        try:
            yield
        except BaseException as error:
            if not (isinstance(error, EngineError) and self.url in str(error)):
                with contextlib.suppress(CurateError):  # the first error is the one to report
                    self._unlock(line)
            raise  # a store that stays away keeps the lock, which this machine takes over
        else:
            self._unlock(line)
        finally:
            _locks.discard(line)

    def _lock(self, line: bytes) -> None:
        url = f"{self.url}/{DIRECTORY_LOCK}"
        while not write_new(url, line):
            current = read_whole(url)
            if current is None:
                continue
            holder = parse_holder(current[0])
            is_left = holder is not None and (  # by a process that was killed, or by this one
                holder.has_ended
                or (
                    not holder.is_elsewhere
                    and holder.process == os.getpid()
                    and current[0] not in _locks
                )
            )
            if not is_left:
                who = holder or "a program that is not curate"
                remover = "gcloud storage" if url.startswith("gs:") else "aws s3"
                raise ShardError(
                    f"{self.url}: {who} has locked it; wait for it, or, if it is gone, type: "
                    f"{remover} rm {shlex.quote(url)}"
                )
            if write_new(url, line, current[1]):
                return

    def _unlock(self, line: bytes) -> None:
        current = read_whole(f"{self.url}/{DIRECTORY_LOCK}")
        if current is not None and current[0] == line:
            self._delete([DIRECTORY_LOCK])


def is_stand_in(path: Path) -> bool:
    """Return whether a file in staging stands for an object, whose content is not there."""
    try:
        return path.stat().st_mtime == STAND_IN_SECONDS
    except FileNotFoundError:
        return False


def _stand_in(path: Path, size_bytes: int) -> None:
    """Put a stand-in in the place of a file, whose other links keep the content."""
    with atomic_path(path) as temporary:
        os.truncate(temporary, size_bytes)
        os.utime(temporary, (STAND_IN_SECONDS, STAND_IN_SECONDS))
