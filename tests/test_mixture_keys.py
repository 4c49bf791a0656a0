"""Every key of `mixture` for every method: it has an effect, or it is refused by name."""

import dataclasses
import io
import json
import re

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import slow_if
from method_contract import NAMES, asked, experts
from mixing_laws import PowerLaw
from rich.console import Console

import curate
from curate.cli import cli
from curate.errors import MissingEvidence, RecipeError
from curate.laws.law import RunTable
from curate.mixture import METHODS, Evidence, MixtureOptions, SearchOptions, mix
from curate.mixture.keys import (
    check_keys,
    given_keys,
    idle_keys,
    mixture_keys,
    readers,
    without_idle,
)
from curate.recipe import MixtureRecipe, parse
from curate.recipe.structs import EvidenceRecipe, ObjectiveRecipe, ProxyRecipe, TableFill
from curate.recipe.structs import MixtureRecipe as Section
from curate.report.tables import mixture_lines, result_table
from curate.report.terminal import numbers_table

pytestmark = pytest.mark.usefixtures("small_search")

PROXY = ProxyRecipe(preset="micro")
VALUES = {
    "measure": "shannon",
    "estimator": "plugin",
    "temperature": 3.0,
    "weights": {"a": 1.0, "b": 2.0, "c": 3.0},
    "evidence.runs": "runs.csv",
    "evidence.experts": "experts.parquet",
    "evidence.proxy": PROXY,
    "evidence.far_runs": "keep",
    "evidence.fill": {"runs.csv": TableFill(params=1e6)},
    "evidence.absent_domains": "zero",
    "evidence.became": {"a": "b"},
    "evidence.alike": {"ab": ["a", "b"]},
    "evidence.stage": "end",
    "law": "ridge",
    "objective": "worst",
    "at_tokens": 150.0,
    "at_params": 10.0,
    "kl": 0.3,
    "prior": {"a": 0.8, "b": 0.1, "c": 0.1},
    "keep": {"a": 3.0, "b": 1.0},
    "floors": {"a": 0.4},
    "caps": {"b": 0.25},
    "trust_region": False,
    "replicates": 20,
    "discount_repeats": True,
    "level": 5,
}
"""A value for every key that is not its default."""

SLOW = {
    "additive",
    "autoscale",
    "bimix_mixed",
    "boosted",
    "boosted_mde",
    "gaussian",
    "gaussian_mde",
    "joint",
}
TREES = {"boosted", "regmix"}
FEW = 3
"""Resamples that show that a method makes them; an interval takes `LEAST_REPLICATES`."""


def section(method, **fields):
    """The least that a method needs, and these fields on top."""
    evidence = {
        kind: VALUES[f"evidence.{kind}"]
        for kind in ("runs", "experts")
        if METHODS[method].evidence == kind or f"evidence.{kind}" in METHODS[method].requires
    }
    needs = {key: VALUES[key] for key in METHODS[method].requires if "." not in key}
    for key, value in fields.items():
        if key.startswith("evidence_"):
            evidence[key.removeprefix("evidence_")] = value
        else:
            needs[key] = value
    return Section(
        method=method, evidence=EvidenceRecipe(**evidence) if evidence else None, **needs
    )


def test_every_key_has_a_value_here():
    assert set(VALUES) | {"method"} == set(mixture_keys())
    assert given_keys(section("uniform")) == ["method"]
    for key in VALUES:
        assert readers(key), f"no method reads {key}"


@pytest.mark.parametrize("method", METHODS)
def test_keys_that_a_method_does_not_read_are_refused(method):
    row = METHODS[method]
    check_keys(section(method), row)
    for key in set(VALUES) - row.keys:
        recipe = section(method, **{key.replace(".", "_"): VALUES[key]})
        with pytest.raises(RecipeError) as caught:
            check_keys(recipe, row)
        message = str(caught.value)
        assert message.startswith(f"mixture.{key}: method {method} does not read it; ")
        assert all(name in message for name in readers(key))
        again = without_idle(recipe, row, idle_keys(recipe, row))
        assert given_keys(again) == given_keys(section(method))


