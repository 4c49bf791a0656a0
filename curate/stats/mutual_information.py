"""Estimate mutual information of neighbouring tokens where most pairs were never seen.

Every pair of symbols, seen or not, is a cell with an expected count under independence, the product
of its margins over the tokens, and a *lift*: how many times more likely the pair really is. Cells
of similar margins share one distribution of lifts, found by maximum likelihood from how often they
were seen 0, 1, 2, ... times. Independent tokens give lift 1 and information 0 however few tokens
there are, where estimators that look at pairs alone see only singletons.

The estimate leans towards independence where the sample cannot tell, so an entropy made with it is
an upper end; `curate.stats.conditional` combines it with a lower one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numba
import numpy as np
from numpy.typing import NDArray

from curate.stats.bigram_sample import PairCounts
from curate.stats.unseen_species import fit_mixture

RARE_COUNT = 20
"""Cells seen more often than this contribute their frequency; the mixture explains the others."""

CLASSES_PER_OCTAVE = 2
"""Classes of margins in an octave: counts within a factor 2^(1/2) are treated as equal. One mixture
covers an octave of first margins by an octave of second margins."""

SPARSE_EXPECTED = 0.5
"""Below this expected count, unseen cells carry no information on lift, so the fit omits them."""

INHERITED = 0.9
"""Share of the start of a fit that comes from its neighbours with more tokens."""

MIXTURE_ROUNDS = 100

REFIT_ROUNDS = 15
"""Rounds of a fit that starts from nearly the same sample, which is close to converged."""

SQUARES = np.arange(0.5, math.sqrt(3 * RARE_COUNT), 0.25) ** 2
"""Lifts above a quarter of a count, times the typical expected count."""

Octaves = tuple[int, int]
"""Floor of log2 of the counts of a token and of its successor."""


@dataclass(frozen=True, slots=True)
class _Margin:
    """Symbols of one margin, in classes of similar counts."""

    symbol_class: NDArray[np.int64]
    """shape (symbols,), class of each; -1 for symbols that do not occur."""
    mean: NDArray[np.float64]
    symbols: NDArray[np.int64]
    octave: NDArray[np.int64]
    """shape (classes,) each: mean count, symbols, and floor of log2 of the count."""


@dataclass(frozen=True)
class LiftFit:
    """Fitted distribution of lifts for one octave of margins by another."""

    lift: NDArray[np.float64]
    """shape (atoms,), lift of each atom."""
    weight: NDArray[np.float64]
    """shape (atoms,), share of the cells that have this lift."""
    undecided_nats: float = 0.0
    """Information that the sample cannot tell from none, nats per token; see `_undecided`."""

    @cached_property
    def masses(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the logarithms of the lifts, and the share of the tokens that is at each."""
        mass = self.weight * np.maximum(self.lift, 1e-3)
        return np.log(self.lift + 1e-3), mass / mass.sum()


@dataclass(frozen=True, slots=True)
class _Block:
    """Cells of one octave of margins by another."""

    seen: NDArray[np.float64]
    """shape (classes, counts), number of cells of each class seen 0, 1, ... times."""
    expected: NDArray[np.float64]
    """shape (classes,), expected count under independence."""
    cells: NDArray[np.float64]
    """shape (classes,), number of cells, seen or not."""
    tokens: float
    """Tokens that all these cells would have under independence."""
    typical: float
    """Geometric mean of `expected` over these tokens."""


@dataclass(frozen=True, slots=True)
class _Start:
    """Starting point of a fit."""

    fits: Sequence[LiftFit]
    share: float
    """Share of the start that comes from the fits, 0 to 1; the rest is flat."""
    rounds: int
    """Most rounds of EM."""


