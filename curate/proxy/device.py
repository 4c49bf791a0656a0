"""Devices that proxies train on, and the type they compute in."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.errors import InputError
from curate.proxy.optimiser import OptimiserSettings
from curate.proxy.shape import Shape
from curate.proxy.stack import StackSettings


def find_device(name: str) -> torch.device:
    """Return the device of this name; `auto` is a GPU if there is one.

    Raises:
        InputError: This machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's own asserts say what it lacks
        reason = str(error).splitlines()[0]
        raise InputError(
            f"proxy.device: {name} cannot be used ({reason}); set proxy.device: auto or cpu"
        ) from error
    return device


def device_names(text: str) -> list[str]:
    """Split a list of devices separated by commas.

    Example:
        >>> device_names("cuda:0, cuda:1"), device_names("auto")
        (['cuda:0', 'cuda:1'], ['auto'])
    """
    return [name.strip() for name in text.split(",") if name.strip()] or ["auto"]


def find_devices(text: str) -> list[torch.device]:
    """Return the devices that a list names, all of one kind.

    Raises:
        InputError: This machine lacks one of them, or they are of different kinds.
    """
    devices = [find_device(name) for name in device_names(text)]
    kinds = sorted({device.type for device in devices})
    if len(kinds) > 1:
        raise InputError(
            f"proxy.device: {text} names {len(kinds)} kinds of device ({', '.join(kinds)}), which "
            "compute with different precision; name devices of one kind"
        )
    return devices


def stack_settings(
    shape: Shape, optimiser: OptimiserSettings, device: torch.device, threads: int
) -> StackSettings:
    """Put settings together that suit a device: bfloat16 on a GPU, float32 elsewhere.

    Args:
        shape: Sizes of each model.
        optimiser: Settings of the update.
        device: Device to train on.
        threads: CPU threads that torch may use in this process.
    """
    torch.set_num_threads(threads)
    compute = torch.bfloat16 if device.type == "cuda" else torch.float32
    return StackSettings(shape, optimiser, device, compute, threads)


def stage(batches: Iterator[NDArray[np.int32]], device: torch.device) -> Iterator[Tensor]:
    """Make batches ahead, in a thread, in memory that a GPU copies from while it computes."""

    def following() -> Tensor | None:
        batch = next(batches, None)
        if batch is None:
            return None
        tensor = torch.from_numpy(batch)
        return tensor.pin_memory() if device.type == "cuda" else tensor

    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(following)
        while (batch := ahead.result()) is not None:
            ahead = thread.submit(following)
            yield batch
