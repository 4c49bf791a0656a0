"""Tell faults of the machine (memory, descriptors, disks, networks) from faults of the data.

A fault of the machine ends the run, and is never stored as a fact about a file: the same file may
be read whole when there is more memory. Every reader, decompressor and worker asks here.
"""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from curate.errors import CurateError, EngineError

OUT_OF_MEMORY = (
    "out of memory; finished work is kept: run again with fewer workers (--workers 1), or with "
    "more memory"
)
TOO_MANY_FILES = "Too many open files; raise the limit (ulimit -n 65536) and run again"
DISK_FULL = "No space left on device; free some, or choose another disk, and run again"
FILE_TOO_LARGE = (
    "File too large for the limit of file sizes or for its file system; raise the limit (ulimit "
    "-f unlimited), or choose another disk, and run again"
)
DISK_FAILED = "Input/output error; check the disk, copy the file to another one, and run again"
NO_ANSWER = (
    "the disk or network did not answer; run again when it can be reached, or copy the file to a "
    "local disk"
)
NO_PROCESS = (
    "no further process or thread can be started; raise the limits of processes (ulimit -u) and "
    "memory (ulimit -v), or run again with fewer workers (--workers 1)"
)

ERRNO_FAULTS = {
    number: fault
    for fault, names in {
        OUT_OF_MEMORY: "ENOMEM",
        TOO_MANY_FILES: "EMFILE ENFILE",
        DISK_FULL: "ENOSPC EDQUOT",
        FILE_TOO_LARGE: "EFBIG",
        DISK_FAILED: "EIO EREMOTEIO EUCLEAN EBADMSG ENXIO ENODEV ENOMEDIUM",
        NO_ANSWER: "ESTALE ETIMEDOUT EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENETRESET "
        "ECONNRESET ECONNREFUSED ECONNABORTED ENOTCONN ENOLINK ECOMM EPROTO ETIME",
        NO_PROCESS: "EAGAIN",
    }.items()
    for name in names.split()
    if (number := getattr(errno, name, None)) is not None
}
"""Faults by error number. Numbers that the user caused, such as EACCES, are absent."""

WORDS_OF_FAULTS = {
    OUT_OF_MEMORY: re.compile(
        # zstd, lz4, zlib and Arrow by their own words, then the C library, the loader and NumPy.
        r"not enough memory|allocation[_ ]failed|Error -4 while|insufficient memory|"
        r"(malloc|realloc) of size|memory allocation of|cannot allocate|can't allocate|"
        r"could not allocate|unable to allocate|failed to map segment|out of memory|bad_alloc",
        re.IGNORECASE,
    ),
    NO_PROCESS: re.compile(
        r"can't start new thread|resource temporarily unavailable|ThreadPoolBuildError",
        re.IGNORECASE,
    ),
    TOO_MANY_FILES: re.compile("too many open files", re.IGNORECASE),
    DISK_FULL: re.compile("no space left on device|quota exceeded", re.IGNORECASE),
    DISK_FAILED: re.compile("input/output error", re.IGNORECASE),
    NO_ANSWER: re.compile("stale file handle|timed? ?out|connection reset", re.IGNORECASE),
}

WITH_WORDS_OF_DATA = (CurateError, ValueError, LookupError, TypeError, AttributeError)
"""Errors whose words may quote the data; they are never faults of the machine."""


def machine_fault(error: BaseException) -> str | None:
    """Say what the machine lacks and what to do, if that is why an error was raised; else None.

    Libraries signal the same fault in many ways: by an error number, by a class, or only in words.

    Example:
        >>> machine_fault(OSError(24, "Too many open files"))
        'Too many open files; raise the limit (ulimit -n 65536) and run again'
        >>> machine_fault(RuntimeError("can't start new thread")) == NO_PROCESS
        True
        >>> machine_fault(OSError("Couldn't deserialize thrift")) is None
        True
    """
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in ERRNO_FAULTS:
        return ERRNO_FAULTS[error.errno]
    if isinstance(error, TimeoutError | ConnectionError):
        return NO_ANSWER
    if isinstance(error, WITH_WORDS_OF_DATA):
        return None
    # An error with a number quotes the file's name, which may say anything.
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    words = text.partition("Traceback (most recent")[0]  # a worker's bug quotes source lines
    for fault, sign in WORDS_OF_FAULTS.items():
        if sign.search(words):
            return fault
    # llvmlite keeps the reason why the loader failed to itself.
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None if before is None else machine_fault(before)


def fault_line(error: BaseException, path: str) -> str | None:
    """Return a fault of the machine in one line that names the file, or None for other errors.

    Args:
        error: Any error.
        path: The file being read or written, for errors that do not name one; may be empty.
    """
    fault = machine_fault(error)
    if fault is None:
        return None
    named = error.filename if isinstance(error, OSError) and error.filename else path
    return f"{named}: {fault}" if named else fault


def fault_or(otherwise: CurateError, error: BaseException, path: str) -> CurateError:
    """Return the error to raise from `error`: `EngineError` if the machine is at fault.

    Args:
        otherwise: The error to raise if it is not.
        error: Any error.
        path: The file being read or written; see `fault_line`.

    Example:
        >>> from curate.errors import ShardError
        >>> fault_or(ShardError("a.bin: damaged"), ValueError("bad header"), "a.bin")
        ShardError('a.bin: damaged')
        >>> fault_or(ShardError("a.bin: damaged"), OSError(24, "Too many open files"), "a.bin")
        EngineError('a.bin: Too many open files; raise the limit (ulimit -n 65536) and run again')
    """
    line = fault_line(error, path)
    return otherwise if line is None else EngineError(line)


def remote_fault_or(otherwise: CurateError, error: BaseException, url: str) -> CurateError:
    """Return the error to raise from one of a remote store's library.

    It is `EngineError` if this machine is at fault, such as a full cache of downloads; or, with the
    words of `otherwise`, if the store or the network does not answer.

    Args:
        otherwise: The error to raise if neither is.
        error: Any error; those that it was raised from count, too.
        url: What was asked for.

    Example:
        >>> from curate.errors import InputError
        >>> remote_fault_or(InputError("s3://a: cannot be reached"), TimeoutError(), "s3://a")
        EngineError('s3://a: cannot be reached')
    """
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    faults = {fault: cause for cause in causes if (fault := machine_fault(cause)) is not None}
    for fault, cause in faults.items():
        if fault != NO_ANSWER:
            return fault_or(otherwise, cause, url)
    return EngineError(str(otherwise)) if faults else otherwise


def raise_fault(error: BaseException, path: str) -> None:
    """Raise `EngineError` if the machine is at fault; return if the caller may go on.

    Args:
        error: Any error.
        path: The file being read or written; see `fault_line`.
    """
    line = fault_line(error, path)
    if line is not None:
        raise EngineError(line) from error


@contextmanager
def faults_named(path: str) -> Iterator[None]:
    """Turn faults of the machine into `EngineError` that names the file; pass other errors on.

    Args:
        path: The file that the block reads or writes.
    """
    try:
        yield
    except (CurateError, SystemExit, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        line = fault_line(error, path)
        if line is None:
            raise
        # Frames hold what filled the memory, and even a message needs some.
        traceback.clear_frames(error.__traceback__)
        raise EngineError(line) from error
