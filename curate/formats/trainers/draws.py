"""What each trainer draws of domains that are written apart, by its own rule.

A rule takes the domains on disk and the tokens of the trainer's window. Shares of tokens are
translated to the unit that it weights (windows or rows), and its rounding is followed to the
sample.

Left out: random draws themselves. Where a trainer draws by lot, counts are expected values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curate.formats.trainers import rounding


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file, or set of files under one stem."""

    stem: str
    """Relative to the dataset's directory."""
    tokens: int
    rows: int
    """Documents, or sequences of fixed length."""


@dataclass(frozen=True, slots=True)
class Source:
    """A domain on disk, and what is wanted of it."""

    name: str
    planned_tokens: int
    """That training shall see, repeats included."""
    files: tuple[SourceFile, ...]

    @property
    def tokens(self) -> int:
        """On disk."""
        return sum(file.tokens for file in self.files)

    @property
    def rows(self) -> int:
        """On disk."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a trainer draws; lists by source."""

    weights: list[float]
    """As its configuration says them, zero where a source is left out of it."""
    samples: list[int]
    sample_tokens: list[float]
    """Mean tokens of a sample."""
    pass_samples: list[float]
    """Samples of one pass over what is on disk."""
    missed: list[float]
    """Chance that a source is never drawn."""


def by_planned(sources: Sequence[Source]) -> list[float]:
    """Share of tokens of each source."""
    total = sum(source.planned_tokens for source in sources)
    return [source.planned_tokens / total for source in sources]


