"""`curate report`: the page in a browser, the explorer, and text from strangers.

Tests that drive a browser need Playwright and a Chromium of the system, and skip without them.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import make_documents, slow_if, write_jsonl
from expert_files import write_likelihoods
from law_tables import mixtures, table_of

import curate
from curate.cli import cli
from curate.curation.reasons import REMOVED_FIELDS
from curate.dataset.manifest import PICTURES
from curate.errors import InputError, RecipeError
from curate.laws import LAWS
from curate.laws.fitting.levels import FittedBeyond
from curate.laws.forms.bimix import FittedBimix
from curate.laws.formula import curve, formula_of, log
from curate.laws.formula import tokens as counted_tokens
from curate.laws.law import Array, RunTable
from curate.laws.likelihoods import Likelihoods
from curate.mixture.search.objective import Problem, losses_at
from curate.mixture.search.simplex_box import Box
from curate.report.charts import Axes, Chart, Dots, Mark, Matrix
from curate.report.numbers import megabytes, short
from curate.report.page.about_data import REASONS
from curate.report.page.figures import heat_map
from curate.report.page.material import Material
from curate.report.page.page import render
from curate.report.pictures import picture

pytestmark = pytest.mark.usefixtures("small_search")

TREES = {"boosted", "boosted_regmix"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}\u202e\x1b[31m"
"""A name, a licence and a text that try to act on the page."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


class Visit:
    """A page that was opened from disk, with everything that it said and asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.resolve().as_uri())
        self.url = path.resolve().as_uri()

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def slide(self, name: str, place: float) -> None:
        self.page.get_by_label(f"Share of {name}", exact=True).evaluate(
            "(s, place) => { s.value = place; s.dispatchEvent(new Event('input')); }",
            place,
        )

    def shares(self) -> list[float]:
        boxes = self.page.query_selector_all(
            "#explorer-shares .domain:not(.group) input[type=text]"
        )
        return [float(box.input_value()) for box in boxes]


def write_runs(path: Path, table: RunTable) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            [
                "run",
                "params",
                "tokens",
                *(f"w_{n}" for n in table.domains),
                *(f"loss_{n}" for n in table.targets),
            ]
        )
        for row, name in enumerate(table.runs):
            writer.writerow(
                [
                    name,
                    table.params[row],
                    table.tokens[row],
                    *table.weights[row],
                    *table.losses[row],
                ]
            )
    return path


@pytest.fixture(scope="module")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a built dataset whose recipe names runs."""
    root = tmp_path_factory.mktemp("dataset")
    table = table_of(mixtures(12, 3, 1), (1e9,), (1e8,), noise=0.002)
    write_runs(root / "runs.csv", table)
    recipe = root / "recipe.yaml"
    recipe.write_text(
        f"""
name: tiny
tokenizer: {{train: {{vocab_size: 400, sample_bytes: 60000}}}}
domains:
  - {{name: wiki, paths: "{corpus}/data/wiki/*", license: CC-BY-SA-4.0}}
  - {{name: code, paths: "{corpus}/data/code/*"}}
  - {{name: talk, paths: "{corpus}/data/talk/*"}}
mixture: {{method: dml, evidence: {{runs: runs.csv}}}}
max_epochs: 4
budget_tokens: 30000
validation: {{documents: 0.05}}
output: {{dir: out}}
""",
        "utf-8",
    )
    assert curate.build(recipe, workers=1).ok
    return root / "out"


@pytest.fixture(scope="module")
def report(dataset: Path) -> Path:
    return curate.report(dataset.parent / "recipe.yaml").path


@pytest.fixture(scope="module")
def open_report(browser: Any, report: Path) -> Iterator[Visit]:
    """The report, for tests that ask its code and leave the page as it is."""
    with Visit(browser, report) as visit:
        yield visit


def test_page_opens_from_disk_without_a_word_or_a_request(browser: Any, report: Path) -> None:
    with Visit(browser, report) as visit:
        assert visit.said == [] and visit.requests == [visit.url]
        assert "Certified" in visit.text("#summary")
        assert visit.page.title() == "tiny: report of curate"
        for section in ("mixture", "laws", "domains", "losses", "provenance"):
            assert visit.page.query_selector(f"#{section} table, #{section} dl")
        assert "curate validate" in visit.text("#validation .missing")
        assert "curate mix" in visit.text("#methods .missing")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(browser: Any, report: Path, width: int) -> None:
    with Visit(browser, report, viewport={"width": width, "height": 800}) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_column_says_how_to_read_it(browser: Any, report: Path) -> None:
    with Visit(browser, report) as visit:
        counts = visit.page.eval_on_selector_all(
            ".table",
            "all => all.map(t => [t.querySelectorAll('thead th').length, "
            "t.querySelectorAll('.reading dd').length, "
            "[...t.querySelectorAll('.reading dd')].filter(d => d.textContent.length < 5).length])",
        )
    assert len(counts) > 6
    assert all(columns == readings and not empty for columns, readings, empty in counts)


