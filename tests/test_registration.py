"""Another package adds a method, a law, a format, a statistic: one row each, no change here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from format_contract import CONTRACT as FORMAT_CONTRACT
from format_contract import Case, describes_itself
from law_contract import CONTRACT, two_counts
from method_contract import check_contract, check_evidence_contract
from statistic_contract import CONTRACT as STATISTIC_CONTRACT

from curate.cli import cli
from curate.errors import RecipeError, ShardError
from curate.formats import FORMATS, TokenBatch, TokenFormat
from curate.formats.base import open_shard, sibling
from curate.laws import LAWS, FittedLaw, Law, RunTable
from curate.laws.crossval import cross_validate
from curate.laws.law import Array
from curate.mixture import METHODS, DomainSupply, Method, MixtureRequest, Preference, mix
from curate.mixture.methods.needs_evidence import ExpertMethod, LawMethod
from curate.pipeline.build import build
from curate.recipe import load
from curate.runtime.files import atomic_path
from curate.runtime.progress import Observer
from curate.stats import STATISTICS, Statistic, find_entropy
from curate.stats.estimate import GROUPS, estimate
from curate.stats.statistic import Column, DomainSample, Measurement, entropy_measurement

pytestmark = pytest.mark.usefixtures("small_search", "own_store")

# A law.


@dataclass(frozen=True)
class LogLinearLaw:
    """ln L_i = a_i + sum_j t_ij w_j, the same at every token count."""

    coefficients: Array
    """shape (domains, targets); shares sum to 1, so a_i is in them."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        return np.asarray(np.exp(weights @ self.coefficients))

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        return self.predict(weights, tokens, params)[:, :, None] * self.coefficients.T


def fit_log_linear(table: RunTable) -> FittedLaw:
    return LogLinearLaw(np.linalg.lstsq(table.weights, np.log(table.losses), rcond=None)[0])


TOY_LAW = Law("log_linear", "ln loss is linear in the shares", "no paper", "runs", fit_log_linear)


@pytest.fixture
def toy_law() -> Iterator[str]:
    LAWS.add(TOY_LAW)
    yield TOY_LAW.name
    LAWS.remove(TOY_LAW.name)


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_a_law_of_another_package_keeps_the_contract(
    check: Callable[[Law], None], toy_law: str
) -> None:
    check(LAWS[toy_law])


def test_a_law_of_another_package_is_cross_validated_by_name(toy_law: str) -> None:
    comparisons = cross_validate(two_counts(), [toy_law, "bimix"], 3).comparisons
    unseen = {row.law: row.unseen for row in comparisons}
    assert set(unseen) == {"log_linear", "bimix", "mean", "own_share"}
    toy, mean = unseen[toy_law], unseen["mean"]
    assert toy is not None and mean is not None
    assert toy.relative_error.mean() < 0.7 * mean.relative_error.mean()


def test_names_are_registered_once(toy_law: str) -> None:
    with pytest.raises(Exception, match="law 'log_linear' is registered twice; rename one"):
        LAWS.add(replace(TOY_LAW, summary="another"))


# A format.


def write_lines(stem: Path, batches: Iterable[TokenBatch], dtype: np.dtype[Any]) -> list[Path]:
    path = sibling(stem, ".txt")
    with atomic_path(path) as temporary, temporary.open("w") as file:
        for batch in batches:
            for tokens in np.split(batch.tokens, np.cumsum(batch.lengths))[:-1]:
                file.write(" ".join(map(str, tokens.tolist())) + "\n")
        file.write("end\n")
    return [path]


def read_lines(stem: Path, dtype: np.dtype[Any]) -> Iterator[TokenBatch]:
    path = sibling(stem, ".txt")
    with open_shard(path) as file:
        *lines, last = b"\n".join([b"", file.read()]).split(b"\nend\n")
    if len(lines) != 1 or last:
        raise ShardError(f"{path}: expected the line 'end' at its end and nowhere else")
    for line in lines[0].split(b"\n")[1:]:
        tokens = np.array([int(token) for token in line.split()], dtype)
        yield TokenBatch(tokens, np.array([tokens.size], np.int64))


