"""Who tokenises what: the tasks and segments that workers take from memory they share.

A worker stays with a domain while that has tasks, and then begins another rather than help with one
that others are at. So most domains have one worker, whose counts need not be added to another's and
whose encoder meets the same words again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from curate.engine import local
from curate.sources.records import SEGMENT_BYTES
from curate.tokens.jobs import TASK_SEGMENTS, Task

COMPRESSION = 4
"""Bytes that come of one byte of a compressed file, more or less: 3 to 7 in seven domains of JSON
lines, with zstd at its level 3 or higher."""


class Claims:
    """What is taken of a job's tasks. Made before workers start, which all use it."""

    def __init__(self, tasks: Sequence[Task], workers: int) -> None:
        """Nothing is taken yet.

        Args:
            tasks: As `plan_tasks` gives them: the domains with the most bytes first.
            workers: Processes.
        """
        self._tasks = tasks
        self._workers = workers
        self._starts: dict[int, int] = {}
        self._stops: dict[int, int] = {}
        """By domain: its first task, and one past its last."""
        for position, task in enumerate(tasks):
            self._starts.setdefault(task.domain, position)
            self._stops[task.domain] = position + 1
        self._domains = list(self._starts)
        self._bytes_from = _bytes_from(tasks)
        process: Any = local.context()
        most = max(self._domains, default=-1) + 1
        self._lock = process.Lock()
        self._begun = process.RawValue("q", 0)
        """Domains that some worker has begun, in their order."""
        self._taken = process.RawArray("q", most)
        """By domain: tasks."""
        self._members = process.RawArray("q", most)
        """By domain: workers at its tasks."""
        self._segments = process.RawArray("q", len(tasks))
        """By task: the next segment of a shared one."""
        self._ended = process.RawArray("b", len(tasks))
        """1 for each shared task whose end some worker has seen."""

    def take(self, domain: int | None) -> int | None:
        """The position of a task that nobody has; None where all are taken.

        Args:
            domain: Of the task this worker had before.
        """
        with self._lock:
            if domain is None or not self._bytes_left(domain):
                if domain is not None:
                    self._members[domain] -= 1
                domain = self._next_domain()
                if domain is None:
                    return None
                self._members[domain] += 1
            self._taken[domain] += 1
            return self._starts[domain] + int(self._taken[domain]) - 1

    def _next_domain(self) -> int | None:
        """The largest that nobody has begun, else the one with the most to do for each worker."""
        if self._begun.value < len(self._domains):
            self._begun.value += 1
            return self._domains[int(self._begun.value) - 1]
        left = {domain: self._bytes_left(domain) for domain in self._domains}
        open_domains = [domain for domain in self._domains if left[domain]]
        return max(
            open_domains,
            key=lambda domain: left[domain] / (self._members[domain] + 1),
            default=None,
        )

    def _bytes_left(self, domain: int) -> int:
        """Bytes of a domain's tasks that nobody has, 1 for an empty task; 0: all are taken."""
        position = self._starts[domain] + int(self._taken[domain])
        if position >= self._stops[domain]:
            return 0
        return max(1, self._bytes_from[position])

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

        Neighbours, as many as a task has: each worker must decompress all that lies before. Fewer
        towards the end, so that all workers end at about the same time.
        """
        share_bytes = 2 * self._workers * SEGMENT_BYTES
        while not self._ended[position]:
            with self._lock:
                first = int(self._segments[position])
                left = self._segment_bytes_left(position) * COMPRESSION // share_bytes
                stop = first + max(1, min(TASK_SEGMENTS, left))
                self._segments[position] = stop
            yield from range(first, stop)

    def _segment_bytes_left(self, position: int) -> int:
        """Bytes on disk of a shared task that nobody has, by estimate: perhaps below 0."""
        taken = self._segments[position] * (SEGMENT_BYTES // COMPRESSION)
        return int(self._tasks[position].size_bytes - taken)

    def end(self, position: int) -> None:
        """Tell all that a shared task has no more segments."""
        self._ended[position] = 1


def _bytes_from(tasks: Sequence[Task]) -> list[int]:
    """By task: its bytes and those of the tasks of its domain that follow."""
    sums: list[int] = []
    for number in range(len(tasks) - 1, -1, -1):
        is_last = number + 1 == len(tasks) or tasks[number + 1].domain != tasks[number].domain
        sums.append(tasks[number].size_bytes + (0 if is_last else sums[-1]))
    return sums[::-1]
