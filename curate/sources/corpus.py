"""The embedded corpus: six domains of real text harvested from the Python that runs curate.

Nothing is downloaded and nothing is shipped. The text is what is installed already: Python's own
library and headers, and the distributions that curate depends on. Other distributions are never
read, so that the corpus does not change with what else is installed. A recipe names a domain as
`corpus://python_code`; `resolve` gives the JSON Lines file behind that name.

The size of a domain is bounded: its files are taken in the order of the hash of their bytes until
the bound is reached, so the choice does not depend on the order of directories. Tests come last.
Left out: generated tables, man pages, and text that only importing a module would show.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import gc
import importlib.metadata
import itertools
import os
import platform
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

import orjson

from curate.errors import InputError, RecipeError
from curate.sources.distributions import Installed, installed
from curate.sources.docstrings import strip_docstrings
from curate.sources.records import SCHEME
from curate.storage import atomic_directory, hash_bytes, hash_json, read_json, write_json

DOMAINS: dict[str, str] = {
    "python_code": "Python source with its docstrings taken out",
    "docstrings": "docstrings of Python modules as prose, one document a module",
    "c_headers": "C and C++ headers, and Cython",
    "stubs_config": "Python type stubs and configuration: TOML, YAML, JSON, INI",
    "manuals": "manual pages: Python's help topics, package descriptions, change notes",
    "licences": "licence texts and notices",
}
"""Name of each domain → what is in it."""

LIMIT_BYTES: dict[str, int] = {
    "python_code": 30_000_000,
    "docstrings": 8_000_000,
    "c_headers": 12_000_000,
    "stubs_config": 6_000_000,
    "manuals": 6_000_000,
    "licences": 2_000_000,
}
"""Most bytes of text a domain may hold. Parsing is four fifths of the time of a harvest: a second
for 4 to 6 MB of code (measured on one core), hence the limit of `python_code`."""

HARVEST_VERSION = 1
"""Raised whenever the same installation would give another text."""

LONGEST_FILE_BYTES = 1_000_000
LONGEST_LINE_CHARACTERS = 5_000
"""A file with a longer line is minified or a generated table."""
SHORTEST_DOCUMENT_CHARACTERS = 200

HEADER_SUFFIXES = frozenset({".h", ".hh", ".hpp", ".cuh", ".pyx", ".pxd", ".pxi"})
CONFIG_SUFFIXES = frozenset({".pyi", ".toml", ".cfg", ".ini", ".json", ".yaml", ".yml"})
MANUAL_SUFFIXES = frozenset({".rst", ".md", ".txt"})
LICENCE_NAME = re.compile(r"(licen[sc]es?|copying|notice)\b", re.IGNORECASE)
MANUAL_NAME = re.compile(r"(readme|news|changes|changelog|history|howto)\b", re.IGNORECASE)
NOT_A_MANUAL = re.compile(r"(requirements|cmakelists|entry_points|top_level)", re.IGNORECASE)
DESCRIPTION_NAMES = frozenset({"METADATA", "PKG-INFO"})
TOPICS_PATH = "pydoc_data/topics.py"
TEST_DIRECTORIES = frozenset({"test", "tests", "idle_test"})
SKIPPED_DIRECTORIES = frozenset({"__pycache__", "site-packages", "dist-packages"})


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
    """What a domain holds; a domain without documents has no file."""

    documents: int
    bytes: int
    """UTF-8 bytes of text."""
    file_bytes: int
    """Size of the JSON Lines file."""
    content_hash: str
    """xxh3-128 over the identifiers and texts, in order."""
    skipped: dict[str, int]
    """Reason → files looked at that gave no document."""


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """A corpus on disk: one `<domain>.jsonl` for each of `domains`, and `corpus.json`."""

    directory: Path
    key: str
    """Changes when another interpreter, distribution or harvest would give another text."""
    python: str
    distributions: dict[str, str]
    """Name → version of each distribution read, Python itself apart."""
    domains: dict[str, DomainInfo]
    notes: list[str]
    """What could not be harvested here, and why."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file that may become a document; candidates are taken in the order of `rank`."""

    rank: tuple[bool, str, str]
    """Whether it is a test, the hash of its bytes, and `id`."""
    id: str
    path: Path
    metadata: dict[str, str]