def fit_lifts(
    pairs: PairCounts, starts: Mapping[Octaves, LiftFit]
) -> tuple[float, dict[Octaves, LiftFit]]:
    """Estimate the information of a token about its successor, from fitted distributions of lifts.

    With e = c(x) c(y) / N and lift r, counts of a cell are Poisson with mean e r, and the
    information is the sum over cells of (e/N) E(r ln r). A cell seen more than `RARE_COUNT` times
    contributes (c ln(c/e) - 1/2) / N; the mixture gives the expected remainder of all the others,
    as in `unseen`.

    Args:
        pairs: Counts of pairs.
        starts: Fits of nearly the same sample to start from; empty for a fresh fit.

    Returns:
        Nats per token, at least 0, and the fit of every octave of margins by another.

    References:
        We know of none that does this for pairs. The mixture is an empirical Bayes estimate in the
        sense of Robbins 1956; conditioning on margins is as in Fisher's test of independence.
    """
    tokens = pairs.tokens
    if not tokens:
        return 0.0, {}
    first, second = pairs.first_margin(), pairs.second_margin()
    rows, columns = _margin(first), _margin(second)
    width = 2 * RARE_COUNT + 2
    cell = rows.symbol_class[pairs.first] * len(columns.mean) + columns.symbol_class[pairs.second]
    clipped = np.minimum(pairs.count, width - 1)
    size = len(rows.mean) * len(columns.mean) * width
    table = np.bincount(cell * width + clipped, minlength=size)
    observed = table.reshape(len(rows.mean), len(columns.mean), width).astype(np.float64)
    cells = rows.symbols[:, None].astype(np.float64) * columns.symbols[None, :]
    observed[:, :, 0] = np.maximum(cells - observed.sum(2), 0.0)
    expected = rows.mean[:, None] * columns.mean[None, :] / tokens

    often = pairs.count > RARE_COUNT
    count = pairs.count[often].astype(np.float64)
    chance = first[pairs.first[often]] * (second[pairs.second[often]] / tokens)
    nats = float((count * np.log(count / chance) - 0.5).sum()) / tokens
    row_slices, column_slices = _slices(rows.octave), _slices(columns.octave)
    tokens_of = cells * expected
    logs = np.log(expected) * tokens_of
    is_seen = np.logical_or.reduce(observed[:, :, 1 : width - 1] > 0, axis=2)
    octaves = [
        (a, b) for a in row_slices for b in column_slices
        if is_seen[row_slices[a], column_slices[b]].any()
    ]  # fmt: skip
    fits: dict[Octaves, LiftFit] = {}
    # Largest margins first: they are fitted best, and sparser octaves start from them.
    for a, b in sorted(octaves, key=lambda pair: (-pair[0] - pair[1], pair)):
        block = row_slices[a], column_slices[b]
        seen = observed[block].reshape(-1, width)[:, : width - 1]
        near = [fits[key] for key in ((a + 1, b), (a, b + 1)) if key in fits]
        start = _Start(near, INHERITED, MIXTURE_ROUNDS)
        if (a, b) in starts:
            start = _Start([starts[a, b]], 1.0, REFIT_ROUNDS)
        fits[a, b], value = _fit_block(
            _block(seen, *(table[block].ravel() for table in (expected, cells, tokens_of, logs))),
            start,
            tokens,
        )
        nats += value
    return max(0.0, nats), fits


def _block(
    seen: NDArray[np.float64],
    expected: NDArray[np.float64],
    cells: NDArray[np.float64],
    tokens_of: NDArray[np.float64],
    logs: NDArray[np.float64],
) -> _Block:
    """Make a block of cells.

    Args:
        seen: See `_Block`.
        expected: See there.
        cells: See there.
        tokens_of: shape (classes,), tokens of each class under independence.
        logs: shape (classes,), these times the logarithm of `expected`.
    """
    total = np.add.reduce(tokens_of)
    return _Block(seen, expected, cells, float(total), float(np.exp(np.add.reduce(logs) / total)))


def _slices(octaves: NDArray[np.int64]) -> dict[int, slice]:
    """Return the classes of each octave, which follow one another."""
    first, start, classes = np.unique(octaves, return_index=True, return_counts=True)
    stops = (start + classes).tolist()
    return dict(zip(first.tolist(), map(slice, start.tolist(), stops), strict=True))


