"""Derive the time of a token on a GPU, by which `fit_models` compares sizes; needs no torch.

A micro-step takes as long as the slower of two: the processor that launches kernels, and the device
that runs them. A kernel takes as long as its arithmetic, its traffic, or the least that any takes;
their sum stands for all. Counts of kernels and bytes are those of the code, which
`tools/bench/proxy.py --counts` checks on fake devices. Rates are round numbers for a large GPU, not
measured here: a smaller one is filled sooner, so sizes that fill the large one fill it too.
"""

from __future__ import annotations

from dataclasses import dataclass

from curate.proxy.shape import Shape

TIE = 1.03
"""Factor of the least time up to which sizes count as equally fast."""

LAYER_LAUNCHES, CHUNK_LAUNCHES, MICRO_LAUNCHES = 64, 15, 45
"""Kernels of a micro-step: for each layer, for each chunk of the head, and otherwise."""

MODEL_LAUNCHES, STEP_LAUNCHES = 2, 60
"""Kernels of a step: for each model, and otherwise."""

WIDTH_PASSES, INNER_PASSES, LOGIT_PASSES = 85, 23, 5
"""Times that a layer reads or writes a value of a token's width and of its inner width in training,
and the head one of its logits."""

STEP_BYTES, MICRO_BYTES, HEAD_BYTES = 46, 14, 16
"""Bytes moved for each parameter in a step and in a micro-step, and for each of the head's in a
chunk."""


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """Rates of a GPU; the defaults are round numbers for a large one."""

    flops: float = 6e14
    """Operations a second in large products in bfloat16."""
    bytes: float = 3.5e12
    """Bytes a second to and from its memory."""
    launch_seconds: float = 6e-6
    """Time of the processor to start a kernel from Python."""
    kernel_seconds: float = 3e-6
    """Least time of a kernel."""


@dataclass(frozen=True, slots=True)
class StepWork:
    """Work of one step of models that train together."""

    flops: float
    bytes: float
    launches: int

    def seconds(self, rates: DeviceRates) -> float:
        """Return the time of the step."""
        device = self.flops / rates.flops + self.bytes / rates.bytes
        device += self.launches * rates.kernel_seconds
        return max(device, self.launches * rates.launch_seconds)


@dataclass(frozen=True, slots=True)
class StepSize:
    """Sizes of a step."""

    models: int
    micro_sequences: int
    batch_sequences: int
    sequence_length: int
    chunk_models: int
    """Models of a chunk of the head."""
    chunk_tokens: int
    """Tokens of each of them."""


def step_work(shape: Shape, size: StepSize) -> StepWork:
    """Count the work of one step.

    Args:
        shape: Sizes of each model.
        size: Sizes of the step.
    """
    micro_steps = -(-size.batch_sequences // size.micro_sequences)
    micro_tokens = size.micro_sequences * size.sequence_length
    tokens = size.models * size.batch_sequences * size.sequence_length
    chunks_each = -(-micro_tokens // size.chunk_tokens)
    chunks = chunks_each * -(-size.models // size.chunk_models)
    head = shape.vocabulary * shape.width
    values = shape.layers * (WIDTH_PASSES * shape.width + INNER_PASSES * shape.mlp)
    values += LOGIT_PASSES * shape.vocabulary
    state = STEP_BYTES * shape.parameters
    state += micro_steps * (MICRO_BYTES * shape.parameters + HEAD_BYTES * head * chunks_each)
    launches = MICRO_LAUNCHES + LAYER_LAUNCHES * shape.layers + CHUNK_LAUNCHES * chunks
    return StepWork(
        flops=shape.training_flops(size.sequence_length) * tokens,
        bytes=2.0 * values * tokens + size.models * state,
        launches=micro_steps * launches + MODEL_LAUNCHES * size.models + STEP_LAUNCHES,
    )
