"""The lines of a CSV file, with a limit to what one record may hold in memory.

`csv.reader` takes lines one by one and shows nothing of a record before its end. So that no line
costs a call in Python, it is given whole pieces of the file; only a record that is above the limit
is walked through character by character, to find where the next one begins.
"""

from __future__ import annotations

import codecs
import io
import itertools
import re
from collections.abc import Callable, Iterator

from curate.sources.decompress.open import CHUNK_BYTES, ByteStream

count_line_ends = re.compile("\r\n|\r|\n").findall


def last_line_start(text: str) -> int:
    """Return the place behind the last line end, or 0 if there is none."""
    return max(text.rfind("\n"), text.rfind("\r")) + 1


def whole_lines_end(text: str) -> int:
    r"""Return the end of the whole lines in a piece of text, or 0 if it holds none.

    A return at the end may be half of a line end.

    Example:
        >>> whole_lines_end("a\nb\n"), whole_lines_end("a\rb\r"), whole_lines_end("a")
        (4, 2, 0)
    """
    return last_line_start(text.removesuffix("\r"))


class RecordTooLarge(Exception):  # noqa: N818 - the reader counts the record, and goes on
    """The record under way is above the limit; `CsvText.skip_record` finds its end."""


class RecordEnd:
    """Finds the end of a record in pieces of its text (RFC 4180, as `csv.reader` reads it)."""

    def __init__(self, delimiter: str, is_quoted: bool) -> None:
        """Start at a record's beginning, or inside a quoted field of it."""
        self._delimiter = delimiter
        self._find = re.compile(f"[{re.escape(delimiter)}\r\n]").search
        self._state = "quoted" if is_quoted else "start"

    def find(self, text: str) -> int | None:
        """Return the place behind the record's line end, or None if `text` ends before."""
        at = 0
        while at < len(text):
            if self._state == "quoted":
                quote = text.find('"', at)
                at = quote + 1 if quote >= 0 else len(text)
                self._state = "quote" if quote >= 0 else "quoted"
                continue
            mark = text[at]
            if mark == '"' and self._state in ("start", "quote"):
                self._state, at = "quoted", at + 1
                continue
            end = self._find(text, at)
            if end is None:
                self._state = "field"
                return None
            at = end.end()
            if end.group() != self._delimiter:
                return at + (text[at - 1 : at + 1] == "\r\n")
            self._state = "start"
        return None


class CsvText:
    """Pieces of whole lines, as files for `itertools.chain.from_iterable`."""

    def __init__(self, stream: ByteStream, limit_bytes: int) -> None:
        """Read from the start of `stream`."""
        self._stream = stream
        self._limit_bytes = limit_bytes
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._rest: list[str] = []
        """Pieces of the last line, whose end has not been read."""
        self._ready = ""
        """Whole lines to hand out next."""
        self._piece = io.StringIO()
        self._record_line = -1
        self._record_characters = 0
        self.record_under_way: Callable[[], int] = lambda: -1
        """Returns the first line of the record that `csv.reader` has begun, or -1 between two."""
        self.is_first = True

    def __iter__(self) -> Iterator[io.StringIO]:
        """Iterate over the pieces."""
        return self

    def __next__(self) -> io.StringIO:
        """Return the next piece.

        Raises:
            RecordTooLarge: The record under way is above the limit.
            StreamDamage: After the whole lines before the damage.
        """
        line = self.record_under_way()
        if line < 0 or line != self._record_line:
            self._record_line, self._record_characters = line, 0
        else:  # all of the last piece belonged to it
            self._record_characters += len(self._piece.getvalue())
            if self._record_characters > self._limit_bytes:
                raise RecordTooLarge
        text, self._ready = self._ready or self._whole_lines(), ""
        if not text:
            raise StopIteration
        self._piece = io.StringIO(text, newline="")
        return self._piece

    def lines(self) -> Iterator[str]:
        """Iterate over the lines that have not been taken."""
        return itertools.chain.from_iterable(itertools.chain([self._piece], self))

    def _whole_lines(self) -> str:
        """Read to the end of a line at least; at the file's end return the rest."""
        rest_characters = sum(map(len, self._rest))
        while text := self._read():
            if cut := whole_lines_end(text):
                lines = "".join([*self._rest, text[:cut]])
                self._rest = [text[cut:]]
                return lines
            self._rest.append(text)
            rest_characters += len(text)
            if rest_characters > self._limit_bytes:
                raise RecordTooLarge
        lines, self._rest = "".join(self._rest), []
        return lines

    def _read(self) -> str:
        """Decode the next bytes; empty at the end of the file."""
        text = ""
        while not text:
            data = self._stream.read(CHUNK_BYTES)
            text = self._decode(data, final=not data)
            if not data:
                break
        if self.is_first and text:
            text, self.is_first = text.removeprefix("\ufeff"), False
        return text

    def line_before(self) -> int:
        """Return where in the current piece the line begins that was taken last."""
        taken = self._piece.getvalue()[: self._piece.tell()]
        return last_line_start(taken.rstrip("\r\n"))

    def place(self) -> int:
        """Return the place in the current piece behind the lines taken."""
        return self._piece.tell()

    def skip_record(self, start: int, end_of: RecordEnd) -> int:
        """Pass the rest of a record, and return the number of its line ends there.

        Args:
            start: Where in the current piece to go on.
            end_of: Finds the end, from there.
        """
        pending = [self._piece.getvalue()[start:], self._ready, *self._rest]
        self._rest, lines = [], 0
        while pending or (text := self._read()):
            text = pending.pop(0) if pending else text
            end = end_of.find(text)
            lines += len(count_line_ends(text[:end]))
            if end is not None:
                following = "".join([text[end:], *pending])
                cut = whole_lines_end(following)
                self._ready, self._rest = following[:cut], [following[cut:]]
                break
        self._piece = io.StringIO()
        return lines
