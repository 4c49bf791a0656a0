"""Train the recommended mixture and its rivals, and judge the recommendation.

All mixtures are trained as one swarm with the same seeds, none of which the runs behind the
recommendation had. Differences are paired by seed. A recommendation that beats every rival by more
than seed noise is confirmed, one that any rival beats is refuted, and the rest tie. Intervals are
over seeds: all runs see the same held-out documents, so they say nothing about other text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from msgspec.structs import replace as with_fields
from numpy.typing import NDArray

from curate import __version__
from curate.errors import InputError
from curate.laws.scores import finite_or_none, spearman
from curate.mixture import METHODS, MixtureRequest, mix_with
from curate.mixture.constraints import match_itself
from curate.mixture.goals import Goals, make_goals
from curate.pipeline.check import READ_BY_VALIDATE, check_mixture, check_names
from curate.pipeline.plan import Planned, plan_dataset, plan_tokenized
from curate.pipeline.proxies import (
    final_rows,
    fresh_seeds,
    mixtures_job,
    next_preset,
    run_name,
    with_preset,
)
from curate.pipeline.proxy_devices import train_job
from curate.pipeline.proxy_setup import check_proxy, prepare
from curate.pipeline.resume import writable_artifacts
from curate.pipeline.stages import StageChoice, one_mixture
from curate.recipe import LoadedRecipe
from curate.runtime.artifact_names import NATS
from curate.runtime.progress import Observer, write_artifact
from curate.runtime.registry import list_first
from curate.stats.seed_intervals import joint_verdict, seed_mean, verdict_of

Array = NDArray[np.float64]

RUNS_DIRECTORY = "validation_runs"
"""Folder for the runs. A dataset's held-out documents are in `validation`."""

RECOMMENDED, YOURS = "recommended", "yours"


@dataclass(frozen=True, slots=True)
class ValidationSettings:
    """Number of seeds and sizes of models."""

    seeds: int = 3
    """Runs of each mixture; at least 2."""
    presets: tuple[str, ...] = ()
    """Sizes of models; empty for the recipe's."""
    up: bool = False
    """Whether to train the size above the last one, too."""
    stage: str | None = None
    """Stage whose mixture is trained; None for a recipe without stages."""


@dataclass(frozen=True, slots=True)
class TrainedCandidates:
    """Final losses of the candidates at one model size."""

    preset: str
    params: int
    tokens: int
    losses: Array
    """shape (candidates, seeds, domains), nats per token at the end of each run."""


def validate_mixture(
    loaded: LoadedRecipe, settings: ValidationSettings, workers: int, observer: Observer
) -> dict[str, Any]:
    """Train the recommendation and its rivals, judge, and write `validation.json`.

    Args:
        loaded: The recipe; its proxies say how to train.
        settings: Seeds and sizes.
        workers: Number of processes and threads.
        observer: Receives progress and warnings.

    Returns:
        The fields of `validation.json`.

    Raises:
        CurateError: Any user-fixable error.
    """
    check_names(loaded)
    if settings.stage is None:
        check_mixture(loaded, READ_BY_VALIDATE)
    for size in _sizes(loaded, settings):
        check_proxy(size)
    with _planned(loaded, settings.stage, workers, observer) as (loaded, planned):
        sizes = _sizes(loaded, settings)
        candidates = rivals_of(planned, observer)
        trained = [_train(size, planned, candidates, workers, observer) for size in sizes]
        result = {
            "schema": 1,
            "curate_version": __version__,
            "recipe_hash": loaded.hash,
            "inputs": {"documents": planned.tokenized.content_hash},
            "method": planned.mixed.mixture.method,
            "seeds": list(fresh_seeds(sizes[0])),
            "weights": {
                name: dict(zip(_names(planned.mixed.request), shares, strict=True))
                for name, shares in candidates.items()
            },
            **judge(planned.mixed.request, candidates, trained),
        }
        write_artifact(loaded.output_dir / "validation.json", result, observer)
    return result


@contextmanager
def _planned(
    loaded: LoadedRecipe, stage: str | None, workers: int, observer: Observer
) -> Iterator[tuple[LoadedRecipe, Planned]]:
    """Plan a recipe, or one stage of it, as a recipe of its own."""
    if stage is None:
        with writable_artifacts(loaded, observer) as writable:
            yield loaded, plan_dataset(loaded, workers, observer, write=writable)
        return
    with one_mixture(loaded, StageChoice(stage), workers, observer) as (alone, tokenized):
        observer.notice(
            "models train on the mixture of this stage from scratch, not after the stages before "
            "it, and on all of each domain's documents"
        )
        yield alone, plan_tokenized(alone, tokenized, workers, observer, write=False)


