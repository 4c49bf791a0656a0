"""Run workers and tasks on a Ray cluster, or on a local Ray that is started for them.

Ray sends functions and the names of files to its machines, which must see the same files under the
same paths, since all data goes through files. Ray runs a task again if its process or machine dies;
every task writes files whole and under names that follow from its input, so that does no harm. The
package is imported only when work is about to start.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from curate.errors import CurateError, EngineError, MissingEvidence
from curate.runtime.memory import bounded_here, memory_bound
from curate.runtime.objects import stay_direct
from curate.runtime.workers import Failure, Send, failure_of, revive

POLL_SECONDS = 0.5

QUEUED = 2
"""Tasks that are sent to Ray for each that runs, so that none waits for this process."""


class RayCluster:
    """The Ray cluster that this process is connected to, as a `Cluster`."""

    def __init__(self) -> None:
        """Connect to the cluster that RAY_ADDRESS names, or start a Ray on this machine.

        Raises:
            EngineError: The cluster cannot be reached.
            MissingEvidence: ray is not installed.
        """
        self._ray = connected()
        self.cores = max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def map(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        workers: int,
        on_tick: Callable[[], None],
        on_result: Callable[[Any], None],
    ) -> list[Any]:
        """Apply `function` to every item in a Ray task of its own; return the results in order.

        Args:
            function: Sent once, and opened once by each process that meets it.
            items: Sent a few at a time, so that this process holds few, however many there are.
            workers: Most tasks at once.
            on_tick: Called about twice a second.
            on_result: Called with each result as it arrives.

        Raises:
            CurateError: Raised by a task, and passed on.
            EngineError: A task's process or machine died every time that Ray started it, or no
                machine has the memory that a task may use.
        """
        from ray.exceptions import RayError

        ray = self._ray
        # In a list, as Ray would replace a bare reference by its content with each task.
        held = [ray.put((os.getcwd(), bounded_here(function)))]
        task = ray.remote(_apply).options(num_cpus=1, memory=self._memory())
        waiting = iter(enumerate(items))
        running: dict[Any, int] = {}
        results: list[Any] = [None] * len(items)
        try:
            while True:
                room = QUEUED * workers - len(running)
                for number, item in itertools.islice(waiting, room):
                    running[task.remote(held, item)] = number
                if not running:
                    return results
                ended, _ = ray.wait(list(running), timeout=POLL_SECONDS)
                if ended:
                    ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
                for reference, result in zip(ended, ray.get(ended), strict=True):
                    if isinstance(result, Failure):
                        raise revive(result)
                    results[running.pop(reference)] = result
                    on_result(result)
                on_tick()
        except RayError as error:
            reason = " ".join(str(error).split())
            raise EngineError(
                f"engine ray: a task failed each time it was run ({reason[:300]}); finished work "
                "is kept: run again to continue, and see `curate doctor --engine ray`"
            ) from error
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _memory(self) -> int:
        """Return the bytes to reserve for a task."""
        bound = memory_bound()
        most = max(
            (node["Resources"].get("memory", 0) for node in alive_nodes(self._ray)), default=0
        )
        if most < bound:
            raise EngineError(
                f"limits.memory_mb: a task may use {bound >> 20} MB, and the largest machine of "
                f"the Ray cluster offers {int(most) >> 20} MB; set it lower, or start Ray with "
                "more memory (ray start --memory)"
            )
        return bound


_opened: dict[str, Callable[[Any], Any]] = {}
"""Last function that this process, a worker of Ray, has run. It may hold tables of documents."""


def _apply(held: list[Any], item: Any) -> Any:
    """Apply a function in a worker of Ray, in the directory of the process that sent it."""
    name = held[0].hex()
    try:
        if name not in _opened:
            import ray

            _opened.clear()
            directory, function = ray.get(held[0])
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            os.chdir(directory)
            stay_direct()
            _opened[name] = function
        return _opened[name](item)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic in Rust is no `Exception`
        return failure_of(error)


def alive_nodes(ray: Any) -> list[dict[str, Any]]:
    """Return Ray's records of the machines of the cluster that answer."""
    return [node for node in ray.nodes() if node["Alive"]]


def cluster_gpus() -> int:
    """Count the GPUs of the cluster that this process is connected to, or of this machine.

    Raises:
        MissingEvidence: ray is not installed.
    """
    return int(connected().cluster_resources().get("GPU", 0))


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
    ray = connected()
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
    stay_direct()
    body(number, queue.put)


def connected() -> Any:
    """Return the module `ray`, connected to a cluster."""
    try:
        import ray
    except ImportError:
        raise MissingEvidence(
            "engine ray: ray is not installed; pip install 'curate-mix[ray]', or leave it out and "
            "name several devices (--devices), or run the command on each machine"
        ) from None
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # only read by a Ray started here
        in_main = threading.current_thread() is threading.main_thread()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise EngineError(
                f"engine ray: no connection to the cluster ({reason[:300]}); look at "
                "`ray status`, and set RAY_ADDRESS"
            ) from error
        for number, handler in handlers.items():
            if in_main and handler is not None:
                signal.signal(number, handler)  # Ray ends the process without cleaning up
    return ray
