"""Worker processes: results in order, faults as they were, and nothing left behind."""

import faulthandler
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import curate
from curate import errors
from curate.errors import CurateError, EngineError, InputError
from curate.runtime import workers
from curate.runtime.shared import context
from curate.runtime.workers import ahead, default_workers, map_tasks, run_workers

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the tasks here are closures, which only a fork takes along"
)

ROOT = str(Path(__file__).parents[1])


def slow_square(number):
    time.sleep(0.001 * (number % 7))  # later items overtake earlier ones
    return number * number


@pytest.mark.parametrize("workers", [1, 2, 5, pytest.param(100, marks=pytest.mark.slow)])
def test_results_come_in_the_order_of_the_items(workers):
    items = list(range(60))
    assert map_tasks(slow_square, items, workers) == [number**2 for number in items]


def test_no_items():
    assert map_tasks(slow_square, [], 4) == []


def test_work_is_spread_over_processes():
    barrier = context().Barrier(3)  # passed only by three at once

    def worker_of(number):
        barrier.wait(60)
        return os.getpid()

    pids = set(map_tasks(worker_of, [1, 2, 3], 3))
    assert len(pids) == 3
    assert os.getpid() not in pids


def test_one_worker_works_here():
    assert map_tasks(lambda number: os.getpid(), [1, 2], 1) == [os.getpid()] * 2


def test_ticks_come_while_waiting_and_for_each_item_done_here():
    ticks = []
    map_tasks(time.sleep, [0.5, 0.5], 2, lambda: ticks.append(1))
    assert len(ticks) >= 2
    ticks.clear()
    map_tasks(abs, [1, 2, 3], 1, lambda: ticks.append(1))
    assert len(ticks) == 3


def test_messages_of_a_worker_arrive_in_order_and_whole():
    def body(number, send):
        for position in range(50):
            send((number, position, b"x" * (1 << (position % 18))))

    messages = []
    run_workers(body, 3, messages.append, lambda: None)
    assert len(messages) == 150
    for number in range(3):
        own = [message for message in messages if message[0] == number]
        assert [message[1] for message in own] == list(range(50))
        assert all(len(message[2]) == 1 << (message[1] % 18) for message in own)


