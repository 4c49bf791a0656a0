"""A tokenizer in the forms that curate and its peers read, one directory for all.

`tokenizer.json` is the tokenizer itself; `tokenizer_config.json` beside it lets `transformers` load
the directory; `string_merges.json` is the same with merges spelt as before `tokenizers` 0.20.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """Which tokenizer."""

    path: Path | None
    """A `tokenizer.json`; None: train one."""
    eos: str
    vocabulary: int
    """Entries of a tokenizer that is trained."""


def write(request: Request, texts: Iterable[str], directory: Path) -> tuple[int, int]:
    """Write all forms; the end-of-text id, and one more than the highest id."""
    directory.mkdir(parents=True, exist_ok=True)
    if request.path is None:
        definition = _train(request, texts)
    else:
        definition = json.loads(request.path.read_text("utf-8"))
    ids = dict(definition["model"]["vocab"])
    ids.update({token["content"]: token["id"] for token in definition["added_tokens"]})
    if request.eos not in ids:
        raise SystemExit(f"{request.path} has no token '{request.eos}'; give --eos")
    (directory / "tokenizer.json").write_text(json.dumps(definition), "utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": request.eos}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    merges = definition["model"].get("merges", [])
    if merges and isinstance(merges[0], list):
        definition["model"]["merges"] = [" ".join(pair) for pair in merges]
    (directory / "string_merges.json").write_text(json.dumps(definition), "utf-8")
    return ids[request.eos], max(ids.values()) + 1


def _train(request: Request, texts: Iterable[str]) -> Any:
    """A byte-level BPE with GPT-2's splitting, which every peer can read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=request.vocabulary,
        special_tokens=[request.eos],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())
