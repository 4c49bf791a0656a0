"""The device that proxies train on, and the type it computes in."""

from __future__ import annotations

import torch

from curate.errors import InputError
from curate.proxy.optimiser import OptimiserSettings
from curate.proxy.shape import Shape
from curate.proxy.stack import StackSettings


def find_device(name: str) -> torch.device:
    """The device of that name; `auto`: a GPU if there is one.

    Raises:
        InputError: This machine has none of that name.
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


def stack_settings(
    shape: Shape, optimiser: OptimiserSettings, device: torch.device, threads: int
) -> StackSettings:
    """bfloat16 on a GPU, float32 elsewhere; `threads` of the CPU."""
    torch.set_num_threads(threads)
    compute = torch.bfloat16 if device.type == "cuda" else torch.float32
    return StackSettings(shape, optimiser, device, compute)
