"""What a trainer's own mixture makes of domains that are written apart.

Where each domain has files of its own (`output.shape: per-domain`), the trainer mixes them. Shares
of tokens are translated to the unit that it weights (windows or rows), and its rounding is
foretold: samples, tokens, share and passes of each domain, and which domains it would lose.
`BLENDS` lists, for each format, the trainers with a mixture of their own, the first of which the
certificate goes by; `blend_files` writes their configuration files.

Left out: random draws themselves. Where a trainer draws by lot (`exact` is False), counts are
expected values, and a domain is called lost if it may well be drawn never.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.formats import rounding

LIKELY_MISSED = 0.01
"""Chance of not being drawn at all from which a domain is warned of."""

SHORT_EPOCH = 0.9
"""Share of the planned samples below which an epoch that ends early is warned of."""

MUCH_REPEATED = 2.0
"""Passes, as a multiple of those planned (or of one), from which a domain is warned of."""

MOST_PREFIXES = 32_767
"""Of a Megatron blend, whose dataset numbers are int16."""


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


@dataclass(frozen=True, slots=True)
class Blend:
    """A trainer's mixture."""

    trainer: str
    unit: str
    """windows or rows."""
    exact: bool
    """False where samples are drawn by lot."""
    draw: Callable[[Sequence[Source], int], Drawn]
    """(sources, tokens of the trainer's window) → what it draws."""
    repeats_order: bool = False
    """Whether every epoch draws the same samples, so that what one leaves out is never seen."""
    ends_first: bool = False
    """Whether an epoch is over as soon as one source is used up."""
    one_length: bool = False
    """Whether rows must be as long as the trainer's sequences."""


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
    found = by_lot_windows([sources[number] for number in kept], window_tokens) if kept else None
    weights, samples = [0.0] * len(sources), [0] * len(sources)
    missed = [1.0] * len(sources)
    for place, number in enumerate(kept):
        assert found is not None
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


HUGGING_FACE = Blend("datasets.interleave_datasets", "rows", False, by_lot_rows)
LEVANTER = Blend("levanter", "windows", True, levanter)
LEVANTER_PREBUILT = Blend("levanter", "windows", True, levanter, one_length=True)
TORCHTITAN = Blend("torchtitan", "windows", False, by_lot_windows)

BLENDS: dict[str, tuple[Blend, ...]] = {
    "megatron": (Blend("Megatron-LM", "windows", True, megatron),),
    "olmo": (Blend("OLMo-core source mixture", "windows", True, olmo),),
    "datatrove": (Blend("nanotron Nanoset", "windows", True, nanotron, repeats_order=True),),
    "mds": (
        Blend("streaming, choose", "rows", True, mosaic),
        Blend("streaming, proportion", "rows", True, mosaic_proportion),
    ),
    "litdata": (
        Blend("litdata CombinedStreamingDataset", "windows", False, litdata, ends_first=True),
    ),
    "input_ids": (LEVANTER_PREBUILT, HUGGING_FACE),
    "parquet": (HUGGING_FACE, TORCHTITAN, LEVANTER),
    "jsonl": (HUGGING_FACE, TORCHTITAN, LEVANTER),
    "arrow": (HUGGING_FACE,),
    "webdataset": (
        Blend("webdataset.RandomMix, energon", "rows", False, by_lot_rows, ends_first=True),
    ),
}
"""By format; those that are absent have readers without a mixture."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one trainer will do."""

    trainer: str
    unit: str
    exact: bool
    window_tokens: int
    rows: dict[str, dict[str, float]]
    """By domain: weight, samples, tokens, share, difference, epochs, unseen."""
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `plan.json` and `certificate.json` have it."""
        return {
            "trainer": self.trainer,
            "unit": self.unit,
            "exact": self.exact,
            "window_tokens": self.window_tokens,
            "samples": sum(int(row["samples"]) for row in self.rows.values()),
            "largest_difference": max(
                (abs(row["difference"]) for row in self.rows.values()), default=0.0
            ),
            "domains": self.rows,
            "warnings": list(self.warnings),
        }


def forecast(blend: Blend, sources: Sequence[Source], window_tokens: int) -> Forecast:
    """Foretell what a trainer draws.

    Args:
        blend: The trainer's.
        sources: Every domain; those without tokens on disk are no part of the mixture.
        window_tokens: Of its windows.
    """
    held = [source for source in sources if source.tokens]
    drawn = blend.draw(held, window_tokens)
    tokens = [count * mean for count, mean in zip(drawn.samples, drawn.sample_tokens, strict=True)]
    total = sum(tokens)
    rows = {}
    for number, (source, asked) in enumerate(zip(held, by_planned(held), strict=True)):
        share = tokens[number] / total if total else 0.0
        passes = drawn.pass_samples[number]
        samples = drawn.samples[number]
        rows[source.name] = {
            "weight": drawn.weights[number],
            "samples": samples,
            "tokens": round(tokens[number]),
            "share": share,
            "difference": share - asked,
            "epochs": samples / passes if passes else 0.0,
            "unseen": max(0, math.floor(passes) - samples) if blend.repeats_order else 0,
        }
    return Forecast(
        blend.trainer, blend.unit, blend.exact, window_tokens, rows,
        tuple(_warnings(blend, held, drawn, window_tokens)),
    )  # fmt: skip


def _warnings(
    blend: Blend, sources: Sequence[Source], drawn: Drawn, window_tokens: int
) -> list[str]:
    """One line for each thing that goes wrong, naming every domain it happens to."""
    singular = blend.unit.removesuffix("s")
    unit = f"window of {window_tokens} tokens" if blend.unit == "windows" else singular
    lost = [s.name for s, chance in zip(sources, drawn.missed, strict=True) if chance == 1]
    doubtful = [
        f"'{source.name}' ({chance:.0%})"
        for source, chance in zip(sources, drawn.missed, strict=True)
        if LIKELY_MISSED <= chance < 1
    ]
    repeated = [
        f"'{source.name}' ({samples / passes if passes else math.inf:.3g} passes)"
        for source, samples, passes in zip(sources, drawn.samples, drawn.pass_samples, strict=True)
        if samples > MUCH_REPEATED * max(1.0, source.planned_tokens / source.tokens) * passes
    ]
    found = []
    if lost:
        names = ", ".join(f"'{name}'" for name in lost)
        found.append(
            f"{blend.trainer} gives no {unit} to {names}: raise budget_tokens or the weight, join "
            "domains, or set output.shape: mixed"
        )
    if doubtful:
        found.append(
            f"{blend.trainer} draws by lot and may never draw a {unit} of {', '.join(doubtful)}"
        )
    if repeated:
        found.append(
            f"{blend.trainer} draws whole samples and so repeats more than planned: "
            f"{', '.join(repeated)}"
        )
    return found + (_short_epoch(blend, sources, drawn) if blend.ends_first else [])


def _short_epoch(blend: Blend, sources: Sequence[Source], drawn: Drawn) -> list[str]:
    """A line where the first source to be used up is one that the plan repeats."""
    epochs = [
        (held / samples, source.name)
        for source, samples, held in zip(sources, drawn.samples, drawn.pass_samples, strict=True)
        if samples and held
    ]
    share, name = min(epochs, default=(1.0, ""))
    if share >= SHORT_EPOCH:
        return []
    return [
        f"{blend.trainer} ends an epoch when the first folder is used up, here '{name}' after "
        f"{share:.0%} of the planned {blend.unit}, and starts them all again: shuffle, so that "
        "epochs differ, or let each folder repeat by itself where the reader can"
    ]
