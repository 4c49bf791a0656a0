"""Read a dataset back and compare it with its plan.

Checks: every file that curate wrote has the bytes that the manifest states; the format's own
reader yields as many tokens as the provenance accounts for; every token equals that of the document
it is said to come from (where the token store is available); tokens of each domain equal the plan;
no training document has the content hash of a validation document. The certificate also states how
far the mixture strays in windows of the output.

The order is what makes any damage safe: the manifest is compared with its own hash first, then
every file with the manifest, and only files that passed are parsed. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.dataset.certificate import WINDOWS, ShardCheck, certify, without_manifest
from curate.dataset.manifest import (
    CARD,
    SCHEMA,
    SPLITS,
    Manifest,
    PlanRecord,
    ShardOnDisk,
    ShardRecord,
    file_damage,
    load_manifest,
    read_plan,
    read_provenance,
)
from curate.dataset.ownership import files_below, own_files
from curate.dataset.write_text import check_text
from curate.errors import CurateError, EngineError, ShardError
from curate.formats.base import BEST_FIT, CONCAT, WHOLE, TextFormat, TokenFormat
from curate.formats.trainer_files import DIRECTORY as TRAINER
from curate.plan import PAD, TokenCopier
from curate.plan.packing import tally
from curate.plan.per_domain import MIXED
from curate.runtime.artifact_names import MARK
from curate.runtime.workers import map_tasks
from curate.tokens.domain import DomainTokens


def verify(
    directory: Path,
    domains: Sequence[DomainTokens] | None,
    workers: int,
    on_tick: Callable[[], None] = lambda: None,
    *,
    with_card: bool = True,
) -> dict[str, Any]:
    """Check a dataset.

    Args:
        directory: Directory of the dataset.
        domains: Its domains in the token store, whose parts have been checked, in the manifest's
            order; None: the store is not available, and files are only compared with their hashes.
        workers: Number of processes.
        on_tick: Called now and then.
        with_card: Whether the card is checked, too; a build writes it only after this.

    Returns:
        The fields of `certificate.json`; `ok` says whether everything held.
    """
    try:
        manifest = load_manifest(directory)
        output_format = manifest.configured()
    except CurateError as error:  # an unknown format, too
        return without_manifest(str(error))
    files = [file for file in manifest.beside_shards if with_card or file.path != CARD]
    damage = map_tasks(partial(file_damage, directory), files, workers, on_tick)
    damaged = {file.path for file, problem in zip(files, damage, strict=True) if problem}
    plan, problem = (None, None) if "plan.json" in damaged else _read_plan(directory)
    problems = [*filter(None, [*damage, problem]), *_unlisted(directory, manifest)]
    if with_card and manifest.schema == SCHEMA and all(file.path != CARD for file in files):
        problems.append(f"{CARD}: not in the manifest, so its build was cut off; run curate build")
    # Text cannot be tokenised again without its tokenizer, whose damage is reported once.
    is_readable = isinstance(output_format, TokenFormat) or "tokenizer.json" not in damaged
    dataset = (manifest, output_format if is_readable else None)
    check = partial(_check_shard, directory, dataset, domains)
    tasks = list(zip(manifest.shards, _shard_starts(manifest), strict=True))
    checks = map_tasks(check, tasks, workers, on_tick)
    return certify(manifest, plan, checks, problems)


def _read_plan(directory: Path) -> tuple[PlanRecord | None, str | None]:
    """Return the plan, or a problem of its content."""
    try:
        return read_plan(directory / "plan.json"), None
    except ShardError as error:
        return None, str(error)


def _unlisted(directory: Path, manifest: Manifest) -> list[str]:
    """List files among the shards that a trainer would read though the manifest lacks them."""
    listed = {file.path for file in manifest.listed}
    owned = own_files(directory, manifest)
    return [
        f"{path.relative_to(directory).as_posix()}: not in the manifest"
        for split in (*SPLITS, TRAINER)
        for path in files_below(directory / split)
        if path.name != MARK
        and (path.is_symlink() or not path.is_dir())
        and not owned.is_reader_cache(path)
        and path.relative_to(directory).as_posix() not in listed
    ]


def _shard_starts(manifest: Manifest) -> list[int]:
    """Return the position of each training shard's first token in the dataset; 0 for others."""
    starts, position = [], 0
    for shard in manifest.shards:
        starts.append(position if shard.split == "train" else 0)
        position += shard.tokens if shard.split == "train" else 0
    return starts


