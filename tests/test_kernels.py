"""Compiled loops: right for every type, kept between processes, never loaded when damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from curate.runtime.compiled import Pointers, kernel, prefetch

PROGRAM = """
import sys
import numpy as np
from curate.tokens.counting import count_stream
from test_kernels import scale_all
table = count_stream(np.array([1, 2, 1, 2, 0], np.uint16), end=0, symbols=3)
values = np.arange(10.0)
scale_all(values, 5)
print(table.count.tolist(), values.sum(), "numba" in sys.modules)
"""


@kernel
def weighted_sum(values, weights, count):  # type: ignore[no-untyped-def]
    total = 0
    for position in range(count):
        total += values[position] * weights[position]
    return total


@kernel
def gather(sources, lengths, count, out):  # type: ignore[no-untyped-def]
    write = 0
    for source in range(count):
        pointer = sources[source]
        for position in range(lengths[source]):
            out[write] = pointer[position]
            write += 1
    return write


@kernel
def scatter(values, places, count, out):  # type: ignore[no-untyped-def]
    for position in range(count):
        prefetch(out, places[position])
    for position in range(count):
        out[places[position]] = values[position]
    prefetch(out, 1 << 60)  # nobody's memory
    return count


SCALE = 0.5


@kernel
def scaled(value):  # type: ignore[no-untyped-def]
    return SCALE * value


@kernel
def scale_all(values, count):  # type: ignore[no-untyped-def]
    """Scale the first values, and clear as many after them."""
    for position in range(count):
        values[position] = scaled(values[position])
    for position in range(count):
        values[count + position] = 0.0
    return count


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32, np.int64])
def test_types(dtype: type) -> None:
    values = np.arange(1000).astype(dtype)
    weights = np.arange(1000)[::-1].copy()
    assert weighted_sum(values, weights, 1000) == int(values.astype(np.int64) @ weights)


def test_pointers() -> None:
    items = np.arange(100, dtype=np.uint16)
    starts, lengths = np.array([90, 5, 50]), np.array([10, 0, 3])
    out = np.zeros(13, np.uint32)
    addresses = np.uint64(items.ctypes.data) + 2 * starts.astype(np.uint64)
    assert gather(Pointers(addresses, items.dtype), lengths, 3, out) == 13
    assert out.tolist() == [*range(90, 100), 50, 51, 52]


def test_pointers_to_arrays() -> None:
    arrays = [np.arange(100, dtype=np.uint16)[90:], np.arange(50, 53, dtype=np.uint16)]
    out = np.zeros(13, np.uint32)
    assert gather(Pointers.to(arrays), np.array([10, 3]), 2, out) == 13
    assert out.tolist() == [*range(90, 100), 50, 51, 52]
    with pytest.raises(ValueError, match="contiguous"):
        Pointers.to([arrays[0][::2]])
    with pytest.raises(ValueError, match="one type"):
        Pointers.to([arrays[0], np.arange(3)])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
def test_prefetching_is_a_hint(dtype: type) -> None:
    places = np.random.default_rng(1).permutation(1000)
    out = np.zeros(1000, dtype)
    assert scatter(np.arange(1000), places, 1000, out) == 1000
    assert (out[places] == np.arange(1000).astype(dtype)).all()


def test_strided_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        weighted_sum(np.arange(10)[::2], np.arange(5), 5)


def test_floats_come_only_from_kernels() -> None:
    with pytest.raises(TypeError, match="float"):
        weighted_sum(np.arange(5), np.arange(5), 4.5)


def test_a_kernel_calls_another_and_is_compiled_again_when_that_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, module = np.arange(4.0), sys.modules[__name__]
    scale_all(values, 2)
    assert values.tolist() == [0.0, 0.5, 0.0, 0.0]
    monkeypatch.setattr(module, "SCALE", 4.0)
    kernel(scale_all._function)(values, 2)
    assert values.tolist() == [0.0, 2.0, 0.0, 0.0]


def run(cache: Path) -> str:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": path}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return done.stdout.strip()


def test_a_second_process_does_not_import_numba(tmp_path: Path) -> None:
    assert run(tmp_path) == "[2, 1, 1] 5.0 True"  # bigrams (1, 2), (2, 0) and (2, 1)
    assert run(tmp_path) == "[2, 1, 1] 5.0 False"
    for path in (tmp_path / "curate" / "kernels").iterdir():
        path.write_bytes(path.read_bytes()[:-7])
    assert run(tmp_path) == "[2, 1, 1] 5.0 True"
    assert run(tmp_path) == "[2, 1, 1] 5.0 False"
