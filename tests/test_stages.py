"""Recipes in stages: budgets, passes over all stages, documents, borders, and later changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import RECIPE, Listener

import curate
from curate.cli import cli
from curate.dataset.manifest import load_manifest, read_provenance
from curate.errors import CurateError, InfeasiblePlan, RecipeError, ShardError
from curate.loader import StagedSequences
from curate.pipeline.read_back import domains_in, open_store
from curate.pipeline.write import write_dataset
from curate.recipe import load_recipe, stage_recipes
from curate.report.upkeep import removal_lines
from curate.runtime.progress import Observer

Recipe = dict[str, Any]
Make = Callable[..., Recipe]

STAGES: list[dict[str, Any]] = [
    {
        "name": "pretrain",
        "budget_tokens": 24_000,
        "sequence_length": 32,
        "mixture": {"method": "manual", "weights": {"wiki": 5, "code": 3, "talk": 2}},
    },
    {
        "name": "mid",
        "budget_tokens": 9_000,
        "sequence_length": 32,
        "mixture": {"method": "uniform"},
    },
    {"name": "anneal", "budget_tokens": 3_000, "sequence_length": 64},
]


@pytest.fixture
def make(corpus: Path, tmp_path: Path, cache: Path) -> Make:
    """Makes a recipe in stages over the corpus, in npy shards, as a mapping."""

    def made(stages: list[dict[str, Any]] | None = None, **changes: Any) -> Recipe:
        value: Recipe = yaml.safe_load(RECIPE.format(data=corpus / "data"))
        del value["budget_tokens"]
        value |= {"mixture": {"method": "natural"}, "cache": str(cache)}
        value |= {"output": {"format": "npy", "dir": str(tmp_path / "out")}}
        value["stages"] = json.loads(json.dumps(STAGES if stages is None else stages))
        return value | changes

    return made


def changed(stage_name: str, **fields: Any) -> list[dict[str, Any]]:
    """Return the stages with other fields in one of them."""
    return [stage | fields if stage["name"] == stage_name else stage for stage in STAGES]


def scheduled(start: Any, end: Any, **fields: Any) -> dict[str, Any]:
    """Return a stage with a schedule."""
    return {
        "name": "last",
        "budget_tokens": 9_000,
        "schedule": {"from": start, "to": end, **fields},
    }


def begun(directory: Path) -> np.ndarray:
    """Return, by domain and document, how often the training shards begin it, whole or in part."""
    manifest = load_manifest(directory)
    counts = np.zeros((len(manifest.domains), 400), np.int64)
    for shard in manifest.shards:
        if shard.split == "train":
            pieces = read_provenance(directory / shard.provenance.path, shard, manifest)
            pieces = pieces[(pieces["start"] == 0) & (pieces["tokens"] > 0)]
            np.add.at(counts, (pieces["domain"], pieces["document"]), 1)
    return counts


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of change of every file."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_a_build_has_each_stage_and_adds_them_up(make: Make, tmp_path: Path) -> None:
    result = curate.build(make())
    assert result.ok, result.problems
    certificate = result.json
    assert certificate["budget_tokens"] == certificate["realised_tokens"] == 36_000
    plan = json.loads((tmp_path / "out" / "plan.json").read_bytes())
    for stage in STAGES:
        of_stage = certificate["stages"][stage["name"]]
        assert of_stage["realised_tokens"] == stage["budget_tokens"]
        manifest = load_manifest(tmp_path / "out" / stage["name"])
        assert manifest.sequence_length == stage["sequence_length"]
        for name, row in of_stage["domains"].items():
            planned = plan["stages"][stage["name"]]["domains"][name]
            assert row["realised_tokens"] == row["planned_tokens"] == planned["tokens"]
    for row in certificate["domains"].values():
        assert sum(row["epochs_by_stage"].values()) == pytest.approx(row["epochs"])
        assert row["epochs"] <= row["max_epochs"] == 4
    assert curate.verify(tmp_path / "out").ok
    assert [row["stage"] for row in result.rows()] == [s["name"] for s in STAGES for _ in range(3)]


def documents_of(make: Make, tmp_path: Path, stages: list[dict[str, Any]], **changes: Any) -> Any:
    """Build whole documents, and return how often each stage begins them."""
    output = {"format": "megatron", "dir": str(tmp_path / "out")}
    result = curate.build(make(stages, output=output, **changes))
    assert result.ok, result.problems
    return [begun(tmp_path / "out" / stage["name"]) for stage in stages]


def test_no_document_is_repeated_while_others_are_left(make: Make, tmp_path: Path) -> None:
    stages = [{"name": name, "budget_tokens": 9_000} for name in ("a", "b", "c")]
    uses = documents_of(make, tmp_path, stages, max_epochs=1)
    assert sum(uses).max() == 1


def test_passes_go_on_where_the_last_stage_ended(make: Make, tmp_path: Path) -> None:
    only = {"method": "manual", "weights": {"wiki": 0, "code": 0, "talk": 1}}
    supply = curate.stats(make()).json["domains"]["talk"]
    tokens = supply["tokens"] - supply["tokens_validation"]
    stages = [
        {"name": name, "budget_tokens": int(passes * tokens), "mixture": only}
        for name, passes in (("a", 0.7), ("b", 0.7), ("c", 1.7))
    ]
    uses = [of_stage[2] for of_stage in documents_of(make, tmp_path, stages)]
    is_used = sum(uses) > 0
    for stop, passes in ((1, {0, 1}), (2, {1, 2}), (3, {3, 4})):  # 0.7, 1.4 and 3.1 passes
        assert set(sum(uses[:stop])[is_used].tolist()) == passes


def test_a_later_stage_changes_no_earlier_one(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    curate.build(make())
    before = {stage["name"]: snapshot(out / stage["name"]) for stage in STAGES}
    later = changed("anneal", mixture={"method": "uniform"}, budget_tokens=5_000)
    with pytest.raises(ShardError, match="anneal: holds a dataset of another recipe"):
        curate.build(make(later))
    assert snapshot(out / "anneal") == before["anneal"]
    result = curate.build(make(later), overwrite=True)
    assert result.ok, result.problems
    for name in ("pretrain", "mid"):
        after = snapshot(out / name)
        assert {file: row[0] for file, row in after.items()} == {
            file: row[0] for file, row in before[name].items()
        }
        for file, (_, changed_at) in after.items():
            if file.startswith(("train/", "validation/", "provenance/")):
                assert changed_at == before[name][file][1]
    assert snapshot(out / "anneal") != before["anneal"]


def test_the_stages_do_not_depend_on_how_they_were_built(make: Make, tmp_path: Path) -> None:
    """Building all at once gives the bytes of building the first, then the others."""
    curate.build(make(STAGES[:1]))
    first = snapshot(tmp_path / "out" / "pretrain")
    assert curate.build(make()).ok
    second = snapshot(tmp_path / "out" / "pretrain")
    assert {name: row[0] for name, row in first.items()} == {
        name: row[0] for name, row in second.items()
    }
    recipe = make(output={"format": "npy", "dir": str(tmp_path / "again")})
    assert curate.build(recipe).ok
    for stage in STAGES:
        once = snapshot(tmp_path / "out" / stage["name"] / "train")
        again = snapshot(tmp_path / "again" / stage["name"] / "train")
        assert {k: v[0] for k, v in once.items()} == {k: v[0] for k, v in again.items()}


def test_held_out_documents_are_the_same_in_all_stages(make: Make, tmp_path: Path) -> None:
    curate.build(make())
    held_out = [
        {k: v[0] for k, v in snapshot(tmp_path / "out" / stage["name"] / "validation").items()}
        for stage in STAGES
    ]
    assert held_out[0] == held_out[1] == held_out[2]
    assert held_out[0]


def test_passes_beyond_a_cap_name_the_stage_and_the_ways_out(make: Make) -> None:
    weights = {"wiki": 0, "code": 0, "talk": 1}
    mixture = {"method": "manual", "weights": weights}
    with pytest.raises(InfeasiblePlan) as caught:
        curate.plan(make(changed("anneal", budget_tokens=9_000, mixture=mixture), max_epochs=1))
    message = str(caught.value)
    assert message.startswith("stages[anneal]: plan: 9_000 tokens at these weights need")
    assert "epochs of 'talk', 1 of them in 'pretrain', 'mid' (max_epochs 1)" in message
    assert "Either set max_epochs: " in message


WAYS = {
    "budget_tokens": " budget_tokens: ",
    "max_epochs": " max_epochs: ",
    "earlier": "stages[a].budget_tokens: ",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["manual", "natural"])
def test_every_way_out_works(make: Make, way: str, method: str) -> None:
    mixture: dict[str, Any] = {"method": method}
    if method == "manual":
        mixture["weights"] = {"wiki": 1, "code": 1, "talk": 2}
    scale = 1 if method == "manual" else 4
    stages = [
        {"name": "a", "budget_tokens": 9_000 * scale, "mixture": mixture},
        {"name": "b", "budget_tokens": 6_000 * scale, "mixture": mixture},
    ]
    recipe = make(stages, max_epochs=1)
    with pytest.raises(InfeasiblePlan, match=r"stages\[b\]: plan: ") as caught:
        curate.plan(recipe)
    _, key, rest = str(caught.value).partition(WAYS[way])
    if method == "natural" and way == "earlier":
        assert not key
        return
    number = float(rest.split()[0].rstrip(",").replace("_", ""))
    if way == "max_epochs":
        recipe["max_epochs"] = number
    else:
        recipe["stages"][way == "budget_tokens"]["budget_tokens"] = int(number)
    curate.plan(recipe)


def test_budgets_that_a_capped_stage_would_take_up_are_not_offered(make: Make) -> None:
    """In `b`, unimax takes all that is left of talk, however little `a` takes."""
    talk = {"method": "manual", "weights": {"wiki": 1, "code": 0, "talk": 1}}
    stages = [
        {"name": "a", "budget_tokens": 4_000, "mixture": talk},
        {"name": "b", "budget_tokens": 25_000, "mixture": {"method": "unimax"}},
        {"name": "c", "budget_tokens": 2_000, "mixture": talk},
    ]
    with pytest.raises(InfeasiblePlan, match=r"stages\[c\]: .* of them in 'a', 'b'") as caught:
        curate.plan(make(stages, max_epochs=1))
    assert "stages[a]" not in str(caught.value) and "stages[b]." not in str(caught.value)
    turned = [stages[1], {**stages[0], "budget_tokens": 100}, stages[2]]
    turned[1]["mixture"] = {"method": "manual", "weights": {"wiki": 1, "code": 0, "talk": 0}}
    with pytest.raises(InfeasiblePlan) as caught:
        curate.plan(make(turned, max_epochs=1))
    assert "stages[b]." not in str(caught.value)


@pytest.mark.parametrize("ranks_before", [1, 2, 3])
@pytest.mark.parametrize("ranks_after", [1, 2, 3])
def test_loading_resumes_across_a_border(
    make: Make, tmp_path: Path, ranks_before: int, ranks_after: int
) -> None:
    curate.build(make())
    data = curate.load(tmp_path / "out", fields=("tokens", "samples"))
    assert isinstance(data, StagedSequences)
    batches = {"pretrain": 6, "mid": 6, "anneal": 4}

    def read(ranks: int, states: dict[str, Any] | None = None, steps: int | None = None) -> Any:
        """Return what all ranks read, by step, and the state after."""
        loaders = [data.loader(batches, rank, ranks) for rank in range(ranks)]
        for loader in loaders if states else ():
            loader.load_state_dict(states)
        rows: list[tuple[int, list[int]]] = []
        for step, parts in enumerate(zip(*loaders, strict=True), 1):
            length = {part["tokens"].shape[1] for part in parts}
            assert len(length) == 1  # a step is of one stage on all ranks
            rows.append((length.pop(), [n for part in parts for n in part["samples"].tolist()]))
            if step == steps:
                break
        state = [loader.state_dict() for loader in loaders]
        assert all(other == state[0] for other in state)
        return rows, json.loads(json.dumps(state[0]))

    def flat(rows: list[tuple[int, list[int]]]) -> list[tuple[int, int]]:
        return [(length, number) for length, numbers in rows for number in numbers]

    whole, _ = read(1)
    in_pretrain = -(-len(data.stages["pretrain"]) // (6 * ranks_before))
    for steps in (in_pretrain - 1, in_pretrain, in_pretrain + 1):
        first, state = read(ranks_before, steps=steps)
        rest, _ = read(ranks_after, state)
        assert flat(first) + flat(rest) == flat(whole)


def test_a_loader_resumes_after_a_later_stage_has_changed(make: Make, tmp_path: Path) -> None:
    curate.build(make())
    loader = curate.load(tmp_path / "out").loader(4)
    for _ in zip(range(5), loader, strict=False):
        pass
    state = loader.state_dict()
    curate.build(make(changed("anneal", budget_tokens=4_000)), overwrite=True)
    resumed = curate.load(tmp_path / "out").loader(4)
    assert "in 3 of 3 stages from 'pretrain' on" in repr(resumed)
    resumed.load_state_dict(state)
    assert len(resumed) == len(curate.load(tmp_path / "out").loader(4)) - 5
    curate.build(make(changed("pretrain", budget_tokens=20_000)), overwrite=True)
    other = curate.load(tmp_path / "out").loader(4)
    with pytest.raises(ShardError, match=r"stages\[pretrain\]: .*the number of sequences was"):
        other.load_state_dict(state)
    with pytest.raises(ShardError, match="not made by state_dict"):
        other.load_state_dict({})


def test_a_recipe_is_loaded_in_stages_without_a_build(make: Make, tmp_path: Path) -> None:
    recipe = make()
    path = tmp_path / "staged.yaml"
    path.write_text(yaml.safe_dump(recipe), "utf-8")
    data = curate.load(path)
    assert isinstance(data, StagedSequences)
    assert [stage.sequence_length for stage in data.stages.values()] == [32, 32, 64]
    assert sum(1 for _ in data.loader(8)) == len(data.loader(8))


def test_short_last_steps_are_refused_before_training(make: Make, tmp_path: Path) -> None:
    curate.build(make())
    data = curate.load(tmp_path / "out")
    assert len(data.stages["anneal"]) % 9 == 1
    with pytest.raises(RecipeError, match=r"stages\[anneal\]: curate.load: the last step"):
        next(iter(data.loader({"pretrain": 4, "mid": 4, "anneal": 3}, 0, 3)))
    with pytest.raises(RecipeError, match="lacks the stages mid, anneal"):
        data.loader({"pretrain": 1})
    with pytest.raises(RecipeError, match="batch_sequences is None; give a whole number"):
        data.loader(None)  # type: ignore[arg-type]
    for loader in (data.loader(4), data.stages["mid"].loader(4)):
        with pytest.raises(ShardError, match="not made by state_dict"):
            loader.load_state_dict(None)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="batch_sequences.*aneal"):
        data.loader({"pretrain": 1, "mid": 1, "aneal": 1})


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (changed("mid", name="train"), r"stages\[train\]: the name is a folder of every dataset"),
        (changed("mid", name="Pretrain"), r"stages\[Pretrain\]: the name is taken"),
        (changed("mid", name="plan.json"), r"stages\[plan.json\]: the name ends as that of a file"),
        (changed("mid", name="experts"), r"stages\[experts\]: the name is a folder of"),
        (changed("mid", mixture={"method": "manual", "wieghts": {}}), "stages.mid..mixture.wieght"),
        (changed("mid", window="L+1", sequence_length=None), r"stages\[mid\]: window: L\+1"),
        (changed("mid", budget_tokens=None), r"stages\[mid\].budget_tokens"),
        (changed("mid", max_epochs=2), r"'stages\[mid\].max_epochs'; it is common to all stages"),
        (changed("mid", weights={"wiki": 1}), r"'stages\[mid\].weights'; it belongs below mixture"),
        (
            changed("mid", schedule={"from": "pretrain", "to": {"wiki": 1}}),
            r"stages\[mid\]: mixture and schedule exclude each other",
        ),
        (
            [*STAGES[:2], scheduled("pretain", "mid")],
            r"stages\[last\].schedule.from: 'pretain' is no earlier stage.*pretrain, mid.*mean",
        ),
        (
            [scheduled({"wkii": 1}, {"wiki": 1})],
            r"stages\[last\].schedule.from names no domain 'wkii'",
        ),
    ],
)  # fmt: skip
def test_wrong_stages_are_refused(make: Make, stages: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(make(stages))


def test_a_budget_beside_stages_is_their_sum(make: Make) -> None:
    assert load_recipe(make()).recipe.budget_tokens == 36_000
    with pytest.raises(RecipeError, match="36001 is not the sum of the stages, 36000; leave it"):
        load_recipe(make(budget_tokens=36_001))


def test_a_stage_is_a_recipe_of_its_own(make: Make) -> None:
    pretrain, mid, anneal = stage_recipes(load_recipe(make()))
    assert pretrain.recipe.mixture.method == "manual"
    assert mid.recipe.mixture.method == "uniform"
    assert anneal.recipe.mixture.method == "natural"  # the recipe's
    assert [one.stage for one in (pretrain, mid, anneal)] == ["pretrain", "mid", "anneal"]
    assert anneal.recipe.sequence_length == 64
    assert len({one.hash for one in (pretrain, mid, anneal)}) == 3


def test_a_wrong_method_names_its_stage(make: Make) -> None:
    with pytest.raises(
        CurateError, match=r"stages\[mid\]: mixture.method: no method is called 'unifrom'"
    ):
        curate.plan(make(changed("mid", mixture={"method": "unifrom"})))


def test_damage_of_any_stage_is_found(make: Make, tmp_path: Path) -> None:
    curate.build(make())
    shard = tmp_path / "out" / "mid" / "train" / "shard-00000.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    result = curate.verify(tmp_path / "out")
    assert not result.ok
    assert result.problems[0].startswith("mid: train/shard-00000.npy: content differs")
    assert curate.build(make()).ok  # mended
    path = tmp_path / "out" / "manifest.json"
    whole = path.read_bytes()
    for damaged in (whole[:200], whole.replace(b"36000", b"36001", 1)):
        path.write_bytes(damaged)
        assert not curate.verify(tmp_path / "out").ok
        with pytest.raises(ShardError, match="damaged|not a manifest"):
            curate.load(tmp_path / "out")
        assert curate.build(make()).ok
        assert path.read_bytes() == whole
    (tmp_path / "out" / "mid" / "manifest.json").unlink()
    assert len(curate.verify(tmp_path / "out").problems) == 1


def test_datasets_with_and_without_stages_replace_each_other_only_if_told(
    make: Make, tmp_path: Path
) -> None:
    plain = make(budget_tokens=9_000)
    del plain["stages"]
    curate.build(plain)
    with pytest.raises(ShardError, match="holds a dataset of another recipe"):
        curate.build(make())
    assert curate.build(make(), overwrite=True).ok
    assert not (tmp_path / "out" / "train").exists()
    with pytest.raises(ShardError, match="holds stages that the recipe does not have"):
        curate.build(make(STAGES[:2]))
    assert curate.build(make(STAGES[:2]), overwrite=True).ok
    assert not (tmp_path / "out" / "anneal").exists()
    with pytest.raises(ShardError, match="holds a dataset in stages"):
        curate.build(plain)
    assert curate.build(plain, overwrite=True).ok
    assert not (tmp_path / "out" / "mid").exists()
    assert curate.verify(tmp_path / "out").ok


def test_stages_in_another_order_replace_a_dataset_only_if_told(make: Make, tmp_path: Path) -> None:
    curate.build(make())
    before = snapshot(tmp_path / "out")
    turned = [STAGES[1], STAGES[0], STAGES[2]]
    with pytest.raises(ShardError, match=r"its stages in another order \(pretrain, mid, anneal\)"):
        curate.build(make(turned))
    assert snapshot(tmp_path / "out") == before
    assert curate.build(make(turned), overwrite=True).ok


def test_a_refused_build_keeps_all_stages(make: Make, tmp_path: Path) -> None:
    curate.build(make())
    (tmp_path / "out" / "mid" / "train" / "notes.txt").write_text("mine")
    before = snapshot(tmp_path / "out")
    with pytest.raises(ShardError, match=r"mid: holds 1 file .*train/notes.txt"):
        curate.build(make(STAGES[2:]), overwrite=True)
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize("command", ["plan", "mix", "stats"])
def test_commands_without_stages_keep_files_of_a_dataset_in_stages(
    make: Make, tmp_path: Path, command: str
) -> None:
    curate.build(make())
    before, listener = snapshot(tmp_path / "out"), Listener()
    plain = make([], budget_tokens=9_000)
    getattr(curate, command)(plain, progress=listener)
    assert any("holds a dataset of another recipe" in line for line in listener.notices)
    assert snapshot(tmp_path / "out") == before
    assert curate.verify(tmp_path / "out").ok


LONG = {
    "name": "long",
    "budget_tokens": 2_500,
    "where": "tokens >= 90",
    "mixture": {"method": "manual", "weights": {"wiki": 2, "code": 1, "talk": 0}},
}


def test_a_stage_draws_by_length_with_its_supply_told_first(make: Make, tmp_path: Path) -> None:
    listener = Listener()
    output = {"format": "megatron", "dir": str(tmp_path / "out")}
    stages = [{"name": "all", "budget_tokens": 20_000}, LONG]
    result = curate.build(make(stages, output=output), progress=listener)
    assert result.ok, result.problems
    notice = next(text for text in listener.notices if text.startswith("training tokens where"))
    assert listener.notices.index("stage long") < listener.notices.index(notice)
    plan = json.loads((tmp_path / "out" / "long" / "plan.json").read_bytes())
    supply = plan["domains"]["wiki"]["supply_tokens"]
    assert f"'wiki' {supply:,} of " in notice
    assert 0 < supply < plan["domains"]["wiki"]["amounts"]["unused"]["tokens"] + 10_000
    drawn = [document for document in begun(tmp_path / "out" / "long")[:2]]
    first = begun(tmp_path / "out" / "all")[:2]
    lengths = lengths_of(tmp_path / "out" / "all")
    for number in range(2):
        assert (lengths[number][drawn[number] > 0] >= 90).all()
        assert not (drawn[number] & first[number]).any()  # enough were left


def lengths_of(directory: Path) -> list[np.ndarray]:
    """Return the tokens of every document of every domain, 0 beyond the last."""
    manifest = load_manifest(directory)
    domains = domains_in(open_store(manifest), manifest, Observer())
    assert domains is not None
    return [np.pad(domain.tokens, (0, 400 - len(domain))) for domain in domains]


def test_caps_hold_over_the_documents_of_a_stage(make: Make) -> None:
    stages = [{"name": "all", "budget_tokens": 30_000}, LONG | {"budget_tokens": 90_000}]
    with pytest.raises(InfeasiblePlan, match=r"stages\[long\]: plan: .* epochs of 'wiki', .* of"):
        curate.plan(make(stages))


def test_a_where_that_is_wrong_names_its_stage(make: Make) -> None:
    with pytest.raises(RecipeError, match=r"stages\[long\]: where: "):
        curate.plan(make([LONG | {"where": "tokens >= "}]))
    with pytest.raises(RecipeError, match=r"stages\[long\]: .*nothing"):
        curate.plan(make([LONG | {"where": "nothing = 3"}]))
    with pytest.raises(RecipeError, match=r"stages\[long\]: where for 'wiki': gives Int32"):
        curate.plan(make([LONG | {"where": "1"}]))
    with pytest.raises(InfeasiblePlan, match="'wiki', 'code' are left by tokens >= 100000; change"):
        curate.plan(make([LONG | {"where": "tokens >= 100000"}]))


@pytest.mark.parametrize("command", ["compare", "front", "validate"])
def test_commands_about_one_mixture_ask_for_a_stage(make: Make, command: str) -> None:
    further = {"groups": ["a", "b"]} if command == "front" else {}
    ask = getattr(curate, command)
    with pytest.raises(RecipeError, match=f"{command}: is about one mixture.* --stage anneal"):
        ask(make(), **further)
    with pytest.raises(RecipeError, match="--stage: no stage is called 'aneal'; did you mean"):
        ask(make(), stage="aneal", **further)
    plain = make([], budget_tokens=9_000)
    with pytest.raises(RecipeError, match="--stage mid: the recipe has no stages; leave it out"):
        ask(plain, stage="mid", **further)


def test_methods_are_compared_on_what_earlier_stages_leave(make: Make, tmp_path: Path) -> None:
    only = {"method": "manual", "weights": {"wiki": 0, "code": 0, "talk": 1}}
    stages = [
        {"name": "a", "budget_tokens": 5_000, "mixture": only},
        {"name": "b", "budget_tokens": 9_000, "mixture": {"method": "unimax"}},
        {"name": "never", "budget_tokens": 9_000_000},
    ]
    recipe = make(stages, max_epochs=1)
    comparison = curate.compare(recipe, methods=["natural", "unimax"], stage="b").json["mixtures"]
    plan = curate.plan(make(stages[:2], max_epochs=1)).json["stages"]["b"]["domains"]
    weights = {name: row["weight"] for name, row in plan.items()}
    by_method = {name: row["weights"] for name, row in comparison.items()}
    assert by_method["unimax"] == pytest.approx(weights)
    assert weights["talk"] < 0.25  # most of it is used by the first stage
    assert (tmp_path / "out" / "b" / "mixtures.json").is_file()
    with pytest.raises(RecipeError, match=r"--stage b: goes with a recipe .*evidence.stage=b"):
        curate.compare(runs="runs.csv", stage="b")


def test_the_front_of_a_stage_is_by_its_method(make: Make, tmp_path: Path) -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 24)
    lines = ["run,w_wiki,w_code,w_talk,loss_wiki,loss_code"]
    for number, row in enumerate(shares):
        losses = 2 + np.exp(-3 * row[:2])
        lines.append(",".join(map(str, [number, *row, *losses])))
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n", "utf-8")
    evidence = {"runs": str(tmp_path / "runs.csv")}
    mixture = {"method": "dml", "replicates": 0, "evidence": evidence}
    recipe = make(changed("mid", mixture=mixture))
    groups = ["wiki", "code"]
    front = curate.front(recipe, groups=groups, points=3, stage="mid").json
    assert front["method"] == "dml"
    other = curate.front(recipe, groups=groups, points=3, stage="mid", method="ridge").json
    assert other["method"] == "ridge"
    stages: list[dict[str, Any]] = [{"name": name, "budget_tokens": 3_000} for name in ("a", "b")]
    stages[1]["schedule"] = {"from": "a", "to": {"wiki": 1}}
    with pytest.raises(RecipeError, match="--front: a schedule predicts no losses; take a method"):
        curate.front(make(stages), groups=groups, points=3, stage="b")


def test_commands_about_one_dataset_name_the_stages(make: Make, tmp_path: Path) -> None:
    output = {"format": "jsonl", "dir": str(tmp_path / "out")}
    stages: list[dict[str, Any]]
    stages = [{"name": name, "budget_tokens": 3_000} for name in ("a", "b")]
    stages[1]["schedule"] = {"from": "a", "to": {"wiki": 1}}
    curate.build(make(stages, output=output))
    out, names = tmp_path / "out", tmp_path / "ids.txt"
    rows = (out / "b" / "train").glob("*")
    shown = curate.show(out / "b", "train/shard-00000#0").to_json()
    names.write_text(shown["documents"][0]["id"] + "\n", "utf-8")
    for refused in (
        lambda: curate.show(out, "train/shard-00000#0"),
        lambda: curate.push(out, "me/mix", dry_run=True),
        lambda: curate.diff(out, out),
    ):
        with pytest.raises(ShardError, match="in stages .a, b., and this is about one of them"):
            refused()
    assert curate.push(out / "a", "me/mix", dry_run=True).files
    held = curate.remove([out / "a", out / "b"], names).json
    assert held["datasets"][1]["documents"]
    lines = [str(line) for line in removal_lines(held, names)]
    remedy = f"to remove them from all stages: curate remove {out} {names} --rebuild"
    assert lines[-1] == remedy and lines.count(remedy) == 1
    assert curate.remove(out, names).json["datasets"] == held["datasets"]
    listener = Listener()
    curate.report(out / "b", progress=listener)
    assert not any("another version" in text for text in listener.notices)
    before = snapshot(out / "b")
    with pytest.raises(CurateError, match=f"is a stage, .*curate remove {out} {names} --rebuild"):
        curate.remove(out / "b", names, rebuild=True)
    assert snapshot(out / "b") == before
    assert list(rows)
    page = curate.report(out).path.read_text("utf-8")
    assert "Mixture by stage, in the order of training" in page and "Passes by stage" in page
    assert "every shard of all 2 stages was read back" in page
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    recipe = yaml.safe_load(data["recipe"])
    assert "stages" not in recipe  # the explorer's mixture is one for the whole run
    recipe |= {"mixture": {"method": "uniform"}, "budget_tokens": data["budget"]}
    assert curate.plan(recipe).json["budget_tokens"] == data["budget"]
    mixture = curate.mix(make(stages, output=output))
    assert {row["stage"] for row in mixture.rows()} == {"a", "b"}
    assert sum(mixture.weights.values()) == pytest.approx(1)


def test_excluded_documents_leave_every_stage(make: Make, tmp_path: Path) -> None:
    output = {"format": "megatron", "dir": str(tmp_path / "out")}
    stages = [{"name": name, "budget_tokens": 9_000} for name in ("a", "b")]
    curate.build(make(stages, output=output))
    names = tmp_path / "ids.txt"
    names.write_text("wiki-1\nwiki-2\ncode-5\n", "utf-8")
    assert curate.build(make(stages, output=output, exclude=str(names)), overwrite=True).ok
    held = curate.remove([tmp_path / "out" / "a", tmp_path / "out" / "b"], names).json
    assert not any(dataset["in_shards"] for dataset in held["datasets"])


@pytest.mark.parametrize("excluded", [False, True])
def test_documents_are_removed_from_all_stages_at_once(
    make: Make, tmp_path: Path, excluded: bool
) -> None:
    out, names = tmp_path / "out", tmp_path / "ids.txt"
    stages = [
        {"name": "a", "budget_tokens": 12_000, "mixture": {"method": "natural"}},
        {"name": "b", "budget_tokens": 9_000, "mixture": {"method": "unimax"}},
        scheduled("b", {"wiki": 1, "talk": 1}, shape="step"),
    ]
    earlier = tmp_path / "earlier.txt"
    earlier.write_text("wiki-3\n", "utf-8")
    changes = {"exclude": str(earlier)} if excluded else {}
    output = {"format": "megatron", "dir": str(out)}
    assert curate.build(make(stages, output=output, **changes)).ok
    plans = [stage_plan(out / name) for name in ("a", "b", "last")]
    listed = [f"{name}-{number}" for name in ("wiki", "code") for number in range(20)]
    names.write_text("\n".join(listed) + "\n", "utf-8")
    held = curate.remove(out, names, rebuild=True).json["datasets"]
    assert [row["directory"] for row in held] == [str(out / name) for name in ("a", "b", "last")]
    assert all(row["in_shards"] for row in held)
    for row in held:
        assert row["rebuilt"]["list"] == str(earlier if excluded else names)
        assert 0 < row["rebuilt"]["changed_share"] <= 1
    lines = "\n".join(
        map(str, removal_lines({"datasets": held, "names": 40, "unmatched": []}, names))
    )
    assert lines.count("rebuilt: none is left") == 3
    assert lines.count("in exclude of your own recipe") == 1 and lines.endswith("back")
    assert curate.verify(out).ok
    left = curate.remove(out, names).json["datasets"]
    assert not any(row["documents"] for row in left)
    assert [stage_plan(out / name) for name in ("a", "b", "last")] == plans  # shares are kept
    assert load_manifest(out / "last").schedule is not None


def stage_plan(directory: Path) -> dict[str, int]:
    """Return the tokens that a stage takes of each domain."""
    plan = json.loads((directory / "plan.json").read_bytes())
    return {name: row["tokens"] for name, row in plan["domains"].items()}


def apart(make: Make, tmp_path: Path, name: str, batch: int, **changes: Any) -> Recipe:
    """Return a recipe with domains apart and a step of so many sequences."""
    stages = [
        {"name": "a", "budget_tokens": 12_800, "mixture": {"method": "natural"}},
        {"name": "b", "budget_tokens": 6_400, "mixture": {"method": "uniform"}},
    ]
    for stage in stages:
        stage["batch_sequences"] = batch
    options = {"window_tokens": 8} if name == "datatrove" else {}
    output = {"format": name, "shape": "per-domain", "dir": str(tmp_path / "out")}
    rows = {} if name == "datatrove" else {"sequence_length": 8}
    return make(stages, output=output | {"options": options}, **rows | changes)


def test_nanotron_has_a_file_of_all_stages(make: Make, tmp_path: Path) -> None:
    assert curate.build(apart(make, tmp_path, "datatrove", 4)).ok
    out = tmp_path / "out"
    stages = yaml.safe_load((out / "trainer" / "nanotron_stages.yaml").read_text())["data_stages"]
    assert [(s["name"], s["start_training_step"]) for s in stages] == [("a", 1), ("b", 401)]
    for stage in stages:
        dataset = stage["data"]["dataset"]
        assert all(list((out / folder).glob("*.ds")) for folder in dataset["dataset_folder"])
        planned = json.loads((out / stage["name"] / "plan.json").read_bytes())["domains"]
        total = sum(row["tokens"] for row in planned.values())
        shares = [row["tokens"] / total for row in planned.values()]
        assert dataset["dataset_weights"] == pytest.approx(shares)
        assert stage["sequence_length"] == 8


def test_levanter_has_a_file_of_all_stages(make: Make, tmp_path: Path) -> None:
    recipe = apart(make, tmp_path, "input_ids", 4)
    for stage in recipe["stages"]:
        stage["budget_tokens"] *= 2
    assert curate.build(recipe).ok
    out = tmp_path / "out"
    data = yaml.safe_load((out / "trainer" / "levanter_stages.yaml").read_text())["data"]
    # 3,200 sequences, to the nearest multiple of a block of 2,048 sequences, in steps of 4.
    (first, before), (second, after) = data["train_weights"]
    assert (first, second, data["mixture_block_size"]) == (0, 1024, 2048)
    assert set(before) == {"a/wiki", "a/code", "a/talk"}
    assert list(after.values()) == pytest.approx([1 / 3] * 3, abs=1e-4)
    for component in data["components"].values():
        source = component["source"]
        files = [*source["train_urls"], *source.get("validation_urls", [])]
        assert all((out / file).is_file() for file in files)
    held_out = [name for name, c in data["components"].items() if "validation_urls" in c["source"]]
    assert held_out == ["a/wiki", "a/code", "a/talk"]
    (out / "trainer" / "levanter_stages.yaml").write_text("other", "utf-8")
    assert not curate.verify(out).ok
    assert curate.build(apart(make, tmp_path, "datatrove", 4), overwrite=True).ok
    assert [path.name for path in (out / "trainer").iterdir()] == ["nanotron_stages.yaml"]


def test_what_a_trainer_cannot_do_in_one_file_is_refused(make: Make, tmp_path: Path) -> None:
    recipe = apart(make, tmp_path, "input_ids", 4)
    recipe["stages"][1]["sequence_length"] = 16
    with pytest.raises(RecipeError, match="levanter has one sequence_length .* have 8, 16"):
        curate.build(recipe)
    del recipe["stages"][1]["batch_sequences"]
    with pytest.raises(RecipeError, match="batch_sequences is for the trainer's file of all"):
        load_recipe(recipe)


def test_a_killed_build_keeps_the_stages_that_were_finished(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(loaded: Any, *arguments: Any, **options: Any) -> Any:
        if loaded.stage == "mid":
            raise KeyboardInterrupt
        return write_dataset(loaded, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("curate.pipeline.build.write_dataset", killed)
        with pytest.raises(KeyboardInterrupt):
            curate.build(make())
    assert not (tmp_path / "out" / "manifest.json").exists()
    shards = snapshot(tmp_path / "out" / "pretrain" / "train")
    listener = Listener()
    assert curate.build(make(), progress=listener).ok
    assert listener.notices.count("built already: reading it back") == 1
    assert snapshot(tmp_path / "out" / "pretrain" / "train") == shards


def test_torch_batches_go_through_the_stages(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    curate.build(make())
    data = curate.load(tmp_path / "out")
    plain = list(data.loader(5))
    for workers in (0, 2):
        loader = data.torch_loader(5, workers=workers)
        first = [batch for _, batch in zip(range(160), loader, strict=False)]
        other = data.torch_loader(5)
        other.load_state_dict(loader.state_dict())
        batches = [*first, *other]
        assert len(batches) == len(plain)
        for one, two in zip(batches, plain, strict=True):
            assert np.array_equal(one["tokens"].numpy(), two["tokens"])


@pytest.mark.parametrize("command", ["plan", "mix", "build"])
def test_a_refused_plan_leaves_no_files_of_earlier_stages(
    make: Make, tmp_path: Path, command: str
) -> None:
    only = {"method": "manual", "weights": {"wiki": 0, "code": 0, "talk": 1}}
    short = make(changed("anneal", budget_tokens=90_000, mixture=only), max_epochs=1)
    with pytest.raises(InfeasiblePlan, match=r"stages\[anneal\]"):
        getattr(curate, command)(short)
    out = tmp_path / "out"
    assert not [path for path in out.rglob("*") if path.is_file() and path.suffix == ".json"]
    getattr(curate, command)(make())
    before = snapshot(out)
    with pytest.raises(InfeasiblePlan, match=r"stages\[anneal\]"):
        getattr(curate, command)(short)
    assert snapshot(out) == before


def test_a_staged_file_that_is_refused_leaves_no_plans(make: Make, tmp_path: Path) -> None:
    recipe = apart(make, tmp_path, "input_ids", 4)
    recipe["stages"][1]["sequence_length"] = 16
    with pytest.raises(RecipeError, match="levanter has one sequence_length"):
        curate.build(recipe)
    assert not list((tmp_path / "out").rglob("*.json"))


def test_a_where_that_empties_a_part_divides_weights_among_the_others(
    cache: Path, tmp_path: Path
) -> None:
    rows = [
        {"text": f"{number} " + "word " * (10 if kind == "short" else 60), "kind": kind}
        for kind, documents in (("short", 300), ("long", 200), ("longer", 100))
        for number in range(documents)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "web.jsonl").write_text(lines, "utf-8")
    (tmp_path / "wiki.jsonl").write_text(lines, "utf-8")
    recipe = {
        "name": "parts",
        "tokenizer": {"train": {"vocab_size": 300}},
        "domains": [
            {"name": "web", "paths": str(tmp_path / "web.jsonl"), "split": [{"by": "kind"}]},
            {"name": "wiki", "paths": str(tmp_path / "wiki.jsonl")},
        ],
        "cache": str(cache),
        "output": {"format": "npy", "dir": str(tmp_path / "out")},
        "max_epochs": 4,
        "stages": [
            {
                "name": "long",
                "budget_tokens": 4_000,
                "where": "tokens >= 30",
                "mixture": {"method": "manual", "weights": {"web": 3, "wiki": 1}},
            }
        ],
    }
    plan = curate.plan(recipe).json["stages"]["long"]["domains"]
    tokens = {name: row["tokens"] for name, row in plan.items()}
    assert tokens["web:short"] == 0 and tokens["wiki"] == 1_000
    supply = {name: row["supply_tokens"] for name, row in plan.items()}
    left = supply["web:long"] + supply["web:longer"]
    assert tokens["web:long"] == pytest.approx(3_000 * supply["web:long"] / left, abs=1)
    recipe["stages"][0]["where"] = "tokens >= 3000"
    with pytest.raises(InfeasiblePlan, match="'web:long'.* are left by tokens >= 3000"):
        curate.plan(recipe)


def card_of(out: Path) -> tuple[dict[str, Any], str]:
    """Return the metadata and the text of a card."""
    _, front, text = (out / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_dataset_in_stages_has_a_card_of_all_of_them(make: Make, tmp_path: Path) -> None:
    stages = [*STAGES, scheduled("mid", {"wiki": 3, "talk": 1}, shape="cosine", steps=3)]
    stages[3] |= {"where": "tokens >= 20", "sequence_length": 32}
    result = curate.build(make(stages))
    out = tmp_path / "out"
    metadata, text = card_of(out)
    assert "stages" in metadata["tags"] and metadata["license"] == "other"
    assert "45,000 training tokens from 3 domains in 4\nstages" in text
    assert "Read back after writing: passed" in text
    for stage in stages:
        (line,) = [row for row in text.splitlines() if row.startswith(f"| [{stage['name']}](")]
        assert f"| {stage['budget_tokens']:,} | {stage['sequence_length']} |" in line
        assert (out / stage["name"] / "README.md").is_file()
    assert "cosine from that of mid to wiki 3, talk 1, where tokens \\>= 20 |" in text
    certificate = json.loads((out / "certificate.json").read_bytes())
    for name, row in certificate["domains"].items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        shares = [s["domains"][name]["realised_share"] for s in certificate["stages"].values()]
        assert cells[:4] == [f"{share:.4%}" for share in shares]
        assert cells[4:6] == [f"{row['realised_tokens']:,}", f"{row['epochs']:.3f}"]
    for picture in ("card-shares.svg", "card-entropies.svg"):
        assert f"]({picture})" in text
    assert "anneal" in (out / "card-shares.svg").read_text("utf-8")
    listed = {file["path"] for file in json.loads((out / "manifest.json").read_bytes())["files"]}
    assert {"README.md", "card-shares.svg", "card-entropies.svg"} <= listed
    snippet = text.partition("```python\n")[2].partition("```")[0].replace("DIR", str(out))
    exec(compile(snippet, "card", "exec"), {})
    before = snapshot(out)
    assert curate.build(make(stages)).ok
    after = snapshot(out)
    assert {name: row[0] for name, row in before.items()} == {
        name: row[0] for name, row in after.items()
    }
    (out / "README.md").write_text("mine", "utf-8")
    assert result.ok and not curate.verify(out).ok
    assert curate.build(make(STAGES), overwrite=True).ok
    assert curate.verify(out).ok and "45,000" not in card_of(out)[1]


@pytest.mark.parametrize("kind", ["per-domain", "jsonl"])
def test_the_card_of_stages_says_how_they_are_loaded(make: Make, tmp_path: Path, kind: str) -> None:
    if kind == "jsonl":
        stages = [{"name": name, "budget_tokens": 3_000} for name in ("a", "b")]
        recipe = make(stages, output={"format": "jsonl", "dir": str(tmp_path / "out")})
    else:
        recipe = apart(make, tmp_path, "datatrove", 4)
    assert curate.build(recipe).ok
    out = tmp_path / "out"
    metadata, text = card_of(out)
    if kind == "jsonl":
        assert [config["config_name"] for config in metadata["configs"]] == ["a", "b"]
        for config in metadata["configs"]:
            for files in config["data_files"]:
                assert list(out.glob(files["path"]))
        assert "for stage in ['a', 'b']:\n    rows = load_dataset(\"DIR\", stage" in text
        return
    assert "With `trainer/nanotron_stages.yaml` the trainer goes through all stages" in text
    snippet = text.partition("```python\n")[2].partition("```")[0].replace("DIR", str(out))
    exec(compile(snippet.replace("2048", "16"), "card", "exec"), {})


def test_the_mixture_of_a_scheduled_stage_shows_its_ends_and_its_supply(make: Make) -> None:
    stages = [*STAGES[:2], scheduled("mid", {"wiki": 3, "talk": 1}, shape="cosine")]
    stages[2]["where"] = "tokens >= 30"
    result = curate.mix(make(stages))
    fields = result.json["stages"]["last"]
    third = pytest.approx(1 / 3, abs=1e-3)
    assert fields["schedule"] == {
        "from": {"wiki": third, "code": third, "talk": third},
        "to": {"wiki": 0.75, "code": 0.0, "talk": 0.25},
        "shape": "cosine",
        "steps": None,
    }
    supply = {
        row["domain"]: row["supply_tokens"] for row in result.rows() if row["stage"] == "last"
    }
    assert supply == fields["supply_tokens"]
    assert all(supply[name] < tokens for name, tokens in result.supply_tokens.items())
    for name, weight in fields["weights"].items():
        assert fields["epochs"][name] == pytest.approx(9_000 * weight / supply[name])
    assert "schedule" not in result.json["stages"]["mid"]


def test_recipes_with_stages_are_compared_stage_by_stage(make: Make, tmp_path: Path) -> None:
    def written(name: str, stages: list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(make(stages)), "utf-8")
        return path

    first = written("a.yaml", STAGES)
    changes = curate.diff(first, written("b.yaml", changed("mid", budget_tokens=9_500))).changes
    assert {change.key: (change.before, change.after) for change in changes} == {
        "budget_tokens": (36_000, 36_500),
        "stages.mid.budget_tokens": (9_000, 9_500),
    }
    turned = curate.diff(first, written("c.yaml", [STAGES[1], STAGES[0], STAGES[2]])).changes
    assert [(change.key, change.after) for change in turned] == [
        ("stages", ["mid", "pretrain", "anneal"])
    ]


def test_the_command_takes_a_stage_with_compare_or_front(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(make()), "utf-8")
    with pytest.raises(RecipeError, match="--stage: goes with --compare or --front"):
        CliRunner().invoke(cli, ["mix", str(path), "--stage", "mid"], catch_exceptions=False)
    asked = ["mix", str(path), "--stage", "mid", "--methods", "uniform,natural", "--json"]
    done = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert done.exit_code == 0
    assert set(json.loads(done.stdout)["mixtures"]) == {"uniform", "natural"}
    front = ["mix", str(path), "--stage", "mid", "--front", "wiki,code", "--method", "dml"]
    with pytest.raises(
        CurateError, match=r"stages\[mid\]: mixture: method 'dml' needs training runs"
    ):
        CliRunner().invoke(cli, front, catch_exceptions=False)
