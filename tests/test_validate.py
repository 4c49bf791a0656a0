"""The recommendation against its rivals: verdicts, predictions, one command from the recipe."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import curate
from curate.cli import cli
from curate.errors import CurateError, FitError, InputError, MissingEvidence, RecipeError
from curate.laws.law import RunTable
from curate.mixture import DomainSupply, MixtureOptions, MixtureRequest
from curate.mixture.predicted_losses import forecast
from curate.mixture.request import Evidence, SearchOptions
from curate.pipeline.plan import plan_dataset
from curate.pipeline.proxies import next_preset, with_preset
from curate.pipeline.validate import (
    TrainedCandidates,
    ValidationSettings,
    goals_measured,
    judge,
    objective_of,
    validate_mixture,
)
from curate.recipe import load, parse
from curate.report.validation import summary_lines
from curate.runtime.progress import Observer
from curate.stats.seed_intervals import joint_verdict, seed_mean, verdict_of

NAMES = ("wiki", "code", "talk")
PROXY = (
    "{preset: nano, runs: 8, tokens: 4096, sequence_length: 32, batch: 4, checkpoints: 3,"
    " validation_tokens: 400}"
)


@pytest.fixture
def recipe(recipe: Path) -> Path:
    own = f"{{method: bimix, replicates: 0, evidence: {{proxy: {PROXY}}}}}"
    text = recipe.read_text("utf-8")
    recipe.write_text(text.replace("{method: entropy, estimator: plugin}", own), "utf-8")
    return recipe


def request_of(
    method: str = "bimix", runs: RunTable | None = None, objective: str = "mean"
) -> MixtureRequest:
    domains = tuple(DomainSupply(name, 1000, 4) for name in NAMES)
    options = MixtureOptions(search=SearchOptions(objective=objective))
    return MixtureRequest(domains, 1000, method, options, Evidence(runs))


def measured(objective: list[float], noise: float, seeds: int = 3) -> TrainedCandidates:
    """Candidates whose mean losses are these, with seed noise that all share and some of their own.

    The shared noise is ten times as large, so that only a paired comparison can see through it.
    """
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 10 * noise, (1, seeds, 1))
    own = rng.normal(0, noise, (len(objective), seeds, 3))
    return TrainedCandidates("nano", 100, 4096, np.array(objective)[:, None, None] + shared + own)


CANDIDATES = {"recommended": (0.5, 0.3, 0.2), "natural": (0.3, 0.3, 0.4), "uniform": (1 / 3,) * 3}


@pytest.mark.parametrize(
    ("objective", "verdicts", "verdict"),
    [
        ([4.0, 4.5, 4.6], ["confirmed", "confirmed"], "confirmed"),
        ([4.0, 4.0, 4.6], ["tied", "confirmed"], "tied"),
        ([4.5, 4.0, 4.9], ["refuted", "confirmed"], "refuted"),
    ],
)
def test_a_planted_difference_is_judged(
    objective: list[float], verdicts: list[str], verdict: str
) -> None:
    found = judge(request_of(), CANDIDATES, [measured(objective, 0.01)])
    assert [row["verdict"] for row in found["sizes"][0]["against"].values()] == verdicts
    assert found["verdict"] == verdict
    unpaired = measured(objective, 0.01).losses.mean(axis=2)
    assert unpaired.std(axis=1).max() > 0.03  # what seeds share would drown a gap of the noise


def test_equal_mixtures_are_refuted_or_confirmed_as_seldom_as_the_interval_says() -> None:
    rng = np.random.default_rng(1)
    found = [verdict_of(seed_mean(rng.normal(0, 1, 3))) for _ in range(2000)]
    assert 0.03 < 1 - found.count("tied") / 2000 < 0.07
    normal = [abs(v.mean()) > 1.96 * v.std(ddof=1) / 3**0.5 for v in rng.normal(0, 1, (2000, 3))]
    assert np.mean(normal) > 0.15  # the dummy: normal quantiles on three seeds


def test_transfer_between_sizes() -> None:
    sizes = [measured([4.0, 4.5, 4.6], 0.001), measured([3.9, 4.1, 4.0], 0.001)]
    found = judge(request_of(), CANDIDATES, sizes)["transfer"]
    assert found == [{"from": "nano", "to": "nano", "spearman": 0.5, "same_best": True}]


def bimix_runs() -> RunTable:
    """L = r^-0.1 (20 s^-0.4 + 3), for all domains."""
    rng = np.random.default_rng(0)
    weights = np.repeat(rng.dirichlet(np.ones(3) * 3, 8), 6, axis=0)
    tokens = np.tile(np.geomspace(500, 4096, 6), 8)
    losses = weights**-0.1 * (20 * tokens[:, None] ** -0.4 + 3)
    names = tuple(f"m{row // 6}" for row in range(48))
    return RunTable(NAMES, NAMES, names, weights, tokens, np.full(48, 100.0), losses)


def test_predicted_losses_are_those_of_the_law_at_the_size_of_its_runs() -> None:
    request = request_of(runs=bimix_runs())
    mixtures = np.array(list(CANDIDATES.values()))
    truth = mixtures**-0.1 * (20 * 4096**-0.4 + 3)
    losses = truth[:, None, :] * np.array([0.999, 1.0, 1.001])[None, :, None]
    found = judge(request, CANDIDATES, [TrainedCandidates("nano", 100, 4096, losses)])["sizes"][0]
    assert found["prediction"]["by"] == "bimix"
    assert found["prediction"]["mean_relative_error"] < 1e-3
    cell = found["candidates"]["natural"]["loss"]["talk"]
    assert cell["predicted"] == pytest.approx(truth[1, 2], rel=1e-3)
    assert cell["low"] < truth[1, 2] < cell["high"]
    assert forecast(request, mixtures, 4096, 5000) is None  # the runs know one other size only
    assert forecast(request_of("entropy", bimix_runs()), mixtures, 4096, 100) is None
    assert forecast(request_of(), mixtures, 4096, 100) is None


def test_the_objective_is_the_recipes() -> None:
    losses = np.array([[[1.0, 8.0, 3.0]], [[2.0, 4.0, 3.0]]])
    request = request_of(runs=bimix_runs())

    def values(**search: Any) -> list[list[float]]:
        options = MixtureOptions(search=SearchOptions(**search))
        goals = goals_measured(replace(request, options=options))
        return [row.tolist() for row in objective_of(losses, goals, natural=1).round(9)]

    assert values() == [[4.0], [3.0]]
    assert values(objective="worst") == [[2.0], [2.0]]
    assert values(objective={"code": 3, "wiki": 1}) == [[6.25], [3.5]]
    groups = {"written": ["c*", "wiki"], "said": ["talk"]}
    assert values(groups=groups) == [[1.5], [1.0]]
    assert values(groups={"one": ["code"], "other": ["wiki"]}, against="natural") == [[2.0], [1.0]]
    # Tasks that are no domain cannot be measured here.
    tasks = replace(bimix_runs(), targets=("x", "y", "z"))
    request = request_of(runs=tasks)
    assert values(objective={"x": 1.0}) == values(groups={"one": ["x"]}) == [[4.0], [3.0]]


def test_means_over_seeds() -> None:
    with pytest.raises(ValueError, match=r"at least 2 seeds, got shape \(1,\)"):
        seed_mean(np.array([1.0]))
    assert joint_verdict([]) == "tied"


def test_one_command_trains_mixes_and_judges(recipe: Path) -> None:
    asked = ["validate", str(recipe), "--seeds", "2", "--up", "--workers", "1"]
    done = CliRunner().invoke(cli, [*asked, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    out = load(recipe).output_dir
    assert found == json.loads((out / "validation.json").read_text("utf-8"))
    assert [size["preset"] for size in found["sizes"]] == ["nano", "micro"]
    assert found["sizes"][0]["params"] < found["sizes"][1]["params"]
    assert found["sizes"][0]["tokens"] == found["sizes"][1]["tokens"] == 4096
    assert set(found["weights"]) == {"recommended", "natural", "uniform"}
    assert found["sizes"][0]["prediction"]["by"] == "bimix"
    assert found["sizes"][1]["prediction"] is None
    with (out / "runs.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 8 * 3
    mixture = json.loads((out / "mixture.json").read_text("utf-8"))
    assert mixture["method"] == "bimix" and mixture["weights"] == found["weights"]["recommended"]
    before = {path: path.read_bytes() for path in out.rglob("runs.csv")}
    assert len(before) == 3
    again = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert "the recommendation of bimix is" in again.output
    assert {path: path.read_bytes() for path in out.rglob("runs.csv")} == before


def test_a_stage_is_validated_on_what_the_stages_before_it_leave(recipe: Path) -> None:
    stages = (
        "stages=[{name: a, budget_tokens: 9000, mixture: {method: natural}},"
        " {name: b, budget_tokens: 9000, mixture: {method: unimax}}]"
    )
    changes = (stages, "budget_tokens=18000", "mixture={method: natural}", f"proxy={PROXY}")
    loaded = load(recipe, changes)
    weights = curate.plan(loaded).json["stages"]["b"]["domains"]
    result = curate.validate(loaded, seeds=2, stage="b", workers=1)
    assert result.json["method"] == "unimax"
    recommended = result.json["weights"]["recommended"]
    assert recommended == {name: row["weight"] for name, row in weights.items()}
    assert (loaded.output_dir / "b" / "validation.json").is_file()


def test_experts_are_trained_where_the_method_needs_them(recipe: Path) -> None:
    loaded = load(recipe, ("mixture.method=mixmin",))
    planned = plan_dataset(loaded, 1, Observer())
    assert (loaded.output_dir / "experts.parquet").exists()
    assert not (loaded.output_dir / "runs.csv").exists()
    assert planned.mixed.mixture.details["level"] == "document"
    plain = load(recipe, ("mixture.method=natural", f"output.dir={loaded.output_dir / 'plain'}"))
    plan_dataset(plain, 1, Observer())
    assert not list((loaded.output_dir / "plain").glob("runs.csv"))  # natural needs nothing


def test_your_own_weights_are_a_rival(recipe: Path) -> None:
    weights = "mixture.weights={wiki: 0.2, code: 0.3, talk: 0.5}"
    own = (weights, "mixture.method=uniform")
    found = validate_mixture(load(recipe, own), ValidationSettings(seeds=2), 1, Observer())
    assert found["weights"]["yours"]["wiki"] == pytest.approx(0.2)
    assert found["sizes"][0]["against"]["uniform"]["verdict"] == "tied"  # it is the recommendation
    assert found["sizes"][0]["against"]["uniform"]["mean"] == 0


def test_one_size_up_is_measured_once(recipe: Path) -> None:
    asked = ValidationSettings(seeds=2, presets=("micro", "nano"), up=True)
    natural = load(recipe, ("mixture.method=natural",))
    found = validate_mixture(natural, asked, 1, Observer())
    assert [size["preset"] for size in found["sizes"]] == ["micro", "nano"]
    assert len(found["transfer"]) == 1


@pytest.mark.parametrize(
    ("override", "asked", "error", "message"),
    [
        (
            "seed=1",
            ValidationSettings(seeds=1),
            InputError,
            "1 seed cannot show seed noise.* --seeds 2 or more",
        ),
        (
            "seed=1",
            ValidationSettings(presets=("mega",)),
            RecipeError,
            "no preset is called 'mega'",
        ),
        (
            "seed=1",
            ValidationSettings(presets=("500M",), up=True),
            RecipeError,
            "'500M' is the largest preset",
        ),
        (
            "mixture.evidence.proxy.learning_rate=1e6",
            ValidationSettings(),
            InputError,
            "no run ended with finite losses; set a lower",
        ),
    ],
)
def test_what_cannot_be_validated(
    override: str, asked: ValidationSettings, error: type[CurateError], message: str, recipe: Path
) -> None:
    with pytest.raises(error, match=message):
        validate_mixture(load(recipe, (override,)), asked, 1, Observer())


def test_a_named_table_is_taken_before_proxies_and_must_be_there(recipe: Path) -> None:
    loaded = load(recipe, ("mixture.evidence.runs=mine.csv",))
    with pytest.raises(MissingEvidence, match=r"mine.csv does not exist; .*evidence: \{proxy: "):
        plan_dataset(loaded, 1, Observer())
    (loaded.base / "mine.csv").write_text("run\n", "utf-8")
    with pytest.raises(FitError, match="mine.csv"):
        plan_dataset(loaded, 1, Observer())


def test_proxies_stand_in_one_place() -> None:
    text = "{name: t, tokenizer: {train: {vocab_size: 512}}, budget_tokens: 9, domains: [{name: a,"
    text += " paths: x}], mixture: {evidence: {proxy: {runs: 4}}}"
    with pytest.raises(RecipeError, match="both in mixture.evidence.proxy and in proxy: keep one"):
        parse(text + ", proxy: {runs: 8}}", Path())
    loaded = parse(text + "}", Path())
    assert loaded.proxies.runs == 4
    micro = with_preset(loaded, "micro")
    assert (micro.proxies.preset, micro.proxies.tokens, micro.proxies.runs) == ("micro", 250_000, 4)
    assert micro.hash == loaded.hash  # what proxies find counts, not how they were asked for
    assert next_preset("60M") == "bimix"


@pytest.mark.parametrize(
    ("verdict", "reason", "advice"),
    [
        ("confirmed", "minus uniform: -0.0289 bits a token, 95 % interval over seeds -0.0433 to "
         "-0.0144; all of it is below 0", "next: build with it"),
        ("tied", "minus natural: +0.0144 bits a token, 95 % interval over seeds -0.0144 to "
         "+0.0433; it holds 0", "more seeds"),
        ("refuted", "minus natural: +0.0144", "build with uniform instead"),
    ],
)  # fmt: skip
def test_a_verdict_says_why_and_what_to_do(verdict: str, reason: str, advice: str) -> None:
    better = {"mean": -0.02, "low": -0.03, "high": -0.01, "verdict": "confirmed"}
    open_to_doubt = {"mean": 0.01, "low": -0.01, "high": 0.03, "verdict": verdict}
    size = {
        "preset": "nano", "verdict": verdict, "prediction": None,
        "ranking": ["uniform", "recommended", "natural"],
        "against": {"uniform": better, "natural": open_to_doubt},
    }  # fmt: skip
    lines = summary_lines({"method": "bimix", "sizes": [size], "transfer": []})
    assert len(lines) == 4 and reason in lines[1] and advice in lines[2]
    worst = {"method": "bimix", "objective_unit": "ratio", "sizes": [size], "transfer": []}
    mean = size["against"]["natural" if verdict != "confirmed" else "uniform"]["mean"]
    assert f"{mean:+.4f}, 95 %" in summary_lines(worst)[1]  # a ratio has no unit
