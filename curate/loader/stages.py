"""Load training data in stages: one loader after another, with a state for all of them.

A batch holds sequences of one stage, so their length may change at a border. A stage that has not
begun is not part of the state, so later stages may be changed or added while earlier ones run.

With weights, shares that are set hold until the end of the stage that the next batch is of. Tokens
drawn in all stages count against one cap for each domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from curate.errors import InfeasiblePlan, RecipeError, ShardError
from curate.loader.batch_loader import BatchLoader, LoaderOptions
from curate.loader.draws import PLANNED, Controller, DrawnDomain, Weights
from curate.loader.fields import Batch
from curate.loader.sequence_dataset import Sequences
from curate.loader.weighted_loader import WeightedLoader
from curate.runtime.registry import list_first, unknown_name

if TYPE_CHECKING:
    from curate.loader.torch_batches import Tensors

Read = TypeVar("Read")
"""A batch, of arrays or of tensors."""

STATE_VERSION = 1

BatchSequences = int | Mapping[str, int]
"""Sequences of a batch on each rank, in all stages or by stage."""


@dataclass(frozen=True)
class StagedDraws:
    """Weights that a loader of stages begins with, and caps over all stages."""

    weights: Weights
    """For the first stage, which they hold for; or a function, which is asked in every stage."""
    most_tokens: Mapping[str, int | None]
    """Most tokens that all stages together may draw of each domain; None for no cap."""
    supply_tokens: Mapping[str, int]
    """Training tokens of each domain, of which a pass is."""


class StagedSequences:
    """Sequences of equal length in each stage, in the order of training."""

    def __init__(
        self, stages: Mapping[str, Sequences], where: str, draws: StagedDraws | None = None
    ) -> None:
        """Wrap the stages.

        Args:
            stages: The sequences of each stage by name, in the order of training.
            where: Directory or recipe, for messages.
            draws: For stages that were opened by domain, the weights to begin with, and caps.
        """
        self.stages = dict(stages)
        """The sequences of each stage, by name."""
        self._where = where
        self._draws = draws

    def __len__(self) -> int:
        """Count the sequences of all stages."""
        return sum(map(len, self.stages.values()))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, the same in all stages."""
        return next(iter(self.stages.values())).domains

    def __repr__(self) -> str:
        """Describe each stage."""
        return f"<{'; '.join(f'{name}: {stage!r}' for name, stage in self.stages.items())}>"

    def loader(
        self,
        batch_sequences: BatchSequences,
        rank: int = 0,
        ranks: int = 1,
        options: LoaderOptions | None = None,
    ) -> StagedLoader[Batch]:
        """Make a loader of batches of NumPy arrays that goes through the stages.

        Args:
            batch_sequences: Sequences of a batch, on each rank; or by stage, since those of longer
                sequences may have to be smaller.
            rank: Number of this process, from 0.
            ranks: Processes that share an epoch.
            options: Order, seed, last step, batches read ahead.

        Raises:
            RecipeError: An argument is out of range, or a stage is unknown or missing.
        """
        loaders = {
            name: self.stages[name].loader(count, rank, ranks, options)
            for name, count in self._by_stage(batch_sequences).items()
        }
        return StagedLoader(loaders, loaders, self._where, self._draws)

    def torch_loader(
        self,
        batch_sequences: BatchSequences,
        share: tuple[int, int] | None = None,
        workers: int = 0,
        options: LoaderOptions | None = None,
    ) -> StagedLoader[Tensors]:
        """Make a loader of the same batches as tensors.

        Args:
            batch_sequences: See `loader`.
            share: (rank, ranks); None takes them from `torch.distributed`, or (0, 1) without it.
            workers: Number of processes that read; 0 for a thread of this process.
            options: Order, seed, last step, batches that each worker reads ahead.

        Raises:
            RecipeError: torch is not installed, or see `loader`.
        """
        made = {
            name: self.stages[name].torch_loader(count, share, workers, options)
            for name, count in self._by_stage(batch_sequences).items()
        }
        loaders = {name: loader.loader for name, loader in made.items()}
        return StagedLoader(made, loaders, self._where, self._draws)

    def _by_stage(self, batch_sequences: BatchSequences) -> dict[str, int]:
        """Return the sequences of a batch in each stage."""
        if isinstance(batch_sequences, int):
            return dict.fromkeys(self.stages, batch_sequences)
        if not isinstance(batch_sequences, Mapping):
            raise RecipeError(
                f"curate.load: batch_sequences is {batch_sequences!r}; give a whole number, or one "
                "by stage"
            )
        for name in batch_sequences:
            if name not in self.stages:
                raise RecipeError(unknown_name("stage", name, self.stages, "batch_sequences"))
        missing = [name for name in self.stages if name not in batch_sequences]
        if missing:
            raise RecipeError(
                f"curate.load: batch_sequences lacks the stages {list_first(missing)}; name every "
                "stage, or give one number for all"
            )
        return {name: batch_sequences[name] for name in self.stages}


