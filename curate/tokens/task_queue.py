"""Hand out tasks and segments to workers, through memory that they share.

A worker stays with a domain while it has tasks, and then begins a new domain rather than join one
with workers. So most domains have one worker, whose counts need not be added to another's and whose
encoder meets the same words again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from curate.runtime.shared import shared_lock, shared_numbers
from curate.sources.records import SEGMENT_BYTES
from curate.tokens.tasks import Task, most_at_once

COMPRESSION = 4
"""Rough number of bytes that a byte of a compressed file holds: 3 to 7 in seven domains of JSON
lines, with zstd at level 3 or higher."""


class TaskQueue:
    """Shared record of the tasks taken. It must be made before the workers that use it start."""

    def __init__(self, tasks: Sequence[Task], workers: int) -> None:
        """Start with nothing taken.

        Args:
            tasks: In the order of `plan_tasks`: domains with the most bytes first.
            workers: Number of processes.
        """
        self._tasks = tasks
        self._workers = workers
        starts: dict[int, int] = {}
        self._stops: dict[int, int] = {}
        """One past the last task, by domain."""
        domains = max((task.domain + 1 for task in tasks), default=0)
        bytes_left = [0] * domains
        for position, task in enumerate(tasks):
            starts.setdefault(task.domain, position)
            self._stops[task.domain] = position + 1
            bytes_left[task.domain] += task.size_bytes
        self._lock = shared_lock()
        self._begun = shared_numbers([0])
        """Number of domains begun, in the order of the tasks."""
        self._next = shared_numbers([starts.get(domain, 0) for domain in range(domains)])
        """The first task not taken, by domain."""
        self._bytes_left = shared_numbers(bytes_left)
        """Bytes of the tasks not taken, by domain."""
        self._members = shared_numbers([0] * domains)
        """Number of workers, by domain."""
        self._segments = shared_numbers([0] * len(tasks))
        """The next segment of each shared task, by task."""
        self._ended = shared_numbers([0] * len(tasks))
        """1 for each shared task whose end a worker has reached."""

    def take(self, domain: int | None) -> int | None:
        """Take a task and return its position, or None if all are taken.

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
        """Pick the largest domain not begun, else the one with the most bytes per worker."""
        domains = list(self._stops)
        if self._begun[0] < len(domains):
            self._begun[0] += 1
            return domains[int(self._begun[0]) - 1]
        return max(
            filter(self._has_tasks, domains),
            key=lambda domain: self._bytes_left[domain] / (self._members[domain] + 1),
            default=None,
        )

    def _has_tasks(self, domain: int) -> bool:
        """Whether a domain has tasks that are not taken."""
        return int(self._next[domain]) < self._stops[domain]

    def shared_task(self) -> int | None:
        """Return the shared task with the most bytes left, or None if all have ended.

        For workers that got None from `take`. The bytes left may be none or fewer, by estimate.
        """
        left = {
            position: self._segment_bytes_left(position)
            for position, task in enumerate(self._tasks)
            if task.shared and not self._ended[position]
        }
        return max(left, key=lambda position: left[position]) if left else None

    def segments(self, position: int) -> Iterator[int]:
        """Claim segments of a shared task for this worker, until a worker reaches the task's end.

        Segments are claimed in runs as long as ordinary tasks, since the worker must decompress
        everything before them.
        """
        while not self._ended[position]:
            with self._lock:
                first = int(self._segments[position])
                left_bytes = COMPRESSION * self._segment_bytes_left(position)
                stop = first + max(1, most_at_once(left_bytes, self._workers) // SEGMENT_BYTES)
                self._segments[position] = stop
            yield from range(first, stop)

    def _segment_bytes_left(self, position: int) -> int:
        """Estimate the bytes on disk of a shared task that are not claimed; may be below 0."""
        taken = self._segments[position] * (SEGMENT_BYTES // COMPRESSION)
        return int(self._tasks[position].size_bytes - taken)

    def end(self, position: int) -> None:
        """Record that a shared task has no more segments.

        This needs no lock: the flag only turns from 0 to 1, and a worker that misses it claims
        segments beyond the end, which are empty.
        """
        self._ended[position] = 1
