"""Encoders: the reference, and faster ones that must give the same ids.

`tokenizers` is the reference. `fastokens` (the default) and `gigatoken` (on request) are several
times faster, and are used only if they pass `selftest`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from curate.errors import TokenizerError
from curate.runtime.machine import machine_fault
from curate.tokens import preload
from curate.tokens.tokenizer import Tokenizer

Result = TypeVar("Result")


class BackendRefused(Exception):  # noqa: N818 - an event, not a fault
    """A fast tokenizer cannot be used; the message says why. Nothing it made is kept."""


Encoded = tuple[NDArray[np.uint32], NDArray[np.int64]]
"""Ids of texts back to back, and texts + 1 offsets into them."""


class Encoder(Protocol):
    """Turns texts into token ids without end-of-text tokens, deterministically and in order."""

    def encode(self, texts: list[str]) -> Encoded:
        """Return the ids of all texts back to back, and texts + 1 offsets into them."""
        ...


class ReferenceEncoder:
    """Hugging Face `tokenizers`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Build from the canonical definition.

        Raises:
            TokenizerError: It cannot be built, or its ids differ from those in the definition.
        """
        import tokenizers

        problem = f"tokenizer {tokenizer.name}: cannot be loaded"
        try:
            self._tokenizer = guarded(
                lambda: tokenizers.Tokenizer.from_str(tokenizer.definition), problem
            )
        except BackendRefused as error:  # without the class, which mostly is bare Exception
            raise TokenizerError(f"{problem} ({error.__cause__})") from error
        added = self._tokenizer.get_added_tokens_decoder()
        _check_added_ids(tokenizer, {token.content: number for number, token in added.items()})
        self._tokenizer.encode_special_tokens = True  # special-token strings in text stay text

    def encode(self, texts: list[str]) -> Encoded:
        """See `Encoder`."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        pieces = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint32), offsets

    def decode_batch(self, documents: list[NDArray[Any]]) -> list[str]:
        """Return the texts of several documents, special tokens included."""
        ids = [document.tolist() for document in documents]
        texts: list[str] = self._tokenizer.decode_batch(ids, skip_special_tokens=False)
        return texts

    def decode(self, ids: NDArray[np.uint32]) -> str:
        """Return the text of ids, special tokens included."""
        text: str = self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        return text


class FastokensEncoder:
    """Crusoe `fastokens`, limited to one thread, since curate runs one process per core."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Build from the canonical definition.

        Raises:
            BackendRefused: It cannot be built.
        """
        self._tokenizer = guarded(
            lambda: preload.take(tokenizer.file_hash) or preload.build(tokenizer.definition),
            f"fastokens cannot load {tokenizer.name}",
        )

    def encode(self, texts: list[str]) -> Encoded:
        """See `Encoder`."""
        ids, offsets = self._tokenizer.encode_batch_flat(texts, split_special_tokens=True)
        return np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.int64)


class GigatokenEncoder:
    """`gigatoken`, rebuilt from time to time because version 0.10.0 never empties its cache.

    It cannot encode special-token strings as text, so texts that hold one go to the reference.
    """

    RENEW_BYTES = 64 << 20
    """Text after which it is rebuilt; its cache grows by up to 10 bytes per byte of text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Build from the canonical definition.

        Raises:
            BackendRefused: It cannot be built.
        """
        self._definition = tokenizer
        self._special = tokenizer.special_tokens
        self._reference: ReferenceEncoder | None = None
        self._renew()

    def _renew(self) -> None:
        import gigatoken

        self._tokenizer = guarded(
            lambda: gigatoken.Tokenizer.from_json(self._definition.definition),
            f"gigatoken cannot load {self._definition.name}",
        )
        self._seen_characters = 0

    def encode(self, texts: list[str]) -> Encoded:
        """See `Encoder`."""
        self._seen_characters += sum(map(len, texts))
        if self._seen_characters > self.RENEW_BYTES:
            self._renew()
        marked = [any(token in text for token in self._special) for text in texts]
        ordinary = [text for text, mark in zip(texts, marked, strict=True) if not mark]
        encoded = self._tokenizer.encode_batch(ordinary, parallel=False)
        if not any(marked):
            return _flatten(encoded)
        if self._reference is None:
            self._reference = ReferenceEncoder(self._definition)
        special = [text for text, mark in zip(texts, marked, strict=True) if mark]
        sources = [_pieces(*_flatten(encoded)), _pieces(*self._reference.encode(special))]
        cursors = [iter(source) for source in sources]
        pieces = [next(cursors[mark]) for mark in marked]
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
        return np.concatenate(pieces), offsets


