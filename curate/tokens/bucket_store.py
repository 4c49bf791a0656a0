"""Keep a copy of the token store in a bucket, so that another machine tokenises nothing.

Parts are sent when they are made, `part.json` last, and those that a recipe needs are fetched to
the local store, where their hashes are compared as those of any part. What else the cache holds is
made again on each machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from curate.runtime.files import begin_directory, place_directory
from curate.runtime.objects import list_objects
from curate.runtime.progress import Observer
from curate.runtime.registry import counted
from curate.runtime.sealed import SealError, read_sealed
from curate.runtime.transfers import download, upload
from curate.runtime.workers import map_tasks
from curate.tokens.store import HASHED, INFO, PartInfo, TokenStore


@dataclass(frozen=True, slots=True)
class StoreBucket:
    """The token store of one tokenizer in a bucket."""

    url: str
    """URL of the directory of its parts."""

    @classmethod
    def of(cls, cache_url: str, store: TokenStore) -> StoreBucket:
        """Return the copy of a local store in the bucket of a cache."""
        directory = store.directory
        return cls(f"{cache_url}/{directory.parent.name}/{directory.name}")

    def share(
        self, store: TokenStore, keys: Collection[str], workers: int, observer: Observer
    ) -> None:
        """Fetch the parts that hold files and are not here; send those that are only here.

        Args:
            store: The local store, which has been scanned; it is scanned again.
            keys: Keys of the files; see `FilePlan.keys`.
            workers: Number of processes.
            observer: Receives a notice of what was fetched.

        Raises:
            InputError: The bucket refuses.
            EngineError: It does not answer.
        """
        suffix = f"/{INFO}"
        objects = (info.url.removeprefix(f"{self.url}/") for info in list_objects(self.url))
        there = {name.removesuffix(suffix) for name in objects if name.endswith(suffix)}
        here = sorted(part for part in store.parts_of(keys) if part.name not in there)
        map_tasks(self.send, here, workers, observer.tick)
        missing = sorted(name for name in there if not (store.directory / name).exists())
        stored = {(key, segment) for key in keys for segment in store.segments_of(key)}
        fetch = partial(self._fetch, store.directory, frozenset(keys), stored)
        fetched = sum(map_tasks(fetch, missing, workers, observer.tick))
        if fetched:
            parts = counted(fetched, "part")
            observer.notice(f"{parts} of the token store fetched from {self.url}")
            store.scan()

    def send(self, part: Path) -> None:
        """Send a part, its `part.json` last."""
        for name in (*HASHED, INFO):
            if (part / name).exists():
                upload(part / name, f"{self.url}/{part.name}/{name}")

    def _fetch(
        self,
        directory: Path,
        keys: frozenset[str],
        stored: Collection[tuple[str, int]],
        name: str,
    ) -> bool:
        """Fetch a part if it holds segments that the local store lacks, and say whether it did."""
        temporary = begin_directory(directory / name)
        try:
            download(f"{self.url}/{name}/{INFO}", temporary / INFO)
            try:
                info = msgspec.json.decode(read_sealed(temporary / INFO), type=PartInfo)
            except (FileNotFoundError, SealError):
                return False  # what it holds is tokenised again
            segments = {(one.key, one.segment) for one in info.entries if one.key in keys}
            if segments <= set(stored):
                return False
            for file in HASHED:
                download(f"{self.url}/{name}/{file}", temporary / file)
            place_directory(temporary, directory / name, durable=True)
            return True
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
