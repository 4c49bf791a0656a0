"""Arrow tables from NumPy arrays and strings, and back, without pandas.

`pyarrow.array` and `to_numpy` import pandas wherever it is installed, to ask whether a value is one
of its series: half a second of CPU in every process that writes or reads a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Values: TypeAlias = NDArray[Any] | Sequence[str | None]
"""A column: numbers, shape (rows,), or strings."""


def table(columns: Mapping[str, Values], schema: Any = None) -> Any:
    """Make a table of columns of one length.

    Args:
        columns: Values by name.
        schema: Names and types; by default those of the columns.

    Raises:
        UnicodeEncodeError: A string holds a lone surrogate, which UTF-8 has no bytes for.
        ValueError: Columns differ in length, or one holds more than 2 GiB of text.
    """
    arrays = {name: array(values) for name, values in columns.items()}
    return pa.table(arrays, schema)


def array(values: Values) -> Any:
    """Make an array of numbers, shape (rows,), which it shares, or of strings; None is null.

    Raises:
        UnicodeEncodeError: A string holds a lone surrogate, which UTF-8 has no bytes for.
        ValueError: The strings take more than 2 GiB.

    Example:
        >>> array(["a", None, "bc"]).to_pylist()
        ['a', None, 'bc']
    """
    if isinstance(values, np.ndarray):
        buffers = [None, pa.py_buffer(np.ascontiguousarray(values))]
        return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)
    encoded = [b"" if value is None else value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    if ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{ends[-1]} bytes of text, more than a column of strings can hold")
    present = np.array([value is not None for value in values], bool)
    mask = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    offsets, text = ends.astype(np.int32), b"".join(encoded)
    return pa.Array.from_buffers(
        pa.string(), len(encoded), [mask, pa.py_buffer(offsets), pa.py_buffer(text)]
    )


def numbers(array: Any) -> NDArray[Any]:
    """Return the numbers of an array, shape (rows,), which shares them.

    Raises:
        pyarrow.ArrowException: One is null.

    Example:
        >>> numbers(array(np.array([2, 3]))).tolist()
        [2, 3]
    """
    values: NDArray[Any] = np.from_dlpack(array)
    return values
