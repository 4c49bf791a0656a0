"""Hypothesis strategies that damage bytes, and how long to try.

`CURATE_FUZZ_SECONDS=1200 python -m pytest tests/test_fuzz_readers.py -k csv` tries new inputs for
twenty minutes a test; without the variable each test tries the same few dozen on every run.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SECONDS = float(os.environ.get("CURATE_FUZZ_SECONDS", "0"))

EXAMPLES = 20
"""Inputs of each test on an ordinary run."""

MOST_PER_SECOND = 1000
"""More inputs than any test tries in a second, so that time alone ends a long run."""

NUMBERS = (
    b"\x00" * 8,
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"1e999",
    b"-1",
    b"NaN",
)

PIECES = (
    *NUMBERS,
    b"\n",
    b"\r\n",
    b'"',
    b"\\",
    b"{",
    b"[" * 300,
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b",",
    b"\x00",
)


def fuzz(*strategies: Any, **named: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Try a test on inputs drawn from strategies, as `hypothesis.given` does, for long enough.

    Args:
        strategies: Strategies of the test's arguments, in their order.
        named: Strategies of arguments by name.
    """
    examples = int(SECONDS * MOST_PER_SECOND) or EXAMPLES

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        end: float | None = None  # the clock starts with the first input

        @functools.wraps(test)
        def in_time(*values: Any, **more: Any) -> None:
            nonlocal end
            now = time.monotonic()
            end = end or now + SECONDS
            if not SECONDS or now <= end:
                test(*values, **more)

        return settings(
            max_examples=examples,
            derandomize=not SECONDS,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(given(*strategies, **named)(in_time))

    return decorate


EDIT = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.one_of(
        st.tuples(st.just("flip"), st.integers(1, 255)),
        st.tuples(st.just("insert"), st.sampled_from(PIECES)),
        st.tuples(st.just("overwrite"), st.sampled_from(PIECES)),
        st.tuples(st.just("delete"), st.integers(1, 200)),
        st.tuples(st.just("repeat"), st.integers(1, 200)),
        st.tuples(st.just("cut"), st.just(0)),
    ),
)
"""A place, as a share of the length, and what to do there."""

EDITS = st.lists(EDIT, min_size=1, max_size=5)


def damage(content: bytes, edits: list[tuple[float, tuple[str, Any]]]) -> bytes:
    """Apply edits one after the other."""
    for place, (kind, value) in edits:
        at = int(place * len(content))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ value]) + content[at + 1 :]
        elif kind == "insert":
            content = content[:at] + value + content[at:]
        elif kind == "overwrite":
            content = content[:at] + value + content[at + len(value) :]
        elif kind == "delete":
            content = content[:at] + content[at + value :]
        elif kind == "repeat":
            content = content[: at + value] + content[at:]
        elif kind == "cut":
            content = content[:at]
    return content
