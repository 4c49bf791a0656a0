"""Proposed mixtures: within supply, spread out, better than a dummy's, and the command."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from curate.cli import cli
from curate.errors import MissingEvidence, RecipeError
from curate.laws.law import RunTable
from curate.mixture import DomainSupply, Evidence, MixtureRequest
from curate.mixture.design import STRATEGIES, _features, design, draw, next_runs, runs_needed
from curate.mixture.design_reuse import NOISE, Unknown, features
from curate.mixture.search.simplex_box import Box, whole
from curate.mixture.search.trust_region import hellinger
from curate.pipeline.design_runs import _needed_line


def asked(supplies=(100, 400, 50, 900), entropies=None):
    domains = tuple(
        DomainSupply(chr(97 + i), supply, 4, {} if entropies is None else entropies[i])
        for i, supply in enumerate(supplies)
    )
    return MixtureRequest(domains, 1000, "natural")


NOTHING = np.empty((0, 4))
BOX = Box(np.array([0, 0, 0.02, 0]), np.array([0.4, 1, 0.2, 1]))


@pytest.mark.parametrize("strategy", ["dirichlet", "filling", "determinant", "variance"])
def test_designs_stay_within_supply_and_repeat(strategy):
    found = design(asked(), BOX, NOTHING, strategy, 20)
    assert found.mixtures.shape == (20, 4) and found.needed == 15 and found.existing == 0
    assert np.allclose(found.mixtures.sum(axis=1), 1)
    assert np.all(found.mixtures >= BOX.low - 1e-12) and np.all(found.mixtures <= BOX.high + 1e-12)
    again = design(asked(), BOX, NOTHING, strategy, 20)
    assert np.array_equal(found.mixtures, again.mixtures)
    assert len(np.unique(found.mixtures.round(6), axis=0)) == 20


def test_filling_keeps_its_distance_from_the_runs():
    trained = draw(asked(), whole(4), 30, np.random.default_rng(0))
    filled = design(asked(), whole(4), trained, "filling", 10)
    drawn = design(asked(), whole(4), trained, "dirichlet", 10)

    def nearest_of(mixtures):
        both = np.vstack([trained, mixtures])
        distance = hellinger(mixtures, both)
        distance[np.arange(10), 30 + np.arange(10)] = 1
        return distance.min()

    assert nearest_of(filled.mixtures) > 2 * nearest_of(drawn.mixtures)
    assert filled.existing == len(np.unique(trained.round(6), axis=0))


def test_determinant_beats_random_draws():
    def information(mixtures):
        features = _features(mixtures)
        return np.linalg.slogdet(features.T @ features + 1e-3 * np.eye(8))[1]

    best = information(design(asked(), BOX, NOTHING, "determinant", 16).mixtures)
    random = [
        information(draw(asked(), BOX, 16, np.random.default_rng(seed))) for seed in range(20)
    ]
    assert best > max(random)


def test_entropy_mixtures():
    entropies = [{"shannon": np.log(1 + i), "conditional": np.log(4.0 - i)} for i in range(4)]
    found = design(asked(entropies=entropies), whole(4), NOTHING, "entropy", 2).mixtures
    assert found[0] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert found[1] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    with pytest.raises(RecipeError, match="strategy entropy gives 2 mixtures, one for each of sh"):
        design(asked(entropies=entropies), whole(4), NOTHING, "entropy", 3)
    with pytest.raises(MissingEvidence, match="strategy entropy needs entropies"):
        design(asked(), whole(4), NOTHING, "entropy", 1)


def test_unknown_strategy_and_rule():
    with pytest.raises(RecipeError, match="no strategy is called 'best' .known: dirichlet, entr"):
        design(asked(), whole(4), NOTHING, "best", 1)
    assert runs_needed(17) == 54 and set(STRATEGIES) >= {"dirichlet", "filling"}


def test_command(tmp_path):
    rng = np.random.default_rng(1)
    for name in "ab":
        lines = [json.dumps({"text": " ".join(rng.choice(["one", "two", "three"], 30))})
                 for _ in range(150)]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "{name: tiny, tokenizer: {train: {vocab_size: 262}}, domains: [{name: a, paths: a.jsonl}, "
        "{name: b, paths: b.jsonl}], budget_tokens: 2000}"
    )
    done = CliRunner().invoke(cli, ["design", str(recipe), "-n", "4"])
    assert done.exit_code == 0, done.exception
    assert "2 domains need 9 runs" in done.output.replace("\n", " ")
    with (tmp_path / "out/tiny/design.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["run"] for row in rows] == [f"filling-{i:04d}" for i in range(4)]
    assert all(float(row["w_a"]) + float(row["w_b"]) == pytest.approx(1) for row in rows)
    printed = CliRunner().invoke(cli, ["design", str(recipe), "--json", "--strategy", "entropy",
                                       "-n", "3"])  # fmt: skip
    assert len(json.loads(printed.output)["runs"]) == 3


def of_six(earlier, repeated=False):
    """Runs on the first four of six domains, as if two had been added."""
    rng = np.random.default_rng(3)
    weights = np.hstack([rng.dirichlet(np.ones(4), 60), np.zeros((60, 2))])
    if repeated:
        weights[:] = weights[0]
    ones = np.ones(60)
    names = tuple("abcdef")
    runs = RunTable(names, ("x",), tuple(f"r{run}" for run in range(60)), weights, ones, ones,
                    ones[:, None], earlier=np.full(60, True) if earlier else None)  # fmt: skip
    domains = tuple(DomainSupply(name, 10**6, 1e6) for name in names)
    return MixtureRequest(domains, 10**6, "natural", evidence=Evidence(runs))


def test_runs_on_earlier_domains_save_new_ones():
    asked = of_six(earlier=True)
    proposed = next_runs(asked, None)
    assert proposed.strategy == "variance"
    plan = proposed.reuse
    assert plan.anew == runs_needed(6) == 21 and plan.earlier == 60
    assert 2 <= plan.proposed == len(proposed.mixtures) < 21
    assert plan.unknown <= plan.unknown_anew < plan.unknown_alone
    assert plan.keeping == runs_needed(3) == 12  # two added domains, and the others as one
    many = dataclasses.replace(proposed, reuse=dataclasses.replace(plan, proposed=20))
    assert "; 12 are enough where the domains that stayed keep their" in _needed_line(many)
    few = dataclasses.replace(proposed, reuse=dataclasses.replace(plan, proposed=12))
    assert "are enough" not in _needed_line(few)
    fewer = next_runs(asked, None, plan.proposed - 1)
    assert fewer.reuse.unknown > plan.unknown_anew
    # One mixture sixty times says next to nothing: a dummy that counts runs would save as many.
    dummy = next_runs(of_six(earlier=True, repeated=True), None).reuse
    assert dummy.proposed == 21
    plain = next_runs(of_six(earlier=False), None)
    assert plain.reuse is None and plain.strategy == "filling"
    assert next_runs(asked, "filling", 4).reuse.unknown > next_runs(asked, None, 4).reuse.unknown
    with_entropy = dataclasses.replace(asked, domains=tuple(
        dataclasses.replace(d, entropy={"shannon": 1.0 + i}) for i, d in enumerate(asked.domains)
    ))  # fmt: skip
    assert next_runs(with_entropy, "entropy").reuse is None


def test_what_runs_leave_unknown_is_the_error_that_they_leave():
    """Against simulated truths: linear in shares and roots, read by the posterior mean."""
    rng = np.random.default_rng(0)
    today, trained = rng.dirichlet(np.ones(4), 200), rng.dirichlet(np.ones(4), 20)
    expected = Unknown(today).of([(trained, 1.0)])
    rows, seen = features(today), features(trained)
    spread = ((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()
    noise = NOISE * spread
    gain = np.linalg.solve(seen.T @ seen + noise * np.eye(9), seen.T)
    errors = []
    for _ in range(400):
        truth = rng.standard_normal(9)
        losses = seen @ truth + np.sqrt(noise) * rng.standard_normal(20)
        errors.append(((rows @ (gain @ losses - truth)) ** 2).mean() / spread)
    assert np.mean(errors) == pytest.approx(expected, rel=0.15)
    assert expected < Unknown(today).of([(trained[:10], 1.0)])
    assert expected < Unknown(today).of([(trained, 10.0)])
