"""One statistic of a domain's text, and the samples that statistics are measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.runtime.registry import counted
from curate.stats.estimate import Estimate

if TYPE_CHECKING:  # these load compiled code, which commands that only need names avoid
    from curate.stats.bigram_sample import PairCounts, PairSample
    from curate.stats.entropy import Entropies
    from curate.stats.intervals import EntropyReport
    from curate.stats.sampling import SamplePlan
    from curate.stats.signals import Compression
    from curate.stats.von_neumann import NeumannReport
    from curate.tokens.domain import DomainTokens
    from curate.tokens.tokenizer import Tokenizer

TOKENS: Literal["tokens"] = "tokens"
"""Windows of tokens with their successors, in keyed order; see `bigram_sample.draw_pairs`."""

EXCERPTS: Literal["excerpts"] = "excerpts"
"""Embedded excerpts of documents, in keyed order."""

TEXT: Literal["text"] = "text"
"""Whole documents decoded to UTF-8, in keyed order."""

DOCUMENTS: Literal["documents"] = "documents"
"""Every document of the domain; nothing is sampled."""

SampleKind = Literal["tokens", "excerpts", "text", "documents"]


@dataclass(frozen=True)
class DomainSample:
    """Samples of one domain, each drawn when a statistic first needs it and then shared."""

    domain: DomainTokens
    tokenizer: Tokenizer
    plan: SamplePlan

    @cached_property
    def pairs(self) -> PairSample:
        """Sampled tokens with their successors."""
        from curate.stats.bigram_sample import draw_pairs

        return draw_pairs(self.domain, self.tokenizer, self.plan.sample_tokens, self.plan.seed)

    @cached_property
    def counts(self) -> PairCounts:
        """Counts of the pairs of the whole token sample."""
        return self.pairs.counts(self.pairs.totals())

    @cached_property
    def token_entropies(self) -> EntropyReport:
        """Shannon, joint and conditional entropy, which share one pass over the token sample."""
        from curate.stats.intervals import entropy_report

        return entropy_report(self.pairs)

    @cached_property
    def compression(self) -> Compression:
        """Compression of the sampled text.

        Raises:
            ValueError: The domain has no text.
        """
        from curate.stats.signals import compression, sample_texts

        plan = self.plan
        return compression(sample_texts(self.domain, self.tokenizer, plan.text_bytes, plan.seed))

    @cached_property
    def excerpts(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Embeddings, shape (excerpts, dimension), and the document of each, shape (excerpts,).

        Documents are numbered from 0; no row is zero.

        Raises:
            InputError: No document is long enough to be embedded.
        """
        from curate.stats.embedding import hashed_ngrams
        from curate.stats.signals import excerpt_texts

        plan = self.plan
        texts, block = excerpt_texts(self.domain, self.tokenizer, plan.sample_excerpts, plan.seed)
        embedding = hashed_ngrams(texts)
        # The embedding of an excerpt too short for any n-gram is zero and has no direction.
        used = np.linalg.norm(embedding, axis=1) > 0
        if not used.any():
            raise InputError(
                f"domain '{self.domain.name}': none of its {counted(len(self.domain), 'document')} "
                f"is long enough for the encoder '{plan.encoder}'; leave the domain out, or use a "
                "mixture and a report without embeddings (mixture.measure: conditional, "
                "`curate stats` without --intervals)"
            )
        _, block = np.unique(block[used], return_inverse=True)
        return embedding[used], block

    @cached_property
    def von_neumann(self) -> NeumannReport:
        """Von Neumann entropy of the excerpts."""
        from curate.stats.von_neumann import neumann_report

        embedding, block = self.excerpts
        return neumann_report(embedding, self.plan.encoder, block)

    @cached_property
    def mean_embedding(self) -> NDArray[np.float64]:
        """Mean direction of the excerpts, shape (dimension,)."""
        from curate.stats.von_neumann import normalised_rows

        return np.asarray(normalised_rows(self.excerpts[0]).mean(0))

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text for each token of text; end-of-text tokens do not count."""
        domain = self.domain
        ended = len(domain) if self.tokenizer.eos_id is not None else 0
        return domain.total_bytes / max(1, domain.total_tokens - ended)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The value of one statistic on one domain."""

    json: Any
    """Its value in `entropy_report.json`: plain numbers, lists and mappings."""
    estimate: Estimate | None = None
    """The value, nats, with its interval; every entropy has one."""
    plugin: float | None = None
    """Nats, same sample, no bias correction; None if `Statistic.count` gives it for all tokens."""


def entropy_measurement(
    estimate: Estimate, details: Mapping[str, Any], plugin: float | None = None
) -> Measurement:
    """Wrap an entropy with further fields for `entropy_report.json`.

    Args:
        estimate: The entropy in nats, with its interval.
        details: Further fields of the report, by name.
        plugin: Nats, without bias correction, for `mixture.estimator: plugin`; None if
            `Statistic.count` gives it from the counts of all tokens.
    """
    return Measurement({**estimate.to_json(), **details}, estimate, plugin)


@dataclass(frozen=True, slots=True)
class Column:
    """One number of a statistic in the terminal's tables."""

    heading: str
    path: tuple[str | int, ...] = ()
    """Keys that lead to the number in the statistic's JSON."""
    style: str = ".3f"
    """Format specification of a plain number."""
    nats: bool = False
    """Whether the number is in nats, which tables show as bits."""
    interval: bool = False
    """Whether it is an estimate, which tables show as bits ± half of its interval."""
    per_byte: bool = False
    """Whether nats per token are divided by the domain's bytes per token."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """A row of `STATISTICS`: everything that curate knows about one statistic.

    Entropies can be named in `mixture.measure` and are written below `entropy` of a domain in
    `entropy_report.json`; other statistics are written beside it.
    """

    name: str
    summary: str
    unit: str
    """Unit of the value in JSON."""
    sample: SampleKind
    """The sample it is measured on."""
    estimator: str
    """Name of the estimator in the report."""
    paper: str
    """Short citation, or `no paper`."""
    measure: Callable[[DomainSample], Measurement]
    entropy: bool = False
    """Whether the value is an entropy in nats, with an estimate."""
    count: Callable[[Entropies], float] | None = None
    """Plug-in value, nats, from the counts of all tokens; None if counts do not determine it."""
    label: str = ""
    """Short name of an entropy in tables; if empty, `name` is shown."""
    columns: tuple[Column, ...] = ()
    """Columns in tables; a column with the estimate of an entropy comes before them."""

    @property
    def shown(self) -> tuple[Column, ...]:
        """All columns in tables."""
        if not self.entropy:
            return self.columns
        return (Column(self.label or self.name, interval=True), *self.columns)
