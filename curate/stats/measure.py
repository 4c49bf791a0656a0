"""Everything that is measured of domains without a model, at the same sample size for all.

`measure_domain` is one task for one worker; `compare` joins what the domains gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.stats.bigram_sample import PairCounts, draw_pairs
from curate.stats.divergence import js_matrix, pair_overlap
from curate.stats.embedding import load_encoder
from curate.stats.estimate import Estimate
from curate.stats.intervals import EntropyReport, convergence, entropy_report
from curate.stats.sampling import SamplePlan
from curate.stats.signals import (
    Compression,
    Duplicates,
    bits_per_byte,
    compression,
    duplicates,
    excerpt_texts,
    sample_texts,
    type_token_curve,
)
from curate.stats.von_neumann import NeumannReport, neumann_report, normalised_rows
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class DomainReport:
    """What was measured of one domain."""

    name: str
    plan: SamplePlan
    entropies: EntropyReport
    von_neumann: NeumannReport
    mean_embedding: NDArray[np.float64]
    """shape (dimension,), mean direction of the excerpts."""
    compression: Compression
    duplicates: Duplicates
    bytes_per_token: float
    types: list[tuple[int, int]]
    """Tokens, and distinct ones among them."""
    curve: list[dict[str, float]]
    """See `intervals.convergence`."""
    counts: PairCounts
    """The sample, for comparisons between domains."""

    def measure(self, name: str) -> Estimate:
        """`shannon`, `joint`, `conditional` or `von_neumann`, in nats."""
        if name == "von_neumann":
            return self.von_neumann.entropy
        found: Estimate = getattr(self.entropies, name)
        return found

    def to_json(self) -> dict[str, Any]:
        """The domain's entry in `entropy_report.json`."""
        entropy = {
            name: self.measure(name).to_json()
            for name in ("shannon", "joint", "conditional", "von_neumann")
        }
        entropy["von_neumann"] |= {
            "encoder": self.von_neumann.encoder,
            "sample_excerpts": self.von_neumann.documents,
            "vendi": self.von_neumann.vendi,
        }
        detail = self.entropies.detail
        entropy["conditional"] |= {
            "plugin": detail.plugin,
            "pairs_end": detail.ends.pairs,
            "lift_end": detail.ends.lift,
            "lift_share": detail.lift_share,
            "bursts": detail.bursts,
            "held_out": None if detail.held_out is None else detail.held_out.documents,
            "bits_per_byte": bits_per_byte(detail.nats, self.bytes_per_token),
        }
        return {
            "entropy": entropy,
            "bytes_per_token": self.bytes_per_token,
            "compression_ratio": self.compression.ratio,
            "compression": self.compression.to_json(),
            "duplicates": {
                "documents": self.duplicates.documents,
                "document_share": self.duplicates.document_share,
                "token_share": self.duplicates.token_share,
            },
            "type_token": [list(point) for point in self.types],
            "convergence": self.curve,
        }


def measure_domain(domain: DomainTokens, tokenizer: Tokenizer, plan: SamplePlan) -> DomainReport:
    """Measure one domain on the sample of the plan.

    Raises:
        RecipeError: The encoder cannot be loaded.
        InputError: No document is long enough to be embedded.
        ValueError: The domain has no text.
    """
    sample = draw_pairs(domain, tokenizer, plan.sample_tokens, plan.seed)
    texts = sample_texts(domain, tokenizer, plan.text_bytes, plan.seed)
    von_neumann, mean_embedding = excerpt_entropy(domain, tokenizer, plan)
    ended = len(domain) if tokenizer.eos_id is not None else 0
    return DomainReport(
        name=domain.name,
        plan=plan,
        entropies=entropy_report(sample),
        von_neumann=von_neumann,
        mean_embedding=mean_embedding,
        compression=compression(texts),
        duplicates=duplicates(domain),
        bytes_per_token=int(domain.text_bytes.sum()) / max(1, domain.total_tokens - ended),
        types=type_token_curve(sample),
        curve=convergence(sample),
        counts=sample.counts(sample.totals()),
    )


def token_entropies(domain: DomainTokens, tokenizer: Tokenizer, plan: SamplePlan) -> EntropyReport:
    """Entropies of a domain's tokens on the sample of the plan, and nothing else."""
    return entropy_report(draw_pairs(domain, tokenizer, plan.sample_tokens, plan.seed))


def excerpt_entropy(
    domain: DomainTokens, tokenizer: Tokenizer, plan: SamplePlan
) -> tuple[NeumannReport, NDArray[np.float64]]:
    """Von Neumann entropy of a domain's excerpts, and their mean direction.

    Raises:
        RecipeError: The encoder cannot be loaded.
        InputError: No document is long enough to be embedded.
    """
    embedding, block = _embed_excerpts(domain, tokenizer, plan)
    report = neumann_report(embedding, plan.encoder, block)
    return report, np.asarray(normalised_rows(embedding).mean(0))


def _embed_excerpts(
    domain: DomainTokens, tokenizer: Tokenizer, plan: SamplePlan
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Embeddings of excerpts of a domain's documents, and the document of each.

    Returns:
        Shapes (excerpts, dimension) and (excerpts,), documents numbered from 0; no row is zero.

    Raises:
        RecipeError: The encoder cannot be loaded.
        InputError: No document is long enough to be embedded.
    """
    texts, block = excerpt_texts(domain, tokenizer, plan.sample_excerpts, plan.seed)
    embedding = load_encoder(plan.encoder)(texts)
    # An excerpt too short for any n-gram has no direction.
    used = np.linalg.norm(embedding, axis=1) > 0
    if not used.any():
        raise InputError(
            f"domain '{domain.name}': none of its {len(domain):,} documents is long enough for "
            f"the encoder '{plan.encoder}'; leave the domain out, or use a mixture and a report "
            "without embeddings (mixture.measure: conditional, `curate stats` without --intervals)"
        )
    _, block = np.unique(block[used], return_inverse=True)
    return embedding[used], block


def compare(reports: Sequence[DomainReport]) -> dict[str, NDArray[np.float64]]:
    """Divergence and overlap of every two domains; domains of unequal samples are not compared.

    Returns:
        `js` and `pair_overlap`, shape (domains, domains) each; NaN where samples differ in size.
    """
    full = [
        number
        for number, report in enumerate(reports)
        if report.counts.tokens == report.plan.sample_tokens
    ]
    counts = [reports[number].counts for number in full]
    found = {}
    for name, matrix in (
        ("js", js_matrix([count.first_margin() for count in counts])),
        ("pair_overlap", pair_overlap(counts)),
    ):
        whole = np.full((len(reports), len(reports)), np.nan)
        whole[np.ix_(full, full)] = matrix
        found[name] = whole
    return found
