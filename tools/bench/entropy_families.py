"""Coverage of the conditional entropy's 95 % intervals on four families of sources.

* `successors`: each token has k successors (a Markov chain).
* `backoff`: P(y | x) = (1 - l) Zipf(y) + l Zipf(rank of y in x's own list of successors).
* `bursty`: each document draws its own frequencies from a Dirichlet law, then tokens from those.
* `independent`: tokens are drawn from a Zipf law.

The dummy is the plug-in with a bootstrap interval over documents; it must fail on each family.
Constants of `curate.stats.intervals` were fitted on trials below 1000, and once more after a look
at trials below 1100, so trials start at 2000. Run as
`python tools/bench/entropy_families.py --trials 100 --tokens 1e5`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from entropy import Source, draw, markov_source, zipf_source
from numpy.typing import NDArray

from curate.runtime.workers import map_tasks
from curate.stats.bigram_sample import PairSample, pair_sample
from curate.stats.conditional import conditional_plugin
from curate.stats.intervals import entropy_report

RESAMPLES = 20
"""Bootstrap resamples of the dummy."""

DOCUMENT_TOKENS = (50, 501)
"""Range of the mean length of a document."""


@dataclass(frozen=True)
class Text:
    """A sample with the conditional entropy of the source that it was drawn from."""

    sample: PairSample
    conditional: float
    """Nats per token, the end of a document included."""


def border(document_tokens: int) -> float:
    """Entropy of whether a document ends, for geometric lengths."""
    end = 1 / document_tokens
    return -end * math.log(end) - (1 - end) * math.log(1 - end)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> int:
    return int(np.exp(rng.uniform(math.log(low), math.log(high))))


def successors(tokens: int, rng: np.random.Generator) -> Text:
    source = markov_source(
        log_uniform(rng, 1000, 50_000),
        log_uniform(rng, 5, 100),
        float(rng.choice([0.0, 1.0])),
        int(rng.integers(*DOCUMENT_TOKENS)),
        int(rng.integers(1 << 30)),
    )
    return Text(draw(source, tokens, rng), source.conditional)


def independent(tokens: int, rng: np.random.Generator) -> Text:
    source = zipf_source(
        log_uniform(rng, 1000, 50_000), rng.uniform(1.0, 1.5), int(rng.integers(*DOCUMENT_TOKENS))
    )
    return Text(draw(source, tokens, rng), source.conditional)


def zipf(symbols: int, exponent: float) -> NDArray[np.float64]:
    power: NDArray[np.float64] = 1 / np.arange(1, symbols + 1) ** exponent
    return power / power.sum()


def backoff(tokens: int, rng: np.random.Generator) -> Text:
    symbols = log_uniform(rng, 500, 3000)
    shape = rng.uniform(0.1, 0.9), rng.uniform(0.8, 1.3), rng.uniform(0.8, 1.5)
    return backoff_text(symbols, shape, int(rng.integers(*DOCUMENT_TOKENS)), tokens, rng)


def backoff_text(
    symbols: int,
    shape: tuple[float, float, float],
    document_tokens: int,
    tokens: int,
    rng: np.random.Generator,
) -> Text:
    """Shape: share l of the own list, exponents of the common law and of the own lists."""
    share, exponent, inner = shape
    common, ranked = zipf(symbols, exponent), zipf(symbols, inner)
    # row x holds x's successors by rank; the inverse permutation gives the rank of each
    listed = np.argsort(rng.random((symbols, symbols)), axis=1)
    chance = np.empty((symbols, symbols))
    np.put_along_axis(chance, listed, np.broadcast_to(ranked, chance.shape), axis=1)
    chance = (1 - share) * common + share * chance
    stationary = common
    for _ in range(500):
        following = stationary @ chance
        moved = np.abs(following - stationary).sum()
        stationary = following
        if moved < 1e-8:
            break
    rate = -float((stationary * (chance * np.log(chance)).sum(1)).sum())
    end = 1 / document_tokens
    source = Source("backoff", stationary, listed, chance, document_tokens)
    sample = _chain(source, common, ranked, share, tokens, rng)
    return Text(sample, border(document_tokens) + (1 - end) * rate)


def _chain(  # noqa: PLR0913
    source: Source,
    common: NDArray[np.float64],
    ranked: NDArray[np.float64],
    share: float,
    tokens: int,
    rng: np.random.Generator,
) -> PairSample:
    assert source.successor is not None
    lengths = document_lengths(tokens, source.document_tokens, rng)
    last = np.cumsum(lengths) - 1
    from_list = rng.random(tokens) < share
    any_token = rng.choice(len(common), tokens, p=common)
    rank = rng.choice(len(common), tokens, p=ranked)
    starts = np.zeros(tokens, bool)
    starts[last + 1 - lengths] = True
    first_token = rng.choice(len(common), tokens, p=source.stationary)
    token = np.empty(tokens, np.int64)
    for place in range(tokens):
        if starts[place]:
            token[place] = first_token[place]
        elif from_list[place]:
            token[place] = source.successor[token[place - 1], rank[place]]
        else:
            token[place] = any_token[place]
    return as_sample(token, lengths, len(common))


def bursty(tokens: int, rng: np.random.Generator) -> Text:
    symbols = log_uniform(rng, 500, 10_000)
    concentration = float(log_uniform(rng, 30, 3000))
    document_tokens = int(rng.integers(*DOCUMENT_TOKENS))
    return bursty_text(
        symbols, (concentration, rng.uniform(0.8, 1.3)), document_tokens, tokens, rng
    )


def bursty_text(
    symbols: int,
    shape: tuple[float, float],
    document_tokens: int,
    tokens: int,
    rng: np.random.Generator,
) -> Text:
    """Shape: concentration of the Dirichlet law, exponent of its mean."""
    concentration, exponent = shape
    base = zipf(symbols, exponent)
    lengths = document_lengths(tokens, document_tokens, rng)
    token = np.empty(tokens, np.int64)
    fresh = rng.choice(symbols, tokens, p=base)
    start = 0
    for length in lengths:  # Pólya's urn: a token repeats one of its document, or is drawn anew
        for place in range(length):
            seen = rng.random() * (concentration + place)
            at = start + place
            token[at] = (
                fresh[at] if seen < concentration else token[start + int(seen - concentration)]
            )
        start += length
    # P(y | x) = (a b_y + [x = y]) / (a + 1): per x the entropy of a b / (a + 1) with one mass moved
    scaled = concentration * base / (concentration + 1)
    same = (concentration * base + 1) / (concentration + 1)
    whole = -(scaled * np.log(scaled)).sum()
    rate = float((base * (whole + scaled * np.log(scaled) - same * np.log(same))).sum())
    end = 1 / document_tokens
    return Text(as_sample(token, lengths, symbols), border(document_tokens) + (1 - end) * rate)


def document_lengths(
    tokens: int, document_tokens: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Geometric lengths, the last cut so that they sum to `tokens`."""
    lengths = rng.geometric(1 / document_tokens, 2 * tokens // document_tokens + 50)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), tokens)) + 1]
    lengths[-1] -= lengths.sum() - tokens
    return np.asarray(lengths[lengths > 0])


def as_sample(token: NDArray[np.int64], lengths: NDArray[np.int64], symbols: int) -> PairSample:
    following = np.append(token[1:], symbols)
    following[np.cumsum(lengths) - 1] = symbols
    return pair_sample(token, following, np.repeat(np.arange(len(lengths)), lengths), symbols + 1)


FAMILIES: dict[str, Callable[[int, np.random.Generator], Text]] = {
    "successors": successors,
    "backoff": backoff,
    "bursty": bursty,
    "independent": independent,
}


def make(family: str, number: int, tokens: int) -> Text:
    """Draw a source of the family at random, and documents from it."""
    rng = np.random.default_rng([23, list(FAMILIES).index(family), number])
    return FAMILIES[family](tokens, rng)


def dummy_interval(sample: PairSample) -> tuple[float, float]:
    """The plug-in's 95 % range over resampled documents, around the plug-in."""
    rng = np.random.default_rng(0)
    blocks = int(sample.block.max()) + 1
    values = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(0, blocks, blocks), minlength=blocks)
        totals = np.bincount(
            sample.pair, times[sample.block].astype(np.float64), len(sample.first)
        ).astype(np.int64)
        values.append(conditional_plugin(sample.counts(totals)))
    centre = conditional_plugin(sample.counts(sample.totals()))
    half = 1.96 * float(np.std(values, ddof=1))
    return centre - half, centre + half


