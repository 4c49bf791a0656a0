"""Set up the swarm that a recipe describes: data, shape, settings, and models at once.

torch is imported when a swarm is about to train, and not before.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msgspec.structs import asdict
from msgspec.structs import replace as with_fields

from curate.errors import MissingEvidence, RecipeError
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.proxy.shape import Shape, find_preset
from curate.recipe import LoadedRecipe, TokenizerRecipe
from curate.runtime.files import hash_json
from curate.runtime.progress import Observer

if TYPE_CHECKING:
    from curate.proxy.optimiser import OptimiserSettings
    from curate.proxy.swarm import Swarm, SwarmRun

WARMUP_SHARE, MOST_WARMUP_STEPS = 0.1, 100
"""Warm-up as a share of a run's steps, and at most; RegMix warms up for 100 of 1000."""

TOKENIZER_SLACK = 1.25
"""Factor on epoch caps where proxies have another tokenizer: then their epochs match the recipe's
only on average over mixtures."""


@dataclass(frozen=True)
class Prepared:
    """A swarm without runs yet, and the limits of its mixtures."""

    swarm: Swarm
    ratio: tuple[float, ...]
    """shape (domains,), tokens of the proxies' tokenizer for each token of the recipe's."""
    supply: tuple[int, ...]
    """shape (domains,), the recipe's training tokens."""
    caps: tuple[float, ...]
    """shape (domains,), the largest share that each epoch cap allows."""


