"""JSON files whose last field, `xxh3`, is the hash of every byte before it.

Nothing lists `manifest.json` and `certificate.json`, so they carry their own hash, and remain JSON
that other programs read. What follows the hash is the same in every such file, so a change of any
byte is noticed.
"""

from __future__ import annotations

from pathlib import Path

import xxhash

from curate.runtime.files import atomic_path

FIELD = b',\n  "xxh3": "'
DIGITS = 32
END = b'"\n}\n'


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
