"""Seal files that curate reads back later with a hash that is looked at before use.

A sealed file begins with one line of text, the *seal*: the version of this format and the xxh3-128
of everything after it. A file with another first line is damaged or was written by a version that
did not seal it, so whatever flips, cuts or replaces bytes is noticed, the seal's own included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import xxhash

from curate.runtime.files import atomic_path, hash_file, name_errors

VERSION = 1

Notice = Callable[[str], None]
"""Receives one line for the user, as `Observer.notice` does."""


class SealError(Exception):
    """A file is not what `write_sealed` wrote. Callers make it again, or say what the user can."""


def seal_of(payload: bytes) -> bytes:
    r"""Return the first line of a sealed file, its line break included.

    Example:
        >>> seal_of(b"{}")
        b'{"sealed": 1, "xxh3": "dc7048f8f8747f561349cde127705c16"}\n'
    """
    digest = xxhash.xxh3_128_hexdigest(payload)
    return b'{"sealed": %d, "xxh3": "%s"}\n' % (VERSION, digest.encode())


def write_sealed(path: Path, payload: bytes, durable: bool = False) -> None:
    """Write a sealed file, atomically.

    Args:
        path: The file.
        payload: Its content after the seal.
        durable: Whether it must outlive a power failure; see `atomic_path`.
    """
    with atomic_path(path, durable) as temporary, temporary.open("wb") as file:
        file.write(seal_of(payload))
        file.write(payload)


def read_sealed(path: Path) -> bytes:
    """Read what `write_sealed` was given.

    Raises:
        SealError: The file is damaged, or was not sealed.
        FileNotFoundError: There is no such file.
        OSError: It cannot be read; the error names the file.
    """
    with name_errors(path):
        content = path.read_bytes()
    seal, line_break, payload = content.partition(b"\n")
    if seal + line_break != seal_of(payload):
        raise SealError(f"{path}: does not match its own checksum")
    return payload


def first_damaged(directory: Path, names: Sequence[str], hashes: Sequence[str]) -> Path | None:
    """Return the first file that is absent or does not match its hash; None if all do.

    Args:
        directory: Directory of the files.
        names: Their names.
        hashes: The hash of each, as `hash_file` returns it; a sealed file beside them keeps these.
    """
    for name, expected in zip(names, hashes, strict=True):
        path = directory / name
        if not path.is_file() or hash_file(path) != expected:
            return path
    return None


def read_cached(path: Path, remedy: str, notice: Notice) -> bytes | None:
    """Read a sealed file that can be made again; None if that is needed.

    It is needed where the file is absent, this user may not read it, or, with a notice, it is
    damaged.

    Args:
        path: The file.
        remedy: The words for what is done again, such as "counted again".
        notice: Called with a line that names a damaged file.
    """
    try:
        return read_sealed(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except SealError:
        notice(f"{path} is damaged: {remedy}")
        return None
