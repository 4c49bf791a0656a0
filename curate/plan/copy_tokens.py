"""Copy the tokens of pieces from the memory-mapped store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.plan.streams import PAD, Pieces
from curate.runtime.compiled import Pointers, kernel
from curate.tokens.domain import DomainTokens


class TokenCopier:
    """Copies pieces of documents out of the memory-mapped store."""

    def __init__(
        self, domains: Sequence[DomainTokens], pad_id: int = 0, pad_tokens: int = 0
    ) -> None:
        """Prepare to copy pieces whose `domain` is a position in `domains`.

        Args:
            domains: Domains of the token store.
            pad_id: Token that filling (pieces of domain `PAD`) repeats.
            pad_tokens: Tokens of the longest filling.
        """
        self._domains = tuple(domains)  # keeps the maps alive while addresses are used
        self._addresses = np.concatenate([domain.addresses for domain in domains])
        self._tokens = np.concatenate([domain.tokens for domain in domains])
        self._documents = np.array([len(domain) for domain in domains], np.int64)
        self._bases = np.cumsum(self._documents) - self._documents
        self._template = np.empty(0, domains[0].dtype)
        self._filling = np.full(pad_tokens, pad_id, domains[0].dtype)

    def copy(self, pieces: NDArray[Any], out: NDArray[Any]) -> None:
        """Write the tokens of pieces back to back into `out`.

        Args:
            pieces: dtype PIECE.
            out: shape (sum of tokens,), an integer dtype that holds the ids.

        Raises:
            ValueError: A piece reaches outside its domain or document, or `out` has another
                length or is too narrow.
        """
        if len(self._filling):
            filling = pieces["domain"] == PAD
            if filling.any():
                self._copy_filled(pieces, filling, out)
                return
        domains, documents = pieces["domain"], pieces["document"]
        exists = domains < len(self._domains)
        exists[exists] = (documents[exists] >= 0) & (
            documents[exists] < self._documents[domains[exists]]
        )
        if not exists.all():
            raise ValueError(f"piece {int(np.argmin(exists))} is of a document that is not there")
        rows = self._bases[domains] + documents
        starts, tokens = pieces["start"], pieces["tokens"]
        within = (starts >= 0) & (tokens >= 0) & (tokens <= self._tokens[rows] - starts)
        if not within.all():
            raise ValueError(f"piece {int(np.argmin(within))} reaches outside its document")
        if int(tokens.sum()) != len(out):
            raise ValueError(f"pieces of {int(tokens.sum())} tokens for room of {len(out)}")
        # Vocabularies are far below 2^31, so int32 holds the ids of a uint32 store too.
        highest = min(int(np.iinfo(self._template.dtype).max), int(np.iinfo(np.int32).max))
        if out.dtype.kind not in "iu" or np.iinfo(out.dtype).max < highest:
            raise ValueError(f"{self._template.dtype} tokens do not fit into {out.dtype}")
        width = np.uint64(self._template.itemsize)
        addresses = self._addresses[rows] + starts.astype(np.uint64) * width
        sources = Pointers(addresses, self._template.dtype)
        copy_runs(sources, tokens.astype(np.int64), len(pieces), out)

    def _copy_filled(self, pieces: Pieces, filling: NDArray[np.bool_], out: NDArray[Any]) -> None:
        """Copy the documents back to back, then spread them out around the filling.

        Raises:
            ValueError: As `copy`; or a filling is longer than `pad_tokens`.
        """
        tokens = pieces["tokens"].astype(np.int64)
        if int(tokens.sum()) != len(out):
            raise ValueError(f"pieces of {int(tokens.sum())} tokens for room of {len(out)}")
        if np.any(tokens[filling] > len(self._filling)) or np.any(tokens < 0):
            raise ValueError(f"filling is prepared for at most {len(self._filling)} tokens")
        documents = pieces[~filling]
        packed = np.empty(int(documents["tokens"].sum()), out.dtype)
        self.copy(documents, packed)
        out[...] = self._filling[0]
        out[np.repeat(~filling, tokens)] = packed


@kernel
def copy_runs(sources, tokens, pieces, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Copy runs of tokens into one array, back to back.

    Args:
        sources: `Pointers`, shape (pieces,), to the first token of each run.
        tokens: shape (pieces,), int64, length of each run.
        pieces: Number of runs.
        out: shape (sum of tokens,), an integer dtype that holds the ids.
    """
    write = 0
    for piece in range(pieces):
        source = sources[piece]
        for position in range(tokens[piece]):
            out[write + position] = source[position]
        write += tokens[piece]
    return write
