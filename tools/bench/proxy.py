"""Proxy training on one device as it ships, in one call.

    python tools/bench/proxy.py [--device cuda] [--json result.json]
    python tools/bench/proxy.py --smoke          # tiny shapes on a CPU: shows that it runs
    python tools/bench/proxy.py --counts         # traffic and kernels, counted on fake devices
    python tools/bench/proxy.py --roofline       # hours of published searches, derived

Measured, each for RegMix's 1M (50k ids, sequences of 2048, batches of 512) and for a small
vocabulary (8k ids, sequences of 512, batches of 4, 64 models): tokens a second of a group whose
models and micro-sequences `fit_models` chooses, of the same code one model at a time, and of plain
torch one model at a time (logits written out, torch's fused AdamW and clipping, not compiled).
Utilisation is given against the rate of a large product in the same call, and against a nominal
rate (`--nominal`, in TFLOP/s). `fit_models` compares sizes by derived times (`curate.proxy.cost`):
the derived time of a step stands beside the measured one.

Tokens are random from a Zipf law: times do not depend on what they say.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fake_device import fake_meta
from torch.nn import functional

from curate.proxy.cost import DeviceRates, StepSize, step_work
from curate.proxy.group import ModelGroup
from curate.proxy.loss import head_chunk
from curate.proxy.memory import GroupSize, Workload, fit_models
from curate.proxy.model import hidden_states, initial_weights
from curate.proxy.optimiser import OptimiserSettings
from curate.proxy.shape import PRESETS, Shape
from curate.proxy.stack import Stack, StackSettings
from curate.proxy.training_batches import ValidationRows

IDS = 50_432


@dataclass(frozen=True)
class Case:
    """One section's models."""

    load: Workload
    steps: int


def case(shape: Shape, length: int, batch: int, runs: int, steps: int) -> Case:
    return Case(Workload(shape, length, batch, 10**9, runs, runs), steps)


LARGE_VOCABULARY = case(PRESETS["1M"].sized(IDS), 2048, 512, 64, 100)
SMALL_VOCABULARY = case(Shape(2, 256, 8, 512, 8192), 512, 4, 64, 100)
SMOKE_LARGE = case(Shape(2, 32, 4, 64, 2048), 64, 8, 4, 4)
SMOKE_SMALL = case(Shape(2, 32, 4, 64, 256), 64, 2, 8, 4)

ROOFLINE_DEVICES = {
    "A100 80 GB": (312e12, 2.0e12),
    "H100 / H200": (989e12, 3.35e12),
    "RTX 4090": (165e12, 1.0e12),
    "2 CPU cores": (1.4e11, 2e10),
}
"""Nominal dense bfloat16 arithmetic (float32 of two cores, as measured) and bytes a second."""

PRODUCT_SHARE = 0.6
"""Share of the nominal rate that large products reach, in the derived table."""

