"""Fitted laws as formulas of the shares, which other programs can evaluate.

At a fixed number of tokens and parameters, a law is a function of the shares alone, and every law
but the trees is a composition of the few operations below. The mixture explorer of the report
evaluates them in the browser (`curate/report/page/law.js`), so a new law needs no JavaScript: its
fitted class has a method `formula` that composes these functions.

A formula has one value for each domain or each target. Numbers are written as float64 in base64,
each array once.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

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

    def formula(self, tokens: float, params: float) -> Formula | None:
        """Write the predicted losses as a formula of the shares.

        Args:
            tokens: Training tokens; NaN where the fitted table had NaN.
            params: Parameters of the model; NaN where the fitted table had NaN.

        Returns:
            The losses of every target; None if a part of the law has no formula.
        """
        ...


def formula_of(law: FittedLaw, tokens: float, params: float) -> Formula | None:
    """Return the formula of a law at these tokens and parameters; None if it has none.

    Trees have none, nor have laws of packages that do not provide it.

    Args:
        law: Any fitted law.
        tokens: Tokens that a run is trained on.
        params: Parameters of its model.
    """
    return law.formula(tokens, params) if isinstance(law, LawWithFormula) else None


def shares() -> Formula:
    """Return the shares themselves, one value for each domain."""
    return Formula("shares")


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


def matern_sum(of: Formula, points: Array, rates: Array, weights: Array) -> Formula:
    """Sum Matern 5/2 correlations between the values and points, with weights.

    Args:
        of: n values.
        points: shape (points, n).
        rates: shape (targets, n), inverse length scales.
        weights: shape (targets, points).
    """
    return Formula("matern_sum", (of,), {"points": points, "rates": rates, "weights": weights})
