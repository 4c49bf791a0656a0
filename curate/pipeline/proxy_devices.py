"""Train a swarm with one process on each device; they share its runs through its directory.

Each process sets the swarm up again from the recipe, whose tokens are in the store by then, and
takes groups of runs until none is left. If one dies, the others train its runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace as with_fields

from curate.errors import EngineError
from curate.pipeline.proxy_setup import Prepared, prepare, with_runs
from curate.recipe import LoadedRecipe
from curate.runtime.progress import Observer, TrainingProgress
from curate.runtime.ray import cluster_gpus, run_on_ray
from curate.runtime.registry import counted
from curate.runtime.workers import Send, run_apart

if TYPE_CHECKING:
    from curate.proxy.swarm import Swarm, SwarmResult, SwarmRun
    from curate.proxy.train import Finish


@dataclass(frozen=True)
class Job:
    """A swarm in a form that other processes can set up again."""

    loaded: LoadedRecipe
    runs: tuple[SwarmRun, ...]
    directory: Path
    """For `runs.csv` and checkpoints."""
    cap_slack: float = 1.0
    """Factor by which runs may pass their epoch caps."""
    experts: bool = False
    """Whether to keep each model's log-probabilities of held-out tokens."""

    def swarm(self, prepared: Prepared) -> Swarm:
        """Return the swarm, for the device that it was prepared for."""
        domains = tuple(
            replace(domain, max_epochs=domain.max_epochs * self.cap_slack)
            for domain in prepared.swarm.domains
        )
        return with_runs(self.loaded, replace(prepared.swarm, domains=domains), self.runs)

    def finish(self, swarm: Swarm) -> Finish | None:
        """Return a function to call with trained models, if any."""
        if not self.experts:
            return None
        from curate.proxy.experts import keep_log_probabilities

        return partial(keep_log_probabilities, swarm.validation, self.directory)


def train_job(job: Job, prepared: Prepared, workers: int, observer: Observer) -> SwarmResult:
    """Train the runs that are not in `runs.csv` yet, on every device that the recipe names.

    Args:
        job: The runs, and the directory for them.
        prepared: The swarm without runs.
        workers: Number of threads, divided among the devices.
        observer: Receives progress and warnings.

    Raises:
        CurateError: Any user-fixable error.
    """
    from curate.proxy.device import device_names
    from curate.proxy.train import train_swarm

    job.directory.mkdir(parents=True, exist_ok=True)
    swarm = job.swarm(prepared)
    proxies = job.loaded.proxies
    devices = device_names(proxies.device)
    if proxies.engine == "ray":
        devices = _ray_devices(devices)
    if len(devices) == 1 and proxies.engine == "local":
        return train_swarm(swarm, job.directory, observer, job.finish(swarm))
    return _train_apart(job, swarm, devices, workers, observer)


def _train_apart(
    job: Job, swarm: Swarm, devices: list[str], workers: int, observer: Observer
) -> SwarmResult:
    from curate.proxy.claims import RunClaims
    from curate.proxy.shared import SharedSwarm
    from curate.proxy.swarm import swarm_result
    from curate.proxy.train import check_supply

    shared = SharedSwarm(swarm, job.directory, RunClaims(job.directory))
    shared.open(observer.notice)
    pending = shared.pending()
    if len(pending) < len(swarm.runs):
        observer.notice(f"trained already: {counted(len(swarm.runs) - len(pending), 'run')}")
    check_supply(swarm, pending)
    if pending:
        # Few runs make small groups, so that every device has one.
        models = min(swarm.group.models, -(-len(pending) // len(devices)))
        threads = max(1, workers // len(devices))
        watch = _Watch(devices, observer)
        proxies = with_fields(job.loaded.proxies, models=models)
        shared_job = replace(job, loaded=job.loaded.with_proxies(proxies))
        total = len(pending) * swarm.steps * swarm.step_tokens
        observer.begin(f"train proxies on {counted(len(devices), 'device')}", ["proxies"], [total])
        body = partial(_serve, shared_job, devices, threads)
        if proxies.engine == "ray":
            needs = {"num_cpus": threads, "num_gpus": int(devices[0] != "cpu")}
            run_on_ray(body, len(devices), watch.receive, needs)
        else:
            run_apart(body, len(devices), watch.receive, watch.lose)
        observer.end(
            f"{counted(len(pending), 'run')} of {swarm.steps * swarm.step_tokens:,} tokens"
        )
    left = shared.pending()
    if left:
        raise EngineError(
            f"proxy: {counted(len(left), 'run')} not trained, because every process that trained "
            "them died; run again to continue from their checkpoints"
        )
    return swarm_result(swarm, job.directory)


def _ray_devices(devices: list[str]) -> list[str]:
    """Name a device for each GPU of the cluster; Ray shows each task one GPU only."""
    if devices == ["auto"]:
        return ["cuda"] * cluster_gpus() or ["cpu"]
    return ["cpu" if name == "cpu" else "cuda" for name in devices]


def _serve(job: Job, devices: list[str], threads: int, number: int, send: Send) -> None:
    """Train on one device, in a process of its own."""
    from curate.proxy.train import train_swarm

    loaded = job.loaded.with_proxies(with_fields(job.loaded.proxies, device=devices[number]))
    swarm = replace(job, loaded=loaded).swarm(prepare(loaded, None, threads, Observer()))
    train_swarm(swarm, job.directory, _Relay(number, send), job.finish(swarm))


class _Relay(Observer):
    """Sends events to the process that shows them."""

    def __init__(self, number: int, send: Send) -> None:
        self._number, self._send = number, send

    def notice(self, message: str) -> None:
        """See `Observer`."""
        self._send(message)

    def train(self, progress: TrainingProgress) -> None:
        """See `Observer`."""
        self._send((self._number, progress))


class _Watch:
    """Merges the events of a swarm's processes into one stream."""

    def __init__(self, devices: list[str], observer: Observer) -> None:
        self._devices, self._observer = devices, observer
        self._latest: dict[int, TrainingProgress] = {}
        self._passed_on: set[str] = set()

    def receive(self, message: str | tuple[int, TrainingProgress]) -> None:
        """Pass on a notice unless another process sent it, or the summed progress."""
        if isinstance(message, str):
            if message not in self._passed_on:
                self._passed_on.add(message)
                self._observer.notice(message)
            return
        number, progress = message
        self._latest[number] = progress
        fresh = sum(one.fresh_tokens for one in self._latest.values())
        models = sum(one.models for one in self._latest.values())
        total = max(one.total_tokens for one in self._latest.values())
        self._observer.train(
            replace(
                progress, models=models, fresh_tokens=fresh, total_tokens=total, done_tokens=fresh
            )
        )

    def lose(self, number: int, how: str) -> None:
        """Report that a process has died."""
        self._latest.pop(number, None)
        self._observer.notice(
            f"the process that trained on {self._devices[number]} {how}; the others train its runs"
        )
