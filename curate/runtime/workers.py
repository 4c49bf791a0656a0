"""Worker processes on this machine, and the place where a cluster takes over from them.

Workers are forked where that is safe, so that they share the parent's imports, and spawned
elsewhere. They take work from shared counters and send small messages, while data goes to disk. A
worker that dies ends the run with an error that says how; finished work stays on disk. Workers
never outlive the parent, even if it is killed.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from curate import errors
from curate.errors import CurateError, EngineError
from curate.runtime.limits import Limited, Limits, OverLimit, death_of, ending_of
from curate.runtime.machine import fault_line
from curate.runtime.shared import context, shared_lock, shared_numbers, workers_share_memory

Item = TypeVar("Item")
Result = TypeVar("Result")
Send = Callable[[Any], None]

TICK_SECONDS = 0.1

BYTES_PER_WORKER = 4_000_000
"""Bytes of tokens or files from which two processes share the work, and then for one process more.
Two cost 15 to 45 ms of CPU and 25 ms of waiting, and each loads compiled functions anew. Of the
quick start, these bytes are written in 50 ms, counted in 20, read back in 20 and hashed in 7."""


class Cluster(Protocol):
    """Machines that see the same files under the same paths, and do the work of `map_tasks`."""

    cores: int
    """Cores of all machines."""

    def map(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        workers: int,
        on_tick: Callable[[], None],
        on_result: Callable[[Any], None],
    ) -> list[Any]:
        """Apply `function` to every item, as `map_tasks` does.

        Args:
            function: Picklable by cloudpickle.
            items: Started in this order.
            workers: Most tasks at once.
            on_tick: Called now and then.
            on_result: Called with each result as it arrives.
        """


_cluster: Cluster | None = None


@contextmanager
def on_cluster(cluster: Cluster) -> Iterator[None]:
    """Let a cluster do the work of `map_tasks` inside the block."""
    global _cluster
    before, _cluster = _cluster, cluster
    try:
        yield
    finally:
        _cluster = before


def uses_cluster() -> bool:
    """Whether a cluster does the work of `map_tasks`."""
    return _cluster is not None


def default_workers() -> int:
    """Count the cores that this process may use, or those of the cluster.

    On one machine, `PYTHON_CPU_COUNT` of the environment goes before: Python's own variable for
    containers that see all cores of their machine and may use some.
    """
    if _cluster is not None:
        return _cluster.cores
    given = os.environ.get("PYTHON_CPU_COUNT", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def workers_for(work_bytes: int, workers: int) -> int:
    """Return how many of `workers` pay for themselves; all of a cluster's, where no process forks.

    Args:
        work_bytes: Bytes of tokens or files that are read or written in all.
        workers: Most processes.

    Example:
        >>> workers_for(1_000_000, 8), workers_for(9_000_000, 8), workers_for(10**9, 8)
        (1, 3, 8)
    """
    return workers if uses_cluster() else min(workers, 1 + work_bytes // BYTES_PER_WORKER)


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker's error as text, which any process can send to its parent."""

    kind: str
    message: str


def run_workers(
    body: Callable[[int, Send], None],
    workers: int,
    on_message: Callable[[Any], None],
    on_tick: Callable[[], None],
    work_of: Callable[[int], str] = lambda _: "",
) -> None:
    """Run `body(worker_number, send)` in each worker, and receive the messages they send.

    Args:
        body: Must be picklable where workers are spawned.
        workers: Processes, at least 1.
        on_message: Called in the parent with each object sent, in the order of arrival.
        on_tick: Called in the parent about ten times a second, and between messages.
        work_of: Called with a dead worker's number; names the file it was reading, or nothing.

    Raises:
        CurateError: Raised by a worker, and passed on.
        EngineError: A worker died.
    """

    def fail(number: int, exit_code: int | None) -> None:
        named = work_of(number)
        raise EngineError(f"{named}: {death_of(exit_code)}" if named else death_of(exit_code))

    with _started(context(), body, workers, daemon=True) as processes:
        _collect(processes, on_message, on_tick, fail)