TOY_FORMAT = TokenFormat(
    name="lines",
    summary="token ids as text, one document a line",
    trainers="people who read token ids",
    keeps_documents=True,
    dtype_for=lambda highest_id: np.dtype(np.uint32),
    write=write_lines,
    read=read_lines,
    snippet="""documents = [line.split() for line in open("{path}.txt")][:-1]""",
)


@pytest.fixture
def toy_format() -> Iterator[str]:
    FORMATS.add(TOY_FORMAT)
    yield TOY_FORMAT.name
    FORMATS.remove(TOY_FORMAT.name)


@pytest.mark.parametrize("check", FORMAT_CONTRACT, ids=lambda check: check.__name__)
def test_a_format_of_another_package_keeps_the_contract(
    check: Callable[[Case, Path], None], toy_format: str, tmp_path: Path
) -> None:
    describes_itself(toy_format)
    check(Case(FORMATS[toy_format]), tmp_path)


def test_a_recipe_is_built_in_a_format_of_another_package(recipe: Path, toy_format: str) -> None:
    loaded = load(recipe, (f"output.format={toy_format}", "output.shard_tokens=10000"))
    built = build(loaded, 1, Observer())
    assert built.certificate["ok"], built.certificate["problems"]
    assert len(list((built.directory / "train").glob("*.txt"))) == 3
    assert "one document a line" in CliRunner().invoke(cli, ["formats"]).output
    with pytest.raises(RecipeError, match="readers of lines have no mixture of their own"):
        build(
            load(recipe, (f"output.format={toy_format}", "output.shape=per-domain")), 1, Observer()
        )


# A statistic.


def collision(sample: DomainSample) -> Measurement:
    pairs = sample.pairs
    groups = pairs.group(min(GROUPS, pairs.blocks))
    parts = [pairs.counts(pairs.totals(groups != group)) for group in set(groups.tolist())]
    shares = [counts.first_margin / counts.tokens for counts in (sample.counts, *parts)]
    whole, *left_out = (float(-np.log((share**2).sum())) for share in shares)
    value = estimate(whole, left_out, 0.0, "plugin", pairs.tokens)
    return entropy_measurement(value, {"order": 2}, plugin=whole)


TOY_STATISTIC = Statistic(
    "collision", "Rényi entropy of order 2 of the token", "nats per token", "tokens", "plugin",
    "Rényi 1961", collision, entropy=True, label="H2", columns=(Column("order", ("order",), "d"),),
)  # fmt: skip


@pytest.fixture
def toy_statistic() -> Iterator[str]:
    STATISTICS.add(TOY_STATISTIC)
    yield TOY_STATISTIC.name
    STATISTICS.remove(TOY_STATISTIC.name)


@pytest.mark.parametrize("check", STATISTIC_CONTRACT, ids=lambda check: check.__name__)
def test_a_statistic_of_another_package_keeps_the_contract(
    check: Callable[[Statistic, Path], None], toy_statistic: str, tmp_path: Path
) -> None:
    check(STATISTICS[toy_statistic], tmp_path)


def test_a_statistic_of_another_package_is_reported_and_drives_a_mixture(
    recipe: Path, toy_statistic: str
) -> None:
    entropy = "mixture={method: entropy, measure: collision, temperature: 2}"
    command = ["stats", str(recipe), "--compare", "--workers", "1", "--set", entropy]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "H2" in done.output and "entropy, collision" in done.output.replace("\n", " ")
    folder = recipe.parent / "out" / "tiny"
    report = json.loads((folder / "entropy_report.json").read_text("utf-8"))
    nats = {name: row["entropy"][toy_statistic]["nats"] for name, row in report["domains"].items()}
    assert report["estimators"][toy_statistic] == ["plugin"]
    done = CliRunner().invoke(cli, ["mix", str(recipe), "--workers", "1", "--set", entropy])
    assert done.exit_code == 0, done.output
    mixture = json.loads((folder / "mixture.json").read_text("utf-8"))
    power = {name: np.exp(value / 2) for name, value in nats.items()}
    expected = {name: value / sum(power.values()) for name, value in power.items()}
    assert mixture["unconstrained"] == pytest.approx(expected)
    with pytest.raises(RecipeError, match=r"'colision'; did you mean 'collision'\?"):
        find_entropy("colision")


