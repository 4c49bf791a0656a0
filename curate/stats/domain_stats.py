"""Documents, bytes, tokens and entropies of one domain, the fields of `stats.json`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.runtime.memory import blocks
from curate.stats import STATISTICS
from curate.stats.copies import is_among, repeated_documents
from curate.stats.entropy import Entropies
from curate.stats.estimate import Estimate
from curate.stats.losses import DomainLosses
from curate.tokens.domain import DomainTokens


class Amounts(NamedTuple):
    """Documents, bytes and tokens; of bad records, records and bytes on disk, no tokens."""

    documents: int
    bytes: int
    tokens: int

    def plus(self, other: Amounts) -> Amounts:
        """Add each field."""
        return Amounts(*map(operator.add, self, other))

    def minus(self, other: Amounts) -> Amounts:
        """Subtract each field."""
        return Amounts(*map(operator.sub, self, other))


def amounts_where(
    domain: DomainTokens, is_selected: Callable[[slice], NDArray[np.bool_]]
) -> Amounts:
    """Count selected documents.

    Args:
        domain: Domain in the store.
        is_selected: Returns, for a range of documents, which of them are.
    """
    documents = text_bytes = tokens = 0
    for rows in blocks(len(domain)):
        selected = is_selected(rows)
        documents += int(np.count_nonzero(selected))
        text_bytes += int(domain.text_bytes[rows][selected].sum())
        tokens += int(domain.tokens[rows][selected].sum())
    return Amounts(documents, text_bytes, tokens)


@dataclass(frozen=True, slots=True)
class DomainStats:
    """Counts and entropies of one domain; tokens include end-of-text tokens unless stated.

    Documents that curation removed count nowhere but in `removed` and `amounts`.
    """

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
    bytes_validation: int
    losses: DomainLosses
    copies: Amounts
    """Documents whose text another domain holds, too."""
    repeats: Amounts
    """Documents whose text another document of the domain has, but for the first of each text."""
    entropies: Entropies
    """Over all documents, training and validation."""
    removed: Mapping[str, Amounts] = field(default_factory=dict)
    """Amounts that curation removed, by reason; empty where the recipe removes nothing."""

    @property
    def amounts(self) -> dict[str, Amounts]:
        """Documents, bytes and tokens by what becomes of them; `read` is the sum of all others."""
        bad = Amounts(self.losses.lost_records, self.losses.lost_bytes, 0)
        held_out = Amounts(self.documents_validation, self.bytes_validation, self.tokens_validation)
        documents = Amounts(self.documents, self.bytes, self.tokens)
        return {
            "read": reduce(Amounts.plus, self.removed.values(), documents.plus(bad)),
            "bad": bad,
            **self.removed,
            "held_out": held_out,
            "train": documents.minus(held_out),
        }

    def amounts_used(self, used: Amounts) -> dict[str, dict[str, int]]:
        """Return the amounts with `used` and `unused` in place of `train`, for JSON.

        Args:
            used: Training documents that a dataset holds, each counted once.
        """
        amounts = self.amounts
        train = amounts.pop("train")
        amounts |= {"used": used, "unused": train.minus(used)}
        return {reason: amount._asdict() for reason, amount in amounts.items()}

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
            "amounts": {reason: amount._asdict() for reason, amount in self.amounts.items()},
            "lost": self.losses.to_json(),
            "copies_in_domain": self.repeats._asdict(),
            "copies_in_other_domains": self.copies._asdict(),
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
    domain: DomainTokens,
    validation: NDArray[np.bool_],
    counted: Entropies,
    losses: DomainLosses,
    shared: NDArray[np.uint64],
) -> DomainStats:
    """Gather the numbers of one domain.

    Args:
        domain: Domain in the store.
        validation: shape (documents,), true where a document is held out.
        counted: Entropies from the counts of all its tokens.
        losses: What gave no document.
        shared: Texts that several domains hold, see `shared_documents`.
    """
    held_out = amounts_where(domain, validation.__getitem__)
    copies = Amounts(0, 0, 0)
    if len(shared):
        copies = amounts_where(domain, lambda rows: is_among(domain.content_high[rows], shared))
    return DomainStats(
        name=domain.name,
        files=len(domain.files),
        documents=len(domain),
        documents_validation=held_out.documents,
        bytes=domain.total_bytes,
        tokens=domain.total_tokens,
        tokens_train=domain.total_tokens - held_out.tokens,
        tokens_validation=held_out.tokens,
        bad_records=domain.bad_records,
        bytes_validation=held_out.bytes,
        losses=losses,
        copies=copies,
        repeats=amounts_where(domain, partial(repeated_documents, domain)),
        entropies=counted,
    )
