"""Divide an epoch into batches for ranks and workers by arithmetic, so that it resumes exactly.

Within an epoch, the state is one number: the sequences that all ranks together have used. With R
ranks and batches of B, step k after a start at position p uses positions [p + k·R·B,
p + (k + 1)·R·B), of which rank r takes the r-th B. Consecutive steps form a block, which is read at
once; worker w of W reads blocks w, w + W, w + 2·W, … Ranks, workers and batch size may therefore
change at any step: the next position does not depend on them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import RecipeError, ShardError
from curate.loader.draws import DrawnDomain, Weights
from curate.loader.fields import Batch, cut_rows
from curate.loader.reader import SequenceReader
from curate.loader.state import STATE_VERSION, check_state
from curate.loader.window_source import Order
from curate.runtime.registry import counted, nearest_hint

ORDERS = {
    "shuffled": "another order in every epoch",
    "stored": "the order of the build in every epoch; fastest on hard disks",
}
LAST_STEPS = {
    "short": "the last step of an epoch has smaller batches",
    "drop": "sequences that do not fill the last step are left out, and counted",
}
PLANNED_SEQUENCES = 4096
"""Sequences whose numbers are computed together, since each call of an order has a fixed cost."""

BLOCK_TOKENS = 1 << 17
"""Most tokens read at once, unless one batch is larger; a read takes up to 0.4 ms plus copying."""


@dataclass(frozen=True)
class LoaderOptions:
    """Order of a loader's sequences, its last step and how far it reads ahead."""

    order: str = "shuffled"
    """A name from `ORDERS`."""
    seed: int | None = None
    """Seed of the order; None takes the recipe's."""
    last: str = "short"
    """A name from `LAST_STEPS`."""
    prefetch_batches: int = 2
    """Fewest batches to read ahead; 0 for none."""


@dataclass(frozen=True)
class Share:
    """Part of each step that belongs to one rank."""

    batch_sequences: int
    rank: int
    ranks: int

    @property
    def step_sequences(self) -> int:
        """Sequences of a step, over all ranks."""
        return self.batch_sequences * self.ranks

    def positions(self, first: int, stop: int) -> NDArray[np.int64]:
        """Return this rank's positions in the step from `first`, in an epoch that ends at `stop`.

        Example:
            >>> [Share(2, rank, 3).positions(10, 14).tolist() for rank in range(3)]
            [[10], [11], [12, 13]]
        """
        step = min(self.step_sequences, stop - first)
        low, high = self.rank * step // self.ranks, (self.rank + 1) * step // self.ranks
        return np.arange(first + low, first + high)


@dataclass(frozen=True)
class BatchBlock:
    """Batches that are read together."""

    states: list[tuple[int, int]]
    """Epoch and position after each batch."""
    rows: list[int]
    """Row at which each batch begins, and the end of the last."""
    numbers: NDArray[np.int64]
    """Numbers of the sequences of all batches."""
    sequence_length: int

    def batches(self, read: Batch) -> Iterator[tuple[int, int, Batch]]:
        """Cut the arrays that were read into batches, without copying; add the state after each."""
        for (epoch, position), low, high in zip(
            self.states, self.rows, self.rows[1:], strict=False
        ):
            yield epoch, position, cut_rows(read, low, high, self.sequence_length)


