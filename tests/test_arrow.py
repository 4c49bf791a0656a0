"""Arrow tables made without pandas."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from curate.runtime import arrow

TEXTS = ("", "aé", None, "\U0001f600", "\0", None, "b", "c", "d")


@pytest.mark.parametrize(
    "values",
    [
        *([TEXTS[:count] for count in (0, 2, 5, len(TEXTS))]),
        np.arange(10, dtype=np.int64)[::3],
        np.array([0.5, np.nan], np.float32),
        np.empty(0, np.uint8),
    ],
    ids=str,
)
def test_arrays_are_those_of_pyarrow(values: arrow.Values) -> None:
    made = arrow.array(values)
    made.validate(full=True)
    expected = pa.array(values, None if isinstance(values, np.ndarray) else pa.string())
    assert made.type == expected.type and str(made) == str(expected)
    assert made.null_count == expected.null_count


def test_tables_have_the_types_of_their_schema() -> None:
    schema = pa.schema([("bytes", pa.int64()), ("text", pa.string())])
    made = arrow.table({"bytes": np.array([1, 2], np.uint32), "text": ["a", None]}, schema)
    assert made.schema == schema and made["bytes"].to_pylist() == [1, 2]
    with pytest.raises(UnicodeEncodeError):
        arrow.array(["a", "\ud800"])
    with pytest.raises(ValueError, match="length"):
        arrow.table({"a": ["b"], "c": ["d", "e"]})


def test_files_are_written_without_pandas() -> None:
    pytest.importorskip("pandas")
    code = """if True:
        import sys, tempfile, numpy as np
        from pathlib import Path
        from curate.formats import parquet
        from curate.formats.base import TextBatch
        from curate.proxy.curves import write_curves
        with tempfile.TemporaryDirectory() as directory:
            batch = TextBatch(["text"], ["id"], ["domain"], ["{}"])
            parquet.write(Path(directory, "a"), [batch])
            write_curves(Path(directory, "b"), [("run", 0)], np.zeros((1, 3), np.float32), 8)
        print("pandas" in sys.modules)"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
