"""Hand out tasks and segments to workers, through memory that they share.

A worker stays with a domain while it has tasks, and then begins a new domain rather than join one
with workers. So most domains have one worker, whose counts need not be added to another's and whose
encoder meets the same words again.

A compressed file is decompressed by the worker that took it, its reader. Workers without a task
help: the reader gathers segments for them, and reads others itself while enough are waiting.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from curate.runtime.shared import shared_lock, shared_numbers
from curate.sources.records import SEGMENT_BYTES
from curate.tokens.tasks import Task

COMPRESSION = 4
"""Rough number of bytes that a byte of a compressed file holds: 3 to 7 in seven domains of JSON
lines, with zstd at level 3 or higher."""

WAITING_SEGMENTS = 2
"""Segments that may wait for each helper, enough for a reader that reads one itself meanwhile."""

POLL_SECONDS = 0.002


class TaskQueue:
    """Shared record of the tasks taken. It must be made before the workers that use it start."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """Start with nothing taken of tasks in the order of `plan_tasks`."""
        self._tasks = tasks
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
        self._left_bytes = shared_numbers([task.size_bytes * COMPRESSION for task in tasks])
        """Bytes of each shared task that are not decompressed yet, by estimate."""
        self._helpers = shared_numbers([0] * len(tasks))
        """Number of helpers, by task."""
        self._gathered = shared_numbers([0] * len(tasks))
        """Segments gathered for helpers, by task."""
        self._received = shared_numbers([0] * len(tasks))
        """How many of these were received."""
        self._ended = shared_numbers([0] * len(tasks))
        """1 for each shared task whose reader has reached its end."""

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

    def help_with(self) -> int | None:
        """Join the shared task with the most bytes left for each; None if little is left of all.

        For workers that got None from `take`: each of these tasks has a reader then.
        """
        with self._lock:
            most = max(
                (number for number, task in enumerate(self._tasks) if task.shared),
                key=lambda number: self._left_bytes[number] / (self._helpers[number] + 1),
                default=None,
            )
            if most is None or self._left_bytes[most] < SEGMENT_BYTES:
                return None
            self._helpers[most] += 1
            return most

    def is_wanted(self, position: int) -> bool:
        """Whether the reader of a shared task should gather its next segment for helpers."""
        waiting = self._gathered[position] - self._received[position]
        return bool(waiting < WAITING_SEGMENTS * self._helpers[position])

    def next_gathered(self, position: int) -> int:
        """Return the number that the next segment gathered of a shared task will have."""
        return int(self._gathered[position])

    def add_gathered(self, position: int) -> None:
        """Let helpers receive one more segment; its file is complete."""
        with self._lock:
            self._gathered[position] += 1

    def receive(self, position: int) -> int | None:
        """Wait for a gathered segment of a shared task, and return its number; None at the end."""
        while True:
            with self._lock:
                ended, received = self._ended[position], int(self._received[position])
                if received < self._gathered[position]:
                    self._received[position] += 1
                    return received
            if ended:
                return None
            time.sleep(POLL_SECONDS)

    def set_left(self, position: int, left_bytes: int) -> None:
        """Record how many bytes of a shared task are not decompressed yet, by estimate."""
        self._left_bytes[position] = left_bytes

    def end(self, position: int) -> None:
        """Record that the reader of a shared task has reached its end."""
        with self._lock:
            self._left_bytes[position] = 0
            self._ended[position] = 1
