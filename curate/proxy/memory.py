"""How many models fit at once, and what to do when they do not after all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from curate.errors import EngineError
from curate.proxy.loss import chunk_tokens
from curate.proxy.shape import Shape

Item = TypeVar("Item")

STATE_BYTES = 16 + 8
"""A parameter's weight, gradient and two moments, and what an update holds beside them."""

SAFE_SHARE = 0.7
"""Share of the free memory that is planned with."""

UNKNOWN_FREE_BYTES = 4 << 30
"""Memory taken for free where the system does not say; conservative for a machine that trains."""

CPU_MODELS = 16
"""A CPU gains nothing from more at once, and a killed group loses less."""

CPU_TOKENS = 8192
"""At a time on a CPU, all models together; nano was 20 % slower with four times as many."""


@dataclass(frozen=True, slots=True)
class GroupSize:
    """How a swarm is cut up."""

    models: int
    micro_sequences: int


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if sys.platform != "linux":  # the standard library does not tell
        return UNKNOWN_FREE_BYTES
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def model_bytes(shape: Shape, compute: torch.dtype) -> int:
    """Of one model's state in training; an estimate that leaves activations out."""
    low = compute.itemsize if compute != torch.float32 else 0
    return shape.parameters * (STATE_BYTES + low)


def sequence_bytes(shape: Shape, sequence_length: int, compute: torch.dtype) -> int:
    """Activations kept for one training sequence of one model; an estimate.

    A layer keeps about twelve tensors of its width (norms, projections, rotated queries and keys)
    and five of its inner width.
    """
    values = shape.layers * (12 * shape.width + 5 * shape.mlp) + 6 * shape.width
    return values * sequence_length * compute.itemsize


def fit_models(
    shape: Shape,
    sequence_length: int,
    batch_sequences: int,
    compute: torch.dtype,
    device: torch.device,
) -> GroupSize:
    """As many models as leave half of the memory to activations, then sequences to fill that."""
    room = int(free_bytes(device) * SAFE_SHARE)
    state, sequence = model_bytes(shape, compute), sequence_bytes(shape, sequence_length, compute)
    chunk = chunk_tokens(1, shape.vocabulary, device) * shape.vocabulary * 8
    models = max(1, (room - chunk) // (2 * max(state, sequence)))
    if device.type == "cpu":
        models = min(models, CPU_MODELS)
    micro = max(1, (room - chunk - models * state) // (models * sequence))
    if device.type == "cpu":
        micro = max(1, min(micro, CPU_TOKENS // (models * sequence_length)))
    micro = min(batch_sequences, 1 << (micro.bit_length() - 1))
    return GroupSize(models, micro)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = ("can't allocate memory", "not enough memory")  # torch's on POSIX, and on Windows
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def halve_until_it_fits(
    items: Sequence[Item],
    micro_sequences: int,
    work: Callable[[Sequence[Item], int], None],
    notice: Callable[[str], None],
) -> None:
    """Work on all items at once, or on halves where memory runs out, one half after the other.

    One item alone gets fewer sequences at a time instead.

    Args:
        items: Runs.
        micro_sequences: Sequences of each at a time.
        work: Takes items and sequences; may be called again with fewer of them.
        notice: Hears of every halving.

    Raises:
        EngineError: One item with one sequence does not fit.
    """
    failed = False
    try:
        work(items, micro_sequences)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True
    if not failed:  # the rest stands outside the handler, whose traceback would hold the tensors
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(items) > 1:
        half = (len(items) + 1) // 2
        notice(f"out of memory with {len(items)} models at once: going on with {half}")
        halve_until_it_fits(items[:half], micro_sequences, work, notice)
        halve_until_it_fits(items[half:], micro_sequences, work, notice)
    elif micro_sequences > 1:
        half = micro_sequences // 2
        notice(f"out of memory with {micro_sequences} sequences at a time: going on with {half}")
        halve_until_it_fits(items, half, work, notice)
    else:
        raise EngineError(
            "proxy: one model with one sequence does not fit into memory; set a smaller "
            "proxy.preset or proxy.sequence_length, or proxy.tokenizer: {train: {vocab_size: 8192}}"
        )
