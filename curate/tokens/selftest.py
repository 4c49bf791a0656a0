"""Test that a fast backend gives the reference's ids, on odd inputs and the user's own text.

The verdict on the odd inputs depends only on the tokenizer and on versions, so it is kept in the
user's cache. The user's text is checked in every run that tokenises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from curate.errors import TokenizerError
from curate.runtime.files import hash_json
from curate.runtime.limits import Limits, OverLimit
from curate.runtime.registry import counted
from curate.runtime.sealed import Notice, read_cached, write_sealed
from curate.runtime.workers import ahead
from curate.tokens.backends import (
    REFERENCE,
    BackendRefused,
    Encoded,
    Encoder,
    ReferenceEncoder,
    guarded,
    installed,
)
from curate.tokens.tokenizer import Tokenizer

PROBE_VERSION = 2
"""Version of the probes and of kept verdicts. Raise it when they change, so that earlier verdicts
are not reused."""

LIMITS = Limits(cpu_seconds=20, wall_seconds=120, memory_bytes=4 << 30)
"""Limits of the processes that build the reference and encode the sample and the odd inputs. Those
take 1 to 3 s and 0.5 GiB with published tokenizers."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a self-test."""

    problem: str | None
    """Reason not to use the backend; None if every id agreed."""
    notices: tuple[str, ...] = ()


class KeptVerdict(msgspec.Struct, frozen=True):
    """The verdict on the odd inputs, as it is kept for later runs."""

    problem: str | None


@dataclass(frozen=True, slots=True)
class ReferenceAnswers:
    """The reference's ids, with which a backend is compared."""

    documents: list[str]
    """Some of the user's own documents."""
    expected: Encoded
    """Their ids."""
    odd: list[str]
    """Odd inputs; empty if there is an earlier verdict on them."""
    odd_expected: Encoded
    problem: str | None
    """Problem in the earlier verdict, if any."""
    notices: tuple[str, ...]
    """Facts about the tokenizer that the user should know, whatever the backend."""


def reference_answers(
    tokenizer: Tokenizer, name: str, sample: Sequence[str], memory: Path
) -> ReferenceAnswers:
    """Encode the user's own documents and the odd inputs with the reference.

    Args:
        tokenizer: The definition.
        name: The backend to be tested.
        sample: Some of the documents about to be tokenised.
        memory: Directory of earlier verdicts on the odd inputs.

    Raises:
        TokenizerError: The reference cannot load the tokenizer, or a document's text produces the
            end-of-text id, so that documents could not be separated.
    """
    reference = ReferenceEncoder(tokenizer)
    documents = list(sample)
    expected = _asked(tokenizer, reference, documents, "a document")
    notices = _round_trip(tokenizer, reference, documents, expected)
    damage: list[str] = []
    verdict = _recall(_verdict_path(tokenizer, name, memory), damage.append)
    odd = [] if name == REFERENCE or verdict is not None else probes(tokenizer)
    return ReferenceAnswers(
        documents=documents,
        expected=expected,
        odd=odd,
        odd_expected=_asked(tokenizer, reference, odd, "an odd input"),
        problem=verdict.problem if verdict else None,
        notices=(*notices, *damage),
    )


def check_builds(tokenizer: Tokenizer) -> None:
    """Check that the tokenizer of a stranger's dataset can be built within limits.

    Raises:
        TokenizerError: It cannot.
    """

    def build() -> None:
        ReferenceEncoder(tokenizer)

    try:
        with ahead(build, LIMITS) as wait:
            wait()
    except OverLimit as error:
        raise TokenizerError(f"tokenizer {tokenizer.name}: building it {error}") from error


def unfit(tokenizer: Tokenizer, problem: str, with_odd_inputs: bool) -> TokenizerError:
    """Return the error for a tokenizer whose reference cannot encode the self-test's inputs.

    Args:
        tokenizer: The tokenizer.
        problem: What happened, in words that follow its name.
        with_odd_inputs: Whether the odd inputs, which can be left out, may be the reason.
    """
    remedy = ", or set tokenizer.backend: tokenizers to leave out the test on odd inputs"
    return TokenizerError(
        f"tokenizer {tokenizer.name}: {problem}; most likely the pattern of its pre_tokenizer "
        f"is at fault: use another tokenizer{remedy if with_odd_inputs else ''}"
    )