def trial(job: tuple[str, int], tokens: int) -> dict[str, float | str]:
    family, number = job
    text = make(family, number, tokens)
    start = time.process_time()
    found = entropy_report(text.sample).conditional
    seconds = time.process_time() - start
    assert found.low is not None and found.high is not None
    low, high = dummy_interval(text.sample)
    return {
        "family": family,
        "error": found.nats - text.conditional,
        "covered": float(found.low <= text.conditional <= found.high),
        "half": (found.high - found.low) / 2,
        "dummy": float(low <= text.conditional <= high),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100, help="trials of each family")
    parser.add_argument("--tokens", type=float, default=1e5)
    parser.add_argument("--first", type=int, default=2000, help="number of the first trial")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    numbers = range(arguments.first, arguments.first + arguments.trials)
    jobs = [(family, number) for family in arguments.families.split(",") for number in numbers]
    rows = list(map_tasks(partial(trial, tokens=int(arguments.tokens)), jobs, arguments.workers))
    print(f"{arguments.tokens:,.0f} tokens, trials from number {arguments.first}")
    print(f"{'family':14}{'trials':>7}{'covered':>9}{'dummy':>8}{'bias':>9}{'rms':>8}{'half':>8}")
    for family in arguments.families.split(","):
        own = [row for row in rows if row["family"] == family]
        error = np.array([float(row["error"]) for row in own])
        means = {
            key: np.mean([float(row[key]) for row in own]) for key in own[0] if key != "family"
        }
        print(
            f"{family:14}{len(own):7}{means['covered']:9.0%}{means['dummy']:8.0%}"
            f"{error.mean():+9.3f}{np.sqrt((error**2).mean()):8.3f}{means['half']:8.3f}"
        )
    print(f"seconds a trial: {np.mean([float(row['seconds']) for row in rows]):.2f}")


if __name__ == "__main__":
    main()
