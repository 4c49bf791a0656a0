"""Does the best learning rate stay when the width changes? `python tools/studies/width.py`.

Trains models of several widths at several rates, all rates of a width stacked, on the natural
mixture of the nano study's recipe, few tokens each, and prints the mean held-out loss: once with
curate's rule (matrices take the rate times 256 / width) and once with the same rate everywhere.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from curate.pipeline.proxy_setup import prepare
from curate.proxy.optimiser import StackedAdamW
from curate.proxy.stack import Stack
from curate.proxy.swarm import Swarm, SwarmRun
from curate.proxy.train import EVALUATION_TOKENS
from curate.proxy.training_batches import BatchSource
from curate.recipe import load
from curate.runtime.progress import Observer

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
"""At width 256."""
WIDTHS = (32, 64, 128, 256)
HEAD_WIDTH = 16
RULES = {"carried": "matrices at the rate * 256 / width", "one": "one rate for everything"}
SETTINGS = (
    "mixture.evidence.proxy.validation_tokens=1500",
    "mixture.evidence.proxy.schedule=cosine",
    "validation.documents=0.02",
)


class OneRate(StackedAdamW):
    """The same rate for all parameters, at every width."""

    def _width_factor(self, name: str) -> float:
        return 1.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--work", type=Path, default=Path("bench-work/width-study"))
    arguments.add_argument("--recipe", type=Path, default=Path(__file__).with_name("nano.yaml"))
    arguments.add_argument("--tokens", type=int, default=61_440)
    arguments.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    arguments.add_argument("--rules", nargs="*", choices=RULES, default=list(RULES))
    arguments.add_argument("--workers", type=int, default=1)
    options = arguments.parse_args()
    work = options.work.resolve()
    places = (f"cache={json.dumps(str(work / 'cache'))}", f"output.dir={json.dumps(str(work))}")
    tokens = f"mixture.evidence.proxy.tokens={options.tokens}"
    loaded = load(options.recipe, (*places, *SETTINGS, tokens))
    swarm = prepare(loaded, None, options.workers, Observer()).swarm
    for rule in options.rules:
        print(f"\n{RULES[rule]}; held-out loss, mean of {len(swarm.names)} domains, nats\n")
        print(f"| width | {' | '.join(f'{rate:g}' for rate in RATES)} | best | seconds |")
        print("|---" * (len(RATES) + 3) + "|")
        for width in options.widths:
            started = time.monotonic()
            losses = train(swarm, width, rule)
            cells = " | ".join(f"{loss:.3f}" for loss in losses)
            best = f"{RATES[int(losses.argmin())]:g} (fit {best_rate(losses):.2g})"
            seconds = time.monotonic() - started
            print(f"| {width} | {cells} | {best} | {seconds:.0f} |", flush=True)


def train(swarm: Swarm, width: int, rule: str) -> np.ndarray:
    """Mean held-out loss at each rate, shape (rates,)."""
    shape = replace(
        swarm.stack.shape, width=width, heads=max(1, width // HEAD_WIDTH), mlp=width * 5 // 2
    )
    stack = Stack(replace(swarm.stack, shape=shape), [0] * len(RATES), RATES)
    if rule == "one":
        stack.optimiser = OneRate(stack.weights, RATES, swarm.stack.optimiser)
    supply = np.array([domain.tokens.tokens.sum() for domain in swarm.domains], float)
    shares = tuple((supply / supply.sum()).tolist())
    run = swarm.run_tokens(SwarmRun("natural", 0, shares, shares))
    source = BatchSource([run], swarm.domains, swarm.sequence_length, swarm.start_id)
    for batch in source.batches(swarm.batch_sequences):
        stack.train_step(torch.from_numpy(batch).expand(len(RATES), -1, -1), swarm.batch_sequences)
    nats = stack.domain_losses(swarm.validation, EVALUATION_TOKENS["cpu"])
    losses: np.ndarray = (nats / swarm.validation.domain_tokens).mean(axis=1)
    return losses


def best_rate(losses: np.ndarray) -> float:
    """Return the vertex of a parabola in log rate through the best rate and its neighbours."""
    place = int(np.clip(losses.argmin(), 1, len(RATES) - 2))
    near = slice(place - 1, place + 2)
    curve = np.polyfit(np.log(RATES[near]), losses[near], 2)
    if curve[0] <= 0:
        return RATES[int(losses.argmin())]
    return float(np.exp(np.clip(-curve[1] / (2 * curve[0]), *np.log([RATES[0], RATES[-1]]))))


if __name__ == "__main__":
    main()
