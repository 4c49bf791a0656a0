"""Schedules: the mixture of every window follows the curve, in every format that is mixed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import RECIPE

import curate
from curate.dataset.manifest import load_manifest, read_provenance
from curate.errors import InfeasiblePlan, RecipeError
from curate.formats import FORMATS
from curate.formats.base import TextFormat
from curate.loader import LoaderOptions
from curate.plan.schedules import Curve, CurveShape, window_shares
from curate.recipe import load_recipe

SCHEDULE = {"from": {"wiki": 3, "code": 1}, "to": {"code": 1, "talk": 1}}
BUDGET = 30_000


@pytest.fixture
def make(corpus: Path, tmp_path: Path, cache: Path) -> Any:
    def made(**changes: Any) -> dict[str, Any]:
        value = yaml.safe_load(RECIPE.format(data=corpus / "data"))
        del value["mixture"]
        value |= {"schedule": SCHEDULE, "cache": str(cache), "budget_tokens": BUDGET}
        return value | {"output": {"format": "npy", "dir": str(tmp_path / "out")}} | changes

    return made


def shares_by_window(directory: Path, windows: int) -> np.ndarray:
    """Return the share of each domain in equal windows of the training tokens."""
    manifest = load_manifest(directory)
    counts = np.zeros((windows, len(manifest.domains)))
    position = 0
    for shard in manifest.shards:
        if shard.split != "train":
            continue
        pieces = read_provenance(directory / shard.provenance.path, shard, manifest)
        for domain, tokens in zip(
            pieces["domain"].tolist(), pieces["tokens"].tolist(), strict=True
        ):
            if domain < len(manifest.domains):
                at = np.arange(position, position + tokens) * windows // manifest.budget_tokens
                counts[:, domain] += np.bincount(np.minimum(at, windows - 1), minlength=windows)
            position += tokens
    return counts / counts.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_window_follows_the_curve_in_every_format(
    make: Any, tmp_path: Path, name: str
) -> None:
    form = FORMATS[name]
    rows = {"sequence_length": 16} if name in ("npy", "litdata") else {}
    options = {"step_tokens": 64} if name == "llmc" else {}
    output = {"format": name, "dir": str(tmp_path / "out"), "options": options}
    result = curate.build(make(output=output, **rows))
    assert result.ok, result.problems
    furthest = result.json["largest_share_deviation_in_windows"]
    # A window of the certificate is 300 tokens, and documents have up to 500.
    assert furthest["window_tokens"] == 300
    assert abs(furthest["share"] - furthest["asked_share"]) < (0.3 if rows else 1)
    shares = shares_by_window(tmp_path / "out", 5)
    asked = window_shares(
        [Curve(CurveShape(), *ends) for ends in ((0.75, 0.0), (0.25, 0.5), (0.0, 0.5))], 5
    )
    np.testing.assert_allclose(asked[:, 0], [0.675, 0.525, 0.375, 0.225, 0.075], atol=1e-6)
    assert np.abs(shares - asked).max() < (0.02 if rows else 0.12)
    flat = np.full_like(shares, 0) + np.array([0.375, 0.375, 0.25])
    assert np.abs(flat - asked).max() > 0.25  # an even mixture would not pass
    assert isinstance(form, TextFormat) or result.json["tokens_compared_with_store"]


@pytest.mark.parametrize(
    ("shape", "steps", "levels"),
    [
        ("step", None, [0, 0, 1, 1]),
        ("step", 4, [0, 1 / 3, 2 / 3, 1]),
        ("linear", 2, [0.25, 0.25, 0.75, 0.75]),
        ("linear", None, [0.125, 0.375, 0.625, 0.875]),
        ("cosine", None, [0.0498, 0.3135, 0.6865, 0.9502]),  # mean of (1 - cos pi t) / 2
    ],
)
def test_shapes_are_those_of_their_names(
    shape: str, steps: int | None, levels: list[float]
) -> None:
    # By hand: the cosine's mean from 0 to 1/4 is 1/2 - 2 sin(pi/4) / pi.
    curve = Curve(CurveShape(shape, steps), 0.0, 1.0)
    shares = window_shares([curve, Curve(CurveShape(shape, steps), 1.0, 0.0)], 4)
    np.testing.assert_allclose(shares[:, 0], levels, atol=1e-4)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    parts = np.linspace(0, 1, 50)
    np.testing.assert_allclose(curve.part_of(curve.places(parts)), parts, atol=1e-9)
    assert curve.mean == 0.5


@pytest.mark.parametrize("shape", ["linear", "cosine", "step"])
def test_totals_are_the_integral_of_the_curve(make: Any, tmp_path: Path, shape: str) -> None:
    schedule = {**SCHEDULE, "shape": shape, "steps": 3}
    result = curate.build(make(schedule=schedule, sequence_length=16))
    tokens = {name: row["realised_tokens"] for name, row in result.json["domains"].items()}
    assert tokens == {"wiki": 11_250, "code": 11_250, "talk": 7_500}
    assert result.ok
    shares = shares_by_window(tmp_path / "out", 3)
    level = {"linear": [1 / 6, 1 / 2, 5 / 6], "cosine": [0.067, 0.5, 0.933], "step": [0, 0.5, 1]}
    assert np.abs(shares[:, 0] - 0.75 * (1 - np.array(level[shape]))).max() < 0.02


def test_repeated_passes_follow_the_curve(make: Any, tmp_path: Path) -> None:
    schedule = {"from": {"talk": 1}, "to": {"wiki": 1}}
    result = curate.build(
        make(schedule=schedule, output={"format": "megatron", "dir": str(tmp_path / "out")})
    )
    assert result.ok
    assert result.json["domains"]["talk"]["epochs"] > 2
    shares = shares_by_window(tmp_path / "out", 5)[:, 2]
    assert np.abs(shares - [0.9, 0.7, 0.5, 0.3, 0.1]).max() < 0.06


@pytest.mark.parametrize("kind", ["directory", "recipe"])
def test_loading_keeps_the_curve_in_every_epoch(make: Any, tmp_path: Path, kind: str) -> None:
    recipe = make(sequence_length=16)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), "utf-8")
    curate.build(path)
    place = tmp_path / "out" if kind == "directory" else path
    data = curate.load(place, fields=("domains", "samples"))
    orders = []
    for order in ("shuffled", "stored"):
        loader = data.loader(25, options=LoaderOptions(order=order))
        for _ in range(2):
            batches = list(loader)
            domains = np.concatenate([batch["domains"].ravel() for batch in batches])
            fifths = np.array_split(domains, 5)
            shares = np.array([(fifth == 0).mean() for fifth in fifths])
            assert np.abs(shares - [0.675, 0.525, 0.375, 0.225, 0.075]).max() < 0.03
            samples = np.concatenate([batch["samples"] for batch in batches])
            assert sorted(samples) == list(range(len(data)))
            orders.append(samples)
    assert not np.array_equal(orders[0], orders[1])


def test_a_step_of_a_shuffled_loader_is_traced(make: Any, tmp_path: Path) -> None:
    curate.build(make(sequence_length=16))
    loader = curate.load(tmp_path / "out", fields=("samples",)).loader(8)
    batch = next(iter(loader))
    shown = curate.show(tmp_path / "out", step=0, batch=8, order="shuffled")
    assert [row["sample"] for row in shown.to_json()["sequences"]] == batch["samples"].tolist()


def test_a_stage_begins_where_an_earlier_one_ended(make: Any, tmp_path: Path) -> None:
    recipe = make(stages=[
        {"name": "a", "budget_tokens": 10_000, "schedule": SCHEDULE},
        {"name": "b", "budget_tokens": 10_000, "schedule": {"from": "a", "to": {"wiki": 1}}},
    ], sequence_length=16)  # fmt: skip
    del recipe["schedule"], recipe["budget_tokens"]
    assert curate.build(recipe).ok
    ends = load_manifest(tmp_path / "out" / "b").schedule.shares
    assert ends == {"wiki": (0.0, 1.0), "code": (0.5, 0.0), "talk": (0.5, 0.0)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": {"method": "uniform"}}, "mixture and schedule exclude each other"),
        ({"schedule": {**SCHEDULE, "shape": "cubic"}}, "schedule.shape: cannot be 'cubic'"),
        ({"schedule": {**SCHEDULE, "steps": 1}}, "schedule.steps"),
        ({"schedule": {"from": {"wiki": 1}}}, "schedule.to is missing"),
        ({"schedule": {**SCHEDULE, "to": {"wiki": 0}}}, "schedule.to: one weight must be above 0"),
        ({"schedule": {**SCHEDULE, "to": "mid"}}, "'mid' is no earlier stage \\(there is none\\)"),
        (
            {"output": {"format": "megatron", "shape": "per-domain"}},
            "schedule: .*per-domain",
        ),
    ],
)
def test_wrong_schedules_are_refused(make: Any, changes: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        curate.plan(load_recipe(json.loads(json.dumps(make(**changes)))))


TIGHT = {"from": {"wiki": 3, "code": 1}, "to": {"code": 1, "talk": 3}, "shape": "cosine"}
WAYS = {
    "budget_tokens": r" budget_tokens: ([\d_]+)",
    "schedule": r"schedule\.from: (\{.*?\}) and schedule\.to: (\{.*?\})",
    "max_epochs": r"max_epochs: ([\d.]+) for 'talk'",
    "on_shortfall": r"on_shortfall: (repeat)$",
}


@pytest.mark.parametrize("policy", ["error", "redistribute"])
@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_out_of_a_schedule_that_does_not_fit_can_be_typed(
    make: Any, way: str, staged: bool, policy: str
) -> None:
    recipe = make(schedule=TIGHT, max_epochs=1, on_shortfall=policy)
    holder = recipe
    if staged:
        holder = {"name": "s", "schedule": TIGHT, "budget_tokens": recipe.pop("budget_tokens")}
        del recipe["schedule"]
        recipe["stages"] = [holder]
    with pytest.raises(InfeasiblePlan) as caught:
        curate.plan(recipe)
    message = str(caught.value)
    assert "mixture:" not in message  # which a schedule excludes
    match = re.search(WAYS[way], message)
    assert match is not None, message
    if way == "schedule":
        start, end = (yaml.safe_load(text) for text in match.groups())
        assert sum(start.values()) == pytest.approx(1) == sum(end.values())
        holder["schedule"] = {**TIGHT, "from": start, "to": end}
    else:
        target = holder if way == "budget_tokens" else recipe
        target[way] = yaml.safe_load(match[1])
    curate.plan(recipe)


def test_no_schedule_is_offered_where_none_fits(make: Any) -> None:
    schedule = {"from": {"talk": 1}, "to": {"talk": 1, "wiki": 1}}
    with pytest.raises(InfeasiblePlan) as caught:
        curate.plan(make(schedule=schedule, max_epochs=1))
    assert "schedule." not in str(caught.value)


def test_documents_are_removed_from_a_schedule(make: Any, tmp_path: Path) -> None:
    output = {"format": "megatron", "dir": str(tmp_path / "out")}
    assert curate.build(make(output=output)).ok
    names = tmp_path / "ids.txt"
    names.write_text("".join(f"wiki-{number}\n" for number in range(20)), "utf-8")
    (row,) = curate.remove(tmp_path / "out", names, rebuild=True).json["datasets"]
    assert row["in_shards"] and row["rebuilt"]["changed_share"] > 0
    recipe = load_recipe(tmp_path / "out" / "recipe.yaml").recipe
    assert recipe.schedule is not None and recipe.schedule.end == {"code": 1, "talk": 1}
    assert curate.verify(tmp_path / "out").ok
