"""The command line: one thin function for each command; only it prints and exits.

Importing this imports next to nothing, so that signals are obeyed from the start. Modules are
imported inside commands, so that `curate --help` answers at once.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

from curate.cli import interrupt

if TYPE_CHECKING:
    from curate.cli.commands import cli

__all__ = ["cli", "main"]


def main() -> None:
    """Run the command line; exit with a code and, after an error, one line on stderr."""
    interrupt.install()
    # Imports and the tokenizer's definition make objects that stay, among which looking for cycles
    # finds nothing: 4 times and 33 ms for `tokenize` of next to nothing with 50,000, none so.
    gc.set_threshold(200_000)
    try:
        try:
            from curate.cli.commands import run

            code = run()
        finally:
            interrupt.finish()
    except KeyboardInterrupt:  # while the commands were imported, or had just ended
        code = 128 + (interrupt.received() or 2)
        if sys.stderr is not None:
            sys.stderr.write("curate: interrupted; run again to continue\n")
    number = interrupt.received()
    if number is not None:
        interrupt.leave(number)
    sys.exit(code)


def __getattr__(name: str) -> Any:
    if name == "cli":
        from curate.cli.commands import cli

        return cli
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
