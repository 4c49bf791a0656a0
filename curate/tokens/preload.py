"""A tokenizer whose building begins before most of curate is imported.

`fastokens` takes half a second of one core to be built, and no lock: longer than all else that a
run does before its first document. It begins as soon as the recipe says from which file, while
imports take another core. Imports next to nothing itself, as that would come first.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.runtime.files import hash_bytes

if TYPE_CHECKING:
    from curate.recipe import LoadedRecipe

_begun: list[Future[tuple[str, Any]]] = []
"""At most one; here, as recipes are sent to other processes and can carry no thread."""


def begin(loaded: LoadedRecipe) -> None:
    """Begin to build `fastokens` if it will most likely be needed: there is no cache yet."""
    tokenizer = loaded.recipe.tokenizer
    is_needed = tokenizer.backend in ("auto", "fastokens") and not loaded.cache_dir.exists()
    if not is_needed or tokenizer.path is None or _begun:
        return
    path = loaded.base / tokenizer.path
    if path.is_file() and import_early("fastokens"):  # a pipe can be read only once
        _begun.append(ThreadPoolExecutor(1).submit(_read_and_build, path))


def import_early(package: str) -> bool:
    """Import what a thread is about to use; whether it could be.

    A process forked while another thread imports inherits a lock that nobody will open.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module(package)
        return True
    return False


def take(definition_hash: str | None) -> Any | None:
    """What was begun, if it is of this definition; None where it is not, was not, or failed.

    Who gets None builds it in the usual way, and tells of what fails there.

    Args:
        definition_hash: `Tokenizer.file_hash`.
    """
    while _begun:
        future = _begun.pop()
        if future.exception() is None and future.result()[0] == definition_hash:
            return future.result()[1]
    return None


def _read_and_build(path: Path) -> tuple[str, Any]:
    text = path.read_bytes()
    return hash_bytes(text), build(text.decode())


def build(definition: str) -> Any:
    """A `fastokens.Tokenizer` that has encoded before, which takes it 0.03 s, and in one thread."""
    import fastokens

    tokenizer = fastokens.Tokenizer.from_json_str(definition)
    with _one_core():  # its pool takes as many threads as the process may use cores
        tokenizer.encode_batch_flat(["warm", "up"], split_special_tokens=True)
    return tokenizer


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """While inside, one core may be used, so that thread pools made there have one thread."""
    if sys.platform != "linux":
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setaffinity(int(thread), allowed)
