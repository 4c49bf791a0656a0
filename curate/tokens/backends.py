"""Encoders: the reference, faster ones that must equal it, and the test that says so.

`tokenizers` is the reference. `fastokens` (default where it passes) and `gigatoken` (by request)
are several times faster; either is used only if its ids equal the reference's on odd inputs and on
a sample of the user's own documents. The verdict on the odd inputs depends on versions alone and is
remembered; the sample is checked in every run that tokenises.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError, TokenizerError
from curate.storage import hash_json, read_json, write_json
from curate.tokens.tokenizer import Tokenizer

Result = TypeVar("Result")

PROBE_VERSION = 1
"""Raised when the probes change, so that remembered verdicts are not."""


class BackendRefused(Exception):  # noqa: N818 - an event, not a fault
    """A fast tokenizer cannot be used, and why; nothing it made is kept."""


Encoded = tuple[NDArray[np.uint32], NDArray[np.int64]]
"""Ids of texts back to back, and texts + 1 offsets into them."""


class Encoder(Protocol):
    """Texts to token ids, without end-of-text tokens; deterministic and order-preserving."""

    def encode(self, texts: list[str]) -> Encoded:
        """Ids of all texts back to back, and texts + 1 offsets into them."""
        ...


class ReferenceEncoder:
    """Hugging Face `tokenizers`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Build from the canonical definition.

        Raises:
            TokenizerError: It cannot be built, or gives other ids than the definition says.
        """
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.definition)
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            raise TokenizerError(
                f"tokenizer {tokenizer.name}: cannot be loaded ({error})"
            ) from error
        added = self._tokenizer.get_added_tokens_decoder()
        _check_added_ids(tokenizer, {token.content: number for number, token in added.items()})
        self._tokenizer.encode_special_tokens = True  # special strings in text stay text

    def encode(self, texts: list[str]) -> Encoded:
        """See `Encoder`."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        pieces = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint32), offsets

    def decode(self, ids: NDArray[np.uint32]) -> str:
        """The text of ids, special tokens included."""
        text: str = self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        return text


