"""A swarm that several processes train: claims, devices, processes that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curate.errors import InputError, ShardError
from curate.pipeline.proxies import train_domain_experts, train_proxies
from curate.proxy.claims import RunClaims
from curate.proxy.runs import read_runs
from curate.recipe import load
from curate.runtime.progress import Observer
from curate.runtime.workers import Send, run_apart

NAMES = ("wiki", "code", "talk")
SWARM = (
    "proxy={preset: nano, runs: 4, tokens: 8192, sequence_length: 32, batch: 4, checkpoints: 8,"
    " validation_tokens: 400, learning_rate: 0.0005}",
)


def same_runs(one: Path, other: Path) -> None:
    """The same rows, in whatever order, to numerical noise."""
    found, expected = (
        sorted(read_runs(path / "runs.csv", NAMES), key=lambda row: (row.run, row.step))
        for path in (one, other)
    )
    assert [(row.run, row.step) for row in found] == [(row.run, row.step) for row in expected]
    for row, known in zip(found, expected, strict=True):
        assert row.losses == pytest.approx(known.losses, rel=1e-3)


def test_claimed_runs_are_nobody_elses_until_they_are_let_go(tmp_path: Path) -> None:
    one, other = RunClaims(tmp_path), RunClaims(tmp_path)
    runs = ["a", "b", "c"]
    claim = one.take(lambda held: [run for run in runs if run not in held][:2])
    assert claim is not None and claim.runs == ("a", "b")
    second = other.take(lambda held: [run for run in runs if run not in held])
    assert second is not None and second.runs == ("c",)
    assert one.take(lambda held: [run for run in runs if run not in held]) is None
    claim.lock._file.close()  # as when its process has died
    assert other.held() == {"c"}
    other.release(second)
    assert other.held() == set() and not list((tmp_path / "claims").glob("*.json"))


def test_claims_of_another_machine_are_respected(tmp_path: Path) -> None:
    """Its locks may not reach this machine, so only the file's removal frees its runs."""
    (tmp_path / "claims").mkdir()
    path = tmp_path / "claims" / "x.json"
    path.write_text('{"machine": "node9", "process": 5, "since": 0, "runs": ["a"]}\n')
    claims = RunClaims(tmp_path)
    claim = claims.take(lambda held: [run for run in ("a", "b") if run not in held])
    assert claim is not None and claim.runs == ("b",)
    assert claims.elsewhere() == [
        "process 5 of node9 (since 1970-01-01 00:00 UTC) has locked it; wait for it, or, if it is "
        f"gone, type: rm '{path}'"
    ]
    claims.release(claim)
    path.unlink()
    assert claims.held() == set()


def _say_or_die(number: int, send: Send) -> None:
    if number == 1:
        os._exit(3)
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    send(number)


def test_processes_go_on_where_one_dies() -> None:
    heard: list[int] = []
    deaths: list[tuple[int, str]] = []
    run_apart(_say_or_die, 3, heard.append, lambda number, how: deaths.append((number, how)))
    assert heard == [0]
    assert sorted(deaths) == [(1, "ended with exit code 3"), (2, "was ended by SIGKILL")]


def test_two_devices_give_the_runs_of_one(recipe: Path, tmp_path: Path) -> None:
    one = load(recipe, (*SWARM, f"output.dir={tmp_path / 'one'}"))
    two = load(recipe, (*SWARM, "proxy.device=cpu,cpu", f"output.dir={tmp_path / 'two'}"))
    train_proxies(one, 1, Observer())
    result = train_proxies(two, 2, Observer())
    assert len(result.rows) == 4 * 8
    same_runs(two.output_dir, one.output_dir)
    assert len(list((two.output_dir / "curves").glob("*.parquet"))) == 2  # half of the runs each
    left = {path.name for path in two.output_dir.iterdir()}
    assert left == {"runs.csv", "proxy.json", "curves", "claims"}
    again = train_proxies(two, 2, Observer())
    assert again.rows == result.rows


def test_experts_on_two_devices(recipe: Path, tmp_path: Path) -> None:
    more = (*SWARM, "max_epochs=10", "proxy.tokens=4096")
    one = load(recipe, (*more, f"output.dir={tmp_path / 'one'}"))
    two = load(recipe, (*more, "proxy.device=cpu,cpu", f"output.dir={tmp_path / 'two'}"))
    expected, found = (
        train_domain_experts(one, 1, Observer()),
        train_domain_experts(two, 2, Observer()),
    )  # noqa: E501
    assert set(found) == set(expected)
    for name in NAMES:
        assert found[name] == pytest.approx(expected[name], rel=1e-3)
    assert (tmp_path / "two" / "experts.parquet").exists()


def claimants(directory: Path) -> list[int]:
    """Processes that hold claims."""
    return [json.loads(path.read_text("utf-8"))["process"]
            for path in (directory / "claims").glob("*.json") if path.stat().st_size]  # fmt: skip