def _asked(
    tokenizer: Tokenizer, reference: ReferenceEncoder, texts: list[str], kind: str
) -> Encoded:
    """Encode texts with the reference; an error says which kind of text it cannot encode."""
    try:
        return guarded(lambda: reference.encode(texts), f"cannot encode {kind}")
    except BackendRefused as error:
        raise unfit(tokenizer, str(error), with_odd_inputs=kind != "a document") from error


def judge(
    tokenizer: Tokenizer, name: str, candidate: Encoder, answers: ReferenceAnswers, memory: Path
) -> Verdict:
    """Compare a backend with the reference, and keep the verdict on the odd inputs.

    Args:
        tokenizer: The definition.
        name: The backend.
        candidate: Its encoder.
        answers: The reference's ids.
        memory: Directory in which verdicts on the odd inputs are kept.
    """
    if name == REFERENCE:
        return Verdict(None, answers.notices)
    problem = answers.problem
    if answers.odd:
        problem = _first_difference(candidate, answers.odd, answers.odd_expected, "an odd input")
        with contextlib.suppress(OSError):  # a verdict that cannot be kept is made again
            kept = msgspec.json.encode(KeptVerdict(problem))
            write_sealed(_verdict_path(tokenizer, name, memory), kept)
    problem = problem or _first_difference(
        candidate, answers.documents, answers.expected, "a document"
    )
    return Verdict(None if problem is None else f"{name} {problem}", answers.notices)


def _verdict_path(tokenizer: Tokenizer, name: str, memory: Path) -> Path:
    versions = [name, installed(name), installed("tokenizers"), PROBE_VERSION]
    return memory / f"{hash_json([tokenizer.fingerprint, versions])}.json"


def _recall(path: Path, notice: Notice) -> KeptVerdict | None:
    """Return an earlier verdict; None if there is none, or it is damaged."""
    payload = read_cached(path, "the tokenizer's backend is tested again", notice)
    return None if payload is None else msgspec.json.decode(payload, type=KeptVerdict)


def probes(tokenizer: Tokenizer) -> list[str]:
    """Return odd inputs, on which fast tokenizers have differed from the reference."""
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


def _round_trip(
    tokenizer: Tokenizer, reference: ReferenceEncoder, sample: list[str], encoded: Encoded
) -> tuple[str, ...]:
    """Decode the sample, and return a notice if that does not restore the text."""
    ids, offsets = encoded
    if tokenizer.eos_id is not None and (ids == tokenizer.eos_id).any():
        raise end_in_text(tokenizer)
    changed = sum(
        reference.decode(ids[offsets[number] : offsets[number + 1]]) != text
        for number, text in enumerate(sample)
    )
    if not changed:
        return ()
    dropped = sum(
        bool(text) and offsets[number] == offsets[number + 1] for number, text in enumerate(sample)
    )
    if dropped == len(sample):
        raise TokenizerError(
            f"tokenizer {tokenizer.name}: gives no token for any of "
            f"{counted(dropped, 'sampled document')}, so nothing of their text would be kept; "
            "its vocabulary lacks their characters: use another tokenizer"
        )
    none = f", {dropped} of them to no token at all" if dropped else ""
    return (
        f"tokenizer: {changed} of {len(sample)} sampled documents do not decode to the same text"
        f"{none} (a normaliser or an unknown token); tokens are as the tokenizer gives them",
    )


def end_in_text(tokenizer: Tokenizer, text: str = "") -> TokenizerError:
    """Return the error for a tokenizer whose end-of-text id results from a document's text."""
    at = max(0, text.find(tokenizer.eos or "") - 20)
    shown = f" (in '{text[at : at + 80].encode('unicode_escape').decode()}')" if text else ""
    return TokenizerError(
        f"tokenizer {tokenizer.name}: the text of a document produced the end-of-text id "
        f"{tokenizer.eos_id}{shown}, so documents could not be separated; name another token as "
        "tokenizer.eos"
    )


def _first_difference(
    candidate: Encoder, texts: list[str], expected_encoding: Encoded, kind: str
) -> str | None:
    """Describe the first difference between a backend and the reference; None if they agree."""
    try:
        got_ids, got_offsets = guarded(lambda: candidate.encode(texts), f"fails on {kind}")
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
