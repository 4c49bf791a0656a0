"""Decides on shards and rows before a byte is written, and foretells what readers drop of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InfeasiblePlan, RecipeError
from curate.formats import check_options
from curate.formats.base import Settings, TextFormat, TokenFormat
from curate.formats.dropped_tokens import cut_rows, worst_tails
from curate.formats.trainers.draws import Source, SourceFile
from curate.formats.trainers.mixtures import Forecast
from curate.plan import DocumentSampler, SequenceSampler, Stream, shard_count
from curate.plan.budget import Plan
from curate.plan.packing import BEST_FIT, CONCAT, WHOLE, PackedSampler, Tally, tally
from curate.plan.per_domain import PER_DOMAIN, DomainSampler, forecasts, shard_stem, sources_of
from curate.recipe import LoadedRecipe
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer

Sampler = DocumentSampler | SequenceSampler | PackedSampler

TEXT_SHARD_TOKENS = 64_000_000
"""Most tokens in a shard of text, about 250 MB: readers take text a file at a time."""

PACKINGS = {
    "npy": (CONCAT, BEST_FIT),
    "litdata": (CONCAT, BEST_FIT),
    "mds": (CONCAT, BEST_FIT, WHOLE),
    "input_ids": (CONCAT, BEST_FIT, WHOLE),
}
"""By format; readers of npy and litdata see rows only where all are full."""


MOST_LOSS = 0.05
"""Share of the training set that a reader may drop, where the recipe states its windows."""


@dataclass(frozen=True)
class ShardInputs:
    """What training shards are cut from."""

    format: TokenFormat | TextFormat
    """Configured with `settings`."""
    settings: Settings
    streams: Sequence[Stream]
    """By domain, its training documents in order."""
    domains: Sequence[DomainTokens]
    plan: Plan


@dataclass(frozen=True)
class Shaped:
    """Training shards, and what will become of them."""

    sampler: Sampler | DomainSampler
    shards: int
    reader_loss: dict[str, int] | None
    packing: dict[str, Any] | None = None
    """Rows, filling and cuts, where documents are packed."""
    sources: tuple[Source, ...] = ()
    """Every domain, where they are written apart."""
    forecasts: tuple[Forecast, ...] = ()
    """What each trainer's own mixture will do with them."""


def format_settings(loaded: LoadedRecipe, tokenizer: Tokenizer) -> Settings:
    """What the output format is configured with."""
    recipe = loaded.recipe
    return Settings(
        tokenizer.eos_id, tokenizer.vocabulary, tokenizer.name, recipe.sequence_length,
        None if recipe.packing == WHOLE else recipe.row_tokens,
        check_options(recipe.output.format, recipe.output.options),
    )  # fmt: skip


def shape_shards(loaded: LoadedRecipe, inputs: ShardInputs) -> Shaped:
    """Decide on shards, and foretell what readers and trainers make of them.

    Raises:
        InfeasiblePlan: The training set is too short for a shard, or readers would drop more of it
            than can be meant.
        RecipeError: Rows cannot be packed with this tokenizer.
    """
    chosen, settings = inputs.format, inputs.settings
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
    shards = _shards(loaded, chosen, sampler)
    if isinstance(sampler, PackedSampler):
        rows, tallies = _rows_of(sampler, shards)
        loss = _exact_loss(chosen, settings, rows)
        return Shaped(sampler, shards, loss, _packing_json(loaded, tallies))
    loss = _reader_loss(loaded, chosen, settings, shards)
    if isinstance(sampler, DocumentSampler) and loss is not None and _by_row(chosen):
        loss = _exact_loss(chosen, settings, sampler.lengths())
    return Shaped(sampler, shards, loss)


def _apart(loaded: LoadedRecipe, inputs: ShardInputs, sampler: DomainSampler) -> Shaped:
    """With domains apart everything about rows is known before they are written."""
    chosen, settings, plan = inputs.format, inputs.settings, inputs.plan
    rows, tallies = _rows_of(sampler, len(sampler.shards))
    names = [domain.name for domain in plan.domains]
    files = [
        (
            place.domain,
            SourceFile(
                f"train/{shard_stem(names[place.domain], place.number)}",
                found.document_tokens,
                found.rows,
            ),
        )
        for place, found in zip(sampler.shards, tallies, strict=True)
    ]
    sources = sources_of(names, [domain.tokens for domain in plan.domains], files)
    loss = _exact_loss(chosen, settings, rows)
    if loss is not None and isinstance(chosen, TokenFormat):
        written = sum(found.document_tokens for found in tallies)
        _refuse_loss(loaded, chosen, settings, loss["tokens_at_most"], written)
    found = forecasts(loaded.recipe.output.format, sources, settings)
    if not any(row["samples"] for row in found[0].rows.values()):
        raise InfeasiblePlan(
            f"plan: {found[0].trainer} would find no {found[0].unit.removesuffix('s')} of "
            f"{found[0].window_tokens} tokens in any of the domains, written apart; set "
            "output.shape: mixed, or raise budget_tokens, or shorten its windows"
        )
    packing = _packing_json(loaded, tallies) if loaded.recipe.packing != CONCAT else None
    return Shaped(sampler, len(files), loss, packing, tuple(sources), tuple(found))


def _rows_of(
    sampler: PackedSampler | DomainSampler, shards: int
) -> tuple[list[NDArray[np.int64]], list[Tally]]:
    """Tokens of each row, and what rows are made of, by shard."""
    rows, tallies = [], []
    for number in range(shards):
        samples = sampler.shard(number, shards)
        rows.append(samples.lengths)
        tallies.append(tally(samples.pieces, len(samples.lengths)))
    return rows, tallies


