"""Train a byte-level BPE on a balanced sample of the domains.

The sample consists of the documents with the smallest content hashes, about equally many characters
from each domain, so it depends only on content, not on how files are cut or named. The `tokenizers`
library trains; its result is kept in the cache under the hash of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import xxhash

from curate.errors import TokenizerError
from curate.runtime.files import hash_bytes, hash_json
from curate.runtime.progress import Observer
from curate.runtime.sealed import read_cached, write_sealed
from curate.runtime.workers import map_tasks
from curate.sources import SegmentReader
from curate.sources.plans import FilePlan
from curate.tokens.backends import installed
from curate.tokens.tokenizer import Tokenizer, from_json

END_OF_TEXT = "<|endoftext|>"

SCHEMA = 2
"""Version of the cached files."""

EXCERPT_CHARACTERS = 1 << 16
"""Most characters of one document, so that a long one cannot fill the sample alone."""

REMEDY = "the tokenizer is trained again"

Candidate = tuple[bytes, str]
"""Content hash of a document, and its beginning."""


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """Settings of a tokenizer to train."""

    vocab_size: int
    sample_bytes: int
    eos: str
    cache: Path


def train(
    request: TrainRequest, domains: Sequence[Sequence[FilePlan]], workers: int, observer: Observer
) -> Tokenizer:
    """Train a tokenizer, or reuse one trained on the same files or the same sample.

    Args:
        request: Vocabulary, sample and cache.
        domains: The plans of each domain's files.
        workers: Number of processes.
        observer: Receives progress.

    Raises:
        TokenizerError: The sample is too small for the vocabulary.
    """
    version = [SCHEMA, installed("tokenizers")]
    settings = [request.vocab_size, request.sample_bytes, request.eos, *version]
    files = [sorted(key for plan in plans for key in plan.keys) for plans in domains]
    directory = request.cache / "trained"
    pointer = directory / f"files-{hash_json([files, settings])[:24]}"
    name = f"byte-level BPE trained on {len(domains)} domains"
    definition = _cached(pointer, observer)
    if definition is None:
        observer.begin("train tokenizer")
        sample = _balanced_sample(domains, request.sample_bytes, workers)
        trained = directory / f"bpe-{hash_bytes(*sample, hash_json(settings).encode())[:24]}.json"
        definition = read_cached(trained, REMEDY, observer.notice)
        if definition is None:
            definition = _train(request, [text.decode() for text in sample])
            write_sealed(trained, definition)
        write_sealed(pointer, trained.name.encode())
        observer.end(f"{sum(map(len, sample)) / 1e6:.1f} MB of text")
    return from_json(definition, request.eos, name)


def _cached(pointer: Path, observer: Observer) -> bytes | None:
    """Read the definition that a pointer names; None if it must be trained."""
    trained = read_cached(pointer, REMEDY, observer.notice)
    if trained is None:
        return None
    return read_cached(pointer.parent / trained.decode(), REMEDY, observer.notice)


def _balanced_sample(
    domains: Sequence[Sequence[FilePlan]], sample_bytes: int, workers: int
) -> list[bytes]:
    """Sample beginnings of documents, equally many characters from each domain that has enough."""
    room = -(-sample_bytes // len(domains))
    owners: list[int] = []
    groups: list[list[FilePlan]] = []
    for number, plans in enumerate(domains):
        for start in range(min(workers, len(plans))):
            owners.append(number)
            groups.append(list(plans[start::workers]))
    pools = map_tasks(partial(_smallest_hashes, room), groups, workers)
    sample: list[bytes] = []
    for number in range(len(domains)):
        pool: set[Candidate] = set()
        for owner, candidates in zip(owners, pools, strict=True):
            pool.update(candidates if owner == number else ())
        sample += [text.encode() for _, text in _take(sorted(pool), room)]
    return sample


def _smallest_hashes(room: int, plans: Sequence[FilePlan]) -> list[Candidate]:
    """Return the documents with the smallest content hashes, up to `room` characters."""
    kept: list[Candidate] = []
    fresh = 0
    for texts in _texts(plans):
        kept += [
            (xxhash.xxh3_128_digest(text.encode()), text[:EXCERPT_CHARACTERS]) for text in texts
        ]
        fresh += sum(min(len(text), EXCERPT_CHARACTERS) for text in texts)
        if fresh > 2 * room:  # drop those that can no longer be among the smallest
            kept = _take(sorted(set(kept)), room)
            fresh = 0
    return _take(sorted(set(kept)), room)


def _texts(plans: Sequence[FilePlan]) -> Iterator[list[str]]:
    reader = SegmentReader()
    for plan in plans:
        segment = 0
        ended = False
        while not ended and (plan.count is None or segment < plan.count):
            for block in reader.read(plan.segment(segment)):
                yield block.texts
                ended = block.end_of_file
            segment += 1


def _take(ordered: Sequence[Candidate], room: int) -> list[Candidate]:
    """Take the first documents that fill `room` characters."""
    taken: list[Candidate] = []
    for candidate in ordered:
        if room <= 0:
            break
        taken.append(candidate)
        room -= len(candidate[1])
    return taken


def _train(request: TrainRequest, sample: list[str]) -> bytes:
    from tokenizers import Tokenizer as Trainable
    from tokenizers import decoders, models, pre_tokenizers, trainers

    model = Trainable(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=request.vocab_size,
        special_tokens=[request.eos],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(sample, trainer)
    learned = model.get_vocab_size()
    if learned < request.vocab_size:
        raise TokenizerError(
            f"tokenizer.train.vocab_size: the sample of {sum(map(len, sample)):,} characters "
            f"gives {learned:,} tokens, not {request.vocab_size:,}; set it to at most {learned:,}, "
            "or raise tokenizer.train.sample_bytes"
        )
    definition: str = model.to_str()
    return definition.encode()
