"""Fake devices: run the proxy's code without computing, to check and to count what it does.

Tensors are fake: they have a shape, a type and a device, and no values. A tensor on the wrong
device is an error, as it is on a real one; so is a value that is read, for which the processor
would have to wait.
There are two stand-ins, since a build of torch without CUDA has no autograd for `cuda`:

* `fake_cuda`: code that asks for the device's type takes its CUDA branch. `backward()` only hands
  out gradients of the right shape.
* `fake_meta`: every operation and the whole backward pass run, and traffic and memory are counted.
  Attention is the flash kernel that a GPU would take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ALLOCATING = {
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
}
"""Operations that only take memory."""

SELECTING = {torch.ops.aten.gather, torch.ops.aten.scatter_, torch.ops.aten.embedding}
"""Operations that touch one value, or one row, of their first tensor for each index."""

REPLACING = {torch.ops.aten._fused_adamw_.default}
"""Operations that read and write the tensors of four lists, and return nothing."""


class Traffic(TorchDispatchMode):
    """Counts launches, bytes moved and the most bytes held on one kind of device.

    Launches are operations that make a tensor or write into one; views are not counted. Bytes moved
    are those of every tensor that such an operation reads or writes, once each; operations that
    pick values by index count what they pick.
    """

    def __init__(self, device: str) -> None:
        """Count nothing yet; `device` is a kind such as `meta`."""
        super().__init__()
        self._device = device
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.launches = self.moved_bytes = self.peak_bytes = 0
        self.bytes_of: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        result = func(*args, **(kwargs or {}))
        if func.namespace == "prim" or func is torch.ops.aten.detach.default:
            return result
        made = self._tensors(result)
        given = self._tensors((args, kwargs))
        if func in REPLACING and given:
            self._count(func, 2 * sum(t.numel() * t.itemsize for t in self._tensors(args[:4])))
        elif made and not func.is_view and func.overloadpacket not in ALLOCATING:
            touched = {id(tensor): tensor for tensor in [*given, *made]}
            if func.overloadpacket in SELECTING:  # one value for each index, not the whole source
                touched.pop(id(args[0]))
            self._count(func, sum(t.numel() * t.itemsize for t in touched.values()))
        for tensor in made:
            self._hold(tensor.untyped_storage())
        return result

    def _count(self, func: Any, moved_bytes: int) -> None:
        self.launches += 1
        self.moved_bytes += moved_bytes
        self.bytes_of[str(func)] += moved_bytes

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._held and not self._held[key][0].expired():
            return
        self._held = {key: each for key, each in self._held.items() if not each[0].expired()}
        self._held[key] = StorageWeakRef(storage), storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    def _tensors(self, tree: Any) -> list[Tensor]:
        leaves = tree_leaves(tree)
        return [x for x in leaves if isinstance(x, Tensor) and x.device.type == self._device]

    @property
    def held_bytes(self) -> int:
        """Bytes of the tensors that lived when memory was last taken."""
        return sum(count for _, count in self._held.values())


def indexed(tensor: Tensor, index: Any) -> Tensor:
    """Index by integers, slices and None, by operations that need no device."""
    dim = 0
    for part in index if isinstance(index, tuple) else (index,):
        if part is None:
            tensor = tensor.unsqueeze(dim)
            dim += 1
        elif isinstance(part, int):
            tensor = tensor.select(dim, part)
        else:
            start, stop, step = part.indices(tensor.shape[dim])
            tensor = torch.ops.aten.slice.Tensor(tensor, dim, start, stop, step)
            dim += 1
    return tensor


class FakeCuda(TorchFunctionMode):
    """Routes what a build without CUDA cannot do itself on fake tensors; counts reads.

    Torch's own indexing, `copy_` and `to` ask for the device before they reach the fake tensors;
    the operators below them do not. `numpy()` gives zeros and is counted as a read.
    """

    def __init__(self) -> None:
        """Start without weights; set `weights` to those that `backward()` gives gradients."""
        super().__init__()
        self.reads = 0
        self.weights: dict[str, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace the few functions that would ask for a device."""
        kwargs = kwargs or {}
        special: dict[Any, Callable[..., Any]] = {
            Tensor.__getitem__: indexed,
            Tensor.__setitem__: lambda x, index, value: self._write(indexed(x, index), value),
            Tensor.copy_: self._write,
            Tensor.to: self._convert,
            Tensor.__invert__: Tensor.bitwise_not,
            Tensor.backward: self._hand_out_gradients,
            Tensor.numpy: self._read,
        }
        return special.get(func, func)(*args, **kwargs)

    @staticmethod
    def _write(target: Tensor, source: Any, non_blocking: bool = False) -> Tensor:
        if not isinstance(source, Tensor):
            return target.fill_(source)
        return torch.ops.aten.copy_.default(target, source, non_blocking)

    @staticmethod
    def _convert(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        device, dtype = device or tensor.device, dtype or tensor.dtype
        if device.type == tensor.device.type and dtype == tensor.dtype:
            return tensor
        return torch.ops.aten._to_copy.default(
            tensor, device=device, dtype=dtype, non_blocking=non_blocking
        )

    def _hand_out_gradients(self, result: Tensor, **_: Any) -> None:
        assert (result.device.type, result.dim()) == ("cuda", 0)
        for weight in self.weights.values():
            weight.grad = torch.zeros_like(weight)

    def _read(self, tensor: Tensor) -> Any:
        assert tensor.device.type == "cpu"
        self.reads += 1
        return np.zeros(tuple(tensor.shape))


class FlashAttention(TorchFunctionMode):
    """Takes the kernel that a GPU would take; for `meta` torch would choose the plain formula."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace attention only."""
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention(*args, 0.0, True)[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Make `cuda` a device of fake tensors, without autograd."""
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), FakeCuda() as mode:
        yield mode


@contextmanager
def fake_meta() -> Iterator[Traffic]:
    """Make `meta` a device of fake tensors with autograd, and count what happens on it."""
    with FakeTensorMode(allow_non_fake_inputs=True), Traffic("meta") as traffic, FlashAttention():
        yield traffic