class FastokensEncoder:
    """Crusoe `fastokens`, kept to one thread: curate runs one process a core."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Build from the canonical definition.

        Raises:
            BackendRefused: It cannot be built.
        """
        import fastokens

        problem = f"fastokens cannot load {tokenizer.name}"
        self._tokenizer = _guarded(
            lambda: fastokens.Tokenizer.from_json_str(tokenizer.definition), problem
        )
        with _one_core():  # its pool takes as many threads as the process may use cores
            _guarded(lambda: self.encode(["warm", "up"]), problem)

    def encode(self, texts: list[str]) -> Encoded:
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

        self._tokenizer = _guarded(
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


def first_choice(wanted: str) -> Choice:
    """The backend to start with; whether it may be used is for `self_test` to say.

    Args:
        wanted: A key of `BACKENDS`, or `auto`.

    Raises:
        TokenizerError: A backend pinned by the recipe is not installed.
    """
    name = AUTOMATIC if wanted == "auto" else wanted
    version = installed(name)
    if version is not None:
        return Choice(name, version)
    if wanted != "auto":
        raise TokenizerError(
            f"tokenizer.backend: {name} is not installed; install it, or use backend: auto "
            f"(known: {', '.join(BACKENDS)})"
        )
    return reference_choice(f"{name} is not installed")


def reference_choice(problem: str) -> Choice:
    """The reference, with the reason why nothing faster is used."""
    notice = f"tokenizer backend {problem}: using tokenizers, which is much slower"
    return Choice("tokenizers", installed("tokenizers") or "unknown", notice)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a self-test found."""

    problem: str | None
    """Why the backend may not be used; None if every id agreed."""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """What the reference says, for a backend to be compared with."""

    documents: list[str]
    """Of the user's own."""
    expected: Encoded
    """Their ids."""
    odd: list[str]
    """Odd inputs; none where the backend's verdict on them is remembered."""
    odd_expected: Encoded
    problem: str | None
    """The remembered verdict."""
    notices: tuple[str, ...]
    """What the user should know of the tokenizer, whatever the backend."""


def reference_answers(
    tokenizer: Tokenizer, name: str, sample: Sequence[str], memory: Path
) -> Answers:
    """Ids by the reference, of the user's own documents and of odd inputs.

    Args:
        tokenizer: The definition.
        name: The backend they are for.
        sample: Some of the documents about to be tokenised.
        memory: Directory where verdicts on the odd inputs are remembered.

    Raises:
        TokenizerError: The reference cannot load the tokenizer, or a document's text produces the
            end-of-text id, so that documents could not be told apart.
    """
    reference = ReferenceEncoder(tokenizer)
    documents = list(sample)
    expected = reference.encode(documents)
    notices = _round_trip(tokenizer, reference, documents, expected)
    verdict = _recall(_verdict_path(tokenizer, name, memory))
    is_known = name == "tokenizers" or "problem" in verdict
    odd = [] if is_known else probes(tokenizer)
    return Answers(documents, expected, odd, reference.encode(odd), verdict.get("problem"), notices)


def judge(
    tokenizer: Tokenizer, name: str, candidate: Encoder, answers: Answers, memory: Path
) -> Verdict:
    """Compare a backend with the reference's answers; remember what it made of the odd inputs."""
    if name == "tokenizers":
        return Verdict(None, answers.notices)
    problem = answers.problem
    if answers.odd:
        problem = _first_difference(candidate, answers.odd, answers.odd_expected, "an odd input")
        with contextlib.suppress(OSError):  # a verdict that cannot be kept is found again
            write_json(_verdict_path(tokenizer, name, memory), {"problem": problem})
    problem = problem or _first_difference(
        candidate, answers.documents, answers.expected, "a document"
    )
    return Verdict(None if problem is None else f"{name} {problem}", answers.notices)


def _verdict_path(tokenizer: Tokenizer, name: str, memory: Path) -> Path:
    versions = [name, installed(name), installed("tokenizers"), PROBE_VERSION]
    return memory / f"{hash_json([tokenizer.fingerprint, versions])}.json"


def _recall(path: Path) -> dict[str, Any]:
    """A remembered verdict, or nothing."""
    try:
        verdict = read_json(path)
    except InputError:
        return {}
    return verdict if isinstance(verdict, dict) else {}


def load_encoder(name: str, tokenizer: Tokenizer) -> Encoder:
    """The backend of this name, or the reference where it is not installed: their ids are equal."""
    if name not in BACKENDS or installed(name) is None:
        return ReferenceEncoder(tokenizer)
    return BACKENDS[name](tokenizer)


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


def _check_added_ids(tokenizer: Tokenizer, given: dict[str, int]) -> None:
    """Compare the ids that the library gives added tokens with those read from the definition.

    It ignores the ids written there: a token that the model lacks gets the next free one.
    """
    if tokenizer.eos is not None and given.get(tokenizer.eos) != tokenizer.eos_id:
        raise TokenizerError(
            f"tokenizer {tokenizer.name}: '{tokenizer.eos}' gets id {given.get(tokenizer.eos)}, "
            f"not {tokenizer.eos_id} as written; mend the ids of added_tokens in its tokenizer.json"
        )
    highest = max(given.values(), default=-1)
    if highest >= tokenizer.vocabulary:
        raise TokenizerError(
            f"tokenizer {tokenizer.name}: an added token gets id {highest}, above the highest one "
            f"written, {tokenizer.vocabulary - 1}; mend the ids of added_tokens in its "
            "tokenizer.json"
        )


def _guarded(call: Callable[[], Result], problem: str) -> Result:
    """Call a backend that is only used if it works."""
    try:
        return call()
    except BaseException as error:  # noqa: BLE001 - any failure means: use the reference
        # A panic in Rust is no Exception, but neither is the user's wish to stop.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BackendRefused(f"{problem} ({reason})") from error


def _round_trip(
    tokenizer: Tokenizer, reference: ReferenceEncoder, sample: list[str], encoded: Encoded
) -> tuple[str, ...]:
    """Decode what was encoded; notices where the tokenizer does not give the text back."""
    ids, offsets = encoded
    if tokenizer.eos_id is not None and (ids == tokenizer.eos_id).any():
        raise TokenizerError(
            f"tokenizer {tokenizer.name}: the text of a document produced the end-of-text id "
            f"{tokenizer.eos_id}, so documents could not be told apart; name another token as "
            "tokenizer.eos"
        )
    changed = sum(
        reference.decode(ids[offsets[number] : offsets[number + 1]]) != text
        for number, text in enumerate(sample)
    )
    if not changed:
        return ()
    return (
        f"tokenizer: {changed} of {len(sample)} sampled documents do not decode to the same text "
        "(a normaliser or an unknown token); tokens are as the tokenizer gives them",
    )


def _first_difference(
    candidate: Encoder, texts: list[str], expected_encoding: Encoded, kind: str
) -> str | None:
    """Where a backend's ids are not the reference's, in words; None if nowhere."""
    try:
        got_ids, got_offsets = _guarded(lambda: candidate.encode(texts), f"fails on {kind}")
    except BackendRefused as error:
        return str(error)
    ids, offsets = expected_encoding
    if len(got_offsets) != len(offsets):
        return f"gives {len(got_offsets) - 1} results for {len(texts)} texts"
    for number in range(len(texts)):
        expected = ids[offsets[number] : offsets[number + 1]]
        got = got_ids[got_offsets[number] : got_offsets[number + 1]]
        if not np.array_equal(expected, got):
            shown = texts[number][:40].encode("unicode_escape").decode()
            return f"differs from the reference on {kind} starting '{shown}'"
    return None


class _one_core:  # noqa: N801 - reads as a phrase
    """While inside, one core may be used, so that thread pools made there have one thread."""

    def __enter__(self) -> None:
        self._allowed: set[int] | None = None
        if hasattr(os, "sched_setaffinity"):
            self._allowed = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {min(self._allowed)})

    def __exit__(self, *exception: object) -> None:
        if self._allowed is not None:
            os.sched_setaffinity(0, self._allowed)
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    os.sched_setaffinity(int(thread), self._allowed)


def _flatten(encoded: Any) -> Encoded:
    """An awkward array of lists → flat ids and offsets, without a copy where it is packed."""
    layout = encoded.layout
    offsets = np.asarray(layout.offsets.data, np.int64)
    ids = np.asarray(layout.content.data, np.uint32)
    return ids[offsets[0] : offsets[-1]], offsets - offsets[0]


def _pieces(ids: NDArray[np.uint32], offsets: NDArray[np.int64]) -> list[NDArray[np.uint32]]:
    return [ids[offsets[n] : offsets[n + 1]] for n in range(len(offsets) - 1)]
