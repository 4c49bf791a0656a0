"""Documents, bytes, tokens and entropies of one domain, the fields of `stats.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.stats import STATISTICS
from curate.stats.entropy import Entropies
from curate.stats.estimate import Estimate
from curate.tokens.domain import DomainTokens


@dataclass(frozen=True, slots=True)
class DomainStats:
    """Counts and entropies of one domain; tokens include end-of-text tokens unless stated."""

    name: str
    files: int
    documents: int
    documents_validation: int
    bytes: int
    """UTF-8 bytes of text."""
    tokens: int
    tokens_train: int
    tokens_validation: int
    bad_records: int
    entropies: Entropies
    """Over all documents, training and validation."""

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text for each token of text; end-of-text tokens do not count."""
        return self.bytes / self.entropies.tokens if self.entropies.tokens else 0.0

    def to_json(self, measured: Mapping[str, Estimate] | None = None) -> dict[str, Any]:
        """Return the domain's entry in `stats.json`.

        Args:
            measured: Entropies with intervals, by measure; they replace the plug-in ones.
        """
        plugin = plugin_entropies(self.entropies)
        return {
            "files": self.files,
            "documents": self.documents,
            "documents_validation": self.documents_validation,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "tokens_train": self.tokens_train,
            "tokens_validation": self.tokens_validation,
            "bad_records": self.bad_records,
            "vocabulary_used": self.entropies.vocabulary_used,
            "bigrams_used": self.entropies.bigrams_used,
            "bytes_per_token": self.bytes_per_token,
            "entropy": {
                **{name: self._plugin(nats) for name, nats in plugin.items()},
                **{
                    name: _measured(estimate, plugin.get(name))
                    for name, estimate in (measured or {}).items()
                },
            },
        }

    def _plugin(self, nats: float) -> dict[str, Any]:
        return {"nats": nats, "low": None, "high": None, "estimator": "plugin",
                "sample_tokens": self.entropies.tokens, "plugin": nats}  # fmt: skip


def plugin_entropies(counted: Entropies) -> dict[str, float]:
    """Return the plug-in entropies, nats, that exact counts of all tokens give."""
    return {name: row.count(counted) for name, row in STATISTICS.items() if row.count is not None}


def _measured(estimate: Estimate, plugin: float | None) -> dict[str, Any]:
    """Return the fields of a measured entropy, with the plug-in of all tokens if there is one."""
    return {"nats": estimate.nats, "low": estimate.low, "high": estimate.high,
            "estimator": estimate.estimator, "sample_tokens": estimate.sample_tokens,
            "plugin": plugin}  # fmt: skip


def domain_stats(
    domain: DomainTokens, validation: np.ndarray[Any, np.dtype[np.bool_]], counted: Entropies
) -> DomainStats:
    """Gather the numbers of one domain.

    Args:
        domain: Domain in the store.
        validation: shape (documents,), true where a document is held out.
        counted: Entropies from the counts of all its tokens.
    """
    held_out = int(domain.tokens[validation].sum())
    return DomainStats(
        name=domain.name,
        files=len(domain.files),
        documents=len(domain),
        documents_validation=int(validation.sum()),
        bytes=int(domain.text_bytes.sum()),
        tokens=domain.total_tokens,
        tokens_train=domain.total_tokens - held_out,
        tokens_validation=held_out,
        bad_records=domain.bad_records,
        entropies=counted,
    )
