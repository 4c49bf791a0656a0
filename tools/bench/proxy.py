"""Everything about proxy training on one device, in one call.

    python tools/bench/proxy.py [--device cuda] [--json result.json]
    python tools/bench/proxy.py --smoke          # tiny shapes on a CPU: shows that it runs

1. The rate of a large matrix product on this device, in the type that training computes in.
2. RegMix's 1M with 50k ids and sequences of 2048: utilisation with the head counted, for several
   sizes of chunk, against plain torch (logits of the micro-batch written out, torch's AdamW) on the
   same tokens; peak memory of each; the time that RegMix's 512 runs of 1B tokens would take.
3. The same blocks with 8k ids and sequences of 512: 64 models stacked, and one after another with
   the same code; losses of the two compared.

Tokens are random from a Zipf law: times do not depend on what they say.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from curate.proxy import loss as losses
from curate.proxy.model import hidden_states, initial_weights
from curate.proxy.optimiser import OptimiserSettings
from curate.proxy.shape import Shape
from curate.proxy.stack import Stack, StackSettings

REGMIX_RUNS, REGMIX_TOKENS = 512, 1.05e9


@dataclass(frozen=True)
class Sizes:
    """Model and batch of one section."""

    shape: Shape
    sequence_length: int
    sequences: int
    models: int
    steps: int


LARGE_VOCABULARY = Sizes(Shape(2, 256, 8, 512, 50_432), 2048, 16, 1, 20)
SMALL_VOCABULARY = Sizes(Shape(2, 256, 8, 512, 8192), 512, 4, 64, 20)
SMOKE_LARGE = Sizes(Shape(2, 32, 4, 64, 2048), 64, 4, 1, 3)
SMOKE_SMALL = Sizes(Shape(2, 32, 4, 64, 256), 64, 2, 8, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    compute = torch.bfloat16 if device.type == "cuda" else torch.float32
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {compute}, {torch.get_num_threads()} threads")
    rate = matmul_rate(device, compute, 512 if options.smoke else 8192)
    print(f"matrix product: {rate / 1e12:.3f} TFLOP/s")
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "matmul_flops": rate}
    large, small = LARGE_VOCABULARY, SMALL_VOCABULARY
    if options.smoke:
        large, small = SMOKE_LARGE, SMOKE_SMALL
    results["large"] = large_vocabulary(large, device, compute, rate)
    results["small"] = small_vocabulary(small, device, compute, rate)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Floating-point operations a second of a square product, the best of five."""
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    torch.mm(one, other)
    seconds = min(timed(lambda: torch.mm(one, other), device) for _ in range(5))
    return 2 * side**3 / seconds


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done it."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batches(sizes: Sizes) -> np.ndarray:
    """Shape (steps, K, B, T + 1)."""
    rng = np.random.default_rng(0)
    drawn = rng.zipf(1.2, (sizes.steps, sizes.models, sizes.sequences, sizes.sequence_length + 1))
    return (drawn % sizes.shape.vocabulary).astype(np.int64)


def measured(
    name: str, sizes: Sizes, device: torch.device, rate: float, work: Callable[[int], object]
) -> dict[str, float]:
    """Tokens a second, utilisation and peak memory of `work(step)`, after two steps unmeasured."""
    for step in range(2):
        work(step)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def rest() -> None:
        for step in range(2, sizes.steps):
            work(step)

    seconds = timed(rest, device)
    tokens = (sizes.steps - 2) * sizes.models * sizes.sequences * sizes.sequence_length
    flops = sizes.shape.training_flops(sizes.sequence_length) * tokens / seconds
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    print(
        f"  {name:<34} {tokens / seconds:>12,.0f} tokens/s  {flops / 1e12:8.3f} TFLOP/s "
        f"{flops / rate:6.1%} of the product's  peak {peak / 2**30:.2f} GiB"
    )
    return {"tokens_per_second": tokens / seconds, "utilisation": flops / rate, "peak_bytes": peak}


def stack_of(sizes: Sizes, device: torch.device, compute: torch.dtype, models: range) -> Stack:
    settings = OptimiserSettings(4e-4, steps=sizes.steps, warmup_steps=1)
    return Stack(StackSettings(sizes.shape, settings, device, compute), list(models))


