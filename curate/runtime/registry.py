"""Registries: mixing methods, laws and output formats by name.

A row holds everything that curate needs about its method, law or format, so adding one takes a file
and a row. Other installed packages add rows through an entry point group::

    [project.entry-points."curate.methods"]
    mine = "my_package:MINE"
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from curate.errors import CurateError, RecipeError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

LISTED_NAMES = 3
"""Most names of a list in a message, where more are counted only."""


class Named(Protocol):
    """A row: anything with a name."""

    @property
    def name(self) -> str:
        """The word that selects this row."""


Row = TypeVar("Row", bound=Named)


class Registry(Mapping[str, Row]):
    """Rows by name: curate's own, then those of other packages in alphabetical order.

    Entry points are read when a name is not among curate's own, or when all rows are listed.
    """

    def __init__(self, kind: str, rows: Iterable[Row], group: str = "") -> None:
        """Start with curate's own rows.

        Args:
            kind: What a row is called in messages, such as "method".
            rows: curate's own, with different names.
            group: Entry point group that other packages register in; empty for none.
        """
        self.kind = kind
        self._rows = {row.name: row for row in rows}
        self._group = group
        self._complete = not group

    def add(self, row: Row) -> None:
        """Register a row for this process.

        Raises:
            RecipeError: A row of that name exists.
        """
        if row.name in self._rows:
            raise RecipeError(f"{self.kind} '{row.name}' is registered twice; rename one")
        self._rows[row.name] = row

    def remove(self, name: str) -> None:
        """Remove a row."""
        del self._rows[name]

    def find(self, name: str, where: str, error: type[CurateError] = RecipeError) -> Row:
        """Return the row of this name.

        Args:
            name: The requested name.
            where: The recipe key or option that holds it, for the message.
            error: Class of the error to raise.

        Raises:
            CurateError: No row has this name; of class `error`, it names the nearest.
        """
        if name not in self:
            raise error(unknown_name(self.kind, name, self, where))
        return self[name]

    def __getitem__(self, name: str) -> Row:
        """Return a row, or raise `KeyError`."""
        if name not in self._rows:
            self._load()
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names, those of other packages last."""
        self._load()
        return iter(self._rows)

    def __len__(self) -> int:
        """Count all rows, those of other packages included."""
        self._load()
        return len(self._rows)

    def _load(self) -> None:
        if not self._complete:
            from importlib.metadata import entry_points  # imports email, sockets and zip files

            self._complete = True
            for point in sorted(entry_points(group=self._group), key=lambda point: point.name):
                self.add(_row_of(point, self.kind))


def _row_of(point: EntryPoint, kind: str) -> Any:
    """Import the row that an entry point names.

    Raises:
        RecipeError: The import fails; the message names the package.
    """
    package = point.dist.name if point.dist is not None else "an installed package"
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"{kind} '{point.name}': {package} offers {point.value}, which cannot be imported "
            f"({error}); repair or uninstall {package}"
        ) from error


def unknown_name(kind: str, name: str, names: Iterable[str], where: str) -> str:
    """Return a message that a name is unknown, with the nearest name and all valid ones.

    Args:
        kind: What is named, such as "method".
        name: The unknown name.
        names: All valid names.
        where: The recipe key or option that holds the name.

    Example:
        >>> unknown_name("method", "natrual", ["natural", "uniform"], "mixture.method")
        "mixture.method: no method is called 'natrual'; did you mean 'natural'? (known: natural, \
uniform)"
    """
    names = list(names)
    hint = nearest_hint(str(name), names)
    return f"{where}: no {kind} is called '{name}'{hint} (known: {', '.join(names)})"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Write a number with its noun, in the plural where there is not exactly one.

    Args:
        number: The number.
        noun: What is counted, one of it.
        plural: Several of it, where that is not the noun with an s: `runs have` for `run has`.

    Example:
        >>> counted(1, "file"), counted(1200, "file")
        ('1 file', '1,200 files')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def list_first(names: Sequence[str], most: int = LISTED_NAMES) -> str:
    """List the first few names for a message, and count the others.

    Example:
        >>> list_first(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def nearest_hint(word: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """Suggest the nearest name as `; did you mean '...'?`, or return an empty string.

    Args:
        word: The unknown name.
        names: All valid names.
        cutoff: Least similarity for a suggestion, from 0 to 1 (`difflib.get_close_matches`).

    Example:
        >>> nearest_hint("budget_token", ["seed", "budget_tokens"])
        "; did you mean 'budget_tokens'?"
    """
    near = difflib.get_close_matches(word, list(names), n=1, cutoff=cutoff)
    return f"; did you mean '{near[0]}'?" if near else ""
