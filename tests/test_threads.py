"""BLAS is limited inside the outermost block, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from threadpoolctl import threadpool_info, threadpool_limits

from curate.runtime.threads import one_blas_thread


def blas_threads() -> set[int]:
    assert np.linalg.norm([3.0, 4.0]) == scipy.linalg.norm([3.0, 4.0]) == 5
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_the_outermost_block_limits_and_lets_go() -> None:
    with threadpool_limits(2, user_api="blas"):
        with pytest.raises(ValueError, match="inner"), one_blas_thread(), one_blas_thread():
            raise ValueError("inner")
        with one_blas_thread():
            with one_blas_thread():
                assert blas_threads() == {1}
            assert blas_threads() == {1}
        assert blas_threads() == {2}
