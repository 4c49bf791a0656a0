"""Build the tokenizer while curate is still being imported.

`fastokens` takes 0.4 s of one core to build and does not hold Python's lock, so it is built on the
other core as soon as the recipe names its file. `tools/bench/tokenise.py` on 201 MB gave 118 MB/s
of plain text and 107 of `.zst` with this, and 104 and 95 with a start after the imports (medians
of two rounds, 2 cores). The thread is kept in this module because recipes are sent to other
processes and a thread cannot be. This module imports next to nothing, since its imports come first.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.runtime.files import hash_bytes, read_small

if TYPE_CHECKING:
    from curate.recipe import LoadedRecipe

MOST_EARLY_BYTES = 64 << 20
"""Largest definition that is built before it is checked."""

HIGH_ID = re.compile(rb":\s*\d{8}")

_started: list[Future[tuple[str, Any]]] = []
"""At most one tokenizer under construction, with the hash of its file."""


def start(loaded: LoadedRecipe) -> None:
    """Start to build `fastokens` if the run will most likely need it: there is no cache yet."""
    tokenizer = loaded.recipe.tokenizer
    is_needed = tokenizer.backend in ("auto", "fastokens") and not loaded.cache_dir.exists()
    if not is_needed or tokenizer.path is None or _started:
        return
    path = loaded.base / tokenizer.path
    if not path.is_file():  # absent, or a pipe, which can be read only once
        return
    # A process that is forked while another thread imports inherits a lock that nobody releases, so
    # the import is finished before the thread starts.
    with contextlib.suppress(ImportError):
        importlib.import_module("fastokens")
        _started.append(ThreadPoolExecutor(1).submit(_read_and_build, path))


def take(file_hash: str | None) -> Any | None:
    """Return the tokenizer that was started, if it was built from this file; else None.

    After None the caller builds it in the usual way and reports any error.

    Args:
        file_hash: `Tokenizer.file_hash`.
    """
    while _started:
        future = _started.pop()
        if future.exception() is None and future.result()[0] == file_hash:
            return future.result()[1]
    return None


def _read_and_build(path: Path) -> tuple[str, Any]:
    text = read_small(path, MOST_EARLY_BYTES)
    # The library aborts the process if there is no memory for tables as long as ids are high. Such
    # a definition is left to `tokenizer.from_json`, which refuses it.
    if HIGH_ID.search(text):
        raise ValueError("an id of eight digits")
    return hash_bytes(text), build(text.decode())


def build(definition: str) -> Any:
    """Build a `fastokens.Tokenizer` whose thread pool has a single thread."""
    import fastokens

    tokenizer = fastokens.Tokenizer.from_json_str(definition)
    with _one_core():  # its pool has as many threads as the cores that the process may use
        tokenizer.encode_batch_flat(["warm", "up"], split_special_tokens=True)
    return tokenizer


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Restrict the process to one core while inside, so that thread pools get one thread."""
    if sys.platform != "linux":
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        # Threads started inside inherited the restriction, which Linux keeps per thread.
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # the thread has ended meanwhile
                os.sched_setaffinity(int(thread), allowed)
