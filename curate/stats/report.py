"""`stats.json`: what each domain holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.stats.entropy import MEASURES, Entropies
from curate.tokens.store import DomainTokens


@dataclass(frozen=True, slots=True)
class DomainStats:
    """What one domain holds; tokens count end-of-text tokens unless said otherwise."""

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

    def to_json(self) -> dict[str, Any]:
        """One value of `domains` in `stats.json`."""
        found = self.entropies
        return {
            "files": self.files,
            "documents": self.documents,
            "documents_validation": self.documents_validation,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "tokens_train": self.tokens_train,
            "tokens_validation": self.tokens_validation,
            "bad_records": self.bad_records,
            "vocabulary_used": found.vocabulary_used,
            "bigrams_used": found.bigrams_used,
            "bytes_per_token": self.bytes_per_token,
            "entropy": {
                measure: {
                    "nats": getattr(found, measure),
                    "low": None,
                    "high": None,
                    "estimator": "plugin",
                    "sample_tokens": found.tokens,
                }
                for measure in MEASURES
            },
        }


def domain_stats(
    domain: DomainTokens, validation: np.ndarray[Any, np.dtype[np.bool_]], found: Entropies
) -> DomainStats:
    """Gather the numbers of one domain.

    Args:
        domain: The domain.
        validation: shape (documents,), which are held out.
        found: Its entropies.
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
        entropies=found,
    )
