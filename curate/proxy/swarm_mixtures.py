"""Mixtures that a swarm trains on: from a table, or drawn around natural shares. Needs no torch."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.errors import InfeasiblePlan, InputError

STRENGTHS = (0.1, 5.0)
"""Ends of the Dirichlet strengths, evenly spaced in their logarithm (RegMix's code)."""

TEMPERATURE = 0.5
"""Power of the natural shares that draws are centred on (RegMix's code)."""

SMALLEST = 2e-4
"""Shares below become 0 (RegMix's code)."""

ALIKE = 1e-3
"""Sum of differences below which a mixture is not drawn again: weak draws end in corners."""

DRAWS_PER_RUN = 2000
"""After so many draws for each run that are refused, the caps are too tight for this design."""


RUN_NAME = re.compile(r"(?!.*\.s\d+$)\w(?:[\w.=+ -]*[\w=+-])?")
"""What may be a folder's name anywhere; endings such as `.s1` tell further seeds of a mixture."""


def read_mixtures(path: Path, domains: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Name → shares, from a CSV with a column a domain, and one called `run` if they have names.

    Headings may be domains or `w_<domain>`; other columns are not looked at. Shares are divided by
    their sum where that is 1 within 1 %.

    Raises:
        InputError: A domain has no column, or a line is not a mixture; names file and line.
    """
    try:
        text = path.read_text("utf-8-sig")  # spreadsheets write a byte order mark
    except OSError as error:
        raise InputError(f"proxy.mixtures: {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"proxy.mixtures: {path}: not UTF-8 ({error.reason})") from error
    lines = csv.DictReader(text.splitlines())
    headings = lines.fieldnames or []
    taken = {domain: _heading(domain, headings, path) for domain in domains}
    found: dict[str, tuple[float, ...]] = {}
    for line in lines:
        where = f"{path}:{lines.line_num}"
        try:
            shares = [float(line[taken[domain]]) for domain in domains]
        except (TypeError, ValueError):
            raise InputError(f"{where}: every domain needs a number") from None
        total = sum(shares)
        if not (min(shares) >= 0 and abs(total - 1) <= 0.01):
            raise InputError(f"{where}: shares must be 0 or more and sum to 1; they sum to {total}")
        name = line.get("run") or f"m{len(found):03d}"
        if not RUN_NAME.fullmatch(name):
            raise InputError(
                f"{where}: a run cannot be called '{name}', as its folder for TensorBoard is; use "
                "letters, digits, '-', '_', '.' and spaces within, and no '.s1' at the end"
            )
        if name in found:
            raise InputError(f"{where}: two mixtures are called '{name}'; rename one")
        found[name] = tuple(share / total for share in shares)
    if not found:
        raise InputError(f"{path}: no mixture in it")
    return found


def _heading(domain: str, headings: Sequence[str], path: Path) -> str:
    for name in (f"w_{domain}", domain):
        if name in headings:
            return name
    near = difflib.get_close_matches(domain, headings, n=1)
    hint = f"; is it '{near[0]}'?" if near else ""
    raise InputError(f"{path}:1: no column for the domain '{domain}'{hint}")


def draw_mixtures(
    supply: Sequence[int], caps: Sequence[float], runs: int, seed: int
) -> NDArray[np.float64]:
    """Natural shares, equal shares, then draws around the natural ones, all within the caps.

    Draws are RegMix's: Dirichlet with the square root of natural shares, times a strength from 0.1
    to 5, refused where a share is above its cap or the mixture is there already. Natural
    and equal shares are left out where the caps do not allow them.

    Args:
        supply: shape (domains,), tokens; positive.
        caps: shape (domains,), largest share of each domain; those above 1 bind nothing.
        runs: Mixtures to make.
        seed: Of the draws.

    Returns:
        Shape (runs, domains), rows sum to 1.

    Raises:
        InfeasiblePlan: Hardly any draw is within the caps.
    """
    rng = np.random.default_rng(seed)
    natural = np.asarray(supply, np.float64) / np.sum(supply)
    bound = np.asarray(caps, np.float64) * (1 + 1e-9)
    found = [m for m in (natural, np.full(len(natural), 1 / len(natural))) if (m <= bound).all()]
    centre = natural**TEMPERATURE / np.sum(natural**TEMPERATURE)
    tried = 0
    while len(found) < runs:
        tried += 1
        if tried > DRAWS_PER_RUN * runs:
            raise InfeasiblePlan(
                f"proxy: only {len(found)} of {runs} mixtures drawn are within the epoch caps "
                f"(largest shares {', '.join(f'{cap:.3g}' for cap in caps)}); set a smaller "
                "proxy.tokens, a larger max_epochs, or give your own in proxy.mixtures"
            )
        strength = np.exp(rng.uniform(*np.log(STRENGTHS)))
        drawn = rng.dirichlet(centre * strength)
        drawn[drawn < SMALLEST] = 0.0
        total = drawn.sum()
        if not (np.isfinite(total) and total > 0 and (drawn / total <= bound).all()):
            continue
        if min((np.abs(drawn / total - other).sum() for other in found), default=1.0) > ALIKE:
            found.append(drawn / total)
    return np.array(found[:runs])
