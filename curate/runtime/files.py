"""Write files whole or not at all, and hash them.

Everything is written under a temporary name in the same directory and renamed when complete, so a
killed run leaves no partial file under a final name. URLs of object storage are read through
`curate.runtime.objects`, others through fsspec. Remote *output* is left out: outputs are
directories, which machines may share.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import xxhash

from curate.errors import EngineError, InputError
from curate.runtime.machine import fault_or, remote_fault_or
from curate.runtime.objects import is_object_url, open_object, without_access
from curate.runtime.owners import is_abandoned, owner_mark

if TYPE_CHECKING:
    from numpy.typing import NDArray

HASH_CHUNK_BYTES = 1 << 20
READ_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags to open a file for reading. O_NONBLOCK: opening a pipe must not wait for its writer."""

STAT_SAFETY_NANOSECONDS = 2_000_000_000
"""A file modified less than this before it was hashed could change again in the same clock tick,
and so keep its modification time."""


@contextlib.contextmanager
def name_errors(path: Path) -> Iterator[None]:
    """Name `path` in any error of the system that names no file, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        _name(error, path)
        raise


def _name(error: OSError, path: Path, instead_of: str | None = None) -> None:
    """Name a file in an error that names none, or that names `instead_of`."""
    if error.filename in (None, instead_of):
        # numpy raises errors without a number, whose text a file name would hide.
        error.strerror = error.strerror or str(error)
        error.filename = str(path)


@contextlib.contextmanager
def atomic_path(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it on success, remove it on an exception.

    Args:
        path: The file to write. Errors of the system name it, not its temporary sibling.
        durable: Whether to flush the content to the disk before the rename and the directory after
            it, so that a power failure leaves the old file or the new one, and never an empty one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent)
    except OSError as error:
        error.filename = str(path)
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~current_umask())
        if durable:
            flush(temporary)
        os.replace(temporary, path)
        if durable:
            flush_directory(path.parent)
    except OSError as error:
        _name(error, path, instead_of=name)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling directory; rename it on success, remove it on an exception.

    If another process creates `path` meanwhile, that one is kept: names are made from content, so
    both hold the same.

    Args:
        path: The directory to make.
        durable: As for `place_directory`.
    """
    temporary = begin_directory(path)
    try:
        yield temporary
        place_directory(temporary, path, durable)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def begin_directory(path: Path) -> Path:
    """Make a temporary sibling of `path`, which `sweep` removes if this process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent))


def place_directory(temporary: Path, path: Path, durable: bool = False) -> None:
    """Give a temporary directory its final name, or remove it if `path` exists already.

    Args:
        temporary: A directory from `begin_directory`.
        path: Its final name.
        durable: Whether to flush its files and itself to the disk before the rename, and the parent
            after it, so that a power failure leaves all of it or nothing under the final name.
    """
    os.chmod(temporary, 0o777 & ~current_umask())
    if durable:
        # The largest first: the entry of the journal that its flush waits for holds the others,
        # too, which then wait less (35 ms a part in place of 46, on ext4).
        for file in sorted(temporary.iterdir(), key=lambda file: -file.stat().st_size):
            flush(file)
        flush_directory(temporary)
    try:
        os.rename(temporary, path)
    except OSError:
        if not path.is_dir():
            raise
        shutil.rmtree(temporary, ignore_errors=True)
        return
    if durable:
        flush_directory(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory with all in it, which another process may be removing too.

    Raises:
        OSError: It cannot be removed, so that what was found wrong with it would be read again.
    """
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def remove_at_once(path: Path) -> None:
    """Remove a directory so that other processes see all of it or nothing.

    Raises:
        OSError: It cannot be removed.
    """
    temporary = begin_directory(path)
    try:
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            os.rename(path, temporary / path.name)
    finally:
        remove_tree(temporary)


