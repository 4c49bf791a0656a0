"""`curate stats --intervals` and `--compare`, as they are used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Listener

from curate.cli import cli
from curate.pipeline.report_stats import report_stats
from curate.recipe import load

pytestmark = pytest.mark.usefixtures("small_search")

FIELDS = ("nats", "low", "high", "estimator", "sample_tokens")
MEASURES = ("shannon", "joint", "conditional", "von_neumann")


def test_stats_compare_writes_intervals_and_mixtures(recipe: Path) -> None:
    recipe.write_text(
        recipe.read_text("utf-8").replace("/*", "/part-0*"), "utf-8"
    )  # half, for speed
    by_hand = 'mixture.weights={"wiki": 2, "code": 1, "talk": 1}'
    done = CliRunner().invoke(
        cli, ["stats", str(recipe), "--compare", "--workers", "1", "--set", by_hand]
    )
    assert done.exit_code == 0, done.output
    for heading in ("CE held-out", "vN bits", "as the sample grows", "between domains: not shown",
                    "mixtures of", "distance"):  # fmt: skip
        assert heading in done.output
    directory = recipe.parent / "out" / "tiny"
    report = json.loads((directory / "entropy_report.json").read_text("utf-8"))
    stats = json.loads((directory / "stats.json").read_text("utf-8"))
    assert report["recipe_hash"] == stats["recipe_hash"]
    for name, row in report["domains"].items():
        for measure in MEASURES:
            found = row["entropy"][measure]
            assert found["low"] < found["nats"] < found["high"], (name, measure)
        joint = row["entropy"]["shannon"]["nats"] + row["entropy"]["conditional"]["nats"]
        assert row["entropy"]["joint"]["nats"] == pytest.approx(joint, abs=1e-12)
        for measure, found in stats["domains"][name]["entropy"].items():
            same = row["entropy"][measure]
            assert {field: same[field] for field in FIELDS} == {
                field: found[field] for field in FIELDS
            }

    mixtures = report["comparison"]["mixtures"]
    assert list(mixtures) == ["natural", "uniform", "unimax", "manual", "entropy, plug-in",
                              "entropy, conditional", "entropy, shannon", "entropy, joint",
                              "entropy, von_neumann", "leverage"]  # fmt: skip
    for mixture in mixtures.values():
        assert sum(mixture["weights"].values()) == pytest.approx(1, abs=1e-12)
    supply = {name: row["tokens_train"] for name, row in stats["domains"].items()}
    natural, manual = mixtures["natural"], mixtures["manual"]
    assert natural["tv_natural"] == 0
    assert manual["weights"] == {"wiki": 0.5, "code": 0.25, "talk": 0.25}
    moved = sum(abs(manual["weights"][name] - natural["weights"][name]) for name in supply)
    assert manual["tv_natural"] == pytest.approx(moved / 2)
    for name, tokens in supply.items():
        assert natural["epochs"][name] == pytest.approx(30_000 / sum(supply.values()))
        assert manual["epochs"][name] == pytest.approx(manual["weights"][name] * 30_000 / tokens)
        corrected = mixtures["entropy, conditional"]
        assert corrected["low"][name] < corrected["weights"][name] < corrected["high"][name]

    # A domain below the common sample is warned of, and not compared with the others.
    small = [
        name
        for name, row in report["domains"].items()
        if row["entropy"]["shannon"]["sample_tokens"] < report["sample"]["tokens"]
    ]
    assert small and any(text.startswith(f"'{small[0]}' has") for text in report["warnings"])
    between = report["between"]
    assert between["js"][between["order"].index(small[0])] == [None] * len(supply)


@pytest.mark.usefixtures("own_store")
def test_intervals_are_measured_once(recipe: Path) -> None:
    half = recipe.read_text("utf-8").replace("/*", "/part-0*")
    recipe.write_text(half, "utf-8")
    directory = recipe.parent / "out" / "tiny"
    cache = recipe.parent / ".curate"
    written: dict[str, bytes] = {}

    def measured() -> bool:
        """Whether a call measures; its files are the same in either case."""
        nonlocal written
        heard = Listener()
        report_stats(load(recipe), 1, heard, intervals=True, compare=False)
        files = {
            name: (directory / name).read_bytes() for name in ("entropy_report.json", "stats.json")
        }
        assert files == (written or files)
        written = files
        return "entropies" in heard.begun

    assert measured() and not measured()
    for pattern in ("report-*", "code-tokens-*"):
        (kept,) = cache.glob(f"evidence/*/{pattern}")
        content = bytearray(kept.read_bytes())
        content[len(content) // 2] ^= 1
        kept.write_bytes(content)
        assert measured() and not measured(), pattern
    heard = Listener()
    report_stats(load(recipe, ("seed=1",)), 1, heard, intervals=True, compare=False)
    assert "entropies" in heard.begun
