"""Turn installed files into the documents of the embedded corpus, and those into JSON Lines.

A domain takes its files in their order until its bound is reached; a file without a document is
counted with the reason. Left out: which files there are (`installed_files`), and where the corpus
is kept (`corpus`).
"""

from __future__ import annotations

import ast
import contextlib
import gc
import itertools
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from curate.runtime.files import hash_bytes, hash_file, name_errors
from curate.runtime.machine import raise_fault
from curate.sources.embedded.distributions import Installed
from curate.sources.embedded.docstrings import strip_docstrings
from curate.sources.embedded.installed_files import (
    DESCRIPTION_NAMES,
    TOPICS_PATH,
    CandidateFile,
    find_candidates,
)

DOMAINS: dict[str, str] = {
    "python_code": "Python source with its docstrings taken out",
    "docstrings": "docstrings of Python modules as prose, one document a module",
    "c_headers": "C and C++ headers, and Cython",
    "stubs_config": "Python type stubs and configuration: TOML, YAML, JSON, INI",
    "manuals": "manual pages: Python's help topics, package descriptions, change notes",
    "licences": "licence texts and notices",
}
"""Content of each domain, by name."""

LIMIT_BYTES: dict[str, int] = {
    "python_code": 30_000_000,
    "docstrings": 8_000_000,
    "c_headers": 12_000_000,
    "stubs_config": 6_000_000,
    "manuals": 6_000_000,
    "licences": 2_000_000,
}
"""Most bytes of text of each domain. Parsing is four fifths of the time of a harvest: a second
for 4 to 6 MB of code (measured on one core), hence the limit of `python_code`."""

HARVEST_VERSION = 1
"""Version of the harvest. Bump it when the same installation would give another text."""

LONGEST_FILE_BYTES = 1_000_000
LONGEST_LINE_CHARACTERS = 5_000
"""A file with a longer line is minified or a generated table."""
SHORTEST_DOCUMENT_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """One document of the embedded corpus."""

    id: str
    """`<distribution>/<relative path>`, with `#<part>` where a file gives more than one text."""
    text: str
    metadata: dict[str, str]
    """`distribution`, `version`, `path`, and `licence` (empty where none is stated)."""


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """Totals of a domain; a domain without documents has no file."""

    documents: int
    bytes: int
    """UTF-8 bytes of text."""
    file_bytes: int
    """Size of the JSON Lines file."""
    file_hash: str
    """Hash of that file."""
    content_hash: str
    """xxh3-128 over the identifiers and texts, in order."""
    skipped: dict[str, int]
    """Reason → files looked at that gave no document."""


@dataclass(slots=True)
class HarvestedDomain:
    """Documents of one domain while they are collected."""

    limit_bytes: int
    documents: list[CorpusDocument] = field(default_factory=list)
    text_bytes: int = 0
    full: bool = False
    skipped: Counter[str] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)

    def add(self, document_id: str, text: str, metadata: dict[str, str]) -> None:
        """Add a document unless it is short, damaged, a duplicate, or would exceed the limit.

        Args:
            document_id: See `CorpusDocument.id`.
            text: The document.
            metadata: See `CorpusDocument.metadata`.
        """
        if len(text.strip()) < SHORTEST_DOCUMENT_CHARACTERS:
            self.skipped["too short"] += 1
            return
        try:
            encoded = text.encode()
        except UnicodeEncodeError:  # a lone surrogate, which an escape in a docstring can spell
            encoded = b"\0"
        if b"\0" in encoded:
            self.skipped["not text"] += 1
            return
        digest = hash_bytes(encoded)
        if digest in self._seen:
            self.skipped["duplicate"] += 1
        elif self.text_bytes + len(encoded) > self.limit_bytes:
            self.full = True
        else:
            self._seen.add(digest)
            self.text_bytes += len(encoded)
            self.documents.append(CorpusDocument(document_id, text, metadata))


