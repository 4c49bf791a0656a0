"""The campaign of `tools/faults/` with few trials each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[1] / "tools" / "faults"

TRIALS = {
    "kills": 3,
    "rewrites": 9,
    "cache_flips": 4,
    "hostile_files": 6,
    "locks": 300,
    "together": 2,
    "object_storage": 2,
}
"""Trials of each program; most of their minute together goes into preparing them."""


def has_namespaces() -> bool:
    """Whether this user may mount a file system in a namespace."""
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def held(program: str, trials: int) -> None:
    """Run a program of the campaign; on a failure, the test shows its table."""
    command = [
        sys.executable,
        str(FAULTS / f"{program}.py"),
        "--trials",
        str(trials),
        "--seed",
        "7",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT HELD" not in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("program", TRIALS)
def test_faults_are_held(program: str) -> None:
    held(program, TRIALS[program])


@pytest.mark.skipif(not has_namespaces(), reason="no mount namespaces")
def test_full_disks_are_named() -> None:
    held("full_disks", 3)
