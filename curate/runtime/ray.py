"""Run workers on a Ray cluster, or on a local Ray that is started for them.

Ray sends `body` to its machines, which must see the same files under the same paths, since workers
share their work through files. Ray restarts a task whose process dies. The package is imported only
when work is about to start.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from curate.errors import CurateError, MissingEvidence
from curate.runtime.workers import Send

POLL_SECONDS = 0.5


def cluster_gpus() -> int:
    """Count the GPUs of the cluster that this process is connected to, or of this machine.

    Raises:
        MissingEvidence: ray is not installed.
    """
    return int(_connected().cluster_resources().get("GPU", 0))


def run_on_ray(
    body: Callable[[int, Send], None],
    workers: int,
    on_message: Callable[[Any], None],
    needs: Mapping[str, float],
) -> None:
    """Run `body(worker_number, send)` as Ray tasks.

    Args:
        body: Picklable.
        workers: Number of tasks, at least 1. Tasks wait until the cluster has room for them.
        on_message: Called in this process with each object sent.
        needs: `num_cpus` and `num_gpus` of a task.

    Raises:
        CurateError: Raised by a task, and passed on.
        MissingEvidence: ray is not installed.
    """
    ray = _connected()
    from ray.exceptions import RayTaskError
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})

    def deliver_messages() -> None:
        for message in queue.get_nowait_batch(queue.qsize()):
            on_message(message)

    task = ray.remote(_work).options(**needs)
    running = [task.remote(body, number, queue) for number in range(workers)]
    try:
        while running:
            ended, running = ray.wait(running, timeout=POLL_SECONDS)
            deliver_messages()
            ray.get(ended)
        deliver_messages()
    except RayTaskError as error:
        if isinstance(error.cause, CurateError):
            raise error.cause from None
        raise
    finally:
        for unfinished in running:
            ray.cancel(unfinished, force=True)
        queue.shutdown()


def _work(body: Callable[[int, Send], None], number: int, queue: Any) -> None:
    body(number, queue.put)


def _connected() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingEvidence(
            "engine ray: ray is not installed; pip install 'curate-mix[ray]', or leave it out and "
            "name several devices (--devices), or run the command on each machine"
        ) from None
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # only read by a Ray started here
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    return ray
