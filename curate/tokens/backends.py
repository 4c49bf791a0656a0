"""Encoders: the reference, faster ones that must equal it, and the test that says so.

`tokenizers` is the reference. `fastokens` (default where it passes) and `gigatoken` (by request)
are several times faster; either is used only if its ids equal the reference's on odd inputs and on
a sample of the user's own documents. The verdict on the odd inputs depends on versions alone and is
remembered; the sample is checked in every run that tokenises.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.errors import TokenizerError
from curate.storage import hash_json, read_json, write_json
from curate.tokens.tokenizer import Tokenizer

PROBE_VERSION = 1
"""Raised when the probes change, so that remembered verdicts are not."""


class Encoder(Protocol):
    """Texts to token ids, without end-of-text tokens; deterministic and order-preserving."""

    def encode(self, texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Ids of all texts back to back, and texts + 1 offsets into them."""
        ...


class ReferenceEncoder:
    """Hugging Face `tokenizers`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Build from the canonical definition."""
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.definition)
        self._tokenizer.encode_special_tokens = True  # special strings in text stay text

    def encode(self, texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """See `Encoder`."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        pieces = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint32), offsets


class FastokensEncoder:
    """Crusoe `fastokens`, kept to one thread: curate runs one process a core."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Build from the canonical definition."""
        import fastokens

        with _one_core():  # its pool takes as many threads as the process may use cores
            self._tokenizer = fastokens.Tokenizer.from_json_str(tokenizer.definition)
            self._tokenizer.encode_batch_flat(["warm", "up"], split_special_tokens=True)

    def encode(self, texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """See `Encoder`."""
        ids, offsets = self._tokenizer.encode_batch_flat(texts, split_special_tokens=True)
        return np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.int64)


class GigatokenEncoder:
    """`gigatoken`, renewed now and then because version 0.10.0 never empties its cache.

    It has no switch that keeps special-token strings as text, so texts that hold one go to the
    reference.
    """

    RENEW_BYTES = 64 << 20
    """Text after which the tokenizer is rebuilt; its cache grows up to 10 bytes a byte of text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Build from the canonical definition."""
        self._definition = tokenizer
        self._special = tokenizer.special_tokens
        self._reference: ReferenceEncoder | None = None
        self._renew()

    def _renew(self) -> None:
        import gigatoken

        self._tokenizer = gigatoken.Tokenizer.from_json(self._definition.definition)
        self._seen_characters = 0

    def encode(self, texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
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
"""Name, also that of the distribution → encoder."""

AUTOMATIC = "fastokens"
"""The backend tried first where the recipe says `auto`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend a run uses."""

    name: str
    version: str
    notice: str | None = None
    """Why it is not the one wanted."""


def choose(tokenizer: Tokenizer, wanted: str, sample: Sequence[str], memory: Path) -> Choice:
    """Pick the backend: the wanted one if it equals the reference, else the reference.

    Args:
        tokenizer: The definition.
        wanted: A key of `BACKENDS`, or `auto`.
        sample: Some of the documents about to be tokenised.
        memory: Directory where verdicts on the odd inputs are remembered.

    Raises:
        TokenizerError: A backend pinned by the recipe is absent or fails the self-test.
    """
    name = AUTOMATIC if wanted == "auto" else wanted
    reference = Choice("tokenizers", installed("tokenizers") or "unknown")
    if name == "tokenizers":
        return reference
    version = installed(name)
    if version is None:
        problem = "is not installed"
    else:
        problem = self_test(tokenizer, name, sample, memory) or ""
        if not problem:
            return Choice(name, version)
    if wanted != "auto":
        raise TokenizerError(
            f"tokenizer.backend: {name} {problem}; use backend: auto or backend: tokenizers"
        )
    notice = f"tokenizer backend {name} {problem}: using tokenizers, which is much slower"
    return Choice(reference.name, reference.version, notice)


def self_test(tokenizer: Tokenizer, name: str, sample: Sequence[str], memory: Path) -> str | None:
    """Compare a backend with the reference; None if every id agrees, else what differs."""
    versions = [name, installed(name), installed("tokenizers"), PROBE_VERSION]
    verdict_file = memory / f"{hash_json([tokenizer.fingerprint, versions])}.json"
    remembered = read_json(verdict_file)["problem"] if verdict_file.exists() else ""
    if remembered:
        return str(remembered)
    try:
        candidate = BACKENDS[name](tokenizer)
    except Exception as error:  # noqa: BLE001 - any failure to load means: use the reference
        return f"cannot load {tokenizer.name} ({error})"
    reference = ReferenceEncoder(tokenizer)
    if remembered == "":
        problem = _first_difference(candidate, reference, probes(tokenizer), "odd input")
        write_json(verdict_file, {"problem": problem, "versions": versions})
        if problem:
            return problem
    return _first_difference(candidate, reference, list(sample), "document")


def probes(tokenizer: Tokenizer) -> list[str]:
    """Odd inputs: where fast tokenizers have been seen to differ from the reference."""
    words = ["a" * 1_000_000, "".join(chr(97 + i * i % 26) for i in range(200_000))]
    unicode = [
        "",
        "\x00",
        "e\u0301 \u212b \ufb01 \u0130i \u1e9e",  # combining marks, compatibility forms
        "\u200b\ufeff\u00ad\u2028\u2029\u0085",  # invisible separators
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",  # joined emoji, flags
        "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u202e abc",  # right to left
        "\u4f60\u597d\u4e16\u754c" * 50 + "\ud55c\uad6d\uc5b4 \u0e20\u0e32\u0e29\u0e32",
        "\U0010ffff\ue000\u0cdc\u32d6\u0378",  # last, private, lately assigned, unassigned
        "I'll we've DON'T it's 'tis ''s \u2019s",
        "1234567890 3.14e-10 0x1F \u0661\u0662\u0663 \u2167 \u00bd",
        "tab\tnewline\n\n\r\n  \n   trailing   ",
        " " * 3 + "x" + " " * 31 + "y" + "\t" * 9 + "\u00a0\u3000 z" + " " * 1000,
        "=" * 500 + "-" * 77 + "_" * 300 + "\n" * 40,
    ]
    marks = [f"a{token}b {token} {token}{token}" for token in tokenizer.special_tokens[:20]]
    return unicode + marks + [" ".join(tokenizer.special_tokens[:20])] + words


def installed(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_round_trip(tokenizer: Tokenizer, sample: Sequence[str]) -> list[str]:
    """Decode what was encoded; notices where the tokenizer does not give the text back."""
    import tokenizers

    reference = tokenizers.Tokenizer.from_str(tokenizer.definition)
    reference.encode_special_tokens = True
    changed = 0
    for text in sample:
        ids = reference.encode(text, add_special_tokens=False).ids
        if tokenizer.eos_id is not None and tokenizer.eos_id in ids:
            raise TokenizerError(
                f"tokenizer {tokenizer.name}: the text of a document produced the end-of-text id "
                f"{tokenizer.eos_id}, so documents could not be told apart"
            )
        changed += reference.decode(ids, skip_special_tokens=False) != text
    if changed:
        return [
            f"tokenizer: {changed} of {len(sample)} sampled documents do not decode to the same "
            "text (a normaliser or an unknown token); tokens are as the tokenizer gives them"
        ]
    return []


def _first_difference(
    candidate: Encoder, reference: Encoder, texts: list[str], kind: str
) -> str | None:
    try:
        got_ids, got_offsets = candidate.encode(texts)
    except Exception as error:  # noqa: BLE001 - a backend that fails is a backend not used
        return f"fails on an {kind} ({type(error).__name__}: {error})"
    ids, offsets = reference.encode(texts)
    for number in range(len(texts)):
        expected = ids[offsets[number] : offsets[number + 1]]
        got = got_ids[got_offsets[number] : got_offsets[number + 1]]
        if not np.array_equal(expected, got):
            shown = texts[number][:40].encode("unicode_escape").decode()
            return f"differs from the reference on an {kind} starting '{shown}'"
    return None


class _one_core:  # noqa: N801 - reads as a phrase
    """While inside, the process may use one core, so that thread pools made there have one thread."""

    def __enter__(self) -> None:
        self._allowed: set[int] | None = None
        if hasattr(os, "sched_setaffinity"):
            self._allowed = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {min(self._allowed)})

    def __exit__(self, *exception: object) -> None:
        if self._allowed is not None:
            os.sched_setaffinity(0, self._allowed)
            for thread in os.listdir("/proc/self/task"):
                os.sched_setaffinity(int(thread), self._allowed)


def _flatten(encoded: Any) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """An awkward array of lists → flat ids and offsets, without a copy where it is packed."""
    layout = encoded.layout
    offsets = np.asarray(layout.offsets.data, np.int64)
    ids = np.asarray(layout.content.data, np.uint32)
    return ids[offsets[0] : offsets[-1]], offsets - offsets[0]


def _pieces(ids: NDArray[np.uint32], offsets: NDArray[np.int64]) -> list[NDArray[np.uint32]]:
    return [ids[offsets[n] : offsets[n + 1]] for n in range(len(offsets) - 1)]