# A mixing method.


def prefer_square_roots(request: MixtureRequest) -> Preference:
    return Preference(tuple(domain.supply_tokens**0.5 for domain in request.domains))


TOY_METHODS = (
    Method("square_roots", "shares of root supply", "no paper", "counts", prefer_square_roots),
    Method("toy_law", "least loss by the toy law", "no paper", "runs", LawMethod("log_linear"),
           evidence="runs"),
    Method("toy_experts", "experts by document", "no paper", "experts", ExpertMethod("document"),
           evidence="experts"),
)  # fmt: skip


@pytest.fixture
def toy_methods(toy_law: str) -> Iterator[None]:
    for method in TOY_METHODS:
        METHODS.add(method)
    yield
    for method in TOY_METHODS:
        METHODS.remove(method.name)


def test_a_method_of_another_package_keeps_the_contract(toy_methods: None) -> None:
    domains = tuple(DomainSupply(name, size, 9.0) for name, size in (("a", 1), ("b", 4), ("c", 9)))
    check_contract(mix, MixtureRequest(domains, 9, "square_roots"), [1 / 6, 2 / 6, 3 / 6])


@pytest.mark.parametrize("method", ["toy_law", "toy_experts"])
def test_a_method_of_evidence_keeps_the_contract(method: str, toy_methods: None) -> None:
    check_evidence_contract(method)


def test_a_near_name_suggests_a_method_of_another_package(toy_methods: None) -> None:
    with pytest.raises(RecipeError, match="mixture.method: .*; did you mean 'square_roots'"):
        METHODS.find("square_root", "mixture.method")


def install(folder: Path, module: str, entry_points: str) -> dict[str, str]:
    """Lay out a package as pip would; return an environment whose Python sees it."""
    (folder / "toy_package.py").write_text(module)
    info = folder / "toy_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    paths = [str(folder), str(Path(__file__).parents[1])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run_python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment, check=False, capture_output=True, text=True
    )


TOY_MODULE = """
from curate.mixture import Method, Preference

def equal(request):
    return Preference((1.0,) * len(request.domains))

EQUAL = Method("equal", "the same for all", "no paper", "nothing", equal)
"""


def test_an_installed_package_registers_through_its_entry_point(tmp_path: Path) -> None:
    environment = install(tmp_path, TOY_MODULE, "[curate.methods]\nequal = toy_package:EQUAL\n")
    listed = run_python(environment, "-m", "curate.cli", "methods", "--json")
    assert [row["method"] for row in json.loads(listed.stdout)] == [*METHODS, "equal"]
    code = (
        "from curate.mixture import DomainSupply, MixtureRequest, mix\n"
        "domains = (DomainSupply('a', 10, 9), DomainSupply('b', 30, 9))\n"
        "print(mix(MixtureRequest(domains, 40, 'equal')).weights)"
    )
    assert run_python(environment, "-c", code).stdout == "{'a': 0.5, 'b': 0.5}\n"


def test_an_entry_point_that_cannot_be_imported_names_its_package(tmp_path: Path) -> None:
    environment = install(tmp_path, TOY_MODULE, "[curate.methods]\nequal = toy_package:UNEQUAL\n")
    listed = run_python(environment, "-m", "curate.cli", "methods")
    assert listed.returncode == 2
    assert "method 'equal': toy-package offers toy_package:UNEQUAL, which" in listed.stderr


@pytest.mark.parametrize(
    "use",
    [
        "from curate.mixture import METHODS\nassert len(METHODS) > 20",
        "import curate.report.entropies, curate.stats.embedding, curate.stats.measure",
    ],
)
def test_listing_methods_and_measuring_text_load_no_numerical_library(use: str) -> None:
    code = f"import sys\n{use}\nprint({{'scipy', 'lightgbm', 'numba', 'torch'}} & set(sys.modules))"
    assert run_python({**os.environ}, "-c", code).stdout == "set()\n"
