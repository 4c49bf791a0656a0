"""End a command on SIGINT and SIGTERM, whatever it is doing.

Python raises an exception where a signal happens to arrive. In the hooks that run around a fork, in
finalisers and in callbacks of weak references and of compiled code, Python prints such an exception
and goes on. So it is not printed there, and a timer raises it again until something handles it. A
second signal ends the process at once, which is safe: all that is kept is written whole.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

RESEND_SECONDS = 0.1

_received: int | None = None
"""Signal that ends this command."""


def install() -> None:
    """Raise `KeyboardInterrupt` on SIGINT and SIGTERM."""
    signal.signal(signal.SIGINT, _first)
    signal.signal(signal.SIGTERM, _first)
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, _again)
    sys.unraisablehook = _unraisable


def received() -> int | None:
    """Return the signal that ends this command; None if there was none."""
    return _received


def finish() -> None:
    """Let further signals do nothing: the command has ended, and only Python's exit is left."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN if _received is None else _leave)


def leave(number: int) -> NoReturn:
    """End the process with the signal's exit code, once all is cleaned up and said.

    CPython remembers a `KeyboardInterrupt` that passed through `exec` of a text, such as those by
    which dataclasses are made, and would end the process by SIGINT although it was handled.

    Args:
        number: The signal, as `received` returns it.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(128 + number)


def _first(number: int, frame: FrameType | None) -> None:
    global _received
    if _received is not None:
        _leave(number, frame)
    _received = number
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, RESEND_SECONDS, RESEND_SECONDS)
    raise KeyboardInterrupt


def _again(number: int, frame: FrameType | None) -> None:
    """Raise the exception again if it was lost: if no code runs that cleans up after it."""
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return
        error = error.__context__
    raise KeyboardInterrupt


def _unraisable(lost: UnraisableHookArgs) -> None:
    """Print what Python cannot raise, except the interrupt, which is raised again."""
    if _received is None or not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process without cleaning up; workers end with it."""
    os._exit(128 + (_received or number))