def grown_runs():
    """Runs in one corner, at three token counts and two sizes, so that every key could matter."""
    rng = np.random.default_rng(0)
    law = PowerLaw(np.array([2.0, 3.0, 2.5]), np.array([0.12, 0.05, 0.2]))
    shares = rng.dirichlet([12.0, 4.0, 1.5], 10)
    steps = [(size, count) for size in (10.0, 20.0) for count in (100.0, 300.0)]
    at = np.repeat(steps, len(shares), axis=0)
    weights = np.tile(shares, (len(steps), 1))
    later = 1 + 2 * at[:, 1] ** -0.3 + at[:, 0] ** -0.4
    losses = law.predict(weights, at[:, 1], at[:, 0]) * later[:, None]
    losses *= np.exp(rng.normal(0, 0.002, losses.shape))
    names = tuple(f"r{run}-{size:g}" for size, _ in steps for run in range(len(shares)))
    return RunTable(NAMES, NAMES, names, weights, at[:, 1], at[:, 0], losses)


RUNS = grown_runs()


def short(method):
    """The runs at the first size and token count: a fourth of the work where neither matters.

    Trees find too little in ten rows.
    """
    return RUNS if method in TREES else RUNS.take(np.arange(10))


def request_of(method, runs=RUNS, **changes):
    """A request whose supplies make natural, uniform and the epochs differ.

    Without a trust region, which takes two fits more, as long as a test does not set it.
    """
    law = VALUES["law"] if method == "law" else None
    search = SearchOptions(**{"replicates": 0, "law": law, "trust_region": False, **changes})
    made = asked(method, caps=(3.0, 3.0, 3.0), evidence=Evidence(runs, experts()))
    supplies = (300, 500, 400)
    domains = tuple(
        dataclasses.replace(domain, supply_tokens=supply)
        for domain, supply in zip(made.domains, supplies, strict=True)
    )
    return dataclasses.replace(made, domains=domains, options=MixtureOptions(search=search))


def answer(request):
    fields = mix(request).to_json()
    return json.dumps({key: fields[key] for key in fields if key != "warnings"}, sort_keys=True)


LEARNED = slow_if(
    SLOW.__contains__, [name for name, row in METHODS.items() if row.evidence is not None]
)


@pytest.mark.parametrize("method", LEARNED)
def test_keys_that_a_method_with_evidence_reads_have_an_effect(method):
    row = METHODS[method]
    plain = answer(request_of(method))
    # Bounds have a contract of their own, and resamples take long enough for a test of their own.
    keys = row.keys - {"method", "floors", "caps", "replicates"}
    for key in sorted(key for key in keys if "." not in key):
        changes = {key: True if key == "trust_region" else VALUES[key]}
        base = plain
        if key == "prior":
            changes["kl"] = 0.3
            base = answer(request_of(method, kl=0.3))
        elif key == "law":
            changes["law"] = "exponential"
        assert answer(request_of(method, **changes)) != base, key
    for kind in ("runs", "experts"):
        if f"evidence.{kind}" in row.requires or row.evidence == kind:
            lacking = dataclasses.replace(Evidence(RUNS, experts()), **{kind: None})
            with pytest.raises(MissingEvidence):
                mix(dataclasses.replace(request_of(method), evidence=lacking))


@pytest.mark.parametrize("method", LEARNED)
def test_kl_auto_is_obeyed_or_refused(method):
    """A refusal holds for a request that skips the recipe, too."""
    row = METHODS[method]
    request = request_of(method, short(method), kl="auto")
    if row.evidence == "experts" or method == "regmix":
        with pytest.raises(RecipeError, match=r"mixture\.kl: auto needs .*, which method"):
            check_keys(section(method, kl="auto"), row)
        with pytest.raises(RecipeError, match=r"mixture\.kl: auto needs"):
            mix(request)
        return
    check_keys(section(method, kl="auto"), row)
    assert idle_keys(section(method, kl="auto", prior="uniform"), row) == {}
    mixture = mix(request)
    choice = mixture.details["kl_choice"]
    assert choice["kl"] in [tried["kl"] for tried in choice["tried"]]
    assert len(choice["tried"]) == 7 and choice["tried"][0]["kl"] == 0
    given = mix(request_of(method, short(method), kl=choice["kl"]))
    assert given.weights == pytest.approx(mixture.weights, abs=1e-6)
    shown = " ".join(mixture_lines(mixture.to_json()))
    start = rf"kl {re.escape(format(choice['kl'], '.3g'))} by cross-validated regret, [^(]*\(0: "
    assert re.search(start, shown)


