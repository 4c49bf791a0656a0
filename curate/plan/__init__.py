"""Which tokens go into the dataset, and in which order.

Two independent choices, both by keyed hashes of documents, so neither depends on file layout,
workers or other domains:

* *Selection.* Each domain is one stream: its training documents in the order of a keyed hash. A
  domain's share is a prefix of that stream, repeated in whole passes where it needs more than one,
  so a smaller budget is a subset of a larger one. The last document is cut to hit the number.
* *Order.* Samples (documents, or sequences of fixed length) of a domain are permuted within each
  pass and spread evenly over the dataset: the j-th of n sits at a keyed place in the j-th of n
  equal strata. Merging the domains by place keeps the mixture true in every window, not only in
  total. Fixed-length sequences are permuted by a keyed bijection, without memory in their number.

A shard is the samples whose place falls into its stretch of the dataset, so shards are made
independently of each other.
"""

from __future__ import annotations

from curate.plan.copy_tokens import TokenCopier, copy_runs
from curate.plan.documents import DocumentSampler
from curate.plan.sequences import SequenceSampler
from curate.plan.streams import (
    PAD,
    PIECE,
    DocumentStream,
    Samples,
    epoch_seed,
    permute,
    shard_count,
    stream,
)

__all__ = [
    "PAD",
    "PIECE",
    "DocumentSampler",
    "Samples",
    "SequenceSampler",
    "DocumentStream",
    "TokenCopier",
    "copy_runs",
    "epoch_seed",
    "permute",
    "shard_count",
    "stream",
]