def _margin(count: NDArray[np.int64]) -> _Margin:
    """Group the symbols of a margin by half octaves of their count."""
    used = count > 0
    half_octave = np.full(len(count), -1, np.int64)
    half_octave[used] = np.floor(np.log2(count[used]) * CLASSES_PER_OCTAVE + 1e-9)
    level, member = np.unique(half_octave[used], return_inverse=True)
    symbol_class = np.full(len(count), -1, np.int64)
    symbol_class[used] = member
    symbols = np.bincount(member)
    mean = np.bincount(member, count[used]) / symbols
    return _Margin(symbol_class, mean, symbols, level // CLASSES_PER_OCTAVE)


def _fit_block(block: _Block, start: _Start, tokens: int) -> tuple[LiftFit, float]:
    """Fit the lifts of one block of cells; return them with the information in its rare cells."""
    sparse = block.typical < SPARSE_EXPECTED
    lift = _lift_grid(block.typical, sparse)
    likelihood, frequency, seen, chance, value = _tabulate(
        block.seen, block.expected, block.cells, lift, sparse, tokens, RARE_COUNT
    )
    # Shares of the cells in the fit: observed cells if sparse, all cells otherwise.
    if start.fits and (sparse or start.share == 1.0):
        share, inherited = _inherited(start.fits, lift, chance), start.share
    else:
        share, inherited = lift, 0.0
    weight, inverse = _start_weights(share, inherited, chance)
    weight /= np.add.reduce(weight)  # `weight.sum()` in half the time
    fit_mixture(likelihood, frequency, weight, inverse, start.rounds)
    # Turn weights into shares of all cells. A sparse fit knows only the cells that were seen; if
    # its weights sum to less than 1, the rest are cells that never occur.
    if sparse:
        weight *= seen / float(weight @ chance) / np.add.reduce(block.cells)
    else:
        weight /= np.add.reduce(weight)
    undecided = _undecided(block, weight, tokens) if sparse else 0.0
    return LiftFit(lift, weight, undecided), float(weight @ value)


def _undecided(block: _Block, weight: NDArray[np.float64], tokens: int) -> float:
    """Compute how much of the information of sparse cells may be none, nats per token.

    Where each token has favourite successors, all others follow less often than by chance. A fit of
    cells seen at most a few times says that a share w of the cells occurs by chance and a share v
    never does. That every one of them occurs with lift w / (w + v) explains the counts as well, and
    has the least information: w ln((w + v) / w) less, for each token expected in the block.
    """
    chance = float(weight[0])  # the first lift is 1
    never = max(0.0, 1.0 - float(np.add.reduce(weight)))
    if chance <= 0:
        return 0.0
    return block.tokens / tokens * chance * (math.log(chance + never) - math.log(chance))


def _inherited(
    fits: Sequence[LiftFit], lift: NDArray[np.float64], chance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Move other fits to this grid, weighted by their tokens, as shares of the cells in a fit."""
    log_lift, moved = np.log(lift + 1e-3), np.zeros(len(lift))
    for fit in fits:
        _move(log_lift, *fit.masses, len(fits), moved)
    share = np.asarray(moved * (chance / np.maximum(lift, 1e-3)))
    total = float(np.add.reduce(share))
    return share / total if total > 0 else np.full(len(lift), 1.0 / len(lift))


def _lift_grid(typical: float, sparse: bool) -> NDArray[np.float64]:
    """Make the grid of lifts: 1, geometric up to a quarter of a count, then even in its root.

    Sparse cells get no lift below 1, since their counts could not distinguish it from 1.
    """
    lowest, highest = 1.0 if sparse else 0.05, 0.25 / typical
    geometric = np.empty(0)
    if highest > lowest:
        points = max(4, int(math.log(highest / lowest) * 2.5))
        geometric = lowest * (highest / lowest) ** _even(points - 1)
    return np.asarray(_ascending(SQUARES, typical, geometric, sparse))


@cache
def _even(points: int) -> NDArray[np.float64]:
    """Return 0, 1 / points, 2 / points, ... below 1."""
    return np.arange(points) / points


# A fit is of a few dozen numbers, for which a call of NumPy takes longer than its work.


@numba.njit(cache=True, nogil=True)
def _ascending(squares, typical, geometric, sparse):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sort the lifts and leave out repeated ones, and those below 1 of sparse cells."""
    lift = np.empty(len(squares) + len(geometric) + 2)
    lift[0], lift[1] = 1.0, 1.0 if sparse else 0.0
    lift[2 : 2 + len(squares)] = squares / typical
    lift[2 + len(squares) :] = geometric
    lift.sort()
    kept = 0
    for place in range(len(lift)):
        if not (sparse and lift[place] < 1.0) and (place == 0 or lift[place] != lift[place - 1]):
            lift[kept] = lift[place]
            kept += 1
    return lift[:kept].copy()


@numba.njit(cache=True, nogil=True)
def _move(log_lift, log_from, mass, fits, moved):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add the masses of one of several fits to the nearest lifts of another grid."""
    for atom in range(len(mass)):
        nearest = 0
        for place in range(1, len(log_lift)):
            if abs(log_lift[place] - log_from[atom]) < abs(log_lift[nearest] - log_from[atom]):
                nearest = place
        moved[nearest] += mass[atom] / fits


@numba.njit(cache=True, nogil=True)
def _start_weights(share, inherited, chance):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return weights to start from, and one over the chances, 0 where there is hardly one."""
    weight, inverse = np.empty(len(chance)), np.zeros(len(chance))
    even = 1.0 / len(chance)
    for atom in range(len(chance)):
        if chance[atom] > 1e-12:
            inverse[atom] = 1.0 / chance[atom]
        start = even
        if inherited > 0:
            start = inherited * share[atom] + (1 - inherited) * even
        weight[atom] = start * inverse[atom]
    return weight, inverse


@numba.njit(cache=True, nogil=True)
def _tabulate(seen, expected, cells, lift, sparse, tokens, rare):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Tabulate the likelihood of the counts, the chance of being in the fit, and information.

    Returns:
        likelihood, shape (outcomes, atoms); frequency, shape (outcomes,), shares of the cells that
        are seen, and their number; chance, shape (atoms,), mean over cells; value, shape (atoms,),
        information of the block if all its cells had that lift, less what the cells seen often are
        expected to contribute by themselves.
    """
    classes, counts = seen.shape
    atoms = len(lift)
    lowest = 1 if sparse else 0
    outcomes = 0
    for group in range(classes):
        for count in range(lowest, counts):
            outcomes += seen[group, count] > 0
    likelihood = np.empty((outcomes, atoms))
    frequency = np.empty(outcomes)
    chance = np.zeros(atoms)
    value = np.zeros(atoms)
    total = cells.sum()
    highest = 16 * rare
    often = np.zeros(highest)
    column = np.empty(counts)
    base = 0
    for group in range(classes):
        tabulated = rare + 1
        for atom in range(atoms):
            rate = expected[group] * lift[atom]
            probability = math.exp(-rate)
            reached = 0.0
            column[:] = 0.0
            information = rate / tokens * math.log(lift[atom]) if lift[atom] > 0 else 0.0
            for count in range(highest):
                if count > 0:
                    probability *= rate / count
                if count < counts:
                    column[count] = probability
                    if count >= lowest:
                        reached += probability
                if count > rare:
                    if count == tabulated:  # most rates do not reach the highest counts
                        often[count] = (count * math.log(count / expected[group]) - 0.5) / tokens
                        tabulated += 1
                    information -= probability * often[count]
                    if count > rate and probability < 1e-17:
                        break
            chance[atom] += reached * cells[group] / total
            value[atom] += information * cells[group]
            row = base
            for count in range(lowest, counts):
                if seen[group, count] > 0:
                    likelihood[row, atom] = column[count]
                    row += 1
        for count in range(lowest, counts):
            if seen[group, count] > 0:
                frequency[base] = seen[group, count]
                base += 1
    seen_cells = frequency.sum()
    return likelihood, frequency / seen_cells, seen_cells, chance, value