def _check_shard(
    directory: Path,
    dataset: tuple[Manifest, TokenFormat | TextFormat | None],
    domains: Sequence[DomainTokens] | None,
    task: tuple[ShardRecord, int],
) -> ShardCheck:
    shard, start = task
    manifest, output_format = dataset
    result = ShardCheck()
    damage = (file_damage(directory, file) for file in [*shard.files, shard.provenance])
    result.problems += filter(None, damage)
    if result.problems or output_format is None:
        return result
    try:
        pieces = read_provenance(directory / shard.provenance.path, shard, manifest)
        on_disk = ShardOnDisk(directory, manifest, shard, pieces)
        if isinstance(output_format, TokenFormat):
            _check_tokens(on_disk, output_format, domains, result)
        else:
            check_text(on_disk, output_format, result.problems)
            _check_content(pieces, domains, shard.stem)
            result.content_checked = domains is not None
    except EngineError:
        raise
    except CurateError as error:
        result.problems.append(str(error))
        return result
    result.is_read = True
    rows = _row_tokens(pieces, manifest)
    result.tally = tally(pieces, len(rows))
    if manifest.packing != CONCAT:
        pieces = pieces[pieces["domain"] != PAD]
    counts = np.bincount(pieces["domain"], pieces["tokens"], len(manifest.domains))
    result.tokens = {number: int(count) for number, count in enumerate(counts) if count}
    result.content = np.unique(pieces["content"])
    if shard.split == "train":
        if manifest.shape == MIXED:
            result.windows = _windows(pieces, start, manifest)
        if isinstance(output_format, TokenFormat) and output_format.dropped_tokens is not None:
            result.lost_tokens = output_format.dropped_tokens(rows, manifest.settings.window_tokens)
    return result


def _row_tokens(pieces: NDArray[Any], manifest: Manifest) -> NDArray[np.int64]:
    """Return the tokens of each sequence: a sequence is a piece, or all are full but the last."""
    sequence_length = manifest.sequence_length
    if sequence_length is None or manifest.packing == WHOLE:
        return pieces["tokens"].astype(np.int64)
    whole, rest = divmod(int(pieces["tokens"].sum()), sequence_length)
    return np.append(np.full(whole, sequence_length), [rest] * (rest > 0)).astype(np.int64)


def _check_tokens(
    shard: ShardOnDisk,
    output_format: TokenFormat,
    domains: Sequence[DomainTokens] | None,
    result: ShardCheck,
) -> None:
    """Compare tokens on disk with the documents they are said to come from."""
    manifest, pieces, stem = shard.manifest, shard.pieces, shard.record.stem
    dtype = np.dtype(manifest.dtype)
    fills = (manifest.sequence_length or 0) if manifest.packing == BEST_FIT else 0
    pad_id = manifest.tokenizer.eos_id or 0
    copier = None if domains is None else TokenCopier(domains, pad_id, fills)
    _check_content(pieces, domains, stem)
    stops = np.concatenate([[0], np.cumsum(pieces["tokens"])])
    rows = _row_tokens(pieces, manifest)
    position = sequences = 0
    for batch in output_format.read(shard.directory / stem, dtype):
        if output_format.keeps_documents and not np.array_equal(
            batch.lengths, rows[sequences : sequences + len(batch.lengths)]
        ):
            result.problems.append(f"{stem}: sequence lengths differ from the provenance")
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
                result.problems.append(f"{stem}: token {at} differs from its document")
                return
        position = end
    if position != stops[-1] or position != shard.record.tokens:
        result.problems.append(
            f"{stem}: {position} tokens read back, provenance accounts for {stops[-1]}, "
            f"the manifest says {shard.record.tokens}"
        )
    result.content_checked = copier is not None


def _clip(pieces: NDArray[Any], stops: NDArray[np.int64], begin: int, end: int) -> NDArray[Any]:
    """Return the pieces of tokens [begin, end) of a shard, the outer ones cut to fit."""
    first = int(np.searchsorted(stops, begin, side="right")) - 1
    last = int(np.searchsorted(stops, end, side="left"))
    clipped = np.array(pieces[first:last])
    if len(clipped):
        skipped = begin - int(stops[first])
        clipped["start"][0] += skipped
        clipped["tokens"][0] -= skipped
        clipped["tokens"][-1] -= int(stops[last]) - end
    return clipped


def _check_content(pieces: NDArray[Any], domains: Sequence[DomainTokens] | None, stem: str) -> None:
    """Raise `ShardError` if there is a store without the documents that the provenance names."""
    for number, domain in enumerate(domains or ()):
        rows = pieces[pieces["domain"] == number]
        documents = rows["document"]
        if len(rows) and (
            documents.max() >= len(domain)
            or not np.array_equal(domain.content_high[documents], rows["content"])
            or np.any(rows["tokens"] > domain.tokens[documents] - rows["start"])
        ):
            raise ShardError(
                f"{stem}: the documents of '{domain.name}' in the token store are not those that "
                "were written; build again"
            )


def _windows(pieces: NDArray[Any], start: int, manifest: Manifest) -> NDArray[np.int64]:
    """Count tokens by window and domain; a piece counts where it begins."""
    begins = start + np.cumsum(pieces["tokens"]) - pieces["tokens"]
    window = np.minimum(begins * WINDOWS // manifest.budget_tokens, WINDOWS - 1)
    size = WINDOWS * len(manifest.domains)
    flat = np.bincount(window * len(manifest.domains) + pieces["domain"], pieces["tokens"], size)
    return flat.astype(np.int64).reshape(WINDOWS, len(manifest.domains))