def large_vocabulary(
    sizes: Sizes, device: torch.device, compute: torch.dtype, rate: float
) -> dict[str, Any]:
    print(f"large vocabulary: {sizes}")
    data = batches(sizes)
    results: dict[str, Any] = {}
    default = losses.CHUNK_LOGITS.get(device.type, losses.CHUNK_LOGITS["cuda"])
    for shift in (-2, -1, 0, 1):
        losses.CHUNK_LOGITS[device.type] = int(default * 2.0**shift)
        stack = stack_of(sizes, device, compute, range(sizes.models))
        label = f"chunks of {losses.CHUNK_LOGITS[device.type] / 2**20:g}M logits"
        results[label] = measured(
            label, sizes, device, rate,
            lambda step, own=stack: own.train_step(data[step], sizes.sequences),
        )  # fmt: skip
        del stack
    losses.CHUNK_LOGITS[device.type] = default
    results["plain"] = measured("plain torch", sizes, device, rate, plain(sizes, device, compute))
    best = max(v["tokens_per_second"] for k, v in results.items() if k != "plain")
    results["over_plain"] = best / results["plain"]["tokens_per_second"]
    print(f"  best over plain torch: {results['over_plain']:.2f}x")
    if sizes == LARGE_VOCABULARY:
        results["regmix_hours"] = REGMIX_RUNS * REGMIX_TOKENS / best / 3600
        print(
            f"  RegMix's 512 runs of 1.05B tokens at this rate: {results['regmix_hours']:.1f} hours"
        )
    return results


def plain(sizes: Sizes, device: torch.device, compute: torch.dtype) -> Callable[[int], object]:
    """The same model with logits written out, autocast types and torch's own optimiser."""
    data = batches(sizes)
    weights = initial_weights(sizes.shape, [0], device)
    for weight in weights.values():
        weight.requires_grad_()
    fused = device.type == "cuda"
    optimiser = torch.optim.AdamW(list(weights.values()), 4e-4, (0.9, 0.95), fused=fused)

    def step(number: int) -> None:
        ids = torch.from_numpy(data[number, :1]).to(device)
        low = {name: weight.to(compute) for name, weight in weights.items()}
        hidden = hidden_states(low, ids[:, :, :-1], sizes.shape)
        logits = hidden[0] @ low["head"][0].T
        functional.cross_entropy(logits.float(), ids[0, :, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def small_vocabulary(
    sizes: Sizes, device: torch.device, compute: torch.dtype, rate: float
) -> dict[str, Any]:
    print(f"small vocabulary: {sizes}")
    data = batches(sizes)
    stack = [stack_of(sizes, device, compute, range(sizes.models))]
    stacked: list[torch.Tensor] = []
    results: dict[str, Any] = {
        "stacked": measured(
            f"{sizes.models} models stacked", sizes, device, rate,
            lambda step: stacked.append(stack[0].train_step(data[step], sizes.sequences)),
        )
    }  # fmt: skip
    stack.clear()  # makes room
    few = min(4, sizes.models)
    one = Sizes(sizes.shape, sizes.sequence_length, sizes.sequences, 1, sizes.steps)
    rates, worst = [], 0.0
    for model in range(few):
        alone = stack_of(one, device, compute, range(model, model + 1))
        single: list[torch.Tensor] = []
        results[f"alone {model}"] = measured(
            f"model {model} alone", one, device, rate,
            lambda step, own=alone, k=model, kept=single: kept.append(
                own.train_step(data[step, k : k + 1], sizes.sequences)
            ),
        )  # fmt: skip
        rates.append(results[f"alone {model}"]["tokens_per_second"])
        for together, by_itself in zip(stacked, single, strict=True):
            worst = max(worst, abs(float(together[model] / by_itself[0]) - 1))
    results["stacked_over_alone"] = results["stacked"]["tokens_per_second"] / (sum(rates) / few)
    results["largest_loss_difference"] = worst
    print(f"  stacked over one after another: {results['stacked_over_alone']:.2f}x")
    print(f"  largest relative difference of a loss over {sizes.steps} steps: {worst:.1e}")
    assert math.isfinite(worst)
    return results


if __name__ == "__main__":
    main()