def flush(path: Path) -> None:
    """Wait until a file's content is on the disk.

    Raises:
        OSError: The disk did not take all of it; the error names the file.
    """
    # Windows flushes only files that are open for writing.
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        with name_errors(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk, where the system can do that."""
    if os.name == "nt":  # directories cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a directory; they make names durable themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            error.filename = str(path)
            raise
    finally:
        os.close(descriptor)


def append(path: Path, *pieces: bytes | memoryview | NDArray[Any]) -> None:
    """Append bytes and arrays to a file, which is created if absent.

    `ndarray.tofile` is not used: on a full disk it silently loses the end of an array.

    Raises:
        OSError: Not everything can be written; the error names the file.
    """
    with name_errors(path), path.open("ab") as file:
        for piece in pieces:
            file.write(piece if isinstance(piece, bytes | memoryview) else piece.data)


def _prefix(path: Path) -> str:
    """Return the start of a temporary sibling's name, which names its process."""
    return f".{path.name}.{owner_mark()}-"


def sweep(directory: Path) -> None:
    """Remove temporary files in a directory whose process is gone."""
    for path in directory.glob(".*.tmp") if directory.is_dir() else ():
        if not is_abandoned(path):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def user_cache() -> Path:
    """Return the directory for caches that depend only on this user and machine.

    Raises:
        InputError: The user has no home directory.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "curate"
    except RuntimeError as error:
        raise InputError(
            "this user has no home directory; set HOME or XDG_CACHE_HOME to a writable directory"
        ) from error


def current_umask() -> int:
    """Return the process's file mode creation mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; keys keep their order."""
    text = json_text(value)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", "utf-8")


def json_text(value: Any) -> str:
    """Return `value` as JSON that is indented by two spaces and can be written as UTF-8."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not is_encodable(text):  # a file name that is not UTF-8: escaped, it reads back the same
        text = json.dumps(value, indent=2)
    return text


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        InputError: The file is absent or is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        unreadable = InputError(f"{path}: {error.strerror or error}")
        raise fault_or(unreadable, error, str(path)) from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error


def hash_bytes(*pieces: bytes) -> str:
    """Hash length-prefixed pieces with xxh3-128, to 32 hexadecimal digits.

    Example:
        >>> hash_bytes(b"ab", b"c") == hash_bytes(b"a", b"bc")
        False
    """
    return xxhash.xxh3_128_hexdigest(
        b"".join([part for piece in pieces for part in (len(piece).to_bytes(8, "little"), piece)])
    )


def hash_json(value: Any) -> str:
    """Hash a JSON value, whatever the order of its keys.

    Example:
        >>> hash_json({"a": 1, "b": None}) == hash_json({"b": None, "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hash_bytes(text.encode("utf-8", "surrogatepass"))  # file names may hold surrogates


def hash_stream(stream: BinaryIO, on_read: Callable[[int], None] = lambda _: None) -> str:
    """Hash the rest of a stream with xxh3-128, to 32 hexadecimal digits.

    Args:
        stream: Read to its end.
        on_read: Called with the number of bytes of each piece once it is hashed.
    """
    # Reading into the same memory again takes 0.6 times as long as new memory for every chunk.
    digest, chunk = xxhash.xxh3_128(), bytearray(HASH_CHUNK_BYTES)
    read_into = cast(io.RawIOBase, stream).readinto
    while read_bytes := read_into(chunk):
        digest.update(memoryview(chunk)[:read_bytes])
        on_read(read_bytes)
    return digest.hexdigest()


def hash_file(path: Path, on_read: Callable[[int], None] = lambda _: None) -> str:
    """Hash a local file's bytes with xxh3-128, to 32 hexadecimal digits; see `hash_stream`."""
    with path.open("rb", buffering=0) as stream:
        return hash_stream(stream, on_read)


def is_url(path: str) -> bool:
    """Whether `path` names a protocol, as in `s3://bucket/key`."""
    return "://" in path


BUCKET = re.compile(r"(s3|gs):/+([^/].*?)/*", re.DOTALL)
"""A URL of a bucket or of a prefix in one, also where `Path` has made one slash of two."""


def bucket_url(path: str | os.PathLike[str]) -> str | None:
    """Return a URL of object storage as it is written; None for anything else.

    Example:
        >>> bucket_url("s3://bucket/mix/"), bucket_url(Path("gs://bucket")), bucket_url("out/mix")
        ('s3://bucket/mix', 'gs://bucket', None)
    """
    match = BUCKET.fullmatch(os.fspath(path))
    return None if match is None else f"{match[1]}://{match[2]}"


def url_as_written(path: Path) -> str | None:
    """Return a URL of which `Path` has made one slash of two; None for a path on a disk.

    Example:
        >>> url_as_written(Path("https://b/x")), url_as_written(Path("out/x"))
        ('https://b/x', None)
    """
    protocol, *rest = path.parts or ("",)
    is_url_like = len(protocol) > 2 and protocol.endswith(":")
    if not is_url_like or Path(protocol).exists():
        return None
    return "//".join([protocol, "/".join(rest)])


def dataset_url(path: str | os.PathLike[str]) -> str | None:
    """Return the URL of a dataset in object storage; None for a path on a disk.

    Raises:
        InputError: It is a URL of another kind, from which no dataset is read.
    """
    url = url_as_written(Path(path))
    in_bucket = bucket_url(path)
    if url is not None and in_bucket is None:
        raise InputError(
            f"{without_access(url)}: datasets are read from directories and from s3:// and gs://; "
            "download it first"
        )
    return in_bucket


def name_in_cache(url: str) -> str:
    """Return the name of a directory for what is kept of a URL."""
    return f"{url.rpartition('/')[2]}-{hash_bytes(url.encode())[:8]}"


def open_input(path: str, is_sparse: bool = False, status: tuple[int | str, ...] = ()) -> BinaryIO:
    """Open a local path or a URL as a seekable stream of bytes.

    Args:
        path: A local path or a URL.
        is_sparse: Whether parts of the file are read that lie apart; of a file on the Hugging Face
            Hub, what follows a part is then not fetched with it.
        status: `InputFile.status`; an object of another version is not read. Others are not
            compared.

    Raises:
        InputError: It cannot be opened; the message says why.
        EngineError: The machine is at fault, such as too many open files.
    """
    if is_object_url(path):
        size_bytes, version = status or (0, "")
        return cast(BinaryIO, open_object(path, int(size_bytes), str(version), is_sparse))
    if is_url(path):
        return _open_url(path, is_sparse)
    try:
        return open(path, "rb", buffering=0)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        unopened = InputError(f"{path}: cannot be opened ({_reason(error)})")
        raise fault_or(unopened, error, path) from error


def read_new(path: str, most_bytes: int) -> tuple[bytes, os.stat_result] | None:
    """Read a local file; return its bytes and the status it had before.

    None if the file is longer than `most_bytes` or not a regular file. For many small files this
    takes half the time of file objects.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = os.open(path, READ_FLAGS)
    try:
        status = os.fstat(descriptor)
        if status.st_size > most_bytes or not stat.S_ISREG(status.st_mode):
            return None
        return _read_all(descriptor, status.st_size), status
    finally:
        os.close(descriptor)


def read_small(path: Path, most_bytes: int) -> bytes:
    """Read a local file that should be small, or a pipe that some process writes.

    Raises:
        OSError: It cannot be read, is longer than `most_bytes`, or is a device or a directory.
        ValueError: Its name holds a NUL.
    """
    descriptor = os.open(path, READ_FLAGS)
    try:
        status = os.fstat(descriptor)
        kind, size_bytes = status.st_mode, status.st_size
        if stat.S_ISDIR(kind):
            raise OSError(errno.EISDIR, "Is a directory", str(path))
        if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
            raise OSError(errno.EINVAL, "a device, not a file", str(path))
        if not stat.S_ISREG(kind) and sys.platform != "win32":
            os.set_blocking(descriptor, True)  # it ends at once if no process writes there
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = b"" if size_bytes > most_bytes else file.read(most_bytes + 1)
        if max(size_bytes, len(content)) > most_bytes:
            reason = f"larger than {most_bytes / 2**20:,.0f} MiB, the most that is read"
            raise OSError(errno.EINVAL, reason, str(path))
        return content
    finally:
        os.close(descriptor)


def read_known(path: str, size_bytes: int) -> tuple[bytes, os.stat_result]:
    """Read a local file of `size_bytes`; return its bytes and the status it has afterwards.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = os.open(path, READ_FLAGS)
    try:
        return _read_all(descriptor, size_bytes), os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, size_bytes: int) -> bytes:
    """Read a file to its end, with a single system call if it is as long as expected."""
    content = os.read(descriptor, size_bytes + 1)
    if len(content) == size_bytes:
        return content
    pieces = [content]  # it grew or shrank, or is very large
    while pieces[-1] and sum(map(len, pieces)) != size_bytes:
        pieces.append(os.read(descriptor, HASH_CHUNK_BYTES))
    return b"".join(pieces)


def _open_url(path: str, is_sparse: bool) -> BinaryIO:
    import fsspec

    try:
        if is_sparse and path.startswith("hf://"):
            filesystem, inner = fsspec.core.url_to_fs(path)
            remote = filesystem.open(inner, "rb", cache_type="none")
        else:
            remote = fsspec.open(path, "rb").open()
    except Exception as error:  # noqa: BLE001 - each protocol raises errors of its own library
        unopened = InputError(f"{path}: cannot be opened ({_reason(error)})")
        raise remote_fault_or(unopened, error, path) from error
    return cast(BinaryIO, _RemoteFile(remote, path))


class _RemoteFile(io.RawIOBase):
    """A remote file whose errors, of whatever class, name its URL and never look like damage."""

    def __init__(self, remote: Any, url: str) -> None:
        self._remote = remote
        self._url = url

    def read(self, limit_bytes: int | None = -1, /) -> bytes:
        with self._named():
            size_bytes = getattr(self._remote, "size", None)
            left_bytes = 0 if size_bytes is None else max(0, size_bytes - self._remote.tell())
            limit_bytes = -1 if limit_bytes is None else limit_bytes
            data: bytes = self._remote.read(limit_bytes)
            expected_bytes = left_bytes if limit_bytes < 0 else min(limit_bytes, left_bytes)
            if len(data) < expected_bytes:  # or it would look like the end of the file
                raise EOFError(f"{len(data)} of {expected_bytes} bytes came")
            return data

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with self._named():
            position: int = self._remote.seek(offset, whence)
            return position

    def tell(self) -> int:
        return int(self._remote.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._remote.close()
        super().close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise EngineError(
                f"{self._url}: cannot be read ({_reason(error)}); run again when it can be reached"
            ) from error


def _reason(error: Exception) -> str:
    """Describe an error in one line, without repeating the path."""
    words = getattr(error, "strerror", None) or " ".join(str(error).split())
    return words or type(error).__name__


def is_encodable(text: str) -> bool:
    """Whether text can be written as UTF-8: it holds no byte kept by `surrogateescape`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
