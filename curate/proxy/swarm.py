"""Definition and result of a swarm: its runs, and everything that decides their numbers."""

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
    """One run to train."""

    name: str
    """Unique name; `run` in `runs.csv`."""
    seed: int
    """Seed of the initial weights; also added to the seed of the data."""
    weights: tuple[float, ...]
    """shape (domains,), shares of tokens that `runs.csv` reports."""
    drawn: tuple[float, ...]
    """shape (domains,), shares of the tokens that batches are made of. They differ from `weights`
    when proxies have a tokenizer apart from the dataset's."""
    named: bool = False
    """Whether the user named the mixture, and may give the name to another one. Otherwise it was
    drawn, and a row of an earlier draw is evidence just as good."""

    @property
    def fingerprint(self) -> str:
        """Hash of the run's seed and shares, which differs for another run of the same name."""
        return hash_json([self.seed, self.weights, self.drawn])[:12]


@dataclass(frozen=True)
class Swarm:
    """Everything that decides the numbers of `runs.csv`, and how the work is divided."""

    stack: StackSettings
    runs: tuple[SwarmRun, ...]
    domains: tuple[ProxyDomain, ...]
    validation: ValidationRows
    sequence_length: int
    batch_sequences: int
    checkpoints: tuple[int, ...]
    """Steps after which losses are measured, ascending; the last ends a run."""
    start_id: int
    """Id of the token before every sequence."""
    data_seed: int
    data_hash: str
    """Hash of the documents, of which are held out, and of the tokenizer."""
    group: GroupSize
    tensorboard: Path | None = None
    """Directory for TensorBoard; None writes nothing for it."""
    names: tuple[str, ...] = field(init=False)
    """Names of the domains."""

    def __post_init__(self) -> None:
        """Name the domains."""
        object.__setattr__(self, "names", tuple(d.tokens.name for d in self.domains))

    @property
    def steps(self) -> int:
        """Steps of a run."""
        return self.checkpoints[-1]

    @property
    def step_tokens(self) -> int:
        """Tokens of a run in one step."""
        return self.batch_sequences * self.sequence_length

    @property
    def settings_hash(self) -> str:
        """Hash of what all runs share and depend on; how the work is divided does not count."""
        shared = [
            asdict(self.stack.shape), asdict(self.stack.optimiser), str(self.stack.compute),
            self.sequence_length, self.batch_sequences, self.checkpoints, self.data_seed,
            self.data_hash, [domain.supply_share for domain in self.domains],
            self.validation.domain_tokens.tolist(),
        ]  # fmt: skip
        return hash_json(shared)

    def run_tokens(self, run: SwarmRun) -> RunTokens:
        """Return the tokens that a run trains on."""
        tokens = self.steps * self.step_tokens
        return RunTokens(run.name, run.drawn, tokens, self.data_seed + run.seed)


def checkpoint_steps(steps: int, count: int, spacing: str = "log") -> tuple[int, ...]:
    """Choose at most `count` steps at which to measure, the last of which is `steps`.

    Args:
        steps: Steps of a run.
        count: At least 1.
        spacing: `log` is even in the logarithm, from steps / 32 on; `even` is at equal distances.

    Example:
        >>> checkpoint_steps(1000, 6), checkpoint_steps(3, 6), checkpoint_steps(50, 1)
        ((31, 62, 125, 250, 500, 1000), (1, 2, 3), (50,))
        >>> checkpoint_steps(1000, 4, "even"), checkpoint_steps(3, 6, "even")
        ((250, 500, 750, 1000), (1, 2, 3))
    """
    if count == 1:
        return (steps,)
    if spacing == "even":
        spaced = np.linspace(steps / count, steps, count)
    else:
        spaced = np.geomspace(max(1.0, steps / 32), steps, count)
    return tuple(sorted({max(1, int(step)) for step in np.round(spaced)} | {steps}))


@dataclass(frozen=True)
class SwarmResult:
    """Losses of the runs that ended, and the runs that failed."""

    names: tuple[str, ...]
    """The domains, in the order of shares and losses."""
    rows: list[RunRow]
    failed: dict[str, int]
    """Step in which the gradient stopped being finite, by run."""


def swarm_result(swarm: Swarm, directory: Path) -> SwarmResult:
    """Read the result of the swarm's runs so far.

    Raises:
        InputError: No run ended with finite losses.
    """
    names = {run.name for run in swarm.runs}
    rows = [row for row in read_runs(directory / "runs.csv", swarm.names) if row.run in names]
    if not rows:
        raise InputError(
            "proxy: no run ended with finite losses; set a lower proxy.learning_rate "
            f"(it was {swarm.stack.optimiser.learning_rate:g})"
        )
    failed = read_json(directory / "proxy.json")["failed"]
    return SwarmResult(
        tuple(swarm.names), rows, {run: step for run, step in failed.items() if run in names}
    )
