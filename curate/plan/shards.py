"""Choose shards and rows, and predict how many tokens each reader drops, before writing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InfeasiblePlan, RecipeError
from curate.formats import check_options
from curate.formats.base import BEST_FIT, CONCAT, WHOLE, Settings, TextFormat, TokenFormat
from curate.formats.dropped_tokens import worst_tails
from curate.formats.trainers.draws import WrittenDomain, WrittenShard
from curate.formats.trainers.mixtures import MixturePrediction
from curate.plan import DocumentSampler, DocumentStream, SequenceSampler, shard_count
from curate.plan.budget import Plan
from curate.plan.packing import PackedSampler, Tally, tally
from curate.plan.per_domain import (
    PER_DOMAIN,
    DomainSampler,
    predict_mixtures,
    shard_stem,
    written_domains,
)
from curate.recipe import LoadedRecipe
from curate.runtime.memory import block_rows, next_block
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer

Sampler = DocumentSampler | SequenceSampler | PackedSampler

MOST_LOSS = 0.05
"""Largest share of the training set that a reader may drop, if the recipe sets `window_tokens`."""


@dataclass(frozen=True)
class ShardInputs:
    """Documents, plan and format that training shards are cut from."""

    format: TokenFormat | TextFormat
    """The output format, configured with `settings`."""
    settings: Settings
    streams: Sequence[DocumentStream]
    """shape (domains,), each domain's training documents in order."""
    domains: Sequence[DomainTokens]
    plan: Plan


@dataclass(frozen=True)
class ShardPlan:
    """Training shards, and predictions of how readers and trainers will use them."""

    sampler: Sampler | DomainSampler
    shards: int
    reader_loss: dict[str, int] | None
    """Tokens that the trainer's reader may drop, and its window; None where it drops none."""
    packing: dict[str, Any] | None = None
    """Counts of rows, filling and cuts, where documents are packed."""
    written_domains: tuple[WrittenDomain, ...] = ()
    """Every domain, where they are written apart."""
    predictions: tuple[MixturePrediction, ...] = ()
    """Draws of each trainer's own mixture, the certificate's first."""


def format_settings(loaded: LoadedRecipe, tokenizer: Tokenizer) -> Settings:
    """Collect the settings of the output format."""
    recipe = loaded.recipe
    return Settings(
        eos_id=tokenizer.eos_id,
        vocabulary=tokenizer.vocabulary,
        tokenizer=tokenizer.name,
        sequence_length=recipe.sequence_length,
        row_tokens=None if recipe.packing == WHOLE else recipe.row_tokens,
        options=check_options(recipe.output.format, recipe.output.options),
    )


def plan_shards(loaded: LoadedRecipe, inputs: ShardInputs) -> ShardPlan:
    """Choose shards, and predict which tokens readers drop and how trainers mix domains.

    Raises:
        InfeasiblePlan: The training set is too short for a shard, or readers would drop more than
            5 % of it in windows that the recipe states.
        RecipeError: Rows cannot be packed with this tokenizer.
    """
    output_format, settings = inputs.format, inputs.settings
    recipe = loaded.recipe
    row_tokens = settings.row_tokens or 0
    if row_tokens > recipe.budget_tokens and recipe.packing == CONCAT:
        raise InfeasiblePlan(
            f"plan: not one sequence of {row_tokens} tokens is full with budget_tokens "
            f"{recipe.budget_tokens}; set sequence_length: {recipe.budget_tokens} or less, or "
            f"budget_tokens: {row_tokens} or more"
        )
    if recipe.output.shape == PER_DOMAIN:
        return _apart(loaded, inputs, _domain_sampler(loaded, inputs))
    sampler = _sampler(loaded, inputs, inputs.streams, inputs.domains)
    shards = _shards(loaded, output_format, sampler)
    if isinstance(sampler, PackedSampler):
        rows, tallies = _rows_of(sampler, shards)
        loss = _exact_loss(output_format, settings, rows)
        return ShardPlan(sampler, shards, loss, _packing_json(loaded, tallies))
    loss = _reader_loss(loaded, output_format, settings, shards)
    by_row = isinstance(output_format, TokenFormat) and output_format.drops_by_row
    if isinstance(sampler, DocumentSampler) and loss is not None and by_row:
        loss = _exact_loss(output_format, settings, sampler.lengths())
    return ShardPlan(sampler, shards, loss)


