"""Another package adds a method, a law, a format, a statistic: one row each, no change here."""

from __future__ import annotations

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

from curate.cli import cli
from curate.errors import RecipeError, ShardError
from curate.formats import FORMATS, TokenBatch, TokenFormat
from curate.formats.base import open_shard, sibling
from curate.laws import LAWS, FittedLaw, Law, RunTable
from curate.laws.crossval import cross_validate
from curate.laws.law import Array
from curate.pipeline.build import build
from curate.recipe import load
from curate.runtime.files import atomic_path
from curate.runtime.progress import Observer

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
