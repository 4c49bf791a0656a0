"""Mixtures that a swarm trains on, read from a table or drawn around the natural shares.

Needs no torch.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.errors import InfeasiblePlan, InputError
from curate.runtime.machine import fault_or
from curate.runtime.registry import nearest_hint

STRENGTHS = (0.1, 5.0)
"""Smallest and largest Dirichlet strength, drawn evenly in the logarithm (RegMix's code)."""

TEMPERATURE = 0.5
"""Draws are centred on this power of the natural shares (RegMix's code)."""

SMALLEST = 2e-4
"""Smaller shares become 0 (RegMix's code)."""

ALIKE = 1e-3
"""Mixtures whose shares differ by less in sum count as one; weak draws repeat the corners."""

DRAWS_PER_RUN = 2000
"""More refused draws for each run than this mean that the caps are too tight for the design."""

RUN_NAME = re.compile(r"(?!.*\.s\d+$)\w(?:[\w.=+ -]*[\w=+-])?")
"""Names that can be folders on any system; endings such as `.s1` mark further seeds."""


def read_mixtures(path: Path, domains: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Read mixtures from a CSV with a column for each domain, and one called `run` for names.

    Headings may be domains or `w_<domain>`; other columns are ignored. Shares that sum to 1 within
    1 % are divided by their sum.

    Returns:
        Shares by name, in the order of `domains`.

    Raises:
        InputError: A domain has no column, or a line is not a mixture; the message names file and
            line.
    """
    try:
        text = path.read_text("utf-8-sig")  # spreadsheets write a byte order mark
    except OSError as error:
        unreadable = InputError(f"proxy.mixtures: {path}: {error.strerror or error}")
        raise fault_or(unreadable, error, str(path)) from error
    except UnicodeDecodeError as error:
        raise InputError(f"proxy.mixtures: {path}: not UTF-8 ({error.reason})") from error
    lines = csv.DictReader(text.splitlines())
    headings = lines.fieldnames or []
    heading_of = {domain: _heading(domain, headings, path) for domain in domains}
    mixtures: dict[str, tuple[float, ...]] = {}
    for line in lines:
        where = f"{path}:{lines.line_num}"
        try:
            shares = [float(line[heading_of[domain]]) for domain in domains]
        except (TypeError, ValueError):
            raise InputError(f"{where}: every domain needs a number") from None
        total = sum(shares)
        if not (min(shares) >= 0 and abs(total - 1) <= 0.01):
            raise InputError(f"{where}: shares must be 0 or more and sum to 1; they sum to {total}")
        name = line.get("run") or f"m{len(mixtures):03d}"
        if not RUN_NAME.fullmatch(name):
            raise InputError(
                f"{where}: a run cannot be called '{name}', as it names a TensorBoard folder; use "
                "letters, digits, '-', '_', '.' and inner spaces, and no '.s1' at the end"
            )
        if name in mixtures:
            raise InputError(f"{where}: two mixtures are called '{name}'; rename one")
        mixtures[name] = tuple(share / total for share in shares)
    if not mixtures:
        raise InputError(f"{path}: the table has no mixture; add a line of shares")
    return mixtures


def _heading(domain: str, headings: Sequence[str], path: Path) -> str:
    for name in (f"w_{domain}", domain):
        if name in headings:
            return name
    hint = nearest_hint(domain, headings)
    raise InputError(f"{path}:1: no column for the domain '{domain}'{hint}")


def draw_mixtures(
    supply: Sequence[int], caps: Sequence[float], runs: int, seed: int
) -> NDArray[np.float64]:
    """Design mixtures: natural shares, equal shares, then draws around the natural ones.

    Draws are RegMix's: Dirichlet with the square root of the natural shares times a strength from
    0.1 to 5. A draw is refused if a share exceeds its cap or the mixture is there already. Natural
    and equal shares are left out if the caps do not allow them.

    Args:
        supply: shape (domains,), tokens; positive.
        caps: shape (domains,), largest share of each domain; a cap above 1 does not bind.
        runs: Mixtures to make.
        seed: Seed of the draws.

    Returns:
        Shape (runs, domains); rows sum to 1.

    Raises:
        InfeasiblePlan: Hardly any draw is within the caps.
    """
    rng = np.random.default_rng(seed)
    natural = np.asarray(supply, np.float64) / np.sum(supply)
    bound = np.asarray(caps, np.float64) * (1 + 1e-9)
    equal = np.full(len(natural), 1 / len(natural))
    mixtures = [shares for shares in (natural, equal) if (shares <= bound).all()]
    centre = natural**TEMPERATURE / np.sum(natural**TEMPERATURE)
    tried = 0
    while len(mixtures) < runs:
        tried += 1
        if tried > DRAWS_PER_RUN * runs:
            raise InfeasiblePlan(
                f"proxy: only {len(mixtures)} of {runs} mixtures drawn are within the epoch caps "
                f"(largest shares {', '.join(f'{cap:.3g}' for cap in caps)}); set a smaller "
                "proxy.tokens, a larger max_epochs, or give your own in proxy.mixtures"
            )
        strength = np.exp(rng.uniform(*np.log(STRENGTHS)))
        drawn = rng.dirichlet(centre * strength)
        drawn[drawn < SMALLEST] = 0.0
        total = drawn.sum()
        if not (np.isfinite(total) and total > 0 and (drawn / total <= bound).all()):
            continue
        if min((np.abs(drawn / total - other).sum() for other in mixtures), default=1.0) > ALIKE:
            mixtures.append(drawn / total)
    return np.array(mixtures[:runs])
