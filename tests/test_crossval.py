"""Laws are compared on what they have not seen, with scores worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from law_tables import mixtures, table_of
from warm import run_curate

from curate.errors import FitError
from curate.laws import LAWS
from curate.laws.crossval import cross_validate, later_rows
from curate.laws.fitting.features import run_folds
from curate.laws.law import Array, RunTable
from curate.laws.scores import score, seed_noise, spearman
from curate.laws.selection import select_unseen, target_noise
from curate.report.laws import lead

pytestmark = pytest.mark.usefixtures("small_search")

TOKENS = (1e9, 2e9, 3e9, 4e9, 5e9)


def small(losses: Array, tokens: list[float]) -> RunTable:
    rows = len(tokens)
    weights = np.stack([np.linspace(0.1, 0.9, rows), np.linspace(0.9, 0.1, rows)], axis=1)
    runs = tuple(f"r{row}" for row in range(rows))
    return RunTable(
        ("x", "y"), ("x",), runs, weights, np.array(tokens), np.full(rows, np.nan), losses
    )


def test_scores_by_hand() -> None:
    """ln losses 0, 1, 2 at 1 token and 5, 6, 7 at 2; off by one tenth each."""
    logs = np.array([0.0, 1.0, 2.0, 5.0, 6.0, 7.0])
    table = small(np.exp(logs)[:, None], [1, 1, 1, 2, 2, 2])
    found = score(table, np.exp(logs + 0.1)[:, None])
    assert found.relative_error == pytest.approx([np.exp(0.1) - 1])
    assert found.r2 == pytest.approx([1 - 0.06 / 4])
    assert found.r2_all == pytest.approx([1 - 0.06 / 41.5])
    assert found.spearman == pytest.approx([1.0])
    # The last checkpoint alone is ranked, where two of three are swapped.
    swapped = logs[[0, 1, 2, 3, 5, 4]]
    assert score(table, np.exp(swapped)[:, None]).spearman == pytest.approx([0.5])
    by_group = np.exp(np.array([1.0, 1, 1, 6, 6, 6]))[:, None]
    dummy = score(table, by_group)
    assert dummy.r2 == pytest.approx([0.0]) and dummy.r2_all[0] > 0.9
    assert np.isnan(dummy.spearman[0])


def test_a_loss_below_zero_does_not_rule_r2() -> None:
    table = small(np.array([[1.0], [2.0], [4.0]]), [1, 1, 1])
    assert score(table, np.array([[-1.0], [2.0], [4.0]])).r2[0] > -10


def test_spearman_with_ties() -> None:
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([3.0, 3.0, 5.0])) == pytest.approx(1)
    # ranks 1.5 1.5 3 against 1 2 3: 1.5 / sqrt(1.5 * 2)
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(
        1.5 / np.sqrt(3)
    )


def test_seed_noise_by_hand() -> None:
    """Two runs of one mixture at ln losses 0 and 0.2: deviation 0.2 / sqrt(2)."""
    table = small(np.exp(np.array([[0.0], [0.2], [5.0]])), [1, 1, 1])
    assert seed_noise(table).groups == 0 and np.isnan(seed_noise(table).relative_of_mean)
    repeated = replace(table, weights=table.weights[[0, 0, 2]])
    found = seed_noise(repeated)
    assert (found.groups, found.runs) == (1, 2)
    assert found.relative == pytest.approx([0.2 / np.sqrt(2)])


def test_seed_noise_of_many_repeats_is_the_planted_one() -> None:
    table = table_of(np.repeat(mixtures(100, 3, 1), 3, axis=0), noise=0.01)
    assert seed_noise(table).relative == pytest.approx([0.01] * 3, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_folds_keep_runs_and_mixtures_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = mixtures(12, 3, seed)[rng.integers(0, 12, 30)]
    table = table_of(weights, TOKENS, (1e8, 1e9))
    folds = run_folds(table, 4, seed)
    assert np.array_equal(sum(fold.astype(int) for fold in folds), np.ones(len(table.runs)))
    for fold in folds:
        inside = {tuple(row) for row in table.weights[fold].tolist()}
        outside = {tuple(row) for row in table.weights[~fold].tolist()}
        assert not inside & outside
        assert not {table.runs[i] for i in np.flatnonzero(fold)} & {
            table.runs[i] for i in np.flatnonzero(~fold)
        }


def test_a_run_whose_mixture_changes_stays_whole() -> None:
    table = table_of(mixtures(6, 3, 2))
    table = replace(table, runs=("a", "a", "b", "b", "c", "d"))
    folds = run_folds(table, 6)
    assert len(folds) == 4
    assert all(fold[0] == fold[1] and fold[2] == fold[3] for fold in folds)


def test_laws_are_ranked_and_dummies_come_last() -> None:
    table = table_of(mixtures(30, 3, 3), TOKENS, noise=0.002)
    found = cross_validate(table, ["exponential", "ridge"], folds=3, workers=2)
    names = [item.law for item in found.comparisons]
    assert set(names) == {"exponential", "ridge", "mean", "own_share"} and names[-1] == "mean"
    by_law = {item.law: item for item in found.comparisons}
    best = by_law["exponential"]
    assert best.unseen is not None and best.later is not None
    assert best.ties and best.beats_dummies and not by_law["mean"].ties
    assert not by_law["mean"].beats_dummies and not by_law["own_share"].beats_dummies
    assert best.unseen.relative_error.mean() < 0.01 and best.later.relative_error.mean() < 0.01
    mean = by_law["mean"].unseen
    assert mean is not None and mean.relative_error.mean() > 0.03
    assert mean.r2.max() <= 0  # a mean of others explains nothing of a mixture
    written = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(written)["laws"]["ridge"]["later_tokens"] is not None


def test_what_a_law_memorises_does_not_count() -> None:
    """Losses of pure noise: trees fit them to the last digit, and are no better than the mean."""
    table = table_of(mixtures(40, 3, 4))
    noise = np.random.default_rng(5).uniform(2, 4, table.losses.shape)
    found = cross_validate(replace(table, losses=noise), ["boosted", "exponential"])
    assert all(item.unseen is not None and item.unseen.r2.max() < 0.3 for item in found.comparisons)


def test_a_law_that_cannot_be_fitted_says_why_and_the_others_go_on() -> None:
    table = replace(table_of(mixtures(20, 3, 6)), targets=("a", "b", "c"))
    found = cross_validate(table, ["bimix", "exponential"])
    assert found.comparisons[0].law == "exponential" and found.comparisons[-1].law == "bimix"
    assert "not a training domain" in found.comparisons[-1].problem
    assert found.to_json()["laws"]["bimix"]["unseen_mixtures"] is None


def test_later_tokens_are_the_last_fifth_of_each_run() -> None:
    table = table_of(mixtures(2, 3, 7), TOKENS)
    held = later_rows(table)
    assert held is not None and held.tolist() == [False] * 4 + [True] + [False] * 4 + [True]
    assert later_rows(table_of(mixtures(2, 3, 7), TOKENS[:4])) is None
    assert later_rows(table_of(mixtures(2, 3, 7))) is None


def test_faults_are_named() -> None:
    same = table_of(np.repeat(mixtures(1, 3, 8), 4, axis=0))
    with pytest.raises(FitError, match=r"one mixture was trained \(4 runs\), so none can be held"):
        cross_validate(same, ["ridge"])
    with pytest.raises(FitError, match="1 folds; cross-validation needs at least 2: --folds 5"):
        cross_validate(table_of(mixtures(4, 3, 9)), ["ridge"], folds=1)
    with pytest.raises(FitError, match="no law is called 'rigde'"):
        cross_validate(table_of(mixtures(4, 3, 9)), ["rigde"])


def test_fit_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    table = table_of(mixtures(20, 3, 10), noise=0.002)
    rows = ["run,w_wiki,w_code,w_talk,loss_wiki,loss_code,loss_talk"]
    for name, weights, losses in zip(table.runs, table.weights, table.losses, strict=True):
        rows.append(",".join([name, *map(str, weights), *map(str, losses)]))
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(rows) + "\n")
    done = run_curate("fit", path, "--laws", "exponential,boosted_regmix", "--out", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    assert "20 runs, 20 rows, 3 domains, 3 losses; 5-fold" in done.stdout
    assert "note left out: boosted_regmix: 16 rows, but leaves of 20" in done.stdout
    assert "(with one fold of 5 held out)" in done.stdout.replace("\n", " ")
    assert "no mixture was run twice" in done.stdout
    written = json.loads((tmp_path / "o" / "fit.json").read_text())
    assert written["schema"] == 1 and list(written["laws"])[0] == "exponential"
    assert list(written["inputs"]) == [str(path)]
    assert written["laws"]["exponential"]["unseen_mixtures"]["targets"]["code"]["r2"] > 0.9
    same = run_curate(
        "fit", path, "--laws", "exponential,boosted_regmix", "--json", "--out", tmp_path
    )
    assert json.loads(same.stdout)["laws"].keys() == written["laws"].keys()
    failed = run_curate("fit", path, "--laws", "exponentail")
    assert failed.returncode == 2 and failed.stdout == ""
    assert "did you mean 'exponential'?" in failed.stderr and failed.stderr.count("\n") == 1


def test_regret_and_gain_by_hand() -> None:
    observed = np.array([1.0, 2.0, 3.0, 4.0])
    right = select_unseen(observed, observed)
    assert right.regret == right.regret_high == 0 and right.gain == pytest.approx(1.5)
    assert right.low > 0 and not right.within_noise
    second = select_unseen(observed, np.array([3.0, 1.0, 3.5, 4.0]))
    assert second.regret == 1 and second.gain == pytest.approx(0.5)
    dummy = select_unseen(observed, np.full(4, 2.5))  # ties: any run, on average
    assert dummy.regret == 1.5 and dummy.gain == 0 and dummy.within_noise


def test_a_dummy_has_a_regret_that_shows() -> None:
    table = table_of(mixtures(30, 3, 11), noise=0.002)
    compared = cross_validate(table, ["exponential"])
    by_law = {item.law: item.selection for item in compared.comparisons}
    law, mean = by_law["exponential"], by_law["mean"]
    assert law is not None and mean is not None
    assert law.regret < 0.01 and not law.within_noise
    assert mean.regret > 10 * max(law.regret, 0.005) and mean.within_noise


def test_the_interval_of_the_gain_covers_the_true_one() -> None:
    """The truth: noiseless losses of the run that the law selects, and of the average run."""
    inside, tables = 0, 30
    for seed in range(tables):
        weights = mixtures(24, 3, 50 + seed)
        noisy, clean = (table_of(weights, noise=noise, seed=seed) for noise in (0.02, 0.0))
        predicted = np.empty_like(noisy.losses)
        for held in run_folds(noisy, 5):
            fitted = LAWS["exponential"].fit(noisy.take(~held))
            rows = noisy.take(held)
            predicted[held] = fitted.predict(rows.weights, rows.tokens, rows.params)
        found = select_unseen(noisy.losses.mean(axis=1), predicted.mean(axis=1))
        truth = clean.losses.mean(axis=1)
        gain = truth.mean() - truth[int(predicted.mean(axis=1).argmin())]
        inside += found.low <= gain <= found.high
    assert inside >= 0.9 * tables


def test_targets_that_no_mixture_moves_are_named() -> None:
    table = table_of(mixtures(40, 3, 12), noise=0.002)
    losses = table.losses.copy()
    losses[:, 1] = 2 * np.exp(0.01 * np.random.default_rng(0).standard_normal(len(losses)))
    compared = cross_validate(replace(table, losses=losses), ["exponential"])
    assert compared.unmoved == (table.targets[1],)
    assert compared.to_json()["unmoved_targets"] == [table.targets[1]]
    words = lead({"table": {}, "laws": {}, **compared.to_json()})
    assert (
        words is not None
        and f"no mixture moves 1 of 3 losses beyond noise: {table.targets[1]}" in words
    )


@pytest.mark.parametrize("repeats", [1, 3])
def test_noise_is_learnt_by_target(repeats: int) -> None:
    weights = np.repeat(mixtures(60 // repeats, 3, 13), repeats, axis=0)
    table = table_of(weights)
    sizes = np.array([0.001, 0.01, 0.03])
    noise = np.random.default_rng(1).standard_normal(table.losses.shape)
    noisy = replace(table, losses=table.losses * np.exp(sizes * noise))
    learnt = target_noise(noisy)
    assert learnt.mixtures_repeated == (20 if repeats > 1 else 0)
    assert learnt.relative == pytest.approx(sizes, rel=0.35)


def test_where_the_best_law_is_a_dummy_fit_names_it() -> None:
    """Own shares decide these losses, and ridge sees no power: the mean is beaten, no dummy is."""
    weights = mixtures(24, 3, 15)
    table = replace(table_of(weights), losses=2 * weights**-0.2)
    words = lead({"table": {}, **cross_validate(table, ["ridge"]).to_json()})
    assert words is not None
    assert words.startswith("no law beats own_share, a dummy: more runs, or longer ones")
    assert "is better than the average run by" in words


def test_where_no_law_beats_a_dummy_fit_says_so() -> None:
    table = table_of(mixtures(24, 3, 14))
    losses = 2 * np.exp(0.01 * np.random.default_rng(2).standard_normal(table.losses.shape))
    compared = cross_validate(replace(table, losses=losses), ["ridge"])
    words = lead({"table": {}, **compared.to_json()})
    assert words is not None
    assert words.startswith("no law beats the mean of the runs beyond noise: they do not tell")
    assert "is no better than the average run within noise" in words
    assert "no mixture moves 3 of 3 losses beyond noise" in words