@pytest.mark.parametrize("method", LEARNED)
def test_every_part_of_an_objective_moves_the_mixture(method):
    """Groups, their reference and weights by noise; experts refuse what needs runs."""
    of_experts = METHODS[method].evidence == "experts"
    targets = ("x", "y") if of_experts else NAMES
    groups = {"first": targets[:1], "others": targets[1:]}

    def answered(**changes):
        """The loss beside the weights, since those of trees move in steps."""
        mixture = mix(request_of(method, short(method), **changes))
        return mixture.weights, mixture.predicted_loss

    plain, grouped = answered(), answered(groups=groups)
    assert grouped != plain
    if method not in TREES:  # the same draws are best by either reference
        assert answered(groups=groups, against="natural") != grouped
    if not of_experts:
        assert answered(groups=groups, against="best_run") == grouped
        assert answered(objective="noise") != plain
        return
    for objective in (
        ObjectiveRecipe(weights="noise"),
        ObjectiveRecipe(groups={"a": "x"}, against="best_run"),
    ):
        with pytest.raises(RecipeError, match="needs training runs, and method m"):
            check_keys(section(method, objective=objective), METHODS[method])


@pytest.mark.parametrize("method", LEARNED)
def test_replicates_have_an_effect(method, monkeypatch):
    for module in ("request", "search.uncertainty"):
        monkeypatch.setattr(f"curate.mixture.{module}.LEAST_REPLICATES", FEW)
    for replicates in (0, FEW):
        request = request_of(method, short(method), replicates=replicates)
        assert (mix(request).low is None) == (replicates == 0)


@pytest.mark.parametrize("method", ["regmix", "olmix"])
def test_some_methods_read_the_prior_without_a_given_pull(method):
    assert idle_keys(section(method, prior="uniform"), METHODS[method]) == {}


def test_a_prior_changes_the_mixture_of_a_method_that_pulls_by_default():
    pulling = [name for name, row in METHODS.items() if row.pulls]
    assert (
        pulling
        == [name for name, row in METHODS.items() if getattr(row.prefer, "kl_bpb", 0.0) > 0]
        == ["olmix"]
    )
    plain = answer(request_of("olmix"))
    assert answer(request_of("olmix", prior=VALUES["prior"])) != plain


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (section("dml", prior="uniform"), "mixture.prior: no effect with method dml while mixture"),
        (section("olmix", prior="uniform", kl=0.0), "while mixture.kl is 0; set mixture.kl, such"),
        (section("dml", replicates=5), "mixture.replicates: 5 is too few for an interval; set 20"),
        (
            section("bimix", evidence_proxy=PROXY),
            "mixture.evidence.proxy: nothing to train, since mixture.evidence.runs names a file",
        ),
        (
            section("law", evidence_experts="e"),
            "mixture.evidence.experts: law ridge does not read it; ridge_mde, gaussian_mde",
        ),
        (
            Section(method="mde", evidence=EvidenceRecipe(proxy=ProxyRecipe(seeds=2))),
            "mixture.evidence.proxy.seeds: method mde does not read it, since its experts are one",
        ),
        (Section(method="temperature"), "mixture.temperature is missing: method 'temperature' nee"),
        (Section(method="law", evidence=EvidenceRecipe(runs="r")), "mixture.law is missing: meth"),
        (Section(method="bimix"), "mixture: method 'bimix' needs training runs. Name the table"),
        (Section(method="mde"), "mixture: method 'mde' needs the experts' log-probabilities. Na"),
        (
            Section(method="ridge_mde", evidence=EvidenceRecipe(runs="r")),
            "mixture: method 'ridge_mde' needs the experts' log-probabilities beside the runs",
        ),
    ],
)
def test_keys_that_others_make_idle_and_keys_that_are_missing(recipe, message):
    with pytest.raises((RecipeError, MissingEvidence), match=re.escape(message)):
        check_keys(recipe, METHODS[recipe.method])
    idle = idle_keys(recipe, METHODS[recipe.method])
    mended = without_idle(recipe, METHODS[recipe.method], idle)
    assert idle_keys(mended, METHODS[recipe.method]) == {}


RECIPE = """
name: tiny
tokenizer: {train: {vocab_size: 300}}
domains:
  - {name: a, paths: a.txt}
  - {name: b, paths: b.txt}
  - {name: c, paths: c.txt}
budget_tokens: 2_000
on_shortfall: repeat
"""


