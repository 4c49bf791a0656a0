"""Hold the places that a recipe writes to, which are no sources."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass
class Places:
    """Places that a recipe writes to, real paths or URLs, and paths that a search has left out."""

    output: str = ""
    """The dataset's directory; empty for none."""
    written: frozenset[str] = frozenset()
    """Other places: the cache, and files and directories in `output`, which may hold sources."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Reason for each path that was met and left out."""

    def is_written(self, real: str) -> bool:
        """Whether curate writes this path or a directory above it."""
        while real not in self.written:
            above = os.path.dirname(real)
            if above == real:
                return False
            real = above
        return True