def _packing_json(loaded: LoadedRecipe, tallies: Sequence[Tally]) -> dict[str, Any]:
    row_tokens = loaded.recipe.row_tokens
    assert row_tokens is not None
    return sum(tallies, Tally()).to_json(loaded.recipe.packing, row_tokens)


def _by_row(chosen: TokenFormat | TextFormat) -> bool:
    """Whether readers cut single rows, so that their loss does not depend on shards."""
    return isinstance(chosen, TokenFormat) and chosen.loss_tokens is cut_rows


def _exact_loss(
    chosen: TokenFormat | TextFormat, settings: Settings, rows: Iterable[NDArray[np.int64]]
) -> dict[str, int] | None:
    """What the trainer's reader drops of shards whose rows are known."""
    if isinstance(chosen, TextFormat) or chosen.loss_tokens is None:
        return None
    window = settings.window_tokens
    lost = sum(chosen.loss_tokens(lengths, window) for lengths in rows)
    return {"window_tokens": window, "tokens_at_most": lost}


def _refuse_loss(
    loaded: LoadedRecipe, chosen: TokenFormat, settings: Settings, lost: int, written: int
) -> None:
    """Raise `InfeasiblePlan` where readers drop more of domains apart than can be meant."""
    stated = settings.options.get("window_tokens") is not None
    if stated and lost > MOST_LOSS * written:
        raise InfeasiblePlan(
            f"plan: readers of {chosen.name} drop {lost} of {written} tokens at the ends of "
            f"{len(loaded.recipe.domains)} domains written apart, in windows of "
            f"{settings.window_tokens}, more than {MOST_LOSS:.0%}; set output.shape: mixed, or "
            "raise budget_tokens, or leave out window_tokens"
        )


def _domain_sampler(loaded: LoadedRecipe, inputs: ShardInputs) -> DomainSampler:
    """A sampler for each domain that gives tokens, of one pass at most."""
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


def _shard_tokens(loaded: LoadedRecipe, chosen: TokenFormat | TextFormat) -> int:
    """Most tokens in a shard, by the recipe and by what the format's readers take."""
    most = TEXT_SHARD_TOKENS if isinstance(chosen, TextFormat) else chosen.shard_tokens_most
    return min(loaded.recipe.output.shard_tokens, most or 10**18)


def _shards(loaded: LoadedRecipe, chosen: TokenFormat | TextFormat, sampler: Sampler) -> int:
    """Training shards: as many as `shard_tokens` asks for and the format's readers take.

    Raises:
        InfeasiblePlan: The whole training set is shorter than the shortest shard a reader takes.
    """
    recipe = loaded.recipe
    least = 1 if isinstance(chosen, TextFormat) else chosen.shard_tokens_least
    shards = shard_count(recipe.budget_tokens, _shard_tokens(loaded, chosen))
    if least == 1:
        return shards
    if recipe.budget_tokens < least:
        raise InfeasiblePlan(
            f"plan: budget_tokens {recipe.budget_tokens} is less than the {least} that every shard "
            f"of format {chosen.name} needs (step_tokens + 1: its reader stops at a shorter one); "
            f"either set budget_tokens: {least} or a smaller output.options.step_tokens"
        )
    shards = min(shards, recipe.budget_tokens // least)
    while shards > 1:
        lengths = (sampler.shard(number, shards).lengths.sum() for number in range(shards))
        if min(lengths) >= least:
            break
        shards -= 1
    return shards


def _reader_loss(
    loaded: LoadedRecipe, chosen: TokenFormat | TextFormat, settings: Settings, shards: int
) -> dict[str, int] | None:
    """What the trainer's reader may drop at the ends of shards, for `plan.json`.

    Raises:
        InfeasiblePlan: More than a share that can be meant, in windows that the recipe states.
    """
    if isinstance(chosen, TextFormat) or chosen.loss_tokens is None:
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
            f"plan: readers of {chosen.name} may drop {lost} of {budget} tokens, a window of "
            f"{window} at the end of each of {shards} shards, more than {MOST_LOSS:.0%}; set "
            f"{remedy}, or leave out window_tokens"
        )
    return {"window_tokens": window, "tokens_at_most": lost}


def _sampler(
    loaded: LoadedRecipe,
    inputs: ShardInputs,
    streams: Sequence[Stream],
    domains: Sequence[DomainTokens],
) -> Sampler:
    """A sampler of the streams of these domains."""
    recipe, chosen = loaded.recipe, inputs.format
    if isinstance(chosen, TokenFormat):
        if recipe.row_tokens is not None and recipe.packing == CONCAT:
            return SequenceSampler(streams, recipe.row_tokens, recipe.seed)
    # A document of text needs a token of text beside its end-of-text token.
    ended = inputs.settings.eos_id is not None
    smallest = 2 if isinstance(chosen, TextFormat) and ended else 1
    whole = DocumentSampler(streams, domains, recipe.seed, smallest)
    if recipe.row_tokens is None:
        return whole
    if recipe.packing == BEST_FIT and inputs.settings.eos_id is None:
        raise RecipeError(
            "packing: best-fit fills rows with the end token, and the tokenizer has none; set "
            "tokenizer.eos, or packing: whole"
        )
    return PackedSampler(whole, recipe.row_tokens, recipe.packing)
