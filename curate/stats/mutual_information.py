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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.runtime.compiled import Pointers, kernel
from curate.stats.bigram_sample import PairCounts
from curate.stats.unseen_species import fit_mixture

RARE_COUNT = 20
"""Cells seen more often than this contribute their frequency; the mixture explains the others."""

COUNTS = 2 * RARE_COUNT + 1
"""Counts that the mixture is fitted to: 0, 1, ... up to twice `RARE_COUNT`."""

HIGHEST = 16 * RARE_COUNT
"""Counts below this are expected of the cells in a fit."""

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

OCTAVES = 64
"""Octaves of counts. An octave of the counts of a token by one of those of its successor is known
by 64 times the first and the second, each the floor of log2 of the count."""


@dataclass(frozen=True, slots=True)
class _Margin:
    """Symbols of one margin, in classes of similar counts."""

    symbol_class: NDArray[np.int64]
    """shape (symbols,), class of each; -1 for symbols that do not occur."""
    mean: NDArray[np.float64]
    symbols: NDArray[np.int64]
    octave: NDArray[np.int64]
    """shape (classes,) each: mean count, symbols, and floor of log2 of the count."""


@dataclass(frozen=True, slots=True)
class LiftFits:
    """Fitted distributions of lifts, one for each octave of margins by another."""

    block_of: NDArray[np.int64]
    """shape (OCTAVES * (OCTAVES + 1) + 1,), number of the fit for each pair of octaves, or -1."""
    log_lift: NDArray[np.float64]
    """shape (fits, atoms), ln(lift + 0.001) of each atom, ascending; infinite for none."""
    mass: NDArray[np.float64]
    """shape (fits, atoms), share of the tokens that is at each lift."""
    undecided_nats: float
    """Information that the sample cannot tell from none, nats per token; see `_undecided`."""


NO_FITS = LiftFits(
    np.full(OCTAVES * (OCTAVES + 1) + 1, -1), np.empty((0, 0)), np.empty((0, 0)), 0.0
)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Cells of all octaves of margins by others that were seen, each octave by another a block.

    Blocks of the largest margins are first: they are fitted best, and sparser ones start from them.
    """

    octaves: NDArray[np.int64]
    """shape (blocks,), the octaves of each; see `OCTAVES`."""
    block: NDArray[np.int64]
    """shape (cells,), block of each class of cells, ascending."""
    seen: NDArray[np.float64]
    """shape (cells, COUNTS), number of cells of each class that were seen 0, 1, ... times."""
    expected: NDArray[np.float64]
    """shape (cells,), expected count under independence."""
    cells: NDArray[np.float64]
    """shape (cells,), number of cells, seen or not."""
    tokens: NDArray[np.float64]
    """shape (blocks,), tokens that all these cells would have under independence."""
    typical: NDArray[np.float64]
    """shape (blocks,), geometric mean of `expected` over these tokens."""


def fit_lifts(pairs: PairCounts, starts: LiftFits = NO_FITS) -> tuple[float, LiftFits]:
    """Estimate the information of a token about its successor, from fitted distributions of lifts.

    With e = c(x) c(y) / N and lift r, counts of a cell are Poisson with mean e r, and the
    information is the sum over cells of (e/N) E(r ln r). A cell seen more than `RARE_COUNT` times
    contributes (c ln(c/e) - 1/2) / N; the mixture gives the expected remainder of all the others,
    as in `unseen`.

    Args:
        pairs: Counts of pairs.
        starts: Fits of nearly the same sample to start from.

    Returns:
        Nats per token, at least 0, and the fits of all octaves of margins by others.

    References:
        We know of none that does this for pairs. The mixture is an empirical Bayes estimate in the
        sense of Robbins 1956; conditioning on margins is as in Fisher's test of independence.
    """
    tokens = pairs.tokens
    if not tokens:
        return 0.0, NO_FITS
    first, second = pairs.first_margin, pairs.second_margin
    often = pairs.count > RARE_COUNT
    count = pairs.count[often].astype(np.float64)
    chance = first[pairs.first[often]] * (second[pairs.second[often]] / tokens)
    nats = float((count * np.log(count / chance) - 0.5).sum()) / tokens
    rare, fits = _fit_blocks(_blocks(pairs, _margin(first), _margin(second)), tokens, starts)
    return max(0.0, nats + rare), fits


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


def _blocks(pairs: PairCounts, rows: _Margin, columns: _Margin) -> _Blocks:
    """Count the cells of every class of margins by another, and sort them by octaves."""
    width = COUNTS + 1  # the last for all higher counts
    cell = rows.symbol_class[pairs.first] * len(columns.mean) + columns.symbol_class[pairs.second]
    clipped = np.minimum(pairs.count, COUNTS)
    size = len(rows.mean) * len(columns.mean)
    seen = np.bincount(cell * width + clipped, minlength=size * width).reshape(size, width)
    cells = (rows.symbols[:, None] * columns.symbols).ravel()
    seen[:, 0] = np.maximum(cells - seen.sum(1), 0)
    expected = (rows.mean[:, None] * columns.mean / pairs.tokens).ravel()
    octaves_of = (rows.octave[:, None] * OCTAVES + columns.octave).ravel()
    octaves = np.unique(octaves_of[seen[:, 1:COUNTS].any(1)])
    octaves = octaves[np.argsort(-(octaves // OCTAVES + octaves % OCTAVES), kind="stable")]
    block = _block_of(octaves)[octaves_of]
    order = np.argsort(block, kind="stable")[np.count_nonzero(block < 0) :]
    block, expected, few = block[order], expected[order], cells[order].astype(np.float64)
    tokens = few * expected
    tokens_of = np.bincount(block, tokens).astype(np.float64)
    typical = np.exp(np.bincount(block, np.log(expected) * tokens) / tokens_of)
    counted = seen[order, :COUNTS].astype(np.float64)
    return _Blocks(octaves, block, counted, expected, few, tokens_of, typical)


def _block_of(octaves: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of the block for each pair of octaves, or -1."""
    numbers = np.full(OCTAVES * (OCTAVES + 1) + 1, -1)
    numbers[octaves] = np.arange(len(octaves))
    return numbers