def run_apart(
    body: Callable[[int, Send], None],
    workers: int,
    on_message: Callable[[Any], None],
    on_death: Callable[[int, str], None],
) -> None:
    """Run `body(worker_number, send)` in spawned processes, some of which may die.

    They share nothing with this process, as GPU libraries require, and may start workers of their
    own.

    Args:
        body: Picklable.
        workers: Processes, at least 1.
        on_message: Called in the parent with each object sent, in the order of arrival.
        on_death: Called in the parent with a worker's number and how it ended; the others continue.

    Raises:
        CurateError: Raised by a worker, and passed on once the others are ended.
    """

    def lose(number: int, exit_code: int | None) -> None:
        on_death(number, ending_of(exit_code))

    with _started(multiprocessing.get_context("spawn"), body, workers, daemon=False) as processes:
        _collect(processes, on_message, lambda: None, lose)


@contextmanager
def _started(
    kind: multiprocessing.context.BaseContext,
    body: Callable[[int, Send], None],
    workers: int,
    daemon: bool,
) -> Iterator[dict[Any, Any]]:
    """Start processes, keyed by the parent's end of their pipes; kill them when the block ends."""
    if kind.get_start_method() != "fork":
        from curate.runtime.memory import bounded_here  # loads NumPy

        body = bounded_here(body)
    processes: dict[Any, Any] = {}
    try:
        for number in range(workers):
            receiver, sender = kind.Pipe(duplex=False)
            process = kind.Process(  # type: ignore[attr-defined]
                target=_work, args=(body, number, sender), daemon=daemon
            )
            # An exception that a signal raises while this process is forked would be lost, and one
            # before the worker is noted would leave it running.
            with _without_signals():
                process.start()
                processes[receiver] = process
            sender.close()
        yield processes
    finally:
        _end(processes.values())


ENDING_SIGNALS = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def _without_signals() -> Iterator[None]:
    """Hold back the signals that end this process; workers that start inside inherit this."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def ahead(
    function: Callable[[], Result], limits: Limits | None = None
) -> Iterator[Callable[[], Result]]:
    """Start `function` in another process, and yield a function that waits for its result.

    The process is killed when the block ends. Where workers do not fork, and with a cluster, whose
    threads a fork would lose, the function runs in this process when its result is needed, without
    limits.

    Args:
        function: Its result must be picklable.
        limits: Limits of the process, which `OverLimit` reports when the result is asked for.

    Example:
        >>> with ahead(lambda: 2 + 2) as result:
        ...     result()
        4
    """
    if not workers_share_memory() or uses_cluster():
        yield function
        return
    received: list[Result] = []
    failures: list[Exception] = []
    started = time.monotonic()

    def body(_: int, send: Send) -> None:
        if limits is not None:
            limits.apply()
        send(function())

    def check_time() -> None:
        if limits is not None and time.monotonic() - started > limits.wall_seconds:
            raise OverLimit(f"took more than {limits.wall_seconds:.0f} s")

    def fail(_: int, exit_code: int | None) -> None:
        raise EngineError(death_of(exit_code)) if limits is None else limits.death_of(exit_code)

    with _started(context(), body, 1, daemon=True) as processes:

        def wait() -> Result:
            if failures:  # its pipe is empty now, and cannot tell the reason again
                raise failures[0]
            if not received:
                try:
                    _collect(processes, received.append, check_time, fail)
                except Exception as error:
                    failures.append(error)
                    raise
            return received[0]

        yield wait


def _end(processes: Collection[Any]) -> None:
    """Kill the processes that still run, and wait for all.

    SIGKILL is used because a SIGTERM that arrives while a process is being forked is lost. Such a
    worker may be waiting for this process to read its messages, and joining it would never return.
    """
    for process in processes:
        if process.is_alive():
            process.kill()
    for process in processes:
        process.join()


def _collect(
    processes: dict[Any, Any],
    on_message: Callable[[Any], None],
    on_tick: Callable[[], None],
    on_death: Callable[[int, int | None], None],
) -> None:
    """Receive messages until every worker has ended.

    Args:
        processes: Workers, keyed by the parent's end of their pipes.
        on_message: Called with each message.
        on_tick: Called about ten times a second.
        on_death: Called with a dead worker's number and its exit code.
    """
    open_ends, numbers = dict(processes), {end: place for place, end in enumerate(processes)}
    on_tick()  # which may do what the workers wait for
    while open_ends:
        for ready in multiprocessing.connection.wait(list(open_ends), TICK_SECONDS):
            receiver: Any = ready
            try:
                message = receiver.recv()
            except (EOFError, OSError):
                process = open_ends.pop(receiver)
                process.join()
                if process.exitcode != 0:
                    on_death(numbers[receiver], process.exitcode)
                continue
            if isinstance(message, Failure):
                raise revive(message)
            on_message(message)
        on_tick()


def _work(body: Callable[[int, Send], None], number: int, sender: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it too, and ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)  # held back by `_started`
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        body(number, sender.send)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic in Rust is no `Exception`
        sender.send(failure_of(error))
    finally:
        sender.close()


def failure_of(error: BaseException) -> Failure:
    """Describe a worker's error for its parent."""
    if isinstance(error, CurateError):
        kinds = (
            kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__
        )
        return Failure(next(kinds), str(error))
    line = fault_line(error, "")
    if line is not None:
        traceback.clear_frames(error.__traceback__)  # which may fill the memory
        return Failure("EngineError", line)
    if isinstance(error, OSError):  # such as a file without permission
        where = f"{error.filename}: " if error.filename else ""
        return Failure("EngineError", f"{where}{error.strerror or error}")
    # A bug of ours, shown in the parent.
    return Failure("", "".join(traceback.format_exception(error)))


