"""Training data read back: a resumable loader over built shards, or straight over the token store.

```python
data = curate.load("out/my-mix", 2048, fields=("tokens", "labels"))
for batch in data.loader(batch_sequences=8):     # NumPy; data.torch_loader(8) gives tensors
    batch["tokens"], batch["labels"]             # shape (8, 2048)
```

`sequences` is the map-style side, `batches` order, shares and state, `torch_batches` all that needs
torch. Left out: packing, which is a build's business, and formats of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from curate import recipe as recipes
from curate.errors import RecipeError
from curate.loader.batch_loader import BatchLoader, LoaderOptions
from curate.loader.fields import FIELDS, check_fields, extra_tokens, needs_segments
from curate.loader.sequence_dataset import Sequences
from curate.loader.shard_windows import ShardSource
from curate.loader.store_windows import PlannedStore, StoreSource
from curate.loader.window_source import WindowSource
from curate.pipeline.check import check_names
from curate.pipeline.plan import plan_dataset
from curate.runtime.progress import Observer
from curate.runtime.workers import default_workers

__all__ = ["FIELDS", "BatchLoader", "LoaderOptions", "Sequences", "load", "open_recipe"]


def load(
    source: str | Path,
    sequence_length: int | None = None,
    *,
    split: str = "train",
    fields: Sequence[str] = ("tokens",),
    dtype: DTypeLike = np.int64,
) -> Sequences:
    """Open a built directory, or a recipe, as sequences of equal length.

    A recipe is planned, and tokenised first where the store lacks something; no shard is written.

    Args:
        source: Directory of a build in a format of tokens, or the file of a recipe.
        sequence_length: Tokens of a sequence; None takes the recipe's, less the label's one.
        split: `train`; of a directory also `validation` or `validation/<domain>`.
        fields: What a sequence holds, names out of `FIELDS`.
        dtype: Of `tokens` and `labels`.

    Returns:
        Sequences by number, with `loader` and `torch_loader` for batches.

    Raises:
        RecipeError: What is asked for cannot be; says what can.
        ShardError: The directory holds no finished build, or a damaged one.
    """
    asked = check_fields(fields)
    path = Path(source)
    opened: WindowSource
    if path.is_file():
        if split != "train":
            raise RecipeError(
                f"{path}: split {split!r} is not read straight over the store, only 'train'; "
                "build the recipe and load its directory"
            )
        opened = open_recipe(recipes.load(path), sequence_length, asked)
    elif path.is_dir():
        opened = ShardSource(
            path, split, sequence_length, extra_tokens(asked), needs_segments(asked)
        )
    else:
        raise RecipeError(
            f"{path}: neither the directory of a build nor the file of a recipe is there"
        )
    return Sequences(opened, asked, dtype)


def open_recipe(
    loaded: recipes.LoadedRecipe, sequence_length: int | None, fields: Sequence[str]
) -> StoreSource:
    """Plan a recipe and open the token store at the plan.

    Raises:
        RecipeError: No sequence length is known, or the recipe cannot be planned.
    """
    extra = extra_tokens(fields)
    length = sequence_length
    if length is None and loaded.recipe.sequence_length is not None:
        length = loaded.recipe.sequence_length - extra
    where = str(loaded.base / loaded.recipe.name)
    if length is None or length < 1:
        raise RecipeError(
            f"{where}: sequence_length {'is needed' if length is None else f'is {length}'}: say "
            'how many tokens a sequence shall have, as in curate.load("…", 2048)'
        )
    check_names(loaded)
    planned = plan_dataset(loaded, default_workers(), Observer(), write=False)
    tokenized = planned.tokenized
    highest_id = tokenized.tokenizer.vocabulary - 1
    seed = loaded.recipe.seed
    store = PlannedStore(where, planned.streams, tokenized.domains, highest_id, seed)
    return StoreSource(store, length + extra)
