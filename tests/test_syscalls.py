"""The order in which files reach the disk, and no network, as the system sees it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "tools" / "faults"))

import syscalls  # noqa: E402

NEEDS_STRACE = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

GOOD = """\
write(3</out/.manifest.json.1.tmp>, "{}", 2) = 2
fsync(3</out/.manifest.json.1.tmp>) = 0
rename("/out/.manifest.json.1.tmp", "/out/manifest.json") = 0
fsync(3</out>) = 0
write(3</cache/.part.1.tmp/tokens.bin>, "", 9) = 9
write(3</cache/.part.1.tmp/part.json>, "{}", 2) = 2
fsync(3</cache/.part.1.tmp/part.json>) = 0
fsync(3</cache/.part.1.tmp/tokens.bin>) = 0
fsync(3</cache/.part.1.tmp>) = 0
renameat2(AT_FDCWD</>, "/cache/.part.1.tmp", AT_FDCWD</>, "/cache/part-0a", 0) = 0
fsync(3</cache>) = 0
""".splitlines()


def test_the_right_order_passes_and_every_lacking_flush_is_told() -> None:
    assert syscalls.disorder(syscalls.parse(GOOD)) == ([], 2)
    flushes = [number for number, line in enumerate(GOOD) if line.startswith("fsync")]
    for number in flushes:
        problems, _ = syscalls.disorder(syscalls.parse(GOOD[:number] + GOOD[number + 1 :]))
        assert len(problems) == 1
    # The flush of the tokens returns only after the rename, as one in another thread may.
    timed = [f"{number}.0 {line} <0.5>" for number, line in enumerate(GOOD)]
    assert syscalls.disorder(syscalls.parse(timed)) == ([], 2)
    timed[7] = timed[7].replace("<0.5>", "<2.5>")
    assert len(syscalls.disorder(syscalls.parse(timed))[0]) == 1
    late = [GOOD[1], GOOD[0], *GOOD[2:]]
    assert len(syscalls.disorder(syscalls.parse(late))[0]) == 1


@NEEDS_STRACE
def test_a_connection_is_seen(tmp_path: Path) -> None:
    program = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    calls = syscalls.trace([sys.executable, "-c", program], tmp_path)
    assert {call.kind for call in calls} == {"network"}


@NEEDS_STRACE
def test_runs_flush_in_order_and_open_no_connection() -> None:
    order, network = syscalls.run(1, 1)
    assert not order.failures
    assert not network.failures
    assert order.outcomes["durable"] >= 6
