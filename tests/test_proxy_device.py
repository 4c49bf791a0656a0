"""The proxy's code on a device that is not there: nothing is computed, everything is checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bench.fake_device import fake_cuda, fake_meta
from conftest import slow_if
from torch._subclasses.fake_tensor import DataDependentOutputException

from curate.proxy.loss import head_chunk
from curate.proxy.memory import GroupSize, Workload, group_bytes, model_bytes, sequence_bytes
from curate.proxy.optimiser import OptimiserSettings
from curate.proxy.shape import PRESETS, Shape
from curate.proxy.stack import Stack, StackSettings
from curate.proxy.training_batches import ValidationRows

VOCABULARY = 50_277
"""Ids of GPT-NeoX's tokenizer, which RegMix and BiMix use."""


def settings(shape: Shape, device: str) -> StackSettings:
    optimiser = OptimiserSettings(1e-3, warmup_steps=2)
    return StackSettings(shape, optimiser, torch.device(device), torch.bfloat16)


def validation(lengths: list[int]) -> ValidationRows:
    tokens, rows = np.array(lengths), len(lengths)
    return ValidationRows(
        ids=np.zeros(tokens.sum() + rows, np.int64),
        starts=np.cumsum(tokens + 1) - tokens - 1,
        tokens=tokens,
        domain=np.arange(rows) % 2,
        document=np.arange(rows),
        position=np.zeros(rows, np.int64),
        domain_tokens=np.array([tokens[::2].sum(), tokens[1::2].sum()]),
        domain_bytes=np.ones(2),
    )


BY_SIZE = slow_if(lambda name: name not in ("nano", "1M"), PRESETS)


@pytest.mark.parametrize("name", BY_SIZE)
def test_a_step_and_an_evaluation_on_a_fake_gpu(name: str) -> None:
    preset = PRESETS[name]
    length = preset.training.sequence_length
    with fake_cuda() as mode:
        stack = Stack(settings(preset.sized(VOCABULARY), "cuda"), [0, 1])
        mode.weights = stack.weights
        assert {weight.device.type for weight in stack.weights.values()} == {"cuda"}
        loss = stack.train_step(torch.zeros((2, 2, length + 1), dtype=torch.int32), 1)
        assert (loss.device.type, loss.shape) == ("cuda", (2,))
        kept = stack.state().values()
        assert {tensor.device.type for tensor in kept if tensor.dim() > 1} == {"cuda"}
        assert mode.reads == 0  # nothing waits for the device in a step
        nats = stack.domain_losses(validation([length // 2, length, length]), 2 * length)
        assert nats.shape == (2, 2)
        assert mode.reads == 1  # the sums, once


@pytest.mark.parametrize("name", BY_SIZE)
def test_memory_of_a_step_is_what_the_estimate_says(name: str) -> None:
    preset = PRESETS[name]
    shape, length = preset.sized(VOCABULARY), preset.training.sequence_length
    compute = torch.bfloat16
    state, sequence = model_bytes(shape, compute), sequence_bytes(shape, length, compute)
    few = max(2, state // sequence)  # half of the memory to activations, as `fit_models` plans
    peaks, chunks = {}, {}
    for sequences in (few, 2 * few):
        with fake_meta() as traffic:
            stack = Stack(settings(shape, "meta"), [0, 1])
            batch = torch.zeros((2, sequences, length + 1), dtype=torch.int32)
            stack.train_step(batch, sequences)
        peaks[sequences] = traffic.peak_bytes
        load = Workload(shape, length, sequences, 10**9, 2, 2)
        size = GroupSize(2, sequences, 2)
        estimate = group_bytes(size, load, compute, "meta")
        chunk = head_chunk(2, sequences * length, shape.vocabulary, "meta")
        logits = chunk.models * chunk.tokens * shape.vocabulary
        chunks[sequences] = 2 * logits * compute.itemsize
        assert peaks[sequences] <= estimate <= 1.4 * peaks[sequences]
    slope = (peaks[2 * few] - chunks[2 * few] - peaks[few] + chunks[few]) / (2 * few)
    assert sequence == pytest.approx(slope, rel=0.05)


def traffic_of_a_step(shape: Shape, models: int, sequences: int) -> tuple[float, int, int]:
    """Bytes a token, launches, and bytes of fused updates, of a step of one micro-batch."""
    with fake_meta() as traffic:
        stack = Stack(settings(shape, "meta"), list(range(models)))
        before = traffic.moved_bytes, traffic.launches
        stack.train_step(torch.zeros((models, sequences, 2049), dtype=torch.int32), sequences)
    tokens = models * sequences * 2048
    return (
        (traffic.moved_bytes - before[0]) / tokens,
        traffic.launches - before[1],
        traffic.bytes_of["aten._fused_adamw_.default"],
    )


def test_traffic_of_a_token_stays_what_it_is() -> None:
    """Bounds are a fifth above what was counted; a pass more over the logits is 200 KB."""
    shape = PRESETS["1M"].sized(VOCABULARY)
    alone, launches, update = traffic_of_a_step(shape, 1, 64)
    assert alone < 810_000 and launches < 500
    assert update == 32 * shape.parameters  # what a fused update reads and writes, and no more
    stacked, _, _ = traffic_of_a_step(shape, 8, 64)
    assert stacked < 1.05 * alone  # more models have no shorter chunks
    for models in (1, 64):  # without a large head: passes of the blocks
        small, _, _ = traffic_of_a_step(Shape(2, 256, 8, 512, 1024), models, 4)
        assert small < 215_000


@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_a_wrong_device_and_a_read_value_are_errors(device: str) -> None:
    with fake_cuda() if device == "cuda" else fake_meta():
        there, here = torch.zeros(3, device=device), torch.zeros(3)
        with pytest.raises(RuntimeError, match="two devices|different devices|same device"):
            there + here
        with pytest.raises(DataDependentOutputException):
            there.sum().item()
        with pytest.raises(DataDependentOutputException):
            bool((there > 0).any())
        with pytest.raises((DataDependentOutputException, RuntimeError)):
            there.tolist()
