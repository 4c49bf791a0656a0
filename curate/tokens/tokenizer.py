"""Read a tokenizer into one canonical definition, and check it.

The definition is a `tokenizer.json` with truncation and padding removed and the end-of-text token
marked special, so that every backend is built from the same text. Special-token strings inside
documents are encoded as ordinary text, never as special ids. Beginning-of-text tokens and
post-processors are left out: the store holds each document's tokens, then the end-of-text token.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from curate.errors import TokenizerError
from curate.runtime.files import atomic_path, hash_bytes, read_small
from curate.runtime.machine import fault_or, remote_fault_or

UINT16_LIMIT = 1 << 16

MOST_BYTES = 256 << 20
"""Most bytes of a `tokenizer.json`; those of 2,000,000 tokens have about 150 MB."""

MOST_IDS = 1 << 24
"""One more than the highest id allowed: tables of counts and of encoders are as long as ids are
high, and the largest vocabularies have a twentieth of this."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A checked tokenizer definition."""

    name: str
    """Path or hub identifier in the recipe, for messages."""
    definition: str
    """Canonical tokenizer.json text."""
    fingerprint: str
    """Hash of definition and end-of-text token; part of the key of everything tokenised."""
    eos: str | None
    eos_id: int | None
    vocabulary: int
    """One more than the highest id, added tokens included."""
    special_tokens: tuple[str, ...]
    file_hash: str | None = None
    """Hash of the text it was read from, if `definition` means the same; else None."""
    notices: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a token in the store: uint16 if the highest id allows, else uint32."""
        return np.dtype("<u2" if self.vocabulary <= UINT16_LIMIT else "<u4")

    @property
    def end_symbol(self) -> int:
        """Id that ends documents in counts: the end token, or one past the vocabulary if none."""
        return self.vocabulary if self.eos_id is None else self.eos_id

    @property
    def symbols(self) -> int:
        """One more than the highest id in counts, the end symbol included."""
        return max(self.vocabulary, self.end_symbol + 1)

    @property
    def stream_dtype(self) -> np.dtype[Any]:
        """Type of the ids that are counted, end symbols included."""
        return np.dtype("<u4") if self.end_symbol >= UINT16_LIMIT else self.dtype


def load(path: Path, eos: str | None) -> Tokenizer:
    """Read and check a Hugging Face `tokenizer.json`.

    Raises:
        TokenizerError: The file cannot be read or is no tokenizer, its ids are random (BPE
            dropout), or `eos` is not one of its special tokens.
    """
    try:
        text = read_small(path, MOST_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        unreadable = TokenizerError(f"tokenizer {path}: cannot be read ({reason})")
        raise fault_or(unreadable, error, str(path)) from error
    return from_json(text, eos, str(path))


def load_hub(identifier: str, eos: str | None) -> Tokenizer:
    """Fetch `owner/name[@revision]` from the Hugging Face hub or its local cache.

    Raises:
        TokenizerError: It cannot be fetched, or is invalid as for `load`.
        EngineError: The machine is at fault, or the hub does not answer.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise TokenizerError(
            f"tokenizer {identifier}: needs the package huggingface_hub; "
            "install it, or give tokenizer.path a tokenizer.json"
        ) from error
    repository, _, revision = identifier.partition("@")
    try:
        path = hf_hub_download(repository, "tokenizer.json", revision=revision or None)
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        unfetched = TokenizerError(
            f"tokenizer {identifier}: cannot be fetched from the hub ({reason}); "
            "download its tokenizer.json and give tokenizer.path"
        )
        raise remote_fault_or(unfetched, error, identifier) from error
    return from_json(Path(path).read_bytes(), eos, identifier)