class BatchLoader:
    """Iterates over the rest of an epoch; the next iteration takes the next epoch."""

    def __init__(self, reader: SequenceReader, share: Share, options: LoaderOptions) -> None:
        """Start at the first position of epoch 0.

        Args:
            reader: Reads sequences by number.
            share: Batch size, and this rank among all ranks.
            options: Order, seed, last step, batches read ahead.

        Raises:
            RecipeError: An argument is out of range; the message gives the range.
        """
        self.reader = reader
        self.share = share
        self.options = options
        _check(share, options, self.sequences)
        self.epoch = 0
        self.position = 0
        """Sequences of the epoch that all ranks together have used."""

    @property
    def seed(self) -> int:
        """Seed of the order."""
        return self.reader.source.seed if self.options.seed is None else self.options.seed

    @property
    def sequences(self) -> int:
        """Sequences of an epoch, over all ranks."""
        return len(self.reader)

    def restart(self) -> None:
        """Go back to the first position of epoch 0."""
        self.epoch = self.position = 0

    def set_weights(self, weights: Weights) -> None:
        """Refuse to change the shares of domains, which are those of the build or plan.

        Raises:
            RecipeError: Always; it says how to open data that can be drawn by domain.
        """
        raise RecipeError(self._without_weights)

    @property
    def weights(self) -> dict[str, float]:
        """Shares that are asked for by domain, for loaders with weights.

        Raises:
            RecipeError: This loader has none.
        """
        raise RecipeError(self._without_weights)

    @property
    def drawn(self) -> dict[str, DrawnDomain]:
        """Refuse to count draws by domain, which only loaders with weights do.

        Raises:
            RecipeError: This loader has none.
        """
        raise RecipeError(self._without_weights)

    def __len__(self) -> int:
        """Count the batches that are left in this epoch."""
        left = self.sequences - self.position
        if self.options.last == "drop":
            return left // self.share.step_sequences
        return -(-left // self.share.step_sequences)

    @property
    def dropped_sequences(self) -> int:
        """Sequences at the end of this epoch that no batch will hold."""
        if self.options.last != "drop":
            return 0
        return (self.sequences - self.position) % self.share.step_sequences

    def __repr__(self) -> str:
        """Describe the position in the epoch, and the sequences left out."""
        return (
            f"<{len(self):,} batches of {self.share.batch_sequences} left in epoch "
            f"{self.epoch}, rank {self.share.rank} of {self.share.ranks}; "
            f"{self.dropped_sequences} sequences dropped at its end; {self.reader!r}>"
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from the current position to the end of the epoch.

        The state counts a batch as used when it is yielded; batches read ahead do not count.

        Raises:
            RecipeError: The last step has too few sequences for every rank to get one.
        """
        for block, read in self.blocks():
            for epoch, position, batch in block.batches(read):
                self.epoch, self.position = epoch, position
                yield batch

    def blocks(self, worker: int = 0, workers: int = 1) -> Iterator[tuple[BatchBlock, Batch]]:
        """Read the blocks of one worker, with how to cut each into batches.

        Args:
            worker: Number of this worker, from 0.
            workers: Number of workers that share the steps.

        Raises:
            RecipeError: The last step has too few sequences for every rank to get one.
        """
        self.check_last_step()
        ahead = -(-self.options.prefetch_batches // self._batches_together())
        waiting: deque[tuple[BatchBlock, Future[Batch]]] = deque()
        with ThreadPoolExecutor(1) as pool:
            for block in self._planned(worker, workers):
                if not ahead:
                    yield block, self.reader.read(block.numbers)
                    continue
                waiting.append((block, pool.submit(self.reader.read, block.numbers)))
                if len(waiting) > ahead:
                    done, read = waiting.popleft()
                    yield done, read.result()
            for done, read in waiting:
                yield done, read.result()

    @property
    def _without_weights(self) -> str:
        return (
            f"{self.reader.source.where}: this loader keeps the mixture that was planned; open the "
            'data with curate.load(…, weights="planned") to change shares during a run'
        )

    def _batches_together(self) -> int:
        tokens = self.share.batch_sequences * self.reader.sequence_length
        return max(1, BLOCK_TOKENS // tokens)

    def _planned(self, worker: int, workers: int) -> Iterator[BatchBlock]:
        """Yield the blocks of a worker, computing the numbers of many at once."""
        order = self._order()
        # The state moves on with every batch that is yielded, before the last are planned.
        begin = self.epoch, self.position
        together, steps = self._batches_together(), len(self)
        turns = range(worker, -(-steps // together), workers)
        at_once = max(1, PLANNED_SEQUENCES // (together * self.share.batch_sequences))
        for start in range(0, len(turns), at_once):
            blocks = [
                range(block * together, min((block + 1) * together, steps))
                for block in turns[start : start + at_once]
            ]
            yield from self._number(blocks, order, begin)

    def _number(
        self, blocks: Sequence[range], order: Order, begin: tuple[int, int]
    ) -> Iterator[BatchBlock]:
        """Compute the numbers of the sequences of blocks.

        Args:
            blocks: Ranges of steps, counted from `begin`.
            order: Order of the epoch.
            begin: Epoch and position at which the iteration began.
        """
        epoch, base = begin
        stop, taken = self.sequences, self.share.step_sequences
        firsts = [[base + step * taken for step in block] for block in blocks]
        positions = [[self.share.positions(first, stop) for first in block] for block in firsts]
        numbers = order(np.concatenate([step for block in positions for step in block]))
        start = 0
        for block, places in zip(firsts, positions, strict=True):
            rows = np.cumsum([0, *map(len, places)]).tolist()
            afters = [min(first + taken, stop) for first in block]
            states = [
                (epoch, after) if after + self._least() <= stop else (epoch + 1, 0)
                for after in afters
            ]
            yield BatchBlock(
                states, rows, numbers[start : start + rows[-1]], self.reader.sequence_length
            )
            start += rows[-1]

    def _least(self) -> int:
        """Return the smallest number of sequences that makes a step."""
        return self.share.step_sequences if self.options.last == "drop" else 1

    def _order(self) -> Order:
        source = self.reader.source
        if self.options.order == "stored":
            return source.stored_order()
        return source.order(self.seed, self.epoch)

    def check_last_step(self) -> None:
        """Check that every rank gets a sequence in the last step.

        Raises:
            RecipeError: It has too few.
        """
        rest = (self.sequences - self.position) % self.share.step_sequences
        if self.options.last == "short" and 0 < rest < self.share.ranks:
            raise RecipeError(
                f"curate.load: the last step of epoch {self.epoch} has "
                f"{counted(rest, 'sequence')} for {self.share.ranks} ranks, so some ranks would "
                f"wait forever; set last='drop' in LoaderOptions to leave these {rest} out, or "
                "change batch_sequences"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the position and the identity of the data as plain values, equal on all ranks."""
        source = self.reader.source
        return {
            "version": STATE_VERSION,
            "epoch": self.epoch,
            "position": self.position,
            "sequences": self.sequences,
            "window_tokens": source.window_tokens,
            "order": self.options.order,
            "seed": self.seed,
            "shards": source.fingerprint(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume after the last batch that was yielded when the state was saved.

        Ranks, workers and batch size may have changed since.

        Raises:
            ShardError: The state is not a loader's, or is of other shards, sequences or order.
        """
        check_state(state, self.state_dict(), self.reader.source.where)
        epoch, position = state["epoch"], state["position"]
        if position > self.sequences:
            raise ShardError(f"state: position {position} is beyond the {self.sequences} sequences")
        over = position + self._least() > self.sequences
        self.epoch, self.position = (epoch + 1, 0) if over else (epoch, position)


def _check(share: Share, options: LoaderOptions, sequences: int) -> None:
    if share.batch_sequences < 1 or share.ranks < 1 or not 0 <= share.rank < share.ranks:
        raise RecipeError(
            f"curate.load: batch_sequences {share.batch_sequences}, rank {share.rank} of "
            f"{share.ranks}: a batch has at least 1 sequence, ranks count from 0"
        )
    for key, value, choices in (
        ("order", options.order, ORDERS),
        ("last", options.last, LAST_STEPS),
    ):
        if value not in choices:
            hint = nearest_hint(str(value), choices)
            raise RecipeError(
                f"curate.load: {key}: there is no {value!r}{hint}; there are {', '.join(choices)}"
            )
    if options.prefetch_batches < 0:
        raise RecipeError(
            f"curate.load: prefetch_batches: {options.prefetch_batches} is below 0; 0 reads none"
        )
    if options.last == "drop" and share.step_sequences > sequences:
        raise RecipeError(
            f"curate.load: a step of {counted(share.ranks, 'rank')} takes "
            f"{counted(share.step_sequences, 'sequence')}, there are {sequences}; "
            "lower batch_sequences, or set last='short'"
        )
