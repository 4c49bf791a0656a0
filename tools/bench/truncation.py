"""How far a domain's conditional-entropy weight moves when only a hundredth of it is there.

Each domain of a recipe in turn is cut to a hundredth of its tokens (documents in random order, the
last one cut), several times over; the others stay whole. Compared are the plug-in on all there is,
and the corrected estimate with every domain on a sample as large as the cut one's (what
`curate stats --intervals` does), and with every domain on a sample of its own.

A hundredth of the documents is other text, too. By how much is measured without an estimate of
entropy: what the chosen documents cost above others under one smoothed model made of the rest,
in nats a token. It is the first order of the true change, of no sign on average, and what is left
of a move on average is the estimator's own. Run as
`python tools/bench/truncation.py RECIPE --truncations 4`.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import load
from curate.runtime.progress import Observer
from curate.runtime.workers import map_tasks
from curate.stats.bigram_sample import draw_pairs, pair_sample
from curate.stats.conditional import Conditional, conditional
from curate.stats.cross_entropy import FOLDS, model_cost
from curate.stats.sampling import MOST_TOKENS
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer

SHARE = 0.01
COLUMNS = ("part", "token_start", "tokens", "text_bytes", "content_high", "content_low", "identity")


@dataclass(frozen=True)
class Request:
    """One estimate: of a whole domain, or of a truncation of it."""

    domain: str
    tokens: int
    truncation: int | None = None


def restricted(domain: DomainTokens, kept: NDArray[np.int64], last_tokens: int) -> DomainTokens:
    """The domain with these documents alone, the last of them cut to so many tokens."""
    part = copy.copy(domain)
    order = np.argsort(kept)
    for column in COLUMNS:
        setattr(part, column, getattr(domain, column)[kept[order]])
    part.tokens[np.argmax(order)] = last_tokens
    return part


def truncated(domain: DomainTokens, truncation: int) -> tuple[DomainTokens, DomainTokens]:
    """A hundredth of a domain, and the documents that are not in it."""
    order = np.random.default_rng([23, truncation]).permutation(len(domain))
    reached = np.cumsum(domain.tokens[order])
    share_tokens = int(domain.total_tokens * SHARE)
    taken = int(np.searchsorted(reached, share_tokens)) + 1
    last = int(domain.tokens[order[taken - 1]] - (reached[taken - 1] - share_tokens))
    rest = order[taken:]
    return (
        restricted(domain, order[:taken], max(2, last)),
        restricted(domain, rest, int(domain.tokens[rest[-1]])),
    )


class Measured:
    """Conditional entropies of domains and truncations, each measured once."""

    def __init__(self, domains: dict[str, DomainTokens], tokenizer: Tokenizer, seed: int) -> None:
        """Take the domains to measure."""
        self._domains, self._tokenizer, self._seed = domains, tokenizer, seed
        self._estimates: dict[Request, Conditional] = {}

    def measure(self, requests: list[Request], workers: int) -> list[Conditional]:
        """The estimates, in this order."""
        missing = [key for key in dict.fromkeys(requests) if key not in self._estimates]
        for key, estimate in zip(missing, map_tasks(self._one, missing, workers), strict=True):
            self._estimates[key] = estimate
        return [self._estimates[key] for key in requests]

    def _one(self, request: Request) -> Conditional:
        domain = self._domains[request.domain]
        if request.truncation is not None:
            domain = truncated(domain, request.truncation)[0]
        return conditional(draw_pairs(domain, self._tokenizer, request.tokens, self._seed))

    def extra_nats(self, request: Request) -> float:
        """Nats a token that the truncation's documents cost above others, under one model."""
        assert request.truncation is not None
        cut, rest = truncated(self._domains[request.domain], request.truncation)
        inside = draw_pairs(cut, self._tokenizer, request.tokens, self._seed)
        outside = draw_pairs(rest, self._tokenizer, MOST_TOKENS, self._seed)
        role = np.where(outside.group(FOLDS) == 0, 1, 0)
        joined = pair_sample(
            np.append(outside.first[outside.pair], inside.first[inside.pair]),
            np.append(outside.second[outside.pair], inside.second[inside.pair]),
            np.append(role, np.full(inside.tokens, 2)),
            inside.symbols,
        )
        model, *tests = (joined.totals(joined.block == number) for number in range(3))
        reference, cost = (model_cost(joined, model, test) / test.sum() for test in tests)
        return float(cost - reference)


def weight(nats: dict[str, float], name: str) -> float:
    """Softmax weight of a domain."""
    values = np.array(list(nats.values()))
    return float(np.exp(nats[name] - values.max()) / np.exp(values - values.max()).sum())


def moved_cell(before: float, after: list[float], plugin_move: float) -> str:
    """From where to where on average, and the mean size of a move by that of the plug-in."""
    share = np.mean(np.abs(np.array(after) - before)) / plugin_move
    net = abs(np.mean(after) - before) / plugin_move
    return f"{before:.3f} to {np.mean(after):.3f} ({share:4.0%}, net {net:4.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--truncations", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    loaded = load(arguments.recipe)
    tokenized = tokenize_domains(loaded, arguments.workers, Observer())
    domains = {domain.name: domain for domain in tokenized.domains}
    plugin = {stats.name: stats.entropies.conditional for stats in tokenized.stats}
    measured = Measured(domains, tokenized.tokenizer, loaded.recipe.seed)
    text_tokens = {name: one.total_tokens - len(one) for name, one in domains.items()}
    largest = min(MOST_TOKENS, *text_tokens.values())
    whole = dict(
        zip(domains, measured.measure([Request(n, largest) for n in domains], arguments.workers),
            strict=True)
    )  # fmt: skip
    corrected = {name: one.nats for name, one in whole.items()}
    heading = ("plug-in, all", "corrected, equal size", "corrected, own size")
    print(f"{'domain':10}{'tokens':>9}", *(f"{name:>38}" for name in heading), "  extra, nats")
    for name in domains:
        tokens = min(largest, int(text_tokens[name] * SHARE))
        cuts = [Request(name, tokens, number) for number in range(arguments.truncations)]
        small = measured.measure(cuts, arguments.workers)
        extra = map_tasks(measured.extra_nats, cuts, arguments.workers)
        others = [one for one in domains if one != name]
        equal = measured.measure([Request(one, tokens) for one in others], arguments.workers)
        at_equal = {one: estimate.nats for one, estimate in zip(others, equal, strict=True)}
        before = weight(plugin, name)
        after = [weight({**plugin, name: cut.plugin}, name) for cut in small]
        move = float(np.mean(np.abs(np.array(after) - before)))
        cells = [moved_cell(before, after, move)]
        for rest in (at_equal, corrected):
            after = [weight({**rest, name: cut.nats}, name) for cut in small]
            cells.append(moved_cell(weight(corrected, name), after, move))
        print(f"{name:10}{tokens:9,}", *(f"{cell:>38}" for cell in cells),
              f"  {np.mean(extra):+.2f} (sd {np.std(extra):.2f})", flush=True)  # fmt: skip
        bursts = (f"{cut.bursts:.3f}" for cut in small)
        print("    nats: whole", f"{corrected[name]:.3f}; cut:",
              *(f"{cut.nats:.3f}" for cut in small), "; for bursts:",
              f"{whole[name].bursts:.3f};", *bursts, flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
