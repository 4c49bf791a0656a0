"""Units and scales of what a law is asked: bits per byte, tokens and parameters beyond the runs."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from method_contract import asked
from mixing_laws import LogLinear, table_of

from curate.errors import RecipeError
from curate.laws.law import RunTable
from curate.laws.run_tables.read import read_runs
from curate.mixture import Evidence, mix

LAW = LogLinear(
    np.array([1.5, 1.2, 1.8]),
    np.array([[-1.5, -0.2, 0.1], [-0.1, -1.2, 0.0], [-0.4, -0.3, -0.9]]),
)
BYTES_PER_TOKEN = 4.4
NATS_PER_BPB = BYTES_PER_TOKEN * np.log(2)


def nats() -> RunTable:
    weights = np.random.default_rng(0).dirichlet(np.full(3, 1.5), 24)
    return table_of(LAW, weights, noise=0.002)


def shares(table: RunTable, **search: object) -> np.ndarray:
    mixture = mix(asked("olmix", evidence=Evidence(table), replicates=0, **search))
    return np.array(list(mixture.weights.values()))


def apart(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).sum() / 2)


def test_olmix_is_the_same_in_bits_per_byte_and_in_nats() -> None:
    bits = replace(nats(), losses=nats().losses / NATS_PER_BPB, loss_per_bpb=1.0)
    known = replace(nats(), loss_per_bpb=NATS_PER_BPB)
    assert apart(shares(bits), shares(known)) < 0.003
    # The dummy: 0.05 of whatever unit the losses have, as before.
    assert apart(shares(bits), shares(known, kl=0.05)) > 0.05
    assert apart(shares(bits), shares(bits, kl=0.05)) == 0


def test_bytes_per_token_are_assumed_aloud() -> None:
    mixture = mix(asked("olmix", evidence=Evidence(nats()), replicates=0))
    (warning,) = [text for text in mixture.warnings if "bits per byte" in text]
    assert "no bpb_ columns: taking losses for nats per token and a token for 4 bytes" in warning
    assert "it is 0.139; mixture.kl sets another" in warning
    assert apart(shares(nats()), shares(nats(), kl=0.05 * 4 * np.log(2))) == 0
    known = mix(asked("olmix", evidence=Evidence(replace(nats(), loss_per_bpb=3.0)), replicates=0))
    assert not [text for text in known.warnings if "bits per byte" in text]


def write(path: Path, columns: dict[str, np.ndarray]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["run", *columns])
        writer.writerows(
            [f"r{row}", *values] for row, values in enumerate(zip(*columns.values(), strict=True))
        )
    return path


def test_a_table_says_its_unit(tmp_path: Path) -> None:
    table = nats()
    mixture = {f"w_{name}": table.weights[:, at] for at, name in enumerate(table.domains)}
    losses = {f"loss_{name}": table.losses[:, at] for at, name in enumerate(table.targets)}
    bits = {f"bpb_{name}": table.losses[:, at] / 3 for at, name in enumerate(table.targets)}
    path = tmp_path / "runs.csv"
    assert read_runs([write(path, mixture | losses | bits)])[0].loss_per_bpb == pytest.approx(3)
    assert np.isnan(read_runs([write(path, mixture | losses)])[0].loss_per_bpb)
    assert read_runs([write(path, mixture | bits)])[0].loss_per_bpb == 1
    ratios = write(tmp_path / "ratios.csv", mixture)
    for name, expected in (("arc:rc", 1.0), ("metric/x_val_loss", np.nan)):
        metrics = write(tmp_path / "metrics.csv", {name: table.losses[:, 0] * 100})
        found = read_runs([ratios, metrics])[0].loss_per_bpb
        assert found == pytest.approx(expected, nan_ok=True)


def at_scales(tokens: tuple[float, ...]) -> RunTable:
    table = nats()
    counts = np.resize(np.array(tokens), len(table.runs))
    losses = table.losses + 0.3 * (counts[:, None] / 1e9) ** -0.3
    return replace(table, tokens=counts, losses=losses)


def test_one_token_count_cannot_be_compared_at_another() -> None:
    evidence = Evidence(at_scales((1e9,)))
    for law in ("exponential", "additive", "autoscale", "ridge"):
        request = asked("law", evidence=evidence, law=law, at_tokens=1e13, replicates=0)
        with pytest.raises(RecipeError, match="mixture.at_tokens: all runs have 1e.09 tokens, so"):
            mix(request)
        at_runs = asked("law", evidence=evidence, law=law, at_tokens=1e9, replicates=0)
        plain = asked("law", evidence=evidence, law=law, replicates=0)
        assert mix(at_runs).weights == mix(plain).weights


def test_far_beyond_the_runs_is_called_a_guess() -> None:
    evidence = Evidence(at_scales((1e8, 1e9)))
    for at, warned in ((1e9, False), (5e9, False), (1e13, True), (1e4, True)):
        mixture = mix(asked("dml", evidence=evidence, at_tokens=at, replicates=0))
        text = [warning for warning in mixture.warnings if "mixture.at_tokens" in warning]
        assert bool(text) == warned
        if at == 1e13:
            assert "1e+13 is 10,000 times the most of any run (1e+08 to 1e+09)" in text[0]
