"""Run tables are read by name, joined by run, and what is left out is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from curate.errors import FitError
from curate.laws.run_tables.read import read_runs

OURS = """run,seed,params,step,tokens,w_wiki,w_code,loss_code,loss_wiki,bpb_wiki
a,1,1e6,10,1e7,0.25,0.75,2.0,3.0,1.0
a,1,1e6,20,2e7,0.25,0.75,1.9,2.9,0.9
b,2,1e6,10,1e7,1,,2.5,2.5,0.8
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return write(tmp_path / "runs.csv", OURS)


def test_our_table(ours: Path) -> None:
    table, notices = read_runs([ours])
    assert notices == ()
    assert table.domains == ("wiki", "code") and table.targets == ("code", "wiki")
    assert table.runs == ("a", "a", "b")
    assert table.weights.tolist() == [[0.25, 0.75], [0.25, 0.75], [1, 0]]
    assert table.losses.tolist() == [[2.0, 3.0], [1.9, 2.9], [2.5, 2.5]]
    assert table.tokens.tolist() == [1e7, 2e7, 1e7] and table.params.tolist() == [1e6] * 3


def test_targets_are_chosen_by_name(ours: Path) -> None:
    assert read_runs([ours], ["wiki"])[0].losses[:, 0].tolist() == [3.0, 2.9, 2.5]
    with pytest.raises(FitError, match="no loss named 'wik' in .*its losses are: code, wiki"):
        read_runs([ours], ["wik"])


def test_steps_stand_for_tokens_and_bits_for_losses(tmp_path: Path) -> None:
    text = "run,step,w_x,w_y,bpb_x\na,5,0.5,0.5,1.5\n"
    table, notices = read_runs([write(tmp_path / "r.csv", text)])
    assert table.tokens.tolist() == [5] and np.isnan(table.params).all()
    assert len(notices) == 1 and "bpb_… (bits per byte) taken instead" in notices[0]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    text = (
        "run,tokens,w_x,w_y,loss_x\n"
        "a,0,0.5,0.5,9\n"
        "a,1,0.5,0.5,nan\n"
        "b,1,0.5,0.5,\n"
        "b,2,0.5,0.5,2\n"
        "b,2,0.5,0.5,3\n"
        "b,2,0.5,0.5,2\n"
        "b,3,0.5,0.5,1e300\n"
        "c,2,0.6,0.39,3\n"
    )
    table, notices = read_runs([write(tmp_path / "r.csv", text)])
    assert table.runs == ("b", "c") and table.losses[:, 0].tolist() == [2, 3]
    assert table.weights[1].tolist() == pytest.approx([0.6 / 0.99, 0.39 / 0.99], abs=1e-15)
    text = "\n".join(notices)
    assert "1 row (line 2) at 0 tokens" in text
    assert "2 rows (lines 3, 4) without a positive number for every loss" in text
    assert "1 row (line 7) repeating a run at the same tokens; left out" in text
    assert "1 row (line 6) repeating a run at the same tokens with other losses; the first" in text
    assert (
        "1 row (line 8) with a loss a million times its median, a millionth of it, or out of"
        in text
    )
    assert "shares of 1 row did not sum to 1 (off by at most 0.01, at " in text


def test_seeds_of_a_run_are_runs(tmp_path: Path) -> None:
    """A repeat with another seed tells of noise; taken for a repeated row, it would be dropped."""
    text = "run,seed,w_x,w_y,loss_x\na,1,0.5,0.5,2\na,2,0.5,0.5,3\nb,1,0.4,0.6,4\na,2,0.5,0.5,9\n"
    table, notices = read_runs([write(tmp_path / "r.csv", text)])
    assert table.runs == ("a, seed 1", "a, seed 2", "b")
    assert table.losses[:, 0].tolist() == [2, 3, 4]
    assert len(notices) == 1 and "1 row (line 5) repeating a run" in notices[0]


def test_an_empty_share_is_zero_only_where_the_rest_sums_to_one(tmp_path: Path) -> None:
    text = "run,w_x,w_y,loss_x\na,1,,2\nb,0.6,nan,3\nc,0.1,,3\nd,0.5,0.5,4\n"
    table, notices = read_runs([write(tmp_path / "r.csv", text)])
    assert table.runs == ("a", "d") and table.weights.tolist() == [[1, 0], [0.5, 0.5]]
    assert len(notices) == 1 and "2 rows (lines 3, 4) with empty shares" in notices[0]
    with pytest.raises(FitError, match="no row is complete: .*1 row .line 2. with empty shares"):
        read_runs([write(tmp_path / "r.csv", "run,w_x,w_y,loss_x\na,0.3,,2\n")])


def pair(tmp_path: Path, mixtures: str, losses: str) -> list[Path]:
    return [write(tmp_path / "ratios.csv", mixtures), write(tmp_path / "metrics.csv", losses)]


def test_a_pair_is_joined_by_run_in_either_order(tmp_path: Path) -> None:
    paths = pair(
        tmp_path,
        ",run,name,index,x,y\n0,r1,n1,0,0.2,0.8\n1,r2,n2,1,0.7,0.3\n2,r3,n3,2,1,0\n",
        ",run,name,index,task:a,b\n0,r2,n2,1,1.2,0.9\n1,r1,n1,0,1.1,0.8\n2,r4,n4,9,1,1\n"
        "3,r1,n1,0,7,7\n",
    )
    for order in (paths, paths[::-1]):
        table, notices = read_runs(order)
        assert table.domains == ("x", "y") and table.targets == ("task:a", "b")
        assert table.runs == ("r1", "r2")
        assert table.weights.tolist() == [[0.2, 0.8], [0.7, 0.3]]
        assert table.losses.tolist() == [[1.1, 0.8], [1.2, 0.9]]
        text = "\n".join(notices)
        assert "1 run has no losses" in text and "1 run has no mixture" in text
        assert "1 row repeats a run; the first of each is kept" in text