@pytest.fixture
def place(tmp_path):
    rng = np.random.default_rng(3)
    for name, words in (("a", 5), ("b", 50), ("c", 500)):
        lines = [" ".join(f"w{word}" for word in rng.integers(words, size=30)) for _ in range(60)]
        (tmp_path / f"{name}.txt").write_text("\n\n".join(lines))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def run(place, *settings, method=None):
    options = [option for one in settings for option in ("--set", one)]
    options += ["--method", method] if method else []
    return CliRunner().invoke(
        cli, ["mix", str(place / "recipe.yaml"), "--workers", "1", "--json", *options]
    )


@pytest.mark.parametrize(
    ("method", "keys"),
    [("entropy", ("measure", "estimator", "temperature")), ("leverage", ("temperature",)),
     ("temperature", ("temperature",)), ("manual", ("weights",))],
)  # fmt: skip
def test_keys_that_a_method_of_text_reads_have_an_effect(place, method, keys):
    row = METHODS[method]
    assert row.keys == {*keys, "method", "floors", "caps"}
    text = f"mixture.method={method}"
    needs = [f"mixture.temperature={2}"] if row.requires else []
    needs += ["mixture.weights={a: 1, b: 1, c: 1}"] if row.by_hand else []
    plain = json.loads(run(place, text, *needs).stdout)["weights"]
    for key in keys:
        value = msgspec.json.encode(VALUES[key]).decode()
        changed = json.loads(run(place, text, *needs, f"mixture.{key}={value}").stdout)["weights"]
        assert changed != plain, key


def test_mistakes_about_keys_are_told_before_data_is_read(place):
    for setting, message in (
        ("mixture.kl=0.1", "mixture.kl: method natural does not read it; bimix"),
        ("mixture.method=manual", "'a', 'b', 'c' have none. Set domains[].weight"),
        ("mixture.method=bimix", "needs training runs"),
        ("mixture.method=temperature", "mixture.temperature is missing"),
    ):
        for command in ("mix", "plan", "build"):
            done = CliRunner().invoke(cli, [command, str(place / "recipe.yaml"), "--set", setting])
            assert message in str(done.exception)
        assert not (place / ".curate").exists()


def test_another_method_leaves_out_what_the_recipe_sets_for_its_own(place):
    own = "\nmixture: {method: entropy, measure: shannon, caps: {a: 0.5}}\n"
    (place / "recipe.yaml").write_text(RECIPE + own)
    done = CliRunner().invoke(cli, ["mix", str(place / "recipe.yaml"), "--method", "uniform"])
    assert done.exit_code == 0, done.output
    note = "left out of the recipe, without effect on method uniform: mixture.measure"
    assert note in done.output.replace("\n", " ")
    refused = run(place, "mixture.measure=joint", method="uniform")
    assert "mixture.measure: method uniform does not read it; entropy does" in str(
        refused.exception
    )
    both = CliRunner().invoke(
        cli, ["mix", str(place / "recipe.yaml"), "--method", "uniform", "--compare"]
    )
    assert "--method and --compare exclude each other" in str(both.exception)


def test_overrides_are_found_by_section_and_part(tmp_path):
    loaded = parse(RECIPE, tmp_path, ("mix.method=uniform", "mixture.caps.a=0.5", "output={}"))
    for key in ("mixture.method", "mixture.caps", "mixture.caps.a", "output.dir", "mixture"):
        assert loaded.overrides(key)
    assert not loaded.overrides("mixture.cap") and not loaded.overrides("seed")
    assert MixtureRecipe().caps == {}


def test_the_methods_to_compare_can_be_named(place):
    path = str(place / "recipe.yaml")
    done = CliRunner().invoke(cli, ["mix", path, "--methods", "uniform,natural,bimix,dml,mde"])
    assert done.exit_code == 0, done.output
    written = json.loads((place / "out/tiny/mixtures.json").read_text())
    assert list(written["mixtures"]) == ["natural", "uniform"]
    assert list(written["left_out"]) == ["bimix", "dml", "mde"]
    # One line for the methods that lack the same.
    shown = " ".join(done.output[done.output.index("left out") :].split())
    assert "bimix, dml" in shown and shown.count("needs training runs") == 1
    found = curate.compare(path, methods=["natural"]).json
    assert list(found["mixtures"]) == ["natural"] and not found["left_out"]
    wrong = CliRunner().invoke(cli, ["mix", path, "--methods", "unifrom"])
    words = "--methods: no method is called 'unifrom'; did you mean 'uniform'"
    assert words in str(wrong.exception)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_cut_no_number(width):
    headings = ("domain", "asked", "planned tokens", "realised tokens", "epochs")
    table = numbers_table("tokens", headings)
    cells = ("30.0000%", "330,123,456,789", "330,123,456,788", "1.500")
    for name in ("wiki", "a-domain-with-a-rather-long-name"):
        table.add_row(name, *cells)
    table.add_section()
    table.add_row("all", "", "12,345,678,901,234", "[red]12,345,678,901,234[/]", "")
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    for cell in (*cells, "12,345,678,901,234"):
        assert cell in shown


