"""Copy the tokens of pieces from the memory-mapped store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.plan.streams import PAD, Pieces
from curate.runtime.compiled import Pointers, kernel
from curate.runtime.memory import maps_too_much, scattered_blocks
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
        self._dtype = domains[0].dtype
        self._documents = np.array([len(domain) for domain in domains], np.int64)
        self._token_starts = Pointers.to([domain.token_start for domain in domains])
        self._tokens = Pointers.to([domain.tokens for domain in domains])
        self._entries = Pointers.to([domain.entries for domain in domains])
        self._bases = Pointers.to([domain.entry_bases for domain in domains])
        self._table_bytes = sum(
            domain.token_start.nbytes + domain.tokens.nbytes + domain.entries.nbytes
            for domain in domains
        )
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
        tokens = pieces["tokens"].astype(np.int64)
        addresses = self._locate(pieces, tokens)
        if int(tokens.sum()) != len(out):
            raise ValueError(f"pieces of {int(tokens.sum())} tokens for room of {len(out)}")
        # Vocabularies are far below 2^31, so int32 holds the ids of a uint32 store too.
        highest = min(int(np.iinfo(self._dtype).max), int(np.iinfo(np.int32).max))
        if out.dtype.kind not in "iu" or np.iinfo(out.dtype).max < highest:
            raise ValueError(f"{self._dtype} tokens do not fit into {out.dtype}")
        places = np.cumsum(tokens) - tokens
        if maps_too_much():  # in the order of their places in the store, to read each page once
            order = np.argsort(addresses, kind="stable")
            addresses, tokens, places = addresses[order], tokens[order], places[order]
        for rows in scattered_blocks(len(pieces)):
            sources = Pointers(addresses[rows], self._dtype)
            copy_runs(sources, tokens[rows], places[rows], rows.stop - rows.start, out)

    def _locate(self, pieces: Pieces, tokens: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the address of each piece's first token.

        Raises:
            ValueError: A piece is outside of its domain or document.
        """
        columns = [pieces[name].astype(np.int64) for name in ("domain", "document", "start")]
        order = None
        if maps_too_much(self._table_bytes):
            order = np.lexsort((columns[1], columns[0]))
            columns = [column[order] for column in columns]
            tokens = tokens[order]
        addresses = np.empty(len(pieces), np.uint64)
        for rows in scattered_blocks(len(pieces), self._table_bytes):
            count = rows.stop - rows.start
            domains, documents, starts = (column[rows] for column in columns)
            located = _locate_pieces(
                domains, documents, starts, tokens[rows], count, self._documents,
                len(self._domains), self._token_starts, self._tokens, self._entries, self._bases,
                self._dtype.itemsize, addresses[rows],
            )  # fmt: skip
            if located != count:
                piece = rows.start + (located if located >= 0 else -located - 1)
                piece = piece if order is None else int(order[piece])
                reason = "is of a document that is not there"
                if located >= 0:
                    reason = "reaches outside its document"
                raise ValueError(f"piece {piece} {reason}")
        if order is None:
            return addresses
        placed = np.empty_like(addresses)
        placed[order] = addresses
        return placed

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
def _locate_pieces(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    domains, documents, starts, tokens, pieces, sizes, size_count,  # noqa: ANN001
    token_starts, document_tokens, entries, bases, width, addresses,  # noqa: ANN001
):  # fmt: skip
    """Fill in the addresses of pieces, and return their number.

    The first piece that reaches outside its document ends this with its number; the first whose
    document does not exist, with -1 less its number.
    """
    for number in range(pieces):
        domain, document = domains[number], documents[number]
        if domain >= size_count or document < 0 or document >= sizes[domain]:
            return -1 - number
        start, length = starts[number], tokens[number]
        if start < 0 or length < 0 or length > document_tokens[domain][document] - start:
            return number
        first = token_starts[domain][document] + start
        base = bases[domain][entries[domain][document]]
        addresses[number] = base + np.uint64(first * width)
    return pieces


@kernel
def copy_runs(sources, tokens, places, pieces, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Copy runs of tokens into one array.

    Args:
        sources: `Pointers`, shape (pieces,), to the first token of each run.
        tokens: shape (pieces,), int64, length of each run.
        places: shape (pieces,), int64, where each run begins in `out`.
        pieces: Number of runs.
        out: shape (tokens,), an integer dtype that holds the ids.
    """
    for piece in range(pieces):
        source, place = sources[piece], places[piece]
        for position in range(tokens[piece]):
            out[place + position] = source[position]
    return pieces
