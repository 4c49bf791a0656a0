"""Start the command line without starting Python and importing curate anew.

Tests run hundreds of commands whose work takes less than the 0.5 s of CPU of their start, so each
is forked from a process that has imported curate. It is a process of its own, with the streams,
directory, environment and exit code of the command. Tests of starting, of signals and of limits on
a process start `sys.executable -m curate.cli`.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


@functools.cache
def curate_command() -> list[str]:
    """The command `curate`, to which arguments can be added; the first call starts the server."""
    if not hasattr(os, "fork"):
        return [sys.executable, "-m", "curate.cli"]
    path = Path(tempfile.mkdtemp(), "socket")  # removed by the server, also if this is killed
    server = subprocess.Popen(
        [sys.executable, HERE / "warm_server.py", path], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdin and server.stdout
    if server.stdout.readline() != "ready\n":
        raise RuntimeError("the server of commands has not started")
    server.stdout.close()
    # A helper that outlives the tests would hold the input open, and `end` would wait for ever.
    os.register_at_fork(after_in_child=server.stdin.close)

    def end() -> None:
        server.stdin.close()
        server.wait()

    atexit.register(end)
    return [sys.executable, "-IS", str(HERE / "warm_client.py"), str(path)]


def run_curate(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does; return what it printed, and its exit code."""
    return subprocess.run(
        [*curate_command(), *map(str, arguments)], capture_output=True, text=True, check=False,
        cwd=cwd, env={**os.environ, **environment},
    )  # fmt: skip
