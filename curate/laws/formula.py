"""Fitted laws as formulas of shares and tokens, which other programs can evaluate.

At a fixed number of parameters, a law is a function of the shares and of a run's tokens, and every
law but the trees is a composition of the few operations below. The mixture explorer of the report
evaluates them in the browser (`curate/report/page/law.js`), so a new law needs no JavaScript: its
fitted class has a method `formula` that composes these functions.

A formula has one value for each domain or each target, or a single one. Numbers are written as
float64 in base64, each array once.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.laws.law import Array, FittedLaw


@dataclass(frozen=True, slots=True)
class Formula:
    """An operation on the values of other formulas."""

    operation: str
    """One of those that `law.js` evaluates."""
    of: tuple[Formula, ...] = ()
    """Formulas that it takes."""
    arrays: Mapping[str, Array] = field(default_factory=dict)
    """Its coefficients."""

    def to_json(self) -> dict[str, Any]:
        """Return the formula, and the table of arrays that its operations refer to by number."""
        table: dict[tuple[tuple[int, ...], bytes], int] = {}
        formula = self._node(table)
        arrays = [np.frombuffer(content, "<f8").reshape(shape) for shape, content in table]
        return {"formula": formula, "arrays": [encoded(array) for array in arrays]}

    def _node(self, table: dict[tuple[tuple[int, ...], bytes], int]) -> dict[str, Any]:
        places = {}
        for name, array in self.arrays.items():
            key = (array.shape, np.ascontiguousarray(array, "<f8").tobytes())
            places[name] = table.setdefault(key, len(table))
        return {"operation": self.operation, "of": [of._node(table) for of in self.of], **places}


def encoded(array: Array) -> dict[str, Any]:
    """Write an array as JSON: its shape, and float64 numbers, little-endian, in base64."""
    content = np.ascontiguousarray(array, "<f8").tobytes()
    return {"shape": list(array.shape), "float64": base64.b64encode(content).decode("ascii")}


def decoded(value: Mapping[str, Any], shape: tuple[int | None, ...]) -> Array:
    """Read what `encoded` wrote.

    Args:
        value: The JSON.
        shape: Expected shape; None where any length will do.

    Raises:
        ValueError: It is no such array, of another shape, or has a number that is not finite.

    Example:
        >>> decoded(encoded(np.array([[1.0, 2.0]])), (None, 2)).tolist()
        [[1.0, 2.0]]
    """
    content = value.get("float64")
    if not isinstance(content, str):
        raise ValueError("an array without numbers")
    numbers = np.frombuffer(base64.b64decode(content, validate=True), "<f8")
    array = numbers.reshape([-1 if length is None else length for length in shape])
    if list(array.shape) != value.get("shape") or not np.isfinite(array).all():
        raise ValueError("an array of another shape, or with numbers that are not finite")
    return array


@runtime_checkable
class LawWithFormula(Protocol):
    """A fitted law that can be written as a formula."""

    def formula(self, params: float) -> Formula | None:
        """Write the predicted losses as a formula of shares and tokens.

        Args:
            params: Parameters of the model; NaN where the fitted table had NaN.

        Returns:
            The losses of every target; None if a part of the law has no formula.
        """
        ...


def formula_of(law: FittedLaw, params: float) -> Formula | None:
    """Return the formula of a law for models of this size; None if it has none.

    Trees have none, nor have laws of packages that do not provide it.

    Args:
        law: Any fitted law.
        params: Parameters of the model; NaN where the fitted table had NaN.
    """
    return law.formula(params) if isinstance(law, LawWithFormula) else None


def shares() -> Formula:
    """Return the shares themselves, one value for each domain."""
    return Formula("shares")


def tokens() -> Formula:
    """Return the training tokens of a run, a single value."""
    return Formula("tokens")


def constant(values: ArrayLike) -> Formula:
    """Return the same values for every mixture."""
    return Formula("constant", arrays={"values": np.atleast_1d(np.asarray(values, np.float64))})


def add(*of: Formula) -> Formula:
    """Sum formulas; one of a single value is added to all values of the others."""
    return Formula("add", of)


def multiply(*of: Formula) -> Formula:
    """Multiply formulas; one of a single value multiplies all values of the others."""
    return Formula("multiply", of)


def maximum(of: Formula, least: Formula) -> Formula:
    """Take the larger of two formulas, value by value."""
    return Formula("maximum", (of, least))


def minimum(of: Formula, most: Formula) -> Formula:
    """Take the smaller of two formulas, value by value."""
    return Formula("minimum", (of, most))


def exp(of: Formula) -> Formula:
    """Take e to the power of each value."""
    return Formula("exp", (of,))


def log(of: Formula) -> Formula:
    """Take the natural logarithm of each value."""
    return Formula("log", (of,))


def softplus(of: Formula) -> Formula:
    """Compute ln(1 + e^x) of each value."""
    return Formula("softplus", (of,))


def power(of: Formula, exponent: Formula) -> Formula:
    """Raise each value to an exponent."""
    return Formula("power", (of, exponent))


def pick(of: Formula, places: ArrayLike) -> Formula:
    """Take the values at these places, one for each target."""
    return Formula("pick", (of,), {"places": np.asarray(places, np.float64)})


def join(*of: Formula) -> Formula:
    """Put the values of formulas after each other."""
    return Formula("join", of)


def below(of: Formula, limit: float, smaller: Formula, otherwise: Formula) -> Formula:
    """Take one formula where a single value is below a limit, and another where it is not.

    Args:
        of: The single value.
        limit: In the unit of `of`.
        smaller: Taken below the limit.
        otherwise: Taken at and above it.
    """
    return Formula("below", (of, smaller, otherwise), {"limit": np.array([limit])})


def at_tokens(of: Formula, count: Formula) -> Formula:
    """Evaluate a formula at other tokens, a single value."""
    return Formula("at_tokens", (of, count))


def mean_over(of: Formula, mixtures: Array) -> Formula:
    """Average a formula over mixtures, shape (mixtures, domains), whatever the shares are."""
    return Formula("mean_over", (of,), {"mixtures": mixtures})


def interpolate(of: Formula, places: Array, values: Array) -> Formula:
    """Interpolate linearly in a single value; beyond the ends the values stay.

    Args:
        of: A single value.
        places: shape (places,), rising.
        values: shape (targets, places).
    """
    return Formula("interpolate", (of,), {"places": places, "heights": values})


def nearest(of: Formula, places: Array, away: Array, values: Array) -> Formula:
    """Take the values of the place that a single value is nearest to; of equals, the first.

    Args:
        of: A single value.
        places: shape (places,).
        away: shape (places,), added to each distance.
        values: shape (places, targets).
    """
    arrays = {"places": places, "away": away, "heights": values}
    return Formula("nearest", (of,), arrays)


CURVE_TERMS = 20
"""Chebyshev polynomials of a piece of a curve."""
CURVE_PIECES = 64
"""Most pieces. Curves have kinks where linear forms of level end at their least one. A formula of
such curves takes 1 s, four times less than with 256 pieces, and is right to 1e-6 a million times
beyond the runs."""
CURVE_ERROR = 1e-12
"""Error of a piece, relative to its largest value, up to which pieces are halved."""


def curve(of: Formula, function: Callable[[Array], Array], span: tuple[float, float]) -> Formula:
    """Write any smooth function of a single value as Chebyshev polynomials in pieces.

    Args:
        of: A single value; outside the span, the function's value at its end is taken.
        function: Takes places, shape (places,), and returns values, shape (places, targets).
        span: Least and largest place.
    """
    from numpy.polynomial import chebyshev

    nodes = chebyshev.chebpts1(CURVE_TERMS)
    tests = np.linspace(-1, 1, 2 * CURVE_TERMS + 3)[1:-1]
    solve = np.linalg.inv(chebyshev.chebvander(nodes, CURVE_TERMS - 1))
    at_tests = chebyshev.chebvander(tests, CURVE_TERMS - 1)

    def pieces_of(*spans: tuple[float, float]) -> Iterator[tuple[float, float, float, Array]]:
        lows, highs = np.array(spans).T[:, :, None]
        places = (lows + highs) / 2 + (highs - lows) / 2 * np.concatenate([nodes, tests])
        for span, values in zip(spans, np.split(function(places.ravel()), len(spans)), strict=True):
            coefficients = solve @ values[:CURVE_TERMS]
            missed = np.abs(at_tests @ coefficients - values[CURVE_TERMS:]).max()
            missed /= np.abs(values).max(initial=1e-300)
            yield -float(missed), *span, coefficients

    pieces = list(pieces_of(span))
    while -pieces[0][0] > CURVE_ERROR and len(pieces) < CURVE_PIECES:  # the worst is the first
        _, low, high, _ = heapq.heappop(pieces)
        for half in pieces_of((low, (low + high) / 2), ((low + high) / 2, high)):
            heapq.heappush(pieces, half)
    _, lows, highs, parts = zip(*sorted(pieces, key=lambda piece: piece[1]), strict=True)
    ends = np.array([*lows, highs[-1]])
    return Formula("curve", (of,), {"ends": ends, "coefficients": np.stack(parts)})


def linear(of: Formula, matrix: Array) -> Formula:
    """Multiply a matrix of shape (targets, values) with the values."""
    return Formula("linear", (of,), {"matrix": matrix})


@dataclass(frozen=True, slots=True)
class PowerSum:
    """Coefficients of a sum of powers; each shape (targets, values)."""

    scale: Array
    rate: Array
    shift: Array
    exponent: Array


def power_sum(of: Formula, terms: PowerSum) -> Formula:
    """Sum scale_tj (rate_tj x_j + shift_tj)^exponent_tj over the values x_j, for each target t."""
    every = np.broadcast_arrays(terms.scale, terms.rate, terms.shift, terms.exponent)
    names = ("scale", "rate", "shift", "exponent")
    return Formula("power_sum", (of,), dict(zip(names, every, strict=True)))


def matern_sum(of: Formula, points: Array, rates: Array, weights: Formula) -> Formula:
    """Sum Matern 5/2 correlations between the values and points, with weights.

    Args:
        of: n values.
        points: shape (points, n).
        rates: shape (targets, n), inverse length scales.
        weights: The weights of all points for the first target, then for the next.
    """
    return Formula("matern_sum", (of, weights), {"points": points, "rates": rates})


@dataclass(frozen=True, slots=True)
class PointWeights:
    """Rows that belong to points, and how the rows' weights depend on other values."""

    scale: Array
    """shape (targets, rows)."""
    places: Array
    """shape (rows, n), of each row."""
    rates: Array
    """shape (targets, n), inverse length scales."""
    level: Array
    """shape (targets,)."""
    height: Array
    """shape (targets,)."""
    point: NDArray[np.int64]
    """shape (rows,), number of the point that a row belongs to."""


def point_weights(of: Formula, rows: PointWeights) -> Formula:
    """Sum scale_tr (level_t + height_t Matern_tr) over the rows r of each point, as weights.

    Args:
        of: n values, between which and a row's place the Matern 5/2 correlation is.
        rows: The rows.
    """
    names = ("scale", "places", "rates", "level", "height", "point")
    arrays = {name: np.asarray(getattr(rows, name), np.float64) for name in names}
    return Formula("point_weights", (of,), arrays)
