"""What a swarm is: its runs, everything that decides their numbers, and what became of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from curate.errors import InputError
from curate.proxy.memory import GroupSize
from curate.proxy.runs import RunRow, read_runs
from curate.proxy.stack import StackSettings
from curate.proxy.training_batches import ProxyDomain, RunTokens, ValidationRows
from curate.runtime.files import hash_json, read_json


@dataclass(frozen=True, slots=True)
class SwarmRun:
    """One run that is to be."""

    name: str
    """Unique; `run` of `runs.csv`."""
    seed: int
    """Of initial weights, and added to the data's."""
    weights: tuple[float, ...]
    """shape (domains,), shares of tokens as `runs.csv` says them."""
    drawn: tuple[float, ...]
    """shape (domains,), shares of the tokens that batches are made of; differ from `weights` where
    proxies have a tokenizer of their own."""
    named: bool = False
    """Somebody gave the mixture its name, and may give that to another; else it was drawn, and a
    row of an earlier draw is evidence as good."""

    @property
    def fingerprint(self) -> str:
        """Hash of what the run has of its own, so that another one of its name is told from it."""
        return hash_json([self.seed, self.weights, self.drawn])[:12]


@dataclass(frozen=True)
class Swarm:
    """Everything that decides the numbers of `runs.csv`, and how work is cut."""

    stack: StackSettings
    runs: tuple[SwarmRun, ...]
    domains: tuple[ProxyDomain, ...]
    validation: ValidationRows
    sequence_length: int
    batch_sequences: int
    checkpoints: tuple[int, ...]
    """Steps after which losses are measured, ascending; the last ends a run."""
    start_id: int
    data_seed: int
    data_hash: str
    """Of documents, which of them are held out, and tokenizer."""
    group: GroupSize
    tensorboard: Path | None = None
    """Directory for TensorBoard."""
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Name the domains."""
        object.__setattr__(self, "names", tuple(d.tokens.name for d in self.domains))

    @property
    def steps(self) -> int:
        """Of a run."""
        return self.checkpoints[-1]

    @property
    def step_tokens(self) -> int:
        """Of a run in one step."""
        return self.batch_sequences * self.sequence_length

    @property
    def settings_hash(self) -> str:
        """Hash of what every run shares and depends on; how work is cut does not count."""
        shared = [
            asdict(self.stack.shape), asdict(self.stack.optimiser), str(self.stack.compute),
            self.sequence_length, self.batch_sequences, self.checkpoints, self.data_seed,
            self.data_hash, [domain.supply_share for domain in self.domains],
            self.validation.domain_tokens.tolist(),
        ]  # fmt: skip
        return hash_json(shared)

    def run_tokens(self, run: SwarmRun) -> RunTokens:
        """What a run reads."""
        tokens = self.steps * self.step_tokens
        return RunTokens(run.name, run.drawn, tokens, self.data_seed + run.seed)


def checkpoint_steps(steps: int, count: int, spacing: str = "log") -> tuple[int, ...]:
    """At most `count` steps, the last of which is `steps`.

    Args:
        steps: Of a run.
        count: At least 1.
        spacing: `log`: even in their logarithm, from steps / 32 on; `even`: at equal distances.

    Example:
        >>> checkpoint_steps(1000, 6), checkpoint_steps(3, 6), checkpoint_steps(50, 1)
        ((31, 62, 125, 250, 500, 1000), (1, 2, 3), (50,))
        >>> checkpoint_steps(1000, 4, "even"), checkpoint_steps(3, 6, "even")
        ((250, 500, 750, 1000), (1, 2, 3))
    """
    if count == 1:
        return (steps,)
    if spacing == "even":
        found = np.linspace(steps / count, steps, count)
    else:
        found = np.geomspace(max(1.0, steps / 32), steps, count)
    return tuple(sorted({max(1, int(step)) for step in np.round(found)} | {steps}))


@dataclass(frozen=True)
class SwarmResult:
    """What became of the runs."""

    rows: list[RunRow]
    failed: dict[str, int]
    """Run → step in which its gradient stopped being finite."""


def swarm_result(swarm: Swarm, directory: Path) -> SwarmResult:
    """What is known of the swarm's runs.

    Raises:
        InputError: No run ended with finite losses.
    """
    known = {run.name for run in swarm.runs}
    rows = [row for row in read_runs(directory / "runs.csv", swarm.names) if row.run in known]
    if not rows:
        raise InputError(
            "proxy: no run ended with finite losses; set a lower proxy.learning_rate "
            f"(it was {swarm.stack.optimiser.learning_rate:g})"
        )
    failed = read_json(directory / "proxy.json")["failed"]
    return SwarmResult(rows, {run: step for run, step in failed.items() if run in known})
