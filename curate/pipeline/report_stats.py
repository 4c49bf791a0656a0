"""The `stats` command: `stats.json`, and on request `entropy_report.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curate.pipeline.artifacts import notice_bad_records, origin, stats_fields, write_stats
from curate.pipeline.check import check_names
from curate.pipeline.measure import TextEvidence, recall
from curate.pipeline.resume import notice_other_documents, writable_artifacts
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.recipe import LoadedRecipe
from curate.runtime.progress import Observer, write_artifact


def report_stats(
    loaded: LoadedRecipe, workers: int, observer: Observer, *, intervals: bool, compare: bool
) -> dict[str, Any]:
    """Tokenise and count every domain, and write `stats.json`.

    Args:
        loaded: The recipe.
        workers: Number of processes.
        observer: Receives progress and warnings.
        intervals: Whether to estimate bias-corrected entropies with 95 % intervals, too, and write
            `entropy_report.json`.
        compare: Whether that report also has the mixtures of the methods that need no runs;
            implies `intervals`.

    Returns:
        The fields of `stats.json`, and below `entropy_report` those of the report.

    Raises:
        CurateError: Any user-fixable error.
    """
    check_names(loaded)
    tokenized = tokenize_domains(loaded, workers, observer)
    fields = _write(loaded, tokenized, recall(loaded, tokenized, observer.notice), observer)
    if not intervals and not compare:
        return fields
    # Imported here: this loads methods that most calls do without.
    from curate.mixture.compare_methods import compare_mixtures, entropy_temperature
    from curate.pipeline.compare_entropies import entropy_entrants, measure_domains
    from curate.pipeline.mix import mixture_request

    measured = measure_domains(loaded, tokenized, workers, observer)
    fields = _write(loaded, tokenized, measured.evidence, observer)
    report = measured.to_json(fields)
    if compare:
        request = mixture_request(loaded, tokenized)
        report["comparison"] = {
            **compare_mixtures(
                entropy_entrants(measured, request),
                workers,
                lambda ended: observer.notice(ended.line),
            ),
            "temperature": entropy_temperature(request),
        }
    write_artifact(loaded.output_dir / "entropy_report.json", report, observer)
    return {**fields, "entropy_report": report}


def _write(
    loaded: LoadedRecipe,
    tokenized: TokenizedDomains,
    measured: Sequence[TextEvidence],
    observer: Observer,
) -> dict[str, Any]:
    """Write `stats.json` unless a dataset is there, with all that was measured so far."""
    fields = stats_fields(tokenized, measured, origin(loaded, tokenized))
    with writable_artifacts(loaded, observer) as writable:
        if writable:
            write_stats(loaded, tokenized, fields, observer)
        else:
            notice_other_documents(loaded, tokenized.content_hash, observer)
            notice_bad_records(tokenized, observer)
    return fields
