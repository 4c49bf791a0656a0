"""Read files of a dataset, which may come from strangers, without following where they lead.

A fault of the disk is a fact about a file, which a verdict names. A lack of memory or descriptors
in this process is none, so it ends the run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from curate.errors import EngineError
from curate.runtime.files import name_errors
from curate.runtime.machine import fault_line

LINK_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Refuse a link, and do not wait for the writer of a pipe."""

OF_THIS_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that say nothing about the file that could not be read; the other faults of the machine
in `runtime.machine` are those of a disk or network, which do."""


@contextlib.contextmanager
def process_faults_named(path: Path) -> Iterator[None]:
    """Turn this process's lack of memory or descriptors into `EngineError` that names the file.

    Args:
        path: The file that the block reads.
    """
    try:
        yield
    except OSError as error:
        line = fault_line(error, str(path)) if error.errno in OF_THIS_PROCESS else None
        if line is None:
            raise
        raise EngineError(line) from error


def read_regular(path: Path) -> bytes:
    """Read a file that must not be a link, which leads elsewhere, nor a pipe, which never ends.

    Raises:
        FileNotFoundError: There is nothing.
        OSError: It is no regular file, or cannot be read; the error names the file.
        EngineError: This process lacks memory or descriptors.
    """
    kind = describe_kind(path.lstat().st_mode)
    if kind is not None:
        raise OSError(errno.EINVAL, kind, str(path))
    with process_faults_named(path), name_errors(path):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | LINK_FLAGS)
        with open(descriptor, "rb") as file:
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


def is_inside(path: str) -> bool:
    """Return whether a path, as curate writes it, leads to a place below its directory.

    Example:
        >>> [is_inside(path) for path in ("train/a.bin", "/etc/a", "../a", "a/../../b", "C:/a")]
        [True, False, False, False, False]
    """
    windows = PureWindowsPath(path)
    parts = path.split("/")
    return not windows.anchor and "\\" not in path and not {"", ".", ".."} & set(parts)
