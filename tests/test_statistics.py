"""Every statistic keeps the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from statistic_contract import CONTRACT

from curate.stats import STATISTICS, Statistic


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all checks, so that the texts are tokenised once."""
    return tmp_path_factory.mktemp("statistics")


@pytest.mark.parametrize("name", list(STATISTICS))
@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_statistics_keep_the_contract(
    check: Callable[[Statistic, Path], None], name: str, folder: Path
) -> None:
    check(STATISTICS[name], folder)
