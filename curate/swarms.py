"""Evidence made from a recipe: swarms of proxies and experts, where data, plan and models meet.

torch is imported when a swarm is about to train, and not before.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace as with_fields

from curate.errors import MissingEvidence, RecipeError
from curate.ingest import Ingested, ingest
from curate.mixture.evidence import made_by_proxies
from curate.observer import Observer
from curate.proxy.mixtures import draw_mixtures, read_mixtures
from curate.proxy.shape import PRESETS, Shape, find_preset
from curate.recipe import LoadedRecipe, TokenizerRecipe
from curate.storage import directory_lock, hash_json

if TYPE_CHECKING:
    from curate.proxy.runs import RunRow
    from curate.proxy.train import Swarm, SwarmResult, SwarmRun

WARMUP_SHARE, MOST_WARMUP_STEPS = 0.1, 100
"""Of a run's steps; RegMix warms up for 100 of 1000."""

TOKENIZER_SLACK = 1.25
"""Epochs with a tokenizer of the proxies' own match those of the recipe's only on average over
mixtures, so caps that the recipe's tokens respect may be passed by this factor."""

CAP_SLACK = 1.001
FIRST_FRESH_SEED = 1000
"""Beyond the seeds of `proxy.seeds`, so that luck that chose a mixture does not confirm it."""


@dataclass(frozen=True)
class Prepared:
    """A swarm without runs yet, and what its mixtures need to know."""

    swarm: Swarm
    ratio: tuple[float, ...]
    """By domain, tokens of the proxies' tokenizer for one of the recipe's."""
    supply: tuple[int, ...]
    """By domain, the recipe's training tokens."""
    caps: tuple[float, ...]
    """By domain, the largest share that its epoch cap allows."""


def check_proxy(loaded: LoadedRecipe) -> None:
    """Resolve what the recipe says of proxies before data is read.

    Raises:
        MissingEvidence: torch is not installed.
        RecipeError: A name is unknown, or a run is shorter than a step.
    """
    recipe = loaded.proxies
    preset = find_preset(recipe.preset)
    for name in ("torch", "safetensors"):
        if importlib.util.find_spec(name) is None:
            raise MissingEvidence(
                f"proxy: {name} is not installed, and proxies train with it; "
                "pip install 'curate-mix[proxy]'"
            )
    tokens = recipe.tokens or preset.training.tokens
    batch = recipe.batch or preset.training.batch_sequences
    length = recipe.sequence_length or preset.training.sequence_length
    if tokens < batch * length:
        raise RecipeError(
            f"proxy.tokens: {tokens:,} are less than one step of {batch} sequences of {length} "
            f"tokens; set proxy.tokens: {batch * length:_} or more, or a smaller proxy.batch"
        )


def make_evidence(
    loaded: LoadedRecipe, ingested: Ingested, workers: int, observer: Observer
) -> None:
    """Train what the recipe's method needs and `mixture.evidence.proxy` asks for.

    What is in the output directory already is not trained again; where the recipe asks for nothing,
    nothing happens.

    Raises:
        CurateError: What the user can mend.
    """
    kind = made_by_proxies(loaded)
    if kind == "runs":
        train_proxies(loaded, workers, observer, ingested)
    elif kind == "experts":
        train_domain_experts(loaded, workers, observer, ingested)


def train_proxies(
    loaded: LoadedRecipe, workers: int, observer: Observer, ingested: Ingested | None = None
) -> SwarmResult:
    """Train the recipe's swarm as far as it is not in `runs.csv` yet.

    Raises:
        CurateError: What the user can mend.
    """
    check_proxy(loaded)
    from curate.proxy.train import train_swarm

    with directory_lock(loaded.output_dir):
        prepared = _prepare(loaded, ingested, workers, observer)
        runs = _runs(loaded, prepared)
        swarm = _with_runs(loaded, prepared.swarm, runs)
        return train_swarm(swarm, loaded.output_dir, observer)