def _apart(loaded: LoadedRecipe, inputs: ShardInputs, sampler: DomainSampler) -> ShardPlan:
    """Plan domains that are written apart, by making all of their rows once in advance."""
    output_format, settings, plan = inputs.format, inputs.settings, inputs.plan
    rows, tallies = _rows_of(sampler, len(sampler.shards))
    names = [domain.name for domain in plan.domains]
    shards = [
        (
            place.domain,
            WrittenShard(
                f"train/{shard_stem(names[place.domain], place.number)}",
                counts.document_tokens,
                counts.rows,
            ),
        )
        for place, counts in zip(sampler.shards, tallies, strict=True)
    ]
    domains = written_domains(names, [domain.tokens for domain in plan.domains], shards)
    loss = _exact_loss(output_format, settings, rows)
    if loss is not None and isinstance(output_format, TokenFormat):
        written = sum(counts.document_tokens for counts in tallies)
        _refuse_loss(loaded, output_format, settings, loss["tokens_at_most"], written)
    predictions = predict_mixtures(output_format, domains, settings)
    first = predictions[0]
    if not any(row["samples"] for row in first.rows.values()):
        raise InfeasiblePlan(
            f"plan: {first.trainer} would find no {first.unit.removesuffix('s')} of "
            f"{first.window_tokens} tokens in any of the domains, written apart; set "
            "output.shape: mixed, or raise budget_tokens, or shorten its windows"
        )
    packing = _packing_json(loaded, tallies) if loaded.recipe.packing != CONCAT else None
    return ShardPlan(
        sampler=sampler,
        shards=len(shards),
        reader_loss=loss,
        packing=packing,
        written_domains=tuple(domains),
        predictions=tuple(predictions),
    )


def _rows_of(
    sampler: PackedSampler | DomainSampler, shards: int
) -> tuple[list[NDArray[np.int64]], list[Tally]]:
    """Return the tokens of each row and the contents of rows, by shard."""
    rows, tallies = [], []
    for number in range(shards):
        lengths, contents = [np.empty(0, np.int64)], Tally()
        for samples in sampler.parts(number, shards):
            lengths.append(samples.lengths)
            contents += tally(samples.pieces, len(samples.lengths))
            next_block(len(samples.pieces) / block_rows())
        rows.append(np.concatenate(lengths))
        tallies.append(contents)
    return rows, tallies


def _packing_json(loaded: LoadedRecipe, tallies: Sequence[Tally]) -> dict[str, Any]:
    row_tokens = loaded.recipe.row_tokens
    assert row_tokens is not None
    return sum(tallies, Tally()).to_json(loaded.recipe.packing, row_tokens)


def _exact_loss(
    output_format: TokenFormat | TextFormat, settings: Settings, rows: Iterable[NDArray[np.int64]]
) -> dict[str, int] | None:
    """Count the tokens that the trainer's reader drops from shards, by the tokens of each row."""
    if isinstance(output_format, TextFormat) or output_format.dropped_tokens is None:
        return None
    window = settings.window_tokens
    lost = sum(output_format.dropped_tokens(lengths, window) for lengths in rows)
    return {"window_tokens": window, "tokens_at_most": lost}


def _refuse_loss(
    loaded: LoadedRecipe, output_format: TokenFormat, settings: Settings, lost: int, written: int
) -> None:
    """Raise `InfeasiblePlan` if readers would drop too much of domains written apart."""
    stated = settings.options.get("window_tokens") is not None
    if stated and lost > MOST_LOSS * written:
        raise InfeasiblePlan(
            f"plan: readers of {output_format.name} drop {lost} of {written} tokens at the ends of "
            f"{len(loaded.recipe.domains)} domains written apart, in windows of "
            f"{settings.window_tokens}, more than {MOST_LOSS:.0%}; set output.shape: mixed, or "
            "raise budget_tokens, or leave out window_tokens"
        )


def _domain_sampler(loaded: LoadedRecipe, inputs: ShardInputs) -> DomainSampler:
    """Make a sampler for each domain that gives tokens, of one pass at most."""
    shard_tokens = _shard_tokens(loaded, inputs.format)
    streams = [
        replace(stream, tokens=min(stream.tokens, stream.supply_tokens))
        for stream in inputs.streams
    ]
    return DomainSampler(
        [
            _sampler(loaded, inputs, [stream], [domain]) if stream.tokens else None
            for stream, domain in zip(streams, inputs.domains, strict=True)
        ],
        [shard_count(stream.tokens, shard_tokens) for stream in streams],
    )