def harvest_domains(
    installed: Installed, names: set[str], limits: dict[str, int]
) -> dict[str, HarvestedDomain]:
    """Harvest domains, with documents sorted by id; code and docstrings come from one parse.

    Args:
        installed: Distributions to read besides Python itself.
        names: Domains to harvest.
        limits: Most bytes of text, by domain.
    """
    domains = {name: HarvestedDomain(limit_bytes) for name, limit_bytes in limits.items()}
    # How full `python_code` is decides which files are parsed, so docstrings need it made too.
    read = {"python_code" if name == "docstrings" else name for name in names}
    for name, candidates in find_candidates(installed, read).items():
        if name == "python_code":
            with _paused_garbage_collection():
                collect_python(candidates, domains["python_code"], domains["docstrings"])
        else:
            _collect(candidates, domains[name])
    for domain in domains.values():
        domain.documents.sort(key=lambda document: document.id)
    return {name: domains[name] for name in DOMAINS if name in names}


@contextlib.contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector: syntax trees hold no cycles, and looking costs a fifth."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def collect_python(
    candidates: Iterable[CandidateFile], code: HarvestedDomain, docstrings: HarvestedDomain
) -> None:
    """Parse files until `code` is full, and add the code and the docstrings of each.

    Args:
        candidates: Python files in the order to take.
        code: Receives source without docstrings.
        docstrings: Receives one document of docstrings a file.
    """
    for candidate in candidates:
        source = _read(candidate, code.skipped)
        if source is None:
            continue
        try:
            with warnings.catch_warnings():
                # An invalid escape is the harvested file's fault: it counts as not parsing.
                warnings.simplefilter("error")
                stripped, removed = strip_docstrings(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            code.skipped["does not parse"] += 1
            continue
        code.add(candidate.id, stripped, candidate.metadata)
        if code.full:
            return
        docstrings.add(f"{candidate.id}#docstrings", "\n\n".join(removed), candidate.metadata)


def _collect(candidates: Iterable[CandidateFile], domain: HarvestedDomain) -> None:
    """Take files whole, but for descriptions (without their header) and topics (one by one)."""
    for candidate in candidates:
        text = _read(candidate, domain.skipped)
        if text is None:
            continue
        if candidate.metadata["path"] == TOPICS_PATH:
            for topic, page in _topics(text):
                domain.add(f"{candidate.id}#{topic}", page, candidate.metadata)
        elif candidate.path.name in DESCRIPTION_NAMES:
            domain.add(candidate.id, text.partition("\n\n")[2], candidate.metadata)
        else:
            domain.add(candidate.id, text, candidate.metadata)
        if domain.full:
            return


def _read(candidate: CandidateFile, skipped: Counter[str]) -> str | None:
    r"""Return a file's text with `\n` line ends; count it and return None if it is not usable."""
    try:
        content = candidate.path.read_bytes()
    except OSError as error:
        raise_fault(error, str(candidate.path))
        skipped["cannot be read"] += 1
        return None
    if len(content) > LONGEST_FILE_BYTES:
        skipped["file too long"] += 1
        return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        skipped["not UTF-8"] += 1
        return None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if max(map(len, text.split("\n"))) > LONGEST_LINE_CHARACTERS:
        skipped["line too long"] += 1
        return None
    return text


def _topics(source: str) -> list[tuple[str, str]]:
    """List name and page of Python's help topics, from the source that holds them in a dict."""
    topics = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for key, value in zip(statement.value.keys, statement.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    topics.append((str(key.value), str(value.value)))
    return topics


def write_domain(path: Path, domain: HarvestedDomain) -> DomainInfo:
    """Write a domain as JSON Lines, one document a line."""
    with name_errors(path), path.open("wb") as stream:
        for document in domain.documents:
            record = {"id": document.id, "text": document.text, **document.metadata}
            stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        file_bytes = stream.tell()
    pieces = itertools.chain.from_iterable(
        (document.id.encode(), document.text.encode()) for document in domain.documents
    )
    return DomainInfo(
        documents=len(domain.documents),
        bytes=domain.text_bytes,
        file_bytes=file_bytes,
        file_hash=hash_file(path),
        content_hash=hash_bytes(*pieces),
        skipped=dict(sorted(domain.skipped.items())),
    )