def train_domain_experts(
    loaded: LoadedRecipe, workers: int, observer: Observer, ingested: Ingested | None = None
) -> dict[str, list[float]]:
    """Train one model a domain and write `experts.parquet`; see `curate.proxy.experts`.

    An expert is no miniature of the target run, so its domain repeats as little as can be.

    Raises:
        CurateError: What the user can mend.
    """
    check_proxy(loaded)
    from curate.proxy.experts import expert_runs, train_experts

    fresh = loaded.with_proxies(with_fields(loaded.proxies, repetition="fresh"))
    with directory_lock(loaded.output_dir):
        prepared = _prepare(fresh, ingested, workers, observer)
        runs = expert_runs(prepared.swarm.names)
        swarm = _with_runs(loaded, prepared.swarm, runs)
        return train_experts(swarm, loaded.output_dir, observer)


def train_mixtures(
    loaded: LoadedRecipe,
    ingested: Ingested,
    mixtures: Mapping[str, Sequence[float]],
    directory: Path,
    effort: tuple[int, Observer],
) -> SwarmResult:
    """Train named mixtures as one swarm, each with as many seeds, none of which the runs had.

    Args:
        loaded: Its proxies say how, and how many seeds.
        ingested: The domains.
        mixtures: By name, shares of the recipe's tokens, shape (domains,).
        directory: For `runs.csv` and checkpoints.
        effort: Processes, and who hears of progress.

    Returns:
        Runs called `run_name(weights, seed)`: a mixture that is there twice is trained once.

    Raises:
        CurateError: What the user can mend.
    """
    from curate.proxy.train import SwarmRun, train_swarm

    workers, observer = effort
    prepared = _prepare(loaded, ingested, workers, observer)
    # Shares at their cap may be above it by a token of rounding.
    domains = tuple(
        replace(domain, max_epochs=domain.max_epochs * CAP_SLACK)
        for domain in prepared.swarm.domains
    )
    runs = {
        (name := run_name(weights, seed)): SwarmRun(
            name, seed, tuple(weights), _drawn_shares(weights, prepared.ratio)
        )
        for seed in fresh_seeds(loaded)
        for weights in mixtures.values()
    }
    swarm = _with_runs(loaded, replace(prepared.swarm, domains=domains), tuple(runs.values()))
    directory.mkdir(parents=True, exist_ok=True)
    return train_swarm(swarm, directory, observer)


def fresh_seeds(loaded: LoadedRecipe) -> range:
    """As many seeds as the recipe's proxies have, from `FIRST_FRESH_SEED` on."""
    return range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + loaded.proxies.seeds)


def run_name(weights: Sequence[float], seed: int) -> str:
    """Name of a run that holds its mixture, so that another mixture's is never taken for it.

    Example:
        >>> run_name([0.5, 0.5], 3) == run_name((0.5, 0.5), 3) != run_name([0.4, 0.6], 3)
        True
    """
    return f"w{hash_json([float(weight) for weight in weights])[:12]}.s{seed}"