def test_build_shows_weights_with_intervals_and_entropies(place):
    path = str(place / "recipe.yaml")
    for name in "abc":  # many documents, so that there are intervals
        texts = (place / f"{name}.txt").read_text().split("\n\n")
        lines = [json.dumps({"text": text}) for text in texts]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    (place / "recipe.yaml").write_text(RECIPE.replace(".txt", ".jsonl"))
    method = ["--set", "mixture={method: entropy, measure: von_neumann}"]
    arguments = ["build", path, "--workers", "1", "--set", "output={format: npy}", *method]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0, shown.output
    written = json.loads((place / "out/tiny/mixture.json").read_text())
    measured = json.loads((place / "out/tiny/stats.json").read_text())["domains"]
    assert "interval" in shown.output and "entropies in bits" in shown.output
    for name, row in measured.items():
        low, high = 100 * written["low"][name], 100 * written["high"][name]
        assert f"{low:.1f}% to {high:.1f}%" in shown.output
        for measure in ("shannon", "conditional", "von_neumann"):
            assert measure in shown.output
            assert f"{row['entropy'][measure]['nats'] / np.log(2):.3f}" in shown.output
    # Without intervals, and for a dataset that is read back, there is no such column.
    plain = CliRunner().invoke(
        cli, ["build", path, "--set", "output={format: npy, dir: other}", "--workers", "1"]
    )
    assert plain.exit_code == 0 and "interval" not in plain.output
    assert "conditional" in plain.output


@pytest.mark.parametrize("width", [*range(60, 140, 5)])
def test_headings_wrap_before_numbers_are_cut(width):
    headings = ("SE", "JE", "CE plug-in", "CE held-out", "CE bits/byte", "held-out b/B")
    cells = ("8.619 ± 0.206", "13.847 ± 0.606", "4.317", "6.811", "1.557 ± 0.163", "2.029")
    table = numbers_table("entropies", ["domain", "", *headings])
    table.add_row("articles", "≈", *cells)
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width and "…" not in shown
    for text in (*cells, *(word for heading in headings for word in heading.split())):
        assert f" {text} " in shown


@pytest.mark.parametrize("width", [60, 80])
def test_the_table_of_a_build_is_whole_on_narrow_terminals(width, place):
    path = str(place / "recipe.yaml")
    built = curate.build(curate.load_recipe(path, ["output={format: npy}"]), workers=1)
    ends = {"low": dict.fromkeys("abc", 0.2), "high": dict.fromkeys("abc", 0.4)}
    console = Console(width=width, file=io.StringIO())
    console.print(result_table(built.json, built.bad_records, ends, built.stats))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width and "…" not in shown
    assert shown.count("20.0% to 40.0%") == 3
    for row in built.json["domains"].values():
        assert f"{row['realised_tokens']:,}" in shown


def test_weights_of_an_earlier_mixture(place):
    first = json.loads(run(place, "mixture={method: uniform, caps: {a: 0.2}}").stdout)["weights"]
    manual = "mixture={method: manual, weights: kept.json}"
    written = place / "out/tiny/mixture.json"
    (place / "kept.json").write_bytes(written.read_bytes())
    assert json.loads(run(place, manual).stdout)["weights"] == pytest.approx(first)
    before = json.loads(written.read_text())["inputs"]["weights"]
    (place / "kept.json").write_text('{"weights": {"a": 0.5, "b": 0.25, "c": 0.25}}')
    assert json.loads(run(place, manual).stdout)["weights"]["a"] == 0.5
    assert json.loads(written.read_text())["inputs"]["weights"] != before
    for text, message in (
        ('{"weights": {"aa": 1}}', "kept.json has a domain 'aa', which the recipe lacks"),
        ("[]", "kept.json is no mixture.json"),
        ('{"weights": {"a": 1}}', "'b', 'c' have none"),
    ):
        (place / "kept.json").write_text(text)
        assert message in str(run(place, manual).exception)
    (place / "kept.json").unlink()
    assert "No such file" in str(run(place, manual).exception)
