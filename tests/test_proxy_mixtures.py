"""Mixtures of a swarm: read, and drawn within caps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from curate.errors import InfeasiblePlan, InputError
from curate.proxy.swarm import checkpoint_steps
from curate.proxy.swarm_mixtures import draw_mixtures, read_mixtures


def test_a_table_with_and_without_names(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("run,w_b,a,note\nfirst,0.25,0.75,x\nsecond,1,0,y\n", "utf-8")
    assert read_mixtures(path, ["a", "b"]) == {"first": (0.75, 0.25), "second": (0.0, 1.0)}
    path.write_text("b,a\n0.25,0.75\n0.502,0.5\n", "utf-8")
    found = read_mixtures(path, ["a", "b"])
    assert list(found) == ["m000", "m001"] and sum(found["m001"]) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,c\n1,0\n", r"m.csv:1: no column for the domain 'b'"),
        ("a,bb\n1,0\n", r"no column for the domain 'b'; did you mean 'bb'\?"),
        ("a,b\n0.5,0.6\n", r"m.csv:2: shares must be 0 or more and sum to 1; they sum to 1.1"),
        ("a,b\n1.5,-0.5\n", r"m.csv:2: shares must be 0 or more"),
        ("a,b\nnan,1\n", r"m.csv:2: shares must be 0 or more"),
        ("a,b\n0.5,x\n", r"m.csv:2: every domain needs a number"),
        ("a,b\n0.5\n", r"m.csv:2: every domain needs a number"),
        ("run,a,b\nx,1,0\nx,0,1\n", r"m.csv:3: two mixtures are called 'x'; rename one"),
        ("a,b\n", r"m.csv: the table has no mixture; add a line of shares"),
        ("run,a,b\n../x,1,0\n", r"m.csv:2: a run cannot be called '../x', as it names a Tensor"),
        ("run,a,b\nx.s1,1,0\n", r"m.csv:2: a run cannot be called 'x.s1', .* no '.s1' at the end"),
    ],
)
def test_tables_that_cannot_be(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(text, "utf-8")
    with pytest.raises(InputError, match=message):
        read_mixtures(tmp_path / "m.csv", ["a", "b"])


def test_tables_as_spreadsheets_write_them(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("a,b\n1,0\n", "utf-8-sig")
    assert read_mixtures(path, ["a", "b"]) == {"m000": (1.0, 0.0)}
    path.write_text("a,b\n1,0\n", "utf-16")
    with pytest.raises(InputError, match=r"m.csv: not UTF-8 \(invalid start byte\)"):
        read_mixtures(path, ["a", "b"])


@pytest.mark.parametrize("seed", range(5))
def test_draws_are_mixtures_within_caps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    supply = rng.integers(1000, 10**6, rng.integers(2, 18))
    caps = np.maximum(15 * supply / supply.sum(), 0.2)
    found = draw_mixtures(supply.tolist(), caps.tolist(), 32, seed)
    assert found.shape == (32, len(supply)) and len(np.unique(found, axis=0)) == 32
    assert np.allclose(found.sum(1), 1) and (found >= 0).all()
    assert (found <= caps * (1 + 1e-6)).all()
    assert np.array_equal(found, draw_mixtures(supply.tolist(), caps.tolist(), 32, seed))
    assert np.allclose(found[0], supply / supply.sum())  # natural first
    assert (found[2:].std(0) > 0).all()  # every domain varies


def test_caps_too_tight_for_the_design() -> None:
    with pytest.raises(InfeasiblePlan, match="only 0 of 4 mixtures .* set a smaller proxy.tokens"):
        draw_mixtures([900, 100], [0.5, 0.4], 4, 0)


def test_checkpoints_are_evenly_spaced_in_the_logarithm() -> None:
    steps = checkpoint_steps(6400, 6)
    assert steps == (200, 400, 800, 1600, 3200, 6400)