def test_prefixes_of_regmix_are_taken_off(tmp_path: Path) -> None:
    paths = pair(
        tmp_path,
        "index,train_the_pile_arxiv,train_the_pile_pile_cc\n1,0.5,0.5\n2,0.1,0.9\n",
        "index,metric/the_pile_pile_cc_val_loss\n2,5.0\n1,6.0\n",
    )
    table, _ = read_runs(paths)
    assert table.domains == ("arxiv", "pile_cc") and table.targets == ("pile_cc",)
    assert table.losses[:, 0].tolist() == [6.0, 5.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run,w_x,w_y,loss_x\na,0.5,oops,1\n", r"r.csv:2: column 'w_y': expected a number, found"),
        ("run,w_x,w_y,loss_x\na,0.5,0.5,1\nb,-0.5,1.5,1\n", r"r.csv:3: column 'w_x': the share"),
        (
            "run,w_x,w_y,loss_x\na,50,50,1\n",
            r"r.csv:2: .* 100; .*percentages by 100",
        ),
        ("run,w_x,w_y,loss_x\na,0.2,0.1,1\n", r"r.csv:2: .*a domain missing\? There are x, y"),
        ("run;w_x;loss_x\na;1;2\n", r"r.csv:1: .*separated by ';': save it with commas"),
        (
            "run,w_x,loss_x,tokens\na,1,2,0\n",
            r"no row is complete: .*r.csv: 1 row .line 2. at 0 tokens",
        ),
        ("run,w_x,w_y,loss_x\na,0.5,0.5\n", r"r.csv:2: 3 cells, but 4 columns"),
        ("run,w_x,w_x,loss_x\na,0.5,0.5,1\n", r"r.csv:1: column 'w_x' occurs twice"),
        ("run,w_x,loss_x\n", r"r.csv: no rows"),
        ("run,x,y\na,1,1\n", r"r.csv:1: not a run table: expected columns run, w_<domain>"),
        ("run,w_x\na,1\n", r"r.csv:1: not a run table: .*there is no loss_<domain>\. Mixtures"),
        ("w_x,loss_x\n1,1\n", r"r.csv:1: not a run table: .*there is no run\."),
        ("run,w_x,loss_x\na,1,1\n,1,2\n", r"r.csv:3: column 'run' is empty; give every run"),
        ("run\tw_x\tloss_x\na\t1\t2\n", r"r.csv:1: not a run table: .*'\\t': save it with"),
        ("run,w_x,loss_x\na,1," + "9" * 200_000, r"r.csv:2: is not CSV: field larger than"),
        ('run,w_x,loss_x\na,1,"' + "z" * 999, r"r.csv:2: column 'loss_x': .*found 'z{40}…'$"),
        ("run,w_\x1b[2J,loss_x\na,1,1\n", r"r.csv:1: column 2: 'w_.x1b.2J' cannot be a name"),
        ("run,w_x,loss_x\na,1,1e308\nb,1,1e308\n", r"2 rows \(lines 2, 3\) with a loss a million"),
        (
            "run,w_x,loss_x\na,1,nan\n",
            r"r.csv: no row has .* in column 'loss_x'; leave it out",
        ),
        ("run,tokens,w_x,loss_x\na,-1,1,1\n", r"r.csv:2: column 'tokens': expected a number of"),
        (
            "run,params,w_x,loss_x\na,0,1,1\n",
            r"r.csv:2: column 'params': expected a number above 0",
        ),
        (
            "run,tokens,w_x,loss_x\na,1,1,1\nb,,1,1\n",
            r"r.csv:3: 'tokens' is absent here, given in 1 row",
        ),
    ],
)
def test_faults_of_a_table_are_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(FitError, match=message):
        read_runs([write(tmp_path / "r.csv", text)])


@pytest.mark.parametrize(
    ("mixtures", "losses", "message"),
    [
        ("run,x,y\na,0.5,0.5\n", "index,l\na,3\n", "no column in common to join rows on"),
        ("run,x,y\na,0.5,0.5\n", "run,l,m\na,0.5,0.5\n", "both of them has rows of shares"),
        ("run,x,y\na,5,5\n", "run,l\na,3\n", "neither of them has rows of shares"),
        ("run,x,y\na,0.5,0.5\n", "run,l\nb,3\n", "share no value of 'run'"),
    ],
)
def test_faults_of_a_pair_are_named(
    mixtures: str, losses: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(FitError, match=message):
        read_runs(pair(tmp_path, mixtures, losses))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"absent.csv: cannot be read: No such file"):
        read_runs([tmp_path / "absent.csv"])
    (tmp_path / "b.csv").write_bytes(b"run,\xff\n")
    with pytest.raises(FitError, match=r"b.csv: is not UTF-8 text; a run table is a CSV file"):
        read_runs([tmp_path / "b.csv"])


def test_a_recipe_or_a_binary_file_is_no_run_table(tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"my.yaml: is a recipe, not a run table; name the table"):
        read_runs([write(tmp_path / "my.yaml", "name: x\n")])
    (tmp_path / "runs.parquet").write_bytes(b"PAR1\xff\xfe")
    with pytest.raises(FitError, match=r"runs.parquet: is not UTF-8 text; a run table is a CSV"):
        read_runs([tmp_path / "runs.parquet"])


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("run,w_x,w_y,loss_x\na,0.5,0.5,1\n", "utf-8-sig")
    assert read_runs([path])[0].runs == ("a",)