BACKENDS: dict[str, type[ReferenceEncoder | FastokensEncoder | GigatokenEncoder]] = {
    "tokenizers": ReferenceEncoder,
    "fastokens": FastokensEncoder,
    "gigatoken": GigatokenEncoder,
}
"""Encoders by name, which is also the name of the distribution."""

REFERENCE = "tokenizers"

AUTOMATIC = "fastokens"
"""The backend that `auto` tries first."""


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """The backend of a run."""

    name: str
    version: str
    notice: str | None = None
    """Why it is not the requested one."""


def first_choice(requested: str) -> BackendChoice:
    """Select the backend to try first; `selftest.judge` decides whether it may be used.

    Args:
        requested: A key of `BACKENDS`, or `auto`.

    Raises:
        TokenizerError: The recipe names a backend that is not installed.
    """
    name = AUTOMATIC if requested == "auto" else requested
    version = installed(name)
    if version is not None:
        return BackendChoice(name, version)
    if requested != "auto":
        raise TokenizerError(
            f"tokenizer.backend: {name} is not installed; install it, or use backend: auto "
            f"(known: {', '.join(BACKENDS)})"
        )
    return reference_choice(f"{name} is not installed")


def reference_choice(problem: str) -> BackendChoice:
    """Return the reference, with the reason why nothing faster is used."""
    notice = f"tokenizer backend {problem}: using tokenizers, which is much slower"
    return BackendChoice("tokenizers", installed("tokenizers") or "unknown", notice)


def load_encoder(name: str, tokenizer: Tokenizer) -> Encoder:
    """Load a backend, or the reference, whose ids are the same, if it is not installed."""
    if name not in BACKENDS or installed(name) is None:
        return ReferenceEncoder(tokenizer)
    return BACKENDS[name](tokenizer)


def installed(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    from importlib.metadata import PackageNotFoundError, version  # takes 15 ms

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _check_added_ids(tokenizer: Tokenizer, given: dict[str, int]) -> None:
    """Compare the library's ids of added tokens with those written in the definition.

    The library ignores the written ids: a token that the model lacks gets the next free one.
    """
    if tokenizer.eos is not None and given.get(tokenizer.eos) != tokenizer.eos_id:
        raise TokenizerError(
            f"tokenizer {tokenizer.name}: '{tokenizer.eos}' gets id {given.get(tokenizer.eos)}, "
            f"not {tokenizer.eos_id} as written; fix the ids of added_tokens in its tokenizer.json"
        )
    highest = max(given.values(), default=-1)
    if highest >= tokenizer.vocabulary:
        raise TokenizerError(
            f"tokenizer {tokenizer.name}: an added token gets id {highest}, above the highest one "
            f"written, {tokenizer.vocabulary - 1}; fix the ids of added_tokens in its "
            "tokenizer.json"
        )


def guarded(call: Callable[[], Result], problem: str) -> Result:
    """Call a backend and turn any failure into `BackendRefused`, with `problem` and its reason.

    What a panic in Rust prints goes to the null device, since the reason says the same in one line.
    """
    try:
        with _quiet_errors():
            return call()
    except BaseException as error:  # noqa: BLE001 - after any failure, use the reference
        # A panic in Rust is no `Exception`, and neither is KeyboardInterrupt, which must pass.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if machine_fault(error):  # no fault of the backend, whose verdict would be kept
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BackendRefused(f"{problem} ({reason})") from error


@contextlib.contextmanager
def _quiet_errors() -> Iterator[None]:
    """Send standard error, libraries' included, to the null device while inside."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _flatten(encoded: Any) -> Encoded:
    """Turn an awkward array of lists into flat ids and offsets, without a copy if it is packed."""
    layout = encoded.layout
    offsets = np.asarray(layout.offsets.data, np.int64)
    ids = np.asarray(layout.content.data, np.uint32)
    return ids[offsets[0] : offsets[-1]], offsets - offsets[0]


def _pieces(ids: NDArray[np.uint32], offsets: NDArray[np.int64]) -> list[NDArray[np.uint32]]:
    return [ids[offsets[n] : offsets[n + 1]] for n in range(len(offsets) - 1)]
