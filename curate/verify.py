"""Read a dataset back, compare it with its plan, and say so in a certificate.

What is checked: every file, the plan among them, has the bytes the manifest says; the format's own
reader gives as many tokens as the provenance accounts for; every token equals the token of the
document it is said to come from (where the token store is at hand); tokens by domain equal the
plan; no training document has the content hash of a validation document; how far the mixture strays
in windows of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate import __version__
from curate.dataset import (
    MARK,
    SPLITS,
    FileRecord,
    Manifest,
    ShardRecord,
    is_reader_cache,
    load_manifest,
    read_provenance,
)
from curate.engine.local import map_tasks
from curate.errors import InputError, ShardError
from curate.formats.base import TextFormat, TokenFormat
from curate.formats.blends import SourceFile
from curate.formats.folder import DIRECTORY as TRAINER
from curate.packing import BEST_FIT, CONCAT, WHOLE, Tally, tally
from curate.sample import PAD, TokenCopier
from curate.shape import MIXED, PER_DOMAIN, forecasts, sources_of
from curate.storage import hash_file, read_json, write_json
from curate.text import check_text
from curate.tokens.domain import DomainTokens
from curate.tokens.store import part_damage

WINDOWS = 100
"""Windows that the output is cut into to see how evenly it is mixed."""


@dataclass
class ShardCheck:
    """What reading one shard back gave."""

    problems: list[str] = field(default_factory=list)
    tokens: dict[int, int] = field(default_factory=dict)
    """By domain."""
    windows: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))
    """Training shards: tokens by window and domain."""
    content: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """Distinct first halves of the content hashes of its documents."""
    content_checked: bool = False
    tally: Tally = Tally()
    """What its rows are made of."""
    lost_tokens: int = 0
    """Training shards: what a trainer's reader never shows."""


