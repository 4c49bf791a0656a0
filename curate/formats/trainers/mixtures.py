"""Predict how trainers mix domains that are written apart.

Where each domain has files of its own (`output.shape: per-domain`), the trainer mixes them. Its
draws (`draws`) are compared with the plan: samples, tokens, share and passes of each domain, and
the domains it would lose. A format's row lists the trainers that mix its files.

Where a trainer samples at random (`exact` is False), counts are expected values, and a warning
names each domain that may never be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curate.formats.trainers import config_files, draws, staged_files
from curate.formats.trainers.config_files import ConfigInputs
from curate.formats.trainers.draws import Drawn, WrittenDomain, by_planned
from curate.formats.trainers.staged_files import StageFiles

LIKELY_MISSED = 0.01
"""Probability of never being drawn from which a warning names a domain."""

SHORT_EPOCH = 0.9
"""Share of the planned samples; an epoch that ends earlier gets a warning."""

MUCH_REPEATED = 2.0
"""Passes, as a multiple of the planned ones (or of one), above which a warning names a domain."""


@dataclass(frozen=True, slots=True)
class TrainerMixture:
    """How one trainer mixes domains, and the configuration files for it."""

    trainer: str
    unit: str
    """Unit of a sample: windows or rows."""
    exact: bool
    """False where samples are drawn at random."""
    draw: Callable[[Sequence[WrittenDomain], int], Drawn]
    """(domains, tokens of the trainer's window) → what it draws."""
    config_files: Callable[[ConfigInputs], dict[str, str]]
    """Domains to mix → name and text of each file in `trainer/`."""
    config_stems: tuple[str, ...]
    """Names of these files without suffix."""
    repeats_order: bool = False
    """Whether every epoch draws the same samples, so that what one leaves out is never seen."""
    ends_first: bool = False
    """Whether an epoch is over as soon as one domain is used up."""
    one_length: bool = False
    """Whether rows must be as long as the trainer's sequences."""
    staged_files: Callable[[Sequence[StageFiles]], dict[str, str]] | None = None
    """Stages → name and text of each file with which the trainer changes the mixture between them;
    None where its configuration has no stages.
    """


HUGGING_FACE = TrainerMixture(
    "datasets.interleave_datasets", "rows", exact=False, draw=draws.random_rows,
    config_files=config_files.hugging_face, config_stems=("interleave",),
)  # fmt: skip
LEVANTER = TrainerMixture(
    "levanter", "windows", exact=True, draw=draws.levanter,
    config_files=config_files.levanter, config_stems=("levanter",),
    staged_files=staged_files.levanter_text,
)  # fmt: skip
LEVANTER_PREBUILT = replace(
    LEVANTER,
    config_files=config_files.levanter_prebuilt,
    one_length=True,
    staged_files=staged_files.levanter_prebuilt,
)
TORCHTITAN = TrainerMixture(
    "torchtitan", "windows", exact=False, draw=draws.random_windows,
    config_files=config_files.torchtitan, config_stems=("torchtitan",),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MixturePrediction:
    """Samples that one trainer will draw in an epoch."""

    trainer: str
    unit: str
    exact: bool
    window_tokens: int
    rows: dict[str, dict[str, float]]
    """Domain → weight, samples, tokens, share, difference, epochs, unseen."""
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `trainer_mixture` in `plan.json` and `certificate.json`."""
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


def predict(
    mixture: TrainerMixture, domains: Sequence[WrittenDomain], window_tokens: int
) -> MixturePrediction:
    """Predict what a trainer draws.

    Args:
        mixture: The trainer's rule and files.
        domains: Every domain; those without tokens on disk are left out of the mixture.
        window_tokens: Tokens of the trainer's windows.
    """
    held = [domain for domain in domains if domain.tokens]
    drawn = mixture.draw(held, window_tokens)
    tokens = [count * mean for count, mean in zip(drawn.samples, drawn.sample_tokens, strict=True)]
    total = sum(tokens)
    rows = {}
    for number, (domain, planned) in enumerate(zip(held, by_planned(held), strict=True)):
        share = tokens[number] / total if total else 0.0
        passes = drawn.pass_samples[number]
        samples = drawn.samples[number]
        rows[domain.name] = {
            "weight": drawn.weights[number],
            "samples": samples,
            "tokens": round(tokens[number]),
            "share": share,
            "difference": share - planned,
            "epochs": samples / passes if passes else 0.0,
            "unseen": max(0, math.floor(passes) - samples) if mixture.repeats_order else 0,
        }
    return MixturePrediction(
        trainer=mixture.trainer,
        unit=mixture.unit,
        exact=mixture.exact,
        window_tokens=window_tokens,
        rows=rows,
        warnings=tuple(_warnings(mixture, held, drawn, window_tokens)),
    )


def _warnings(
    mixture: TrainerMixture, domains: Sequence[WrittenDomain], drawn: Drawn, window_tokens: int
) -> list[str]:
    """Write one line for each problem, naming every domain that has it."""
    singular = mixture.unit.removesuffix("s")
    unit = f"window of {window_tokens} tokens" if mixture.unit == "windows" else singular
    lost = [s.name for s, chance in zip(domains, drawn.missed, strict=True) if chance == 1]
    doubtful = [
        f"'{domain.name}' ({chance:.0%})"
        for domain, chance in zip(domains, drawn.missed, strict=True)
        if LIKELY_MISSED <= chance < 1
    ]
    repeated = [
        f"'{domain.name}' ({samples / passes if passes else math.inf:.3g} passes)"
        for domain, samples, passes in zip(domains, drawn.samples, drawn.pass_samples, strict=True)
        if samples > MUCH_REPEATED * max(1.0, domain.planned_tokens / domain.tokens) * passes
    ]
    warnings = []
    if lost:
        names = ", ".join(f"'{name}'" for name in lost)
        warnings.append(
            f"{mixture.trainer} gives no {unit} to {names}: raise budget_tokens or the weight, "
            "join domains, or set output.shape: mixed"
        )
    if doubtful:
        warnings.append(
            f"{mixture.trainer} draws by lot and may never draw a {unit} of {', '.join(doubtful)}"
        )
    if repeated:
        warnings.append(
            f"{mixture.trainer} draws whole samples and so repeats more than planned: "
            f"{', '.join(repeated)}"
        )
    return warnings + (_short_epoch(mixture, domains, drawn) if mixture.ends_first else [])


def _short_epoch(
    mixture: TrainerMixture, domains: Sequence[WrittenDomain], drawn: Drawn
) -> list[str]:
    """Warn where an epoch ends early, because the plan repeats the first domain to run out."""
    epochs = [
        (held / samples, domain.name)
        for domain, samples, held in zip(domains, drawn.samples, drawn.pass_samples, strict=True)
        if samples and held
    ]
    share, name = min(epochs, default=(1.0, ""))
    if share >= SHORT_EPOCH:
        return []
    return [
        f"{mixture.trainer} ends an epoch when the first folder is used up, here '{name}' after "
        f"{share:.0%} of the planned {mixture.unit}, and starts them all again: shuffle, so that "
        "epochs differ, or let each folder repeat by itself where the reader can"
    ]
