"""Plain writing, which formats and builds are measured against, and how spreads are shown."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

BUFFER_BYTES = 8 << 20


def plain_write(work: Path, size_bytes: int) -> float:
    """Seconds to write a buffer over and over to a fresh file, one process, unflushed."""
    buffer = os.urandom(min(size_bytes, BUFFER_BYTES))
    path = work / "plain.bin"
    os.sync()
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        remaining = size_bytes
        while remaining > 0:
            remaining -= file.write(buffer[:remaining] if remaining < len(buffer) else buffer)
    taken = time.perf_counter() - start
    path.unlink()
    return taken


def shown(values: Sequence[float], digits: int) -> str:
    """Median, least and most."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
