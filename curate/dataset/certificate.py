"""Compare a dataset, as it was read back, with its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from curate import __version__
from curate.dataset.hashed_json import is_whole, write_hashed
from curate.dataset.manifest import Manifest, PlanRecord
from curate.dataset.regular_files import read_regular
from curate.formats.base import TokenFormat
from curate.formats.trainers.draws import WrittenShard
from curate.plan.packing import Tally
from curate.plan.per_domain import MIXED, PER_DOMAIN, predict_mixtures, written_domains
from curate.plan.schedules import window_shares
from curate.runtime.files import json_text
from curate.runtime.registry import counted

WINDOWS = 100
"""Windows that the output is cut into to see how evenly it is mixed."""


@dataclass(slots=True)
class ShardCheck:
    """Results of reading one shard back."""

    problems: list[str] = field(default_factory=list)
    tokens: dict[int, int] = field(default_factory=dict)
    """Tokens by domain number."""
    first_window: int = 0
    """Window of the output in which a training shard begins."""
    windows: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))
    """Training shards: tokens by window, from `first_window` on, and domain."""
    content: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """Distinct first halves of the content hashes of its documents; of a training shard, of those
    that are held out.
    """
    is_read: bool = False
    """Whether its files are as the manifest says and were read to their end."""
    content_checked: bool = False
    tally: Tally = Tally()
    """Counts of its rows and of their contents."""
    lost_tokens: int = 0
    """Training shards: tokens that a trainer's reader drops."""


class Totals:
    """Sums over shards, in place of each shard's own counts.

    These are as many numbers as shards times domains, which may not fit in memory.
    """

    def __init__(self, domains: int) -> None:
        """Start with no shard.

        Args:
            domains: Number of domains.
        """
        self.train, self.held_out = np.zeros((2, domains), np.int64)
        """shape (domains,), tokens of each."""
        self.windows = np.zeros((WINDOWS, domains), np.int64)
        """Tokens of the training shards by window of the output and domain."""

    def add(self, tokens: NDArray[np.int64], check: ShardCheck) -> None:
        """Add a shard, and drop what is added but for the tokens of a shard of one domain.

        Args:
            tokens: `train` or `held_out`, changed in place.
            check: Results of the shard, changed in place.
        """
        for number, count in check.tokens.items():
            tokens[number] += count
        if check.windows.size:
            last = check.first_window + len(check.windows)
            self.windows[check.first_window : last] += check.windows
            check.windows = np.empty((0, 0), np.int64)
        if len(check.tokens) > 1:
            check.tokens = {}


def without_manifest(problem: str) -> dict[str, Any]:
    """Return the fields of `certificate.json` for a dataset whose manifest cannot be used.

    Args:
        problem: The reason; nothing else can be said of the dataset.
    """
    return {
        "schema": 1,
        "curate_version": __version__,
        "ok": False,
        "problems": [problem],
        "domains": {},
    }


def certify(
    manifest: Manifest,
    plan: PlanRecord | None,
    checks: Sequence[ShardCheck],
    damage: Sequence[str],
    totals: Totals,
) -> dict[str, Any]:
    """Return the fields of `certificate.json`.

    What is compared with the plan needs the plan and all shards. Where one of them is damaged, that
    is the problem, and no count that follows from it is another.

    Args:
        manifest: Manifest of the dataset.
        plan: Content of `plan.json`; None if it cannot be read.
        checks: shape (shards,), in the manifest's order.
        damage: Problems with files that are not shards.
        totals: Sums over the shards that were read.
    """
    problems = [*damage, *(problem for check in checks for problem in check.problems)]
    train = [c for c, s in zip(checks, manifest.shards, strict=True) if s.split == "train"]
    held_out = [c for c, s in zip(checks, manifest.shards, strict=True) if s.split != "train"]
    realised_total = int(totals.train.sum())
    rows: dict[str, Any] = {}
    mixtures: list[dict[str, Any]] = []
    if plan is not None and all(check.is_read for check in checks):
        rows = _domain_rows(manifest, plan, totals, problems)
        if manifest.shape == MIXED and realised_total != manifest.budget_tokens:
            problems.append(
                f"budget_tokens {manifest.budget_tokens}, realised {realised_total} in all"
            )
        if manifest.shape == PER_DOMAIN and len(rows) == len(manifest.domains):
            mixtures = _trainer_mixtures(manifest, plan, train)
            _as_trained(rows, mixtures[0])
    overlap = _overlap(train, held_out)
    if overlap:
        problems.append(f"in training and in validation: {counted(overlap, 'document')}")
    sequences = sum(shard.sequences for shard in manifest.shards if shard.split == "train")
    return {
        "schema": 1,
        "curate_version": __version__,
        "recipe_hash": manifest.recipe_hash,
        "build_hash": manifest.build_hash,
        "ok": not problems,
        "problems": problems,
        "budget_tokens": manifest.budget_tokens,
        "realised_tokens": realised_total,
        "train_sequences": sequences,
        "shape": manifest.shape,
        "domains": rows,
        "trainer_mixture": mixtures,
        "train_validation_overlap_documents": overlap,
        "tokens_compared_with_store": bool(checks) and all(c.content_checked for c in checks),
        "reader_loss": _reader_loss(manifest, train),
        "packing": _packing(manifest, train),
        "largest_share_deviation_in_windows": _deviation(totals.windows, rows, manifest),
        "shards": [
            {"path": file.path, "bytes": file.bytes, "xxh3": file.xxh3}
            for shard in manifest.shards
            for file in shard.files
        ],
        "files": [msgspec.to_builtins(file) for file in manifest.beside_shards],
    }