def _fit_blocks(blocks: _Blocks, tokens: int, starts: LiftFits) -> tuple[float, LiftFits]:
    """Fit the lifts of all blocks; return the information in their rare cells, and the fits."""
    number = len(blocks.octaves)
    if not number:
        return 0.0, NO_FITS
    sparse = blocks.typical < SPARSE_EXPECTED
    lift = _lift_grids(blocks.typical, sparse, starts.mass.shape[1])
    stride = lift.shape[1]
    log_lift, atoms = np.log(lift + 1e-3), np.count_nonzero(np.isfinite(lift), axis=1)
    lift[np.isinf(lift)] = 0.0
    near, logs, mass = _sources(blocks.octaves, sparse, log_lift, starts)
    cells_of = np.bincount(blocks.block)
    most = int(cells_of.max()) * COUNTS + 3
    likelihood, frequency = np.empty((2, most * stride)), np.empty((2, most))
    scratch = list(np.empty((9, stride)))
    weight, value = np.zeros((number, stride)), np.zeros(number)
    _fit(
        number, np.cumsum(cells_of), sparse.astype(np.int64), atoms, stride, tokens, near,
        blocks.seen, blocks.expected, np.log(blocks.expected), blocks.cells,
        np.exp(-blocks.expected[:, None] * lift[blocks.block]), lift,
        lift * np.log(np.where(lift > 0, lift, 1.0)), np.log(np.maximum(np.arange(HIGHEST), 1)),
        logs, mass, *likelihood, *frequency, Pointers.to(scratch), weight, value,
    )  # fmt: skip
    undecided = _undecided(weight[sparse], blocks.tokens[sparse] / tokens)
    return float(value.sum()), LiftFits(
        _block_of(blocks.octaves), log_lift, mass[:number], undecided
    )


