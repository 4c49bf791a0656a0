"""Files that are left out, or read more than once: links, copies, files of several domains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from curate.runtime.files import is_url
from curate.runtime.registry import counted, list_first
from curate.sources.places import Places
from curate.sources.records import InputFile


def without_links(files: Sequence[InputFile]) -> list[InputFile]:
    """Drop hard links to a file that is there already; a file without a status is kept.

    Example:
        >>> a = InputFile("a", 5, "hash", status=(5, 1, 77, 1))
        >>> [file.path for file in without_links([a, a._replace(path="b")])]
        ['a']
    """
    kept: dict[object, InputFile] = {}
    for file in files:
        is_local = bool(file.status) and not is_url(file.path)
        kept.setdefault((file.content_hash, file.status) if is_local else file.path, file)
    return list(kept.values())


def left_out_notices(places: Places) -> Iterator[str]:
    """Say what a search left out, in a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in places.left_out.items():
        by_reason.setdefault(reason, []).append(path)
    for reason, paths in by_reason.items():
        yield f"not read, {reason}: {list_first(sorted(paths))}"


def copy_notices(domains: Mapping[str, Iterable[InputFile]]) -> Iterator[str]:
    """Say which files equal another one, of the same domain or of one before it.

    Args:
        domains: The files of each domain, by name.
    """
    first: dict[str, tuple[str, str]] = {}
    for name, files in domains.items():
        copies: dict[str, list[tuple[str, str]]] = {}
        for file in files:
            if file.size_bytes:
                owner, original = first.setdefault(file.content_hash, (name, file.path))
                if (owner, original) != (name, file.path):
                    copies.setdefault(owner, []).append((file.path, original))
        for owner, pairs in copies.items():
            copy, original = pairs[0]
            if owner == name:
                yield (
                    f"domain '{name}': {counted(len(pairs), 'file')} equal to another of the "
                    f"domain, counted again ({copy} is the same as {original})"
                )
            else:
                which = copy if copy == original else f"{copy} is the same as {original}"
                yield (
                    f"domain '{name}': {counted(len(pairs), 'file')} also in domain '{owner}', "
                    f"counted in both ({which})"
                )