def write_certificate(path: Path, fields: dict[str, Any]) -> None:
    """Write a certificate, with a hash of itself in its last field."""
    write_hashed(path, json_text(fields).encode())


def certificate_damage(path: Path) -> str | None:
    """Describe in one line how a certificate is damaged; None if it is not."""
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return f"{path.name}: missing"
    except OSError as error:
        return f"{path.name}: {error.strerror or error}"
    if is_whole(content):
        return None
    return f"{path.name}: damaged, for it differs from its own hash"


def _domain_rows(
    manifest: Manifest, plan: PlanRecord, totals: Totals, problems: list[str]
) -> dict[str, Any]:
    """Compare planned and realised tokens by domain; add differences to `problems`."""
    rows: dict[str, Any] = {}
    realised_total = int(totals.train.sum())
    for number, name in enumerate(manifest.domains):
        planned = plan.domains.get(name)
        if planned is None:
            problems.append(f"plan.json has no domain '{name}'")
            continue
        realised = int(totals.train[number])
        expected = planned.tokens if planned.written_tokens is None else planned.written_tokens
        if realised != expected:
            problems.append(f"'{name}': planned {expected} tokens, realised {realised}")
        supply = planned.supply_tokens
        written = {"written_tokens": expected} if manifest.shape == PER_DOMAIN else {}
        rows[name] = {
            **written,
            "asked_share": planned.weight,
            "planned_tokens": planned.tokens,
            "realised_tokens": realised,
            "realised_share": realised / realised_total if realised_total else 0.0,
            "epochs": realised / supply if supply else 0.0,
            "validation_tokens": int(totals.held_out[number]),
            "amounts": planned.amounts,
            "lost": planned.lost,
            "copies_in_domain": planned.copies_in_domain,
            "copies_in_other_domains": planned.copies_in_other_domains,
        }
    return rows


def _trainer_mixtures(
    manifest: Manifest, plan: PlanRecord, train: Sequence[ShardCheck]
) -> list[dict[str, Any]]:
    """Predict how each trainer's own mixture draws from the tokens on disk."""
    records = [shard for shard in manifest.shards if shard.split == "train"]
    shards = [
        (domain, WrittenShard(record.stem, tokens, record.sequences))
        for record, check in zip(records, train, strict=True)
        for domain, tokens in check.tokens.items()
    ]
    planned = [plan.domains[name].tokens for name in manifest.domains]
    domains = written_domains(manifest.domains, planned, shards)
    predictions = predict_mixtures(manifest.configured(), domains, manifest.settings)
    return [prediction.to_json() for prediction in predictions]


def _as_trained(rows: dict[str, Any], mixture: dict[str, Any]) -> None:
    """Replace shares and epochs by those of the trainer's mixture, in place."""
    for name, row in rows.items():
        drawn = mixture["domains"].get(name, {"share": 0.0, "epochs": 0.0})
        row["realised_share"], row["epochs"] = drawn["share"], drawn["epochs"]


def _packing(manifest: Manifest, train: Sequence[ShardCheck]) -> dict[str, Any] | None:
    """Count the contents of rows of one length."""
    if manifest.sequence_length is None or manifest.dtype is None:
        return None
    rows = sum((check.tally for check in train), Tally())
    return rows.to_json(manifest.packing, manifest.sequence_length)


def _reader_loss(manifest: Manifest, train: Sequence[ShardCheck]) -> dict[str, int] | None:
    """Count the training tokens that the trainer's reader drops in an epoch."""
    output_format = manifest.configured()
    if not isinstance(output_format, TokenFormat) or output_format.dropped_tokens is None:
        return None
    tokens = sum(check.lost_tokens for check in train)
    return {"window_tokens": manifest.settings.window_tokens, "tokens": tokens}


def _overlap(train: Sequence[ShardCheck], held_out: Sequence[ShardCheck]) -> int:
    """Count validation documents whose content is in training too."""
    if not train or not held_out:
        return 0
    validation = np.unique(np.concatenate([check.content for check in held_out]))
    seen = np.zeros(len(validation), bool)
    for check in train:
        seen |= np.isin(validation, check.content)
    return int(seen.sum())


def _deviation(
    tokens: NDArray[np.int64], rows: dict[str, Any], manifest: Manifest
) -> dict[str, Any] | None:
    """Find the window and domain whose share differs most from that of all tokens.

    With a schedule, it is compared with what the curve asks of the window.
    """
    if not tokens.any() or len(rows) != len(manifest.domains):
        return None
    totals = tokens.sum(axis=1, keepdims=True)
    shares = np.divide(tokens, totals, out=np.zeros(tokens.shape), where=totals > 0)
    realised = np.array([rows[name]["realised_share"] for name in manifest.domains])
    asked = np.broadcast_to(realised, shares.shape)
    if manifest.schedule is not UNSET:
        asked = window_shares(manifest.schedule.curves(manifest.domains), WINDOWS)
    off = np.abs(shares - asked) * (totals > 0)
    window, domain = np.unravel_index(int(np.argmax(off)), off.shape)
    furthest = {
        "window_tokens": -(-manifest.budget_tokens // WINDOWS),
        "domain": manifest.domains[domain],
        "share": float(shares[window, domain]),
        "realised_share": float(realised[domain]),
    }
    if manifest.schedule is not UNSET:
        furthest |= {"window": int(window), "asked_share": float(asked[window, domain])}
    return furthest