LONG = "a_topic_with_a_name_that_is_longer_than_a_phone_is_wide"


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a built dataset with ten sub-domains, of which each has removed documents."""
    root = tmp_path_factory.mktemp("split")
    rows = [
        {**row, "topic": ("arts", LONG)[at % 2], "score": (at * 7) % 101}
        for at, row in enumerate(make_documents("wiki", 300))
    ]
    write_jsonl(root / "web.jsonl", rows)
    recipe = root / "recipe.yaml"
    recipe.write_text(
        """
name: split
tokenizer: {train: {vocab_size: 400, sample_bytes: 60000}}
domains:
  - name: web
    paths: web.jsonl
    license: ODC-By-1.0
    where: "score < 90"
    split: [{by: topic}, {by: score, quantiles: 5}]
mixture: {method: natural, caps: {"web:*:q1": 0.05, "web:*:q2": 0.05, "web:*:q3": 0.05}}
max_epochs: 4
budget_tokens: 3000
output: {dir: out}
""",
        "utf-8",
    )
    assert curate.build(recipe, workers=1).ok
    return recipe


def test_sub_domains_have_licence_and_sums_and_fit_a_phone(browser: Any, split: Path) -> None:
    page = curate.report(split).path
    with Visit(browser, page, viewport={"width": 390, "height": 800}) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert visit.text("#domains .table").count("ODC-By-1.0") == 10
    with Visit(browser, page, viewport={"width": 1280, "height": 800}) as visit:
        cut = "all => all.filter(name => name.scrollWidth > name.clientWidth).length"
        visit.page.fill("#explorer-search", "web:")
        assert visit.page.eval_on_selector_all("#explorer-shares .name", cut) == 0
        visit.page.fill("#explorer-search", LONG)
        assert (
            sum(
                1
                for row in visit.page.query_selector_all("#explorer-shares .domain:not(.group)")
                if row.is_visible()
            )
            == 5
        )


def test_reasons_of_removal_stand_in_the_order_of_the_steps() -> None:
    assert [reason for reason in REASONS if reason in REMOVED_FIELDS] == list(REMOVED_FIELDS)


@pytest.mark.parametrize("width", ["80", "140"])
def test_long_names_are_told_apart_and_notes_stay_short(split: Path, width: str) -> None:
    result = CliRunner().invoke(cli, ["build", str(split)], env={"COLUMNS": width})
    assert result.exit_code == 0
    tables = result.output[result.output.index("asked, planned") :]
    assert "…" not in tables
    assert all(tables.count(f"q{level}") >= 2 for level in range(1, 6))
    assert len([line for line in result.output.splitlines() if "binds" in line]) <= 2
    few = next(line for line in result.output.splitlines() if "few held-out tokens" in line)
    assert few.count("'web:") == 3 and "more" in few
    removed = tables[tables.index("by what became of them") :]
    read = next(line for line in removed.splitlines() if line.startswith("│ all"))
    assert "300" in read
    assert removed.count(" domain ") == removed.count(" of ┃")  # each part says its units


def test_policy_stops_foreign_scripts_and_styles(
    browser: Any, report: Path, tmp_path: Path
) -> None:
    page = report.read_text("utf-8")
    tampered = tmp_path / "report.html"
    tampered.write_text(page.replace("</main>", "<script>alert(1)</script></main>"), "utf-8")
    with Visit(browser, tampered) as visit:
        assert any("Content Security Policy" in line for line in visit.said)
        assert not any(line.startswith("dialog") for line in visit.said)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, report: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with Visit(browser, report, color_scheme=scheme) as visit:
        visit.page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        violations = axe.Axe().run(visit.page).response["violations"]
    serious = [v["id"] for v in violations if v["impact"] in ("serious", "critical")]
    assert serious == [], violations


def test_sliders_move_the_numbers_and_locks_hold_them(browser: Any, report: Path) -> None:
    with Visit(browser, report) as visit:
        before, answers, losses = (
            visit.shares(),
            visit.text("#explorer-answers"),
            visit.text("#explorer-losses"),
        )
        visit.page.get_by_label("Lock the share of code").check()
        visit.slide("wiki", 500)
        after = visit.shares()
        assert sum(after) == pytest.approx(100, abs=0.01)
        assert after[0] == pytest.approx(50, abs=0.01) and after[1] == before[1]
        assert visit.text("#explorer-answers") != answers
        assert visit.text("#explorer-losses") != losses
        visit.page.click("#explorer-preset-recommended")
        assert visit.shares() == before
        visit.page.click("#explorer-preset-yours")
        assert visit.shares() == after


def test_passes_follow_the_budget(browser: Any, report: Path, dataset: Path) -> None:
    supply = json.loads((dataset / "stats.json").read_text())["domains"]["wiki"]["tokens_train"]
    with Visit(browser, report) as visit:
        visit.page.click("#explorer-preset-uniform")
        visit.page.fill("#explorer-budget", str(3 * supply * 5))
        visit.page.press("#explorer-budget", "Tab")
        row = visit.page.query_selector("#explorer-shares .domain")
        assert "5.00 passes ! over 4" in row.inner_text()
        row.query_selector("input[type=text]").fill("1e-12")
        visit.page.keyboard.press("Tab")
        assert "0.00 passes" in row.inner_text()


def test_predicted_losses_are_those_of_python(browser: Any, report: Path, dataset: Path) -> None:
    mixture = json.loads((dataset / "mixture.json").read_text())
    with Visit(browser, report) as visit:
        rows = visit.page.query_selector_all("#explorer-losses tbody tr")
        shown = {row.query_selector("th").inner_text(): row.inner_text() for row in rows}
        answers = visit.text("#explorer-answers")
    for target, loss in mixture["predicted_losses"].items():
        assert f"{loss:.4f}" in shown[target]
        ends = mixture["predicted_intervals"][target]
        assert f"{ends['low']:.4f} to {ends['high']:.4f}" in shown[target]
    assert f"{mixture['predicted_loss']:.4f}" in answers
    assert f"{mixture['support']['distance']:.3f} of {mixture['support']['radius']:.3f}" in answers
    assert "+0.0000" in answers


def test_losses_of_a_known_unit_are_shown_in_bits(browser: Any, tmp_path: Path) -> None:
    table = table_of(mixtures(12, 3, 1), (1e9,), (1e8,), noise=0.002)
    runs = write_runs(tmp_path / "runs.csv", table)
    rows = [line.split(",") for line in runs.read_text().splitlines()]
    rows[0] += [f"bpb_{name}" for name in table.targets]
    for row, losses in zip(rows[1:], table.losses, strict=True):
        row += [f"{loss / math.log(2) / 4:.17g}" for loss in losses]  # 4 bytes a token
    runs.write_text("".join(",".join(row) + "\n" for row in rows))
    overrides = {"mixture.method": "dml"}
    mixed = curate.mix(runs=runs, overrides=overrides, directory=tmp_path).json
    assert mixed["unit"] == "nats per token"
    bits = mixed["predicted_losses"]["wiki"] / math.log(2)
    report = curate.report(runs, overrides=overrides, directory=tmp_path)
    with Visit(browser, report.path) as visit:
        row = visit.page.locator("#explorer-losses tbody tr", has_text="wiki").inner_text()
        assert f"{bits:.4f}" in row
        assert "bits a token" in visit.text("#explorer-answers")
    printed = CliRunner().invoke(
        cli, ["mix", "--runs", str(runs), "--method", "dml", "--out", str(tmp_path)]
    ).output  # fmt: skip
    mean = mixed["predicted_loss"] / math.log(2)
    assert f"predicted loss {mean:.4f} bits a token" in " ".join(printed.split())
    assert f"curate fit {runs}" in report.path.read_text("utf-8")


def test_recipe_of_the_explorer_is_planned(browser: Any, report: Path, tmp_path: Path) -> None:
    with Visit(browser, report) as visit:
        visit.slide("talk", 100)
        shares = visit.shares()
        written = visit.page.input_value("#explorer-yaml")
    path = tmp_path / "copied.yaml"
    path.write_text(written, "utf-8")
    result = CliRunner().invoke(cli, ["plan", str(path), "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    planned = json.loads(result.output)
    assert planned["budget_tokens"] == 30000
    weights = [row["weight"] for row in planned["domains"].values()]
    assert weights == pytest.approx([share / 100 for share in shares], abs=1e-4)


@pytest.mark.parametrize("varied", [True, False], ids=["several sizes", "one size"])
@pytest.mark.parametrize(
    "name",
    slow_if(
        lambda name: name not in ("bimix", "exponential", "gaussian", "joint"),
        [name for name in LAWS if name not in TREES],
    ),
)
def test_browser_evaluates_each_law_as_python_does(
    open_report: Visit, name: str, varied: bool
) -> None:
    sizes, counts = ((1e8, 4e8), (2e8, 5e8, 1e9)) if varied else ((1e8,), (1e9,))
    table = table_of(mixtures(16, 4, 2), counts, sizes, noise=0.002)
    law = LAWS[name].fit(table)
    shares = np.random.default_rng(3).dirichlet(np.full(4, 0.5), 1000)
    shares[:4] = np.eye(4)  # the corners, where powers of a share are of zero
    tokens = np.full(1000, 1e9)
    if varied:  # before, among and far beyond the runs
        counts = np.exp(np.random.default_rng(5).uniform(np.log(1e7), np.log(1e13), 20))
        tokens[1::2] = np.repeat(counts, 25)
    for params in (max(sizes), 3 * max(sizes)) if varied and name != "bimix" else (max(sizes),):
        formula = formula_of(law, params)
        assert formula is not None
        expected = law.predict(shares, tokens, np.full(1000, params))
        losses = evaluate_law(open_report, formula.to_json(), shares, tokens)
        np.testing.assert_allclose(losses, expected, rtol=1e-9, atol=0)


def evaluate_law(
    visit: Visit, formula: dict[str, Any], shares: Array, tokens: Array
) -> list[list[float]]:
    """Evaluate a formula in the page, mixture by mixture."""
    losses: list[list[float]] = visit.page.evaluate(
        "([law, shares, tokens]) => { const at = Law.compile(law); "
        "return shares.map((row, i) => Array.from(at(row, tokens[i]))); }",
        [formula, shares.tolist(), tokens.tolist()],
    )
    return losses


def test_browser_takes_early_losses_of_bimix_from_the_runs(open_report: Visit) -> None:
    table = table_of(mixtures(16, 4, 2), (2e8, 5e8, 1e9), (1e8,), noise=0.002)
    law = LAWS["bimix"].fit(table)
    assert isinstance(law, FittedBimix)
    early = {
        "early_tokens": np.array([2e8, 4e8, 5e8]),
        "early_losses": np.outer([2.0, 1.5, 1.2], [2.5, 2.0, 3.0, 3.5]),
    }
    law = replace(law, sizes=tuple(replace(size, **early) for size in law.sizes))
    shares = mixtures(200, 4, 7)
    tokens = np.geomspace(1e8, 2e9, 200)
    tokens[:3] = early["early_tokens"]
    losses = evaluate_law(open_report, law.formula(1e8).to_json(), shares, tokens)
    expected = law.predict(shares, tokens, np.full(200, 1e8))
    np.testing.assert_allclose(losses, expected, rtol=1e-9, atol=0)


def test_a_curve_follows_a_kinked_function(open_report: Visit) -> None:
    written = curve(log(counted_tokens()), lambda x: np.abs(np.sin(x[:, None] - [0, 3])), (-3, 3))
    places = np.concatenate([np.linspace(-3, 3, 301), [-9, 9]])
    losses = evaluate_law(open_report, written.to_json(), np.ones((len(places), 1)), np.exp(places))
    expected = np.abs(np.sin(np.clip(places, -3, 3)[:, None] - [0, 3]))
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-6)


def test_browser_discounts_repeats_as_python_does(
    browser: Any, report: Path, dataset: Path, tmp_path: Path
) -> None:
    table = table_of(mixtures(16, 3, 2), (2e8, 5e8, 1e9), (1e8,), noise=0.002)
    write_runs(tmp_path / "runs.csv", table)
    supply = {"wiki": 1e8, "code": 4e8, "talk": 1e6}
    made = curate.report(
        tmp_path / "runs.csv",
        supply=supply,
        budget_tokens=1e9,
        max_epochs=1e9,
        overrides={"mixture.method": "autoscale", "mixture.discount_repeats": True},
        directory=tmp_path,
    )
    law = LAWS["autoscale"].fit(table)
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.full(3, 0.5), 1000)
    budgets, tokens = np.exp(rng.uniform(np.log(1e7), np.log(1e12), (2, 1000)))
    box = Box(np.zeros(3), np.ones(3))
    expected = [
        losses_at(
            Problem(law, box, np.full((1, 3), 1 / 3), float(count), 1e8,
                    unique_share=np.array(list(supply.values())) / budget),
            row[None],
        )[0]
        for row, budget, count in zip(shares, budgets, tokens, strict=True)
    ]  # fmt: skip
    with Visit(browser, made.path) as visit:
        assert visit.said == []
        losses = visit.page.evaluate(
            "([shares, budgets, tokens]) => {"
            "const data = JSON.parse(document.getElementById('data').textContent);"
            "const law = Explorer.judge(data.law, data.domains.map((domain) => domain.supply));"
            "return shares.map((row, i) => Array.from(law.losses(row, "
            "{ budget: budgets[i], tokens: tokens[i] }))); }",
            [shares.tolist(), budgets.tolist(), tokens.tolist()],
        )
        np.testing.assert_allclose(losses, expected, rtol=1e-9, atol=0)
        visit.page.click("#explorer-preset-uniform")
        before = visit.text("#explorer-losses")
        visit.page.fill("#explorer-budget", "100000000000")
        visit.page.press("#explorer-budget", "Tab")
        assert visit.text("#explorer-losses") != before  # a repeated domain is worth less


def test_intervals_grow_beyond_the_runs_as_in_python(open_report: Visit) -> None:
    table = table_of(mixtures(12, 3, 2), (2e8, 5e8, 1e9), (1e8, 2e8), noise=0.002)
    law = LAWS["joint"].fit(table)
    assert isinstance(law, FittedBeyond)
    tokens = np.geomspace(1e7, 1e13, 50)
    for params in (2e8, 6e8):
        expected = law.predict_std(
            np.repeat(table.weights[:1], 50, axis=0), tokens, np.full(50, params)
        )
        assert (expected[-1] > 2 * expected[0]).all() or params > 2e8
        written = law.std_formula(params).to_json()
        errors = evaluate_law(open_report, written, np.ones((50, 3)), tokens)
        np.testing.assert_allclose(errors, expected, rtol=1e-9, atol=0)


def test_tokens_of_the_run_move_the_losses(browser: Any, tmp_path: Path) -> None:
    table = table_of(mixtures(16, 3, 2), (2e8, 5e8, 1e9), (1e8,), noise=0.002)
    law = LAWS["autoscale"].fit(table)
    path = curate.report(
        write_runs(tmp_path / "runs.csv", table),
        supply={"wiki": 1e12, "code": 1e12, "talk": 1e12},
        budget_tokens=1e11,
        overrides={"mixture.method": "autoscale"},
        directory=tmp_path,
    ).path
    with Visit(browser, path) as visit:
        visit.page.click("#explorer-preset-uniform")
        for change, tokens in ((None, 1e9), ("follow", 1e11), ("4e8", 4e8)):
            if change == "follow":
                visit.page.check("#explorer-tokens-follow")
            elif change is not None:
                visit.page.fill("#explorer-tokens", change)
                visit.page.press("#explorer-tokens", "Tab")
            answers = visit.text("#explorer-answers")
            assert f"{tokens:,.0f} tokens" in answers
            assert ("the runs have 200,000,000 to" in answers) == (tokens > 1e9)
            expected = law.predict(np.full((1, 3), 1 / 3), np.full(1, tokens), np.full(1, 1e8))
            for target, loss in zip(table.targets, expected[0], strict=True):
                row = visit.page.locator("#explorer-losses tbody tr", has_text=target)
                assert f"{loss:.4f}" in row.inner_text()


def test_trees_have_no_formula() -> None:
    pytest.importorskip("lightgbm")
    table = table_of(mixtures(60, 4, 2), (1e9,), (1e8,))
    assert formula_of(LAWS["boosted"].fit(table), 1e8) is None


def test_experts_without_runs_say_why_there_are_no_losses(dataset: Path, tmp_path: Path) -> None:
    logp = np.log(np.random.default_rng(0).dirichlet(np.ones(4), 40))[:, :3]
    names, places = ("wiki", "code", "talk"), np.arange(0, 41, 10)
    experts = Likelihoods(names, ("x",), np.zeros(4, np.int64), places, logp)
    write_likelihoods(experts, tmp_path / "experts.parquet")
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / "law.json").unlink()
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["mixture"] = {
        "method": "mde",
        "evidence": {"experts": str(tmp_path / "experts.parquet")},
    }
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    page = curate.report(copy).path.read_text("utf-8")
    assert "method mde mixes the experts' probabilities of every held-out token" in page


def test_two_hundred_domains_are_found_and_moved_by_group(browser: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    names = tuple(
        f"{group}:{topic}" for group in ("web", "code", "books", "law") for topic in range(50)
    )
    weights = rng.dirichlet(np.full(200, 0.3), 30)
    losses = 2 + 0.3 * (weights[:, :2] + 0.01) ** -0.1
    table = RunTable(
        names,
        names[:2],
        tuple(f"r{i}" for i in range(30)),
        weights,
        np.full(30, 1e9),
        np.full(30, 1e8),
        losses,
    )
    write_runs(tmp_path / "runs.csv", table)
    path = curate.report(
        tmp_path / "runs.csv",
        overrides={"mixture.method": "dml", "mixture.trust_region": False},
        directory=tmp_path,
    ).path
    assert path.stat().st_size < 5e6
    with Visit(browser, path) as visit:
        assert visit.said == []
        assert len(visit.shares()) == 200
        assert visit.page.is_checked("#explorer-logarithmic")
        visit.page.fill("#explorer-search", "law:17")
        assert visit.page.locator("#explorer-shares .domain:not(.group):visible").count() == 1
        visit.page.fill("#explorer-search", "")
        visit.page.uncheck("#explorer-logarithmic")
        visit.slide("web (50)", 600)
        shares = visit.shares()
        assert sum(shares[:50]) == pytest.approx(60, abs=0.05)
        assert sum(shares) == pytest.approx(100, abs=0.2)  # 200 numbers of three decimals
        started = visit.page.evaluate("performance.now()")
        for place in range(20):
            visit.slide("code (50)", 100 + place)
        assert visit.page.evaluate("performance.now()") - started < 4000
        written = yaml.safe_load(visit.page.input_value("#explorer-yaml"))
        assert set(written["mixture"]["weights"]) == set(names)


def hostile_material() -> Material:
    domain = {
        "files": HOSTILE,
        "documents": 3,
        "tokens": [HOSTILE],
        "tokens_train": 10,
        "bytes": "9",
        "entropy": {"conditional": {"nats": 1.0, "low": 0.5, "high": 1.5}},
        "amounts": {"read": {"documents": 1, "bytes": 2, "tokens": 3}},
        "lost": {"damaged": [HOSTILE], "records": 1},
        "convergence": [
            {"sample_tokens": 10, "conditional": 1},
            {"sample_tokens": 20, "conditional": 1.1},
        ],
    }
    domains = {HOSTILE: domain, "b": domain}
    weights = {HOSTILE: 0.5, "b": 0.5}
    return Material(
        title=HOSTILE,
        source=HOSTILE,
        command=HOSTILE,
        artifacts={
            "stats": {"domains": domains, "tokenizer": HOSTILE, "recipe_hash": HOSTILE},
            "mixture": {"weights": weights, "method": HOSTILE, "warnings": [HOSTILE]},
            "mixtures": {"mixtures": {HOSTILE: {"weights": weights}}, "left_out": {"x": HOSTILE}},
            "certificate": {"ok": False, "problems": [HOSTILE], "domains": domains},
            "manifest": {"inputs": [{"domain": HOSTILE, "path": HOSTILE}], "format": HOSTILE},
            "entropy_report": {
                "domains": domains,
                "between": {"order": [HOSTILE, "b"], "js": [[0, 1], [1, 0]]},
            },
            "validation": {
                "verdict": HOSTILE,
                "sizes": [{"preset": HOSTILE, "candidates": {HOSTILE: {}}}],
            },
        },
        recipe=HOSTILE,
        licences={HOSTILE: HOSTILE},
        samples={HOSTILE: [HOSTILE]},
        bad_records=[{"domain": HOSTILE, "file": HOSTILE, "reason": HOSTILE}],
        law_missing=HOSTILE,
        explorer={
            "domains": [
                {"name": HOSTILE, "supply": 10, "maxEpochs": 1},
                {"name": "b", "supply": 10, "maxEpochs": 1},
            ],
            "budget": 10,
            "presets": {"natural": [0.5, 0.5], "uniform": [0.5, 0.5]},
            "law": None,
            "lawMissing": HOSTILE,
            "recipe": "",
        },
        notices=[HOSTILE],
    )


def test_hostile_text_changes_nothing_but_the_text(browser: Any, tmp_path: Path) -> None:
    page = render(hostile_material())
    plain = render(Material("t", "s", "c"))
    for tag in ("<script", "<style", "<meta"):
        assert page.count(tag) == plain.count(tag)
    assert "<img" not in page and "\u202e" not in page and "\x1b" not in page
    path = tmp_path / "report.html"
    path.write_text(page, "utf-8")
    with Visit(browser, path) as visit:
        assert visit.said == [] and visit.requests == [visit.url]
        assert visit.page.query_selector_all("img, iframe, object, embed, link, form, base") == []
        handlers = (
            "all => all.filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length"
        )
        assert visit.page.eval_on_selector_all("*", handlers) == 0
        assert visit.page.query_selector("h1").inner_text().startswith("</script><script>alert(1)")
        assert "<img src=x onerror" in visit.text("#explorer-shares")
        written = yaml.safe_load(visit.page.input_value("#explorer-yaml"))
        assert set(written["mixture"]["weights"]) == {HOSTILE, "b"}


def test_hostile_names_and_texts_of_a_dataset_stay_text(
    browser: Any, bpe: dict[str, Any], tmp_path: Path
) -> None:
    licence = "</title><script>alert(1)</script>"
    for name in ("a", "b"):
        rows = [{"text": f"{HOSTILE} {name} {i}"} for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows) + "{broken <b>\n"
        )
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe))
    recipe = {
        "name": "mix",
        "tokenizer": {"path": str(tmp_path / "tokenizer.json"), "eos": "<|endoftext|>"},
        "domains": [
            {"name": n, "paths": str(tmp_path / f"{n}.jsonl"), "license": licence}
            for n in ("a", "b")
        ],
        "budget_tokens": 2000,
        "output": {"dir": str(tmp_path / "out"), "format": "npy"},
        "cache": str(tmp_path / "cache"),
        "limits": {"lost_share": 0.5},
    }
    assert curate.build(recipe, workers=1).ok
    with Visit(browser, curate.report(tmp_path / "out").path) as visit:
        assert visit.said == []
        assert licence in visit.page.eval_on_selector("#provenance", "e => e.textContent")
        assert "<img src=x onerror" in visit.page.eval_on_selector("#domains", "e => e.textContent")
        assert "{broken <b>" in visit.page.eval_on_selector("#losses", "e => e.textContent")


def test_report_of_a_directory_and_of_runs(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    result = CliRunner().invoke(cli, ["report", str(copy), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["path"] == str(copy / "report.html")
    assert curate.verify(copy).ok  # the page is not among the shards
    runs = dataset.parent / "runs.csv"
    result = CliRunner().invoke(cli, ["report", str(runs), "--out", str(tmp_path)])
    assert result.exit_code == 0 and "report.html" in result.output
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Law joint" in page and "curate stats RECIPE" in page
    one = tmp_path / "one.csv"
    one.write_text("run,tokens,w_a,w_b,loss_a,loss_b\nx,1000,0.5,0.5,3.1,2.2\n")
    page = Path(curate.report(one, directory=tmp_path).path).read_text("utf-8")
    assert "No law: mixture: only one mixture was trained (1 run)" in page
    assert "curate proxy" not in page.partition('id="laws"')[2].partition("</section>")[0]


def test_the_card_has_pictures_that_are_verified(
    dataset: Path, corpus: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    card = (copy / "README.md").read_text("utf-8")
    listed = {file["path"] for file in json.loads((copy / "manifest.json").read_text())["files"]}
    for name in PICTURES:
        assert f"]({name})" in card and name in listed
        drawn = ElementTree.parse(copy / name).getroot()
        texts = [part.text for part in drawn.iter("{http://www.w3.org/2000/svg}text")]
        assert {"wiki", "code", "talk"} <= set(texts)
        assert (copy / name).stat().st_size < 20_000
    (copy / PICTURES[0]).write_text("<svg/>")
    assert not curate.verify(copy).ok
    rows = [Mark(0, 1.0)]
    dots = Dots(Axes("x"), [("</text><script>", rows), ("b", rows)], {0: "<b>"})
    drawn = picture(Chart(dots, "<caption>"), dots)
    assert "<script" not in drawn and "<b>" not in drawn and "<caption>" not in drawn
    recipe = {
        "name": "one",
        "tokenizer": {"train": {"vocab_size": 400, "sample_bytes": 60000}},
        "domains": [{"name": "wiki", "paths": f"{corpus}/data/wiki/*"}],
        "budget_tokens": 3000,
        "output": {"dir": str(tmp_path / "one")},
    }
    (tmp_path / "one").mkdir()
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(recipe), "utf-8")
    assert curate.build(path, workers=1).ok
    assert curate.verify(tmp_path / "one").ok
    assert "![" not in (tmp_path / "one" / "README.md").read_text("utf-8")


def test_foreign_files_and_empty_directories_are_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no dataset or artifact of curate"):
        curate.report(tmp_path)
    (tmp_path / "report.html").write_text("<p>mine")
    with pytest.raises(InputError, match="curate did not write this file"):
        curate.report(dataset, directory=tmp_path)
    with pytest.raises(RecipeError, match="--supply and --budget are for run tables"):
        curate.report(dataset, supply={"a": 1}, budget_tokens=10)
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text("{}")  # of something else
    with pytest.raises(InputError, match="no dataset or artifact of curate"):
        curate.report(other)
    (other / "mixture.json").write_text('{"curate_version": "0.1.0"}')
    (other / "stats.json").write_text("[]")
    with pytest.raises(InputError, match="not an artifact of curate"):
        curate.report(other)
    (other / "stats.json").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"stats.json: not valid JSON .*; make it again, or remove"
    ):
        curate.report(other)
    with pytest.raises(InputError, match=r"absent.yaml: does not exist; name a recipe"):
        curate.report(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="a recipe or a directory goes alone"):
        curate.report([dataset.parent / "recipe.yaml", dataset])


def test_artifacts_of_another_recipe_are_named(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    stats = json.loads((copy / "stats.json").read_text())
    (copy / "stats.json").write_text(json.dumps({**stats, "recipe_hash": "0" * 32}))
    notices = curate.report(copy).json["notices"]
    assert notices == [
        "stats.json was made from another version of the recipe; run its command again"
    ]


def test_report_needs_no_runs_where_the_law_is_kept(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["base"] = str(tmp_path)  # without runs.csv
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    page = curate.report(copy).path.read_text("utf-8")
    assert "Law exponential, on mixtures it had not seen" in page
    (copy / "law.json").unlink()
    assert "there are no training runs" in curate.report(copy).path.read_text("utf-8")
    (tmp_path / "runs.csv").write_text("a,b\n1,2\n")
    recipe["mixture"]["weights"] = "gone.json"
    recipe["mixture"]["method"] = "manual"
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert "No predicted losses: " in curate.report(copy).path.read_text("utf-8")


@pytest.mark.parametrize(
    "change",
    [
        {"goals": [[1.0]]},
        {"targets": ["a", "b", "c", "d"]},
        {"domains": ["x", "y", "z"]},
        {"radius": "far"},
        {"measured": {"shape": [1, 3], "float64": "AAAA"}},
        {"unseen": {"shape": [1, 3], "float64": "!"}},
        {"mixtures": {}},
    ],
)
def test_a_damaged_law_is_one_line(dataset: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    law = json.loads((copy / "law.json").read_text())
    (copy / "law.json").write_text(json.dumps({**law, **change}))
    with pytest.raises(InputError, match="law.json: not as curate writes it .*run curate mix"):
        curate.report(copy)


def test_a_formula_of_a_stranger_only_stops_the_explorer(
    browser: Any, dataset: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    law = json.loads((copy / "law.json").read_text())
    law["formula"]["formula"] = {"operation": "constructor", "of": [], "values": 7}
    (copy / "law.json").write_text(json.dumps(law))
    with Visit(browser, curate.report(copy).path) as visit:
        assert visit.said == []
        assert "cannot be evaluated" in visit.text("#explorer-law-note")
        visit.slide("wiki", 500)
        assert visit.shares()[0] == pytest.approx(50, abs=0.01)


def test_a_mixture_without_a_law_removes_that_of_an_earlier_one(
    recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    curate.mix(recipe, overrides={"output.dir": str(out)}, workers=1)
    (out / "law.json").write_text('{"curate_version": "0.1.0"}')
    curate.mix(recipe, overrides={"output.dir": str(out)}, workers=1)
    assert not (out / "law.json").exists()


def test_report_says_the_same_twice(dataset: Path) -> None:
    first = curate.report(dataset).path.read_bytes()
    assert curate.report(dataset).path.read_bytes() == first


def test_numbers_of_axes_and_cells() -> None:
    assert [short(value) for value in (0.25, 1500, 2e9)] == ["0.25", "1.5k", "2B"]
    assert [megabytes(size) for size in (2e9, 1e6, 47_000, 0)] == ["2,000.0", "1.0", "0.047", "0.0"]
    names = ["a<b", "c"]
    drawn = heat_map(Matrix("divergence", names, names, [[None, 1.0], [1.0, None]], str))
    assert "a&lt;b" in drawn and "a<b" not in drawn
