"""Load training data: a resumable loader over built shards, or directly over the token store.

```python
data = curate.load("out/my-mix", 2048, fields=("tokens", "labels"))
for batch in data.loader(batch_sequences=8):     # NumPy; data.torch_loader(8) gives tensors
    batch["tokens"], batch["labels"]             # shape (8, 2048)
```

`sequence_dataset` holds sequences by number, `batch_loader` order, ranks and state, and
`torch_batches` everything that needs torch. Packing is part of a build; formats of text are not
read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import DTypeLike

from curate import recipe as recipes
from curate.dataset.copies import copy_from_bucket
from curate.dataset.staged import StagedPlan, load_stage, load_staged_plan, load_stages
from curate.errors import RecipeError
from curate.loader.batch_loader import BatchLoader, LoaderOptions
from curate.loader.domain_windows import (
    DomainShards,
    DomainStore,
    most_tokens,
    planned_part,
    shard_limits,
    store_limits,
)
from curate.loader.draws import PLANNED, DrawLimits, Weights
from curate.loader.fields import FIELDS, check_fields, extra_tokens, needs_segments
from curate.loader.sequence_dataset import Sequences
from curate.loader.shard_windows import ShardSource
from curate.loader.stages import StagedDraws, StagedLoader, StagedSequences
from curate.loader.store_windows import PlannedStore, StoreSource
from curate.loader.weighted_loader import DomainDraws, WeightedLoader
from curate.loader.window_source import WindowSource
from curate.mixture.request import DomainSupply
from curate.pipeline.check import check_mixture, check_names
from curate.pipeline.plan import Planned, plan_dataset
from curate.pipeline.stages import check_stage_names, plan_stages, stages_json
from curate.runtime.files import dataset_url
from curate.runtime.progress import Observer
from curate.runtime.workers import default_workers

__all__ = [
    "FIELDS",
    "BatchLoader",
    "LoaderOptions",
    "Sequences",
    "StagedLoader",
    "StagedSequences",
    "WeightedLoader",
    "load",
    "open_recipe",
]


def load(  # noqa: PLR0913 - one entry for all; all but two are keywords
    source: str | Path,
    sequence_length: int | None = None,
    *,
    split: str = "train",
    fields: Sequence[str] = ("tokens",),
    dtype: DTypeLike = np.int64,
    weights: Weights | None = None,
) -> Sequences | StagedSequences:
    """Open a built directory, or a recipe, as sequences of equal length, in stages if it has them.

    A recipe is planned, after tokenising whatever the store lacks; no shard is written.

    Args:
        source: Directory of a build in a token format, its URL in a bucket, from which the shards
            of the split are copied to the user's cache once, or a recipe file.
        sequence_length: Tokens of a sequence; None takes the recipe's, less one for labels.
        split: `train`; for a directory also `validation` or `validation/<domain>`.
        fields: Contents of a sequence, names from `FIELDS`.
        dtype: Integer type of `tokens` and `labels`.
        weights: Opens the data by domain, so that loaders can change its shares: weights to begin
            with, or a function that is called with the loader before every step and returns
            weights or None, or `planned` for the shares of the build or plan. In stages, weights
            hold for the first of them, and a function is asked in all.

    Returns:
        Sequences by number, with `loader` and `torch_loader` for batches; in stages, those of each
        stage, with loaders that go through all of them.

    Raises:
        RecipeError: An argument does not fit the source; the message lists what does.
        ShardError: The build in the directory is unfinished or damaged.
    """
    names = check_fields(fields)
    url = dataset_url(source)
    if url is not None:
        source = copy_from_bucket(url, [split.partition("/")[0]])
    path = Path(source)
    opened: WindowSource
    limits: DrawLimits | None = None
    if path.is_file():
        if split != "train":
            raise RecipeError(
                f"{path}: a recipe has only the split 'train', not {split!r}; build the recipe and "
                "load its directory"
            )
        loaded = recipes.load(path)
        if loaded.recipe.stages:
            opened_stages, plan = open_stages(
                loaded, sequence_length, names, by_domain=weights is not None
            )
            return _staged(opened_stages, plan, weights, str(path), (names, dtype))
        opened, limits = open_recipe(loaded, sequence_length, names, by_domain=weights is not None)
    elif path.is_dir():
        segments = needs_segments(names) or weights is not None

        def open_shards(directory: Path) -> tuple[WindowSource, DrawLimits | None]:
            shards = ShardSource(directory, split, sequence_length, extra_tokens(names), segments)
            if weights is not None:
                return open_domains(shards, directory)
            shards.check_mixed()
            return shards, None

        stages = load_stages(path)
        if stages is not None:
            of_stages = {}
            for stage in stages.stages:
                load_stage(path, stage)
                of_stages[stage.name] = open_shards(path / stage.name)
            staged_plan = load_staged_plan(path) if weights is not None else None
            return _staged(of_stages, staged_plan, weights, str(path), (names, dtype))
        opened, limits = open_shards(path)
    else:
        raise RecipeError(
            f"{path}: expected the directory of a build or a recipe file, but there is neither"
        )
    draws = None if weights is None or limits is None else DomainDraws(limits, weights)
    if draws is not None and not callable(draws.weights):
        draws.limits.check(draws.weights)  # fail here rather than when a loader is made
    return Sequences(opened, names, dtype, draws)


def _staged(
    stages: Mapping[str, tuple[WindowSource, DrawLimits | None]],
    plan: StagedPlan | None,
    weights: Weights | None,
    where: str,
    content: tuple[Sequence[str], DTypeLike],
) -> StagedSequences:
    """Wrap stages that were opened.

    Args:
        stages: Windows of each stage, and, with weights, the limits of its domains.
        plan: Supply and caps of all stages; None without weights.
        weights: Weights to begin with; None where the stages are not by domain.
        where: Directory or recipe, for messages.
        content: Fields of a sequence, and the type of its tokens.

    Raises:
        RecipeError: A weight is out of range, or of no domain.
    """
    names, dtype = content
    of_stages, draws = {}, None
    for name, (source, limits) in stages.items():
        drawn = None if limits is None else DomainDraws(limits, PLANNED)
        of_stages[name] = Sequences(source, names, dtype, drawn)
        if limits is not None and weights is not None and not callable(weights):
            limits.check(weights)  # fail here rather than when a loader is made
    if weights is not None and plan is not None:
        supply = {name: domain.supply_tokens for name, domain in plan.domains.items()}
        draws = StagedDraws(weights, most_tokens(plan), supply)
    return StagedSequences(of_stages, where, draws)


def open_domains(shards: ShardSource, directory: Path) -> tuple[DomainShards, DrawLimits]:
    """Open the training shards of a dataset by domain.

    Raises:
        RecipeError: The shards are of another split, or no sequence can be drawn.
    """
    if shards.split != "train":
        raise RecipeError(
            f"{directory}: weights are for the split 'train', not {shards.split!r}; load it without"
        )
    limits = shard_limits(shards, directory)
    limits.check_supply(shards.where)
    return DomainShards(shards, limits), limits


def open_recipe(
    loaded: recipes.LoadedRecipe,
    sequence_length: int | None,
    fields: Sequence[str],
    *,
    by_domain: bool = False,
) -> tuple[StoreSource, DrawLimits | None]:
    """Plan a recipe and open the token store with its plan.

    Args:
        loaded: The recipe.
        sequence_length: Tokens of a sequence; None takes the recipe's, less one for labels.
        fields: Names from `FIELDS`.
        by_domain: Whether to open all training documents, by domain, and count them.

    Raises:
        RecipeError: No sequence length is given, or the recipe cannot be planned.
    """
    length = _length(loaded, sequence_length, fields)
    check_names(loaded)
    check_mixture(loaded)
    planned = plan_dataset(loaded, default_workers(), Observer(), write=False)
    store = _planned_store(loaded, planned)
    if not by_domain:
        return StoreSource(store, length), None
    request = planned.mixed.request
    capped = request.options.on_shortfall != "repeat"
    limits = store_limits(store, request.domains, capped, length)
    limits.check_supply(store.where)
    return DomainStore(store, limits), limits


def open_stages(
    loaded: recipes.LoadedRecipe,
    sequence_length: int | None,
    fields: Sequence[str],
    *,
    by_domain: bool = False,
) -> tuple[dict[str, tuple[WindowSource, DrawLimits | None]], StagedPlan]:
    """Plan a recipe with stages, and open the token store with the plan of each.

    Args:
        loaded: The recipe.
        sequence_length: Tokens of a sequence; None takes that of each stage, less one for labels.
        fields: Names from `FIELDS`.
        by_domain: Whether to open what each stage takes by domain, and count it.

    Returns:
        Windows of each stage, with the limits of its domains if it is by domain; and the plan.

    Raises:
        RecipeError: No sequence length is given, or the recipe cannot be planned.
    """
    lengths = [_length(stage, sequence_length, fields) for stage in recipes.stage_recipes(loaded)]
    check_stage_names(loaded)
    planned = plan_stages(loaded, default_workers(), Observer())
    opened: dict[str, tuple[WindowSource, DrawLimits | None]] = {}
    for stage, length in zip(planned, lengths, strict=True):
        store = _planned_store(stage.loaded, stage.planned)
        if not by_domain:
            opened[stage.name] = StoreSource(store, length), None
            continue
        store, request = planned_part(store), stage.planned.mixed.request
        supply = [
            DomainSupply(stream.name, stream.supply_tokens, domain.max_epochs)
            for stream, domain in zip(store.streams, request.domains, strict=True)
        ]
        limits = store_limits(store, supply, request.options.on_shortfall != "repeat", length)
        limits.check_supply(f"{store.where}: stages[{stage.name}]")
        opened[stage.name] = DomainStore(store, limits), limits
    plan = msgspec.convert(stages_json(loaded, planned), StagedPlan)
    return opened, plan


def _length(
    loaded: recipes.LoadedRecipe, sequence_length: int | None, fields: Sequence[str]
) -> int:
    """Return the tokens of a window, with one more for labels."""
    extra = extra_tokens(fields)
    length = sequence_length
    if length is None and loaded.recipe.sequence_length is not None:
        length = loaded.recipe.sequence_length - extra
    if length is None or length < 1:
        raise RecipeError(
            f"{_where(loaded)}: sequence_length "
            f"{'is needed' if length is None else f'is {length}'}; say how many tokens a sequence "
            'has, as in curate.load("…", 2048)'
        )
    return length + extra


def _where(loaded: recipes.LoadedRecipe) -> str:
    return str(loaded.base / loaded.recipe.name)


def _planned_store(loaded: recipes.LoadedRecipe, planned: Planned) -> PlannedStore:
    tokenized = planned.tokenized
    return PlannedStore(
        _where(loaded),
        planned.streams,
        tokenized.domains,
        highest_id=tokenized.tokenizer.vocabulary - 1,
        seed=loaded.recipe.seed,
    )
