"""Runs on earlier domains are carried over to those of today, and say what they do not tell."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Listener

import curate
from curate.cli import cli
from curate.errors import FitError, InputError, MissingEvidence, RecipeError
from curate.laws.forms.joint import ROWS_REFIT, _rows_that_judge
from curate.laws.law import RunTable
from curate.laws.run_tables.join import Joining, joining
from curate.laws.run_tables.lineage import carry_over, reuse_of, shares_of_parts
from curate.laws.run_tables.read import read_runs
from curate.mixture.methods.law_case import _of_today

OLD = """run,params,tokens,w_code,w_old,w_web,loss_x
a,1e6,1e8,0.5,0.1,0.4,4
b,1e6,1e8,0.2,0,0.8,4.5
c,1e6,1e8,1,0,0,3.5
d,1e6,1e8,0,0,1,5
"""
NEW = """run,params,tokens,w_src,w_hi,w_lo,w_math,loss_x
e,1e6,1e8,0.25,0.25,0.25,0.25,3.2
f,1e6,1e8,0.1,0.2,0.3,0.4,3.1
"""
BECAME = shares_of_parts({"code": "src", "web": {"hi": 0.25, "lo": 0.75}})


def table(tmp_path: Path, text: str, name: str = "old.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


def test_renamed_divided_and_merged_domains_keep_every_share(tmp_path: Path) -> None:
    runs, _ = read_runs([table(tmp_path, OLD)], joining=Joining(became=BECAME))
    assert runs.domains == ("src", "old", "hi", "lo")
    assert runs.weights[0] == pytest.approx([0.5, 0.1, 0.1, 0.3])
    merged = carry_over(runs, {"hi": {"web": 1.0}, "lo": {"web": 1.0}})
    assert merged.domains == ("src", "old", "web")
    assert merged.weights[0] == pytest.approx([0.5, 0.1, 0.4])


def test_random_divisions_sum_to_one_and_merging_undoes_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        domains = tuple(f"d{place}" for place in range(int(rng.integers(2, 7))))
        weights = rng.dirichlet(np.ones(len(domains)), 5)
        ones = np.ones(5)
        runs = RunTable(domains, ("x",), tuple("abcde"), weights, ones, ones, ones[:, None])
        parts = {name: dict(zip((f"{name}:p", f"{name}:q"), rng.dirichlet([1, 1]).tolist(),
                                strict=True)) for name in domains[1:]}  # fmt: skip
        divided = carry_over(runs, parts)
        assert divided.weights.sum(axis=1) == pytest.approx(ones)
        back = {part: {name: 1.0} for name, shares in parts.items() for part in shares}
        again = carry_over(divided, back)
        assert again.domains == domains
        assert np.allclose(again.weights, weights, atol=1e-12)


def test_experts_are_judged_on_mixtures_of_today() -> None:
    """Runs on earlier domains inform the fit; what predicts them well is beside the point."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), 150)
    earlier = np.arange(150) >= 120
    ones = np.ones(150)
    runs = RunTable(("a", "b", "c"), ("x",), tuple(f"r{run}" for run in range(150)), weights, ones,
                    ones, ones[:, None], earlier=~earlier)  # fmt: skip
    judges = _rows_that_judge(runs)
    assert judges is not None and np.flatnonzero(judges).tolist() == list(range(120, 150))
    many = _rows_that_judge(replace(runs, earlier=earlier))
    assert many is not None and many.sum() == ROWS_REFIT and not many[120:].any()
    assert _rows_that_judge(replace(runs, earlier=None)) is None
    assert _rows_that_judge(replace(runs, earlier=np.arange(150) > 5)) is None  # too few to judge
    assert np.array_equal(_of_today(runs), weights[120:])  # where a mixture may lie
    assert len(_of_today(replace(runs, earlier=None))) == 150
    assert len(_of_today(replace(runs, earlier=np.full(150, True)))) == 150
    assert runs.take(np.array([0, 149])).earlier.tolist() == [True, False]  # type: ignore[union-attr]