@dataclass(slots=True)
class _Domain:
    """Documents of one domain while they are collected."""

    limit_bytes: int
    documents: list[CorpusDocument] = field(default_factory=list)
    text_bytes: int = 0
    full: bool = False
    skipped: Counter[str] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)

    def add(self, document_id: str, text: str, metadata: dict[str, str]) -> None:
        """Take a document unless it is short, damaged, a duplicate, or would break the limit."""
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


def harvest(
    domain: str, distributions: Sequence[str] | None = None, limit_bytes: int | None = None
) -> list[CorpusDocument]:
    """Read one domain of the embedded corpus.

    Args:
        domain: A key of `DOMAINS`.
        distributions: Names of the distributions to read besides Python itself; None: those that
            curate depends on, directly or not. Those not installed are passed over.
        limit_bytes: Most bytes of text wanted; None: `LIMIT_BYTES[domain]`, which it cannot
            exceed. For `docstrings` it bounds the code parsed for them. What a smaller limit
            gives is part of what a larger one gives.

    Returns:
        Documents in the order of their identifiers, without duplicates; empty where the
        installation has nothing for this domain.

    Raises:
        RecipeError: There is no such domain.
    """
    _check_domain(domain)
    limits = LIMIT_BYTES
    if limit_bytes is not None:
        limits = {name: min(limit, limit_bytes) for name, limit in LIMIT_BYTES.items()}
    return _harvest(installed(distributions), {domain}, limits)[domain].documents


def materialise(directory: Path, distributions: Sequence[str] | None = None) -> CorpusInfo:
    """Write every domain as JSON Lines into `directory/<key>/`, unless that is there already.

    A line holds `id`, `text`, `distribution`, `version`, `path` and `licence`.

    Args:
        directory: Where corpora are kept; made if absent.
        distributions: As for `harvest`.

    Raises:
        InputError: The corpus there has been tampered with; the message says what to delete.
    """
    read = installed(distributions)
    versions = {name: found.version for name, found in read.items()}
    build = [platform.python_version(), *platform.python_build(), sysconfig.get_platform()]
    key = hash_json({"harvest": HARVEST_VERSION, "python": build, "distributions": versions})
    target = directory / key
    if not target.is_dir():
        domains = _harvest(read, set(DOMAINS), LIMIT_BYTES)
        with atomic_directory(target) as temporary:
            stored = {
                "key": key,
                "python": platform.python_version(),
                "distributions": versions,
                "domains": {
                    name: asdict(_write_domain(temporary / f"{name}.jsonl", domain))
                    for name, domain in domains.items()
                    if domain.documents
                },
                "notes": _notes(read, domains),
            }
            write_json(temporary / "corpus.json", stored)
    return _open(target)


def resolve(url: str, cache: Path) -> Path:
    """The JSON Lines file behind `corpus://<domain>`, harvested into `cache/corpus` if need be.

    Raises:
        RecipeError: There is no such domain, or this installation has no text for it.
        InputError: The harvested corpus has been tampered with.
    """
    if not url.startswith(SCHEME):
        raise RecipeError(f"'{url}' does not name an embedded domain: write {SCHEME}<domain>")
    domain = url.removeprefix(SCHEME)
    _check_domain(domain)
    info = materialise(cache / "corpus")
    if domain not in info.domains:
        raise RecipeError(
            f"{url}: this Python installation has no text for '{domain}'. "
            f"Use one of: {', '.join(SCHEME + name for name in info.domains)}"
        )
    return info.directory / f"{domain}.jsonl"


