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
from curate.proxy.cost import TIE, DeviceRates, StepSize, step_work
from curate.proxy.loss import HeadChunk, head_chunk
from curate.proxy.shape import Shape

Item = TypeVar("Item")

STATE_BYTES = 16
"""Bytes a parameter: weight, gradient and two moments, float32."""

SAFE_SHARE = 0.7
"""Share of the free memory that is planned with."""

UNKNOWN_FREE_BYTES = 4 << 30
"""Memory taken for free where the system does not say; conservative for a machine that trains."""

CPU_MODELS = 16
"""Most models at once on a CPU: more gain no speed, and a group that is killed loses less."""

CPU_TOKENS = 4096
"""Tokens of a part of a CPU's models, one sequence at least. A step of 16 nano models of 512 tokens
took 0.25, 0.22, 0.20, 0.19 and 0.21 s of CPU in parts of 1, 2, 4, 8 and 16 models: small parts pay
for more calls, and the activations of large ones leave the caches."""

MOST_ROWS = 65_535
"""Most sequences of all models that attention takes: the limit of a dimension of CUDA's grids."""

GROUP_SECONDS = 3.0
"""Time to start and end a group on a GPU, whatever its models: plans, first kernels, files."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Runs to train, as far as speed and memory depend on them."""

    shape: Shape
    sequence_length: int
    batch_sequences: int
    """Sequences of a step of one model."""
    run_tokens: int
    """Tokens of one run."""
    runs: int
    most_models: int
    """Most models to train at once, whatever the memory."""


@dataclass(frozen=True, slots=True)
class GroupSize:
    """How much of a swarm is in memory at a time."""

    models: int
    """Models that train together."""
    micro_sequences: int
    """Sequences of each model whose activations are held together."""
    part_models: int
    """Models of them that are computed together; fewer on a CPU only."""


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free on a device now, in bytes."""
    if device.type == "cuda":
        # Memory that torch keeps from an earlier swarm is not free to others, but is to torch.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if sys.platform != "linux":  # the standard library does not tell
        return UNKNOWN_FREE_BYTES
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def model_bytes(shape: Shape, compute: torch.dtype) -> int:
    """Estimate the bytes of one model's state in training, without activations.

    Args:
        shape: Sizes of the model.
        compute: Type of the products; unless it is float32, all weights but an untied embedding
            have a copy in it. The embedding's gradient exists twice for a moment.
    """
    low = 0 if compute == torch.float32 else compute.itemsize
    embedding = shape.vocabulary * shape.width
    cast = shape.parameters if shape.tied else shape.parameters - embedding
    return shape.parameters * STATE_BYTES + cast * low + 4 * embedding


def sequence_bytes(shape: Shape, sequence_length: int, compute: torch.dtype) -> int:
    """Estimate the bytes of the activations kept for one sequence of one model.

    A layer keeps eight tensors of its width (results of norms, queries, keys and values before the
    rotation, queries and keys after it, attention) and four of its inner width.

    Args:
        shape: Sizes of the model.
        sequence_length: Tokens of a sequence.
        compute: Type of the activations.
    """
    values = shape.layers * (8 * shape.width + 4 * shape.mlp) + 10 * shape.width
    return values * sequence_length * compute.itemsize


def _chunk(size: GroupSize, workload: Workload, kind: str) -> HeadChunk:
    tokens = size.micro_sequences * workload.sequence_length
    return head_chunk(size.part_models, tokens, workload.shape.vocabulary, kind)


def group_bytes(size: GroupSize, workload: Workload, compute: torch.dtype, kind: str) -> int:
    """Estimate the bytes of a group in training.

    Args:
        size: Models and sequences at a time.
        workload: Their shape.
        compute: Type of the activations.
        kind: Type of the device.
    """
    state = size.models * model_bytes(workload.shape, compute)
    sequence = sequence_bytes(workload.shape, workload.sequence_length, compute)
    at_once = size.part_models * size.micro_sequences * sequence
    chunk = _chunk(size, workload, kind)
    logits = chunk.models * chunk.tokens * workload.shape.vocabulary * compute.itemsize
    return state + at_once + 2 * logits  # and their softmax


def fit_models(
    workload: Workload, compute: torch.dtype, device: torch.device, threads: int = 1
) -> GroupSize:
    """Choose the models and sequences at a time with which tokens take the least time.

    On a GPU, times are those of `cost`, and of a group's start; of sizes within `TIE` of the
    fastest, the one with the fewest models and sequences. Groups are even: 17 runs on a device with
    room for 16 are groups of 9 and 8.

    Args:
        workload: The runs.
        compute: Type of the activations.
        device: Device to train on; its free memory is measured now.
        threads: Threads that train parts, on a CPU.
    """
    room = int(free_bytes(device) * SAFE_SHARE)
    if device.type == "cpu":
        return _fit_cpu(workload, compute, room, threads)
    sizes = [
        GroupSize(models, micro, models)
        for models in _group_sizes(workload)
        for micro in _even_sizes(workload.batch_sequences)
        if models * micro <= MOST_ROWS
    ]
    fitting = [s for s in sizes if group_bytes(s, workload, compute, device.type) <= room]
    seconds = {size: _token_seconds(size, workload, device.type) for size in fitting}
    if not seconds:
        return GroupSize(1, 1, 1)
    most = min(seconds.values()) * TIE
    good = [size for size in fitting if seconds[size] <= most]
    return min(good, key=lambda size: (size.models, size.micro_sequences))


def _token_seconds(size: GroupSize, workload: Workload, kind: str) -> float:
    """Derive the time of a token of one model, with its share of the group's start."""
    chunk = _chunk(size, workload, kind)
    step = StepSize(
        models=size.models,
        micro_sequences=size.micro_sequences,
        batch_sequences=workload.batch_sequences,
        sequence_length=workload.sequence_length,
        chunk_models=chunk.models,
        chunk_tokens=chunk.tokens,
    )
    tokens = size.models * workload.batch_sequences * workload.sequence_length
    seconds = step_work(workload.shape, step).seconds(DeviceRates()) / tokens
    return seconds + GROUP_SECONDS / (size.models * workload.run_tokens)