def test_two_domains_may_change_names() -> None:
    one = np.ones(1)
    runs = RunTable(("a", "b"), ("x",), ("r",), np.array([[0.2, 0.8]]), one, one, one[:, None])
    swapped = carry_over(runs, {"a": {"b": 1.0}, "b": {"a": 1.0}})
    assert dict(zip(swapped.domains, swapped.weights[0].tolist(), strict=True)) == {
        "b": pytest.approx(0.2), "a": pytest.approx(0.8)
    }  # fmt: skip


def test_old_and_new_tables_join_under_the_names_of_today(tmp_path: Path) -> None:
    paths = [table(tmp_path, OLD), table(tmp_path, NEW, "new.csv")]
    with pytest.raises(FitError, match=r"old.csv: no share of 'math', which other tables have"):
        read_runs(paths, joining=Joining(became=BECAME))
    runs, notices = read_runs(paths, joining=Joining(absent_domains="zero", became=BECAME))
    assert runs.domains == ("src", "old", "hi", "lo", "math")
    assert runs.weights.sum(axis=1) == pytest.approx(np.ones(6))
    assert runs.weights[:4, 4].tolist() == [0, 0, 0, 0]
    assert any("no share of 'math'; taken as 0" in notice for notice in notices)
    assert runs.earlier is not None and runs.earlier.tolist() == [True] * 4 + [False] * 2
    assert read_runs(paths[:1])[0].earlier is None


def test_what_the_runs_do_not_say_is_said() -> None:
    ones = np.ones(3)
    weights = np.array([[0.5, 0.1, 0.1, 0.3], [1, 0, 0, 0], [0, 0, 0.25, 0.75]])
    runs = RunTable(("src", "old", "hi", "lo"), ("x",), tuple("abc"), weights, ones, ones,
                    ones[:, None])  # fmt: skip
    reuse = reuse_of(runs, ("src", "hi", "lo", "math"), [BECAME])
    assert (reuse.runs, reuse.without, reuse.tied) == (3, ("math",), (("hi", "lo"),))
    assert (reuse.gone, reuse.with_gone) == (("old",), 1)
    gone, without, tied = reuse.sentences()
    assert gone.startswith(
        "2 of 3 runs have only domains of today; 1 also drew from 'old', up to 10"
    )
    assert without.startswith("none of 3 runs has 'math': they say nothing of it")
    assert tied.startswith("the proportions of 'hi', 'lo' are the same in all 3 runs")
    free = weights.copy()
    free[2] = [0, 0, 0.5, 0.5]
    varied = RunTable(runs.domains, runs.targets, runs.runs, free, ones, ones, ones[:, None])
    assert reuse_of(varied, ("src", "hi", "lo"), [BECAME]).tied == ()


def test_parts_without_shares_divide_by_supply() -> None:
    assert shares_of_parts({"web": ["hi", "lo"]}, {"hi": 1.0, "lo": 3.0}) == {
        "web": {"hi": 0.25, "lo": 0.75}
    }
    with pytest.raises(RecipeError, match=r"became.web: the tokens of hi, lo are unknown, .*0\.5"):
        shares_of_parts({"web": ["hi", "lo"]})
    with pytest.raises(RecipeError, match=r"became.web: the shares of hi, lo sum to 0.9; give"):
        joining({}, "refuse", {"web": {"hi": 0.3, "lo": 0.6}})
    with pytest.raises(RecipeError, match=r"became.web: the share of 'hi' is -1; give at least 0"):
        joining({}, "refuse", {"web": {"hi": -1.0, "lo": 2.0}})


def test_an_unknown_old_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        FitError, match="became: no run table has a domain 'wep'; did you mean 'web'"
    ):
        read_runs([table(tmp_path, OLD)], joining=Joining(became={"wep": {"hi": 1.0}}))


