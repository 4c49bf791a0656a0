"""Name the reasons for which a document is removed, in the order in which they are decided."""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """The fate of a document in curation; one that several reasons fit has the first of them."""

    STAYS = 0
    EXCLUDED = 1
    FILTERED = 2
    CONTAMINATED = 3
    COPY = 4

    @property
    def field(self) -> str:
        """Return the key of the amounts in artifacts."""
        return "copies" if self is Reason.COPY else self.name.lower()


REMOVED_FIELDS = tuple(reason.field for reason in Reason if reason is not Reason.STAYS)
"""Keys of the amounts that curation removed, in the order in which it decides."""
