"""Show text from strangers without letting it act on a terminal or a page.

File names, licences, metadata, recipes and error messages may hold escape sequences that move the
cursor, marks that reverse the direction of writing, line breaks, and Markdown or HTML. The command
line passes all that it prints through `visible`; the dataset card uses `markdown`.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
import unicodedata
from collections.abc import Iterator

MOST_CHARACTERS = 4000
"""Longest message that the command line prints."""

HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Controls, format and direction marks, surrogates, private and unassigned, line separators."""

MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|&~$@:]|(?<=\bwww)\.)", re.IGNORECASE)
"""Characters that Markdown, HTML or automatic links give a meaning inside a line."""

ASCII_MARKS = {
    "✓": "ok", "·": "-", "…": "...", "≈": "~", "±": "+/-", "–": "-", "—": "-", "−": "-", "×": "x",
    "≤": "<=", "≥": ">=", "→": "->", "•": "*", "“": '"', "”": '"', "‘": "'", "’": "'",
}  # fmt: skip
"""Marks of curate's own output, each with its stand-in where the output is not Unicode."""

ENCODING_ERRORS = "curate_marks"


def visible(text: str, keep: str = "") -> str:
    r"""Replace characters that are invisible or act on a terminal by their escapes.

    Args:
        text: Any text.
        keep: Such characters that stay, such as a line break.

    Example:
        >>> visible("a\x1b[31mred\u202e\n")
        'a\\x1b[31mred\\u202e\\n'
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in keep else _escaped(letter) for letter in text
    )


def _escaped(letter: str) -> str:
    if unicodedata.category(letter) not in HIDDEN_CATEGORIES:
        return letter  # a wide or unbreakable space
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return _coded(letter)


def one_line(message: str) -> str:
    """Return a message in one visible line of bounded length."""
    shown = visible(message)
    return shown if len(shown) <= MOST_CHARACTERS else f"{shown[:MOST_CHARACTERS]}…"


def markdown(text: str) -> str:
    r"""Return text that shows as it is, inside a line or a table cell of Markdown.

    Example:
        >>> markdown("MIT | <b>\n# x")
        'MIT \\| \\<b\\>\\\\n\\# x'
    """
    return MARKDOWN.sub(r"\\\1", visible(text))


def tolerate_encodings() -> None:
    """Let standard output and error take any text, whatever their encoding.

    Where it has no check mark or other mark of ours, an ASCII one stands in; other characters are
    written as escapes.
    """
    codecs.register_error(ENCODING_ERRORS, _stand_in)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # absent in notebooks
        if reconfigure is not None:
            reconfigure(errors=ENCODING_ERRORS)


@contextlib.contextmanager
def output_named() -> Iterator[None]:
    """Let errors of writing to standard output name it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(ASCII_MARKS.get(letter) or _coded(letter) for letter in letters), error.end


def _coded(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode()
