"""Measured entropies that drive a mixture: when they are made, kept, and what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import Listener, write_jsonl

from curate.errors import InputError
from curate.pipeline.plan import plan_dataset
from curate.recipe import MixtureRecipe, load
from curate.report.tables import stats_table

CORRECTED = "mixture={method: entropy, estimator: corrected}"


def planned(recipe: Path, *overrides: str) -> tuple[Any, dict[str, Any], Listener]:
    """Weights as `mixture.json` has them, `stats.json`, and what was said."""
    heard = Listener()
    loaded = load(recipe, overrides)
    plan_dataset(loaded, 1, heard)
    found = [
        json.loads((loaded.output_dir / f"{name}.json").read_text("utf-8"))
        for name in ("mixture", "stats")
    ]
    return found[0], found[1], heard


def test_the_default_is_corrected_and_only_entropy_is_measured() -> None:
    assert MixtureRecipe().estimator == "corrected"


@pytest.mark.usefixtures("own_store")
def test_corrected_weights_have_intervals_and_are_measured_once(recipe: Path) -> None:
    plugin, stats, heard = planned(recipe)
    assert "entropies" not in heard.begun
    assert plugin["low"] is None
    row = stats["domains"]["wiki"]["entropy"]["conditional"]
    assert (row["estimator"], row["low"]) == ("plugin", None)

    first, stats, heard = planned(recipe, CORRECTED)
    assert heard.begun.count("entropies") == 1
    for name, weight in first["weights"].items():
        assert first["low"][name] < weight < first["high"][name]
    for measures in (row["entropy"] for row in stats["domains"].values()):
        for measure in ("shannon", "joint", "conditional"):
            found = measures[measure]
            assert found["low"] <= found["nats"] <= found["high"]
            assert found["estimator"] != "plugin"
        assert measures["joint"]["nats"] == pytest.approx(
            measures["shannon"]["nats"] + measures["conditional"]["nats"], abs=1e-12
        )

    table = stats_table(stats)  # what the mixture used, with its interval
    assert "bias corrected" in str(table.title)
    bits = stats["domains"]["wiki"]["entropy"]["conditional"]["nats"] / math.log(2)
    assert any(f"{bits:.3f} ±" in cell for column in table.columns for cell in column.cells)

    again, _, heard = planned(recipe, CORRECTED, "budget_tokens=20000")
    assert "entropies" not in heard.begun
    assert again["weights"] == pytest.approx(first["weights"], rel=1e-9)
    _, _, heard = planned(recipe, CORRECTED, "seed=1")
    assert "entropies" in heard.begun


@pytest.mark.parametrize("measure", ["shannon", "joint", "von_neumann"])
def test_every_measure_drives_the_mixture(recipe: Path, measure: str) -> None:
    chosen = f"mixture={{method: entropy, measure: {measure}, temperature: 2}}"
    corrected, stats, _ = planned(recipe, chosen)
    nats = {name: row["entropy"][measure]["nats"] for name, row in stats["domains"].items()}
    assert max(nats, key=nats.__getitem__) == max(
        corrected["unconstrained"], key=corrected["unconstrained"].__getitem__
    )
    assert corrected["low"] is not None
    plain, _, _ = planned(
        recipe,
        f"mixture={{method: entropy, measure: {measure}, estimator: plugin, temperature: 2}}",
    )
    assert plain["low"] is None
    assert plain["weights"] != corrected["weights"]


@pytest.mark.usefixtures("own_store")
def test_a_damaged_measurement_is_made_again(recipe: Path) -> None:
    first, _, _ = planned(recipe, CORRECTED)
    kept = sorted((recipe.parent / ".curate" / "evidence").rglob("wiki-tokens-*.json"))
    assert len(kept) == 1
    kept[0].write_text("{", "utf-8")
    again, _, heard = planned(recipe, CORRECTED)
    assert "entropies" in heard.begun
    assert again["weights"] == first["weights"]


@pytest.mark.usefixtures("own_store")
def test_leverage_is_a_method(recipe: Path) -> None:
    mixture, _, heard = planned(recipe, "mixture={method: leverage}")
    assert "entropies" in heard.begun
    assert sum(mixture["weights"].values()) == pytest.approx(1)
    assert len(set(mixture["weights"].values())) == 3


def test_text_too_short_to_embed_is_said(recipe: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "short.jsonl", [{"text": "a"}, {"text": "b"}])
    text = recipe.read_text("utf-8").replace(
        "mixture:", f'  - {{name: short, paths: "{path}"}}\nmixture:', 1
    )
    recipe.write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"'short': none of its 2 documents is long enough for"):
        planned(recipe, "mixture={method: leverage}")
