"""Text of stored documents, decoded from their tokens, so that sources need not be read again.

Tokens of a byte-level BPE are bytes, which are joined by a compiled loop; for other tokenizers the
library decodes. Text is what the tokenizer keeps of it: one that changes case or white space gives
other text than the source has, and `lossy_notice` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from curate.runtime.compiled import kernel
from curate.runtime.mapping import map_file
from curate.runtime.memory import next_block
from curate.tokens.backends import ReferenceEncoder
from curate.tokens.domain import DomainTokens
from curate.tokens.store import DOCUMENT
from curate.tokens.tokenizer import Tokenizer

BLOCK_TOKENS = 1 << 18
"""Tokens to decode at once, unless one document has more: about a megabyte of text."""

PROBE = "The  Quick\n\tbrown Fox, 12.5% (Ünïcode ｆｕｌｌ ﬁ)"
"""Text with case, runs of white space, accents and compatibility characters."""


class TextDecoder:
    """Decodes runs of documents of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Prepare the bytes of every token, or the library where tokens are not bytes.

        Raises:
            TokenizerError: The library cannot load the tokenizer.
        """
        self._eos_id = tokenizer.eos_id
        self._dtype = tokenizer.dtype
        self._reference = ReferenceEncoder(tokenizer)
        pieces = _token_bytes(tokenizer)
        self._bytes: NDArray[np.uint8] | None = None
        if pieces is not None:
            self._starts = np.zeros(len(pieces) + 1, np.int64)
            np.cumsum([len(piece) for piece in pieces], out=self._starts[1:])
            self._bytes = np.frombuffer(b"".join(pieces) or b"\0", np.uint8)

    def decode(self, tokens: NDArray[Any], stops: NDArray[np.int64]) -> list[str]:
        """Return the texts of documents that follow each other, without their end tokens.

        Args:
            tokens: shape (tokens,).
            stops: shape (documents,), one past the last token of each document.
        """
        starts = np.concatenate([np.zeros(1, np.int64), stops[:-1]])
        ends = stops.copy()
        if self._eos_id is not None:
            ends[ends > starts] -= 1
        if self._bytes is None:
            pairs = zip(starts.tolist(), ends.tolist(), strict=True)
            return self._reference.decode_batch([tokens[start:end] for start, end in pairs])
        lengths = self._starts[tokens + np.int64(1)] - self._starts[tokens]
        places = np.zeros(len(tokens) + 1, np.int64)
        np.cumsum(lengths, out=places[1:])
        joined = np.empty(int(places[-1]) + 1, np.uint8)
        _join_bytes(np.ascontiguousarray(tokens), len(tokens), self._starts, self._bytes, joined)
        content = joined.tobytes()
        bounds = zip(places[starts].tolist(), places[ends].tolist(), strict=True)
        return [content[start:end].decode("utf-8", "replace") for start, end in bounds]

    def lossy_notice(self) -> str | None:
        """Say what the tokenizer changes in a text with case, white space and accents, if it does.

        Example:
            tokenizer: it turns 'The  Quick' into 'the quick': copies are compared as it keeps them
        """
        ids, _ = self._reference.encode([PROBE])
        kept = self._reference.decode(ids)
        if kept == PROBE:
            return None
        return (
            f"tokenizer: it keeps {PROBE!r} as {kept!r}; duplicates and decontamination compare "
            "texts as it keeps them"
        )


def part_texts(
    part: Path, decoder: TextDecoder, dtype: np.dtype[Any]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the texts of all documents of a part, in blocks, each with its first document's number.

    Args:
        part: Directory of the part.
        decoder: Of the tokenizer that made it.
        dtype: Type of a token in it.
    """
    stops = map_file(part / "documents.bin", DOCUMENT)["token_stop"].astype(np.int64)
    tokens = map_file(part / "tokens.bin", dtype)
    begin = token_start = 0
    while begin < len(stops):
        end = int(np.searchsorted(stops, token_start + BLOCK_TOKENS, side="right"))
        end = max(begin + 1, end)
        token_stop = int(stops[end - 1])
        block = np.array(tokens[token_start:token_stop])
        yield begin, decoder.decode(block, stops[begin:end] - token_start)
        begin, token_start = end, token_stop
        next_block(0.01)


def document_texts(
    domain: DomainTokens, numbers: NDArray[np.int64], decoder: TextDecoder
) -> list[str]:
    """Return the texts of some documents of a domain; for few, as each is read on its own.

    Args:
        domain: The domain.
        numbers: shape (documents,), numbers of documents in it.
        decoder: Turns tokens into text.
    """
    texts = []
    for number in numbers.tolist():
        tokens = np.array(domain.document(number))
        texts += decoder.decode(tokens, np.array([len(tokens)], np.int64))
    return texts


def _token_bytes(tokenizer: Tokenizer) -> list[bytes] | None:
    """Return the bytes of every token id; None unless the tokenizer is a byte-level BPE."""
    definition = orjson.loads(tokenizer.definition)
    decoder, model = definition.get("decoder") or {}, definition["model"]
    if decoder.get("type") != "ByteLevel" or not isinstance(model.get("vocab"), dict):
        return None
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    pieces = [b""] * tokenizer.vocabulary
    added = {token["content"]: token["id"] for token in definition.get("added_tokens") or []}
    for token, number in {**added, **model["vocab"]}.items():
        if all(character in byte_of for character in token):
            pieces[number] = bytes(byte_of[character] for character in token)
        else:  # as the library does, such as for an added token with a space
            pieces[number] = token.encode()
    return pieces


def byte_characters() -> list[str]:
    """Return the character that stands for each byte in a byte-level vocabulary.

    References:
        `bytes_to_unicode` of GPT-2: printable bytes stand for themselves, the others for the
        characters from U+0100 on.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@kernel
def _join_bytes(tokens, count, starts, content, joined):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the bytes of tokens back to back."""
    write = 0
    for position in range(count):
        token = tokens[position]
        for place in range(starts[token], starts[token + 1]):
            joined[write] = content[place]
            write += 1
    return write