class StagedLoader(Generic[Read]):
    """Iterates over the rest of an epoch, stage by stage; the next iteration takes the next."""

    def __init__(
        self,
        batches: Mapping[str, Iterable[Read]],
        loaders: Mapping[str, BatchLoader],
        where: str,
        draws: StagedDraws | None,
    ) -> None:
        """Wrap a loader of each stage.

        Args:
            batches: What yields the batches of each stage, in order.
            loaders: The loader below each, which holds its position.
            where: Directory or recipe, for messages.
            draws: With weights, those to begin with, and caps.

        Raises:
            RecipeError: A weight is out of range, or of no domain.
        """
        self.loaders = dict(loaders)
        """The loader of each stage, by name."""
        self._batches = dict(batches)
        self._where = where
        self._draws = draws
        self._weighted = {
            name: one for name, one in loaders.items() if isinstance(one, WeightedLoader)
        }
        self._ask: Controller | None = None
        self._set_in: dict[str, int] = {}
        """Epoch in which weights were last set for a stage, which then do not begin as planned."""
        if draws is not None and draws.weights != PLANNED:
            self.set_weights(draws.weights)

    @property
    def epoch(self) -> int:
        """Number of the epoch, one pass over all stages."""
        return min(loader.epoch for loader in self.loaders.values())

    @property
    def stage(self) -> str:
        """Name of the stage that the next batch is of."""
        epoch = self.epoch
        return next(name for name, loader in self.loaders.items() if loader.epoch == epoch)

    def __repr__(self) -> str:
        """Describe the position in the stages."""
        epoch = self.epoch
        left = [name for name, loader in self.loaders.items() if loader.epoch == epoch]
        return (
            f"<{len(self):,} batches left in epoch {epoch}, in {len(left)} of {len(self.loaders)} "
            f"stages from '{left[0]}' on; {self._where}>"
        )

    def set_weights(self, weights: Weights) -> None:
        """Change the shares from the next step on; every rank must do so at the same step.

        They hold until the end of the stage that the next batch is of. The stage after it begins
        with its planned shares.

        Args:
            weights: Weight of each domain, in any unit, where domains that are left out get 0;
                `planned`; or a function, which is called with this loader before every step of
                every stage, and returns weights, or None to keep those in force.

        Raises:
            RecipeError: A name is unknown, a weight is negative or not finite, or all are 0; or the
                data was opened without weights.
        """
        name = self.stage
        self._begin(name)
        self._set(name, weights)
        self._ask = weights if callable(weights) else None
        if not callable(weights):
            self._set_in[name] = self.loaders[name].epoch

    def _set(self, name: str, weights: Weights) -> None:
        """Set the weights of one stage."""
        ask = (lambda _: weights(self)) if callable(weights) else weights
        self.loaders[name].set_weights(ask)

    def _begin(self, name: str) -> None:
        """Give a stage what the others leave of the caps, and its planned shares at its start."""
        loader = self._weighted.get(name)
        if loader is None or self._draws is None:
            return
        window = loader.reader.source.window_tokens
        elsewhere = [one.drawn for stage, one in self._weighted.items() if stage != name]
        loader.limit_to({
            domain: max(0, most - sum(rows[domain].tokens for rows in elsewhere)) // window
            for domain, most in self._draws.most_tokens.items()
            if most is not None
        })  # fmt: skip
        if loader.position == 0 and self._set_in.get(name) != loader.epoch:
            loader.set_weights(PLANNED)
        if self._ask is not None:
            self._set(name, self._ask)

    @property
    def weights(self) -> dict[str, float]:
        """Shares that are asked for by domain, in the stage that the next batch is of."""
        self._begin(self.stage)
        return self.loaders[self.stage].weights

    @property
    def drawn(self) -> dict[str, dict[str, DrawnDomain]]:
        """Compare what was asked for and drawn so far, by stage and domain, over all ranks."""
        for name in self.loaders:
            self._begin(name)
        return {name: loader.drawn for name, loader in self.loaders.items()}

    @property
    def passes(self) -> dict[str, float]:
        """Passes over the training tokens of each domain in all stages so far, over all ranks.

        Raises:
            RecipeError: The data was opened without weights.
        """
        stages = self.drawn.values()
        assert self._draws is not None  # otherwise `drawn` has raised
        return {
            domain: sum(rows[domain].tokens for rows in stages) / max(1, supply)
            for domain, supply in self._draws.supply_tokens.items()
        }

    def __len__(self) -> int:
        """Count the batches that are left in this epoch."""
        epoch = self.epoch
        return sum(len(loader) for loader in self.loaders.values() if loader.epoch == epoch)

    def __iter__(self) -> Iterator[Read]:
        """Yield batches from the current position to the end of the last stage.

        Raises:
            RecipeError: The last step of a stage has too few sequences for every rank to get one;
                of a later stage, too, before the first batch.
            InfeasiblePlan: Every domain with a weight is used up in a stage.
        """
        epoch = self.epoch
        for name, loader in self.loaders.items():
            try:
                loader.check_last_step()
            except RecipeError as error:
                raise RecipeError(f"stages[{name}]: {error}") from error
        for name, batches in self._batches.items():
            if self.loaders[name].epoch == epoch:
                self._begin(name)
                try:
                    yield from batches
                except InfeasiblePlan as error:
                    raise InfeasiblePlan(f"stages[{name}]: {error}") from error

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the stages that have begun, equal on all ranks.

        A stage begins with its first batch, or when weights are set for it.
        """
        weights_set = {
            name: epoch for name, epoch in self._set_in.items() if epoch == self.loaders[name].epoch
        }
        state: dict[str, Any] = {
            "version": STATE_VERSION,
            "stages": {
                name: loader.state_dict()
                for name, loader in self.loaders.items()
                if (loader.epoch, loader.position) != (0, 0) or name in weights_set
            },
        }
        return state | {"weights_set": weights_set} if self._weighted else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume after the last batch that was yielded when the state was saved.

        Ranks, workers and batch sizes may have changed since, and stages that had not begun. The
        weights in force are part of the state; a function that gives weights restores its own.

        Raises:
            ShardError: The state is not of such a loader, or of other stages, shards or order.
        """
        stages = state.get("stages") if isinstance(state, Mapping) else None
        weights_set = state.get("weights_set", {}) if isinstance(state, Mapping) else None
        if (
            not isinstance(stages, Mapping)
            or not isinstance(weights_set, Mapping)
            or not all(
                name in stages and isinstance(weights_set[name], int) for name in weights_set
            )
            or state.get("version") != STATE_VERSION
        ):
            raise ShardError(
                f"{self._where}: the state was not made by state_dict() of a loader of stages; "
                "start without it"
            )
        begun = [name for name in self.loaders if name in stages]
        gone = [name for name in stages if name not in self.loaders]
        if gone or begun != list(self.loaders)[: len(begun)]:
            raise ShardError(
                f"{self._where}: the state is in the stages {list_first(list(stages))}, and there "
                f"are {list_first(list(self.loaders))}; stages that have begun must stay, in their "
                "order"
            )
        for name, loader in self.loaders.items():
            if name in stages:
                try:
                    loader.load_state_dict(stages[name])
                except ShardError as error:
                    raise ShardError(f"stages[{name}]: {error}") from error
            else:
                loader.restart()
        self._set_in = dict(weights_set)
