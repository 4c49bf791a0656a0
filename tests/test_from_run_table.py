"""`curate mix` and `curate design` from a run table alone."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from expert_files import write_likelihoods
from mixing_laws import PowerLaw, table_of

from curate.cli import cli
from curate.errors import InfeasiblePlan, InputError, MissingEvidence, RecipeError
from curate.laws.likelihoods import Likelihoods
from curate.pipeline.from_run_table import RunTableInputs, request_without_text
from curate.runtime.progress import Observer

pytestmark = pytest.mark.usefixtures("small_search")

NAMES = ("a", "b:x", "c")


@pytest.fixture
def runs(tmp_path):
    weights = np.random.default_rng(0).dirichlet(np.full(3, 1.5), 24)
    law = PowerLaw(np.array([2.0, 3.0, 2.5]), np.array([0.12, 0.05, 0.2]))
    table = table_of(law, weights, 0.001, names=NAMES)
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["run", *(f"w_{n}" for n in NAMES), *(f"loss_{n}" for n in NAMES)])
        for row, name in enumerate(table.runs):
            writer.writerow([name, *table.weights[row], *table.losses[row]])
    return path


def run(*arguments, faults=False):
    """Run the command; `faults`: let the error through, to be matched."""
    found = CliRunner().invoke(cli, list(map(str, arguments)))
    if faults and found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def test_mix_from_runs_alone(runs, tmp_path):
    done = run("mix", "--runs", runs, "--method", "bimix", "--out", tmp_path, "--set",
               "mixture.replicates=0", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert sum(found["weights"].values()) == pytest.approx(1) and set(found["weights"]) == {*NAMES}
    assert set(found["epochs"].values()) == {None} and found["support"]["inside"]
    written = json.loads((tmp_path / "mixture.json").read_text())
    assert written["weights"] == found["weights"] and written["schema"] == 1
    shown = run("mix", "--runs", runs, "--out", tmp_path)
    assert "method: joint; --method takes another" in shown.output
    assert "supply is unknown" in shown.output and "b:x" in shown.output


def test_supply_and_budget_cap(runs, tmp_path):
    supply = ["--supply", "a=1000", "--supply", "b:x=1e3", "--supply", "c=1_00"]
    plain = ("mix", "--runs", runs, "--method", "bimix", "--out", tmp_path, "--json",
             "--set", "mixture.replicates=0")  # fmt: skip
    found = json.loads(run(*plain, *supply, "--budget", "1000", "--max-epochs", "2").output)
    assert found["weights"]["c"] <= 0.2 + 1e-9 and found["epochs"]["c"] == pytest.approx(2)
    table = tmp_path / "supply.csv"
    table.write_text("domain,tokens\na,1000\nb:x,1000\nc,100\n")
    again = json.loads(run(*plain, "--supply", table, "--budget", "1e3", "--max-epochs", 2).output)
    assert again["weights"] == found["weights"]
    with pytest.raises(InfeasiblePlan, match="budget_tokens"):
        run(*plain, *supply, "--budget", "1e6", faults=True)


def test_design_from_runs_alone(runs, tmp_path):
    done = run("design", "--runs", runs, "-n", 3, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    with (tmp_path / "design.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 and set(rows[0]) == {"run", "w_a", "w_b:x", "w_c"}
    assert "3 domains need 12 runs" in done.output.replace("\n", " ")


def test_mix_from_experts_alone(tmp_path):
    logp = np.log(np.random.default_rng(0).dirichlet(np.ones(4), 40))[:, :3]
    experts = Likelihoods(NAMES, ("x",), np.zeros(4, np.int64), np.arange(0, 41, 10), logp)
    write_likelihoods(experts, tmp_path / "experts.parquet")
    done = run("mix", "--experts", tmp_path / "experts.parquet", "--out", tmp_path, "--json")
    found = json.loads(done.output)
    assert found["method"] == "mde" and "one held-out document" not in str(found["warnings"])
    alone = Likelihoods(NAMES, ("x",), np.zeros(1, np.int64), np.array([0, 40]), logp)
    write_likelihoods(alone, tmp_path / "alone.parquet")
    done = run("mix", "--experts", tmp_path / "alone.parquet", "--out", tmp_path, "--json")
    found = json.loads(done.output)
    assert "'x' has one held-out document, so the intervals do not" in str(found["warnings"])


@pytest.mark.slow
def test_compare_from_runs_alone(runs, tmp_path):
    done = run("mix", "--runs", runs, "--compare", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "mixtures; shares in %" in done.output
    written = json.loads((tmp_path / "mixtures.json").read_text())
    assert {"joint", "bimix", "dml"} <= set(written["mixtures"])
    assert written["mixtures"]["bimix"]["max_epochs"] is None


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({}, MissingEvidence, "name a RECIPE, or a table of runs: --runs runs.csv"),
        ({"supply": ("a=1",)}, RecipeError, "need both supply and budget; add --budget TOKENS"),
        ({"budget_tokens": 9}, RecipeError, "add --supply NAME=TOKENS for each domain"),
        ({"overrides": ("max_epochs=3",)}, RecipeError, "max_epochs=3: without a recipe there"),
        ({"overrides": ("mixture.methd=x",)}, RecipeError, "unknown key 'mixture.methd'"),
        ({"overrides": ("mixture.weights=a.json",)}, RecipeError, "give shares by domain, as in"),
        ({"supply": ("a=1", "q=2"), "budget_tokens": 9}, InputError, "no domain 'q'; theirs are a"),
        ({"supply": ("a=1", "c=2"), "budget_tokens": 9}, InputError, "no tokens for b:x; add"),
        ({"supply": ("a=1", "c"), "budget_tokens": 9}, InputError, "--supply c: expected NAME=TO"),
        ({"supply": ("a=x", "c=1"), "budget_tokens": 9}, InputError, "'a' has 'x' tokens; exp"),
        ({"supply": ("none.csv",), "budget_tokens": 9}, InputError, "cannot be read .*NAME=TOKENS"),
    ],
)  # fmt: skip
def test_faults(runs, asked, error, message):
    given = {} if asked == {} else {"runs": (runs,)}
    with pytest.raises(error, match=message):
        request_without_text(RunTableInputs(**given, **asked), Observer())


def test_more_faults(runs, tmp_path):
    bad = tmp_path / "supply.csv"
    bad.write_text("name,size\na,1\n")
    with pytest.raises(InputError, match="expected columns domain and tokens"):
        request_without_text(RunTableInputs((runs,), None, (str(bad),), 9), Observer())
    with pytest.raises(MissingEvidence, match=r"none.csv does not exist"):
        request_without_text(RunTableInputs((tmp_path / "none.csv",)), Observer())
    with pytest.raises(RecipeError, match="RECIPE and --runs exclude each other"):
        run("mix", "recipe.yaml", "--runs", runs, faults=True)
