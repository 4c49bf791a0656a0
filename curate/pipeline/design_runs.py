"""Propose training runs, and write them as `design.csv` and as JSON."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from curate.errors import RecipeError
from curate.mixture import MixtureRequest
from curate.mixture.design import Design, next_runs
from curate.mixture.design_reuse import ReusePlan
from curate.mixture.purchase import Candidate, Purchase, RunSize, purchase
from curate.pipeline.results import DesignResult
from curate.runtime.files import atomic_path
from curate.runtime.progress import Observer


def design_runs(
    request: MixtureRequest,
    strategy: str | None,
    count: int | None,
    directory: Path | None,
    observer: Observer,
) -> DesignResult:
    """Propose the next mixtures to train.

    Args:
        request: Supply, budget, and the runs that exist.
        strategy: Name of a strategy of `curate.mixture.design`; None: its default.
        count: Number of mixtures; None for as many as the domains still need.
        directory: Where to write `design.csv`; None writes nothing.
        observer: Receives a notice of how many runs are needed.

    Raises:
        CurateError: Any user-fixable error.
    """
    design = next_runs(request, strategy, count)
    path = None if directory is None else directory / "design.csv"
    if path is not None:
        _write_csv(design, path, observer)
    observer.notice(_needed_line(design))
    return DesignResult(_json(design), path)


def _needed_line(design: Design) -> str:
    """Say how many runs the domains need and how many are proposed."""
    domains = f"{len(design.domains)} domains"
    if design.kept:
        domains += f", {design.kept} of which keep their proportions and count as one,"
    need = f"{domains} need {design.needed} runs, 3 (domains + 1)"
    plan = design.reuse
    if plan is None:
        return f"{need}; there are {design.existing}, and {len(design.mixtures)} more are proposed"
    saved = plan.anew - plan.proposed
    return (
        f"{need}; beside {plan.earlier} mixtures on earlier domains, {plan.proposed} new runs are "
        f"expected to leave {plan.unknown:.1%} of what mixtures do unknown, {plan.anew} anew "
        f"{plan.unknown_anew:.1%}, the {plan.proposed} without the earlier ones "
        f"{plan.unknown_alone:.1%}"
        + (f": reuse saves {saved} runs" if saved > 0 and plan.unknown <= plan.unknown_anew else "")
        + _keeping_clause(plan)
    )


def _keeping_clause(plan: ReusePlan) -> str:
    """Say how few runs are needed where the domains that stayed keep their proportions."""
    if plan.keeping is None or plan.keeping >= plan.proposed:
        return ""
    return (
        f"; {plan.keeping} are enough where the domains that stayed keep their proportions "
        "(mixture.keep: the earlier mixture.json)"
    )


def design_purchase(
    request: MixtureRequest,
    flops: float,
    sizes: Sequence[RunSize] | None,
    directory: Path | None,
    observer: Observer,
) -> DesignResult:
    """Propose how many runs to train at a small and at a large size, and their mixtures.

    Args:
        request: Supply, and the runs that exist.
        flops: Budget of training.
        sizes: The two sizes; None: the smallest and the largest of the runs.
        directory: Where to write `design.csv`; None writes nothing.
        observer: Receives notices of the choice and of what is assumed.

    Raises:
        CurateError: Any user-fixable error.
    """
    proposal = purchase(request, flops, sizes)
    path = None if directory is None else directory / "design.csv"
    if path is not None:
        _write_csv(proposal.design, path, observer, proposal.sizes())
    learnt = "the prior alone" if not any(proposal.pilot) else (
        f"{proposal.pilot[0]} small and {proposal.pilot[1]} large runs"
    )  # fmt: skip
    middle, low, high = proposal.model.correlation()
    observer.notice(
        f"mixture effects at the two sizes correlate at {middle:.2f} ({low:.2f} to {high:.2f}), "
        f"noise is {100 * proposal.model.noise(False):.2g} % of the loss at the small size and "
        f"{100 * proposal.model.noise(True):.2g} % at the large one, by {learnt}"
    )
    pick = proposal.candidates[proposal.best]
    observer.notice(f"proposed: {pick.small} small and {pick.large} large runs; {proposal.reason}")
    fields = {**_json(proposal.design), "purchase": _purchase_json(proposal)}
    return DesignResult(fields, path)


def read_sizes(text: str) -> list[RunSize]:
    """Read two sizes such as `7e7:1.4e9,4.1e8:8.2e9`, parameters and tokens of each.

    Raises:
        RecipeError: It is something else.
    """
    try:
        numbers = [[float(number) for number in part.split(":")] for part in text.split(",")]
        sizes = [RunSize(params, tokens) for params, tokens in numbers]
    except ValueError:
        sizes = []
    if len(sizes) != 2 or not all(0 < size.flops < math.inf for size in sizes):
        raise RecipeError(
            f"--sizes {text}: expected PARAMS:TOKENS,PARAMS:TOKENS, as in 7e7:1.4e9,4.1e8:8.2e9"
        )
    return sizes


def _purchase_json(proposal: Purchase) -> dict[str, Any]:
    """Return the part of `curate design --json` about a purchase."""
    middle, low, high = proposal.model.correlation()
    return {
        "sizes": {
            name: {"params": size.params, "tokens": size.tokens, "flops": size.flops}
            for name, size in (("small", proposal.small), ("large", proposal.large))
        },
        "pilot": dict(zip(("small", "large"), proposal.pilot, strict=True)),
        "correlation": {"median": middle, "low": low, "high": high},
        "effect": proposal.model.effect(),
        "noise": {"small": proposal.model.noise(False), "large": proposal.model.noise(True)},
        "nothing": _candidate_json(proposal.nothing),
        "candidates": [_candidate_json(candidate) for candidate in proposal.candidates],
        "best": proposal.best,
        "reason": proposal.reason,
        "run_sizes": {
            label: {"params": size.params, "tokens": size.tokens}
            for label, size in zip(proposal.design.runs(), proposal.sizes(), strict=True)
        },
    }


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    return {
        "small": candidate.small,
        "large": candidate.large,
        "flops": candidate.flops,
        "expected_regret": candidate.regret,
        "standard_error": candidate.regret_error,
    }


def _write_csv(
    design: Design, path: Path, observer: Observer, sizes: Sequence[RunSize] = ()
) -> None:
    """Write one row for each run, with columns named as in `runs.csv`.

    Args:
        design: The mixtures.
        path: The file.
        observer: Told of it once it is written.
        sizes: Size of each run; empty: none is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        shares = [f"w_{name}" for name in design.domains]
        writer.writerow(["run", *(("params", "tokens") if sizes else ()), *shares])
        for place, (label, weights) in enumerate(design.runs().items()):
            size = (sizes[place].params, sizes[place].tokens) if sizes else ()
            writer.writerow([label, *size, *weights])
    observer.wrote(path)


def _json(design: Design) -> dict[str, Any]:
    """Return the fields that `curate design --json` prints."""
    return {
        "strategy": design.strategy,
        "needed": design.needed,
        "existing": design.existing,
        **({} if design.reuse is None else {"reuse": asdict(design.reuse)}),
        "runs": {
            label: dict(zip(design.domains, shares, strict=True))
            for label, shares in design.runs().items()
        },
    }
