"""Damaged shards through every format's reader: what is there, or a `ShardError`, nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from format_contract import Case, some_batches
from fuzzing import EDITS, damage, fuzz
from hypothesis import strategies as st

from curate.errors import ShardError
from curate.formats import FORMATS, TokenFormat, configure
from curate.formats.base import Settings

SETTINGS = Settings(eos_id=0, vocabulary=50_257, tokenizer="gpt2", sequence_length=16)

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "llmc": ({}, {"variant": "nanogpt"}, {"variant": "nemo"}),
    "olmo": ({}, {"documents": False}),
    "jsonl": ({}, {"variant": "dolma"}, {"variant": "plain"}),
}

CASES = [(name, options) for name in FORMATS for options in VARIANTS.get(name, ({},))]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_damage_is_read_or_refused(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    case = Case(configure(name, replace(SETTINGS, options=options)))
    stem = tmp_path / "shard"
    paths = case.write(stem, some_batches(case))
    contents = [path.read_bytes() for path in paths]

    @fuzz(st.integers(0, len(paths) - 1), EDITS)
    def check(number: int, edits: list[Any]) -> None:
        paths[number].write_bytes(damage(contents[number], edits))
        try:
            for batch in case.read(stem):
                if isinstance(case.format, TokenFormat):
                    assert batch.lengths.sum() == len(batch.tokens)
        except ShardError as error:
            assert str(stem) in str(error)
            assert "\n" not in str(error)
        finally:
            view(case)
            paths[number].write_bytes(contents[number])

    def view(case: Case) -> None:
        """Open the shard as `curate.load` does."""
        if not isinstance(case.format, TokenFormat) or case.format.view is None:
            return
        try:
            case.format.view(stem, case.dtype)
        except ShardError as error:
            assert str(stem) in str(error)

    check()
