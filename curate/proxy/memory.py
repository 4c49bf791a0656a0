"""Estimate how many models fit into memory at once, and train fewer when they do not."""

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
"""Bytes a parameter: weight, gradient and two moments, and two temporaries of an update."""

SAFE_SHARE = 0.7
"""Share of the free memory that is planned with."""

UNKNOWN_FREE_BYTES = 4 << 30
"""Memory taken for free where the system does not say; conservative for a machine that trains."""

CPU_MODELS = 16
"""Most models at once on a CPU: more gain no speed, and a group that is killed loses less."""

CPU_TOKENS = 8192
"""Most tokens at a time on a CPU, all models together; four times as many made nano 20 % slower."""


@dataclass(frozen=True, slots=True)
class GroupSize:
    """How much of a swarm is in memory at a time."""

    models: int
    """Models that train together."""
    micro_sequences: int
    """Sequences of each model whose activations are held together."""


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free on a device now, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if sys.platform != "linux":  # the standard library does not tell
        return UNKNOWN_FREE_BYTES
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def model_bytes(shape: Shape, compute: torch.dtype) -> int:
    """Estimate the bytes of one model's state in training, without activations."""
    low = compute.itemsize if compute != torch.float32 else 0
    return shape.parameters * (STATE_BYTES + low)


def sequence_bytes(shape: Shape, sequence_length: int, compute: torch.dtype) -> int:
    """Estimate the bytes of the activations kept for one sequence of one model.

    A layer keeps about twelve tensors of its width (norms, projections, rotated queries and keys)
    and five of its inner width.

    Args:
        shape: Sizes of the model.
        sequence_length: Tokens of a sequence.
        compute: Type of the activations.
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
    """Choose as many models as leave half of the memory to activations, then fill that half.

    Args:
        shape: Sizes of each model.
        sequence_length: Tokens of a sequence.
        batch_sequences: Sequences of a batch of one model; the upper limit.
        compute: Type of the activations.
        device: Device to train on; its free memory is measured now.
    """
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
    """Return whether an exception says that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    messages = ("can't allocate memory", "not enough memory")  # torch's on POSIX, and on Windows
    return isinstance(error, RuntimeError) and any(words in str(error) for words in messages)


def halve_until_it_fits(
    items: Sequence[Item],
    micro_sequences: int,
    work: Callable[[Sequence[Item], int], None],
    notice: Callable[[str], None],
) -> None:
    """Work on all items at once; where memory runs out, on one half after the other.

    A single item that does not fit gets half as many sequences at a time.

    Args:
        items: Runs to train.
        micro_sequences: Sequences of each run at a time.
        work: Called with items and sequences, again with fewer of them where memory ran out.
        notice: Called with a sentence about every halving.

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
    if not failed:
        return
    # Retry outside the handler: inside it the traceback would keep the failed tensors alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(items) > 1:
        half = (len(items) + 1) // 2
        notice(f"out of memory with {len(items)} models at once; trying {half} at once")
        halve_until_it_fits(items[:half], micro_sequences, work, notice)
        halve_until_it_fits(items[half:], micro_sequences, work, notice)
    elif micro_sequences > 1:
        half = micro_sequences // 2
        notice(f"out of memory with {micro_sequences} sequences at a time; trying {half}")
        halve_until_it_fits(items, half, work, notice)
    else:
        raise EngineError(
            "proxy: out of memory with one model and one sequence; set a smaller "
            "proxy.preset or proxy.sequence_length, or proxy.tokenizer: {train: {vocab_size: 8192}}"
        )
