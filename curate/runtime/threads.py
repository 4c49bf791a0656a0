"""Limit the threads of numerical libraries where one thread is faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_IS_LIMITED = ContextVar("limited", default=False)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run linear algebra on one thread inside a `with` block or a decorated function.

    The matrices of our fits have at most a few thousand rows, and processes, not threads, share the
    work. BLAS's own threads wait for each other by spinning: on 2 busy cores the Gaussian law took
    117 s of RegMix's 512 runs with them and 16 s without.

    Entering takes 1 ms, since the loaded libraries are listed; inside another block, no time.

    Example:
        >>> @one_blas_thread()
        ... def total(rows: int) -> int:
        ...     return sum(range(rows))
        >>> total(4)
        6
    """
    if _IS_LIMITED.get():
        yield
        return
    # SciPy has its own BLAS, which would not be limited if it were loaded inside the block.
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_limits

    before = _IS_LIMITED.set(True)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        _IS_LIMITED.reset(before)