def _group_sizes(workload: Workload) -> list[int]:
    """Sizes that divide the runs into even groups, ascending."""
    sizes = _even_sizes(workload.runs)
    return [size for size in sizes if size <= workload.most_models]


def _even_sizes(items: int) -> list[int]:
    """Sizes of parts that divide items evenly, ascending, from one to all."""
    return sorted({-(-items // parts) for parts in range(1, items + 1)})


def _fit_cpu(workload: Workload, compute: torch.dtype, room: int, threads: int) -> GroupSize:
    """Choose parts that stay in the caches, and as many models as threads, or a multiple."""
    length = workload.sequence_length
    micros = _even_sizes(workload.batch_sequences)
    micro = max(m for m in micros if m == 1 or m * length <= CPU_TOKENS)
    size = GroupSize(1, micro, 1)
    for models in _group_sizes(workload):
        part = max(1, min(CPU_TOKENS // (micro * length), models // threads))
        larger = GroupSize(models, micro, part)
        parts = group_bytes(larger, workload, compute, "cpu")
        busy = (min(threads, -(-models // part)) - 1) * part * micro
        parts += busy * sequence_bytes(workload.shape, length, compute)
        if models <= CPU_MODELS and parts <= room:
            size = larger
    return size


_NO_MEMORY = (
    "can't allocate memory",  # torch on POSIX
    "not enough memory",  # torch on Windows
    "out of memory",  # CUDA's runtime and driver, outside torch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def halve_until_it_fits(
    items: Sequence[Item],
    micro_sequences: int,
    work: Callable[[Sequence[Item], int], None],
    notice: Callable[[str], None],
) -> None:
    """Work on all items at once; where memory runs out, with fewer sequences, then fewer items.

    Sequences come first: fewer of them cost little, while every group of items starts anew.

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
    if micro_sequences > 1:
        half = (micro_sequences + 1) // 2
        notice(f"out of memory with {micro_sequences} sequences at a time; trying {half}")
        halve_until_it_fits(items, half, work, notice)
    elif len(items) > 1:
        half = (len(items) + 1) // 2
        notice(f"out of memory with {len(items)} models at once; trying {half} at once")
        halve_until_it_fits(items[:half], micro_sequences, work, notice)
        halve_until_it_fits(items[half:], micro_sequences, work, notice)
    else:
        raise EngineError(
            "proxy: out of memory with one model and one sequence; set a smaller "
            "proxy.preset or proxy.sequence_length, or proxy.tokenizer: {train: {vocab_size: 8192}}"
        )
