"""JSON files whose last field, `xxh3`, is the hash of every byte before it.

Nothing lists `manifest.json` and `certificate.json`, so they carry their own hash, and remain JSON
that other programs read. What follows the hash is the same in every such file, so a change of any
byte is noticed.
"""

from __future__ import annotations

from pathlib import Path

import xxhash

from curate.runtime.files import append, atomic_path

FIELD = b',\n  "xxh3": "'
DIGITS = 32
END = b'"\n}\n'
MOST_SPACES = 64
"""Bytes at the end of an object in which its last brace is."""


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
    return b"".join(_pieces(text))


def _pieces(text: bytes) -> tuple[memoryview, bytes]:
    """Return what `with_hash` joins, of texts of hundreds of megabytes without a copy."""
    last = text[-MOST_SPACES:]
    rest = last.rstrip().removesuffix(b"}").rstrip()
    head = memoryview(text)[: len(text) - len(last) + len(rest)]
    digest = xxhash.xxh3_128(head)
    digest.update(FIELD)
    return head, FIELD + digest.hexdigest().encode() + END


def has_hash(content: bytes) -> bool:
    """Return whether a file ends with a hash of itself, be it right or wrong."""
    last = content[-len(FIELD) - DIGITS - len(END) :]
    return last.startswith(FIELD) and last.endswith(END)


def is_whole(content: bytes) -> bool:
    """Return whether a file ends with a hash of itself that is right.

    Example:
        >>> content = with_hash(b'{"schema": 2}')
        >>> is_whole(content), is_whole(content.replace(b"2", b"3", 1))
        (True, False)
    """
    if not has_hash(content):
        return False
    head, digest = (
        memoryview(content)[: -DIGITS - len(END)],
        content[-DIGITS - len(END) : -len(END)],
    )
    return xxhash.xxh3_128_hexdigest(head).encode() == digest


def write_hashed(path: Path, text: bytes) -> None:
    """Write a JSON object with a hash of itself, atomically and durably.

    Args:
        path: The file.
        text: The object, indented by two spaces, without the hash.
    """
    with atomic_path(path, durable=True) as temporary:
        append(temporary, *_pieces(text))
