"""Numbers as people read them: bits, megabytes and short counts."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from curate.runtime.artifact_names import NATS

NATS_TO_BITS = 1 / math.log(2)


class LossUnit(NamedTuple):
    """A unit that losses are shown in."""

    factor: float
    """Factor from the unit of the file."""
    name: str
    """In words, for headings; empty for a ratio."""

    @property
    def after(self) -> str:
        """Words after a number; empty where the unit is unknown."""
        return f" {self.name}" if self.name == BITS.name else ""

    def show(self, loss: Any, style: str = ".4f") -> str:
        """Format a loss; empty for what is no number."""
        is_number = isinstance(loss, int | float) and not isinstance(loss, bool)
        return f"{loss * self.factor:{style}}" if is_number and math.isfinite(loss) else ""


BITS = LossUnit(NATS_TO_BITS, "bits a token")
RATIO = LossUnit(1.0, "")
RUNS = LossUnit(1.0, "in the unit of the runs")


def loss_unit(stated: Any) -> LossUnit:
    """Return bits for a file that states nats, and otherwise the unit of the file.

    Example:
        >>> loss_unit("nats per token").show(math.log(2)), loss_unit(None).name
        ('1.0000', 'in the unit of the runs')
    """
    return BITS if stated == NATS else RUNS


def megabytes(size_bytes: float) -> str:
    """Format bytes as millions of them: one decimal, or two digits of less than a million.

    Example:
        >>> [megabytes(size) for size in (1_234_567_890, 1e6, 47_000, 120, 0)]
        ['1,234.6', '1.0', '0.047', '0.00012', '0.0']
    """
    millions = size_bytes / 1e6
    decimals = 1 if millions >= 1 or millions <= 0 else 1 - math.floor(math.log10(millions))
    return f"{millions:,.{decimals}f}"


def short(value: float, digits: int = 4) -> str:
    """Shorten a count.

    Args:
        value: The count.
        digits: Most digits that are kept.

    Example:
        >>> [short(value) for value in (0.25, 1200, 3e6, 0)], short(4.128e8, 3)
        (['0.25', '1.2k', '3M', '0'], '413M')
    """
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g}{letter}"
    return f"{value:.{digits}g}"
