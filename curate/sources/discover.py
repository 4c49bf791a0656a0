"""Find the files that a recipe's `paths` name: files, globs, directories and URLs.

Hidden files, whose names start with a dot, are read only if a pattern names them, literally or by
a component that starts with a dot. Links to directories are followed, each directory once.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from curate.errors import InputError
from curate.runtime.files import is_encodable, is_url
from curate.runtime.registry import nearest_hint
from curate.sources.records import ReadOptions
from curate.sources.remote import GLOB_CHARACTERS, NameFilter, expand_url, name_filter

LISTED_NAMES = 8


class InputPath(NamedTuple):
    """A file, and its path below the directory that the recipe names."""

    path: str
    name: str


def expand(patterns: Sequence[str], options: ReadOptions, base: Path) -> list[InputPath]:
    """Find the files that patterns name.

    A pattern is a file, a directory (searched for files whose names match `options.glob`), a glob
    in which `**` stands for any directories, or one of these as a URL. A pattern that exists as a
    path is taken literally, even if it holds glob characters.

    Args:
        patterns: Paths in the recipe; relative ones start at `base`, `~` is the home directory.
        options: `glob` restricts which files of directories are read.
        base: The recipe's directory.

    Returns:
        Files sorted by path, each once. `name` is the path below the directory, or below the
        fixed part of the glob; for a file named literally it is the file's name.

    Raises:
        InputError: A pattern matches nothing; the message lists the files that exist there.
    """
    fits = name_filter(options.glob)
    files: dict[str, InputPath] = {}
    for pattern in patterns:
        if is_url(pattern):
            matches = [InputPath(path, name) for path, name in expand_url(pattern, fits)]
        else:
            matches = expand_local(str(base / os.path.expanduser(pattern)), fits)
        if not matches:
            raise InputError(explain_no_match(pattern, base, options))
        for match in matches:
            check_name(match.path)
            files.setdefault(match.path, match)
    return [files[path] for path in sorted(files)]


def check_name(path: str) -> None:
    """Refuse a name that cannot be written to artifacts.

    Raises:
        InputError: The name is not UTF-8.
    """
    if not is_encodable(path):
        raise InputError(f"{path!r}: the name is not UTF-8; rename the file")


def expand_local(pattern: str, fits: NameFilter) -> list[InputPath]:
    """Find the files of one pattern on this machine."""
    root, rest = split_glob(pattern)
    if not rest:
        if not os.path.isdir(root):
            return [InputPath(root, os.path.basename(root))] if os.path.exists(root) else []
        matches = [root]
    else:
        prefix = "" if root == os.curdir else glob.escape(root)  # so that no match starts with ./
        matches = glob.glob(os.path.join(prefix, rest), recursive=True)
    files = []
    for match in matches:
        for path in walk(match, fits) if os.path.isdir(match) else [match]:
            name = path if root == os.curdir else path.removeprefix(root).lstrip(os.sep)
            files.append(InputPath(path, name.replace(os.sep, "/")))
    return files


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


def walk(root: str, fits: NameFilter) -> Iterator[str]:
    """Yield the files below a directory whose names fit, except hidden ones."""
    seen: set[tuple[int, int]] = set()
    pending = [root]
    while pending:
        directory = pending.pop()
        try:
            status = os.stat(directory)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = entry.path if directory != os.curdir else entry.name
                    if entry.is_dir():
                        pending.append(path)
                    elif fits(entry.name):
                        yield path
        except OSError as error:
            raise InputError(f"{directory}: cannot be listed ({error.strerror})") from error


def explain_no_match(pattern: str, base: Path, options: ReadOptions) -> str:
    """Explain why a pattern matched nothing, with the content of the nearest directory above it.

    Args:
        pattern: Path in the recipe.
        base: The recipe's directory.
        options: The filter of file names.
    """
    if is_url(pattern):
        return f"'{pattern}' matches no file; list the files there with the tool of that store"
    target = base / os.path.expanduser(pattern)
    parent = target
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    try:
        names = sorted(os.listdir(parent))
    except OSError as error:
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
