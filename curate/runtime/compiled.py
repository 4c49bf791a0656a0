"""Compile loops over arrays once, and load them in milliseconds afterwards.

A kernel is a plain Python function over pointers and integers, compiled by numba for the types it
is called with. Its object code is kept in the user's cache and loaded by llvmlite alone; numba,
which is slow to import, is needed only where there is no such file yet. Against numba's public
cache (`cfunc(cache=True)`), which needs numba in every process, `curate tokenize` with an empty
store takes 0.97 s instead of 1.40 s and a warm `build` 0.78 s of CPU instead of 2.22 s (medians of
10 and 4 alternating pairs), while a cold build and a warm tokenize do not differ.

Inside a kernel, arrays are pointers, integers have 64 bits, and the result is an integer. A kernel
does arithmetic and calls `prefetch` and other kernels, which may take and return floats there, and
nothing else: no bounds checks, allocations or exceptions. Callers check and allocate.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import inspect
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.runtime.files import hash_bytes, user_cache
from curate.runtime.sealed import read_cached, write_sealed

SCHEMA = 3
"""Cache version. Raise it when compilation or `prefetch` changes."""

_loaded: list[Any] = []
"""Engines that own the loaded code. Freeing one would unmap functions that are still called."""


@dataclass(frozen=True, slots=True)
class Pointers:
    """Pointers to arrays: an array of memory addresses, each that of an array's first item."""

    addresses: NDArray[np.uint64]
    dtype: np.dtype[Any]
    """Type of the items pointed to."""

    @classmethod
    def to(cls, arrays: Sequence[NDArray[Any]]) -> Pointers:
        """Point to arrays of one type, which must outlive the pointers.

        Raises:
            ValueError: An array is not contiguous, or their types differ.
        """
        if len({array.dtype for array in arrays}) != 1:
            raise ValueError("pointers take arrays of one type")
        addresses = np.array([_address(array) for array in arrays], np.uint64)
        return cls(addresses, arrays[0].dtype)


class CompiledKernel:
    """A function over pointers, compiled for each combination of types it is called with."""

    def __init__(self, function: FunctionType) -> None:
        """Wrap a function; nothing is compiled before the first call."""
        self._function = function
        self._compiled: dict[tuple[str, ...], Any] = {}

    def __call__(self, *arguments: NDArray[Any] | Pointers | float | np.integer[Any]) -> int:
        """Run on arrays (passed as pointers to their first items), `Pointers` and integers.

        Raises:
            ValueError: An array is not contiguous, so its items do not follow the first one.
            TypeError: An argument is a float, which only another kernel may pass.
        """
        types, values = zip(*map(_lower, arguments), strict=True)
        compiled = self._compiled.get(types)
        if compiled is None:
            compiled = self._compiled[types] = self._load(types)
        return int(compiled(*values))

    def _load(self, types: tuple[str, ...]) -> Any:
        path = user_cache() / "kernels" / f"{self._key(types)}.o"
        # Damaged code would kill the process. It is compiled again without a word, as kernels are
        # loaded far from anything that could tell the user, and give the same results.
        code = read_cached(path, "compiled again", lambda _: None)
        if code is None:
            code = _compile(self._function, types)
            with contextlib.suppress(OSError):  # a read-only home: the next process compiles again
                write_sealed(path, code)
        symbol, _, binary = code.partition(b"\n")
        return _link(symbol.decode(), binary, len(types))

    def _key(self, types: tuple[str, ...]) -> str:
        import llvmlite
        import llvmlite.binding as llvm

        machine = [llvmlite.__version__, llvm.get_host_cpu_name()]
        machine.append(llvm.get_host_cpu_features().flatten())
        parts = [f"schema {SCHEMA}", *_sources(self._function), *types, *machine]
        return f"{self._function.__name__}-{hash_bytes(*(part.encode() for part in parts))[:24]}"


def kernel(function: Callable[..., int]) -> CompiledKernel:
    """Compile a function on its first call for each combination of argument types.

    Example:
        >>> @kernel
        ... def total(values, count):
        ...     result = 0
        ...     for position in range(count):
        ...         result += values[position]
        ...     return result
        >>> total(np.arange(5), 5)
        10
    """
    assert isinstance(function, FunctionType)
    return CompiledKernel(function)


def prefetch(pointer: NDArray[Any], position: int) -> None:
    """Fetch an item's cache line before it is written; only for use inside a kernel.

    This hint changes no result. Processors complete writes in order, so a write that misses the
    cache delays all that follow.
    """


def _lower(argument: NDArray[Any] | Pointers | float | np.integer[Any]) -> tuple[str, int]:
    """Return an argument's type, in a notation of our own, and its machine word."""
    if isinstance(argument, np.ndarray):
        return f"*{argument.dtype.str[1:]}", _address(argument)
    if isinstance(argument, Pointers):
        return f"**{argument.dtype.str[1:]}", argument.addresses.__array_interface__["data"][0]
    return "i8", operator.index(argument)  # type: ignore[arg-type]


def _address(array: NDArray[Any]) -> int:
    if not array.flags.c_contiguous:
        raise ValueError("a kernel takes contiguous arrays")
    address: int = array.__array_interface__["data"][0]
    return address


def _sources(function: FunctionType) -> Iterator[str]:
    """Yield the source of a kernel and the numbers it names, then those of the kernels it calls."""
    yield inspect.getsource(function)
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, (int, float)):
            yield f"{name} = {value!r}"
        elif isinstance(value, CompiledKernel):
            yield from _sources(value._function)


def _compile(function: FunctionType, types: tuple[str, ...]) -> bytes:
    """Return symbol, line break and object code, through the interface that numba's cache uses."""
    numba: Any = importlib.import_module("numba")
    signature = numba.types.int64(*(_numba_type(numba, name) for name in types))
    compiled = numba.cfunc(signature, error_model="numpy")(_for_numba(numba, function))
    _, kind, (binary, _) = compiled._library.serialize_using_object_code()
    assert kind == "object"
    symbol: str = compiled._wrapper_name
    return symbol.encode() + b"\n" + bytes(binary)


def _for_numba(numba: Any, function: FunctionType) -> FunctionType:
    """Return a kernel's function, with `prefetch` and the kernels it calls replaced by numba's."""
    names = {**function.__globals__, prefetch.__name__: _prefetch_of(numba)}
    for name in function.__code__.co_names:
        called = names.get(name)
        if isinstance(called, CompiledKernel):
            plain = _for_numba(numba, called._function)
            # A call that stays in the code needs numba in every process, to pass on exceptions.
            names[name] = numba.njit(error_model="numpy", inline="always")(plain)
    return FunctionType(function.__code__, names, function.__name__)


def _prefetch_of(numba: Any) -> Any:
    """Define `prefetch` for numba, as the processor's own instruction."""
    from llvmlite import ir

    def typed(_: Any, pointer: Any, position: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
            function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
            address = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), byte)
            # Arguments of llvm.prefetch: for writing (1), keep in every cache (3), data (1).
            builder.call(function, [address, word(1), word(3), word(1)])
            return context.get_dummy_value()

        return numba.types.void(pointer, position), generate

    return numba.extending.intrinsic(typed)


def _numba_type(numba: Any, name: str) -> Any:
    if name.startswith("*"):
        return numba.types.CPointer(_numba_type(numba, name[1:]))
    return numba.from_dtype(np.dtype(name))


def _link(symbol: str, binary: bytes, arguments: int) -> Any:
    """Load object code into the process and return a callable that takes machine words."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault")
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(binary))
    engine.finalize_object()
    _loaded.append(engine)
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arguments)
    return prototype(engine.get_function_address(symbol))
