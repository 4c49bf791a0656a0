"""Mix the stages of training by the staged law, with the best single mixture beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import RecipeError
from curate.laws.forms.staged import fit_staged
from curate.laws.law import Array, RunTable, domains_of_stages, stage_columns
from curate.laws.scores import finite_or_none
from curate.laws.selection import reference_rows
from curate.mixture.constraints import Constraints, match_constraints
from curate.mixture.request import MixtureRequest, Preference, SearchOptions
from curate.mixture.search.staged_optimum import (
    StagedProblem,
    StagesVerdict,
    best_single,
    best_stages,
    judge,
)
from curate.runtime.threads import one_blas_thread

BEST_RUNS = 2
"""Runs of least objective where the search begins, beside the mean of all."""


@one_blas_thread()
def stages_of_least_loss(request: MixtureRequest, runs: RunTable) -> Preference:
    """Choose the mixture of every stage of least loss, if it beats a single mixture beyond noise.

    A domain gets no more of a stage than it had in some stage of some run, single or not.

    Args:
        request: Supply, caps, objective and constraints. Supply and floors hold for the tokens of
            all stages, or, with a stage, for those of the stage.
        runs: Runs with stages.

    Returns:
        Shares of the stage that the evidence names, or else of the tokens of all stages; those of
        the best single mixture where mixtures of their own do not pay beyond noise.

    Raises:
        MissingEvidence: The runs lack a domain.
        RecipeError: The objective or floors name an unknown target or domain, or a key is set that
            has no effect on runs with stages.
    """
    _check_keys(request.options.search)
    stage = request.evidence.stage if request.evidence else None
    domains = domains_of_stages(runs)
    constraints = match_constraints(request, domains, runs.targets, "runs")
    problem = _problem(request, runs, constraints, stage)
    staged = best_stages(problem)
    single = best_single(problem)
    verdict = judge(problem, runs, fit_staged, request.options.search.seed)
    repeated = np.tile(single, (len(staged), 1))
    pays = verdict is not None and verdict.pays
    taken = staged if pays else repeated
    whole = problem.fractions @ taken
    weights = whole if stage is None else taken[runs.stages.index(stage)]
    rows = np.stack([staged, repeated])
    ones = np.ones(2)
    losses = problem.law.predict(problem.shares(rows), ones * problem.tokens, ones * problem.params)
    of_stages, of_single = (constraints.goals.weights @ row for row in losses)
    named = [domain.name for domain in request.domains]
    warnings = request.evidence.notices if request.evidence else ()
    return Preference(
        weights=constraints.in_recipe_order(weights),
        predicted_loss=float((of_stages if pays else of_single).max()),
        warnings=tuple(warnings),
        details={
            "unit": runs.unit,
            "law": "staged",
            "stage_mixtures": {
                name: {
                    "fraction": float(fraction),
                    "weights": _by_name(named, constraints, mixture),
                }
                for name, fraction, mixture in zip(
                    runs.stages, problem.fractions, staged, strict=True
                )
            },
            "predicted_loss_of_stages": float(of_stages.max()),
            "single_stage": {
                "weights": _by_name(named, constraints, single),
                "predicted_loss": float(of_single.max()),
            },
            "stages_pay": {
                "promised": float(1 - of_stages.max() / of_single.max()),
                **_verdict_json(verdict),
                "verdict": verdict_line(verdict, runs.stages),
            },
            "at": {
                "tokens": finite_or_none(problem.tokens),
                "params": finite_or_none(problem.params),
            },
            "predicted_losses": dict(zip(runs.targets, map(float, losses[0]), strict=True)),
        },
    )


def _check_keys(search: SearchOptions) -> None:
    """Refuse keys that have an effect on a single mixture only.

    Raises:
        RecipeError: One is set.
    """
    default = SearchOptions()
    for key in ("kl", "prior", "keep", "trust_region", "replicates", "discount_repeats"):
        value = getattr(search, key)
        if value not in (getattr(default, key), 0):
            raise RecipeError(
                f"mixture.{key}: law staged does not read it where runs have a mixture for each "
                "stage; remove it"
            )


def _problem(
    request: MixtureRequest, runs: RunTable, constraints: Constraints, stage: str | None
) -> StagedProblem:
    """Fit the law to the runs and bound its mixtures."""
    columns = stage_columns(runs)
    latest = runs.take(reference_rows(runs))
    by_stage = _by_stage(latest.weights, columns)
    fractions = by_stage.sum(axis=2).mean(axis=0)
    within = by_stage / np.maximum(by_stage.sum(axis=2, keepdims=True), 1e-12)
    box, domains = constraints.box, columns.shape[1]
    seen = _by_stage(runs.weights, columns)
    trained = seen / np.maximum(seen.sum(axis=2, keepdims=True), 1e-12)
    inside = np.zeros(domains)
    inside[constraints.place] = trained.max(axis=(0, 1))[constraints.place]
    most = np.tile(inside, (len(columns), 1))
    low, high = box.low, box.high
    if stage is not None:
        place = runs.stages.index(stage)
        most[place] = np.minimum(most[place], high)
        low, high = low * fractions[place], np.ones(domains)
    search, goals = request.options.search, constraints.goals.weights
    order = np.argsort((latest.losses @ goals.T).max(axis=1), kind="stable")[:BEST_RUNS]
    tokens, params = (
        float(np.max(values)) if given is None else given
        for values, given in (
            (latest.tokens, search.at_tokens), (latest.params, search.at_params)
        )
    )  # fmt: skip
    problem = StagedProblem(
        law=fit_staged(runs),
        columns=columns,
        goals=goals,
        fractions=fractions / fractions.sum(),
        most=most,
        low=low,
        high=high,
        starts=np.concatenate([within.mean(axis=0)[None], within[order]]),
        tokens=tokens,
        params=params,
    )
    if not constraints.goals.relative:
        return problem
    # Goals of a worst case are compared with the run that is best at each.
    reference = (latest.losses @ goals.T).min(axis=0)
    return replace(problem, goals=goals / reference[:, None])


def _by_stage(weights: Array, columns: NDArray[np.int64]) -> Array:
    """Return shares of all tokens, shape (rows, stages, domains)."""
    padded = np.column_stack([weights, np.zeros(len(weights))])
    return np.asarray(padded[:, columns])


def _by_name(names: Sequence[str], constraints: Constraints, shares: Array) -> dict[str, float]:
    return dict(zip(names, constraints.in_recipe_order(shares), strict=True))


def _verdict_json(verdict: StagesVerdict | None) -> dict[str, Any]:
    if verdict is None:
        return {"gain": None, "low": None, "high": None, "pays": None}
    return {
        "gain": verdict.gain, "low": verdict.low, "high": verdict.high, "pays": verdict.pays
    }  # fmt: skip


def verdict_line(verdict: StagesVerdict | None, stages: Sequence[str]) -> str:
    """Say whether mixtures of their own for the stages pay beyond noise.

    Args:
        verdict: The judgement; None where runs are too few for one.
        stages: Names of the stages.
    """
    if verdict is None:
        return (
            "too few mixtures to say whether a mixture for each stage pays: the single mixture is "
            "taken; train more runs"
        )
    which = ", ".join(stages)
    gain = f"{verdict.gain:.2%} of the loss (99 %: {verdict.low:.2%} to {verdict.high:.2%})"
    if verdict.pays:
        return f"a mixture for each of {which} pays: {gain} below the best single mixture"
    if verdict.high < 0:
        return f"a mixture for each of {which} does not pay: {gain}; the single mixture is taken"
    return (
        f"a mixture for each of {which} does not pay beyond noise: {gain}; the single mixture is "
        "taken"
    )
