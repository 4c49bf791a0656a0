"""Expected output of a trainer's reader, known without the code that wrote it.

Reader scripts run in the trainers' environments, where curate is not installed, and import only
this file. `prepare.py` writes what it loads: the source documents, and for every built dataset the
stream of tokens that must come out, encoded anew from the source text by the reference tokenizer,
with the domain of each token.

Two ways of checking, for the two things readers give:

* documents (`Tally`): each is decoded and looked up among the source texts, which are all distinct.
  That gives its domain, hence tokens by domain, without trusting anything that curate wrote.
* windows: each is compared with the stream at the place where the reader says it stands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer


@dataclass(frozen=True)
class Shard:
    """A shard of the training set."""

    stem: Path
    start: int
    """First token in the stream."""
    tokens: int

    def path(self, suffix: str) -> str:
        """A file of the shard."""
        return str(self.stem) + suffix


@dataclass(frozen=True)
class Dataset:
    """A built dataset and what its training split must hold."""

    name: str
    directory: Path
    eos_id: int
    vocabulary: int
    dtype: np.dtype[Any]
    domains: Sequence[str]
    tokens: dict[str, int]
    """Tokens of each domain, as the certificate says."""
    shards: Sequence[Shard]
    lost_tokens: int | None
    """Tokens that a reader never shows, as the certificate says."""
    expected: Path

    @cached_property
    def stream(self) -> np.ndarray:
        """All training tokens in order."""
        return np.load(self.expected / "stream.npy")

    @cached_property
    def domain_of(self) -> np.ndarray:
        """Number of the domain of each token of the stream."""
        return np.load(self.expected / "domain_of.npy")

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, or of the piece of it that was taken."""
        return np.load(self.expected / "lengths.npy")

    def shares(self, shown: np.ndarray) -> dict[str, int]:
        """Tokens by domain where `shown`, a mask or a slice of the stream, is read."""
        counts = np.bincount(self.domain_of[shown], minlength=len(self.domains))
        return dict(zip(self.domains, counts.tolist(), strict=True))


