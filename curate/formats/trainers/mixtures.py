"""What a trainer's own mixture makes of domains that are written apart.

Where each domain has files of its own (`output.shape: per-domain`), the trainer mixes them. What
it draws (`draws`) is set against the plan: samples, tokens, share and passes of each domain, and
which domains it would lose. `BLENDS` lists, for each format, the trainers with a mixture of their
own, the first of which the certificate goes by; `blend_files` writes their configuration files.

Where a trainer draws by lot (`exact` is False), counts are expected values, and a domain is called
lost if it may well be drawn never.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from curate.formats.trainers import draws
from curate.formats.trainers.draws import Drawn, Source, by_planned

LIKELY_MISSED = 0.01
"""Chance of not being drawn at all from which a domain is warned of."""

SHORT_EPOCH = 0.9
"""Share of the planned samples below which an epoch that ends early is warned of."""

MUCH_REPEATED = 2.0
"""Passes, as a multiple of those planned (or of one), from which a domain is warned of."""


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


HUGGING_FACE = Blend("datasets.interleave_datasets", "rows", False, draws.by_lot_rows)
LEVANTER = Blend("levanter", "windows", True, draws.levanter)
LEVANTER_PREBUILT = Blend("levanter", "windows", True, draws.levanter, one_length=True)
TORCHTITAN = Blend("torchtitan", "windows", False, draws.by_lot_windows)

BLENDS: dict[str, tuple[Blend, ...]] = {
    "megatron": (Blend("Megatron-LM", "windows", True, draws.megatron),),
    "olmo": (Blend("OLMo-core source mixture", "windows", True, draws.olmo),),
    "datatrove": (Blend("nanotron Nanoset", "windows", True, draws.nanotron, repeats_order=True),),
    "mds": (
        Blend("streaming, choose", "rows", True, draws.mosaic),
        Blend("streaming, proportion", "rows", True, draws.mosaic_proportion),
    ),
    "litdata": (
        Blend("litdata CombinedStreamingDataset", "windows", False, draws.litdata, ends_first=True),
    ),
    "input_ids": (LEVANTER_PREBUILT, HUGGING_FACE),
    "parquet": (HUGGING_FACE, TORCHTITAN, LEVANTER),
    "jsonl": (HUGGING_FACE, TORCHTITAN, LEVANTER),
    "arrow": (HUGGING_FACE,),
    "webdataset": (
        Blend("webdataset.RandomMix, energon", "rows", False, draws.by_lot_rows, ends_first=True),
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
