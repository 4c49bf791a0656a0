"""Build on a Ray cluster while machines of it die, and compare the dataset with a local build.

A cluster of four raylets runs on this machine: one for the head, which does no work, and three
with a core each. In every stage in turn, the first trial lets them live, and in the others one is
killed as soon as the stage has begun, with its workers. The build must end well, with the bytes of
a local build. Needs ray.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trials import (
    Row,
    curate,
    difference,
    finish,
    main,
    start,
    timed,
    tree,
    workplace,
    write_recipe,
)

STAGES = ("find files", "tokenise", "count", "entropies", "write", "verify")
"""Stages of a build, by their names in the log."""

RECIPE: dict[str, Any] = {
    "tokenizer": {"train": {"vocab_size": 4096, "sample_bytes": 4_000_000}},
    "domains": [
        {"name": name, "paths": f"corpus://{name}"}
        for name in ("python_code", "docstrings", "c_headers", "manuals")
    ],
    "mixture": {"method": "entropy"},
    "budget_tokens": 8_000_000,
    "sequence_length": 512,
    "limits": {"memory_mb": 256},
    "output": {"dir": "out", "format": "npy", "shard_tokens": 200_000},
}

WORKERS = 3

NODE_BYTES, STORE_BYTES = 2 << 30, 100 << 20
"""Memory that each raylet offers to tasks, and that of its store of objects."""

STAGE_SECONDS = 300.0
"""Longest wait for a stage to begin."""


@dataclass(frozen=True)
class Place:
    """The directories of all trials, the cluster, and the files of the local build."""

    work: Path
    kept: Path
    """Corpus and tokenizer, which need not be made again."""
    cluster: Any
    expected: dict[str, str]


def run(trials: int, seed: int) -> list[Row]:
    """Run trials in every stage; the seed has no effect, as where a machine dies is up to Ray."""
    rows = []
    with workplace() as root, cluster() as machines:
        work, kept = root / "work", root / "kept"
        work.mkdir()
        write_recipe(work / "recipe.yaml", **RECIPE)
        complaint = curate(["build", "recipe.yaml"], work).complaint([0])
        if complaint:
            raise SystemExit(f"the local build fails: {complaint}")
        shutil.copytree(work / "cache", kept, ignore=shutil.ignore_patterns("tokens", "counts"))
        place = Place(work, kept, machines, tree(work / "out"))
        for stage in (None, *STAGES):
            row = Row(f"Ray: a machine dies in {stage}" if stage else "Ray: none dies")
            for _ in range(trials if stage else 1):
                timed(row, partial(_trial, row, stage, place))
            rows.append(row)
    return rows


def _trial(row: Row, stage: str | None, place: Place) -> None:
    work = place.work
    for name in ("cache", "out"):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / "log").unlink(missing_ok=True)
    shutil.copytree(place.kept, work / "cache")
    arguments = ["build", "recipe.yaml", "--engine", "ray", "--log-file", "log"]
    process = start(arguments, work, RAY_ADDRESS=place.cluster.address)
    outcome = "undisturbed"
    if stage is not None:
        if not _begins(work / "log", stage, process):
            row.failed(f"{stage} did not begin: {finish(process).errors[-300:]}")
            return
        place.cluster.remove_node(place.cluster.list_all_nodes()[-1], allow_graceful=False)
        is_over = f"end {stage}:" in (work / "log").read_text()
        outcome = "killed after it" if is_over else "killed in it"
        place.cluster.add_node(num_cpus=1, memory=NODE_BYTES, object_store_memory=STORE_BYTES)
    done = finish(process, 600)
    complaint = done.complaint([0]) or difference(place.expected, tree(work / "out"))
    if complaint:
        row.failed(f"{outcome}: {complaint}")
    else:
        row.held(outcome)


def _begins(log: Path, stage: str, process: Any) -> bool:
    deadline = time.monotonic() + STAGE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and f"begin {stage}" in log.read_text():
            return True
        time.sleep(0.02)
    return False


@contextmanager
def cluster() -> Iterator[Any]:
    """Start a cluster of several raylets on this machine."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(WORKERS):
            made.add_node(num_cpus=1, memory=NODE_BYTES, object_store_memory=STORE_BYTES)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


if __name__ == "__main__":
    main(run, "Kill machines of a Ray cluster under builds.", 1)