def from_json(text: bytes, eos: str | None, name: str) -> Tokenizer:
    """Check a `tokenizer.json` text and make it canonical; see `load`.

    Ids are read from the JSON itself, which takes a tenth of the time of building the tokenizer.
    The encoders build it, and `ReferenceEncoder` checks the ids of added tokens.

    Args:
        text: The definition.
        eos: The token that ends a document; None for none.
        name: Name of the tokenizer in messages.

    Raises:
        TokenizerError: See `load`.
    """
    try:
        definition = orjson.loads(text)
        if not isinstance(definition, dict) or not isinstance(definition.get("model"), dict):
            raise ValueError("it has no 'model'")
        added = _added_tokens(definition)
        vocabulary = _vocabulary(definition["model"], added)
    except (ValueError, LookupError, TypeError) as error:
        raise TokenizerError(f"tokenizer {name}: not a tokenizer.json ({error})") from error
    if definition["model"].get("dropout"):
        raise TokenizerError(
            f"tokenizer {name}: BPE dropout {definition['model']['dropout']} makes ids random; "
            "set model.dropout to null in its tokenizer.json"
        )
    is_canonical = not definition.get("truncation") and not definition.get("padding")
    definition["truncation"] = None
    definition["padding"] = None
    notices = []
    for token in added:
        if token["content"] == eos and not token.get("special"):
            token["special"] = True
            notices.append(f"tokenizer: '{eos}' is treated as special, so text cannot produce it")
    is_changed = bool(notices)
    notices += _template_notices(definition.get("post_processor"), eos)
    special = tuple(token["content"] for token in added if token.get("special"))
    canonical = orjson.dumps(definition)
    return Tokenizer(
        name=name,
        definition=canonical.decode(),
        fingerprint=hash_bytes(canonical, repr(eos).encode()),
        eos=eos,
        eos_id=_eos_id(eos, vocabulary, special, name),
        vocabulary=max(vocabulary.values()) + 1,
        special_tokens=special,
        file_hash=hash_bytes(text) if is_canonical and not is_changed else None,
        notices=tuple(notices),
    )


def _template_notices(processor: Any, eos: str | None) -> list[str]:
    """Name the tokens that a post-processor adds to every text, which curate leaves out."""
    if not isinstance(processor, dict):
        return []
    if processor.get("type") == "Sequence":
        nested = processor.get("processors")
        steps = nested if isinstance(nested, list) else []
        return [notice for step in steps for notice in _template_notices(step, eos)]
    pieces: list[Any] = []
    if processor.get("type") == "TemplateProcessing" and isinstance(processor.get("single"), list):
        pieces = [piece.get("SpecialToken") for piece in processor["single"]
                  if isinstance(piece, dict)]  # fmt: skip
    elif processor.get("type") in ("BertProcessing", "RobertaProcessing"):
        pieces = [{"id": processor[key][0]} for key in ("cls", "sep")
                  if isinstance(processor.get(key), list) and processor[key]]  # fmt: skip
    tokens = [str(piece.get("id")) for piece in pieces if isinstance(piece, dict)]
    added = [f"'{token}'" for token in tokens if token != eos]
    if not added:
        return []
    return [
        f"tokenizer: its template adds {', '.join(added)} to every text, which is left out: "
        + (f"documents only end with '{eos}'" if eos else "documents have no mark at their ends")
    ]


def _added_tokens(definition: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the added tokens, each with a text and an id."""
    added = definition.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(token, dict) and isinstance(token.get("content"), str) for token in added
    ):
        raise ValueError("its added_tokens are not a list of tokens with content")
    return added


def _vocabulary(model: dict[str, Any], added: list[dict[str, Any]]) -> dict[str, int]:
    """Return the id of every token, added ones included."""
    entries = model["vocab"]
    if isinstance(entries, list):  # Unigram: pairs of token and score, in the order of ids
        if not all(isinstance(entry, list) and len(entry) == 2 for entry in entries):
            raise ValueError("its vocabulary is not a list of pairs of token and score")
        entries = {entry[0]: number for number, entry in enumerate(entries)}
    # The model's entries win: the library ignores an id written for a token that the model has.
    vocabulary: dict[str, int] = {**{token["content"]: token["id"] for token in added}, **entries}
    if not vocabulary or set(map(type, vocabulary.values())) != {int}:
        raise ValueError("its vocabulary is empty or has ids that are not whole numbers")
    lowest, highest = min(vocabulary.values()), max(vocabulary.values())
    if lowest < 0 or highest >= MOST_IDS:
        raise ValueError(
            f"it has the id {lowest if lowest < 0 else highest}; ids are 0 to {MOST_IDS - 1:,}"
        )
    return vocabulary


def _eos_id(
    eos: str | None, vocabulary: dict[str, int], special: tuple[str, ...], name: str
) -> int | None:
    if eos is None:
        return None
    if eos not in vocabulary:
        raise TokenizerError(
            f"tokenizer.eos: '{eos}' is not in {name}; its special tokens: "
            f"{', '.join(special) or 'none'}. "
            "Name one of them, or eos: null for documents without an end"
        )
    if eos not in special:
        raise TokenizerError(
            f"tokenizer.eos: '{eos}' is an ordinary token of {name} (id {vocabulary[eos]}), so "
            "text can produce it; name a special token, or eos: null"
        )
    return vocabulary[eos]


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write the canonical definition, for trainers and for decoding the dataset."""
    with atomic_path(path) as temporary:
        temporary.write_text(tokenizer.definition, "utf-8")
