"""Estimators against sources of known entropy: error beside the plug-in's, and coverage.

Each trial draws a source at random (vocabulary, exponent or successors, document length), then
documents from it. The constants of `curate.stats.intervals` were chosen on trials 0 to 299 at each
size, so trials start at 1000 here. Run as
`python tools/bench/entropy.py --trials 300 --tokens 1e4,1e5 --workers 2`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from curate.runtime.workers import map_tasks
from curate.stats.bigram_sample import PairCounts, PairSample, pair_sample
from curate.stats.conditional import conditional_plugin
from curate.stats.estimators import histogram, plugin
from curate.stats.intervals import entropy_report
from curate.stats.unseen_species import unseen


def miller_madow(count: NDArray[np.int64]) -> float:
    """Plug-in plus (symbols seen - 1) / 2N, the first term of its bias.

    References:
        Miller 1955, "Note on the bias of information estimates".
    """
    _, symbols, tokens = histogram(count)
    return plugin(count) + (int(symbols.sum()) - 1) / (2 * tokens) if tokens else 0.0


def chao_shen(count: NDArray[np.int64]) -> float:
    """Frequencies scaled by the coverage, each weighed by one over its chance of being seen.

    With coverage C = 1 - f1/N and p = C c / N: -sum of p ln p / (1 - (1 - p)^N). Where every token
    is a symbol of its own, one is taken to have been seen twice, or C would be 0.

    References:
        Chao and Shen 2003, "Nonparametric estimation of Shannon's index of diversity when there
        are unseen species in sample", doi:10.1023/A:1026096204727.
    """
    value, symbols, tokens = histogram(count)
    if not tokens:
        return 0.0
    once = int(symbols[value == 1].sum())
    coverage = 1.0 - min(once, tokens - 1) / tokens
    share = np.minimum(coverage * value / tokens, 1.0)
    with np.errstate(divide="ignore"):
        seen = -np.expm1(tokens * np.log1p(-share))
    return float(-(symbols * share * np.log(share) / seen).sum())


def grassberger(count: NDArray[np.int64]) -> float:
    """Logarithm of each count replaced by one without bias: ln N - (1/N) sum of c G(c).

    G(c) = psi(c) + (-1)^c [psi((c+1)/2) - psi(c/2)] / 2.

    References:
        Grassberger 2003, "Entropy estimates from insufficient samplings", arXiv:physics/0307138v2
        (2008), Eq. 30.
    """
    value, symbols, tokens = histogram(count)
    if not tokens:
        return 0.0
    half = value / 2.0
    sign = np.where(value % 2 == 0, 1.0, -1.0)
    correction = digamma(value.astype(np.float64)) + sign * 0.5 * (
        digamma(half + 0.5) - digamma(half)
    )
    return math.log(tokens) - float((symbols * value * correction).sum()) / tokens


def chao_wang_jost(count: NDArray[np.int64]) -> float:
    """Entropy from the rate at which new symbols turn up, the unseen part by Good and Turing.

    Sum over symbols of (c/N) [psi(N) - psi(c)], plus (f1/N) (1 - A)^(1-N) times what -ln A leaves
    after N - 1 terms of its series in (1 - A), with A = 2 f2 / [(N - 1) f1 + 2 f2].

    References:
        Chao, Wang and Jost 2013, "Entropy and the species accumulation curve",
        doi:10.1111/2041-210X.12108, Eq. 7.
    """
    value, symbols, tokens = histogram(count)
    if tokens < 2:
        return 0.0
    psi = digamma(np.append(value, tokens).astype(np.float64))
    nats = float((symbols * value / tokens * (psi[-1] - psi[:-1])).sum())
    once = int(symbols[value == 1].sum())
    twice = int(symbols[value == 2].sum())
    if not once:
        return nats
    if twice:
        chance = 2 * twice / ((tokens - 1) * once + 2 * twice)
    else:
        chance = 2 / ((tokens - 1) * (once - 1) + 2)
    if chance >= 1:
        return nats
    rest = (1 - chance) * _series_tail(tokens, -math.log1p(-chance))
    return nats + once / tokens * rest


def _series_tail(first: int, decay: float) -> float:
    """Sum over j >= 0 of exp(-decay j) / (first + j), to about 1e-8 of itself."""
    exact = np.arange(10_000, dtype=np.float64)
    total = float((np.exp(-decay * exact) / (first + exact)).sum())
    # Beyond, the sum is its integral and half its first term; with s = ln t the integrand is flat.
    start = first + len(exact)
    log_t = np.linspace(math.log(start), math.log(start + 40 / decay), 20_001)
    height = np.exp(-decay * (np.exp(log_t) - first))
    step = float(log_t[1] - log_t[0])
    return (
        total
        + float(height.sum() - (height[0] + height[-1]) / 2) * step
        + (float(height[0]) / start / 2)
    )


ESTIMATORS: dict[str, Callable[[NDArray[np.int64]], float]] = {
    "plugin": plugin,
    "miller_madow": miller_madow,
    "chao_shen": chao_shen,
    "grassberger": grassberger,
    "chao_wang_jost": chao_wang_jost,
    "unseen": unseen,
}
"""Functions of counts, shape (symbols,), by name."""


@dataclass(frozen=True)
class Source:
    """A chain over symbols; rows of successors are shared by all symbols where tokens are i.i.d."""

    name: str
    stationary: NDArray[np.float64]
    successor: NDArray[np.int64] | None
    """shape (symbols, successors), None: independent draws from `stationary`."""
    chance: NDArray[np.float64] | None
    """shape (symbols, successors), sums to 1 in each row."""
    document_tokens: int
    """Mean length of a document; lengths are geometric."""

    @property
    def shannon(self) -> float:
        """Entropy of a token, nats."""
        used = self.stationary[self.stationary > 0]
        return float(-(used * np.log(used)).sum())

    @property
    def conditional(self) -> float:
        """Entropy of what follows a token, the end of the document included, nats."""
        end = 1 / self.document_tokens
        border = -end * np.log(end) - (1 - end) * np.log(1 - end)
        if self.successor is None or self.chance is None:
            return float(border + (1 - end) * self.shannon)
        symbols = len(self.stationary)
        key = np.arange(symbols)[:, None] * symbols + self.successor
        distinct, place = np.unique(key.ravel(), return_inverse=True)
        chance = np.bincount(place, self.chance.ravel())
        rate = -(self.stationary[distinct // symbols] * chance * np.log(chance)).sum()
        return float(border + (1 - end) * rate)


def zipf_source(symbols: int, exponent: float, document_tokens: int) -> Source:
    power = 1 / np.arange(1, symbols + 1) ** exponent
    name = f"zipf {symbols} ^{exponent:.2f}"
    return Source(name, power / power.sum(), None, None, document_tokens)


def markov_source(
    symbols: int, successors: int, exponent: float, document_tokens: int, seed: int
) -> Source:
    """Random successors, drawn by a Zipf law of this exponent (0: evenly), exponential chances."""
    rng = np.random.default_rng(seed)
    power = np.cumsum(1 / np.arange(1, symbols + 1) ** exponent)
    successor = np.searchsorted(power / power[-1], rng.random((symbols, successors)))
    chance = rng.exponential(1.0, (symbols, successors))
    chance /= chance.sum(1, keepdims=True)
    stationary = np.full(symbols, 1 / symbols)
    for _ in range(2000):
        flow = (stationary[:, None] * chance).ravel()
        following = np.bincount(successor.ravel(), flow, symbols)
        if np.abs(following - stationary).sum() < 1e-12:
            break
        stationary = following
    name = f"markov {symbols} x{successors} ^{exponent:.1f}"
    return Source(name, stationary, successor, chance, document_tokens)


def draw(source: Source, tokens: int, rng: np.random.Generator) -> PairSample:
    """Documents of the source, cut off after exactly so many tokens."""
    symbols = len(source.stationary)
    guess = 2 * tokens // source.document_tokens + 50
    lengths = rng.geometric(1 / source.document_tokens, guess)
    documents = int(np.searchsorted(np.cumsum(lengths), tokens)) + 1
    lengths = lengths[:documents]
    stops = np.cumsum(lengths)
    lengths[-1] -= stops[-1] - tokens
    level = np.cumsum(source.stationary)
    if source.successor is None or source.chance is None:
        token = np.minimum(np.searchsorted(level, rng.random(tokens)), symbols - 1)
    else:
        token = _walk(source, lengths, level, rng)
    following = np.append(token[1:], symbols)
    following[np.cumsum(lengths) - 1] = symbols
    block = np.repeat(np.arange(documents), lengths)
    return pair_sample(token, following, block, symbols + 1)


def _walk(
    source: Source,
    lengths: NDArray[np.int64],
    level: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    assert source.successor is not None and source.chance is not None
    levels = np.cumsum(source.chance, axis=1)
    order = np.argsort(-lengths, kind="stable")
    starts = (np.cumsum(lengths) - lengths)[order]
    token = np.empty(int(lengths.sum()), np.int64)
    state = np.minimum(np.searchsorted(level, rng.random(len(lengths))), len(level) - 1)
    for step in range(int(lengths.max())):
        alive = int(np.searchsorted(-lengths[order], -step))
        state = state[:alive]
        token[starts[:alive] + step] = state
        drawn = (levels[state] < rng.random(alive)[:, None]).sum(1)
        state = source.successor[state, np.minimum(drawn, levels.shape[1] - 1)]
    return token


def random_source(rng: np.random.Generator) -> Source:
    """One of the family that trials are drawn from."""
    symbols = int(np.exp(rng.uniform(np.log(1000), np.log(50_000))))
    document_tokens = int(rng.integers(50, 501))
    if rng.random() < 0.5:
        return zipf_source(symbols, rng.uniform(1.0, 1.5), document_tokens)
    successors = int(np.exp(rng.uniform(np.log(5), np.log(100))))
    exponent = float(rng.choice([0.0, 1.0]))
    return markov_source(symbols, successors, exponent, document_tokens, int(rng.integers(1 << 30)))


def naive_interval(counts: PairCounts) -> tuple[float, float]:
    """The dummy: plug-in, and the half-width that independent tokens without bias would give."""
    margin = counts.first_margin
    surprise = np.log(margin[counts.first] / counts.count)
    share = counts.count / counts.tokens
    spread = float((share * surprise**2).sum() - (share * surprise).sum() ** 2)
    return conditional_plugin(counts), 1.96 * (spread / counts.tokens) ** 0.5


def trial(number: int, tokens: int) -> dict[str, float | str]:
    rng = np.random.default_rng([17, number])
    source = random_source(rng)
    sample = draw(source, tokens, rng)
    counts = sample.counts(sample.totals())
    margin = counts.first_margin
    start = time.process_time()
    report = entropy_report(sample)
    seconds = time.process_time() - start
    row: dict[str, float | str] = {"source": source.name, "seconds": seconds}
    for measure, truth in (("shannon", source.shannon), ("conditional", source.conditional)):
        estimate = getattr(report, measure)
        assert estimate.low is not None and estimate.high is not None
        row[f"{measure}_default"] = estimate.nats - truth
        row[f"{measure}_se"] = estimate.standard_error
        row[f"{measure}_bias_se"] = estimate.bias_error
        row[f"{measure}_covered"] = float(estimate.low <= truth <= estimate.high)
    row["lift_share"] = report.detail.lift_share
    for name, estimator in ESTIMATORS.items():
        row[f"shannon_{name}"] = estimator(margin) - source.shannon
        row[f"conditional_{name}"] = (
            estimator(counts.count) - estimator(margin) - source.conditional
        )
    row["conditional_lift"] = report.detail.ends.lift - source.conditional
    centre, half = naive_interval(counts)
    row["conditional_naive"] = float(abs(centre - source.conditional) <= half)
    spread = float((margin / tokens * np.log(np.maximum(margin, 1)) ** 2).sum())
    mean = float((margin / tokens * np.log(np.maximum(margin, 1))).sum())
    naive = 1.96 * ((spread - mean**2) / tokens) ** 0.5
    row["shannon_naive"] = float(abs(plugin(margin) - source.shannon) <= naive)
    return row


def table(rows: list[dict[str, float | str]]) -> None:
    for measure in ("shannon", "conditional"):
        base = np.abs([float(row[f"{measure}_plugin"]) for row in rows])
        covered = np.mean([float(row[f"{measure}_covered"]) for row in rows])
        naive = np.mean([float(row[f"{measure}_naive"]) for row in rows])
        print(
            f"\n{measure}: coverage default {covered:.1%}, plug-in with naive interval {naive:.1%}"
        )
        print(
            f"{'estimator':16}{'mean |error|':>14}{'rms ratio':>11}{'median':>9}"
            f"{'p90':>7}{'max':>7}"
        )
        names = ["default", *ESTIMATORS] + (["lift"] if measure == "conditional" else [])
        for name in names:
            error = np.abs([float(row[f"{measure}_{name}"]) for row in rows])
            ratio = error / base
            root = float(np.sqrt((error**2).mean() / (base**2).mean()))
            print(
                f"{name:16}{error.mean():14.4f}{root:11.3f}{np.median(ratio):9.3f}"
                f"{np.quantile(ratio, 0.9):7.2f}{ratio.max():7.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--tokens", default="1e5", help="sizes, divided by commas")
    parser.add_argument("--first", type=int, default=1000, help="number of the first trial")
    parser.add_argument("--rows", action="store_true", help="print every trial")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    numbers = range(arguments.first, arguments.first + arguments.trials)
    for tokens in [round(float(size)) for size in arguments.tokens.split(",")]:
        rows = []
        for row in map_tasks(partial(trial, tokens=tokens), numbers, arguments.workers):
            rows.append(row)
            if arguments.rows:
                shown = [f"{k}={v:.4f}" if isinstance(v, float) else v for k, v in row.items()]
                print(*shown, flush=True)
        print(f"\n{tokens:,} tokens, {len(rows)} trials from number {arguments.first}")
        table(rows)
        print(f"\nseconds a trial: {np.mean([float(row['seconds']) for row in rows]):.2f}")


if __name__ == "__main__":
    main()
