"""Cut written shards, which are memory-mapped, into windows.

Shards that hold fixed sequences are cut within each sequence. All others form one stream: a window
may cross documents and the border of two shards, and windows with labels share a token with the
next, so that every token but the first is a label once. The borders of documents come from the
provenance beside the shards, the same for every format, and are never guessed from end tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.dataset.manifest import (
    SPLITS,
    FileRecord,
    Manifest,
    ShardRecord,
    file_damage,
    load_manifest,
    read_provenance,
)
from curate.dataset.windows import Cut, NumberedWindows, shuffled, stretches_of
from curate.errors import RecipeError, ShardError
from curate.formats import FORMATS
from curate.formats.base import CONCAT, Mapped, TokenFormat
from curate.loader.fields import Segments
from curate.loader.window_source import Order
from curate.plan import copy_runs, epoch_seed
from curate.plan.per_domain import MIXED
from curate.runtime.compiled import Pointers
from curate.runtime.files import hash_json


class ShardSource:
    """Windows over the shards of a built dataset."""

    def __init__(
        self,
        directory: Path,
        split: str,
        length: int | None,
        extra_tokens: int,
        segments: bool,
    ) -> None:
        """Map the shards and check sizes and headers; `curate verify` checks contents.

        Args:
            directory: Directory of a finished build.
            split: `train`, `validation`, or `validation/<domain>`.
            length: Tokens of a sequence; None takes that of the build.
            extra_tokens: 1 if windows are one token longer than a sequence.
            segments: Whether `read` returns segments; takes 10 bytes of memory per document.

        Raises:
            ShardError: A shard is absent, or differs from the manifest in size or dtype.
            RecipeError: No sequence length is given, or no window fits.
        """
        self._arguments = (directory, split, length, extra_tokens, segments)
        self.where = str(directory)
        self.manifest = load_manifest(directory)
        self.split = split
        self.domains = tuple(self.manifest.domains)
        self.seed = self.manifest.seed
        self.highest_id = self.manifest.tokenizer.vocabulary - 1
        records = _records(self.manifest, split, self.where)
        self._mapped = _map_shards(directory, self.manifest, records)
        lengths = np.concatenate([mapped.tokens for mapped in self._mapped])
        self._stops = np.cumsum(lengths)
        self._starts = self._stops - lengths
        self._bases = np.concatenate([_addresses(mapped) for mapped in self._mapped])
        self._shard_tokens = np.array([record.tokens for record in records], np.int64)
        self._hashes = [file.xxh3 for record in records for file in record.files]
        self._cut_into_windows(length, extra_tokens)
        self._segments = _segments_of(directory, self.manifest, records) if segments else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments, so that another process maps the files itself."""
        return ShardSource, self._arguments

    def _cut_into_windows(self, length: int | None, extra_tokens: int) -> None:
        total = int(self._stops[-1])
        stored = self.manifest.sequence_length if self.split == "train" else None
        if length is None and self.manifest.sequence_length is not None:
            length = self.manifest.sequence_length - extra_tokens
        if length is None:
            raise RecipeError(
                f"{self.where}: the shards hold whole documents, so a sequence length is needed, "
                'as in curate.load("…", 2048)'
            )
        window = length + extra_tokens
        if length < 1 or window > (stored or total):
            content = f"sequences of {stored}" if stored else f"{total}"
            raise RecipeError(
                f"{self.where}: windows of {window} tokens (sequence_length {length}"
                f"{' and a label' * extra_tokens}) do not fit: the {self.split} shards hold "
                f"{content} tokens; sequence_length may be 1 to {(stored or total) - extra_tokens}"
            )
        self.window_tokens = window
        self._cut = Cut(length, window, stored or total + 1)
        runs = self._shard_tokens if stored else np.array([total])
        self._windows = NumberedWindows(runs, self._cut)
        self.windows = self._windows.count
        self.left_over_tokens = self._windows.left_over_tokens

    def check_mixed(self) -> None:
        """Refuse shards of domains apart.

        Raises:
            RecipeError: The domains are apart; the message says how to mix them.
        """
        if self.manifest.shape != MIXED:
            raise RecipeError(
                f"{self.where}: curate.load does not read shards with domains apart, which are for "
                'trainers that mix for themselves; mix them with weights="planned", or load the '
                "recipe instead"
            )

    def fingerprint(self) -> str:
        """Hash the hashes of the shards, and how they are cut."""
        cut = [self._cut.length, self._cut.window_tokens, self._cut.sequence_tokens]
        return hash_json([self.split, self._hashes, cut])

    def read(self, numbers: NDArray[np.int64], out: NDArray[Any]) -> Segments | None:
        """Fill `out`, shape (numbers, window_tokens)."""
        starts = self._windows.starts(numbers)
        self.copy(starts, np.full(len(starts), self.window_tokens, np.int64), out.reshape(-1))
        return None if self._segments is None else self._segments_under(starts)

    def copy(self, starts: NDArray[np.int64], tokens: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy stretches of the shards back to back.

        Args:
            starts: shape (stretches,), first token of each, counted through all shards.
            tokens: shape (stretches,), tokens of each; positive.
            out: shape (sum of tokens,).
        """
        sources, lengths = self._runs(starts, tokens)
        pointers = Pointers(sources, self._mapped[0].dtype)
        copy_runs(pointers, lengths, np.cumsum(lengths) - lengths, len(lengths), out)

    def _runs(
        self, starts: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return addresses and tokens of the runs that make up stretches, one or more each."""
        first = np.searchsorted(self._stops, starts, side="right")
        last = np.searchsorted(self._stops, starts + tokens - 1, side="right")
        crossed = last - first
        if crossed.any():
            owner, run = ranges(first, crossed + 1)
            begins = np.maximum(starts[owner], self._starts[run])
            tokens = np.minimum((starts + tokens)[owner], self._stops[run]) - begins
        else:
            run, begins = first, starts
        width = np.uint64(self._mapped[0].dtype.itemsize)
        offsets = (begins - self._starts[run]).astype(np.uint64) * width
        return self._bases[run] + offsets, tokens

    @property
    def segments(self) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Domain of each segment in the shards, and its end in the stream, in tokens."""
        assert self._segments is not None, "opened without segments"
        return self._segments

    def _segments_under(self, starts: NDArray[np.int64]) -> Segments:
        domains, stops = self.segments
        window = self.window_tokens
        first = np.searchsorted(stops, starts, side="right")
        last = np.searchsorted(stops, starts + window - 1, side="right")
        owner, piece = ranges(first, last - first + 1)
        begins = np.where(piece > 0, stops[piece - 1], 0)
        low, high = starts[owner], starts[owner] + window
        tokens = np.minimum(high, stops[piece]) - np.maximum(low, begins)
        return Segments(domains[piece].astype(np.int64), tokens)

    def order(self, seed: int, epoch: int) -> Order:
        """Return a keyed permutation of windows, which is evaluated only where needed.

        With a schedule, they are permuted within short stretches, so that it is kept.
        """
        stretches = 1 if self.split != "train" else stretches_of(self.manifest, self.windows)
        key = epoch_seed(seed, epoch)
        return partial(shuffled, count=self.windows, key=key, stretches=stretches)

    def stored_order(self) -> Order:
        """Return the order of the shards: window `n` at position `n`."""
        return np.ndarray.copy


def ranges(
    first: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Concatenate the ranges [first, first + count); return range number and value of each member.

    Example:
        >>> [array.tolist() for array in ranges(np.array([5, 9]), np.array([2, 1]))]
        [[0, 0, 1], [5, 6, 9]]
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return owner, first[owner] + np.arange(len(owner)) - before[owner]


def _records(manifest: Manifest, split: str, where: str) -> list[ShardRecord]:
    name, _, domain = split.partition("/")
    records = [
        record
        for record in manifest.shards
        if record.split == name and (not domain or record.stem == split) and record.tokens
    ]
    if name not in SPLITS or (domain and name != "validation") or not records:
        splits = sorted({record.split for record in manifest.shards if record.tokens})
        splits += [record.stem for record in manifest.shards if record.split == "validation"]
        raise RecipeError(f"{where}: split {split!r} has no tokens; there are {', '.join(splits)}")
    return records


def _map_shards(
    directory: Path, manifest: Manifest, records: Sequence[ShardRecord]
) -> list[Mapped]:
    form = manifest.configured()
    if manifest.packing != CONCAT:
        raise RecipeError(
            f"{directory}: curate.load does not read shards with packing: {manifest.packing}, "
            "which are for trainers that pad for themselves; load the recipe instead"
        )
    if not isinstance(form, TokenFormat) or form.view is None or manifest.dtype is None:
        readable = [name for name, other in FORMATS.items()
                if isinstance(other, TokenFormat) and other.view is not None]  # fmt: skip
        raise RecipeError(
            f"{directory}: curate.load does not read format {manifest.format}; load the recipe "
            f"instead of the directory, or build with one of output.format: {', '.join(readable)}"
        )
    dtype = np.dtype(manifest.dtype)
    mapped = []
    for record in records:
        for file in record.files:
            _check_file(directory, file)
        shard = form.view(directory / record.stem, dtype)
        count_tokens = int(shard.tokens.sum())
        if count_tokens != record.tokens:
            raise ShardError(
                f"{directory / record.stem}: expected {record.tokens} tokens as the manifest says, "
                f"found {count_tokens}; build it again"
            )
        mapped.append(shard)
    return mapped


def _addresses(mapped: Mapped) -> NDArray[np.uint64]:
    """Return the address of the first token of each run.

    Samples after headers of odd length have odd addresses. Current processors read those at full
    speed, and the compiled loops assume no alignment (measured on x86-64 only).
    """
    first = np.uint64(mapped.content.ctypes.data)
    addresses: NDArray[np.uint64] = mapped.starts.astype(np.uint64) + first
    return addresses


def _check_file(directory: Path, file: FileRecord) -> None:
    """Raise `ShardError` unless a file is there and has its size; hashing it would take long."""
    damage = file_damage(directory, file, hashed=False)
    if damage is not None:
        raise ShardError(
            f"{directory}/{damage}; run curate verify to see all damage, curate build to repair it"
        )


def _segments_of(
    directory: Path, manifest: Manifest, records: Sequence[ShardRecord]
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Return the domain of each segment in the shards, and its end in the stream, in tokens."""
    domains, tokens = [], []
    for record in records:
        _check_file(directory, record.provenance)
        rows = read_provenance(directory / record.provenance.path, record, manifest)
        rows = rows[rows["tokens"] > 0]
        domains.append(rows["domain"].copy())
        tokens.append(rows["tokens"].copy())
    return np.concatenate(domains), np.cumsum(np.concatenate(tokens))
