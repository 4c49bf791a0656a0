"""Limits of processes that run what a stranger wrote, and how processes end."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from curate.errors import EngineError
from curate.runtime.machine import OUT_OF_MEMORY

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a process that runs what a stranger wrote, and may hang or fill the memory."""

    cpu_seconds: int
    wall_seconds: float
    memory_bytes: int
    """Memory beyond that of the parent."""

    def apply(self, in_all: bool = True) -> None:
        """Limit this process, and send what libraries print as they die to the null device.

        Args:
            in_all: Whether the limits are those of the process; else each block of
                `stranger_at_work` has as much.
        """
        if sys.platform == "win32":  # where no process is limited, as none is forked
            return
        import resource

        _set_soft({resource.RLIMIT_CORE: 0})
        if in_all:
            _set_soft(self._most(self.cpu_seconds))
        else:
            _blockwise.append(self)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)

    def _most(self, cpu_seconds: int) -> dict[int, int]:
        if sys.platform == "win32":
            return {}
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = {resource.RLIMIT_CPU: cpu_seconds}
        if _has_no_memory_limit():
            most[resource.RLIMIT_AS] = pages * resource.getpagesize() + self.memory_bytes
        return most

    def death_of(self, exit_code: int | None) -> Exception:
        """Explain how a limited process died."""
        ending = ending_of(exit_code)
        if ending.endswith("SIGXCPU"):
            return OverLimit(f"took more than {self.cpu_seconds} s of processor time")
        if ending.endswith(("SIGABRT", "SIGSEGV", "SIGBUS")) and _has_no_memory_limit():
            gib = self.memory_bytes / 2**30
            return OverLimit(f"{ending}, most likely for more than {gib:.0f} GiB of memory")
        return EngineError(death_of(exit_code))


@dataclass(frozen=True)
class Limited(Generic[Item, Result]):
    """A function for `map_tasks` that runs in limited processes, where these fork here."""

    function: Callable[[Item], Result]
    limits: Limits

    def __call__(self, item: Item) -> Result:
        """Call the function."""
        return self.function(item)


SLOWEST_BYTES = 50_000
"""Bytes of text a second that any tokenizer must reach; published ones reach a hundred times more.
"""

_blockwise: list[Limits] = []
"""At most one: the limits of each block in this process."""


@contextmanager
def stranger_at_work(text_bytes: int = 0) -> Iterator[None]:
    """Limit time and memory of a block, if this is a worker of `Limited` tasks, which else dies.

    Args:
        text_bytes: Bytes of text that the block handles, for which it has more time.
    """
    if not _blockwise:
        yield
        return
    limits = _blockwise[0]
    used = time.process_time() + text_bytes / SLOWEST_BYTES
    before = _set_soft(limits._most(limits.cpu_seconds + math.ceil(used)))
    try:
        yield
    finally:
        _set_soft(before)


def _set_soft(values: dict[int, int]) -> dict[int, int]:
    """Set soft limits as far as the hard ones allow, and return those of before."""
    if sys.platform == "win32":
        return {}
    import resource

    before = {}
    for kind, value in values.items():
        before[kind], hard = resource.getrlimit(kind)
        no_hard = hard == resource.RLIM_INFINITY
        soft = value if no_hard or (0 <= value <= hard) else hard
        resource.setrlimit(kind, (soft, hard))
    return before


class OverLimit(Exception):  # noqa: N818 - an event, not a fault
    """A process broke its limits; the message says which."""


def _has_no_memory_limit() -> bool:
    """Whether the user set no limit of memory, so that only ours can be broken."""
    if sys.platform == "win32":
        return True
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def death_of(exit_code: int | None) -> str:
    """Explain how a worker died, and what to do.

    Example:
        >>> death_of(3)
        'a worker ended with exit code 3; finished work is kept: run again to continue'
    """
    ending = ending_of(exit_code)
    if ending.endswith(("SIGKILL", "SIGABRT", "SIGSEGV")):
        # The kernel kills; libraries in Rust and C++ abort, or use what was not allocated.
        return f"a worker {ending}, most likely {OUT_OF_MEMORY}"
    if ending.endswith("SIGBUS"):
        return (
            f"a worker {ending}: a mapped file could not be used, as on a full or failed "
            "disk; finished work is kept: run again to continue"
        )
    return f"a worker {ending}; finished work is kept: run again to continue"


def ending_of(exit_code: int | None) -> str:
    """Describe how a process ended.

    Example:
        >>> ending_of(-9), ending_of(3)
        ('was ended by SIGKILL', 'ended with exit code 3')
    """
    if exit_code is None or exit_code >= 0:
        return f"ended with exit code {exit_code}"
    number = -exit_code
    has_name = number in {item.value for item in signal.Signals}  # real-time signals have none
    return f"was ended by {signal.Signals(number).name if has_name else f'signal {number}'}"
