"""Read a dataset back, compare it with its plan, and record the result in a certificate.

Checks: every file, the plan included, has the bytes that the manifest states; the format's own
reader yields as many tokens as the provenance accounts for; every token equals that of the document
it is said to come from (where the token store is available); tokens of each domain equal the plan;
no training document has the content hash of a validation document. The certificate also states how
far the mixture strays in windows of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.dataset.certificate import WINDOWS, ShardCheck, certify
from curate.dataset.manifest import (
    MARK,
    SPLITS,
    FileRecord,
    Manifest,
    ShardOnDisk,
    ShardRecord,
    is_reader_cache,
    load_manifest,
    read_provenance,
)
from curate.dataset.write_text import check_text
from curate.errors import InputError, ShardError
from curate.formats.base import BEST_FIT, CONCAT, WHOLE, TokenFormat
from curate.formats.trainer_files import DIRECTORY as TRAINER
from curate.plan import PAD, TokenCopier
from curate.plan.packing import tally
from curate.plan.per_domain import MIXED
from curate.runtime.files import hash_file, read_json, write_json
from curate.runtime.workers import map_tasks
from curate.tokens.domain import DomainTokens


def verify(
    directory: Path,
    domains: Sequence[DomainTokens] | None,
    workers: int,
    on_tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Check a dataset and write `certificate.json`.

    Args:
        directory: Directory of the dataset.
        domains: Its domains in the token store, whose parts have been checked, in the manifest's
            order; None: the store is not available, and files are only compared with their hashes.
        workers: Number of processes.
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
    damage: list[str] = []
    for file in [*manifest.folder_files, *([manifest.plan] if manifest.plan else [])]:
        _check_file(directory, file, damage)
    certificate = certify(manifest, plan, checks, [*damage, *_unlisted(directory, manifest)])
    write_json(directory / "certificate.json", certificate)
    return certificate


def _unlisted(directory: Path, manifest: Manifest) -> list[str]:
    """List files among the shards that a trainer would read though the manifest lacks them."""
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
    content: dict[str, Any] = plan
    return content


def _shard_starts(manifest: Manifest) -> list[int]:
    """Return the position of each training shard's first token in the dataset; 0 for others."""
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
    result = ShardCheck()
    for file in [*shard.files, shard.provenance]:
        _check_file(directory, file, result.problems)
    try:  # a shard with damaged files is still read as far as possible
        pieces = read_provenance(directory / shard.provenance.path)
        output_format = manifest.configured()
        on_disk = ShardOnDisk(directory, manifest, shard, pieces)
        if isinstance(output_format, TokenFormat):
            _check_tokens(on_disk, output_format, domains, result)
        else:
            check_text(on_disk, output_format, result.problems)
            _check_content(pieces, domains, shard.stem)
            result.content_checked = True
    except ShardError as error:
        result.problems.append(str(error))
        return result
    rows = _row_tokens(pieces, manifest)
    result.tally = tally(pieces, len(rows))
    if manifest.packing != CONCAT:
        pieces = pieces[pieces["domain"] != PAD]
    if len(pieces) and pieces["domain"].max() >= len(manifest.domains):
        result.problems.append(f"{shard.provenance.path}: names a domain that is not there")
        return result
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
    return np.array([sequence_length] * whole + [rest] * (rest > 0), np.int64)


def _check_file(directory: Path, file: FileRecord, problems: list[str]) -> None:
    path = directory / file.path
    if not path.is_file():
        problems.append(f"{file.path}: missing")
    elif path.stat().st_size != file.bytes:
        problems.append(f"{file.path}: {path.stat().st_size} bytes, the manifest says {file.bytes}")
    elif hash_file(path) != file.xxh3:
        problems.append(f"{file.path}: content differs from the manifest's hash")


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
        if len(rows) and (
            rows["document"].max() >= len(domain)
            or not np.array_equal(domain.content_high[rows["document"]], rows["content"])
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
