"""Hand out tasks and segments to workers, through memory that they share.

A worker stays with a domain while that has tasks, and then begins another rather than help with one
that others are at. So most domains have one worker, whose counts need not be added to another's and
whose encoder meets the same words again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from curate.runtime import workers as local
from curate.sources.records import SEGMENT_BYTES
from curate.tokens.tasks import Task, most_at_once

COMPRESSION = 4
"""Bytes that come of one byte of a compressed file, more or less: 3 to 7 in seven domains of JSON
lines, with zstd at its level 3 or higher."""


class TaskQueue:
    """Shared record of which tasks are taken. It is made before the workers that use it start."""

    def __init__(self, tasks: Sequence[Task], workers: int) -> None:
        """Start with nothing taken.

        Args:
            tasks: As `plan_tasks` gives them: the domains with the most bytes first.
            workers: Processes.
        """
        self._tasks = tasks
        self._workers = workers
        starts: dict[int, int] = {}
        self._stops: dict[int, int] = {}
        """One past the last task, by domain."""
        most = max((task.domain + 1 for task in tasks), default=0)
        bytes_left = [0] * most
        for position, task in enumerate(tasks):
            starts.setdefault(task.domain, position)
            self._stops[task.domain] = position + 1
            bytes_left[task.domain] += task.size_bytes
        process: Any = local.context()
        self._lock = process.Lock()
        self._begun = process.RawValue("q", 0)
        """Domains that some worker has begun, in the order of the tasks."""
        self._next = process.RawArray("q", [starts.get(domain, 0) for domain in range(most)])
        """The first task that nobody has taken, by domain."""
        self._bytes_left = process.RawArray("q", bytes_left)
        """Bytes of tasks that nobody has taken, by domain."""
        self._members = process.RawArray("q", most)
        """Number of workers at a domain's tasks, by domain."""
        self._segments = process.RawArray("q", len(tasks))
        """The next segment of each shared task, by task."""
        self._ended = process.RawArray("b", len(tasks))
        """1 for each shared task whose end some worker has seen."""

    def take(self, domain: int | None) -> int | None:
        """Take a task and return its position; None where all are taken.

        Args:
            domain: The domain of this worker's last task; None before the first.
        """
        with self._lock:
            if domain is None or not self._has_tasks(domain):
                if domain is not None:
                    self._members[domain] -= 1
                domain = self._next_domain()
                if domain is None:
                    return None
                self._members[domain] += 1
            position = int(self._next[domain])
            self._next[domain] += 1
            self._bytes_left[domain] -= self._tasks[position].size_bytes
            return position

    def _next_domain(self) -> int | None:
        """Pick the largest domain that nobody has begun, else the one with most bytes a worker."""
        domains = list(self._stops)
        if self._begun.value < len(domains):
            self._begun.value += 1
            return domains[int(self._begun.value) - 1]
        return max(
            filter(self._has_tasks, domains),
            key=lambda domain: self._bytes_left[domain] / (self._members[domain] + 1),
            default=None,
        )

    def _has_tasks(self, domain: int) -> bool:
        """Whether it has a task that nobody has."""
        return int(self._next[domain]) < self._stops[domain]

    def shared_task(self) -> int | None:
        """The shared task with the most bytes that nobody has taken, perhaps none; None: all ended.

        For workers that `take` gave nothing.
        """
        left = {
            position: self._segment_bytes_left(position)
            for position, task in enumerate(self._tasks)
            if task.shared and not self._ended[position]
        }
        return max(left, key=lambda position: left[position]) if left else None

    def segments(self, position: int) -> Iterator[int]:
        """Segments of a shared task for this worker, until somebody has seen the task's end.

        Neighbours, as many as a task has: each worker must decompress all that lies before.
        """
        while not self._ended[position]:
            with self._lock:
                first = int(self._segments[position])
                left_bytes = COMPRESSION * self._segment_bytes_left(position)
                stop = first + max(1, most_at_once(left_bytes, self._workers) // SEGMENT_BYTES)
                self._segments[position] = stop
            yield from range(first, stop)

    def _segment_bytes_left(self, position: int) -> int:
        """Bytes on disk of a shared task that nobody has, by estimate: perhaps below 0."""
        taken = self._segments[position] * (SEGMENT_BYTES // COMPRESSION)
        return int(self._tasks[position].size_bytes - taken)

    def end(self, position: int) -> None:
        """Record that a shared task has no more segments.

        No lock: the flag only ever turns from 0 to 1, and a worker that misses it claims a segment
        beyond the end, which is empty.
        """
        self._ended[position] = 1