def curate_errors():
    found = [CurateError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", curate_errors())
@pytest.mark.parametrize("workers", [1, 2])
def test_a_users_fault_comes_back_as_it_was(kind, workers):
    def fail(number):
        if number == 3:
            raise kind("data/a.jsonl:7: 'text' is null")
        return number

    with pytest.raises(CurateError) as caught:
        map_tasks(fail, list(range(6)), workers)
    assert type(caught.value) is kind
    assert str(caught.value) == "data/a.jsonl:7: 'text' is null"


def test_a_bug_shows_where_it_was():
    def deep_inside(number):
        return 1 // number

    with pytest.raises(RuntimeError) as caught:
        map_tasks(deep_inside, [1, 0], 2)
    message = str(caught.value)
    assert message.startswith("a worker failed:\nTraceback")
    assert "in deep_inside" in message
    assert "ZeroDivisionError" in message


def test_a_panic_in_rust_shows_where_it_was():
    class PanicException(BaseException):  # noqa: N818 - the name that it has in Python
        pass

    def panic(number):
        raise PanicException("index out of bounds")

    with pytest.raises(RuntimeError, match=r"(?s)in panic.*PanicException: index out of bounds"):
        map_tasks(panic, [1, 0], 2)


def test_a_result_that_cannot_travel_is_a_bug_too():
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed:.*(pickle|lambda)"):
        map_tasks(lambda number: lambda: number, [1, 2], 2)


def test_want_of_memory_says_what_to_type():
    def hungry(number):
        raise MemoryError

    with pytest.raises(EngineError, match=r"out of memory.*--workers 1"):
        map_tasks(hungry, [1, 2], 2)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGKILL, "most likely out of memory"),
        (signal.SIGABRT, "was ended by SIGABRT, most likely out of memory"),
        (signal.SIGSEGV, "was ended by SIGSEGV, most likely out of memory"),
        (signal.SIGBUS, "was ended by SIGBUS: a mapped file could not be used"),
        (signal.SIGHUP, "a worker was ended by SIGHUP"),
        (signal.SIGTERM, "a worker was ended by SIGTERM"),
        (signal.SIGRTMIN + 1, f"a worker was ended by signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_a_killed_worker(number, expected):
    def die(item):
        if item == 1:
            faulthandler.disable()  # pytest's, which would show every thread
            os.kill(os.getpid(), number)
        time.sleep(30)

    started = time.monotonic()
    with pytest.raises(EngineError, match=expected):
        map_tasks(die, [0, 1, 2], 3)
    assert time.monotonic() - started < 25  # the others are not waited for


def test_a_dead_worker_names_its_file():
    def die(number, _):
        if number == 1:
            faulthandler.disable()
            os.abort()
        time.sleep(30)

    names = {0: "a.jsonl", 1: "b.jsonl"}
    with pytest.raises(EngineError, match=r"^b\.jsonl: a worker was ended by SIGABRT, most likely"):
        run_workers(die, 2, print, lambda: None, names.__getitem__)


@pytest.mark.parametrize(
    ("error", "kind", "expected"),
    [
        (InputError("a.jsonl: gone"), InputError, "a.jsonl: gone"),
        (MemoryError(), EngineError, "out of memory"),
        (ZeroDivisionError("here"), RuntimeError, "ZeroDivisionError: here"),
    ],
)
def test_work_done_ahead_fails_the_same_however_often_it_is_asked(error, kind, expected):
    def fail():
        raise error

    with ahead(fail) as result:
        for _ in range(3):
            with pytest.raises(kind, match=expected):
                result()


def test_a_worker_that_exits():
    with pytest.raises(EngineError, match="worker ended with exit code 3; finished work is kept"):
        map_tasks(lambda number: os._exit(3), [0, 1], 2)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_dead(pids):
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [pid for pid in pids if is_alive(pid)]


def test_a_fault_in_the_parent_ends_the_workers():
    pids = []

    def body(number, send):
        send(os.getpid())
        time.sleep(60)

    def tick():
        if len(pids) == 2:
            raise KeyError("parent")

    with pytest.raises(KeyError):
        run_workers(body, 2, pids.append, tick)
    assert wait_until_dead(pids) == []


SCRIPT = """
import os, sys, time
from curate.runtime.workers import run_workers

def body(number, send):
    send(os.getpid())
    while True:
        time.sleep(60)

def show(pid):
    print(pid, flush=True)

try:
    run_workers(body, 3, show, lambda: None)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


@pytest.mark.parametrize("to_group", [False, True])
def test_ctrl_c_ends_everything(to_group):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(3)]
    assert all(map(is_alive, pids))
    if to_group:  # as a terminal does
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    output, noise = process.communicate(timeout=20)
    assert process.returncode == 130
    assert output == "interrupted\n"
    assert noise == ""
    assert wait_until_dead(pids) == []


def test_workers_do_not_outlive_a_parent_that_was_killed():
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(3)]
    process.kill()
    process.wait()
    process.stdout.close()
    assert wait_until_dead(pids) == []


def test_default_workers_are_the_cores_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert default_workers() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert default_workers() == len(allowed)


@pytest.mark.parametrize(("count", "workers"), [("3", 3), ("default", None), ("0", None)])
def test_pythons_own_variable_for_containers_is_obeyed(monkeypatch, count, workers):
    monkeypatch.setenv("PYTHON_CPU_COUNT", count)
    assert default_workers() == (workers or len(os.sched_getaffinity(0)))


def test_too_little_work_for_a_process_is_done_here(recipe: Path, monkeypatch) -> None:
    """A build whose files are tokenised already; it starts processes where their work is enough."""
    directory = curate.load_recipe(recipe).output_dir
    files, started = [], []
    start = workers._started
    monkeypatch.setattr(workers, "_started", lambda *a, **k: started.append(a) or start(*a, **k))
    curate.tokenize(recipe)
    for enough in (4_000_000, 1_000):
        monkeypatch.setattr(workers, "BYTES_PER_WORKER", enough)
        started.clear()
        assert curate.build(recipe, workers=2).ok
        assert bool(started) == (enough == 1_000)
        shards = [path for path in sorted(directory.rglob("*.bin")) if path.is_file()]
        files.append({path.name: path.read_bytes() for path in shards})
        shutil.rmtree(directory)
    assert files[0] == files[1] and files[0]


def test_work_begun_ahead_gives_its_result_or_its_error() -> None:
    with ahead(lambda: list(range(3))) as result:
        assert result() == result() == [0, 1, 2]

    def fail() -> int:
        raise InputError("x.txt: absent")

    with ahead(fail) as result, pytest.raises(InputError, match=r"x\.txt: absent"):
        result()


def deaf_to_sigterm() -> bytes:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as one is that loses it while it is forked
    return bytes(1 << 20)  # more than a pipe holds, so that sending it waits for a reader


def test_nothing_begun_can_outstay_its_welcome() -> None:
    began = time.monotonic()
    with pytest.raises(KeyError), ahead(deaf_to_sigterm):
        time.sleep(0.3)
        raise KeyError("parent")

    def body(number: int, send: Any) -> None:
        deaf_to_sigterm()
        send("ready")
        time.sleep(60)

    def give_up(message: str) -> None:
        raise KeyError(message)

    with pytest.raises(KeyError, match="ready"):
        run_workers(body, 2, give_up, lambda: None)
    assert time.monotonic() - began < 30


def test_work_begun_ahead_ends_with_its_context() -> None:
    before = set(multiprocessing.active_children())
    with ahead(lambda: time.sleep(600)):
        assert set(multiprocessing.active_children()) - before
    assert set(multiprocessing.active_children()) == before
