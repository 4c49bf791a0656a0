"""Several run tables are read as one: by name, with sizes told apart, and nothing guessed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import curate
from curate.cli import cli
from curate.errors import FitError, RecipeError
from curate.laws.run_tables.join import Joining
from curate.laws.run_tables.read import read_runs
from curate.recipe import TableFill

SMALL = "run,params,tokens,w_x,w_y,loss_x,loss_y\na,1e6,1e8,0.5,0.5,4,5\nb,1e6,1e8,0.2,0.8,4.5,4\n"
LARGE = "run,params,tokens,w_y,w_x,loss_y,loss_x\na,1e9,1e9,0.5,0.5,3,2\nc,1e9,1e9,0.1,0.9,3.5,2\n"
BARE = "run,w_x,w_y,loss_x,loss_y\na,0.5,0.5,4,5\nb,0.2,0.8,4.5,4\n"


def files(tmp_path: Path, **texts: str) -> list[Path]:
    paths = []
    for name, text in texts.items():
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text(text, "utf-8")
    return paths


def test_columns_are_matched_by_name_and_runs_kept_apart(tmp_path: Path) -> None:
    table, notices = read_runs(files(tmp_path, small=SMALL, large=LARGE))
    assert notices == ()
    assert table.domains == ("x", "y") and table.targets == ("x", "y")
    assert table.runs == ("a, small.csv", "b", "a, large.csv", "c")
    assert table.weights.tolist() == [[0.5, 0.5], [0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]
    assert table.losses.tolist() == [[4, 5], [4.5, 4], [2, 3], [2, 3.5]]
    assert table.params.tolist() == [1e6, 1e6, 1e9, 1e9]
    assert table.tokens.tolist() == [1e8, 1e8, 1e9, 1e9]


def test_a_pair_among_tables_is_joined_wherever_it_stands(tmp_path: Path) -> None:
    small, ratios, metrics = files(
        tmp_path,
        small=SMALL,
        ratios="index,train_x,train_y\n1,0.3,0.7\n2,0.6,0.4\n",
        metrics="index,metric/the_pile_x_val_loss,y\n2,2.2,3\n1,2.1,3.1\n",
    )
    joining = Joining({"metrics.csv": TableFill(params=1e9, tokens=2e9)})
    for order in ([small, ratios, metrics], [metrics, ratios, small], [ratios, small, metrics]):
        table, notices = read_runs(order, joining=joining)
        assert notices == () and sorted(table.runs) == ["1", "2", "a", "b"]
        by_run = dict(zip(table.runs, table.losses.tolist(), strict=True))
        x = table.targets.index("x")
        assert (by_run["1"][x], by_run["2"][x], by_run["a"][x]) == (2.1, 2.2, 4)
        at = table.runs.index("1")
        assert (table.params[at], table.tokens[at]) == (1e9, 2e9)


def test_the_order_of_files_changes_no_row(tmp_path: Path) -> None:
    paths = files(tmp_path, small=SMALL, large=LARGE)
    first, second = (read_runs(order)[0] for order in (paths, paths[::-1]))
    place = [second.targets.index(name) for name in first.targets]
    for name, row in zip(first.runs, first.losses.tolist(), strict=True):
        assert second.losses[second.runs.index(name), place].tolist() == row


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"small": BARE, "large": LARGE},
            r"small.csv: no column 'params' and no column 'tokens', so its runs cannot be .*fill: "
            r"{small.csv: {params: 6e7, tokens: 1e9}}, or curate fit --fill "
            r"small.csv:params=6e7,tokens=1e9$",
        ),
        (
            {"large": LARGE, "small": SMALL.replace("tokens", "step")},
            r"small.csv: column 'step' counts steps.*add a column 'tokens'",
        ),
        (
            {"large": LARGE, "small": SMALL.replace("w_y", "w_z")},
            r"large.csv: no share of 'z', which other tables have; .*absent_domains: zero",
        ),
        (
            {
                "large": LARGE,
                "small": SMALL.replace("loss_x", "loss_p").replace("loss_y", "loss_q"),
            },
            r"no loss in common: .*large.csv has y, x; .*small.csv has p, q",
        ),
        (
            {"large": LARGE, "small": SMALL.replace("loss_", "bpb_")},
            r"small.csv: losses are in another unit than those of .*large.csv",
        ),
        (
            {"small": SMALL, "half": "run,x,y\na,0.5,0.5\n"},
            r"half.csv:1: not a run table: .*two files are given next to each other",
        ),
        (
            {"one": "run,x,y\na,0.5,0.5\n", "two": "run,x,y\na,0.5,0.5\n", "small": SMALL},
            r"one.csv and .*two.csv: both of them has rows of shares .*next to each other",
        ),
    ],
)
def test_what_a_table_lacks_is_named(texts: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(FitError, match=message):
        read_runs(files(tmp_path, **texts))


def test_an_absent_domain_is_zero_only_if_asked(tmp_path: Path) -> None:
    paths = files(tmp_path, large=LARGE, small=SMALL.replace("y", "z"))
    with pytest.raises(FitError, match=r"large.csv: no share of 'z'"):
        read_runs(paths)
    table, notices = read_runs(paths, joining=Joining(absent_domains="zero"))
    assert table.domains == ("y", "x", "z") and table.targets == ("x",)
    assert table.weights.tolist()[0] == [0.5, 0.5, 0] and table.weights.tolist()[2] == [0, 0.5, 0.5]
    assert len(notices) == 3
    assert "large.csv: no share of 'z'; taken as 0" in notices[0]
    assert "small.csv: no share of 'y'; taken as 0" in notices[1]
    assert notices[2].startswith("2 losses that not every table has left out: 'y' (not in ")


def test_rows_of_an_earlier_table_count_once(tmp_path: Path) -> None:
    paths = files(tmp_path, small=SMALL, more=SMALL + "d,1e6,1e8,0.4,0.6,4.2,4.4\n")
    table, notices = read_runs(paths)
    assert table.runs == ("a, small.csv", "b, small.csv", "d")
    assert len(notices) == 1 and "more.csv: 2 rows repeat rows of an earlier table" in notices[0]


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        ({"other.csv": {"params": 1e6}}, r"fill: 'other.csv' names no run table; the files are "),
        ({"small.csv": {"params": 1e6}}, r"small.csv: has a column 'params', so fill cannot set"),
        ({"small.csv": {"parms": 1e6}}, r"fill: 'small.csv': .*parms"),
        ({"small.csv": {"params": -1}}, r"fill: 'small.csv': .*params"),
    ],
)
def test_wrong_fills(fill: dict[str, dict[str, float]], message: str, tmp_path: Path) -> None:
    small = files(tmp_path, small=SMALL)
    with pytest.raises((FitError, RecipeError), match=message):
        curate.fit(small, laws=["mean"], folds=2, fill=fill)


def table_text(params: float | None, seed: int, level: float) -> str:
    """Runs of one size, whose losses follow the shares."""
    rng = np.random.default_rng(seed)
    sized = "" if params is None else "params,tokens,"
    lines = [f"run,{sized}w_x,w_y,loss_x,loss_y"]
    for run in range(12):
        share = rng.uniform(0.1, 0.9)
        losses = [level + 0.5 / (0.1 + share), level + 0.4 / (1.1 - share)]
        sizes = "" if params is None else f"{params},1e9,"
        lines.append(f"r{run},{sizes}{share},{1 - share},{losses[0]},{losses[1]}")
    return "\n".join(lines) + "\n"


def test_commands_take_several_tables(tmp_path: Path) -> None:
    small, large = files(tmp_path, small=table_text(None, 0, 3), large=table_text(1e9, 1, 2))
    plain = ["--laws", "ridge", "--json", "--workers", "1", "--out", str(tmp_path)]
    refused = CliRunner().invoke(cli, ["fit", str(small), str(large), *plain])
    assert isinstance(refused.exception, FitError) and "no column 'params'" in str(
        refused.exception
    )
    done = CliRunner().invoke(
        cli,
        ["fit", str(small), str(large), "--fill", "small.csv:params=1e6,tokens=1e9", *plain],
    )
    assert done.exit_code == 0, done.output
    fitted = json.loads(done.output)
    assert fitted["table"]["runs"] == 24 and len(fitted["inputs"]) == 2
    wrong = CliRunner().invoke(cli, ["fit", str(small), "--fill", "small.csv=3", *plain])
    assert "expected FILE:params=NUMBER" in str(wrong.exception)
    fill = "mixture.evidence.fill={small.csv: {params: 1e6, tokens: 1e9}}"
    runs = ["--runs", str(small), "--runs", str(large), "--set", fill]
    mixed = CliRunner().invoke(
        cli, ["mix", *runs, "--method", "ridge", "--json", "--out", str(tmp_path),
              "--set", "mixture.replicates=0"],
    )  # fmt: skip
    assert mixed.exit_code == 0, mixed.output + str(mixed.exception)
    assert set(json.loads(mixed.output)["weights"]) == {"x", "y"}


def test_a_wrong_key_of_a_fill_is_named_with_its_file(tmp_path: Path) -> None:
    runs = files(tmp_path, small=SMALL)
    fill = {"mixture.evidence.fill": {"small.csv": {"parms": 1e6}}}
    with pytest.raises(
        RecipeError, match=r"'mixture.evidence.fill\[small.csv\].parms'; did you mea"
    ):
        curate.mix(runs=runs, overrides=fill)


def test_a_key_for_tables_without_a_table_is_refused(tmp_path: Path) -> None:
    recipe = {
        "name": "n",
        "tokenizer": {"train": {"vocab_size": 512}},
        "domains": [{"name": "code", "paths": "corpus://python_code"}],
        "budget_tokens": 1000,
        "mixture": {
            "method": "ridge",
            "evidence": {"absent_domains": "zero", "proxy": {"preset": "nano"}},
        },
        "cache": str(tmp_path),
    }
    with pytest.raises(RecipeError, match="absent_domains: no run table is named; name it in"):
        curate.plan(recipe)