def _sizes(loaded: LoadedRecipe, settings: ValidationSettings) -> list[LoadedRecipe]:
    """Return the recipe with the proxies of each size."""
    if settings.seeds < 2:
        raise InputError(
            f"validate: {settings.seeds} seed cannot show seed noise; give --seeds 2 or more"
        )
    presets = list(dict.fromkeys(settings.presets or (loaded.proxies.preset,)))
    if settings.up and (larger := next_preset(presets[-1])) not in presets:
        presets.append(larger)
    default = loaded.proxies.preset
    sizes = [loaded if name == default else with_preset(loaded, name) for name in presets]
    return [size.with_proxies(with_fields(size.proxies, seeds=settings.seeds)) for size in sizes]


def rivals_of(planned: Planned, observer: Observer) -> dict[str, tuple[float, ...]]:
    """Return the mixtures to train, by name; the recommendation comes first.

    The others are natural and equal shares within the caps, and the weights that the recipe gives
    its domains. Those are moved to the nearest mixture within the caps, with a notice if need be.
    """
    request = planned.mixed.request
    candidates = {RECOMMENDED: tuple(planned.mixed.mixture.weights.values())}
    for name in ("natural", "uniform"):
        candidates[name] = tuple(mix_with(METHODS[name], request).weights.values())
    by_hand = [domain.weight for domain in request.domains]
    if (
        not METHODS[request.method].by_hand
        and None not in by_hand
        and sum(weight or 0.0 for weight in by_hand) > 0
    ):
        options = replace(request.options, on_shortfall="redistribute")
        mixture = mix_with(METHODS["manual"], replace(request, options=options))
        candidates[YOURS] = tuple(mixture.weights.values())
        if mixture.constraints_active:
            observer.notice(f"your weights: {list_first(mixture.constraints_active)}")
    return candidates


def _train(
    size: LoadedRecipe,
    planned: Planned,
    candidates: Mapping[str, Sequence[float]],
    workers: int,
    observer: Observer,
) -> TrainedCandidates:
    prepared = prepare(size, planned.tokenized, workers, observer)
    directory = size.output_dir / RUNS_DIRECTORY / size.proxies.preset
    job = mixtures_job(size, prepared, candidates, directory)
    rows = {row.run: row for row in final_rows(train_job(job, prepared, workers, observer))}
    losses = []
    for name, weights in candidates.items():
        by_seed: list[tuple[float, ...]] = []
        for seed in fresh_seeds(size):
            run = run_name(weights, seed)
            if run not in rows:
                raise InputError(
                    f"validate: '{name}' with seed {seed} did not end with finite losses; set a "
                    "lower proxy.learning_rate"
                )
            by_seed.append(rows[run].losses)
        losses.append(by_seed)
    last = next(iter(rows.values()))
    return TrainedCandidates(size.proxies.preset, last.params, last.tokens, np.array(losses))


def judge(
    request: MixtureRequest,
    candidates: Mapping[str, Sequence[float]],
    trained: Sequence[TrainedCandidates],
) -> dict[str, Any]:
    """Judge the recommendation by measured losses.

    Args:
        request: The recipe's, with its objective and evidence.
        candidates: By name, shares; the recommendation first.
        trained: shape (sizes,), losses at each model size.

    Returns:
        `verdict` at the first size, `sizes` and `transfer` between sizes of `validation.json`.
    """
    sizes = [_judge_size(request, candidates, measured) for measured in trained]
    transfer = []
    for larger in sizes[1:]:
        first, second = (_objectives(size) for size in (sizes[0], larger))
        rank = spearman(first, second)
        transfer.append(
            {
                "from": sizes[0]["preset"],
                "to": larger["preset"],
                "spearman": finite_or_none(rank),
                "same_best": bool(first.argmin() == second.argmin()),
            }
        )
    return {
        "verdict": sizes[0]["verdict"],
        "objective_unit": "ratio" if goals_measured(request).relative else NATS,
        "sizes": sizes,
        "transfer": transfer,
    }


def _objectives(size: Mapping[str, Any]) -> Array:
    return np.array([row["objective"]["mean"] for row in size["candidates"].values()])