SEARCHES = {
    "RegMix: 512 runs of 1M, 1.05B tokens": ("1M", IDS, 2048, 512, 512, 1.05e9),
    "RegMix with a vocabulary of 8k": ("1M", 8192, 2048, 512, 512, 1.05e9),
    "BiMix: 4 runs of its base, 105B tokens": ("bimix", 50_304, 1024, 512, 4, 104.9e9),
    "MDE: 17 experts of that base, 5.2B tokens": ("bimix", 50_304, 1024, 512, 17, 5.24e9),
}
"""Preset, ids, sequence length, batch, runs, tokens of each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--nominal", type=float, default=989.0, help="TFLOP/s, of the data sheet")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("--roofline", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.counts or options.roofline:
        results: dict[str, Any] = counts() if options.counts else roofline()
    else:
        results = measure(options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    compute = torch.bfloat16 if device.type == "cuda" else torch.float32
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {compute}, {options.threads} threads")
    rate = matmul_rate(device, compute, 512 if options.smoke else 8192)
    nominal = options.nominal * 1e12 if device.type == "cuda" else rate
    print(f"matrix product: {rate / 1e12:.3f} TFLOP/s; nominal {nominal / 1e12:.3f}")
    cases = {"large vocabulary": LARGE_VOCABULARY, "small vocabulary": SMALL_VOCABULARY}
    if options.smoke:
        cases = {"large vocabulary": SMOKE_LARGE, "small vocabulary": SMOKE_SMALL}
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "matmul_flops": rate}
    for title, each in cases.items():
        bench = Bench(each, device, compute, options.threads, rate, nominal)
        results[title] = bench.compare(title)
    return results


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


@dataclass(frozen=True)
class Bench:
    """One case on one device."""

    case: Case
    device: torch.device
    compute: torch.dtype
    threads: int
    rate: float
    nominal: float

    def settings(self) -> StackSettings:
        """Settings that all models share."""
        optimiser = OptimiserSettings(4e-4, steps=self.case.steps, warmup_steps=1)
        return StackSettings(
            self.case.load.shape, optimiser, self.device, self.compute, self.threads
        )

    def batch(self, step: int, models: int) -> torch.Tensor:
        """Shape (models, B, T + 1); the same for a model however many there are."""
        load = self.case.load
        sizes = (load.batch_sequences, load.sequence_length + 1)
        drawn = [np.random.default_rng((step, k)).zipf(1.2, sizes) for k in range(models)]
        return torch.from_numpy((np.stack(drawn) % load.shape.vocabulary).astype(np.int32))

    def train(self, name: str, size: GroupSize) -> tuple[dict[str, float], list[torch.Tensor]]:
        """Measure a group; also return the losses of every step."""
        group = ModelGroup(self.settings(), range(size.models), size)
        losses: list[torch.Tensor] = []

        def work(step: int) -> None:
            losses.append(group.train_step(self.batch(step, size.models)))

        return self.measured(name, size.models, work), losses

    def measured(self, name: str, models: int, work: Callable[[int], object]) -> dict[str, float]:
        """Tokens a second, utilisation and peak memory, after two steps unmeasured."""
        on_gpu, load = self.device.type == "cuda", self.case.load
        for step in range(2):
            work(step)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds = timed(lambda: [work(step) for step in range(2, self.case.steps)], self.device)
        tokens = (self.case.steps - 2) * models * load.batch_sequences * load.sequence_length
        flops = load.shape.training_flops(load.sequence_length) * tokens / seconds
        peak = torch.cuda.max_memory_allocated(self.device) if on_gpu else 0
        print(
            f"  {name:<30} {tokens / seconds:>12,.0f} tokens/s {flops / self.rate:6.1%} of the "
            f"product's rate {flops / self.nominal:6.1%} of nominal, peak {peak / 2**30:.2f} GiB"
        )
        return {
            "tokens_per_second": tokens / seconds, "step_seconds": seconds / (self.case.steps - 2),
            "of_measured_rate": flops / self.rate, "of_nominal_rate": flops / self.nominal,
            "peak_bytes": peak,
        }  # fmt: skip

    def compare(self, title: str) -> dict[str, Any]:
        """Measure a group as it ships and its rivals."""
        load = self.case.load
        size = fit_models(load, self.compute, self.device, self.threads)
        print(f"{title}: {load}\n  {size}")
        results: dict[str, Any] = {"size": str(size)}
        derived = step_work(load.shape, step_size(load, size)).seconds(DeviceRates())
        results["group"], together = self.train(f"{size.models} models, as it ships", size)
        print(f"  a step: {results['group']['step_seconds']:.4f} s, {derived:.4f} s derived")
        one = replace(size, models=1, part_models=1)
        results["alone"], alone = self.train("one model, same code", one)
        results["plain"] = self.measured("plain torch, one model", 1, self.plain(size))
        for rival in ("alone", "plain"):
            ratio = results["group"]["tokens_per_second"] / results[rival]["tokens_per_second"]
            results[f"over_{rival}"] = ratio
            print(f"  as it ships over {rival}: {ratio:.2f}x")
        pairs = zip(together, alone, strict=True)
        worst = max(abs(float(first[0] / single[0]) - 1) for first, single in pairs)
        print(f"  largest relative difference of a loss over {self.case.steps} steps: {worst:.1e}")
        assert math.isfinite(worst)
        results |= {"largest_loss_difference": worst, "derived_step_seconds": derived}
        return results

    def plain(self, size: GroupSize) -> Callable[[int], object]:
        """The same model with logits written out, autocast types and torch's fused AdamW."""
        shape = self.case.load.shape
        weights = initial_weights(shape, [0], self.device)
        for weight in weights.values():
            weight.requires_grad_()
        optimiser = torch.optim.AdamW(list(weights.values()), 4e-4, (0.9, 0.95), fused=True)
        micro = min(size.micro_sequences, max(1, (1 << 15) // self.case.load.sequence_length))

        def step(number: int) -> None:
            ids = self.batch(number, 1).to(self.device)
            for part in ids.split(micro, dim=1):
                low = {name: weight.to(self.compute) for name, weight in weights.items()}
                hidden = hidden_states(low, part[:, :, :-1], shape)
                logits = hidden[0] @ low["head"][0].T
                loss = functional.cross_entropy(logits.float(), part[0, :, 1:].flatten().long())
                (loss * part.shape[1] / ids.shape[1]).backward()
            torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
            optimiser.step()
            optimiser.zero_grad()

        return step


def step_size(load: Workload, size: GroupSize, kind: str = "cuda") -> StepSize:
    tokens = size.micro_sequences * load.sequence_length
    chunk = head_chunk(size.models, tokens, load.shape.vocabulary, kind)
    return StepSize(
        models=size.models,
        micro_sequences=size.micro_sequences,
        batch_sequences=load.batch_sequences,
        sequence_length=load.sequence_length,
        chunk_models=chunk.models,
        chunk_tokens=chunk.tokens,
    )


def counts() -> dict[str, Any]:
    """Count a step of one micro-batch on fake devices, beside what `curate.proxy.cost` says."""
    results: dict[str, Any] = {}
    print("| preset | models x sequences | KB a token | of it head | bytes a parameter, update "
          "| kernels | `cost` says: KB a token | kernels |")  # fmt: skip
    print("|---" * 8 + "|")
    for name in ("1M", "10M", "60M"):
        shape = PRESETS[name].sized(IDS)
        load = Workload(shape, 2048, 512, 10**9, 512, 512)
        for size in dict.fromkeys([fitted(load), GroupSize(1, 64, 1), GroupSize(8, 64, 8)]):
            row = count(shape, size)
            results[f"{name} {size.models}x{size.micro_sequences}"] = row
            micro = replace(load, batch_sequences=size.micro_sequences)
            step = step_work(shape, step_size(micro, size))
            tokens = size.models * size.micro_sequences * 2048
            print(f"| {name} | {size.models} x {size.micro_sequences} | {row['token'] / 1e3:.0f} "
                  f"| {row['head'] / 1e3:.0f} | {row['update']:.0f} | {row['kernels']} "
                  f"| {step.bytes / tokens / 1e3:.0f} | {step.launches} |")  # fmt: skip
    shapes = evaluation_shapes()
    print(f"shapes in an evaluation of 17 domains, 72 models: {shapes}")
    return {**results, "evaluation_shapes": shapes}


def fitted(load: Workload) -> GroupSize:
    """Return what `fit_models` chooses where 138 GiB are free."""
    from curate.proxy import memory

    memory.free_bytes = lambda device: 138 << 30
    return fit_models(load, torch.bfloat16, torch.device("cuda"))


def count(shape: Shape, size: GroupSize) -> dict[str, float]:
    settings = StackSettings(
        shape, OptimiserSettings(1e-3, warmup_steps=2), torch.device("meta"), torch.bfloat16
    )
    with fake_meta() as traffic:
        stack = Stack(settings, list(range(size.models)))
        before = traffic.moved_bytes, traffic.launches, traffic.bytes_of.copy()
        ids = torch.zeros((size.models, size.micro_sequences, 2049), dtype=torch.int32)
        stack.train_step(ids, size.micro_sequences)
        whole = traffic.moved_bytes - before[0]
        kernels, by_name = traffic.launches - before[1], traffic.bytes_of - before[2]
        mark = traffic.moved_bytes
        tokens = size.models * size.micro_sequences * 2048
        hidden = torch.zeros(
            (size.models, tokens // size.models, shape.width), dtype=torch.bfloat16, device="meta"
        )
        head = stack.weights["head"].detach()
        stack._head_loss.gradients(
            hidden,
            torch.empty_like(head, dtype=torch.bfloat16),
            torch.zeros(hidden.shape[:2], dtype=torch.int64, device="meta"),
            head,
            1.0,
        )
        head_bytes = traffic.moved_bytes - mark
    update = ("aten._fused_adamw_.default", "aten.linalg_vector_norm.default")
    moved = by_name[update[0]] + 4 * shape.parameters * size.models  # the norms read gradients once
    return {
        "token": whole / tokens,
        "head": head_bytes / tokens,
        "update": moved / shape.parameters / size.models,
        "kernels": kernels,
    }


def evaluation_shapes() -> int:
    """Distinct shapes of batches: documents of log-normal lengths, 17 domains of 100k tokens."""
    rng, lengths = np.random.default_rng(0), []
    for _ in range(17):
        left = 100_000
        while left > 0:
            document = min(left, int(rng.lognormal(6, 1.2)) + 1)
            left -= document
            lengths += [2048] * (document // 2048) + [document % 2048] * (document % 2048 > 0)
    tokens = np.sort(np.array(lengths))
    starts = np.cumsum(tokens + 1) - tokens - 1
    zeros = np.zeros(len(tokens), np.int64)
    rows = ValidationRows(
        np.zeros(int(starts[-1] + tokens[-1] + 1), np.int64), starts, tokens, zeros, zeros, zeros,
        tokens[:1], np.ones(1),
    )  # fmt: skip
    return len({batch.shape for _, batch in rows.batches((1 << 19) // 72, 65_535 // 72)})


def roofline() -> dict[str, Any]:
    """Derive the hours of published searches from arithmetic, traffic and kernels."""
    results: dict[str, Any] = {}
    print(f"| search | {' | '.join(ROOFLINE_DEVICES)} |")
    print("|---" * (len(ROOFLINE_DEVICES) + 1) + "|")
    for name, (preset, ids, length, batch, runs, tokens) in SEARCHES.items():
        shape = PRESETS[preset].sized(ids)
        load = Workload(shape, length, batch, int(tokens), runs, runs)
        cells = []
        for device, (flops, moved) in ROOFLINE_DEVICES.items():
            on_cpu = "CPU" in device
            size = GroupSize(16, batch, 16) if on_cpu else fitted(load)
            share = 1.0 if on_cpu else PRODUCT_SHARE
            rates = DeviceRates(flops * share, moved)
            work = step_work(shape, step_size(load, size))
            step = work.seconds(rates)
            seconds = step * runs * tokens / (size.models * batch * length)
            used = work.flops / step / flops
            results[f"{name} | {device}"] = {"hours": seconds / 3600, "utilisation": used}
            cells.append(hours(seconds) + f" ({used:.0%})")
        print(f"| {name} | {' | '.join(cells)} |")
    return results


def hours(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 36e4 else f"{seconds / 3600:,.0f} h"


if __name__ == "__main__":
    main()