def _shard_tokens(loaded: LoadedRecipe, output_format: TokenFormat | TextFormat) -> int:
    """Return the most tokens in a shard, by the recipe and by the format's readers."""
    shard_tokens = loaded.recipe.output.shard_tokens
    return min(shard_tokens, output_format.shard_tokens_most or shard_tokens)


def _shards(loaded: LoadedRecipe, output_format: TokenFormat | TextFormat, sampler: Sampler) -> int:
    """Count training shards, by `shard_tokens` and the shortest shard that readers take.

    Raises:
        InfeasiblePlan: The whole training set is shorter than the shortest shard a reader takes.
    """
    recipe = loaded.recipe
    least = output_format.shard_tokens_least
    shards = shard_count(recipe.budget_tokens, _shard_tokens(loaded, output_format))
    if least == 1:
        return shards
    if recipe.budget_tokens < least:
        raise InfeasiblePlan(
            f"plan: budget_tokens {recipe.budget_tokens} is less than the {least} that every shard "
            f"of format {output_format.name} needs (step_tokens + 1: its reader stops at a shorter "
            f"one); either set budget_tokens: {least} or a smaller output.options.step_tokens"
        )
    # Whole documents and rows make shards uneven, so fewer are tried until each is long enough.
    shards = min(shards, recipe.budget_tokens // least)
    while shards > 1:
        tokens = (
            sum(int(samples.lengths.sum()) for samples in sampler.parts(number, shards))
            for number in range(shards)
        )
        if min(tokens) >= least:
            break
        shards -= 1
    return shards


def _reader_loss(
    loaded: LoadedRecipe, output_format: TokenFormat | TextFormat, settings: Settings, shards: int
) -> dict[str, int] | None:
    """Bound the tokens that the trainer's reader drops at the ends of shards, for `plan.json`.

    Raises:
        InfeasiblePlan: More than 5 % of the budget, in windows that the recipe states.
    """
    if isinstance(output_format, TextFormat) or output_format.dropped_tokens is None:
        return None
    budget, window = loaded.recipe.budget_tokens, settings.window_tokens
    lost = worst_tails(shards, window, budget)
    stated = settings.options.get("window_tokens") is not None
    if stated and lost > MOST_LOSS * budget:
        most_shards = int(MOST_LOSS * budget / window)
        enough = -(-window * 100 // round(100 * MOST_LOSS))
        remedy = (
            f"output.shard_tokens: {-(-budget // most_shards)} or more"
            if most_shards
            else f"budget_tokens: {enough} or more, in one shard"
        )
        raise InfeasiblePlan(
            f"plan: readers of {output_format.name} may drop {lost} of {budget} tokens, a window "
            f"of {window} at the end of each of {shards} shards, more than {MOST_LOSS:.0%}; set "
            f"{remedy}, or leave out window_tokens"
        )
    return {"window_tokens": window, "tokens_at_most": lost}


def _sampler(
    loaded: LoadedRecipe,
    inputs: ShardInputs,
    streams: Sequence[DocumentStream],
    domains: Sequence[DomainTokens],
) -> Sampler:
    """Make the sampler of these domains' streams."""
    recipe, output_format = loaded.recipe, inputs.format
    if isinstance(output_format, TokenFormat):
        if recipe.row_tokens is not None and recipe.packing == CONCAT:
            return SequenceSampler(streams, recipe.row_tokens, recipe.seed)
    # A document of text that is cut must keep a token of text beside its end-of-text token.
    ended = inputs.settings.eos_id is not None
    smallest = 2 if isinstance(output_format, TextFormat) and ended else 1
    whole = DocumentSampler(streams, domains, recipe.seed, smallest)
    if recipe.row_tokens is None:
        return whole
    if recipe.packing == BEST_FIT and inputs.settings.eos_id is None:
        raise RecipeError(
            "packing: best-fit fills rows with the end token, and the tokenizer has none; set "
            "tokenizer.eos, or packing: whole"
        )
    return PackedSampler(whole, recipe.row_tokens, recipe.packing)