def _windows(sources: Sequence[Source], window_tokens: int) -> int:
    """Windows that the planned tokens make."""
    return max(1, sum(source.planned_tokens for source in sources) // window_tokens)


def _whole_windows(source: Source, stride: int, overlap: int = 0) -> int:
    """Windows that each file holds, added up."""
    return sum(max(0, file.tokens - overlap) // stride for file in source.files)


def megatron(sources: Sequence[Source], window_tokens: int) -> Drawn:
    """Weights are of prefixes; a prefix that is too short starts again without a word."""
    weights, owners = [], []
    for number, (source, share) in enumerate(zip(sources, by_planned(sources), strict=True)):
        weights += [share * file.tokens / source.tokens for file in source.files]
        owners += [number] * len(source.files)
    drawn = rounding.greedy(weights, _windows(sources, window_tokens))
    samples = np.bincount(owners, drawn, len(sources)).astype(np.int64).tolist()
    passes = [max(0.0, (source.tokens - 1) / window_tokens) for source in sources]
    return _drawn(by_planned(sources), samples, [float(window_tokens)] * len(sources), passes)


def olmo(sources: Sequence[Source], window_tokens: int) -> Drawn:
    """The source mixture: the first tokens of each file, in batches of one window."""
    requested = sum(source.planned_tokens for source in sources)
    paths, owners = [], []
    for number, (source, share) in enumerate(zip(sources, by_planned(sources), strict=True)):
        found = rounding.olmo_paths([file.tokens for file in source.files], int(requested * share))
        paths += found
        owners += [number] * len(found)
    instances = rounding.olmo_instances(paths, window_tokens, -(-requested // window_tokens))
    samples = np.bincount(owners, instances, len(sources)).astype(np.int64).tolist()
    passes = [float(_whole_windows(source, window_tokens)) for source in sources]
    return _drawn(by_planned(sources), samples, [float(window_tokens)] * len(sources), passes)


def nanotron(sources: Sequence[Source], window_tokens: int) -> Drawn:
    """Nanoset: an epoch has as many windows as all folders hold; a folder without one fails."""
    passes = [_whole_windows(source, window_tokens + 1) for source in sources]
    wanted = by_planned(sources)
    weights = [share if held else 0.0 for share, held in zip(wanted, passes, strict=True)]
    if not any(weights):
        nothing = [0] * len(sources)
        return _drawn(weights, nothing, [float(window_tokens)] * len(sources), [0.0] * len(sources))
    drawn = rounding.greedy(weights, sum(passes))
    samples = [
        count if weight else 0 for count, weight in zip(drawn.tolist(), weights, strict=True)
    ]
    return _drawn(
        weights, samples, [float(window_tokens)] * len(sources), [float(held) for held in passes]
    )


def levanter(sources: Sequence[Source], window_tokens: int) -> Drawn:
    """Counts in every block of sequences."""
    weights = by_planned(sources)
    block = rounding.levanter_block(weights)
    counts = rounding.block_counts(weights, block)
    total = _windows(sources, window_tokens)
    shares = counts / block
    samples = (
        rounding.largest_remainder(shares, total).tolist()
        if total < block
        else [int(count) for count in np.rint(shares * total)]
    )
    missed = [(1.0 - share) ** total if total < block else float(share == 0) for share in shares]
    passes = [source.tokens / window_tokens for source in sources]
    sample_tokens = [float(window_tokens)] * len(sources)
    return Drawn(weights, samples, sample_tokens, passes, missed)


def by_lot_windows(sources: Sequence[Source], window_tokens: int) -> Drawn:
    """Independent draws of windows."""
    weights = by_planned(sources)
    total = _windows(sources, window_tokens)
    samples = rounding.largest_remainder(weights, total).tolist()
    missed = rounding.missed_chance(weights, total).tolist()
    passes = [source.tokens / window_tokens for source in sources]
    return Drawn(weights, samples, [float(window_tokens)] * len(sources), passes, missed)


def litdata(sources: Sequence[Source], window_tokens: int) -> Drawn:
    """Independent draws of blocks, which never cross files; an empty folder cannot be mixed."""
    held = [_whole_windows(source, window_tokens + 1) for source in sources]
    kept = [number for number, blocks in enumerate(held) if blocks]
    weights, samples = [0.0] * len(sources), [0] * len(sources)
    missed = [1.0] * len(sources)
    if kept:
        found = by_lot_windows([sources[number] for number in kept], window_tokens)
        for place, number in enumerate(kept):
            weights[number], samples[number] = found.weights[place], found.samples[place]
            missed[number] = found.missed[place]
    sample_tokens = [float(window_tokens)] * len(sources)
    return Drawn(weights, samples, sample_tokens, [float(blocks) for blocks in held], missed)


def row_tokens(source: Source) -> float:
    """Mean tokens of a row."""
    return source.tokens / max(1, source.rows)


def planned_rows(sources: Sequence[Source]) -> list[float]:
    """Rows that the planned tokens are, at each source's mean."""
    return [source.planned_tokens / row_tokens(source) for source in sources]


def mosaic(sources: Sequence[Source], window_tokens: int) -> Drawn:
    """Streams with `choose`: whole rows, at least one, nothing left to chance."""
    del window_tokens  # rows are what they are
    wanted = planned_rows(sources)
    samples = [max(1, round(rows)) for rows in wanted]
    weights = [rows / sum(samples) for rows in samples]
    return _drawn(weights, samples, _mean_rows(sources), [float(s.rows) for s in sources])


def mosaic_proportion(sources: Sequence[Source], window_tokens: int) -> Drawn:
    """Streams with `proportion` and an epoch of the planned rows."""
    del window_tokens
    wanted = planned_rows(sources)
    drawn = rounding.proportions(wanted, epoch_rows(sources))
    weights = rounding.normalised(wanted).tolist()
    return _drawn(weights, drawn.tolist(), _mean_rows(sources), [float(s.rows) for s in sources])


def epoch_rows(sources: Sequence[Source]) -> int:
    """Rows that make the planned tokens."""
    return max(1, round(sum(planned_rows(sources))))


def by_lot_rows(sources: Sequence[Source], window_tokens: int) -> Drawn:
    """Independent draws of rows."""
    del window_tokens
    wanted = planned_rows(sources)
    weights = rounding.normalised(wanted).tolist()
    samples = rounding.largest_remainder(wanted, epoch_rows(sources)).tolist()
    missed = rounding.missed_chance(wanted, epoch_rows(sources)).tolist()
    return Drawn(weights, samples, _mean_rows(sources), [float(s.rows) for s in sources], missed)


def _mean_rows(sources: Sequence[Source]) -> list[float]:
    return [row_tokens(source) for source in sources]


def _drawn(
    weights: list[float], samples: list[int], sample_tokens: list[float], passes: list[float]
) -> Drawn:
    return Drawn(weights, samples, sample_tokens, passes, [float(not count) for count in samples])