def verify(
    directory: Path,
    domains: Sequence[DomainTokens] | None,
    workers: int,
    on_tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Check a dataset and write `certificate.json`.

    Args:
        directory: Of the dataset.
        domains: Its domains in the token store, in the manifest's order; None if the store is not
            at hand, and then tokens are compared with hashes only.
        workers: Processes.
        on_tick: Called now and then.

    Returns:
        The certificate; `ok` says whether everything held.

    Raises:
        ShardError: There is no finished dataset.
    """
    manifest = load_manifest(directory)
    plan = _read_plan(directory)
    starts = _shard_starts(manifest)
    check = partial(_check_shard, directory, manifest, domains)
    tasks = [(shard, starts[number]) for number, shard in enumerate(manifest.shards)]
    checks = map_tasks(check, tasks, workers, on_tick)
    parts = sorted({part for domain in domains or () for part in domain.part_paths})
    damage = [found for found in map_tasks(part_damage, parts, workers, on_tick) if found]
    for file in [*manifest.folder_files, *([manifest.plan] if manifest.plan else [])]:
        _check_file(directory, file, damage)
    certificate = _certificate(manifest, plan, checks, [*damage, *_unlisted(directory, manifest)])
    write_json(directory / "certificate.json", certificate)
    return certificate


def _unlisted(directory: Path, manifest: Manifest) -> list[str]:
    """Files among the shards that a trainer would read though the manifest does not know them."""
    listed = {file.path for shard in manifest.shards for file in shard.files}
    listed |= {file.path for file in manifest.folder_files}
    return [
        f"{path.relative_to(directory).as_posix()}: not in the manifest"
        for split in (*SPLITS, TRAINER)
        for path in sorted((directory / split).rglob("*"))
        if path.name != MARK
        and not path.is_dir()
        and not is_reader_cache(path, directory / split)
        and path.relative_to(directory).as_posix() not in listed
    ]


def _read_plan(directory: Path) -> dict[str, Any]:
    try:
        plan = read_json(directory / "plan.json")
        for name in plan["domains"]:
            plan["domains"][name]["tokens"] += 0
    except (InputError, KeyError, TypeError) as error:
        raise ShardError(f"{directory}/plan.json: cannot be read ({error})") from error
    found: dict[str, Any] = plan
    return found


def _shard_starts(manifest: Manifest) -> list[int]:
    """First token of each training shard in the dataset; 0 for others."""
    starts, position = [], 0
    for shard in manifest.shards:
        starts.append(position if shard.split == "train" else 0)
        position += shard.tokens if shard.split == "train" else 0
    return starts


def _check_shard(
    directory: Path,
    manifest: Manifest,
    domains: Sequence[DomainTokens] | None,
    task: tuple[ShardRecord, int],
) -> ShardCheck:
    shard, start = task
    found = ShardCheck()
    for file in [*shard.files, shard.provenance]:
        _check_file(directory, file, found.problems)
    try:  # what can still be read is still counted
        pieces = read_provenance(directory / shard.provenance.path)
        chosen = manifest.configured()
        if isinstance(chosen, TokenFormat):
            _check_tokens(directory, manifest, chosen, shard, pieces, domains, found)
        else:
            _check_text(directory, manifest, chosen, shard, pieces, domains, found)
    except ShardError as error:
        found.problems.append(str(error))
        return found
    rows = _row_tokens(pieces, manifest)
    found.tally = tally(pieces, len(rows))
    if manifest.packing != CONCAT:
        pieces = pieces[pieces["domain"] != PAD]
    if len(pieces) and pieces["domain"].max() >= len(manifest.domains):
        found.problems.append(f"{shard.provenance.path}: names a domain that is not there")
        return found
    counts = np.bincount(pieces["domain"], pieces["tokens"], len(manifest.domains))
    found.tokens = {number: int(count) for number, count in enumerate(counts) if count}
    found.content = np.unique(pieces["content"])
    if shard.split == "train":
        if manifest.shape == MIXED:
            found.windows = _windows(pieces, start, manifest)
        if isinstance(chosen, TokenFormat) and chosen.loss_tokens is not None:
            found.lost_tokens = chosen.loss_tokens(rows, manifest.settings.window_tokens)
    return found


def _row_tokens(pieces: NDArray[Any], manifest: Manifest) -> NDArray[np.int64]:
    """Tokens of each sequence of a shard: a piece is one, or they are all full but the last."""
    sequence_length = manifest.sequence_length
    if sequence_length is None or manifest.packing == WHOLE:
        return pieces["tokens"].astype(np.int64)
    whole, rest = divmod(int(pieces["tokens"].sum()), sequence_length)
    return np.array([sequence_length] * whole + [rest] * (rest > 0), np.int64)


def _check_file(directory: Path, file: FileRecord, problems: list[str]) -> None:
    path = directory / file.path
    if not path.is_file():
        problems.append(f"{file.path}: missing")
    elif path.stat().st_size != file.bytes:
        problems.append(f"{file.path}: {path.stat().st_size} bytes, the manifest says {file.bytes}")
    elif hash_file(path) != file.xxh3:
        problems.append(f"{file.path}: content differs from the manifest's hash")


def _check_tokens(  # noqa: PLR0913 - one check, all of whose inputs are its own
    directory: Path,
    manifest: Manifest,
    chosen: TokenFormat,
    shard: ShardRecord,
    pieces: NDArray[Any],
    domains: Sequence[DomainTokens] | None,
    found: ShardCheck,
) -> None:
    """Compare tokens on disk with the documents they are said to come from."""
    dtype = np.dtype(manifest.dtype)
    fills = (manifest.sequence_length or 0) if manifest.packing == BEST_FIT else 0
    pad_id = manifest.tokenizer.eos_id or 0
    copier = None if domains is None else TokenCopier(domains, pad_id, fills)
    if domains is not None:
        _check_content(pieces, domains, shard.stem)
    stops = np.concatenate([[0], np.cumsum(pieces["tokens"])])
    rows = _row_tokens(pieces, manifest)
    position = sequences = 0
    for batch in chosen.read(directory / shard.stem, dtype):
        if chosen.keeps_documents and not np.array_equal(
            batch.lengths, rows[sequences : sequences + len(batch.lengths)]
        ):
            found.problems.append(f"{shard.stem}: sequence lengths differ from the provenance")
            return
        sequences += len(batch.lengths)
        end = position + len(batch.tokens)
        if end > stops[-1]:
            break
        if copier is not None:
            expected = np.empty(len(batch.tokens), dtype)
            copier.copy(_clip(pieces, stops, position, end), expected)
            if not np.array_equal(expected, batch.tokens):
                at = position + int(np.argmax(expected != batch.tokens))
                found.problems.append(f"{shard.stem}: token {at} differs from its document")
                return
        position = end
    if position != stops[-1] or position != shard.tokens:
        found.problems.append(
            f"{shard.stem}: {position} tokens read back, provenance accounts for {stops[-1]}, "
            f"the manifest says {shard.tokens}"
        )
    found.content_checked = copier is not None


def _clip(pieces: NDArray[Any], stops: NDArray[np.int64], begin: int, end: int) -> NDArray[Any]:
    """The pieces under tokens [begin, end) of a shard, the outer ones cut to fit."""
    first = int(np.searchsorted(stops, begin, side="right")) - 1
    last = int(np.searchsorted(stops, end, side="left"))
    chosen = np.array(pieces[first:last])
    if len(chosen):
        skipped = begin - int(stops[first])
        chosen["start"][0] += skipped
        chosen["tokens"][0] -= skipped
        chosen["tokens"][-1] -= int(stops[last]) - end
    return chosen


def _check_content(pieces: NDArray[Any], domains: Sequence[DomainTokens], stem: str) -> None:
    """Raise `ShardError` unless the store holds the documents that the provenance names."""
    for number, domain in enumerate(domains):
        own = pieces[pieces["domain"] == number]
        if len(own) and (
            own["document"].max() >= len(domain)
            or not np.array_equal(domain.content_high[own["document"]], own["content"])
        ):
            raise ShardError(
                f"{stem}: the documents of '{domain.name}' in the token store are not those that "
                "were written; build again"
            )


def _check_text(  # noqa: PLR0913 - one check, all of whose inputs are its own
    directory: Path,
    manifest: Manifest,
    chosen: TextFormat,
    shard: ShardRecord,
    pieces: NDArray[Any],
    domains: Sequence[DomainTokens] | None,
    found: ShardCheck,
) -> None:
    check_text(directory, manifest, chosen, shard, pieces, found.problems)
    if domains is not None:
        _check_content(pieces, domains, shard.stem)
    found.content_checked = True


def _windows(pieces: NDArray[Any], start: int, manifest: Manifest) -> NDArray[np.int64]:
    """Tokens by window and domain; a piece counts where it begins."""
    begins = start + np.cumsum(pieces["tokens"]) - pieces["tokens"]
    window = np.minimum(begins * WINDOWS // manifest.budget_tokens, WINDOWS - 1)
    size = WINDOWS * len(manifest.domains)
    flat = np.bincount(window * len(manifest.domains) + pieces["domain"], pieces["tokens"], size)
    return flat.astype(np.int64).reshape(WINDOWS, len(manifest.domains))


def _certificate(
    manifest: Manifest,
    plan: dict[str, Any],
    checks: Sequence[ShardCheck],
    damage: Sequence[str],
) -> dict[str, Any]:
    problems = [*damage, *(problem for check in checks for problem in check.problems)]
    train = [c for c, s in zip(checks, manifest.shards, strict=True) if s.split == "train"]
    held_out = [c for c, s in zip(checks, manifest.shards, strict=True) if s.split != "train"]
    rows: dict[str, Any] = {}
    realised_total = sum(sum(check.tokens.values()) for check in train)
    for number, name in enumerate(manifest.domains):
        planned = plan["domains"].get(name)
        if planned is None:
            problems.append(f"plan.json has no domain '{name}'")
            continue
        realised = sum(check.tokens.get(number, 0) for check in train)
        wanted = planned.get("written_tokens", planned["tokens"])
        if realised != wanted:
            problems.append(f"'{name}': planned {wanted} tokens, realised {realised}")
        supply = planned["supply_tokens"]
        written = {"written_tokens": wanted} if manifest.shape == PER_DOMAIN else {}
        rows[name] = {
            **written,
            "asked_share": planned["weight"],
            "planned_tokens": planned["tokens"],
            "realised_tokens": realised,
            "realised_share": realised / realised_total if realised_total else 0.0,
            "epochs": realised / supply if supply else 0.0,
            "validation_tokens": sum(check.tokens.get(number, 0) for check in held_out),
        }
    mixtures: list[dict[str, Any]] = []
    if manifest.shape == MIXED and realised_total != manifest.budget_tokens:
        problems.append(f"budget_tokens {manifest.budget_tokens}, realised {realised_total} in all")
    if manifest.shape == PER_DOMAIN:
        mixtures = _trainer_mixtures(manifest, plan, train)
        _as_trained(rows, mixtures[0])
    overlap = _overlap(train, held_out)
    if overlap:
        problems.append(f"{overlap} documents are in training and in validation")
    return {
        "schema": 1,
        "curate_version": __version__,
        "recipe_hash": manifest.recipe_hash,
        "build_hash": manifest.build_hash,
        "ok": not problems,
        "problems": problems,
        "budget_tokens": manifest.budget_tokens,
        "realised_tokens": realised_total,
        "train_sequences": sum(
            shard.sequences for shard in manifest.shards if shard.split == "train"
        ),
        "shape": manifest.shape,
        "domains": rows,
        "trainer_mixture": mixtures,
        "train_validation_overlap_documents": overlap,
        "tokens_compared_with_store": bool(checks) and all(c.content_checked for c in checks),
        "reader_loss": _reader_loss(manifest, train),
        "packing": _packing(manifest, train),
        "largest_share_deviation_in_windows": _deviation(train, rows, manifest),
        "shards": [
            {"path": file.path, "bytes": file.bytes, "xxh3": file.xxh3}
            for shard in manifest.shards
            for file in shard.files
        ],
    }


def _trainer_mixtures(
    manifest: Manifest, plan: dict[str, Any], train: Sequence[ShardCheck]
) -> list[dict[str, Any]]:
    """What trainers' own mixtures make of the tokens found on disk."""
    shards = [shard for shard in manifest.shards if shard.split == "train"]
    files = [
        (domain, SourceFile(shard.stem, tokens, shard.sequences))
        for shard, check in zip(shards, train, strict=True)
        for domain, tokens in check.tokens.items()
    ]
    planned = [plan["domains"].get(name, {}).get("tokens", 0) for name in manifest.domains]
    sources = sources_of(manifest.domains, planned, files)
    window_tokens = manifest.settings.window_tokens
    return [found.to_json() for found in forecasts(manifest.format, sources, window_tokens)]


def _as_trained(rows: dict[str, Any], mixture: dict[str, Any]) -> None:
    """Shares and passes as the trainer's mixture makes them, in place."""
    for name, row in rows.items():
        found = mixture["domains"].get(name, {"share": 0.0, "epochs": 0.0})
        row["realised_share"], row["epochs"] = found["share"], found["epochs"]


def _packing(manifest: Manifest, train: Sequence[ShardCheck]) -> dict[str, Any] | None:
    """What rows of one length are made of."""
    if manifest.sequence_length is None or manifest.dtype is None:
        return None
    found = sum((check.tally for check in train), Tally())
    return found.to_json(manifest.packing, manifest.sequence_length)


def _reader_loss(manifest: Manifest, train: Sequence[ShardCheck]) -> dict[str, int] | None:
    """Training tokens that the trainer's reader never shows in an epoch."""
    chosen = manifest.configured()
    if not isinstance(chosen, TokenFormat) or chosen.loss_tokens is None:
        return None
    tokens = sum(check.lost_tokens for check in train)
    return {"window_tokens": manifest.settings.window_tokens, "tokens": tokens}


def _overlap(train: Sequence[ShardCheck], held_out: Sequence[ShardCheck]) -> int:
    if not train or not held_out:
        return 0
    validation = np.unique(np.concatenate([check.content for check in held_out]))
    seen = np.zeros(len(validation), bool)
    for check in train:
        seen |= np.isin(validation, check.content)
    return int(seen.sum())


def _deviation(
    train: Sequence[ShardCheck], rows: dict[str, Any], manifest: Manifest
) -> dict[str, Any] | None:
    """Where and by how much a window's share differs most from the realised one."""
    windows = [check.windows for check in train if check.windows.size]
    if not windows or len(rows) != len(manifest.domains):
        return None
    tokens = np.sum(windows, axis=0)
    totals = tokens.sum(axis=1, keepdims=True)
    shares = np.divide(tokens, totals, out=np.zeros(tokens.shape), where=totals > 0)
    asked = np.array([rows[name]["realised_share"] for name in manifest.domains])
    off = np.abs(shares - asked) * (totals > 0)
    window, domain = np.unravel_index(int(np.argmax(off)), off.shape)
    return {
        "window_tokens": -(-manifest.budget_tokens // WINDOWS),
        "domain": manifest.domains[domain],
        "share": float(shares[window, domain]),
        "realised_share": float(asked[domain]),
    }
