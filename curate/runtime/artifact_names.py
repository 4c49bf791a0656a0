"""Names by which a dataset of curate is recognised, whether it is read, written or passed over."""

from __future__ import annotations

ARTIFACTS = (
    "stats.json", "mixture.json", "law.json", "plan.json", "manifest.json", "certificate.json",
)  # fmt: skip
"""JSON files beside the shards; ours say which version of curate wrote them."""

CLUSTERS = "clusters.parquet"
"""Members of all clusters of copies."""

SPANS = "spans.parquet"
"""Passages of documents that match evaluation sets."""

NATS = "nats per token"
"""Unit, in files, of losses of curate's own runs, and of tables whose bits per byte tell."""

MARK = ".curate"
"""Name of the file in a dataset's directory that lists, without suffix, its files in folders. It
outlives them, so that whatever a killed build leaves is recognised as curate's."""