def _lift_grids(
    typical: NDArray[np.float64], sparse: NDArray[np.bool_], columns: int
) -> NDArray[np.float64]:
    """Make grids of lifts: 0, 1, geometric up to a quarter of a count, then even in their roots.

    Sparse cells get no lift below 1, since their counts could not distinguish it from 1.

    Args:
        typical: See `_Blocks`.
        sparse: shape (blocks,), whether a block's cells are sparse.
        columns: Fewest columns of the result.

    Returns:
        shape (blocks, atoms), ascending; rows are filled up with infinity to a multiple of 4.
    """
    lowest, highest = np.where(sparse, 1.0, 0.05), 0.25 / typical
    points = np.maximum(3, (np.log(highest / lowest) * 2.5).astype(np.int64) - 1)
    points[highest <= lowest] = 0
    step = np.arange(points.max())
    geometric = np.full((len(typical), len(step)), np.inf)
    row, column = np.nonzero(step < points[:, None])
    geometric[row, column] = lowest[row] * (highest / lowest)[row] ** (column / points[row])
    below = np.tile([0.0, 1.0], (len(typical), 1))
    lift = np.concatenate([below, SQUARES / typical[:, None], geometric], axis=1)
    lift[sparse[:, None] & (lift < 1.0)] = np.inf
    lift.sort(axis=1)
    lift[:, 1:][lift[:, 1:] == lift[:, :-1]] = np.inf
    lift.sort(axis=1)
    used = max(columns, int(np.count_nonzero(np.isfinite(lift), axis=1).max()))
    used = -(-used // 4) * 4
    return np.pad(
        lift[:, :used], ((0, 0), (0, max(0, used - lift.shape[1]))), constant_values=np.inf
    )


def _sources(
    octaves: NDArray[np.int64],
    sparse: NDArray[np.bool_],
    log_lift: NDArray[np.float64],
    starts: LiftFits,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the fits that each starts from, and tables of these: made ones first, then `starts`.

    Args:
        octaves: See `_Blocks`.
        sparse: shape (blocks,), whether a block's cells are sparse.
        log_lift: shape (blocks, atoms), see `LiftFits`.
        starts: Fits of nearly the same sample.

    Returns:
        Numbers of fits, shape (blocks, 2), -1 for none; log_lift and mass, see `LiftFits`.
    """
    blocks, given = len(octaves), starts.mass.shape[1]
    near = _block_of(octaves)[octaves[:, None] + [OCTAVES, 1]]
    near[~sparse] = -1
    first = starts.block_of[octaves]
    near[first >= 0, 0] = first[first >= 0] + blocks
    near[first >= 0, 1] = -1
    logs = np.full((blocks + len(starts.mass), log_lift.shape[1]), np.inf)
    mass = np.zeros(logs.shape)
    logs[:blocks] = log_lift
    logs[blocks:, :given], mass[blocks:, :given] = starts.log_lift, starts.mass
    return near, logs, mass


def _undecided(weight: NDArray[np.float64], share: NDArray[np.float64]) -> float:
    """Compute how much of the information of sparse cells may be none, nats per token.

    Where each token has favourite successors, all others follow less often than by chance. A fit of
    cells seen at most a few times says that a share w of the cells occurs by chance and a share v
    never does. That every one of them occurs with lift w / (w + v) explains the counts as well, and
    has the least information: w ln((w + v) / w) less, for each token expected in the block.

    Args:
        weight: shape (blocks, atoms), shares of the cells, of which the first are at lift 1.
        share: shape (blocks,), share of all tokens that is expected in the block.
    """
    chance, never = weight[:, 0], np.maximum(0.0, 1.0 - weight.sum(1))
    some = chance > 0
    chance, never = chance[some], never[some]
    return float((share[some] * chance * (np.log(chance + never) - np.log(chance))).sum())


@kernel
def _fit(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    blocks, stops, sparse, atoms, stride, tokens, near, seen, expected, log_expected, cells, none,  # noqa: ANN001
    lift, gain, log_counts, logs, mass, rows, columns, frequency, totals, scratch, weight, value,  # noqa: ANN001
):  # fmt: skip
    """Fit all blocks, each after those that it starts from; fill `mass`, `weight` and `value`.

    For `near`, `logs` and `mass` see `_sources`, for `seen`, `expected` and `cells` see `_Blocks`,
    and for `rows`, `columns`, `frequency` and `totals`, which are scratch, see `fit_mixture`. There
    are `stride` atoms in a row of any table, of which a block uses the first `atoms`. Its cells end
    at `stops`, and are seen 0 times with chance `none`. It has lifts r in `lift`, r ln r in `gain`,
    and `sparse` is 1 if the fit omits unseen cells, else 0. Of its cells the shares `weight` have
    each lift, and those not seen often have the information `value`.
    """
    chance, information, share = scratch[0], scratch[1], scratch[2]
    fitted, inverse, moved = scratch[3], scratch[4], scratch[5]
    start = 0
    for block in range(blocks):
        stop, at, used = stops[block], block * stride, atoms[block]
        total = 0.0
        for cell in range(start, stop):
            total += cells[cell]
        outcomes = _tabulate(
            start, stop, total, sparse[block], stride, used, tokens, at, seen, expected,
            log_expected, cells, none, lift, gain, log_counts, rows, frequency, scratch,
        )  # fmt: skip
        outcomes = _turn(rows, columns, frequency, outcomes, stride)
        refit = near[2 * block] >= blocks
        inherited = 0.0
        if _inherit(block, near, stride, used, logs, mass, lift, chance, share):
            inherited = 1.0 if refit else INHERITED
        for atom in range(stride):
            inverse[atom] = 1.0 / chance[atom] if atom < used and chance[atom] > 1e-12 else 0.0
            fitted[atom] = (inherited * share[atom] + (1.0 - inherited) / used) * inverse[atom]
        rounds = REFIT_ROUNDS if refit else MIXTURE_ROUNDS
        fit_mixture(
            rows, columns, frequency, fitted, inverse, totals, moved, outcomes, stride, rounds
        )
        # Turn weights into shares of all cells. A sparse fit knows only the cells that were seen;
        # if its weights sum to less than 1, the rest are cells that never occur.
        in_fit, fit_cells, fit_mass = 0.0, 0.0, 0.0
        for atom in range(used):
            in_fit += fitted[atom] * (chance[atom] if sparse[block] else 1.0)
        for outcome in range(outcomes):
            fit_cells += frequency[outcome]
        for atom in range(used):
            weight[at + atom] = (
                fitted[atom] / in_fit * (fit_cells / total if sparse[block] else 1.0)
            )
            value[block] += weight[at + atom] * information[atom]
            some = lift[at + atom] if lift[at + atom] > 1e-3 else 1e-3
            mass[at + atom] = weight[at + atom] * some
            fit_mass += mass[at + atom]
        for atom in range(used):
            mass[at + atom] /= fit_mass
        start = stop
    return 0


@kernel
def _turn(rows, columns, frequency, outcomes, stride):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill rows up with zeros to a multiple of 4, and transpose them; return their number."""
    filled = (outcomes + 3) // 4 * 4
    for outcome in range(outcomes, filled):
        frequency[outcome] = 0.0
        for atom in range(stride):
            rows[outcome * stride + atom] = 0.0
    for atom in range(stride):
        for outcome in range(filled):
            columns[atom * filled + outcome] = rows[outcome * stride + atom]
    return filled


@kernel
def _inherit(block, near, stride, atoms, logs, mass, lift, chance, share):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Move other fits to the nearest lifts of this grid, as shares of the cells in the fit.

    Returns the number of these fits.
    """
    at = block * stride
    for atom in range(stride):
        share[atom] = 0.0
    fits = (near[2 * block] >= 0) + (near[2 * block + 1] >= 0)
    for side in range(2):
        source = near[2 * block + side] * stride
        if source < 0:
            continue
        place = 0
        for atom in range(stride):
            if mass[source + atom] > 0:
                log = logs[source + atom]
                # The next lift is nearer where this one is below the middle of both.
                while place + 1 < atoms and logs[at + place] + logs[at + place + 1] < 2 * log:
                    place += 1
                share[place] += mass[source + atom] / fits
    total = 0.0
    for atom in range(atoms):
        share[atom] *= chance[atom] / (lift[at + atom] if lift[at + atom] > 1e-3 else 1e-3)
        total += share[atom]
    for atom in range(atoms):
        share[atom] = share[atom] / total if total > 0 else 1.0 / atoms
    return fits


@kernel
def _tabulate(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    start, stop, total, lowest, stride, atoms, tokens, at, seen, expected, log_expected,  # noqa: ANN001
    cells, none, lift, gain, log_counts, rows, frequency, scratch,  # noqa: ANN001
):  # fmt: skip
    """Tabulate the likelihood of a block's counts, and return the number of outcomes seen.

    Fills `rows` and `frequency`, and of `scratch`: 0, the chance to be in the fit, mean over cells;
    1, the information of the block if all its cells had that lift, less what the cells seen often
    are expected to contribute by themselves. Arguments are those of `_fit`.
    """
    chance, information = scratch[0], scratch[1]
    rate, probability, reached, gained = scratch[5], scratch[6], scratch[7], scratch[8]
    for atom in range(stride):
        chance[atom] = information[atom] = probability[atom] = 0.0
    outcomes = 0
    for cell in range(start, stop):
        for atom in range(atoms):
            rate[atom] = expected[cell] * lift[at + atom]
            probability[atom] = none[cell * stride + atom]
            gained[atom] = expected[cell] * gain[at + atom] / tokens
            reached[atom] = 0.0
        first = 0  # lifts are ascending, so the lowest are the first that cannot reach a count
        for count in range(HIGHEST):
            if count > 0:
                for atom in range(first, atoms):
                    probability[atom] *= rate[atom] / count
            if lowest <= count < COUNTS:
                for atom in range(first, atoms):
                    reached[atom] += probability[atom]
                if seen[cell * COUNTS + count] > 0:
                    frequency[outcomes] = seen[cell * COUNTS + count]
                    for atom in range(stride):
                        rows[outcomes * stride + atom] = probability[atom]
                    outcomes += 1
            if count > RARE_COUNT:
                often = (count * (log_counts[count] - log_expected[cell]) - 0.5) / tokens
                for atom in range(first, atoms):
                    gained[atom] -= probability[atom] * often
                while first < atoms and count > rate[first] and probability[first] < 1e-17:
                    probability[first] = 0.0
                    first += 1
                if first == atoms and count >= COUNTS:
                    break
        for atom in range(atoms):
            chance[atom] += reached[atom] * cells[cell] / total
            information[atom] += gained[atom] * cells[cell]
            probability[atom] = 0.0
    return outcomes
