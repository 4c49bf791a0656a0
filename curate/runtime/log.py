"""The log of a command: what it did and when, for `-v` and `--log-file`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from curate import __version__
from curate.errors import RecipeError
from curate.runtime.escape import visible
from curate.runtime.machine import fault_or

LOG = logging.getLogger("curate")
LOG.addHandler(logging.NullHandler())  # else errors would be printed where no log was asked for


def open_logs(verbose: bool, path: Path | None) -> None:
    """Send the log to standard error, to a file, to both or nowhere.

    Args:
        verbose: Whether to log to standard error.
        path: File to append to; None for none.

    Raises:
        RecipeError: The file cannot be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()] if verbose else []
    if path is not None:
        try:
            handlers.append(logging.FileHandler(path, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            unwritable = RecipeError(
                f"--log-file {path}: cannot be written ({error.strerror or error}); name another "
                "file"
            )
            raise fault_or(unwritable, error, str(path)) from error
    for handler in handlers:
        handler.setFormatter(_VisibleFormatter("%(asctime)s %(message)s"))
        LOG.addHandler(handler)
    if handlers:
        LOG.setLevel(logging.INFO)
        LOG.propagate = False
        LOG.info("curate %s: %s", __version__, " ".join(sys.argv[1:]))


class _VisibleFormatter(logging.Formatter):
    """Formats messages so that nothing in them acts on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Format as `logging` does, and escape all but the line ends of a traceback."""
        return visible(super().format(record), keep="\n")