class Work:
    """The directory that `prepare.py` fills."""

    def __init__(self, directory: Path) -> None:
        """Read what was built."""
        self.directory = directory
        self.description = json.loads((directory / "work.json").read_text())
        self.tokenizer_path = directory / "tokenizer.json"
        self.sequence_tokens: int = self.description["sequence_tokens"]
        self.weights: dict[str, float] = self.description["weights"]
        self.domains = list(self.weights)
        self.stages: dict[str, int] = self.description["stages"]
        """Budget of each stage, in order."""
        self.stage_weights: dict[str, dict[str, float]] = self.description["stage_weights"]
        """Shares by domain of each stage."""
        self.batch_sequences: int = self.description["batch_sequences"]

    def refused(self, name: str) -> str | None:
        """Why curate did not write a dataset; None where it did."""
        reason: str | None = self.description["refused"].get(name)
        return reason

    def dataset(self, name: str) -> Dataset:
        """A dataset by name; of one domain, `megatron-wiki`."""
        row = self.description["datasets"][name]
        directory = self.directory / "out" / name
        shards, start = [], 0
        for shard in row["shards"]:
            shards.append(Shard(directory / shard["stem"], start, shard["tokens"]))
            start += shard["tokens"]
        return Dataset(
            name, directory, row["eos_id"], row["vocabulary"],
            np.dtype(row["dtype"] or "<u4"), row["domains"], row["tokens"], shards,
            row["lost_tokens"], self.directory / "expected" / name,
        )  # fmt: skip

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The reference tokenizer; special tokens in text are text."""
        tokenizer = Tokenizer.from_file(str(self.tokenizer_path))
        tokenizer.encode_special_tokens = True
        return tokenizer

    @cached_property
    def sources(self) -> dict[str, tuple[str, int]]:
        """Text of each source document → its domain, its tokens with the end token."""
        sources = {}
        with (self.directory / "sources.jsonl").open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                sources[row["text"]] = (row["domain"], row["tokens"])
        return sources


@dataclass
class Report:
    """Checks of one reader, printed as JSON lines on the last lines of standard output."""

    reader: str
    distribution: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, check: str, ok: bool, detail: str) -> None:
        """One row of the table."""
        self._print(check, "ok" if ok else "FAILED", detail)

    def unable(self, check: str, reason: str) -> None:
        """A check that cannot be made here, with the reason."""
        self._print(check, "not run", reason)

    def _print(self, check: str, result: str, detail: str) -> None:
        row = {
            "reader": self.reader, "version": metadata.version(self.distribution),
            "check": check, "result": result, "detail": detail,
        }  # fmt: skip
        print("@@" + json.dumps(row), flush=True)

    def shares(
        self, check: str, shown: dict[str, int], weights: dict[str, float], unit: int
    ) -> None:
        """Compare tokens by domain with weights, give or take `unit` tokens a domain."""
        total = sum(shown.values())
        worst = max(weights, key=lambda name: abs(shown.get(name, 0) - weights[name] * total))
        off = abs(shown.get(worst, 0) - weights[worst] * total)
        self.add(
            check, off <= unit,
            f"{total:,} tokens; furthest off is {worst}: {shown.get(worst, 0) / total:.4%} for "
            f"{weights[worst]:.4%}, {off:.0f} tokens, stated rounding {unit}",
        )  # fmt: skip

    def same_tokens(self, check: str, shown: dict[str, int], expected: dict[str, int]) -> None:
        """Compare tokens by domain exactly."""
        detail = ", ".join(f"{name} {shown.get(name, 0):,}" for name in expected)
        if shown != expected:
            detail += " but expected " + ", ".join(f"{k} {v:,}" for k, v in expected.items())
        self.add(check, {k: v for k, v in shown.items() if v} == expected, detail)

    def windows(
        self, check: str, data: Dataset, windows: Iterable[np.ndarray], starts: Iterable[int]
    ) -> dict[str, int]:
        """Compare windows with the stream at their starts, and what is not shown with the loss.

        Returns:
            Tokens by domain that are in some window.
        """
        shown = np.zeros(len(data.stream), bool)
        count = wrong = 0
        for window, start in zip(windows, starts, strict=True):
            tokens = np.asarray(window).astype(np.int64).ravel()
            count += 1
            wrong += not np.array_equal(tokens, data.stream[start : start + len(tokens)])
            shown[start : start + len(tokens)] = True
        lost = len(shown) - int(shown.sum())
        stated = "" if data.lost_tokens is None else f" (certificate: {data.lost_tokens})"
        self.add(
            check, count > 0 and not wrong and data.lost_tokens in (None, lost),
            f"{count:,} windows, {wrong} differ from the source; {lost:,} tokens not shown{stated}",
        )  # fmt: skip
        return data.shares(shown)


class Tally:
    """Tokens by domain of documents, each found again among the source texts."""

    def __init__(self, work: Work, data: Dataset) -> None:
        """Nothing was read yet."""
        self.work, self.data = work, data
        self.tokens = dict.fromkeys(data.domains, 0)
        self.documents = self.cut = 0
        self.unknown: list[str] = []

    def add_tokens(self, tokens: np.ndarray) -> None:
        """A document as ids, with its end token unless it was cut."""
        ids = np.asarray(tokens).astype(np.int64)
        whole = len(ids) > 0 and ids[-1] == self.data.eos_id
        text = self.work.tokenizer.decode(ids[: len(ids) - whole].tolist(), False)
        self._count(text, whole, len(ids))

    def add_text(self, text: str) -> None:
        """A document as text."""
        known = self.work.sources.get(text)
        own = len(self.work.tokenizer.encode(text).ids) + 1 if known is None else known[1]
        self._count(text, known is not None, own)

    def _count(self, text: str, whole: bool, tokens: int) -> None:
        self.documents += 1
        domain = None
        if whole:
            domain = self.work.sources.get(text, (None, 0))[0]
        else:
            self.cut += 1
            begun = text.rstrip("\ufffd")
            owners = {d for t, (d, _) in self.work.sources.items() if t.startswith(begun)}
            owners &= set(self.data.domains)
            domain = owners.pop() if len(owners) == 1 else None
        if domain is None:
            self.unknown.append(text[:40])
        else:
            self.tokens[domain] += tokens

    def report(self, report: Report, check: str) -> None:
        """Two rows: documents are the sources', tokens by domain are the certificate's."""
        known = self.documents - len(self.unknown)
        detail = f"{known:,} of {self.documents:,} documents, {self.cut} of them cut"
        if self.unknown:
            detail += f"; unknown: {self.unknown[0]!r}"
        cut_most = len(self.data.domains)
        fine = self.documents > 0 and not self.unknown and self.cut <= cut_most
        report.add(f"{check}: documents decode to the source text", fine, detail)
        report.same_tokens(f"{check}: tokens by domain", self.tokens, self.data.tokens)


def split_documents(stream: np.ndarray, eos_id: int) -> list[np.ndarray]:
    """A stream of tokens cut behind every end token."""
    ends = np.flatnonzero(np.asarray(stream) == eos_id) + 1
    return [piece for piece in np.split(np.asarray(stream), ends) if len(piece)]


def windows_of(data: Dataset, window_tokens: int, step_tokens: int) -> list[int]:
    """Starts of the windows of whole shards, in order; none crosses a shard."""
    return [
        shard.start + offset
        for shard in data.shards
        for offset in range(0, shard.tokens - window_tokens + 1, step_tokens)
    ]


def work_from_arguments() -> Work:
    """The work directory that the command line names."""
    return Work(Path(sys.argv[1]).resolve())
