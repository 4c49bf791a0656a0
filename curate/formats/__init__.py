"""Output formats: each writes shards and reads them back, one file a format.

`FORMATS` maps the name a recipe uses (`output.format`) to the format. Token formats store ids at
the width the tokenizer needs; text formats leave tokenising to the trainer. Adding a format takes
one new file and one row here; the contract test then covers it.
"""

from __future__ import annotations

import difflib

from curate.errors import RecipeError
from curate.formats import jsonl, megatron, npy, parquet
from curate.formats.base import TextBatch, TextFormat, TokenBatch, TokenFormat

__all__ = ["FORMATS", "TextBatch", "TextFormat", "TokenBatch", "TokenFormat", "find"]

FORMATS: dict[str, TokenFormat | TextFormat] = {
    "megatron": megatron.FORMAT,
    "npy": npy.FORMAT,
    "parquet": parquet.FORMAT,
    "jsonl": jsonl.FORMAT,
}


def find(name: str) -> TokenFormat | TextFormat:
    """The format of that name.

    Raises:
        RecipeError: There is none; the message offers the nearest name and lists all.

    Example:
        >>> find("npy").summary
        'one NumPy array of token ids, without document boundaries'
    """
    if name in FORMATS:
        return FORMATS[name]
    nearest = difflib.get_close_matches(name.lower(), FORMATS, n=1, cutoff=0.0)[0]
    raise RecipeError(
        f"output.format: there is no format {name!r}; the nearest is {nearest!r}, "
        f"all are {', '.join(FORMATS)}"
    )