def with_preset(loaded: LoadedRecipe, preset: str) -> LoadedRecipe:
    """The recipe with proxies of another size, trained on as many tokens in the same batches.

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
    """The preset one step larger.

    Raises:
        RecipeError: There is none.

    Example:
        >>> next_preset("nano")
        'micro'
    """
    names = list(PRESETS)
    position = names.index(preset)
    if position + 1 == len(names):
        raise RecipeError(
            f"validate --up: '{preset}' is the largest preset; name a smaller one with --preset"
        )
    return names[position + 1]


def final_rows(result: SwarmResult) -> list[RunRow]:
    """The last checkpoint of each run."""
    last = {row.run: row for row in result.rows}
    return list(last.values())


def _prepare(
    loaded: LoadedRecipe, ingested: Ingested | None, workers: int, observer: Observer
) -> Prepared:
    """Tokenise and measure unless that is done; set up everything but the runs."""
    from curate.proxy.batches import ProxyDomain, validation_rows
    from curate.proxy.device import find_device, stack_settings
    from curate.proxy.memory import Fit
    from curate.proxy.optimiser import OptimiserSettings
    from curate.proxy.train import Swarm, checkpoint_steps

    recipe = loaded.proxies
    training = find_preset(recipe.preset).training
    device = find_device(recipe.device)
    ingested = ingested or ingest(loaded, workers, observer)
    own = _ingest_for_proxies(loaded, ingested, workers, observer)
    length = recipe.sequence_length or training.sequence_length
    batch = recipe.batch or training.batch_sequences
    steps = (recipe.tokens or training.tokens) // (batch * length)
    shape = find_preset(recipe.preset).sized(own.tokenizer.vocabulary, recipe.tied)
    supply = tuple(stats.tokens_train for stats in ingested.stats)
    proxy_supply = tuple(stats.tokens_train for stats in own.stats)
    share = _supply_share(loaded, steps * batch * length * sum(supply) / sum(proxy_supply))
    slack = 1.0 if recipe.tokenizer is None else TOKENIZER_SLACK
    epochs = [domain.max_epochs or loaded.recipe.max_epochs for domain in loaded.recipe.domains]
    domains = tuple(
        ProxyDomain(domain, held_out, cap * slack, share)
        for domain, held_out, cap in zip(own.domains, own.validation, epochs, strict=True)
    )
    start_id = own.tokenizer.eos_id or 0
    seed = loaded.recipe.seed
    optimiser = OptimiserSettings(
        recipe.learning_rate or training.learning_rate,
        recipe.schedule,
        steps,
        min(MOST_WARMUP_STEPS, max(1, round(steps * WARMUP_SHARE))),
    )
    swarm = Swarm(
        stack=stack_settings(shape, optimiser, device, workers),
        runs=(),
        domains=domains,
        validation=validation_rows(domains, length, recipe.validation_tokens, start_id, seed),
        sequence_length=length,
        batch_sequences=batch,
        checkpoints=checkpoint_steps(steps, recipe.checkpoints),
        start_id=start_id,
        data_seed=seed,
        data_hash=hash_json([own.content_hash, own.tokenizer.fingerprint]),
        fit=Fit(1, 1),
    )
    # By the proxies' supply, so that mixtures drawn below them never fail for a rounded document.
    caps = tuple(
        cap * tokens * share / (steps * batch * length) * sum(proxy_supply) / sum(supply) * 0.999
        for cap, tokens in zip(epochs, supply, strict=True)
    )
    _notice_shape(shape, recipe.preset, observer)
    ratio = tuple(p / s if s else 1.0 for p, s in zip(proxy_supply, supply, strict=True))
    return Prepared(swarm, ratio, supply, caps)


def _supply_share(loaded: LoadedRecipe, run_tokens: float) -> float:
    """Share of each domain's supply that runs may see; `run_tokens` in the recipe's tokens."""
    if loaded.proxies.repetition == "fresh":
        return 1.0
    return min(1.0, run_tokens / loaded.recipe.budget_tokens)


def _ingest_for_proxies(
    loaded: LoadedRecipe, ingested: Ingested, workers: int, observer: Observer
) -> Ingested:
    """The same documents with the proxies' tokenizer, if they have one."""
    tokenizer = loaded.proxies.tokenizer
    if tokenizer is None:
        return ingested
    recipe = with_fields(loaded.recipe, tokenizer=TokenizerRecipe(train=tokenizer.train))
    return ingest(with_fields(loaded, recipe=recipe), workers, observer)


def _notice_shape(shape: Shape, preset: str, observer: Observer) -> None:
    observer.notice(
        f"proxy '{preset}': {shape.block_parameters:,} parameters in blocks, "
        f"{shape.matmul_parameters:,} with the head, {shape.parameters:,} in all "
        f"({shape.vocabulary:,} ids)"
    )


def _runs(loaded: LoadedRecipe, prepared: Prepared) -> tuple[SwarmRun, ...]:
    """Every mixture with every seed."""
    from curate.proxy.train import SwarmRun

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
            runs.append(SwarmRun(run, seed, weights, _drawn_shares(weights, prepared.ratio)))
    return tuple(runs)


def _drawn_shares(weights: Sequence[float], ratio: Sequence[float]) -> tuple[float, ...]:
    """Shares of the recipe's tokens → shares of the proxies' tokens of the same text."""
    found = np.asarray(weights) * np.asarray(ratio)
    return tuple((found / found.sum()).tolist())


def _with_runs(loaded: LoadedRecipe, swarm: Swarm, runs: tuple[SwarmRun, ...]) -> Swarm:
    from curate.proxy.memory import fit_models

    fit = fit_models(
        swarm.stack.shape, swarm.sequence_length, swarm.batch_sequences, swarm.stack.compute,
        swarm.stack.device,
    )  # fmt: skip
    most = min(fit.models, loaded.proxies.models or fit.models, len(runs))
    return replace(swarm, runs=runs, fit=replace(fit, models=most))
