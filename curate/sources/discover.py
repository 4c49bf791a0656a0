"""Find the files that a recipe's `paths` name: files, globs, directories and URLs.

Hidden files, whose names start with a dot, are read only if a pattern names them, literally or by
a component that starts with a dot. Links to directories are followed, each directory once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from curate.errors import InputError
from curate.runtime.files import is_encodable, is_url
from curate.runtime.machine import raise_fault
from curate.runtime.registry import nearest_hint
from curate.sources.places import Places
from curate.sources.records import ReadOptions
from curate.sources.remote import (
    GLOB_CHARACTERS,
    UNREADABLE,
    NameFilter,
    expand_url,
    name_filter,
    written_by_recipe,
)
from curate.sources.saved_datasets import check_splits, unlisted_files
from curate.sources.search import Search, is_marker, is_unfinished

LISTED_NAMES = 8


class InputPath(NamedTuple):
    """A file, and its path below the directory that the recipe names."""

    path: str
    name: str
    pattern: str = ""
    """The glob or directory that it was found by; empty for a file that the recipe names."""


def expand(
    patterns: Sequence[str], options: ReadOptions, base: Path, places: Places | None = None
) -> list[InputPath]:
    """Find the files that patterns name.

    A pattern is a file, a directory (searched for files whose names match `options.glob`), a glob
    in which `**` stands for any directories, or one of these as a URL. A pattern that exists as a
    path is taken literally, even if it holds glob characters.

    Args:
        patterns: Paths in the recipe; relative ones start at `base`, `~` is the home directory.
        options: `glob` restricts which files of directories are read.
        base: The recipe's directory.
        places: What this recipe writes, which is never found; receives what was left out.

    Returns:
        Files sorted by path, each once, whatever patterns and links lead to it. `name` is the path
        below the directory, or below the fixed part of the glob; for a file named literally it is
        the file's name.

    Raises:
        InputError: A pattern matches nothing, and the message lists the files that exist there; or
            it names a file that this recipe writes.
    """
    places = places or Places()
    fits = name_filter(options.glob)
    files: dict[str, InputPath] = {}
    for pattern in patterns:
        matches: dict[str, InputPath]
        if is_url(pattern):
            matches = {
                path: InputPath(path, name, "" if path == pattern else pattern)
                for path, name in expand_url(pattern, fits, places)
            }
        else:
            matches = expand_local(pattern, base, fits, places)
        for key, match in list(matches.items()):
            if match.pattern and (reason := no_data(match, options.glob)):
                del matches[key]
                places.left_out[match.path] = reason
        if not matches:
            raise InputError(explain_no_match(pattern, base, options, places))
        for key, match in matches.items():
            check_name(match.path)
            files.setdefault(key, match)
    return sorted(files.values())


def no_data(match: InputPath, names: str) -> str:
    """Say why the name of a file that a pattern led to shows that it is no data; else empty.

    Args:
        match: The file and the pattern.
        names: `ReadOptions.glob`; what it, or the pattern, asks for by such a name is data.
    """
    name = match.path.rpartition("/")[2]
    asked = (*names.split(","), match.pattern.rstrip("/").rpartition("/")[2])
    if is_unfinished(name) and not any(
        is_unfinished(glob.strip()) for glob in asked if GLOB_CHARACTERS & set(glob)
    ):
        return "an unfinished download or a temporary copy"
    if names == "*" and names_all(match.pattern) and is_marker(name):
        return "a marker or a checksum"
    return ""


def names_all(pattern: str) -> bool:
    """Whether a pattern says nothing about the names of files: a directory, or `*` at the end.

    Example:
        >>> names_all("data"), names_all("data/**"), names_all("data/*.md5")
        (True, True, False)
    """
    last = pattern.rstrip("/").rpartition("/")[2]
    return last in ("*", "**") or not GLOB_CHARACTERS & set(last)


def check_name(path: str) -> None:
    """Refuse a name that cannot be written to artifacts.

    Raises:
        InputError: The name is not UTF-8.
    """
    if not is_encodable(path):
        raise InputError(f"{path!r}: the name is not UTF-8; rename the file")


def expand_local(
    pattern: str, base: Path, fits: NameFilter, places: Places
) -> dict[str, InputPath]:
    """Find the files of one pattern on this machine, by their real paths.

    Args:
        pattern: As the recipe gives it.
        base: The recipe's directory.
        fits: Filter of file names in directories.
        places: What this recipe writes; receives what was left out.

    Raises:
        InputError: The pattern names, or starts in, a place where this recipe writes.
    """
    root, rest = split_glob(str(base / os.path.expanduser(pattern)))
    real = os.path.realpath(root)
    if places.is_written(real):
        raise written_by_recipe(pattern)
    if not os.path.isdir(root):
        is_file = not rest and os.path.exists(root)
        return {real: InputPath(root, os.path.basename(root))} if is_file else {}
    if not rest:
        check_splits(root)
    files: dict[str, InputPath] = {}
    for path, real in Search(Path(rest).parts if rest else (), fits, places).below(root):
        name = path if root == os.curdir else path.removeprefix(root).lstrip(os.sep)
        files.setdefault(real, InputPath(path, name.replace(os.sep, "/"), pattern))
    unlisted = unlisted_files(file.path for file in files.values())
    places.left_out.update(unlisted)
    return {real: file for real, file in files.items() if file.path not in unlisted}


def split_glob(pattern: str) -> tuple[str, str]:
    """Split a pattern into its literal beginning and the glob below it, empty if there is none.

    Example:
        >>> split_glob("/proc/*/no*such")
        ('/proc', '*/no*such')
    """
    if os.path.lexists(pattern):
        return pattern, ""
    parts = Path(pattern).parts
    fixed = 0
    while fixed < len(parts) - 1 and (
        not GLOB_CHARACTERS & set(parts[fixed]) or os.path.lexists(Path(*parts[: fixed + 1]))
    ):
        fixed += 1
    if not any(GLOB_CHARACTERS & set(part) for part in parts[fixed:]):
        return pattern, ""
    return str(Path(*parts[:fixed])), os.path.join(*parts[fixed:])


def matching_files(pattern: str) -> list[str]:
    """Find the files that a local path or glob names, each once, in the order of their paths.

    `glob` would pass over a directory that cannot be listed, and so lose what lies there.

    Args:
        pattern: A path, or a glob in which `**` spans directories.

    Raises:
        InputError: A directory cannot be listed.
    """
    root, rest = split_glob(pattern)
    if not rest:
        return [pattern] if os.path.isfile(pattern) else []
    if not os.path.isdir(root):
        return []
    paths: dict[str, str] = {}
    for path, real in Search(Path(rest).parts, lambda _: True, Places()).below(root):
        if os.path.isfile(path):
            paths.setdefault(real, path)
    return sorted(paths.values())


def explain_no_match(pattern: str, base: Path, options: ReadOptions, places: Places) -> str:
    """Explain why a pattern matched nothing, with the content of the nearest directory above it.

    Args:
        pattern: Path in the recipe.
        base: The recipe's directory.
        options: The filter of file names.
        places: What was left out.
    """
    if places.left_out:
        path, reason = next(iter(places.left_out.items()))
        if reason == UNREADABLE:
            return f"'{pattern}' holds no file that can be read: {path} is left out, {reason}"
        return (
            f"'{pattern}' holds no file but what is never searched: {path} ({reason}); to read it "
            "all the same, name its files, as in 'DIRECTORY/train/*.jsonl'"
        )
    if is_url(pattern):
        fixed = re.split(r"[*?[]", pattern, maxsplit=1)[0]
        tools = {"s3": "aws s3 ls --recursive", "gs": "gcloud storage ls --recursive"}
        tool = tools.get(pattern.partition("://")[0])
        there = f"see what is there with: {tool} {fixed}" if tool else "list the files there"
        return f"'{pattern}' matches no file; {there}"
    target = base / os.path.expanduser(pattern)
    parent = target
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    try:
        names = sorted(os.listdir(parent))
    except OSError as error:
        raise_fault(error, str(parent))
        return f"'{pattern}' matches no file; {parent} cannot be listed ({error.strerror})"
    if parent == target:
        limit = f" that fits glob '{options.glob}'" if options.glob != "*" else ""
        return f"'{pattern}' holds no file{limit}; it holds {describe_names(names)}"
    missing = target.parts[len(parent.parts)]
    hint = nearest_hint(missing, names) or ";"
    return f"'{pattern}' matches no file{hint} {parent} holds {describe_names(names)}"


def describe_names(names: list[str]) -> str:
    """List the content of a directory, for a message.

    Example:
        >>> describe_names([".git", "a.jsonl", "b"])
        "'a.jsonl', 'b', 1 hidden (read only where a pattern names them)"
    """
    shown = [name for name in names if not name.startswith(".")]
    words = [f"'{name}'" for name in shown[:LISTED_NAMES]]
    if len(shown) > LISTED_NAMES:
        words.append(f"{len(shown) - LISTED_NAMES} more")
    hidden = len(names) - len(shown)
    if hidden:
        words.append(f"{hidden} hidden (read only where a pattern names them)")
    return ", ".join(words) or "nothing"
