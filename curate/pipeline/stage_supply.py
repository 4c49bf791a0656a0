"""Find the supply of a stage: what it may draw of each domain, after the stages before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from curate.mixture.request import EarlierStage
from curate.plan.uses import Draw, Pool


@dataclass(frozen=True)
class StageDomain:
    """Supply of a stage in one domain."""

    supply_tokens: int
    """Tokens of its drawable documents, each counted once."""
    used_tokens: int
    """Tokens that earlier stages take of these documents, repeats included."""
    draws: tuple[Draw, ...] = ()
    """The documents that earlier stages take."""
    earlier: tuple[EarlierStage, ...] = ()
    """The tokens that earlier stages take of all of the domain."""
    pool: Pool | None = None
    """The documents that the stage's `where` keeps; None without one."""


@dataclass(frozen=True)
class StageSupply:
    """Supply of a stage, by domain."""

    domains: tuple[StageDomain, ...]

    def to_json(self) -> list[Any]:
        """Return all that decides which documents the stage draws, as JSON."""
        return [
            [
                [draw.to_json() for draw in domain.draws],
                None if domain.pool is None else domain.pool.key,
            ]
            for domain in self.domains
        ]