def check_proxy(loaded: LoadedRecipe) -> None:
    """Check the recipe's settings of proxies before data is read.

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
    if recipe.tensorboard is not None and importlib.util.find_spec("tensorboard") is None:
        raise MissingEvidence(
            "proxy.tensorboard: tensorboard is not installed; pip install "
            "'curate-mix[tensorboard]', or leave it out (curves/*.parquet hold the same losses)"
        )
    tokens = recipe.tokens or preset.training.tokens
    batch = recipe.batch or preset.training.batch_sequences
    length = recipe.sequence_length or preset.training.sequence_length
    if tokens < batch * length:
        raise RecipeError(
            f"proxy.tokens: {tokens:,} tokens are less than one step of {batch} sequences of "
            f"{length} tokens; set proxy.tokens: {batch * length:_} or more, or lower proxy.batch"
        )


def prepare(
    loaded: LoadedRecipe, tokenized: TokenizedDomains | None, workers: int, observer: Observer
) -> Prepared:
    """Set up everything of a swarm but its runs.

    Args:
        loaded: The recipe.
        tokenized: Its domains; None to tokenise them first.
        workers: Number of processes and threads.
        observer: Receives progress, and a notice of the models' size.

    Raises:
        CurateError: Any user-fixable error.
    """
    from curate.proxy.device import find_devices, stack_settings
    from curate.proxy.memory import GroupSize
    from curate.proxy.swarm import Swarm, checkpoint_steps
    from curate.proxy.training_batches import ProxyDomain, validation_rows

    recipe = loaded.proxies
    training = find_preset(recipe.preset).training
    device = find_devices(recipe.device)[0]
    tokenized = tokenized or tokenize_domains(loaded, workers, observer)
    encoded = _tokenize_for_proxies(loaded, tokenized, workers, observer)
    length = recipe.sequence_length or training.sequence_length
    batch = recipe.batch or training.batch_sequences
    steps = (recipe.tokens or training.tokens) // (batch * length)
    shape = find_preset(recipe.preset).sized(encoded.tokenizer.vocabulary, recipe.tied)
    supply = tuple(stats.tokens_train for stats in tokenized.stats)
    proxy_supply = tuple(stats.tokens_train for stats in encoded.stats)
    share = _supply_share(loaded, steps * batch * length * sum(supply) / sum(proxy_supply))
    slack = 1.0 if recipe.tokenizer is None else TOKENIZER_SLACK
    epochs = tokenized.settings.epochs(loaded.recipe.max_epochs)
    domains = tuple(
        ProxyDomain(domain, held_out, cap * slack, share)
        for domain, held_out, cap in zip(encoded.domains, encoded.validation, epochs, strict=True)
    )
    start_id = encoded.tokenizer.eos_id or 0
    seed = loaded.recipe.seed
    swarm = Swarm(
        stack=stack_settings(shape, _optimiser(loaded, steps), device, workers),
        runs=(),
        domains=domains,
        validation=validation_rows(domains, length, recipe.validation_tokens, start_id, seed),
        sequence_length=length,
        batch_sequences=batch,
        checkpoints=checkpoint_steps(steps, recipe.checkpoints, recipe.spacing),
        start_id=start_id,
        data_seed=seed,
        data_hash=hash_json(
            [encoded.content_hash, encoded.tokenizer.fingerprint, asdict(loaded.recipe.validation)]
        ),
        group=GroupSize(1, 1, 1),
        tensorboard=None if recipe.tensorboard is None else loaded.base / recipe.tensorboard,
    )
    # By the proxies' supply, so that mixtures drawn below them never fail for a rounded document.
    caps = tuple(
        cap * tokens * share / (steps * batch * length) * sum(proxy_supply) / sum(supply) * 0.999
        for cap, tokens in zip(epochs, supply, strict=True)
    )
    _notice_shape(shape, recipe.preset, observer)
    ratio = tuple(p / s if s else 1.0 for p, s in zip(proxy_supply, supply, strict=True))
    return Prepared(swarm, ratio, supply, caps)


def _optimiser(loaded: LoadedRecipe, steps: int) -> OptimiserSettings:
    from curate.proxy.optimiser import OptimiserSettings

    recipe = loaded.proxies
    return OptimiserSettings(
        recipe.learning_rate or find_preset(recipe.preset).training.learning_rate,
        recipe.schedule,
        steps,
        min(MOST_WARMUP_STEPS, max(1, round(steps * WARMUP_SHARE))),
    )


def _supply_share(loaded: LoadedRecipe, run_tokens: float) -> float:
    """Return the share of each domain's supply that runs may see.

    With matched repetition a run repeats its text as often as the target run does, so it sees the
    same share of the supply as it has of the budget. `run_tokens` counts the recipe's tokens.
    """
    if loaded.proxies.repetition == "fresh":
        return 1.0
    return min(1.0, run_tokens / loaded.recipe.budget_tokens)


def _tokenize_for_proxies(
    loaded: LoadedRecipe, tokenized: TokenizedDomains, workers: int, observer: Observer
) -> TokenizedDomains:
    """Tokenise the same documents with the proxies' tokenizer, if they have one."""
    tokenizer = loaded.proxies.tokenizer
    if tokenizer is None:
        return tokenized
    recipe = with_fields(loaded.recipe, tokenizer=TokenizerRecipe(train=tokenizer.train))
    return tokenize_domains(with_fields(loaded, recipe=recipe), workers, observer)


def _notice_shape(shape: Shape, preset: str, observer: Observer) -> None:
    observer.notice(
        f"proxy '{preset}': {shape.block_parameters:,} parameters in blocks, "
        f"{shape.matmul_parameters:,} with the head, {shape.parameters:,} in all "
        f"({shape.vocabulary:,} ids)"
    )


def with_runs(loaded: LoadedRecipe, swarm: Swarm, runs: tuple[SwarmRun, ...]) -> Swarm:
    """Give a swarm its runs, and as many models at a time as are fastest.

    Args:
        loaded: The recipe; `proxy.models` limits the models at once.
        swarm: A swarm, whose runs are replaced.
        runs: The runs.
    """
    from curate.proxy.memory import Workload, fit_models

    stack = swarm.stack
    workload = Workload(
        shape=stack.shape,
        sequence_length=swarm.sequence_length,
        batch_sequences=swarm.batch_sequences,
        run_tokens=swarm.steps * swarm.step_tokens,
        runs=len(runs),
        most_models=loaded.proxies.models or len(runs),
    )
    group = fit_models(workload, stack.compute, stack.device, stack.threads)
    return replace(swarm, runs=runs, group=group)
