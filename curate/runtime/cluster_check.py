"""Check the machines of a Ray cluster before a long run.

They must see the same files under the same paths, have the same versions, and clocks that agree.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import EngineError
from curate.runtime.ray import alive_nodes, connected

CLOCK_SECONDS = 2.0
"""Most seconds by which a clock may differ: file times then still tell what is older."""

ANSWER_SECONDS = 60.0
"""Longest wait for a machine, which may have to import curate from a slow disk."""

SAME_VERSIONS = ("curate-mix", "numpy", "numba", "pyarrow", "tokenizers", "fastokens", "zstandard")
"""Distributions that decide the bytes of results."""


@dataclass(frozen=True)
class Machine:
    """One machine of the cluster, as it answered."""

    name: str
    cores: int
    memory_bytes: int
    """Memory that Ray may give to tasks."""
    free_bytes: tuple[int, ...]
    """Free space in each directory; -1 where it is missing."""
    clock_seconds: float
    """Least difference of its clock that the answer allows; positive if it is ahead."""
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Answer:
    free_bytes: tuple[int, ...]
    contents: tuple[str | None, ...]
    """Content of the file in each directory; None where it cannot be read."""
    versions: dict[str, str]
    clock: float


def check_cluster(directories: Sequence[Path]) -> list[Machine]:
    """Ask every machine what it sees.

    Args:
        directories: Existing directories that all must share, such as the cache and the output.

    Raises:
        EngineError: The cluster cannot be reached, or a directory cannot be written.
        MissingEvidence: ray is not installed.
    """
    ray = connected()
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    machines = []
    with _marked(directories) as marks:
        for node in alive_nodes(ray):
            affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ask = ray.remote(_answer).options(num_cpus=0, scheduling_strategy=affinity)
            try:
                ray.get(ask.remote([]), timeout=ANSWER_SECONDS)  # starts a process, and imports
                sent = time.time()
                answer = ray.get(ask.remote(marks), timeout=ANSWER_SECONDS)
            except (GetTimeoutError, RayError) as error:
                reason = " ".join(str(error).split())[:200]
                machines.append(_machine(node, None, (f"does not answer: {reason}",)))
                continue
            late = _beyond(answer.clock, sent, time.time())
            machines.append(_machine(node, answer, tuple(_problems(marks, answer, late)), late))
    return machines


def versions() -> dict[str, str]:
    """Return the versions of Python and of what decides the bytes of results."""
    installed = {"Python": platform.python_version()}
    for name in SAME_VERSIONS:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


@contextmanager
def _marked(directories: Sequence[Path]) -> Iterator[list[tuple[str, str]]]:
    """Put a file into each directory; yield the paths with the content."""
    marks = [
        (str(directory.resolve() / f".curate-{uuid.uuid4().hex}"), uuid.uuid4().hex)
        for directory in directories
    ]
    try:
        for path, content in marks:
            try:
                Path(path).write_text(content, encoding="utf-8")
            except OSError as error:
                raise EngineError(
                    f"{os.path.dirname(path)}: {error.strerror}; name a directory that can be "
                    "written (--path)"
                ) from None
        yield marks
    finally:
        for path, _ in marks:
            Path(path).unlink(missing_ok=True)


def _answer(marks: list[tuple[str, str]]) -> _Answer:
    """Run on each machine."""
    seen = [_look(path) for path, _ in marks]
    return _Answer(
        tuple(free for free, _ in seen),
        tuple(content for _, content in seen),
        versions(),
        time.time(),
    )


def _look(path: str) -> tuple[int, str | None]:
    """Return the free space beside a file, and its content."""
    try:
        free = shutil.disk_usage(os.path.dirname(path)).free
    except OSError:
        return -1, None
    try:
        return free, Path(path).read_text(encoding="utf-8")
    except OSError:
        return free, None


def _beyond(clock: float, sent: float, received: float) -> float:
    """Return how far a clock lies outside the time in which it was read."""
    return min(0.0, clock - sent) or max(0.0, clock - received)


def _problems(marks: list[tuple[str, str]], answer: _Answer, late: float) -> Iterator[str]:
    for (path, content), seen in zip(marks, answer.contents, strict=True):
        if seen != content:
            directory = os.path.dirname(path)
            yield f"{directory} is another directory there, or none; mount the same one everywhere"
    for name, version in versions().items():
        if answer.versions[name] != version:
            yield f"{name} {answer.versions[name]} there, {version} here; install the same version"
    if abs(late) > CLOCK_SECONDS:
        yield f"its clock is {late:+.1f} s off; let the machines keep time (NTP)"


def _machine(
    node: dict[str, Any], answer: _Answer | None, problems: tuple[str, ...], late: float = 0.0
) -> Machine:
    resources = node["Resources"]
    return Machine(
        name=str(node["NodeManagerAddress"]),
        cores=int(resources.get("CPU", 0)),
        memory_bytes=int(resources.get("memory", 0)),
        free_bytes=answer.free_bytes if answer else (),
        clock_seconds=late,
        problems=problems,
    )
