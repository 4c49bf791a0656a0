"""Tables of what can be chosen by name: mixing methods, laws, output formats.

A row is everything curate knows about its choice, so adding one takes a file and a row. Packages
that are installed beside curate add rows through an entry point group, without a change here::

    [project.entry-points."curate.methods"]
    mine = "my_package:MINE"
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, TypeVar

from curate.errors import CurateError, RecipeError


class Named(Protocol):
    """A row: anything with a name."""

    @property
    def name(self) -> str:
        """The word that chooses this row."""


Row = TypeVar("Row", bound=Named)


class Registry(Mapping[str, Row]):
    """Rows by name: curate's own, then those of other packages, in the order of their names.

    Other packages are looked for when a name is not curate's, or when all rows are listed.
    """

    def __init__(self, kind: str, rows: Iterable[Row], group: str = "") -> None:
        """Take curate's own rows.

        Args:
            kind: What a row is called in messages, such as "method".
            rows: curate's own; each has a name of its own.
            group: Entry point group that other packages register in; empty for none.
        """
        self.kind = kind
        self._rows = {row.name: row for row in rows}
        self._group = group
        self._complete = not group

    def add(self, row: Row) -> None:
        """Register a row for this process.

        Raises:
            RecipeError: There is one of that name.
        """
        if row.name in self._rows:
            raise RecipeError(f"{self.kind} '{row.name}' is registered twice; rename one")
        self._rows[row.name] = row

    def remove(self, name: str) -> None:
        """Take a row out again."""
        del self._rows[name]

    def find(self, name: str, where: str, error: type[CurateError] = RecipeError) -> Row:
        """Return the row of this name.

        Args:
            name: What was asked for.
            where: The recipe key or option that asks, for the message.
            error: Class of the error.

        Raises:
            CurateError: There is none, of the class `error`; the message names the nearest.
        """
        if name not in self:
            raise error(unknown_name(self.kind, name, self, where))
        return self[name]

    def __getitem__(self, name: str) -> Row:
        """Return a row; KeyError without one."""
        if name not in self._rows:
            self._load()
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        """All names, those of other packages last."""
        self._load()
        return iter(self._rows)

    def __len__(self) -> int:
        """Count rows, those of other packages included."""
        self._load()
        return len(self._rows)

    def _load(self) -> None:
        if not self._complete:
            self._complete = True
            for point in sorted(entry_points(group=self._group), key=lambda point: point.name):
                self.add(_row_of(point, self.kind))


def _row_of(point: EntryPoint, kind: str) -> Row:  # type: ignore[type-var]
    """Import what an entry point names.

    Raises:
        RecipeError: The import fails; the message names the package.
    """
    package = point.dist.name if point.dist is not None else "an installed package"
    try:
        row: Row = point.load()
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"{kind} '{point.name}': {package} offers {point.value}, which cannot be imported "
            f"({error}); mend or uninstall {package}"
        ) from error
    return row


def unknown_name(kind: str, name: str, names: Iterable[str], where: str) -> str:
    """Say in one line that a name is unknown, which one is nearest, and which there are.

    Args:
        kind: What the name should name, such as "method".
        name: What was typed.
        names: All that exist.
        where: The recipe key or option that holds the name.

    Example:
        >>> unknown_name("method", "natrual", ["natural", "uniform"], "mixture.method")
        "mixture.method: no method is called 'natrual'; did you mean 'natural'? (known: natural, \
uniform)"
    """
    names = list(names)
    hint = nearest_hint(str(name), names)
    return f"{where}: no {kind} is called '{name}'{hint} (known: {', '.join(names)})"


def nearest_hint(word: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """Suggest a name: `; did you mean '...'?` where one is near, else nothing.

    Args:
        word: What was typed.
        names: What could have been meant.
        cutoff: Likeness from 0 to 1 (`difflib.get_close_matches`) that counts as near.

    Example:
        >>> nearest_hint("budget_token", ["seed", "budget_tokens"])
        "; did you mean 'budget_tokens'?"
    """
    near = difflib.get_close_matches(word, list(names), n=1, cutoff=cutoff)
    return f"; did you mean '{near[0]}'?" if near else ""
