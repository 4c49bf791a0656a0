"""Batches whose shares of domains a trainer changes during the run.

The state is how many sequences of each domain all ranks have drawn, and what each is still owed, so
ranks and batch size may change at any step. All ranks must set the same shares at the same step.
Steps are planned and read ahead in blocks at the shares in force. A change drops what was read
ahead; the next block is of one step, and blocks double while the shares stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import ShardError
from curate.loader.batch_loader import BatchBlock, BatchLoader, LoaderOptions, Share
from curate.loader.domain_windows import DrawNumbers
from curate.loader.draws import (
    UNIT,
    Controller,
    DrawLimits,
    DrawnDomain,
    DrawState,
    Weights,
    account,
    begin,
    draw,
)
from curate.loader.fields import Batch
from curate.loader.reader import SequenceReader


@dataclass(frozen=True)
class DomainDraws:
    """Limits of a loader's draws, and the weights that it begins with."""

    limits: DrawLimits
    weights: Weights


@dataclass(frozen=True)
class DrawnBlock:
    """Steps that are read together, and the draws around them."""

    first: DrawState
    """State before the first step."""
    last: DrawState
    """State after the last step."""
    sequences: list[int]
    """Sequences of all ranks up to and including each step."""
    block: BatchBlock
    read: Callable[[], Batch]


