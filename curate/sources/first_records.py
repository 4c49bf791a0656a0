"""Look at files' first records before any is tokenised, and choose between tables and text."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from curate.errors import InputError
from curate.runtime.registry import counted, list_first
from curate.sources import SegmentReader, segments
from curate.sources.plans import HEAD_BYTES, FilePlan
from curate.sources.records import InputFile, ReadOptions

LOOK_BYTES = 2 << 20
"""Files from this size are looked at, each: that takes less than 1 % of the time to tokenise one.
Of smaller files, only the first of each kind."""

SAMPLED_FILES = 8
"""Small files of a kind that are looked at once the first was at fault."""

LOOKED_AT = ("jsonl", "json_array", "csv")
"""Readers whose files have keys that only their records show."""

MOST_TABLES = 8
"""Most files of records in which a text is sought, where a directory holds loose text, too."""

is_companion = re.compile(
    "|".join(
        map(
            fnmatch.translate,
            (
                "readme*", "license*", "licence*", "copying*", "notice*", "citation*", "changelog*",
                "authors*", "contributing*", "*.md", "*.rst", "*.yaml", "*.yml", "*.toml",
                "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.pdf",
            ),
        )
    ),
    re.IGNORECASE,
).match  # fmt: skip
"""Test for names of files that describe data, and are not meant to be read with it."""

DESCRIPTIONS = frozenset(
    ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"]
)
"""Files of JSON that the Hugging Face libraries write beside tables."""

is_key_fault = re.compile(
    r"no (single )?(field|column) '|.* is \w.*, not an? (string|object)"
).match


@dataclass(frozen=True, slots=True)
class HeadFault:
    """A file whose first records lack the text's key or column."""

    path: str
    size_bytes: int
    reason: str


def head_faults(
    plans: Sequence[FilePlan], begins_well: Callable[[str], bool]
) -> Iterator[HeadFault]:
    """Yield the files whose schema or first records hold no text under the domain's key.

    Every table is judged, by its schema, which was read to cut it. Of other files, those are opened
    that are large, and the first small one of each kind; if it is at fault, a few more of that kind
    stand for all.

    Args:
        plans: The plans of one domain.
        begins_well: Says by the file's key (`FilePlan.keys`) that its first records were read
            before, and none was bad. It is not opened again.
    """
    small: dict[str, list[FilePlan]] = {}
    with closing(SegmentReader()) as reader:

        def look(plan: FilePlan) -> str:
            return "" if begins_well(plan.keys[0]) else _head_fault(plan, reader)

        for plan in plans:
            file = plan.files[0]
            if plan.fault:
                yield HeadFault(file.path, file.size_bytes, plan.fault)
            elif len(plan.files) > 1 or file.size_bytes < LOOK_BYTES:
                if plan.reader in LOOKED_AT:
                    small.setdefault(plan.reader, []).append(plan)
            elif plan.reader in LOOKED_AT and (reason := look(plan)):
                yield HeadFault(file.path, file.size_bytes, reason)
        for of_kind in small.values():
            yield from _small_faults(of_kind, look)


def _small_faults(
    plans: Sequence[FilePlan], look: Callable[[FilePlan], str]
) -> Iterator[HeadFault]:
    """Yield small files of one kind that are at fault, each with its share of the kind's bytes.

    Args:
        plans: Plans of files of one kind.
        look: Explains what is wrong with the first records of a plan's only file; empty if nothing.
    """
    if not look(replace(plans[0], files=plans[0].files[:1])):
        return
    files = [(plan, file) for plan in plans for file in plan.files]
    count = min(len(files), SAMPLED_FILES)
    sample = [files[number * len(files) // count] for number in range(count)]
    size_bytes = sum(file.size_bytes for _, file in files)
    sampled_bytes = sum(file.size_bytes for _, file in sample)
    for plan, file in sample:
        if reason := look(replace(plan, files=(file,))):
            share_bytes = file.size_bytes * size_bytes // max(1, sampled_bytes)
            yield HeadFault(file.path, share_bytes, reason)


def _head_fault(plan: FilePlan, reader: SegmentReader) -> str:
    """Explain why none of a file's first records is a document, if their keys are at fault."""
    for block in reader.read(plan.beginning(HEAD_BYTES)):
        if block.texts or not block.bad:
            return ""
        reason = block.bad[0].reason
        return reason if is_key_fault(reason) else ""
    return ""


def holds_text(file: InputFile, options: ReadOptions) -> bool:
    """Whether the first records of a file give a document."""
    (plan,) = segments([file], options)
    if plan.fault:
        return False
    with closing(SegmentReader()) as reader:
        return any(block.texts for block in reader.read(plan.beginning(HEAD_BYTES)))


def may_be_mixed(files: Sequence[InputFile]) -> bool:
    """Whether there are both records and text, or descriptions; a quick look, for many files."""
    readers = {file.reader for file in files}
    if "text" in readers:
        return len(readers) > 1
    endings = tuple(DESCRIPTIONS)
    return any(file.path.endswith(endings) for file in files)


def loose_files(files: Iterable[InputFile], options: ReadOptions, pattern: str) -> list[InputFile]:
    """Return the files to leave out where one search met tables of text and loose text.

    Args:
        files: What the search found.
        options: The domain's.
        pattern: What was searched for, for messages.

    Raises:
        InputError: Most of the files and of the bytes are text, so that neither can be left out.
    """
    text: list[InputFile] = []
    records: list[InputFile] = []
    described: list[InputFile] = []
    for file in files:
        if file.path.rpartition("/")[2] in DESCRIPTIONS:
            described.append(file)
        else:
            (text if file.reader == "text" else records).append(file)
    if not (text or described) or not records:
        return []
    largest = sorted(records, key=lambda file: (-file.size_bytes, file.path))[:MOST_TABLES]
    if not any(holds_text(file, options) for file in largest):
        return []
    likely = [file for file in text if not is_companion(file.path.rpartition("/")[2])]
    text_bytes, table_bytes = (sum(file.size_bytes for file in kind) for kind in (likely, records))
    if len(likely) > len(records) and text_bytes > table_bytes:
        raise InputError(
            f"'{pattern}' holds {counted(len(records), 'file')} of records ({table_bytes:,} bytes, "
            f"as {records[0].path}) and {len(likely):,} of plain text ({text_bytes:,} bytes, as "
            f"{likely[0].path}); say which to read, as in glob: '*.jsonl' or glob: '*.txt'"
        )
    return text + described


def loose_notice(name: str, left: Sequence[InputFile]) -> str:
    """Say which files were left out beside tables."""
    archives = [file for file in left if file.compression == "refused"]
    texts = [file for file in left if file.compression != "refused"]
    kinds = []
    for kind, files, remedy in (
        ("loose text", texts, "to read it, name the files in paths or set glob"),
        ("what is packed otherwise", archives, "unpack what holds data"),
    ):
        if files:
            size_bytes = sum(file.size_bytes for file in files)
            kinds.append(
                f"{kind} beside tables is not read: {counted(len(files), 'file')}, "
                f"{size_bytes:,} bytes ({list_first([file.path for file in files])}); {remedy}"
            )
    return f"domain '{name}': {'; '.join(kinds)}"
