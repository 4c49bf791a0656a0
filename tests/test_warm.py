"""Commands forked from the server of `warm.py` get all that they are sent, and end as they end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from warm import HERE, run_curate

SERVE = "import sys; from warm_server import serve; serve(sys.argv[1])"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="commands are started anew")


def test_a_command_gets_all_of_a_long_request(tmp_path: Path) -> None:
    many = {f"LONG_{number}": "x" * 100_000 for number in range(5)}
    (tmp_path / "wrong.yaml").write_text("{nmae: x}")
    done = run_curate("plan", "wrong.yaml", cwd=tmp_path, **many)
    assert done.returncode == 2 and "unknown key 'nmae'" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_signal_that_ends_a_command_ends_its_client(tmp_path: Path, number: int) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        command = [sys.executable, "-IS", HERE / "warm_client.py", path]
        client = subprocess.Popen(command)
        connection = listener.accept()[0]
        with connection:
            while connection.recv(1 << 16):
                pass
            connection.send(str(-number).encode())
        assert client.wait() == -number


def test_a_server_leaves_nothing_when_its_input_ends(tmp_path: Path) -> None:
    directory = tmp_path / "own"
    directory.mkdir()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, directory / "socket"], cwd=HERE,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdin and server.stdout
    with server, server.stdin:
        assert server.stdout.readline() == b"ready\n"
        assert (directory / "socket").exists()
        server.send_signal(signal.SIGINT)
    assert server.returncode == 0 and not directory.exists()
