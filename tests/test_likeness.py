"""Domains of similar text: what likeness tells of their effects, and when it tells nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Listener

import curate
from curate.cli import cli
from curate.errors import RecipeError
from curate.laws.fitting.likeness import effect_correlation, transfer_factor, why_untold
from curate.laws.forms.joint import fit_joint
from curate.laws.law import RunTable
from curate.laws.run_tables.alike import likeness_of_distances, likeness_of_groups
from curate.mixture import METHODS
from curate.mixture.keys import check_keys
from curate.recipe import EvidenceRecipe, MixtureRecipe

GROUPS = 4
DOMAINS = tuple(f"g{group}-{part}" for group in range(GROUPS) for part in range(4))
ALIKE = likeness_of_groups({f"g{g}": f"g{g}-*" for g in range(GROUPS)}, DOMAINS, "alike")


def planted(seed: int, count: int, likely: bool = True) -> tuple[RunTable, RunTable]:
    """Runs to fit and runs to predict; effects agree within groups, or ignore them.

    Losses fall with the diminishing use of each domain for each of three targets.
    """
    rng = np.random.default_rng(seed)
    if likely:
        effects = np.repeat(rng.standard_normal((GROUPS, 3)), 4, axis=0)
        effects += 0.3 * rng.standard_normal(effects.shape)
    else:
        effects = rng.standard_normal((len(DOMAINS), 3))
    weights = rng.dirichlet(np.full(len(DOMAINS), 0.3), count + 200)
    losses = 2 + 1.5 * (np.sqrt(weights) @ np.exp(effects)) ** -0.5
    losses *= np.exp(0.003 * rng.standard_normal(losses.shape))
    ones = np.ones(len(weights))
    table = RunTable(DOMAINS, ("x", "y", "z"), tuple(f"r{run}" for run in range(len(weights))),
                     weights, 1e8 * ones, 1e6 * ones, losses)  # fmt: skip
    return table.take(np.arange(count)), table.take(np.arange(count, count + 200))


def missed(train: RunTable, test: RunTable) -> float:
    predicted = fit_joint(train).predict(test.weights, test.tokens, test.params)
    logs = np.log(test.losses)
    return float(np.mean(((np.log(predicted) - logs) ** 2).mean(axis=0) / logs.var(axis=0)))


def test_likeness_tells_of_domains_that_few_runs_have() -> None:
    plain, informed = [], []
    for seed in range(3):
        train, test = planted(seed, 14)
        known = replace(train, alike=ALIKE)
        assert effect_correlation(known) > 0
        plain.append(missed(train, test))
        informed.append(missed(known, test))
    assert np.mean(informed) < 0.8 * np.mean(plain)
    assert all(after < before for after, before in zip(informed, plain, strict=True))


def test_likeness_that_says_nothing_changes_nothing() -> None:
    """A null: effects that have nothing to do with the groups, so a likeness is noise."""
    taken = []
    for seed in range(20):
        train, _ = planted(seed, 14, likely=False)
        taken.append(effect_correlation(replace(train, alike=ALIKE)) > 0)
    assert sum(taken) <= 3  # the rule errs in 1 of 20
    seed = taken.index(False)
    train, test = planted(seed, 14, likely=False)
    law, same = fit_joint(train), fit_joint(replace(train, alike=ALIKE))
    at = (test.weights, test.tokens, test.params)
    assert np.array_equal(law.predict(*at), same.predict(*at))
    few = replace(train.take(np.arange(9)), alike=ALIKE)
    assert effect_correlation(few) == 0 and transfer_factor(few) is None
    assert transfer_factor(train) is None


def test_targets_that_no_mixture_moves_say_nothing_of_likeness() -> None:
    names = tuple(f"d{number}" for number in range(8))
    pairs = {name: [name, names[place + 1]] for place, name in enumerate(names) if not place % 2}
    weights, ones = np.random.default_rng(0).dirichlet(np.ones(8), 12), np.ones(12)
    table = RunTable(names, ("x",), tuple(f"r{run}" for run in range(12)), weights,
                     1e8 * ones, 1e6 * ones, np.full((12, 1), 2.0),
                     alike=likeness_of_groups(pairs, names, "alike"))  # fmt: skip
    assert why_untold(table) is None
    assert effect_correlation(table) == 0


@pytest.mark.parametrize(("count", "taken"), [(8, True), (6, False)])
def test_a_shuffle_that_leaves_groups_as_they_are_is_no_rival(count: int, taken: bool) -> None:
    """One pair among 8 domains has 27 other places, of which 19 are tried; among 6 only 14."""
    rng = np.random.default_rng(0)
    names = tuple(f"d{number}" for number in range(count))
    effects = rng.standard_normal((count, 3))
    effects[1] = effects[0]
    weights, ones = rng.dirichlet(np.full(count, 0.5), 30), np.ones(30)
    losses = 2 + 1.5 * (np.sqrt(weights) @ np.exp(effects)) ** -0.5
    table = RunTable(names, ("x", "y", "z"), tuple(f"r{run}" for run in range(30)), weights,
                     1e8 * ones, 1e6 * ones, losses,
                     alike=likeness_of_groups({"pair": names[:2]}, names, "alike"))  # fmt: skip
    assert (effect_correlation(table) > 0) == taken
    assert (why_untold(table) is None) == taken


def test_derivatives_hold_with_likeness() -> None:
    train, test = planted(1, 24)
    law = fit_joint(replace(train, alike=ALIKE))
    at, step = test.weights[:1], 1e-6
    slopes = law.gradient(at, test.tokens[:1], test.params[:1])[0]
    for place in (0, 7):
        moved = at.copy()
        moved[0, place] += step
        ahead = law.predict(moved, test.tokens[:1], test.params[:1])
        here = law.predict(at, test.tokens[:1], test.params[:1])
        assert (ahead - here)[0] / step == pytest.approx(slopes[:, place], rel=1e-2, abs=1e-4)


def test_runs_of_today_outvote_earlier_ones_that_mislead() -> None:
    """Where effects changed with the domains, the law is hardly worse than without old runs."""
    train, test = planted(3, 40)
    misleading, _ = planted(4, 120)
    ones = np.arange(160) < 120
    both = replace(
        train,
        runs=(*(f"old{run}" for run in misleading.runs), *train.runs),
        weights=np.vstack([misleading.weights, train.weights]),
        losses=np.vstack([misleading.losses[:, ::-1] ** 2, train.losses]),
        tokens=np.full(160, 1e8),
        params=np.full(160, 1e6),
        earlier=ones,
    )
    assert missed(both, test) < 1.25 * missed(train, test)


def test_groups_and_distances_make_likeness() -> None:
    assert ALIKE.shape == (16, 16)
    assert ALIKE[0, 3] == 1 and ALIKE[0, 4] == 0
    both = likeness_of_groups({"x": ["a", "b"], "y": ["b", "c"]}, ("a", "b", "c", "d"), "alike")
    assert both[0, 1] == pytest.approx(np.sqrt(0.5)) and both[0, 2] == 0 and both[3, 3] == 1
    assert np.linalg.eigvalsh(both).min() > -1e-12
    with pytest.raises(RecipeError, match=r"alike: x: 'aa' matches no domain; did you mean 'a'"):
        likeness_of_groups({"x": "aa"}, ("a", "b"), "alike")
    inf = np.inf
    near = likeness_of_distances(
        np.array([[0, 0.1, 0.6, inf], [0.1, 0, 0.5, inf], [0.6, 0.5, 0, inf], [inf] * 3 + [0]])
    )
    assert np.diag(near) == pytest.approx(np.ones(4))
    assert near[0, 1] == pytest.approx(np.exp(-1), rel=1e-6) and near[0, 1] > near[1, 2] > 0
    assert near[3, :3] == pytest.approx(np.zeros(3), abs=1e-9)
    assert np.linalg.eigvalsh(near).min() > -1e-12
    assert likeness_of_distances(np.full((1, 1), 0.0)).tolist() == [[1.0]]


def test_only_joint_reads_it() -> None:
    given = EvidenceRecipe(runs="r.csv", alike="tokens")
    check_keys(MixtureRecipe(method="joint", evidence=given), METHODS["joint"])
    check_keys(MixtureRecipe(method="law", law="joint", evidence=given), METHODS["law"])
    for method, law in (("olmix", None), ("law", "ridge")):
        recipe = MixtureRecipe(method=method, law=law, evidence=given)
        with pytest.raises(RecipeError, match=r"mixture.evidence.alike: only law joint reads it"):
            check_keys(recipe, METHODS[method])


def written(train: RunTable, path: Path) -> Path:
    head = ["run", "params", "tokens", *(f"w_{d}" for d in DOMAINS), *train.targets]
    head = [name if name not in train.targets else f"loss_{name}" for name in head]
    rows = zip(train.runs, train.weights.tolist(), train.losses.tolist(), strict=True)
    lines = [",".join(map(str, [run, 1e6, 1e8, *w, *losses])) for run, w, losses in rows]
    path.write_text("\n".join([",".join(head), *lines]))
    return path


@pytest.mark.usefixtures("small_search")
def test_commands_take_groups(tmp_path: Path) -> None:
    path = written(planted(1, 30)[0], tmp_path / "runs.csv")
    fit = ["fit", str(path), "--laws", "joint", "--folds", "2", "--json", "--out", str(tmp_path)]
    alike = [part for g in range(GROUPS) for part in ("--alike", f"g{g}=g{g}-0,g{g}-[1-9]")]
    run = CliRunner().invoke
    errors = [
        json.loads(run(cli, [*fit, *more]).stdout)["laws"]["joint"]["unseen_mixtures"][
            "mean_relative_error"
        ]
        for more in ([], alike)
    ]
    assert errors[1] < errors[0]
    wrong = run(cli, [*fit, "--alike", "g0"])
    assert str(wrong.exception).startswith("--alike g0: expected GROUP=PATTERN,PATTERN, as in ")
    groups = {f"g{g}": [f"g{g}-*"] for g in range(GROUPS)}
    settings = {"mixture.evidence.alike": groups, "mixture.replicates": 0}
    mixed = curate.mix(runs=path, overrides=settings)
    assert mixed.json["alike"]["correlation"] > 0
    null = written(planted(0, 14, likely=False)[0], tmp_path / "null.csv")
    listener = Listener()
    chance = curate.mix(runs=null, overrides=settings, progress=listener)
    assert chance.json["alike"] == {"correlation": 0.0}
    assert any("no more similar effects than chance" in text for text in listener.notices)
    with pytest.raises(RecipeError, match="tokens compares texts, and without a recipe there are"):
        curate.mix(runs=path, overrides={"mixture.evidence.alike": "tokens"})


def test_tokens_of_a_recipe_make_likeness(tmp_path: Path) -> None:
    """Two domains of the same words are nearer to each other than to a third."""
    rng = np.random.default_rng(0)
    words = {"a": [f"w{n}" for n in range(60)], "b": [f"w{n}" for n in range(60)],
             "c": [f"q{n}x" for n in range(60)]}  # fmt: skip
    for name, pool in words.items():
        lines = [json.dumps({"text": " ".join(rng.choice(pool, 40))}) for _ in range(120)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    shares = rng.dirichlet(np.ones(3), 12)
    losses = 2 + (np.sqrt(shares) @ np.array([2.0, 2.1, 0.3])) ** -0.5
    rows = [
        f"r{run},1e6,1e8,{a},{b},{c},{loss}"
        for run, ((a, b, c), loss) in enumerate(zip(shares.tolist(), losses, strict=True))
    ]
    (tmp_path / "runs.csv").write_text("\n".join(["run,params,tokens,w_a,w_b,w_c,loss_x", *rows]))
    recipe = {
        "name": "alike",
        "base": str(tmp_path),
        "tokenizer": {"train": {"vocab_size": 300}},
        "domains": [{"name": name, "paths": f"{name}.jsonl", "max_epochs": 9} for name in words],
        "mixture": {"method": "joint", "replicates": 0,
                    "evidence": {"runs": "runs.csv", "alike": "tokens"}},
        "budget_tokens": 2000,
        "output": {"dir": "out"},
        "cache": "cache",
    }  # fmt: skip
    mixed = curate.mix(recipe)
    assert set(mixed.json["alike"]) == {"correlation"}
    from curate.pipeline.mix import mixture_request
    from curate.pipeline.tokenize import tokenize_domains
    from curate.recipe import load
    from curate.runtime.progress import Observer

    text = tmp_path / "recipe.json"
    text.write_text(json.dumps(recipe))
    loaded = load(text)
    request = mixture_request(loaded, tokenize_domains(loaded, 1, Observer()))
    assert request.evidence is not None and request.evidence.runs is not None
    alike = request.evidence.runs.alike
    assert alike is not None and alike[0, 1] > 1.5 * alike[0, 2]


def test_a_target_learns_from_domains_like_its_own() -> None:
    """Targets with names of domains: their own prior must not set a domain's twin apart."""
    rng = np.random.default_rng(0)
    targets = ("g0-0", "g1-2", "g3-1")
    effects = np.array([[3.0 * (d[:2] == name[:2]) for name in targets] for d in DOMAINS])
    weights = rng.dirichlet(np.full(len(DOMAINS), 0.3), 216)
    losses = 2 + 1.5 * (np.sqrt(weights) @ np.exp(effects)) ** -0.5
    losses *= np.exp(0.003 * rng.standard_normal(losses.shape))
    ones = np.ones(216)
    table = RunTable(DOMAINS, targets, tuple(f"r{run}" for run in range(216)), weights,
                     1e8 * ones, 1e6 * ones, losses)  # fmt: skip
    train, test = table.take(np.arange(16)), table.take(np.arange(16, 216))
    known = replace(train, alike=ALIKE)
    assert effect_correlation(known) > 0
    assert missed(known, test) < 0.1 * missed(train, test)
