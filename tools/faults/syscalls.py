"""Trace the system calls of runs: what is flushed to the disk, in which order, and no network.

    python tools/faults/syscalls.py --show

A manifest, a certificate and a part of the token store must be written, flushed, renamed, and then
their directory flushed, in this order, or a power failure could leave a name without its content.
No run over local files may open a socket but those between its own processes. `--show` prints the
calls. Needs strace.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trials import Row, main, report, workplace, write_recipe

TRACED = (
    "write,writev,pwrite64,pwritev,fsync,fdatasync,rename,renameat,renameat2,"
    "socket,connect,bind,sendto,sendmsg"
)

DURABLE = re.compile(r"/(manifest\.json|certificate\.json|part-[0-9a-f]+)$")
"""Paths that must outlive a power failure once they have their names."""

COMMANDS = (
    ["build", "recipe.yaml"],
    ["build", "recipe.yaml", "--set", "seed=5", "--out", "other"],
    ["verify", "out"],
    ["stats", "recipe.yaml"],
)

WRITE = re.compile(r"^p?writev?(?:64)?\(\d+<([^>]*)>.*\) = \d+$")
FLUSH = re.compile(r"^f(?:data)?sync\(\d+<([^>]*)>\) += 0$")
RENAME = re.compile(
    r'^rename[a-z0-9]*\((?:AT_FDCWD[^,]*, )?"([^"]*)", (?:AT_FDCWD[^,]*, )?"([^"]*)".*= 0'
)
TIMED = re.compile(r"^(\d+\.\d+) (.*) <(\d+\.\d+)>$")
NETWORK = re.compile(r"^(?:socket\(|(?:connect|bind|sendto|sendmsg)\().*(AF_INET6?|AF_PACKET)")


@dataclass(frozen=True)
class Call:
    """A call that matters here: `write`, `flush`, `rename` or `network`."""

    kind: str
    path: str
    """The file, the old name, or the whole call."""
    new: str = ""
    """The new name."""
    began: float = 0.0
    """When it was called, in seconds."""
    ended: float = 0.0
    """When it returned."""


def trace(command: Sequence[str], directory: Path) -> list[Call]:
    """Run a command under strace.

    Args:
        command: Program and arguments.
        directory: Working directory.

    Returns:
        The calls of all of its processes and threads, in the order in which they were made.
    """
    with tempfile.TemporaryDirectory() as logs:
        strace = ["strace", "-ff", "-y", "-ttt", "-T", "-s", "4096", "-e", f"trace={TRACED}"]
        strace += ["-o", f"{logs}/log"]
        done = subprocess.run(
            [*strace, *command], cwd=directory, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        files = sorted(Path(logs).iterdir())
        texts = [path.read_text("utf-8", "replace") for path in files]
        calls = [call for t in texts for call in parse(t.splitlines(), directory.resolve())]
        return sorted(calls, key=lambda call: call.began)


def parse(lines: Iterable[str], directory: Path = Path("/")) -> list[Call]:
    """Keep the calls that matter from the log of one thread, which works in a directory.

    Without times, a call takes the number of its line.
    """
    calls = []
    for number, timed_line in enumerate(lines):
        began, line, seconds = float(number), timed_line, 0.0
        if match := TIMED.match(timed_line):
            began, line, seconds = float(match[1]), match[2], float(match[3])
        times = (began, began + seconds)
        if match := WRITE.match(line):
            calls.append(Call("write", match[1], "", *times))
        elif match := FLUSH.match(line):
            calls.append(Call("flush", match[1], "", *times))
        elif match := RENAME.match(line):
            old, new = str(directory / match[1]), str(directory / match[2])
            calls.append(Call("rename", old, new, *times))
        elif NETWORK.match(line):
            calls.append(Call("network", line, "", *times))
    return calls


def disorder(calls: Sequence[Call]) -> tuple[list[str], int]:
    """Check the order of calls: a flush must have returned before what follows it is called.

    Returns:
        A line for each durable path that got its name too early, and the number of durable paths.
    """
    problems = []
    durable = 0
    for call in calls:
        if call.kind != "rename" or not DURABLE.search(call.new):
            continue
        durable += 1
        before = [c for c in calls if c.ended <= call.began and c is not call]
        written = {c.path for c in before if c.kind == "write" and is_within(c.path, call.path)}
        if not written:
            problems.append(f"{call.new}: nothing was written to it")
        if written != {call.path}:  # a directory, whose own names must be flushed, too
            written.add(call.path)
        for path in sorted(written):
            last = max((c.ended for c in before if c.kind == "write" and c.path == path), default=0)
            if not any(c.kind == "flush" and c.path == path and c.began >= last for c in before):
                problems.append(f"{path}: renamed to {call.new} before it was flushed")
        parent = call.new.rpartition("/")[0]
        after = [c for c in calls if c.began >= call.ended]
        if not any(c.kind == "flush" and c.path == parent for c in after):
            problems.append(f"{parent}: not flushed after {call.new} got its name")
    return problems, durable


def is_within(path: str, directory: str) -> bool:
    """Whether a path is another, or lies below it."""
    return path == directory or path.startswith(f"{directory}/")


def run(trials: int, seed: int) -> list[Row]:
    """Trace each command once; trials and seed change nothing."""
    del trials, seed
    return trace_all(show=False)


def trace_all(show: bool) -> list[Row]:
    """Trace the commands one after the other, and print their calls if asked."""
    order, network = Row("order of writing, flushing, renaming"), Row("no network")
    with workplace() as root:
        write_recipe(root / "recipe.yaml")
        for command in COMMANDS:
            began = time.monotonic()
            calls = trace([sys.executable, "-m", "curate.cli", *command, "--quiet"], root)
            order.seconds += time.monotonic() - began
            problems, durable = disorder(calls)
            for problem in problems:
                order.failed(problem)
            for _ in range(durable - len(problems)):
                order.held("durable")
            for call in calls:
                if show and (call.kind != "write" or "/.manifest" in call.path):
                    print(call.kind, call.path.replace(str(root), ""), call.new)
            opened = [call.path for call in calls if call.kind == "network"]
            for line in opened:
                network.failed(f"{command[0]}: {line}")
            if not opened:
                network.held(command[0])
    return [order, network]


if __name__ == "__main__":
    if shutil.which("strace") is None:
        raise SystemExit("strace is not installed")
    if "--show" in sys.argv:
        sys.exit(report(trace_all(show=True)))
    main(run, "Trace the system calls of runs.", 1)
