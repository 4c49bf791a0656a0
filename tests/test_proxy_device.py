"""The proxy's code on a device that is not there: nothing is computed, everything is checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bench.fake_device import fake_cuda, fake_meta
from torch._subclasses.fake_tensor import DataDependentOutputException

from curate.proxy.loss import chunk_tokens
from curate.proxy.memory import model_bytes, sequence_bytes
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


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_step_and_an_evaluation_on_a_fake_gpu(name: str) -> None:
    preset = PRESETS[name]
    length = preset.training.sequence_length
    with fake_cuda() as mode:
        stack = Stack(settings(preset.sized(VOCABULARY), "cuda"), [0, 1])
        mode.weights = stack.weights
        assert {weight.device.type for weight in stack.weights.values()} == {"cuda"}
        loss = stack.train_step(np.zeros((2, 2, length + 1), np.int64), 1)
        assert (loss.device.type, loss.shape) == ("cuda", (2,))
        kept = stack.state().values()
        assert {tensor.device.type for tensor in kept if tensor.dim() > 1} == {"cuda"}
        assert mode.reads == 0  # nothing waits for the device in a step
        nats = stack.domain_losses(validation([length // 2, length, length]), 2 * length)
        assert nats.shape == (2, 2)
        assert mode.reads == 1  # the sums, once


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if preset.layers > 6 else ())
        for name, preset in PRESETS.items()
    ],
)
def test_memory_of_a_step_is_what_the_estimate_says(name: str) -> None:
    preset = PRESETS[name]
    shape, length = preset.sized(VOCABULARY), preset.training.sequence_length
    compute = torch.bfloat16
    state, sequence = model_bytes(shape, compute), sequence_bytes(shape, length, compute)
    chunk = chunk_tokens(2, shape.vocabulary, torch.device("meta")) * 2 * shape.vocabulary * 8
    few = max(2, state // sequence)  # half of the memory to activations, as `fit_models` plans
    peaks = {}
    for sequences in (few, 2 * few):
        with fake_meta() as traffic:
            stack = Stack(settings(shape, "meta"), [0, 1])
            stack.train_step(np.zeros((2, sequences, length + 1), np.int64), sequences)
        peaks[sequences] = traffic.peak_bytes
        estimate = 2 * state + 2 * sequences * sequence + chunk
        assert peaks[sequences] <= estimate <= 1.4 * peaks[sequences]
    slope = (peaks[2 * few] - peaks[few]) / (2 * few)
    assert sequence == pytest.approx(slope, rel=0.05)


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
