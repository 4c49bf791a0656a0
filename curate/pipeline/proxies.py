"""Train proxies and experts for a recipe, as evidence for its mixture.

torch is imported when a swarm is about to train, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace as with_fields

from curate.errors import RecipeError
from curate.pipeline.proxy_devices import Job, train_job
from curate.pipeline.proxy_setup import Prepared, check_proxy, prepare
from curate.pipeline.read_evidence import made_by_proxies
from curate.pipeline.results import ProxyResult
from curate.pipeline.tokenize import TokenizedDomains
from curate.proxy.shape import PRESETS, find_preset
from curate.proxy.swarm_mixtures import draw_mixtures, read_mixtures
from curate.recipe import LoadedRecipe
from curate.runtime.files import hash_json
from curate.runtime.progress import Observer

if TYPE_CHECKING:
    from curate.proxy.runs import RunRow
    from curate.proxy.swarm import SwarmResult, SwarmRun

CAP_SLACK = 1.001
"""Factor on epoch caps; shares at their cap may pass it by a token of rounding."""

FIRST_FRESH_SEED = 1000
"""First seed of validation runs. It lies beyond the seeds of the swarm: a mixture that a lucky seed
made look good must not be confirmed by the same seed."""


def make_evidence(
    loaded: LoadedRecipe, tokenized: TokenizedDomains, workers: int, observer: Observer
) -> None:
    """Train the runs or experts that the method needs and `mixture.evidence.proxy` describes.

    Runs and experts in the output directory are not trained again. Without that key this does
    nothing.

    Args:
        loaded: The recipe.
        tokenized: Its domains.
        workers: Number of processes and threads.
        observer: Receives progress and warnings.

    Raises:
        CurateError: Any user-fixable error.
    """
    kind = made_by_proxies(loaded)
    if kind == "runs":
        train_proxies(loaded, workers, observer, tokenized)
    elif kind == "experts":
        train_domain_experts(loaded, workers, observer, tokenized)


def train_proxies(
    loaded: LoadedRecipe,
    workers: int,
    observer: Observer,
    tokenized: TokenizedDomains | None = None,
) -> SwarmResult:
    """Train those runs of the recipe's swarm that are not in `runs.csv` yet.

    Processes and machines that do this at once in one directory share the runs.

    Args:
        loaded: The recipe.
        workers: Number of processes and threads.
        observer: Receives progress and warnings.
        tokenized: Its domains; None to tokenise them first.

    Raises:
        CurateError: Any user-fixable error.
    """
    check_proxy(loaded)
    prepared = prepare(loaded, tokenized, workers, observer)
    job = Job(loaded, swarm_runs(loaded, prepared), loaded.output_dir)
    return train_job(job, prepared, workers, observer)


def swarm_runs(loaded: LoadedRecipe, prepared: Prepared) -> tuple[SwarmRun, ...]:
    """List the runs of the recipe's swarm: every mixture with every seed."""
    from curate.proxy.swarm import SwarmRun

    recipe = loaded.proxies
    if recipe.mixtures is not None:
        mixtures = read_mixtures(loaded.base / recipe.mixtures, prepared.swarm.names)
    else:
        drawn = draw_mixtures(prepared.supply, prepared.caps, recipe.runs, loaded.recipe.seed)
        mixtures = {f"m{number:03d}": tuple(row) for number, row in enumerate(drawn.tolist())}
    runs = []
    for seed in range(recipe.seeds):
        for name, weights in mixtures.items():
            run = name if seed == 0 else f"{name}.s{seed}"
            shares = _drawn_shares(weights, prepared.ratio)
            runs.append(SwarmRun(run, seed, weights, shares, recipe.mixtures is not None))
    return tuple(runs)


def train_domain_experts(
    loaded: LoadedRecipe,
    workers: int,
    observer: Observer,
    tokenized: TokenizedDomains | None = None,
) -> dict[str, list[float]]:
    """Train one model for each domain and write `experts.parquet`; see `curate.proxy.experts`.

    An expert is no miniature of the target run, so its domain repeats as little as possible.

    Args:
        loaded: The recipe.
        workers: Number of processes and threads.
        observer: Receives progress and warnings.
        tokenized: Its domains; None to tokenise them first.

    Returns:
        Mean loss of each expert on each domain, nats per token.

    Raises:
        CurateError: Any user-fixable error.
    """
    check_proxy(loaded)
    from curate.proxy.experts import expert_runs, final_losses, write_experts

    fresh = loaded.with_proxies(with_fields(loaded.proxies, repetition="fresh"))
    prepared = prepare(fresh, tokenized, workers, observer)
    runs = expert_runs(prepared.swarm.names)
    job = Job(fresh, runs, loaded.output_dir / "experts", experts=True)
    result = train_job(job, prepared, workers, observer)
    write_experts(job.swarm(prepared), result, loaded.output_dir)
    return final_losses(result)