class WeightedLoader(BatchLoader):
    """Iterates over the rest of an epoch, drawing from the domains as their weights say."""

    def __init__(
        self, reader: SequenceReader, share: Share, options: LoaderOptions, draws: DomainDraws
    ) -> None:
        """Start at the first position of epoch 0.

        Args:
            reader: Reads sequences by number, domain after domain.
            share: Batch size, and this rank among all ranks.
            options: Order, seed, last step, batches read ahead.
            draws: Sequences that each domain may give, and the weights to begin with.

        Raises:
            RecipeError: An argument is out of range, or a weight is.
        """
        self._limits = self._data_limits = draws.limits
        super().__init__(reader, share, options)
        seed = None if options.order == "stored" else self.seed
        self._numbers = DrawNumbers(draws.limits, seed)
        self._state = begin(draws.limits)
        """State before the block in use; the next has drawn `_used` sequences more."""
        self._used = 0
        self._ask: Controller | None = None
        self.set_weights(draws.weights)

    @property
    def sequences(self) -> int:
        """Sequences of an epoch, over all ranks: the budget of the build or plan."""
        return self._limits.budget_sequences

    @property
    def weights(self) -> dict[str, float]:
        """Shares that are asked for, by domain."""
        shares = self._state.shares
        return {name: part / UNIT for name, part in zip(self._limits.names, shares, strict=True)}

    @property
    def drawn(self) -> dict[str, DrawnDomain]:
        """Compare what was asked for and drawn so far, by domain, over all ranks."""
        return account(self._now(), self._limits)

    def set_weights(self, weights: Weights) -> None:
        """Change the shares from the next step on; every rank must do so at the same step.

        Args:
            weights: Weight of each domain, in any unit, where domains that are left out get 0;
                `planned`; or a function, which is called with the loader before every step.

        Raises:
            RecipeError: A name is unknown, or a weight is negative or not finite, or all are 0.
        """
        self._ask = weights if callable(weights) else None
        if not callable(weights):
            self._change(weights)

    def limit_to(self, sequences: Mapping[str, int]) -> None:
        """Let domains give no more than this, besides what the data allows.

        Windows keep their numbers, so the limits may change before any step.

        Args:
            sequences: Most sequences of a domain over the whole run, by name.
        """
        limits = self._data_limits
        most = tuple(
            min(held, sequences.get(name, held))
            for name, held in zip(limits.names, limits.sequences, strict=True)
        )
        if most != self._limits.sequences:
            self._limits = replace(limits, sequences=most)

    def restart(self) -> None:
        """Go back to the first position of epoch 0, at the planned shares, with nothing drawn."""
        super().restart()
        self._state, self._used = begin(self._data_limits), 0

    def _change(self, weights: Mapping[str, float] | Literal["planned"]) -> None:
        changed = self._now().with_weights(self._limits.check(weights))
        if changed.shares != self._state.shares:
            self._state, self._used = changed, 0

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from the current position to the end of the epoch.

        Raises:
            RecipeError: The last step has too few sequences for every rank to get one.
            InfeasiblePlan: All domains with a weight are used up.
        """
        self.check_last_step()
        epoch, steps, ahead = self.epoch, 1, None
        self._state, self._used = self._now(), 0  # the last iteration may have left a block
        expected = self._state
        with ThreadPoolExecutor(1) as pool:
            while self.epoch == epoch and len(self):
                self._consult()
                if self._state is not expected:  # other weights: what was read ahead is void
                    steps, ahead = 1, None
                current = ahead or self._plan(self._state, 0, steps)
                # Weights that changed a step ago may change again, so nothing is read ahead yet.
                ahead = self._read_ahead(current, steps, pool) if steps > 1 else None
                steps = min(2 * steps, max(self._batches_together(), self.options.prefetch_batches))
                yield from self._yield(current)
                if self._state is current.first:
                    self._state, self._used = current.last, 0
                expected = current.last

    def _yield(self, current: DrawnBlock) -> Iterator[Batch]:
        """Yield the batches of a block until the weights change."""
        steps = zip(current.sequences, current.block.batches(current.read()), strict=True)
        for step, (used, (epoch, position, batch)) in enumerate(steps):
            if step:
                self._consult()
            if self._state is not current.first:
                return
            self.epoch, self.position, self._used = epoch, position, used
            yield batch

    def _consult(self) -> None:
        """Ask the trainer's function, if there is one, for weights."""
        weights = None if self._ask is None else self._ask(self)
        if weights is not None:
            self._change(weights)

    def _plan(self, state: DrawState, first: int, steps: int) -> DrawnBlock:
        """Plan steps at the shares in force; one step if supply allows no more.

        Args:
            state: State before the first step.
            first: Number of the first step, counted from the current position.
            steps: Most steps to plan.
        """
        taken = self.share.step_sequences
        base = self.position + first * taken
        block_steps = range(first, min(first + steps, len(self)))
        stops = [min(base + (step + 1) * taken, self.sequences) for step in range(len(block_steps))]
        if steps > 1 and not self._may_draw(state, stops[-1] - base):
            return self._plan(state, first, 1)
        last, domains = draw(state, self._limits, stops[-1] - base, self.seed)
        numbers = self._numbers(domains, state.drawn)

        def order(positions: NDArray[np.int64]) -> NDArray[np.int64]:
            return numbers[positions - base]

        (block,) = self._number([block_steps], order, (self.epoch, self.position))
        used = [stop - base for stop in stops]
        return DrawnBlock(state, last, used, block, lambda: self.reader.read(block.numbers))

    def _may_draw(self, state: DrawState, sequences: int) -> bool:
        """Return whether the domains with a share have so many sequences left."""
        left = zip(self._limits.sequences, state.drawn, state.shares, strict=True)
        return sum(most - drawn for most, drawn, share in left if share) >= sequences

    def _read_ahead(
        self, current: DrawnBlock, steps: int, pool: ThreadPoolExecutor
    ) -> DrawnBlock | None:
        """Start to read the block after the current one, if it can be planned."""
        first = len(current.sequences)
        step = self.share.step_sequences
        if not self.options.prefetch_batches or first >= len(self):
            return None
        if not self._may_draw(current.last, step):  # other weights may come in time
            return None
        block = self._plan(current.last, first, steps)
        return replace(block, read=pool.submit(block.read).result)

    def _now(self) -> DrawState:
        """Return the state after the last batch that was yielded."""
        if not self._used:
            return self._state
        return draw(self._state, self._limits, self._used, self.seed)[0]

    def state_dict(self) -> dict[str, Any]:
        """Return position, draws and the identity of the data as plain values."""
        return {**super().state_dict(), "draws": asdict(self._now())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume after the last batch that was yielded when the state was saved.

        Ranks and batch size may have changed since. The weights in force are part of the state; a
        function that gives weights restores its own.

        Raises:
            ShardError: The state is not a loader's, or is of other shards, sequences or order.
        """
        super().load_state_dict(state)
        draws = state["draws"]
        names = [field.name for field in fields(DrawState)]
        domains = len(self._limits.names)
        if set(draws) != set(names) or any(len(draws[name]) != domains for name in names):
            raise ShardError("state: its draws are not of a curate loader; start without the state")
        self._state = DrawState(**{name: tuple(map(int, draws[name])) for name in names})
        self._used = 0