def _judge_size(
    request: MixtureRequest, candidates: Mapping[str, Sequence[float]], measured: TrainedCandidates
) -> dict[str, Any]:
    from curate.mixture.predicted_losses import forecast

    names = _names(request)
    natural = list(candidates).index("natural") if "natural" in candidates else None
    values = objective_of(measured.losses, goals_measured(request), natural)
    predicted = forecast(
        request, np.array(list(candidates.values())), measured.tokens, measured.params
    )
    expected = _by_domain(predicted.losses, predicted.targets, names) if predicted else None
    source = "" if predicted is None else predicted.source
    rows: dict[str, Any] = {}
    for number, name in enumerate(candidates):
        rows[name] = {
            "objective": seed_mean(values[number]).to_json(),
            "loss": {
                domain: {
                    **seed_mean(measured.losses[number, :, place]).to_json(),
                    "predicted": None
                    if expected is None
                    else finite_or_none(expected[number, place]),
                }
                for place, domain in enumerate(names)
            },
        }
    rivals = list(candidates)[1:]
    differences = [seed_mean(values[0] - rival) for rival in values[1:]]
    verdicts = [verdict_of(difference) for difference in differences]
    against = {
        name: {**difference.to_json(), "verdict": verdict}
        for name, difference, verdict in zip(rivals, differences, verdicts, strict=True)
    }
    ranked = sorted(rows, key=lambda name: rows[name]["objective"]["mean"])
    return {
        "preset": measured.preset,
        "params": measured.params,
        "tokens": measured.tokens,
        "verdict": joint_verdict(verdicts),
        "against": against,
        "ranking": ranked,
        "candidates": rows,
        "prediction": _prediction(expected, measured.losses, source),
    }


def _prediction(expected: Array | None, losses: Array, source: str) -> dict[str, Any] | None:
    """Compare predicted losses with measured ones, by size and by how they rank the mixtures."""
    if expected is None:
        return None
    predicted = ~np.isnan(expected).any(axis=0)
    if not predicted.any():
        return None
    means = losses.mean(axis=1)[:, predicted]
    forecasts = expected[:, predicted]
    rank = spearman(forecasts.mean(axis=1), means.mean(axis=1))
    return {
        "by": source,
        "mean_relative_error": float(np.abs(forecasts / means - 1).mean()),
        "relative_bias": float((forecasts / means - 1).mean()),
        "spearman": finite_or_none(rank),
    }


def objective_of(losses: Array, goals: Goals, natural: int | None = None) -> Array:
    """Reduce measured losses to the objective that the recipe minimises.

    That is a weighted mean, or the worst case: the largest ratio of a goal to its lowest mean of
    any candidate, or to that of natural shares.

    Args:
        losses: shape (candidates, seeds, domains), nats per token.
        goals: Of `goals_measured`.
        natural: Place of natural shares among the candidates; None where they are none.

    Returns:
        shape (candidates, seeds), nats per token, or ratios for the worst case.
    """
    values: Array = losses @ goals.weights.T
    if goals.relative:
        means = values.mean(axis=1)
        against_natural = goals.against == "natural" and natural is not None
        values = values / (means[natural] if against_natural else means.min(axis=0))
    return np.asarray(values.max(axis=2))


def goals_measured(request: MixtureRequest) -> Goals:
    """Return the goals of the recipe's objective over its own domains, whose losses are measured.

    A target that is no domain of the recipe cannot be measured here, so it is ignored, and so is a
    goal that has no other; if none is left, the goal is the plain mean.
    """
    evidence, names = request.evidence, _names(request)
    by_experts = METHODS[request.method].evidence == "experts"
    plain = match_itself(request).goals
    if evidence is None:
        return plain
    table = evidence.experts if by_experts else evidence.runs
    if table is None:
        return plain
    goals = make_goals(request.options.search, table.targets, evidence.runs)
    weights = np.nan_to_num(_by_domain(goals.weights, table.targets, names))
    used = weights.sum(axis=1) > 0
    if not used.any():
        return plain
    labels = tuple(name for name, one in zip(goals.names, used, strict=True) if one)
    weights = weights[used] / weights[used].sum(axis=1, keepdims=True)
    return replace(goals, names=labels, weights=weights)


def _by_domain(losses: Array, targets: Sequence[str], names: Sequence[str]) -> Array:
    """Put columns in the order of the recipe's domains; NaN for a domain that is no target."""
    out = np.full((len(losses), len(names)), np.nan)
    for place, name in enumerate(names):
        if name in targets:
            out[:, place] = losses[:, list(targets).index(name)]
    return out


def _names(request: MixtureRequest) -> list[str]:
    return [domain.name for domain in request.domains]
