"""JSON files whose last field, `xxh3`, is the hash of every byte before it.

Nothing lists `manifest.json` and `certificate.json`, so they carry their own hash, and remain JSON
that other programs read. What follows the hash is the same in every such file, so a change of any
byte is noticed.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import xxhash

from curate.runtime.files import atomic_path, name_errors

FIELD = b',\n  "xxh3": "'
DIGITS = 32
END = b'"\n}\n'

LINK_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Refuse a link, and do not wait for the writer of a pipe."""


def with_hash(text: bytes) -> bytes:
    r"""Append the field `xxh3` to a JSON object that is indented by two spaces.

    Example:
        >>> print(with_hash(b'{\n  "schema": 2\n}').decode())
        {
          "schema": 2,
          "xxh3": "da28e592d1a7e2c638bf92daed3fbeae"
        }
        <BLANKLINE>
    """
    head = text.rstrip().removesuffix(b"}").rstrip() + FIELD
    return head + xxhash.xxh3_128_hexdigest(head).encode() + END


def has_hash(content: bytes) -> bool:
    """Return whether a file ends with a hash of itself, be it right or wrong."""
    return content[: -DIGITS - len(END)].endswith(FIELD) and content.endswith(END)


def is_whole(content: bytes) -> bool:
    """Return whether a file ends with a hash of itself that is right.

    Example:
        >>> content = with_hash(b'{"schema": 2}')
        >>> is_whole(content), is_whole(content.replace(b"2", b"3", 1))
        (True, False)
    """
    head = content[: -DIGITS - len(END)]
    digest = content[len(head) : -len(END)]
    return has_hash(content) and xxhash.xxh3_128_hexdigest(head).encode() == digest


def write_hashed(path: Path, text: bytes) -> None:
    """Write a JSON object with a hash of itself, atomically and durably.

    Args:
        path: The file.
        text: The object, indented by two spaces, without the hash.
    """
    with atomic_path(path, durable=True) as temporary:
        temporary.write_bytes(with_hash(text))


def read_regular(path: Path) -> bytes:
    """Read a file that must not be a link, which leads elsewhere, nor a pipe, which never ends.

    Raises:
        FileNotFoundError: There is nothing.
        OSError: It is no regular file, or cannot be read; the error names the file.
    """
    kind = describe_kind(path.lstat().st_mode)
    if kind is not None:
        raise OSError(errno.EINVAL, kind, str(path))
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | LINK_FLAGS)
    with name_errors(path), open(descriptor, "rb") as file:
        return file.read()


def describe_kind(mode: int) -> str | None:
    """Describe what is not a regular file; None for one that is.

    Example:
        >>> describe_kind(0o100644) is None, describe_kind(0o010644)
        (True, 'is a pipe, not a file')
    """
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFIFO: "pipe"}
    return f"is a {kinds.get(stat.S_IFMT(mode), 'device or socket')}, not a file"