def _check_domain(domain: str) -> None:
    if domain in DOMAINS:
        return
    nearest = difflib.get_close_matches(domain, DOMAINS, n=1, cutoff=0.5)
    hint = f" Did you mean {SCHEME}{nearest[0]}?" if nearest else ""
    raise RecipeError(
        f"{SCHEME}{domain}: there is no such embedded domain.{hint} "
        f"There are: {', '.join(SCHEME + name for name in DOMAINS)}"
    )


def _domain_of(path: PurePosixPath) -> str | None:
    """The domain a file belongs to; `python_code` stands for docstrings too."""
    suffix = path.suffix.lower()
    in_metadata = path.parts[0].endswith((".dist-info", ".egg-info"))
    is_code = suffix in HEADER_SUFFIXES or suffix in CONFIG_SUFFIXES or suffix == ".py"
    if not is_code and (LICENCE_NAME.match(path.name) or "licenses" in path.parts[1:]):
        return "licences"
    if path.name in DESCRIPTION_NAMES:
        return "manuals"
    if in_metadata or path.name.startswith("_sysconfigdata"):
        return None
    if suffix == ".py":
        return "manuals" if str(path) == TOPICS_PATH else "python_code"
    if suffix in HEADER_SUFFIXES:
        return "c_headers"
    if suffix == ".pyi" or (suffix in CONFIG_SUFFIXES and not _is_test(path)):
        return "stubs_config"
    if _is_test(path):
        return None
    if suffix in MANUAL_SUFFIXES or (not suffix and MANUAL_NAME.match(path.name)):
        return None if NOT_A_MANUAL.match(path.name) else "manuals"
    return None


def _is_test(path: PurePosixPath) -> bool:
    return not TEST_DIRECTORIES.isdisjoint(path.parts)


def _python_files() -> Iterator[tuple[Path, PurePosixPath]]:
    """Path and relative path of the files of Python itself."""
    paths = sysconfig.get_paths()
    for root, prefix in ((paths["stdlib"], ""), (paths["include"], "include/")):
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name not in SKIPPED_DIRECTORIES]
            relative = Path(folder).relative_to(root).as_posix()
            for name in names:
                yield Path(folder, name), PurePosixPath(prefix, relative, name)


def _distribution_files(
    distribution: importlib.metadata.Distribution,
) -> Iterator[tuple[Path, PurePosixPath]]:
    """Path and relative path of the files a distribution lists, within its own directories."""
    root = Path(str(distribution.locate_file("")))
    for listed in distribution.files or []:
        if ".." not in listed.parts and not listed.is_absolute():
            yield root / listed, PurePosixPath(listed)


def _licence(distribution: importlib.metadata.Distribution) -> str:
    """The licence a distribution states, in one line; empty where it states none."""
    metadata = distribution.metadata
    for name in ("License-Expression", "License"):
        stated = str(metadata[name]).strip() if name in metadata else ""
        if stated and "\n" not in stated:
            return stated
    classifiers = [entry for entry in metadata.get_all("Classifier") or [] if "License ::" in entry]
    return ", ".join(entry.rpartition(" :: ")[2] for entry in classifiers)


def _candidates(installed: Installed, wanted: set[str]) -> dict[str, list[_Candidate]]:
    """Files of each wanted domain, in the order they are to be taken."""
    origins = [({"distribution": "python", "version": platform.python_version()}, _python_files())]
    origins[0][0]["licence"] = "PSF-2.0"
    for name, distribution in installed.items():
        origin = {"distribution": name, "version": distribution.version}
        origins.append(
            ({**origin, "licence": _licence(distribution)}, _distribution_files(distribution))
        )
    found: dict[str, list[_Candidate]] = {domain: [] for domain in wanted}
    for origin, files in origins:
        for path, relative in files:
            domain = _domain_of(relative)
            if domain not in wanted:
                continue
            try:
                content = path.read_bytes()
            except OSError:
                content = b""  # `_read` meets the same fault, and counts it
            identifier = f"{origin['distribution']}/{relative}"
            metadata = {**origin, "path": str(relative)}
            rank = (_is_test(relative), hash_bytes(content), identifier)
            found[domain].append(_Candidate(rank, identifier, path, metadata))
    for candidates in found.values():
        candidates.sort(key=lambda candidate: candidate.rank)
    return found


