"""Race processes and threads for one lock, kill some holders, and look for two holders.

Each race is one acquisition. A holder reads a shared counter, waits a moment, writes the counter
plus one, and logs the number in one appended line; two holders at once would give a number twice or
overwrite a name that is not theirs. Some holders kill themselves (SIGKILL) while they hold the
lock, and are replaced.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from pathlib import Path

from trials import Row, main, timed

from curate.runtime.locks import FileLock, directory_lock

KILL_SHARE = 0.02
"""Share of acquisitions that end with the holder's death."""


PROCESSES = 4
"""Processes that race at a time, of two threads each."""


def run(trials: int, seed: int) -> list[Row]:
    """Race for a lock that many times, and count killed holders and cases of two holders."""
    row = Row("lock: races, some holders killed")
    timed(row, lambda: _count_races(row, _race_all(trials, seed)))
    return [row]


def _count_races(row: Row, counts: dict[str, int]) -> None:
    row.trials = counts["races"]
    row.outcomes = {"holders killed": counts["killed_holders"]}
    row.failures = [f"{counts[name]} {name}" for name in ("two_holders", "stray") if counts[name]]


def _race_all(races: int, seed: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "held").mkdir()
        (directory / "count").write_text("0")
        living: dict[int, multiprocessing.Process] = {}
        started = killed = 0
        while _count(directory) < races:
            for number, process in list(living.items()):
                if not process.is_alive():
                    killed += process.exitcode == -signal.SIGKILL
                    del living[number]
            while len(living) < PROCESSES:
                process = multiprocessing.Process(
                    target=_race, args=(directory, races, seed * 1_000_003 + started)
                )
                process.start()
                living[started] = process
                started += 1
            time.sleep(0.02)
        for process in living.values():
            process.join()
            killed += process.exitcode == -signal.SIGKILL
        return _judge(directory, killed)


def _race(directory: Path, races: int, seed: int) -> None:
    """Take the lock again and again, in two threads, until the races are run."""
    threads = [
        threading.Thread(target=_hold_in_turn, args=(directory, races, seed * 2 + number))
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _hold_in_turn(directory: Path, races: int, seed: int) -> None:
    draw = random.Random(seed)
    while True:
        lock = FileLock(directory / "held" / "lock")
        if not lock.take():
            time.sleep(draw.random() * 0.001)
            continue
        count = _count(directory)
        if count >= races:
            lock.release()
            return
        _log(directory, {"holder": seed, "count": count, "event": "in"})
        if draw.random() < 0.5:
            time.sleep(draw.random() * 0.002)
        else:
            os.sched_yield()
        if _count(directory) != count:
            _log(directory, {"holder": seed, "count": count, "event": "two holders"})
        # A kill before or after the count is written: both leave the lock's file behind.
        kill = draw.random()
        if kill < KILL_SHARE / 2:
            os.kill(os.getpid(), signal.SIGKILL)
        (directory / "new").write_text(str(count + 1))
        (directory / "new").replace(directory / "count")
        if kill < KILL_SHARE:
            os.kill(os.getpid(), signal.SIGKILL)
        lock.release()


def _count(directory: Path) -> int:
    return int((directory / "count").read_text())


def _log(directory: Path, row: dict[str, object]) -> None:
    with (directory / "log").open("a") as file:
        file.write(json.dumps(row) + "\n")


def _judge(directory: Path, killed: int) -> dict[str, int]:
    """Count races, and numbers that two holders had although neither was killed between."""
    rows = [json.loads(line) for line in (directory / "log").read_text().splitlines()]
    entries = [row["count"] for row in rows if row["event"] == "in"]
    # A holder that dies before it writes the count leaves its number to the next one.
    repeats = len(entries) - len(set(entries))
    two = sum(row["event"] == "two holders" for row in rows) + max(0, repeats - killed)
    with directory_lock(directory / "held"):  # the lock still works, and nothing is left over
        left = sum(path.name not in (".curate.lock", "lock") for path in
                   (directory / "held").iterdir())  # fmt: skip
    return {"races": len(entries), "killed_holders": killed, "two_holders": two, "stray": left}


if __name__ == "__main__":
    main(run, "Race processes and threads for one lock.", 10_000)