def test_commands_carry_runs_over(tmp_path: Path) -> None:
    path = table(tmp_path, OLD)
    run = CliRunner().invoke
    out = ["--json", "--out", str(tmp_path / "out")]
    fit = run(cli, ["fit", str(path), "--laws", "mean", "--folds", "2", "--became", "code=src",
                    "--became", "web=hi:0.25,lo:0.75", *out])  # fmt: skip
    assert fit.exit_code == 0, fit.output
    fields = json.loads(fit.stdout)
    assert fields["table"]["domains"] == ["src", "old", "hi", "lo"]
    assert any("proportions of 'hi', 'lo' are the same in all 4" in n for n in fields["notices"])
    new = table(tmp_path, NEW, "new.csv")
    joined = run(cli, ["fit", str(path), str(new), "--laws", "mean", "--folds", "2", "--became",
                       "code=src", "--became", "web=hi:0.25,lo:0.75", "--absent-domains", "zero",
                       *out])  # fmt: skip
    said = " ".join(json.loads(joined.stdout)["notices"])
    assert "2 mixtures of today's 5 domains beside runs on earlier ones, fewer than 18, 3" in said
    assert "mixture.keep" not in " ".join(fields["notices"])
    wrong = run(cli, ["fit", str(path), "--became", "web=hi,lo:0.75"])
    assert isinstance(wrong.exception, RecipeError)
    assert str(wrong.exception).startswith("--became web=hi,lo:0.75: expected OLD=NEW, or OLD=")
    twice = run(cli, ["fit", str(path), "--became", "web=hi", "--became", "web=lo"])
    assert str(twice.exception).startswith("--became web=lo: 'web' is named before; name all its")
    supplies = {"src": 1e9, "hi": 1e9, "lo": 3e9, "math": 1e8, "old": 0}
    settings = {"mixture.evidence.became": {"code": "src", "web": ["hi", "lo"]},
                "mixture.method": "ridge"}  # fmt: skip
    asked = {"runs": path, "supply": supplies, "budget_tokens": 1e9}
    with pytest.raises(InputError, match="no domain 'math'"):
        curate.mix(**asked, overrides=settings)
    settings["mixture.evidence.absent_domains"] = "zero"
    listener = Listener()
    mixed = curate.mix(**asked, overrides=settings, progress=listener)
    assert set(mixed.weights) == set(supplies) - {"old"}
    assert any("none of 4 runs has 'math'" in text for text in listener.notices)
    fewest = curate.design(**asked, overrides=settings, progress=listener)
    plan = fewest.json["reuse"]
    assert plan["earlier"] == 4 and plan["proposed"] == len(fewest.json["runs"]) <= plan["anew"]
    assert any("mixtures on earlier domains, " in text for text in listener.notices)
    designed = curate.design(**asked, overrides=settings, count=3)
    assert set(next(iter(designed.json["runs"].values()))) == set(supplies) - {"old"}


def test_a_recipe_says_what_became_of_its_domains(tmp_path: Path) -> None:
    corpus = {"src": "def f(x): return x\n", "hi": "good text here\n", "lo": "bad words there\n"}
    for name, text in corpus.items():
        lines = [json.dumps({"text": f"{text * 5} {name} {number}"}) for number in range(40)]
        table(tmp_path, "\n".join(lines), f"{name}.jsonl")
    table(tmp_path, OLD)
    recipe = {
        "name": "today",
        "tokenizer": {"train": {"vocab_size": 300}},
        "domains": [{"name": name, "paths": str(tmp_path / f"{name}.jsonl"), "max_epochs": 9}
                    for name in corpus],
        "mixture": {"method": "ridge", "replicates": 0,
                    "evidence": {"runs": str(tmp_path / "old.csv")}},
        "budget_tokens": 2000,
        "output": {"dir": str(tmp_path / "out")},
        "cache": str(tmp_path / "cache"),
    }  # fmt: skip
    with pytest.raises(MissingEvidence, match=r"became: {OLD: src}.*absent_domains: zero"):
        curate.mix(recipe)
    recipe["mixture"]["evidence"]["became"] = {"code": "src", "web": ["hi", "lo"]}
    mixed = curate.mix(recipe)
    assert set(mixed.weights) == set(corpus)
    warnings = " ".join(mixed.json["warnings"])
    assert "3 of 4 runs have only domains of today" in warnings
    assert "the proportions of 'hi', 'lo' are the same in all 4 runs" in warnings


