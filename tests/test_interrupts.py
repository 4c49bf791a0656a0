"""INT and TERM end every command, at any moment, with its code and a true sentence."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Listener

import curate
from curate.mixture import compare_methods

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")

LOST = """
import os, signal, sys, time
from curate.cli import interrupt
interrupt.install()
number = int(sys.argv[1])

class Callback:
    def __del__(self):  # what is raised here is lost
        os.kill(os.getpid(), number)
        time.sleep(0.01)

try:
    try:
        Callback()
        time.sleep(30)
        print("lost")
    finally:
        time.sleep(0.5)  # cleaning up is not interrupted by the same signal
        print("cleaned up")
except KeyboardInterrupt:
    interrupt.finish()
    print("obeyed", interrupt.received())
"""

RUNS = "run,w_a,w_b,loss_a,loss_b\n" + "\n".join(
    f"r{n},{n / 20},{1 - n / 20},{3 - (n / 20) ** 0.5},{2 + (n / 20) ** 2}" for n in range(1, 20)
)


def start(arguments: list[str], directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "curate.cli", *arguments], cwd=directory, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_whose_exception_is_lost_is_raised_again(number: int) -> None:
    done = subprocess.run([sys.executable, "-c", LOST, str(int(number))], capture_output=True,
                          text=True, timeout=20)  # fmt: skip
    assert (done.stdout, done.stderr) == (f"cleaned up\nobeyed {int(number)}\n", "")


@pytest.mark.parametrize(
    ("workers", "number"),
    [
        ("1", signal.SIGTERM),
        ("2", signal.SIGINT),
        pytest.param("1", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("2", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_signals_at_any_moment_are_obeyed(recipe: Path, workers: str, number: int) -> None:
    """From the moment that Python runs curate's code; before, Python itself ends."""
    command = ["build", "recipe.yaml", "--workers", workers, "--set", f"cache=cache{workers}"]
    for moment in (0.2, 0.5, 0.9, 1.4):
        process = start(command, recipe.parent)
        time.sleep(moment)
        os.killpg(process.pid, number)
        _, complaint = process.communicate(timeout=20)
        if process.returncode not in (0, -number):
            assert process.returncode == 128 + number, complaint
            assert re.fullmatch(r"\n?curate: interrupted; .*\n", complaint), complaint
    process = start(command, recipe.parent)
    said, complaint = process.communicate(timeout=120)
    assert (process.returncode, complaint) == (0, "") and "ok: true" in said


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    code = LOST.replace("time.sleep(0.5)", "print('cleaning up', flush=True); time.sleep(30)")
    with subprocess.Popen([sys.executable, "-c", code, "15"], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "cleaning up\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 128 + signal.SIGTERM


def test_each_command_says_what_it_keeps(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(RUNS)
    process = start(["mix", "--runs", "runs.csv", "--compare"], tmp_path)
    assert process.stdout is not None
    while "CPU" not in process.stdout.readline():  # one method has ended
        assert process.poll() is None
    process.terminate()
    _, complaint = process.communicate(timeout=20)
    assert process.returncode == 143
    assert complaint.strip() == (
        "curate: interrupted; kept are tokenised files, counts and entropies of finished domains, "
        "trained models and, with --compare, finished methods; run again to continue"
    )
    assert list((tmp_path / "mixtures.partial").glob("*.json"))


def test_an_interrupted_comparison_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("natural", "uniform", "unimax")
    methods = {name: compare_methods.METHODS[name] for name in few}
    monkeypatch.setattr(compare_methods, "METHODS", methods)
    (tmp_path / "runs.csv").write_text(RUNS)
    whole = curate.compare(runs=tmp_path / "runs.csv", directory=tmp_path / "whole", workers=1)

    class Interrupting(Listener):
        def notice(self, message: str) -> None:
            super().notice(message)
            if message.startswith("uniform"):
                raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        curate.compare(
            runs=tmp_path / "runs.csv", directory=out, workers=1, progress=Interrupting()
        )
    kept = sorted((out / "mixtures.partial").iterdir())
    assert len(kept) == 2  # unimax and uniform: the most expensive begin
    kept[0].write_bytes(kept[0].read_bytes()[:-1])
    again = curate.compare(
        runs=tmp_path / "runs.csv", directory=out, workers=1, progress=(heard := Listener())
    )
    assert again.json == whole.json
    assert sum(line.endswith("of an earlier run") for line in heard.notices) == 1
    assert f"{kept[0]} is damaged: the method is computed again" in heard.notices
    written = [(path / "mixtures.json").read_bytes() for path in (out, tmp_path / "whole")]
    assert written[0] == written[1] and not (out / "mixtures.partial").exists()
