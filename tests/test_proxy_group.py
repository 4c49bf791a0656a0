"""Groups of models in parts and threads: the same numbers as one stack, saved and resumed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from curate.proxy import train
from curate.proxy.device import stage
from curate.proxy.group import ModelGroup
from curate.proxy.memory import GroupSize
from curate.proxy.optimiser import OptimiserSettings
from curate.proxy.shape import Shape
from curate.proxy.stack import Stack, StackSettings
from curate.proxy.training_batches import ValidationRows

CPU = torch.device("cpu")
TINY = Shape(2, 16, 2, 32, 64)


def settings(threads: int = 1) -> StackSettings:
    optimiser = OptimiserSettings(5e-4, steps=200, warmup_steps=10)
    return StackSettings(TINY, optimiser, CPU, torch.float32, threads)


def batches(models: int, steps: int) -> torch.Tensor:
    """Sequences that count upwards, so that there is something to learn."""
    starts = np.random.default_rng(0).integers(0, 64, (steps, models, 4, 1))
    ids = (starts + np.arange(17) * (1 + np.arange(models)[:, None, None])) % 64
    return torch.from_numpy(ids.astype(np.int32))


def rows() -> ValidationRows:
    tokens = np.array([3, 5, 9, 16])
    starts = np.cumsum(tokens + 1) - tokens - 1
    owner = np.array([0, 1, 1, 0])
    ids = np.arange(int(starts[-1]) + 17) % 64
    return ValidationRows(ids, starts, tokens, owner, owner, owner, np.array([19, 14]), np.ones(2))


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        pytest.param(GroupSize(5, 2, 2), 200, marks=pytest.mark.slow),
        (GroupSize(5, 4, 1), 12),
        pytest.param(GroupSize(5, 1, 5), 12, marks=pytest.mark.slow),
    ],
)
def test_parts_and_threads_train_as_one_stack(size: GroupSize, steps: int) -> None:
    stack = Stack(settings(), range(5))
    group = ModelGroup(settings(threads=2), range(5), size)
    first = None
    for batch in batches(5, steps):
        expected = stack.train_step(batch, 4)
        losses = group.train_step(batch)
        first = losses if first is None else first
        assert torch.allclose(losses, expected, rtol=1e-3)
    assert first is not None
    assert steps < 200 or losses.max() < 0.5 * first.min()  # they have learnt
    for name, tensor in stack.state().items():
        assert group.state()[name].shape == tensor.shape
    assert group.domain_losses(rows(), 32) == pytest.approx(
        stack.domain_losses(rows(), 1), rel=1e-3
    )


def test_a_group_resumes_in_other_parts() -> None:
    data = batches(4, 20)
    whole = ModelGroup(settings(threads=2), range(4), GroupSize(4, 4, 1))
    for batch in data[:10]:
        whole.train_step(batch)
    state = {name: tensor.clone() for name, tensor in whole.state().items()}
    again = ModelGroup(settings(), [9] * 4, GroupSize(4, 2, 3), state)
    assert again.step_number == 10
    for batch in data[10:]:
        assert torch.allclose(again.train_step(batch), whole.train_step(batch), rtol=1e-4)
    assert again.failed_steps() == [0] * 4


def test_batches_are_made_ahead_in_order_and_end() -> None:
    def numbers() -> Iterator[NDArray[np.int32]]:
        for number in range(5):
            yield np.full((1, 2), number, np.int32)

    assert [int(batch[0, 0]) for batch in stage(numbers(), CPU)] == list(range(5))

    def broken() -> Iterator[NDArray[np.int32]]:
        yield np.zeros((1, 2), np.int32)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(stage(broken(), CPU))


def test_saving_takes_a_bounded_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = train._SavePace()
    assert pace.is_due(measured=True) and not pace.is_due(measured=False)
    with pace.saving():
        now[0] = 10.0
    now[0] = 209.0
    assert not pace.is_due(measured=True)  # 10 s are 5 % of 200
    now[0] = 211.0
    assert pace.is_due(measured=True) and pace.is_due(measured=False)
