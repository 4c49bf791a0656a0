"""Check what a trainer's own mixture draws of domains that were written apart.

`curate` writes the trainer's configuration file and predicts, in `certificate.json`, what the
trainer makes of it. Reader scripts hand that very file to the trainer, count what it draws, and
compare: exactly where the trainer counts, within four standard deviations where it draws by lot.
Which domain a window is of is found from its tokens alone (`Owners`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from expected import Dataset, Report

GRAM_TOKENS = 16
"""A run of so many tokens tells a domain, unless it is also in another."""
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
MOST_DEVIATIONS = 4.0


@dataclass(frozen=True)
class Promise:
    """A forecast of the certificate."""

    trainer: str
    unit: str
    exact: bool
    samples: int
    window_tokens: int
    domains: dict[str, dict[str, float]]

    def requested_share(self, name: str) -> float:
        """Share of tokens that the recipe asks for."""
        return self.domains[name]["share"] - self.domains[name]["difference"]


def promised(data: Dataset, trainer: str) -> Promise:
    """Mixture that the certificate states for a trainer."""
    certificate = json.loads((data.directory / "certificate.json").read_text("utf-8"))
    for row in certificate["trainer_mixture"]:
        if row["trainer"] == trainer:
            keys = ("unit", "exact", "samples", "window_tokens", "domains")
            return Promise(trainer, *(row[key] for key in keys))
    raise SystemExit(f"{data.directory}: the certificate predicts nothing of {trainer}")


def configuration(data: Dataset, name: str) -> Any:
    """A file of `trainer/`, parsed."""
    text = (data.directory / "trainer" / name).read_text("utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


Drawn = dict[str | None, list[int]]
"""Domain → tokens of each sample that was drawn; None for samples of no domain or of several."""


def keeps(report: Report, promise: Promise, drawn: Drawn, what: str = "") -> None:
    """Two rows: samples by domain are as predicted; the share of tokens is the requested one.

    Args:
        report: Where the rows go.
        promise: Mixture that the certificate states.
        drawn: What the trainer gave.
        what: Words that set the rows of one trainer apart.
    """
    kind = f"own mixture file, {promise.trainer}" + f" ({what})" * bool(what)
    unknown = len(drawn.get(None, []))
    counts = np.array([len(drawn.get(name, [])) for name in promise.domains])
    total = int(counts.sum())
    if promise.exact:
        expected = np.array([row["samples"] for row in promise.domains.values()])
        off = float(np.abs(counts - expected * total / promise.samples).max())
        fine = off < (1 if total != promise.samples else 0.5)
        detail = f"furthest off the forecast by {off:.2g}"
    else:
        weights = np.array([row["weight"] for row in promise.domains.values()])
        spread = np.sqrt(total * weights * (1 - weights))
        off = float((np.abs(counts - total * weights) / spread).max())
        fine, detail = off < MOST_DEVIATIONS, f"furthest {off:.1f} standard deviations, by lot"
    listed = ", ".join(
        f"{name} {count:,}" for name, count in zip(promise.domains, counts, strict=True)
    )
    report.add(
        f"{kind}: samples as predicted", fine and not unknown and total > 0,
        f"{total:,} {promise.unit}: {listed}; {unknown} of no one domain; {detail}",
    )  # fmt: skip
    share, bound = _shares(promise, drawn)
    off = {name: abs(share[name] - promise.requested_share(name)) for name in share}
    worst = max(off, key=lambda name: off[name])
    report.add(
        f"{kind}: share of tokens", all(off[name] <= bound[name] for name in off),
        f"furthest off is {worst}: {share[worst]:.3%} for {promise.requested_share(worst):.3%}, "
        f"bound {bound[worst]:.3%}",
    )  # fmt: skip


def _shares(promise: Promise, drawn: Drawn) -> tuple[dict[str, float], dict[str, float]]:
    """Share of tokens by domain, and how far off the asked one it may be.

    That is the stated difference, a sample, and what chance adds: rows of many lengths, and lots.
    """
    lengths = {name: np.array(drawn.get(name, []), float) for name in promise.domains}
    tokens = {name: sizes.sum() for name, sizes in lengths.items()}
    total = sum(tokens.values())
    share = {name: float(count / total) for name, count in tokens.items()}
    variance = {
        name: len(sizes) * (sizes.var() if promise.exact else np.mean(sizes**2))
        for name, sizes in lengths.items()
    }
    everything = sum(variance.values())
    longest = max(sizes.max() for sizes in lengths.values()) / total
    bound = {}
    for name, part in share.items():
        noise = (1 - part) ** 2 * variance[name] + part**2 * (everything - variance[name])
        stated = abs(promise.domains[name]["difference"]) + (longest if promise.exact else 0.0)
        bound[name] = float(stated + MOST_DEVIATIONS * np.sqrt(noise) / total)
    return share, bound


class Owners:
    """Tells from its tokens which domain a window is of."""

    def __init__(self, data: Dataset) -> None:
        """Take a dataset whose stream has all documents of its domains."""
        self.data = data

    @cached_property
    def _runs(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of all runs of tokens, sorted, and their domain; 255 where there are several."""
        hashes = _hashes(self.data.stream)
        domains = self.data.domain_of[: len(hashes)]
        order = np.lexsort((domains, hashes))
        hashes, domains = hashes[order], domains[order]
        first = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))
        least = domains[first]
        most = domains[np.append(first[1:], len(hashes)) - 1]
        return hashes[first], np.where(least == most, least, 255)

    def of(self, window: np.ndarray) -> str | None:
        """The domain; None where nothing tells, or runs of several are in it."""
        run_hashes, domains = self._runs
        hashes = _hashes(np.asarray(window).ravel().astype(np.int64))
        place = np.minimum(np.searchsorted(run_hashes, hashes), len(run_hashes) - 1)
        owners = domains[place[run_hashes[place] == hashes]]
        # A run across two documents of a shuffled window may stand nowhere, or by chance elsewhere.
        votes = Counter(owners[owners != 255].tolist()).most_common(2)
        if not votes or (len(votes) == 2 and votes[1][1] * 8 > votes[0][1]):
            return None
        return self.data.domains[votes[0][0]]

    def sort(self, windows: Iterable[np.ndarray]) -> Drawn:
        """Windows by domain, each by its tokens."""
        drawn: Drawn = {}
        for window in windows:
            drawn.setdefault(self.of(window), []).append(np.size(window))
        return drawn


def _hashes(tokens: np.ndarray) -> np.ndarray:
    """A hash of each run of `GRAM_TOKENS`; shape (tokens - GRAM_TOKENS + 1,)."""
    hashes = np.zeros(max(0, len(tokens) - GRAM_TOKENS + 1), np.uint64)
    for offset in range(GRAM_TOKENS):
        hashes = (hashes + tokens[offset : offset + len(hashes)].astype(np.uint64) + 1) * MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    return hashes


def folder_of(path: str | Path) -> str:
    """The domain in a path `train/<domain>` or `train/<domain>/shard-00000…`."""
    parts = Path(path).parts
    return parts[parts.index("train") + 1]
