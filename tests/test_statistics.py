"""Every statistic keeps the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from statistic_contract import CONTRACT

from curate.stats import STATISTICS, Statistic


@pytest.mark.parametrize("name", list(STATISTICS))
@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_statistics_keep_the_contract(
    check: Callable[[Statistic, Path], None], name: str, tmp_path: Path
) -> None:
    check(STATISTICS[name], tmp_path)