def _end_with_parent() -> None:
    """End this worker once the parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # `sys.exit` would end only this thread, while the main one may be blocked forever.
    os._exit(1)


def revive(failure: Failure) -> Exception:
    """Return the error that a worker met."""
    kind = getattr(errors, failure.kind, None)
    if kind is None:
        return RuntimeError(f"a worker failed:\n{failure.message}")
    error: Exception = kind(failure.message)
    return error


def map_tasks(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    on_tick: Callable[[], None] = lambda: None,
    on_result: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Apply `function` to every item, in parallel, and return the results in order.

    Args:
        function: Must be picklable where workers are spawned. `Limited`, it runs in a limited
            process, where processes fork and no cluster does the work.
        items: Started in this order.
        workers: Number of processes, or of tasks at once on a cluster; with 1, this process does
            all other work.
        on_tick: Called in the parent about ten times a second, or after each item.
        on_result: Called in the parent with each result as it arrives.

    Raises:
        OverLimit: A limited process broke its limits.

    Example:
        >>> map_tasks(abs, [-3, 1, -2], workers=2)
        [3, 1, 2]
    """
    if _cluster is not None and workers > 1:
        return _cluster.map(function, items, workers, on_tick, on_result)
    results: list[Any] = [None] * len(items)

    def keep(message: tuple[int, Result]) -> None:
        results[message[0]] = message[1]
        on_result(message[1])

    workers = min(workers, len(items))
    if workers and isinstance(function, Limited) and workers_share_memory():
        body = partial(_map_limited, function, items, (shared_numbers([0]), shared_lock()))
        limits = function.limits

        def fail(_: int, exit_code: int | None) -> None:
            raise limits.death_of(exit_code)

        with _started(context(), body, workers, daemon=True) as processes:
            _collect(processes, keep, on_tick, fail)
        return results
    if workers <= 1:
        for number, item in enumerate(items):
            keep((number, function(item)))
            on_tick()
        return results
    claims = shared_numbers([0]), shared_lock()
    run_workers(partial(_map_body, function, items, claims), workers, keep, on_tick)
    return results


def _map_body(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    claims: tuple[Any, Any],
    number: int,
    send: Send,
) -> None:
    next_item, lock = claims
    while True:
        with lock:
            position = next_item[0]
            next_item[0] += 1
        if position >= len(items):
            return
        send((position, function(items[position])))


def _map_limited(
    function: Limited[Any, Any],
    items: Sequence[Any],
    claims: tuple[Any, Any],
    number: int,
    send: Send,
) -> None:
    function.limits.apply(in_all=False)
    _map_body(function, items, claims, number, send)
