"""Experts' losses beside the shares: a contract, what they gain where they know, and where not."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from expert_files import write_likelihoods
from mixing_laws import LogLinear, table_of

from curate.cli import cli
from curate.errors import MissingEvidence
from curate.laws import LAWS
from curate.laws.crossval import cross_validate
from curate.laws.forms.expert_regression import INFORMED, ablated, informed
from curate.laws.law import FittedLaw, RunTable
from curate.laws.likelihoods import Likelihoods
from curate.mixture.methods.expert_features import BLOCKS, expert_features
from curate.mixture.search.expert_mixing import experts_law

DOMAINS = tuple("abcdefgh")
TARGETS = ("x", "y", "z")
NAN = float("nan")


def planted_experts(seed: int = 0, tokens: int = 600) -> Likelihoods:
    """Eight sources over forty tokens; each target is text of a mixture of them."""
    rng = np.random.default_rng(seed)
    tables = np.exp(rng.normal(0, 1.5, (len(DOMAINS), 40)))
    tables /= tables.sum(axis=1, keepdims=True)
    shares = rng.dirichlet(np.full(len(DOMAINS), 0.5), len(TARGETS))
    drawn = np.concatenate([rng.choice(40, tokens, p=share @ tables) for share in shares])
    documents = len(TARGETS) * tokens // 20
    target = np.repeat(np.arange(len(TARGETS)), tokens // 20)
    starts = np.arange(documents + 1) * 20
    return Likelihoods(DOMAINS, TARGETS, target, starts, np.log(tables[:, drawn]).T)


def mixtures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(len(DOMAINS), 0.7), count)


def planted_runs(count: int, seed: int, experts: FittedLaw, noise: float = 0.002) -> RunTable:
    """Proxies whose losses follow those of the mixed experts at another level and slope."""
    weights = mixtures(count, seed)
    missing = np.full(count, NAN)
    losses = 0.4 + 0.7 * experts.predict(weights, missing, missing)
    losses = losses * np.exp(np.random.default_rng(seed).normal(0, noise, losses.shape))
    runs = tuple(f"run-{row}" for row in range(count))
    return RunTable(DOMAINS, TARGETS, runs, weights, missing, missing, losses)


def write_runs(path: Path, table: RunTable) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["run", *(f"w_{name}" for name in table.domains),
             *(f"loss_{name}" for name in table.targets)]
        )  # fmt: skip
        for row, name in enumerate(table.runs):
            writer.writerow([name, *table.weights[row], *table.losses[row]])


def error(law: FittedLaw, table: RunTable) -> float:
    found = law.predict(table.weights, table.tokens, table.params)
    return float(np.abs(found / table.losses - 1).mean())


@pytest.fixture(scope="module")
def experts() -> FittedLaw:
    return expert_features(planted_experts(), DOMAINS)


GAINS = {"ridge_mde": 0.2, "gaussian_mde": 0.25, "boosted_mde": 0.8}
"""Error with experts over error without: at most."""


@pytest.mark.parametrize("name", INFORMED)
def test_experts_that_know_help_where_runs_are_few(name: str, experts: FittedLaw) -> None:
    runs, unseen = planted_runs(16, 1, experts), planted_runs(200, 2, experts, noise=0)
    plain = error(ablated(name).fit(runs), unseen)
    beside = error(informed(name, experts).fit(runs), unseen)
    assert beside < GAINS[name] * plain


@pytest.mark.parametrize("name", INFORMED)
def test_experts_that_know_nothing_do_not_help(name: str) -> None:
    strangers = expert_features(planted_experts(9), DOMAINS)
    truth = LogLinear(np.ones(3), np.random.default_rng(3).normal(0, 1, (3, len(DOMAINS))))
    runs, unseen = table_of(truth, mixtures(40, 4), 0.002), table_of(truth, mixtures(200, 5))
    plain = error(ablated(name).fit(runs), unseen)
    assert error(informed(name, strangers).fit(runs), unseen) > GAINS[name] * plain


@pytest.mark.parametrize("name", INFORMED)
def test_contract(name: str, experts: FittedLaw) -> None:
    runs = planted_runs(30, 1, experts)
    law = informed(name, experts)
    fitted, again = law.fit(runs), law.fit(runs)
    arguments = (mixtures(5, 7), np.full(5, NAN), np.full(5, NAN))
    found = fitted.predict(*arguments)
    assert found.shape == (5, 3) and np.isfinite(found).all()
    assert np.array_equal(found, again.predict(*arguments))
    slopes = fitted.gradient(*arguments)
    if slopes is None:
        assert name == "boosted_mde"
        return
    for domain in range(len(DOMAINS)):
        step = np.zeros(len(DOMAINS))
        step[domain] = 1e-6
        ahead = fitted.predict(arguments[0] + step, *arguments[1:])
        behind = fitted.predict(arguments[0] - step, *arguments[1:])
        assert np.allclose((ahead - behind) / 2e-6, slopes[:, :, domain], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ridge_mde", "boosted_mde"])
def test_without_experts_it_is_the_law_of_the_shares(name: str, experts: FittedLaw) -> None:
    runs, unseen = planted_runs(30, 1, experts), planted_runs(9, 2, experts)
    arguments = (unseen.weights, unseen.tokens, unseen.params)
    plain = LAWS[INFORMED[name].plain].fit(runs).predict(*arguments)
    assert np.allclose(ablated(name).fit(runs).predict(*arguments), plain, atol=1e-12)


def test_features_are_the_experts_losses_by_name() -> None:
    likelihoods = planted_experts(tokens=200)
    turned = DOMAINS[3:] + DOMAINS[:3]
    weights = mixtures(300, 1)
    missing = np.full(300, NAN)
    straight = experts_law(likelihoods, "token").predict(weights, missing, missing)
    by_name = weights[:, [DOMAINS.index(name) for name in turned]]
    found = expert_features(likelihoods, turned).predict(by_name, missing, missing)
    assert np.allclose(found, straight, atol=1e-12)
    fewer = expert_features(likelihoods, DOMAINS[:5])
    assert fewer.parts[0].scaled.shape[1] == 5
    with pytest.raises(MissingEvidence, match="no expert of 'q' .experts: a, b.*ridge for ridge_"):
        expert_features(likelihoods, (*DOMAINS, "q"))


def test_a_sample_of_blocks_keeps_the_order_of_mixtures() -> None:
    likelihoods = planted_experts(tokens=6000)
    weights = mixtures(50, 1)
    missing = np.full(50, NAN)
    whole = experts_law(likelihoods, "token").predict(weights, missing, missing)
    found = expert_features(likelihoods, DOMAINS)
    assert len(found.parts[0].importance) == BLOCKS
    sampled = found.predict(weights, missing, missing)
    for target in range(3):
        assert np.corrcoef(whole[:, target], sampled[:, target])[0, 1] > 0.99


def test_an_excluded_token_does_not_end_a_fit(experts: FittedLaw) -> None:
    likelihoods = planted_experts()
    logp = likelihoods.logp_nats.copy()
    logp[0, 1:] = -np.inf  # only the first expert allows this token
    strict = expert_features(replace(likelihoods, logp_nats=logp), DOMAINS)
    runs = planted_runs(16, 1, experts)
    weights = runs.weights.copy()
    weights[3] = np.eye(len(DOMAINS))[1]  # infinite for these experts
    fitted = informed("ridge_mde", strict).fit(replace(runs, weights=weights))
    found = fitted.predict(weights, runs.tokens, runs.params)
    assert np.isfinite(found).all()


def test_cross_validation_shows_each_with_and_without(experts: FittedLaw) -> None:
    laws = [informed("ridge_mde", experts), ablated("ridge_mde"), "ridge"]
    found = cross_validate(planted_runs(24, 1, experts), laws)
    errors = {item.law: item.unseen.relative_error.mean() for item in found.comparisons}
    assert set(errors) == {"ridge_mde", "ridge", "mean", "own_share"}
    assert errors["ridge_mde"] < 0.3 * errors["ridge"] < errors["mean"]


def test_fit_command(tmp_path: Path, experts: FittedLaw) -> None:
    write_likelihoods(planted_experts(), tmp_path / "experts.parquet")
    write_runs(tmp_path / "runs.csv", planted_runs(20, 1, experts))
    arguments = ["fit", str(tmp_path / "runs.csv"), "--experts", str(tmp_path / "experts.parquet"),
                 "--laws", "ridge", "--folds", "2", "--out", str(tmp_path), "--json"]  # fmt: skip
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert set(found["laws"]) == {"mean", "own_share", *INFORMED, "ridge", "process", "boosted"}
    assert len(found["inputs"]) == 2
    assert found["laws"]["ridge_mde"]["beats_dummies"]
