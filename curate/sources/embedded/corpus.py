"""The embedded corpus: six domains of real text harvested from the Python that runs curate.

Nothing is downloaded and nothing is shipped. The text is what is installed already: Python's own
library and headers, and the distributions in `distributions.SOURCES`. Others are never read, so
that the corpus does not change with what else is installed. A recipe names a domain as
`corpus://python_code`; `resolve` gives the JSON Lines file behind that name.

The size of a domain is bounded: its files are taken in the order of the hash of their bytes until
the bound is reached, so the choice does not depend on the order of directories. Tests come last.
Left out: generated tables, man pages, and text that only importing a module would show.
"""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from curate.errors import RecipeError
from curate.runtime.files import atomic_directory, hash_file, hash_json, remove_tree
from curate.runtime.registry import unknown_name
from curate.runtime.sealed import Notice, read_cached, write_sealed
from curate.sources.embedded.distributions import Installed, installed
from curate.sources.embedded.harvest import (
    DOMAINS,
    HARVEST_VERSION,
    LIMIT_BYTES,
    CorpusDocument,
    DomainInfo,
    HarvestedDomain,
    harvest_domains,
    write_domain,
)
from curate.sources.records import SCHEME

__all__ = [
    "DOMAINS",
    "LIMIT_BYTES",
    "CorpusDocument",
    "CorpusInfo",
    "DomainInfo",
    "harvest",
    "materialise",
    "resolve",
]


SCHEMA = 2
"""Version of `corpus.json`."""


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
    """One line for each domain or distribution that could not be harvested, with the reason."""


def harvest(
    domain: str, distributions: Sequence[str] | None = None, limit_bytes: int | None = None
) -> list[CorpusDocument]:
    """Read one domain of the embedded corpus.

    Args:
        domain: A key of `DOMAINS`.
        distributions: Names of the distributions to read besides Python itself; None: those in
            `distributions.SOURCES` and what they require. Those not installed are passed over.
        limit_bytes: Most bytes of text to return; None: `LIMIT_BYTES[domain]`, which it cannot
            exceed. For `docstrings` it bounds the code that is parsed. Documents under a smaller
            limit are a subset of those under a larger one.

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
    return harvest_domains(installed(distributions), {domain}, limits)[domain].documents


def materialise(
    directory: Path,
    distributions: Sequence[str] | None = None,
    notice: Notice = lambda _: None,
    domain: str | None = None,
) -> CorpusInfo:
    """Write every domain as JSON Lines into `directory/<key>/`, unless that is there already.

    A line holds `id`, `text`, `distribution`, `version`, `path` and `licence`. A corpus with a
    damaged file is harvested again.

    Args:
        directory: Where corpora are kept; made if absent.
        distributions: As for `harvest`.
        notice: Called with a line that names a damaged file.
        domain: The domain whose file is checked; None: all.
    """
    read = installed(distributions)
    versions = {name: distribution.version for name, distribution in read.items()}
    build = [platform.python_version(), *platform.python_build(), sysconfig.get_platform()]
    version = [SCHEMA, HARVEST_VERSION]
    key = hash_json({"harvest": version, "python": build, "distributions": versions})
    target = directory / key
    info = _open(target, domain, notice) if target.is_dir() else None
    if info is not None:
        return info
    remove_tree(target)
    domains = harvest_domains(read, set(DOMAINS), LIMIT_BYTES)
    with atomic_directory(target) as temporary:
        stored = {
            "key": key,
            "python": platform.python_version(),
            "distributions": versions,
            "domains": {
                name: asdict(write_domain(temporary / f"{name}.jsonl", harvested))
                for name, harvested in domains.items()
                if harvested.documents
            },
            "notes": _notes(read, domains),
        }
        write_sealed(temporary / "corpus.json", orjson.dumps(stored))
    return _describe(target, stored)


def resolve(url: str, cache: Path, notice: Notice = lambda _: None) -> Path:
    """Return the JSON Lines file of `corpus://<domain>`, harvested into `cache/corpus` if absent.

    Args:
        url: The name of the domain.
        cache: Directory of the cache.
        notice: Called with a line if the corpus is damaged and harvested again.

    Raises:
        RecipeError: There is no such domain, or this installation has no text for it.
    """
    if not url.startswith(SCHEME):
        raise RecipeError(f"'{url}' does not name an embedded domain: write {SCHEME}<domain>")
    domain = url.removeprefix(SCHEME)
    _check_domain(domain)
    info = materialise(cache / "corpus", notice=notice, domain=domain)
    if domain not in info.domains:
        raise RecipeError(
            f"{url}: this Python installation has no text for '{domain}'. "
            f"Use one of: {', '.join(SCHEME + name for name in info.domains)}"
        )
    return info.directory / f"{domain}.jsonl"


def _check_domain(domain: str) -> None:
    if domain not in DOMAINS:
        raise RecipeError(unknown_name("embedded domain", domain, DOMAINS, f"{SCHEME}{domain}"))


def _notes(installed: Installed, domains: dict[str, HarvestedDomain]) -> list[str]:
    """List what is missing from this corpus because this installation lacks it."""
    notes = [
        f"{name}: left out, nothing found in Python or the distributions read"
        for name, domain in domains.items()
        if not domain.documents
    ]
    for name, distribution in installed.items():
        if not distribution.files:
            notes.append(f"{name} {distribution.version}: lists no files, so it was not read")
    return notes


def _open(directory: Path, domain: str | None, notice: Notice) -> CorpusInfo | None:
    """Describe a corpus on disk; None if `corpus.json` or a file that is checked is damaged."""
    remedy = "the corpus is harvested again"
    payload = read_cached(directory / "corpus.json", remedy, notice)
    if payload is None:
        return None
    info = _describe(directory, orjson.loads(payload))
    for name in info.domains if domain is None else {domain} & info.domains.keys():
        path = directory / f"{name}.jsonl"
        if not path.is_file() or hash_file(path) != info.domains[name].file_hash:
            notice(f"{path} is damaged: {remedy}")
            return None
    return info


def _describe(directory: Path, stored: dict[str, Any]) -> CorpusInfo:
    domains = {name: DomainInfo(**fields) for name, fields in stored["domains"].items()}
    return CorpusInfo(directory=directory, **{**stored, "domains": domains})
