"""The contract of methods that need runs or experts, and every fault of evidence."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import slow_if
from expert_files import write_likelihoods
from method_contract import (
    EXPONENTS,
    NAMES,
    SCALES,
    asked,
    check_evidence_contract,
    experts,
    runs,
)
from mixing_laws import LogLinear, PowerLaw, table_of

from curate.cli import cli
from curate.errors import FitError, InfeasiblePlan, MissingEvidence, RecipeError
from curate.laws.law import RunTable
from curate.mixture import (
    METHODS,
    DomainSupply,
    Evidence,
    MixtureOptions,
    mix,
)
from curate.mixture import compare_methods as comparing
from curate.mixture.compare_methods import Contender, compare_mixtures, every_method
from curate.mixture.search.bimix_optimum import power_optimum
from curate.mixture.search.simplex_box import Box, whole
from curate.report.tables import mixture_lines

pytestmark = pytest.mark.usefixtures("small_search")

BY_RUNS = [name for name, method in METHODS.items() if method.evidence == "runs"]
BY_EXPERTS = [name for name, method in METHODS.items() if method.evidence == "experts"]


DRAWN = {"boosted", "regmix", "boosted_mde", "gaussian"}
"""Their random draws follow the order of the domains."""


@pytest.mark.parametrize(
    "method",
    slow_if(
        ("autoscale", "boosted_mde", "gaussian", "gaussian_mde").__contains__,
        [*BY_RUNS, *BY_EXPERTS],
    ),
)
def test_contract(method):
    check_evidence_contract(method, by_name=method not in DRAWN)


def test_bimix_finds_the_planted_optimum():
    expected = power_optimum(SCALES, EXPONENTS, whole(3))
    found = mix(asked("bimix", evidence=Evidence(runs(noise=0))))
    assert list(found.weights.values()) == pytest.approx(expected, abs=1e-9)
    assert found.details["support"]["inside"] and found.details["optimality_gap"] < 1e-9
    capped = power_optimum(SCALES, EXPONENTS, Box(np.zeros(3), np.array([1, 1, 0.25])))
    held = mix(asked("bimix", caps=(np.inf, np.inf, 0.25), evidence=Evidence(runs(noise=0))))
    assert list(held.weights.values()) == pytest.approx(capped, abs=1e-9)
    assert list(held.unconstrained.values()) == pytest.approx(expected, abs=1e-9)
    assert held.constraints_active == ("c: max_epochs 0.25 binds",)


def test_methods_agree_on_a_law_they_share():
    bimix, dml = mix(asked("bimix")), mix(asked("dml"))
    moved = sum(abs(bimix.weights[name] - dml.weights[name]) for name in NAMES) / 2
    assert moved < 0.2
    assert mix(asked("law", law="bimix")).weights == bimix.weights


def test_objectives():
    one = mix(asked("bimix", objective={"b": 1.0}, trust_region=False))
    assert one.weights["b"] > 0.99
    even = mix(asked("bimix", objective={"a": 2.0, "b": 2.0, "c": 2.0}))
    assert even.weights == pytest.approx(mix(asked("bimix")).weights)
    worst = mix(asked("bimix", objective="worst"))
    table = runs()
    excess = [worst.details["predicted_losses"][n] / table.losses[:, i].min()
              for i, n in enumerate(NAMES)]  # fmt: skip
    assert max(excess) - min(excess) < 1e-3
    pulled = mix(asked("dml", kl=1000.0, prior={"a": 1, "b": 1, "c": 2}))
    assert list(pulled.weights.values()) == pytest.approx([0.25, 0.25, 0.5], abs=0.01)
    natural = mix(asked("olmix", kl=1000.0))
    assert list(natural.weights.values()) == pytest.approx([1 / 3] * 3, abs=0.01)


def test_intervals_and_regret_reach_the_artifact():
    found = mix(asked("bimix", replicates=30)).to_json()
    for name in NAMES:
        assert found["low"][name] <= found["weights"][name] <= found["high"][name]
        assert found["high"][name] - found["low"][name] < 0.2
    assert set(found["regret"]) == {"recommendation", "natural", "uniform", "best observed run"}
    assert found["regret"]["uniform"]["mean"] > found["regret"]["recommendation"]["mean"]
    assert set(found["within_noise_of_best"]) == set(NAMES)
    mixed = mix(asked("mde", replicates=30))
    assert all(mixed.low[n] <= mixed.weights[n] <= mixed.high[n] for n in NAMES)


def test_trust_region_is_on_and_says_so():
    weights = np.random.default_rng(3).dirichlet(np.full(3, 30.0), 40)
    table = table_of(LogLinear(np.ones(1), np.array([[-2.0, 0.0, 1.0]])), weights, 0.001)
    held = mix(asked("dml", evidence=Evidence(table)))
    free = mix(asked("dml", evidence=Evidence(table), trust_region=False))
    assert free.weights["a"] > 0.95 and not free.details["support"]["inside"]
    assert any("outside the data" in warning for warning in free.warnings)
    assert held.weights["a"] < 0.7 and held.details["support"]["inside"]
    assert any("the trust region binds" in warning for warning in held.warnings)
    assert held.unconstrained["a"] > 0.95


def test_a_promise_beyond_the_law_s_own_errors_is_warned_of():
    """Far outside the runs it is; where noise hides what little there is to gain, it is not."""
    weights = np.random.default_rng(3).dirichlet(np.full(3, 30.0), 40)
    table = table_of(LogLinear(np.ones(1), np.array([[-2.0, 0.0, 1.0]])), weights, 0.001)
    free = mix(asked("dml", evidence=Evidence(table), trust_region=False))
    said = [warning for warning in free.warnings if "nothing like it was observed" in warning]
    assert len(said) == 1 and "the law promises" in said[0]
    observed = free.details["observed"]
    assert observed["best"] == table.losses.min()
    assert 0 < observed["misfit"] < observed["best"] - free.predicted_loss
    noisy = table_of(LogLinear(np.ones(1), np.array([[-0.02, 0.0, 0.01]])), weights, 0.1)
    held = mix(asked("ridge", evidence=Evidence(noisy)))
    assert not any("nothing like it" in warning for warning in held.warnings)
    assert held.details["observed"]["misfit"] is None or (
        held.predicted_loss >= held.details["observed"]["best"] - held.details["observed"]["misfit"]
    )


def test_domains_the_recipe_lacks_get_nothing():
    wide = asked("bimix", names=("a", "c"), caps=(np.inf,) * 2)
    found = mix(dataclasses.replace(wide, evidence=Evidence(runs(noise=0))))
    assert set(found.weights) == {"a", "c"}
    assert any("'b' is in the runs and not in the recipe" in w for w in found.warnings)


def test_levels_of_experts():
    token, document = mix(asked("mde")), mix(asked("mixmin"))
    assert mix(asked("mde", level="document")).weights == document.weights
    assert mix(asked("mixmin", level=1)).weights == pytest.approx(token.weights)
    assert token.details["level"] == "token" and token.details["optimality_gap"] < 1e-6
    one = mix(asked("mde", objective={"y": 1.0}))
    assert one.weights != token.weights
    worst = mix(asked("mde", objective="worst"))
    assert max(worst.details["predicted_losses"].values()) <= max(
        token.details["predicted_losses"].values()
    )


@pytest.mark.parametrize(
    ("method", "search", "error", "message"),
    [
        (
            "bimix",
            {"objective": "best"},
            RecipeError,
            "objective: cannot be 'best' .known: mean",
        ),
        (
            "bimix",
            {"objective": {"z": 1}},
            RecipeError,
            "unknown name 'z'.*a, b, c",
        ),
        ("bimix", {"objective": {"a": 0}}, RecipeError, "objective: no importance is positive"),
        ("dml", {"prior": "even"}, RecipeError, "mixture.prior: cannot be 'even' .known: natural"),
        ("dml", {"prior": {"a": 0}}, RecipeError, "mixture.prior: no share is positive"),
        ("dml", {"prior": {"q": 1}}, RecipeError, "mixture.prior: unknown name 'q'"),
        ("dml", {"at_tokens": 1e9}, RecipeError, "at_tokens: the runs do not say their tokens"),
        ("dml", {"at_params": 1e9}, RecipeError, "at_params: the runs do not say their parameters"),
        ("dml", {"replicates": 5}, RecipeError, "replicates: 5 is too few for an interval; set 20"),
        ("law", {"law": "none"}, RecipeError, "mixture.law: no law is called 'none' .known: bimix"),
        ("mde", {"level": "word"}, RecipeError, "mixture.level: cannot be 'word' .known: token, d"),
        (
            "mde",
            {"discount_repeats": True},
            RecipeError,
            "experts have no tokens to disc",
        ),
    ],
)
def test_wishes_that_cannot_be(method, search, error, message):
    with pytest.raises(error, match=message):
        mix(asked(method, **search))


def test_faults_of_evidence():
    for method, what in (("bimix", "needs training runs"), ("mde", "log-probabilities")):
        with pytest.raises(MissingEvidence, match=what):
            mix(asked(method, evidence=Evidence()))
        with pytest.raises(MissingEvidence, match=what):
            mix(dataclasses.replace(asked(method), evidence=None))
        with pytest.raises(MissingEvidence, match="do not include 'd' .they have a, b, c."):
            mix(asked(method, names=("a", "b", "d")))
    with pytest.raises(RecipeError, match="mixture.law is missing: method law needs one of bimix"):
        bare = asked("law")
        search = dataclasses.replace(bare.options.search, law=None)
        mix(dataclasses.replace(bare, options=MixtureOptions(search=search)))
    with pytest.raises(InfeasiblePlan, match="at least 0.3, but its tokens allow only 0.2"):
        mix(asked("bimix", caps=(0.2, np.inf, np.inf), bounds={"floors": {"a": 0.3}}))
    table = runs()
    share = np.linspace(0.3, 0.7, 60)
    never = dataclasses.replace(table, weights=np.column_stack([0 * share, share, 1 - share]))
    with pytest.raises(FitError, match="'a' was never sampled"):
        mix(asked("bimix", evidence=Evidence(never)))


def test_a_domain_that_was_never_sampled_stays_out_of_reach():
    rng = np.random.default_rng(4)
    weights = np.column_stack([rng.dirichlet(np.ones(2) * 3, 30), np.zeros(30)])
    law = LogLinear(np.ones(1), np.array([[-1.0, 0.5, 0.0]]))
    found = mix(asked("dml", evidence=Evidence(table_of(law, weights, 0.001))))
    assert found.weights["c"] < 0.05 and found.details["support"]["inside"]


def test_regressions_with_experts_need_both():
    both = Evidence(runs(), experts())
    plain, beside = mix(asked("ridge")), mix(asked("ridge_mde", evidence=both))
    assert beside.details["law"] == "ridge_mde" and beside.weights != plain.weights
    named = mix(asked("law", law="ridge_mde", evidence=both))
    assert named.weights == beside.weights
    for alone in (Evidence(runs()), Evidence()):
        with pytest.raises(MissingEvidence, match="'ridge_mde' needs the experts' log-prob.*both"):
            mix(asked("ridge_mde", evidence=alone))
    with pytest.raises(MissingEvidence, match="'ridge_mde' needs training runs"):
        mix(asked("ridge_mde", evidence=Evidence(None, experts())))
    with pytest.raises(MissingEvidence, match="law 'ridge_mde' needs the experts.*or take the law"):
        mix(asked("law", law="ridge_mde", evidence=Evidence(runs())))
    with pytest.raises(MissingEvidence, match="there is no expert of 'b'"):
        mix(asked("ridge_mde", evidence=Evidence(runs(), experts(("a", "z", "c")))))


def test_one_checkpoint_of_the_same_mixture():
    same = np.tile([0.2, 0.3, 0.5], (6, 1))
    table = table_of(PowerLaw(SCALES, EXPONENTS), same, 0.01)
    # What a regression makes of one mixture is its prior, not an optimum.
    for method, trust in (("bimix", True), ("ridge", True), ("ridge", False)):
        with pytest.raises(FitError, match=r"one mixture was trained \(6 runs\), so nothing says"):
            mix(asked(method, evidence=Evidence(table), trust_region=trust))


def test_discounted_repetition_moves_the_answer():
    table = runs()
    tokens = np.tile([1e9, 2e9], 30)
    losses = table.losses * (1 + 3 * (tokens / 1e9) ** -0.5)[:, None]
    known = RunTable(
        table.domains, table.targets, table.runs, table.weights, tokens, table.params, losses
    )
    settings = {"evidence": Evidence(known), "at_tokens": 2e9, "trust_region": False}
    scarce = asked("bimix", caps=(40.0, 40, 40), discount_repeats=True, **settings)
    scarce = dataclasses.replace(
        scarce, budget_tokens=10_000,
        domains=(DomainSupply("a", 10_000, 40), DomainSupply("b", 10_000, 40),
                 DomainSupply("c", 200, 40)),
    )  # fmt: skip
    plainly = dataclasses.replace(
        scarce,
        options=MixtureOptions(
            search=dataclasses.replace(scarce.options.search, discount_repeats=False)
        ),
    )
    assert mix(scarce).weights["c"] < mix(plainly).weights["c"] - 0.02


def test_a_domain_that_no_run_had_is_named():
    """Its share is a guess, even where the mixture lies near the runs."""
    table = runs(30)
    weights = table.weights.copy()
    weights[:, 2] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    known = Evidence(dataclasses.replace(table, weights=weights))
    found = mix(asked("dml", evidence=known, bounds={"floors": {"c": 0.02}}))
    assert found.weights["c"] >= 0.02 - 1e-12  # to rounding
    said = [text for text in found.warnings if text.startswith("no run had any of 'c' ")]
    assert len(said) == 1 and "Train runs that have it" in said[0]
    assert not any("no run had" in text for text in mix(asked("dml")).warnings)


def test_equal_losses_promise_nothing():
    table = runs(30)
    flat = Evidence(dataclasses.replace(table, losses=np.full_like(table.losses, 2.0)))
    found = mix(asked("ridge", evidence=flat))
    assert found.predicted_loss == pytest.approx(2.0, abs=1e-6)
    assert not any("promises" in text for text in found.warnings)


def test_comparison_is_the_same_for_any_number_of_workers(monkeypatch):
    """Each method that gives a mixture is named when it ends."""
    few = ("natural", "bimix", "additive", "mde")
    monkeypatch.setattr(comparing, "METHODS", {name: METHODS[name] for name in few})
    request = asked("natural", evidence=Evidence(runs(30)))
    told: list[Contender] = []
    alone = compare_mixtures(every_method(request), 1, told.append)
    assert [ended.label for ended in told] == ["additive", "bimix", "natural"]
    assert list(alone["left_out"]) == ["mde"]
    lines = [ended.line for ended in told]
    assert re.fullmatch(r"bimix: loss \d\.\d{4}, \d+\.\d s of CPU", lines[1])
    assert re.fullmatch(r"natural: \d+\.\d s of CPU", lines[2])
    told.clear()
    assert compare_mixtures(every_method(request), 2, told.append) == alone
    assert {ended.label for ended in told} == set(few[:3])
    assert list(alone["mixtures"]) == list(few[:3])


def test_comparison_says_why_a_method_is_left_out():
    found = compare_mixtures(every_method(asked("natural", evidence=Evidence(runs(30)))))
    assert {"natural", "uniform", "bimix", "dml", "regmix"} - set(found["mixtures"]) <= {"regmix"}
    assert "log-probabilities" in found["left_out"]["mde"]
    assert "mixture.law is missing" in found["left_out"]["law"]
    assert found["mixtures"]["bimix"]["max_epochs"] > 0


# --- the command


def write_runs(path, table):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        columns = [f"w_{n}" for n in table.domains] + [f"loss_{n}" for n in table.targets]
        writer.writerow(["run", *columns])
        for row, name in enumerate(table.runs):
            writer.writerow([name, *table.weights[row], *table.losses[row]])


@pytest.fixture
def recipe(tmp_path, cache):
    rng = np.random.default_rng(5)
    words = ["alpha", "beta", "gamma", "delta", "run", "the", "of", "law"]
    for name in NAMES:
        lines = [json.dumps({"text": " ".join(rng.choice(words, 40))}) for _ in range(200)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    write_runs(tmp_path / "runs.csv", runs(30))
    write_likelihoods(experts(), tmp_path / "experts.parquet")
    domains = ", ".join(f"{{name: {name}, paths: {name}.jsonl}}" for name in NAMES)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"{{name: tiny, tokenizer: {{train: {{vocab_size: 280}}}}, domains: [{domains}], "
        "budget_tokens: 3000, mixture: {method: bimix, evidence: {runs: runs.csv}, "
        f"objective: {{target: c}}, replicates: 20}}, cache: {cache}}}"
    )
    return path


def run(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)))


def test_a_front_of_a_recipe(recipe):
    goal = "mixture.objective={groups: {both: [a, b]}}"
    done = run("mix", recipe, "--front", "both,c", "--points", "3", "--set", goal, "--json")
    assert done.exit_code == 0, done.output
    written = json.loads((recipe.parent / "out/tiny/front.json").read_text())
    assert written["points"] == json.loads(done.output)["points"]
    assert written["inputs"]["evidence"] and list(written["natural"]) == ["both", "c"]
    assert set(written["relative_error"]) == {"both", "c"}
    other = run("mix", recipe, "--front", "both,c", "--set", goal, "--method", "dml")
    assert other.exit_code == 0 and "front of both, c by exponential" in other.output
    refused = run("mix", recipe, "--front", "both,c")
    assert "'both' of group 'both' selects no target" in str(refused.exception)


def test_mix_command(recipe):
    done = run("mix", recipe, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    written = json.loads((recipe.parent / "out/tiny/mixture.json").read_text())
    assert written["weights"] == found["weights"] and found["weights"]["c"] > 0.5
    shown = run("mix", recipe).output
    assert "95 % interval" in shown and f"predicted loss {found['predicted_loss']:.4f}" in shown
    assert "from the nearest run" in shown.replace("\n", " ")
    assert written["inputs"]["evidence"] and written["regret"]["recommendation"]["mean"] >= 0
    experts = ["--set", "mixture.evidence.experts=experts.parquet"]
    refused = run("mix", recipe, *experts).exception
    assert "mixture.evidence.experts: method bimix does not read it" in str(refused)
    # --method leaves out what the recipe sets for its own method: here the runs.
    shown = run("mix", recipe, "--method", "mde", *experts, "--set", "mixture.objective=mean")
    words = "left out of the recipe, without effect on method mde: mixture.evidence.runs"
    assert words in shown.output.replace("\n", " ")
    other = json.loads((recipe.parent / "out/tiny/mixture.json").read_text())
    assert other["method"] == "mde" and other["level"] == "token"


def test_compare_command(recipe):
    settings = ("objective=mean", "evidence.experts=experts.parquet", "replicates=0")
    options = [part for setting in settings for part in ("--set", f"mixture.{setting}")]
    done = run("mix", recipe, "--compare", *options)
    assert done.exit_code == 0, done.output
    written = json.loads((recipe.parent / "out/tiny/mixtures.json").read_text())
    assert {"natural", "bimix", "mde", "mixmin"} <= set(written["mixtures"])
    assert "support" in done.output and "left out" in done.output


def test_new_evidence_is_a_new_build(recipe):
    from curate.pipeline.read_evidence import evidence_hash
    from curate.recipe import load

    before = evidence_hash(load(recipe))
    write_runs(recipe.parent / "runs.csv", runs(31))
    assert evidence_hash(load(recipe)) != before


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        (
            "mixture.evidence.runs=none.csv",
            MissingEvidence,
            "none.csv does not exist; `curate proxy",
        ),
        ("mixture.objective={}", RecipeError, "objective needs a target, or weights, groups or"),
        ("mixture.objective={target: a, weights: {a: 1}}", RecipeError, "found target and weights"),
        ("mixture.objective=best", RecipeError, "'best' is not one of mean and worst; a target is"),
        (
            "mixture.objective={groups: {}}",
            RecipeError,
            "objective.groups: name at least one group",
        ),
        (
            "mixture.objective={weights: {a: 1}, against: natural}",
            RecipeError,
            "mixture.objective.against: no effect without groups",
        ),
        ("mixture.evidence.run=x", RecipeError, "unknown key 'mixture.evidence.run'; did you mean"),
        ("mixture.floors={a: -1}", RecipeError, "mixture.floors[a]: expected"),
        ("mixture.floors={a: 2}", RecipeError, "mixture.floors[a]: expected a number <= 1.0"),
    ],
)
def test_recipes_that_cannot_be(recipe, setting, error, message):
    found = run("mix", recipe, "--set", setting)
    assert isinstance(found.exception, error)
    assert message in str(found.exception)


def asked_of(losses, **settings):
    """Ask method `dml` about runs of these losses, shape (runs, 3), natural being equal supply."""
    weights = np.random.default_rng(3).dirichlet(np.ones(3), len(losses))
    unknown = np.full(len(losses), np.nan)
    names = tuple(f"r{place}" for place in range(len(losses)))
    table = RunTable(NAMES, NAMES, names, weights, unknown, unknown, losses(weights))
    return mix(asked("dml", evidence=Evidence(table), replicates=0, **settings))


class _Losses:
    """Losses of 30 runs by their shares."""

    def __init__(self, moved: float, noise: float) -> None:
        self.moved, self.noise = moved, noise

    def __len__(self) -> int:
        return 30

    def __call__(self, weights):
        drawn = np.random.default_rng(4).standard_normal(weights.shape)
        true = 2 + self.moved * np.exp(weights @ np.array([[-3, 0, 0], [0, -1, 0], [-2, 0, -1.0]]))
        return true * np.exp(self.noise * drawn)


def test_a_mixture_that_gains_says_by_how_much():
    mixture = asked_of(_Losses(1.0, 0.002))
    gain = mixture.details["gain_over_natural"]
    assert 0 < gain["low"] < gain["mean"] < gain["high"] and not gain["within_noise"]
    truth = _Losses(1.0, 0.0)
    both = np.array([[1 / 3] * 3, list(mixture.weights.values())])
    true = float(-np.diff(truth(both).mean(axis=1))[0])
    assert gain["low"] <= true <= gain["high"]
    assert mixture.details["regret_at_1"]["mean"] < 0.01
    assert mixture.details["unmoved_targets"] == []
    shown = mixture_lines(mixture.to_json())
    assert shown[0].startswith("this mixture is better than natural by 0.")


def test_noise_is_no_better_than_natural():
    mixture = asked_of(_Losses(0.0, 0.02))
    gain = mixture.details["gain_over_natural"]
    assert gain["low"] < 0 and gain["within_noise"]
    assert mixture.details["unmoved_targets"] == list(NAMES)
    shown = mixture_lines(mixture.to_json())
    assert shown[0].startswith("this mixture is no better than natural within noise")
    assert "no mixture moves 3 of 3 losses beyond noise: a, b, c" in shown