def lines_of(name: str, numbers: range) -> str:
    words = {"a": "the river city", "b": "return self index", "c": "hello please thanks"}[name]
    texts = [f"{words} {words} {number} {name}" for number in numbers]
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def recipe_of(
    tmp_path: Path, out: str, domains: dict[str, str], mixture: object
) -> dict[str, object]:
    for name, text in domains.items():
        table(tmp_path, text, f"{out}-{name}.jsonl")
    return {
        "name": out,
        "tokenizer": {"train": {"vocab_size": 300}},
        "domains": [{"name": name, "paths": str(tmp_path / f"{out}-{name}.jsonl"), "max_epochs": 9}
                    for name in domains],
        "mixture": mixture,
        "validation": {"documents": 0.2},
        "proxy": {"preset": "nano", "runs": 4, "tokens": 512, "batch": 2, "sequence_length": 32,
                  "checkpoints": 1, "validation_tokens": 200},
        "budget_tokens": 2000,
        "output": {"dir": str(tmp_path / out)},
        "cache": str(tmp_path / "cache"),
    }  # fmt: skip


def test_documents_say_what_became_of_domains(tmp_path: Path) -> None:
    """Renamed, divided, changed and added domains of small models, under names that mislead."""
    pytest.importorskip("torch")
    first = {"a": lines_of("a", range(60)), "b": lines_of("b", range(90))}
    curate.proxy(recipe_of(tmp_path, "first", first, {"method": "natural"}))
    record = json.loads((tmp_path / "first" / "proxy.json").read_text("utf-8"))
    assert set(record["domains"]) == {"runs.csv"} and set(record["domains"]["runs.csv"]) == {
        "a",
        "b",
    }
    mixture = {"method": "ridge", "replicates": 0,
               "evidence": {"runs": str(tmp_path / "first" / "runs.csv")}}  # fmt: skip
    later = {
        "alpha": first["a"],
        "b": lines_of("b", range(60)),
        "rest": lines_of("b", range(60, 90)),
        "a": lines_of("c", range(50)),
    }
    mixed = curate.mix(recipe_of(tmp_path, "later", later, mixture))
    said = " ".join(mixed.json["warnings"])
    assert "runs.csv: 'a' is now 'alpha' 100%, by 60 of its documents" in said
    assert re.search(r"'b' is now 'b' 6\d%, 'rest' 3\d%, by 90 of its documents", said)
    assert "none of 4 runs has 'a'" in said
    assert "the proportions of 'b', 'rest' are the same in all 4 runs" in said
    assert set(mixed.weights) == set(later)
    changed = {"a": lines_of("a", range(60)), "b": lines_of("b", range(30, 120))}
    said = " ".join(curate.mix(recipe_of(tmp_path, "changed", changed, mixture)).json["warnings"])
    assert re.search(r"'b' has changed: 6\d% of the documents", said) and "'a' is now" not in said
    same = curate.mix(recipe_of(tmp_path, "same", first, mixture))
    assert not any("is now" in text or "has changed" in text for text in same.json["warnings"])
    named = {**mixture, "evidence": {**mixture["evidence"], "became": {"a": "alpha"}}}  # type: ignore[dict-item]
    said = " ".join(curate.mix(recipe_of(tmp_path, "said", later, named)).json["warnings"])
    assert "'a' is now" not in said and "'b' is now" in said