# From files to documents.


def _harvest(installed: Installed, wanted: set[str], limits: dict[str, int]) -> dict[str, _Domain]:
    """The wanted domains, their documents sorted; code and docstrings come from one parse."""
    domains = {name: _Domain(limit_bytes) for name, limit_bytes in limits.items()}
    # How full `python_code` is decides which files are parsed, so docstrings need it made too.
    read = {"python_code" if name == "docstrings" else name for name in wanted}
    for name, candidates in _candidates(installed, read).items():
        if name == "python_code":
            with _paused_garbage_collection():
                _collect_python(candidates, domains["python_code"], domains["docstrings"])
        else:
            _collect(candidates, domains[name])
    for domain in domains.values():
        domain.documents.sort(key=lambda document: document.id)
    return {name: domains[name] for name in DOMAINS if name in wanted}


@contextlib.contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Syntax trees hold no cycles, and looking for some in them costs a fifth of parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _collect_python(candidates: Iterable[_Candidate], code: _Domain, docstrings: _Domain) -> None:
    """Parse files until the code is full, and take both halves of each."""
    for candidate in candidates:
        source = _read(candidate, code.skipped)
        if source is None:
            continue
        try:
            with warnings.catch_warnings():
                # An invalid escape is the harvested file's fault: it counts as not parsing.
                warnings.simplefilter("error")
                stripped, found = strip_docstrings(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            code.skipped["does not parse"] += 1
            continue
        code.add(candidate.id, stripped, candidate.metadata)
        if code.full:
            return
        docstrings.add(f"{candidate.id}#docstrings", "\n\n".join(found), candidate.metadata)


def _collect(candidates: Iterable[_Candidate], domain: _Domain) -> None:
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


def _read(candidate: _Candidate, skipped: Counter[str]) -> str | None:
    r"""Text of a file with `\n` line ends; None, and counted, where it is not fit to be one."""
    try:
        content = candidate.path.read_bytes()
    except OSError:
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
    """Name and page of each of Python's help topics, from the source that holds them in a dict."""
    topics = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for key, value in zip(statement.value.keys, statement.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    topics.append((str(key.value), str(value.value)))
    return topics


# From documents to files.


def _write_domain(path: Path, domain: _Domain) -> DomainInfo:
    """Write one document a line."""
    with path.open("wb") as stream:
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
        content_hash=hash_bytes(*pieces),
        skipped=dict(sorted(domain.skipped.items())),
    )


def _notes(installed: Installed, domains: dict[str, _Domain]) -> list[str]:
    """What is missing from this corpus that another installation would give."""
    notes = [
        f"{name}: left out, nothing found in Python or the distributions read"
        for name, domain in domains.items()
        if not domain.documents
    ]
    for name, distribution in installed.items():
        if not distribution.files:
            notes.append(f"{name} {distribution.version}: lists no files, so it was not read")
    return notes


def _open(directory: Path) -> CorpusInfo:
    """Describe a corpus on disk, having checked that its files are as long as they were."""
    stored = read_json(directory / "corpus.json")
    domains = {name: DomainInfo(**fields) for name, fields in stored.pop("domains").items()}
    for name, domain in domains.items():
        path = directory / f"{name}.jsonl"
        found_bytes = path.stat().st_size if path.is_file() else 0
        if found_bytes != domain.file_bytes:
            raise InputError(
                f"{path}: has {found_bytes} bytes where {domain.file_bytes} were harvested. "
                f"Delete {directory} and run again"
            )
    return CorpusInfo(directory=directory, domains=domains, **stored)
