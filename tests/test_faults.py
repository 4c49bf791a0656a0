"""The campaign of `tools/faults/` with few trials each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import slow_if

FAULTS = Path(__file__).parents[1] / "tools" / "faults"

TRIALS = {
    "kills": 2,
    "rewrites": 6,
    "cache_flips": 2,
    "hostile_files": 4,
    "locks": 200,
    "together": 1,
    "object_storage": 1,
    "full_disks": 1,
}
"""Trials of each program, ten times as many with --runslow; most of their time is preparation."""

REPEATED = {"cache_flips", "object_storage"}
"""Damaged caches and objects that are replaced have tests without a command line."""


def has_namespaces() -> bool:
    """Whether this user may mount a file system in a namespace."""
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("program", slow_if(REPEATED.__contains__, TRIALS))
def test_faults_are_held(program: str, runslow: bool) -> None:
    if program == "full_disks" and not has_namespaces():
        pytest.skip("no mount namespaces")
    trials = TRIALS[program] * (10 if runslow else 1)
    command = [
        sys.executable,
        str(FAULTS / f"{program}.py"),
        "--trials",
        str(trials),
        "--seed",
        "7",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT HELD" not in done.stdout