def mixtures_job(
    loaded: LoadedRecipe,
    prepared: Prepared,
    mixtures: Mapping[str, Sequence[float]],
    directory: Path,
) -> Job:
    """Make a swarm of named mixtures, each with seeds that no run of the recipe's swarm had.

    Args:
        loaded: The recipe; its proxies say how to train, and with how many seeds.
        prepared: The swarm without runs.
        mixtures: By name, shares of the recipe's tokens, shape (domains,).
        directory: For `runs.csv` and checkpoints.

    Returns:
        A job for `train_job`. Its runs are called `run_name(weights, seed)`, so a mixture that has
        two names is trained once.
    """
    from curate.proxy.swarm import SwarmRun

    runs = {
        (name := run_name(weights, seed)): SwarmRun(
            name, seed, tuple(weights), _drawn_shares(weights, prepared.ratio)
        )
        for seed in fresh_seeds(loaded)
        for weights in mixtures.values()
    }
    return Job(loaded, tuple(runs.values()), directory, cap_slack=CAP_SLACK)


def fresh_seeds(loaded: LoadedRecipe) -> range:
    """Return as many seeds as the recipe's proxies have, from `FIRST_FRESH_SEED` on."""
    return range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + loaded.proxies.seeds)


def run_name(weights: Sequence[float], seed: int) -> str:
    """Name a run by a hash of its mixture, so that no other mixture's run is taken for it.

    Example:
        >>> run_name([0.5, 0.5], 3) == run_name((0.5, 0.5), 3) != run_name([0.4, 0.6], 3)
        True
    """
    return f"w{hash_json([float(weight) for weight in weights])[:12]}.s{seed}"


def with_preset(loaded: LoadedRecipe, preset: str) -> LoadedRecipe:
    """Return the recipe with proxies of another size, on as many tokens in the same batches.

    Raises:
        RecipeError: There is no such preset.
    """
    find_preset(preset)
    proxies = loaded.proxies
    training = find_preset(proxies.preset).training
    return loaded.with_proxies(
        with_fields(
            proxies,
            preset=preset,
            tokens=proxies.tokens or training.tokens,
            sequence_length=proxies.sequence_length or training.sequence_length,
            batch=proxies.batch or training.batch_sequences,
            learning_rate=proxies.learning_rate or training.learning_rate,
        )
    )


def next_preset(preset: str) -> str:
    """Return the name of the preset one step larger.

    Raises:
        RecipeError: `preset` is the largest.

    Example:
        >>> next_preset("nano")
        'micro'
    """
    names = list(PRESETS)
    if preset == names[-1]:
        raise RecipeError(
            f"validate --up: '{preset}' is the largest preset; name a smaller one with --preset"
        )
    return names[names.index(preset) + 1]


def final_rows(result: SwarmResult) -> list[RunRow]:
    """Return the last checkpoint of each run."""
    return list({row.run: row for row in result.rows}.values())


def proxy_result(loaded: LoadedRecipe, swarm: SwarmResult) -> ProxyResult:
    """Return weights and final losses of a swarm's runs, by run and domain."""
    runs = {
        row.run: {
            "weights": _by_domain(swarm.names, row.weights),
            "loss": _by_domain(swarm.names, row.losses),
            "bits_per_byte": _by_domain(swarm.names, row.bits_per_byte),
        }
        for row in final_rows(swarm)
    }
    path = loaded.output_dir / "runs.csv"
    return ProxyResult({"runs": runs, "failed": swarm.failed, "path": str(path)}, path)


def experts_result(loaded: LoadedRecipe, losses: Mapping[str, Sequence[float]]) -> ProxyResult:
    """Return final losses of experts, by expert and domain; each domain has an expert."""
    experts = {run: {"loss": _by_domain(list(losses), row)} for run, row in losses.items()}
    path = loaded.output_dir / "experts.parquet"
    return ProxyResult({"experts": experts, "path": str(path)}, path)


def _by_domain(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return dict(zip(names, values, strict=True))


def _drawn_shares(weights: Sequence[float], ratio: Sequence[float]) -> tuple[float, ...]:
    """Convert shares of the recipe's tokens to shares of the proxies' tokens of the same text."""
    proxy_tokens = np.asarray(weights) * np.asarray(ratio)
    return tuple((proxy_tokens / proxy_tokens.sum()).tolist())