def test_killed_processes_and_who_goes_on(recipe: Path, tmp_path: Path) -> None:
    more = (*SWARM, "proxy.tokens=16384", "max_epochs=8")
    whole = load(recipe, (*more, f"output.dir={tmp_path / 'whole'}"))
    train_proxies(whole, 1, Observer())

    one = tmp_path / "one"
    code, said, _ = kill_some(recipe, one, 1, more)
    assert code == 0
    assert "was ended by SIGKILL; the others train its runs" in " ".join(said.split())
    same_runs(one, whole.output_dir)

    both = tmp_path / "both"
    code, _, complaint = kill_some(recipe, both, 2, more)
    assert code == 2
    assert "proxy: 4 runs not trained, because every process that trained them" in complaint
    train_proxies(load(recipe, (*more, f"output.dir={both}")), 1, Observer())
    same_runs(both, whole.output_dir)


def kill_some(
    recipe: Path, directory: Path, victims: int, more: tuple[str, ...]
) -> tuple[int, str, str]:
    """Kill processes of a command as soon as both have kept something; return how it ends."""
    command = [sys.executable, "-m", "curate.cli", "proxy", str(recipe), "--devices", "cpu,cpu"]
    for override in (*more, f"output.dir={directory}"):
        command += ["--set", override]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while len(list(directory.glob("group-*.safetensors"))) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        for victim in claimants(directory)[:victims]:
            os.kill(victim, signal.SIGKILL)
        said, complaint = process.communicate(timeout=120)
    return process.returncode, said, complaint


def test_a_second_command_shares_the_work(recipe: Path, tmp_path: Path) -> None:
    more = (*SWARM, "proxy.models=1", f"output.dir={tmp_path / 'shared'}")
    command = [sys.executable, "-m", "curate.cli", "proxy", str(recipe), "--workers", "1"]
    for override in more:
        command += ["--set", override]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in "ab"]
    assert [process.wait(120) for process in both] == [0, 0]
    rows = read_runs(tmp_path / "shared" / "runs.csv", NAMES)
    assert len({(row.run, row.step) for row in rows}) == len(rows) == 4 * 8
    assert len(list((tmp_path / "shared" / "curves").glob("*.parquet"))) == 4


def test_ray_gives_the_runs_of_one_device(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    one = load(recipe, (*SWARM, f"output.dir={tmp_path / 'one'}"))
    train_proxies(one, 1, Observer())
    command = [sys.executable, "-m", "curate.cli", "proxy", str(recipe), "--engine", "ray"]
    command += ["--devices", "cpu,cpu", "--workers", "2"]
    for override in (*SWARM, f"output.dir={tmp_path / 'ray'}"):
        command += ["--set", override]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    same_runs(tmp_path / "ray", one.output_dir)
    broken = [*command, "--set", "proxy.learning_rate=1e6"]
    found = subprocess.run(broken, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and "no run ended with finite losses" in found.stderr


def test_without_ray_the_command_says_what_to_install(recipe: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from curate.cli import main; main()"
    arguments = ["proxy", str(recipe), "--engine", "ray", "--set", SWARM[0]]
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert found.returncode == 2
    assert "engine ray: ray is not installed; pip install 'curate-mix[ray]'" in found.stderr


def test_settings_do_not_change_under_somebodys_hands(recipe: Path) -> None:
    loaded = load(recipe, (*SWARM, "proxy.runs=1", "proxy.tokens=256", "proxy.checkpoints=1"))
    train_proxies(loaded, 1, Observer())
    other = RunClaims(loaded.output_dir)
    claim = other.take(lambda held: ["m000"])
    changed = load(recipe, (*SWARM, "proxy.runs=1", "proxy.tokens=128"))
    with pytest.raises(ShardError, match="other settings there; wait for it, or give another --ou"):
        train_proxies(changed, 1, Observer())
    assert claim is not None
    other.release(claim)


def test_a_name_keeps_its_mixture_while_somebody_trains_it(recipe: Path) -> None:
    table = recipe.with_name("mixtures.csv")
    table.write_text("run,wiki,code,talk\na,0.5,0.3,0.2\n", "utf-8")
    settings = SWARM[0].replace("runs: 4, ", "")
    loaded = load(recipe, (settings, f"proxy.mixtures={table}", "proxy.tokens=256"))
    train_proxies(loaded, 1, Observer())
    other = RunClaims(loaded.output_dir)
    claim = other.take(lambda held: ["a"])
    table.write_text("run,wiki,code,talk\na,0.6,0.3,0.1\n", "utf-8")
    with pytest.raises(ShardError, match="other mixtures of the same names there; wait for it"):
        train_proxies(loaded, 1, Observer())
    assert claim is not None
    other.release(claim)


def test_devices_of_two_kinds_are_refused(recipe: Path) -> None:
    with pytest.raises(InputError, match=r"cpu,meta names 2 kinds of device \(cpu, meta\), which"):
        train_proxies(load(recipe, (*SWARM, "proxy.device=cpu,meta")), 1, Observer())
