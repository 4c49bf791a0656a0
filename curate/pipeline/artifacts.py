"""Write what several stages share: the origin of artifacts, `stats.json` and bad records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from curate import __version__
from curate.dataset.manifest import QUARANTINE, REMOVED
from curate.dataset.ownership import refuse_foreign
from curate.pipeline.check import weights_of
from curate.pipeline.measure import TextEvidence
from curate.pipeline.read_evidence import evidence_hash
from curate.pipeline.tokenize import TokenizedDomains
from curate.recipe import LoadedRecipe
from curate.runtime.artifact_names import CLUSTERS, SPANS
from curate.runtime.files import atomic_path, hash_file, hash_json
from curate.runtime.progress import Observer, write_artifact
from curate.runtime.registry import counted


def write_stats(
    loaded: LoadedRecipe, tokenized: TokenizedDomains, fields: dict[str, Any], observer: Observer
) -> None:
    """Write `stats.json`, and the lists of bad records and of removed documents.

    Args:
        loaded: The recipe.
        tokenized: Its domains.
        fields: The fields of `stats.json`, from `stats_fields`.
        observer: Receives a notice of bad records.

    Raises:
        ShardError: The directory holds files of these names that curate did not write.
    """
    refuse_foreign(loaded.output_dir)
    write_artifact(loaded.output_dir / "stats.json", fields, observer)
    _write_removed(loaded, tokenized, observer)
    path = loaded.output_dir / QUARANTINE
    path.unlink(missing_ok=True)
    if not any(stats.bad_records for stats in tokenized.stats):
        return
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for domain in tokenized.domains:
            for source, line, reason, excerpt in domain.bad_record_rows():
                row = {"domain": domain.name, "file": source, "line": line, "reason": reason,
                       "excerpt": excerpt}  # fmt: skip
                file.write(msgspec.json.encode(row) + b"\n")
    notice_bad_records(tokenized, observer, f": see {path}")


def _write_removed(loaded: LoadedRecipe, tokenized: TokenizedDomains, observer: Observer) -> None:
    """Write what curation removed, and the clusters and spans that it went by."""
    path = loaded.output_dir / REMOVED
    for name in (REMOVED, CLUSTERS, SPANS):
        (loaded.output_dir / name).unlink(missing_ok=True)
    if tokenized.curation is None:
        return
    from curate.curation.removed import copy_rows, write_removed  # here, since it imports Arrow

    for name, content in ((CLUSTERS, "clusters of copies"), (SPANS, "matches of evaluation sets")):
        if copy_rows(tokenized.curation, name, loaded.output_dir / name):
            observer.notice(f"{content}: see {loaded.output_dir / name}")
    removed = write_removed(tokenized.curation, loaded.recipe.domains, path)
    if removed:
        observer.notice(f"{counted(removed, 'document')} removed: see {path}")


def notice_bad_records(tokenized: TokenizedDomains, observer: Observer, where: str = "") -> None:
    """Say how many bad records there are, if any.

    Args:
        tokenized: The domains.
        observer: Receives the notice.
        where: End of the notice, which says where they are listed.
    """
    bad_records = sum(stats.bad_records for stats in tokenized.stats)
    if bad_records:
        observer.notice(f"{counted(bad_records, 'bad record')}{where}")


def stats_fields(
    tokenized: TokenizedDomains, measured: Sequence[TextEvidence], inputs: dict[str, Any]
) -> dict[str, Any]:
    """Return the fields of `stats.json`.

    Args:
        tokenized: Documents, counts and plug-in entropies.
        measured: shape (domains,), entropies with intervals, from this or an earlier run; they
            replace the plug-in ones, which are kept in fields of their own.
        inputs: The fields that `origin` returns; making them hashes the files of evidence.
    """
    domains = {
        stats.name: stats.to_json(evidence.entropy)
        for stats, evidence in zip(tokenized.stats, measured, strict=True)
    }
    backend = {"backend": tokenized.backend, "tokenizer": tokenized.tokenizer.name}
    return {**inputs, **backend, "domains": domains}


def origin(loaded: LoadedRecipe, tokenized: TokenizedDomains) -> dict[str, Any]:
    """Return the fields that every artifact starts with: versions and hashes of the inputs."""
    evidence = evidence_hash(loaded)
    mixture = loaded.recipe.mixture
    weights = hash_json(weights_of(loaded)) if isinstance(mixture.weights, str) else None
    keep = hash_file(loaded.base / mixture.keep) if isinstance(mixture.keep, str) else None
    return {
        "schema": 1,
        "curate_version": __version__,
        "recipe_hash": loaded.hash,
        "inputs": {
            "documents": tokenized.content_hash,
            "tokenizer": tokenized.tokenizer.fingerprint,
            **({} if evidence is None else {"evidence": evidence}),
            **({} if weights is None else {"weights": weights}),
            **({} if keep is None else {"keep": keep}),
            **(
                {}
                if tokenized.stage is None
                else {"earlier_stages": hash_json(tokenized.stage.to_json())}
            ),
        },
    }
