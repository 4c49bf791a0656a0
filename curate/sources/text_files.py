"""Read plain text: each file is a document, its name the identifier. Empty files are bad records.

Since the identifier comes from the file's name, results made from a segment are stored under
`InputFile.name` as well as under the content hash.
"""

from __future__ import annotations

from collections.abc import Iterator

from curate.sources.decompress.open import CHUNK_BYTES, StreamDamage, open_stream
from curate.sources.documents import EMPTY_DOCUMENT, excerpt, has_content, too_large
from curate.sources.identities import check_unchanged, read_each
from curate.sources.records import BLOCK_BYTES, BadRecord, DocumentBlock, InputFile, Segment

EXCERPT_LEAD_BYTES = 40
"""Bytes shown before a byte that is not UTF-8."""

NOT_TEXT_MAGIC = {
    b"%PDF-": "a PDF file: extract its text first",
    b"{\\rtf": "a file of rich text (RTF): convert it first",
    b"WARC/": "a WARC file of web pages: extract their text first",
    b"version https://git-lfs": "a pointer of Git LFS: type git lfs pull",
}
"""Beginnings of files that could pass for text, and what to do with them."""


class TextReader:
    """Reads groups of files."""

    def read(self, segment: Segment, keep_metadata: bool) -> Iterator[DocumentBlock]:
        """Read a document from each file, in blocks of about `BLOCK_BYTES`."""
        block = DocumentBlock(metadata=[] if keep_metadata else None)
        limit_bytes = segment.options.record_bytes
        whole = [file for file in segment.files if is_plain(file, limit_bytes)]
        reads = read_each(whole)
        for index, file in enumerate(segment.files):
            if block.raw_bytes >= BLOCK_BYTES:
                yield block
                block = DocumentBlock(metadata=[] if keep_metadata else None)
            block.lines_read += 1
            data = b""
            try:
                if is_plain(file, limit_bytes):
                    data = next(reads)()
                else:
                    data = _unpacked(file, limit_bytes)
                if len(data) > limit_bytes:
                    reason = too_large(limit_bytes)
                    unread_bytes = max(0, file.size_bytes - len(data))
                    block.bad.append(
                        BadRecord(index, 1, reason, excerpt(data), unread_bytes=unread_bytes)
                    )
                    continue
                text = data.decode("utf-8").removeprefix("\ufeff")
                if reason := _not_text(data):
                    block.bad.append(BadRecord(index, 1, reason, excerpt(data)))
                    continue
            except StreamDamage as damage:
                block.bad.append(BadRecord(index, 0, str(damage)))
                continue
            except UnicodeDecodeError as error:
                reason = f"not UTF-8 at byte {error.start} (0x{data[error.start]:02x})"
                around = data[max(0, error.start - EXCERPT_LEAD_BYTES) :]
                block.bad.append(BadRecord(index, 1, reason, excerpt(around)))
                continue
            finally:
                block.raw_bytes += len(data)
            if not has_content(text):
                block.bad.append(BadRecord(index, 1, EMPTY_DOCUMENT, excerpt(text)))
                continue
            block.texts.append(text)
            block.ids.append(file.name)
            block.files.append(index)
            block.lines.append(1)
            if block.metadata is not None:
                block.metadata.append({})
        block.end_of_file = True
        yield block

    def close(self) -> None:
        """Nothing stays open between segments."""


def _not_text(data: bytes) -> str:
    """Say what a file is that decodes as UTF-8, but is no plain text; else empty.

    A NUL byte tells archives (tar), databases and UTF-16 from text, as it does for git and grep.
    """
    position = data.find(0)
    if position >= 0:
        return (
            f"not plain text: a NUL at byte {position}, as in archives (tar), databases or UTF-16"
        )
    kinds = (kind for magic, kind in NOT_TEXT_MAGIC.items() if data.startswith(magic))
    return next(kinds, "")


def is_plain(file: InputFile, limit_bytes: int) -> bool:
    """Whether a file's bytes are its text, and not too many."""
    return file.compression == "plain" and file.size_bytes <= limit_bytes


def _unpacked(file: InputFile, limit_bytes: int) -> bytes:
    """Read the decompressed content of a file, or a little more than the limit."""
    with open_stream(file.path, file.size_bytes, file.status) as stream:
        pieces: list[bytes] = []
        try:
            while stream.position <= limit_bytes and (piece := stream.read(CHUNK_BYTES)):
                pieces.append(piece)
            return b"".join(pieces)
        finally:  # after damage too, which may come from a change to the file
            check_unchanged(file)
