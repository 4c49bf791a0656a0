"""Fork processes that run the command line from one that has imported it; see `warm.py`."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import pkgutil
import runpy
import selectors
import shutil
import signal
import socket
import sys
import warnings
from typing import NoReturn

THREADED = ("matplotlib", "polars", "pyarrow", "torch")
"""Packages that start threads, which a forked process would lack."""
NOT_IMPORTED = (
    "curate.cli.__main__", "curate.curation.", "curate.laws.likelihoods", "curate.loader.torch",
    "curate.mixture.methods.expert", "curate.mixture.methods.law_", "curate.mixture.predicted",
    "curate.mixture.search.expert", "curate.pipeline.fit_laws", "curate.proxy.",
    "curate.report.canvas", "curate.runtime.arrow", "curate.runtime.ray", "curate.sources.columns",
    "curate.sources.table",
)  # fmt: skip
"""Modules that import those, or run the command line."""


def import_curate() -> None:
    """Import what most commands import."""
    import curate

    importlib.import_module("scipy.optimize")
    for module in pkgutil.walk_packages(curate.__path__, "curate."):
        if not module.name.startswith(NOT_IMPORTED):
            importlib.import_module(module.name)
    assert not sys.modules.keys() & set(THREADED)


def serve(path: str) -> list[str]:
    """Fork a process for each request, which returns it; remove the socket when input ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    ended, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest and the commands
    waiting: dict[int, socket.socket] = {}
    select = selectors.DefaultSelector()
    for source in (0, listener, ended):
        select.register(source, selectors.EVENT_READ)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        sources = [key.fileobj for key, _ in select.select()]
        if 0 in sources:
            shutil.rmtree(os.path.dirname(path))
            sys.exit()
        if ended in sources:
            ended.recv(4096)
            while waiting:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                connection = waiting.pop(pid)
                with connection, contextlib.suppress(OSError):  # nobody may wait any longer
                    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
        if listener in sources:
            connection = listener.accept()[0]
            text, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
            while more := connection.recv(1 << 16):  # long requests come in pieces
                text += more
            pid = os.fork()
            if not pid:
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                    os.close(stream)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                select.close()
                for own in (listener, ended, wakes, connection, *waiting.values()):
                    own.close()
                return os.fsdecode(text).split("\0")
            for stream in streams:
                os.close(stream)
            waiting[pid] = connection


def become(directory: str, count: str, *request: str) -> None:
    """Take over the directory, the environment, the arguments and the streams of a request."""
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variable.split("=", 1) for variable in request[: int(count)])
    sys.argv = list(request[int(count) :])
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [directory, *(path for path in own if path and path not in sys.path)]
    if os.environ.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding="utf-8", closefd=False)  # noqa: SIM115


def end(code: object) -> NoReturn:
    """End with the code of a SystemExit, without the .1 s that freeing all modules takes."""
    atexit._run_exitfuncs()
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else bool(code))


if __name__ == "__main__":
    import_curate()
    gc.freeze()
    become(*serve(sys.argv[1]))
    try:
        runpy.run_module("curate.cli", run_name="__main__", alter_sys=True)
    except SystemExit as exit:
        end(exit.code)
