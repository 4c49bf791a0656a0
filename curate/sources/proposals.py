"""Propose domains for the files of a directory: by subdirectories, names of files, or languages.

A proposal reads well-known layouts: a directory for each source, files named after theirs, a tree
of source code, a download from the Hugging Face hub. Every guess is listed.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from curate.runtime.registry import counted, list_first
from curate.sources.first_records import DESCRIPTIONS, is_companion
from curate.sources.survey import SurveyedFile, TextField, identifying_field, text_fields

MODEL_FILES = frozenset(
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
     "vocab.json", "config.json", "generation_config.json", "package.json", "package-lock.json"]
)  # fmt: skip
"""JSON files of models and tools, which hold no documents."""

HELD_OUT_SPLITS = ("validation", "valid", "val", "dev", "test", "eval")
"""Names of splits that are not for training."""

TEXT_NAMES = ("text", "content", "raw_content", "body", "document", "article", "code", "passage")
"""Usual names of the field with a record's text, the best first."""

RIVAL_SHARE = 0.25
"""A second text field is worth a remark from this share of the first one's mean length."""

SMALL_SHARE = 0.02
"""Kinds of text files with less than this share of the bytes are joined in one domain."""

RECORD_SHARE = 0.1
"""Records with less than this share of the text's bytes are no sources, but data of the code."""

MOST_DOMAINS = 50
"""Most domains that directories or names of files make; more are joined in one."""

CODE_SHARE = 0.5
"""Share of the bytes from which a tree of text files is one of source code."""

SAMPLED_FILES = 3
"""Files of a group that are opened while those before hold no text, or are damaged."""

SAMPLED_GROUPS = 8
"""Groups of file names in a directory whose first file is opened."""

LANGUAGES = {
    ".py": "python", ".pyi": "python", ".ipynb": "notebooks", ".c": "c", ".h": "c", ".cc": "cpp",
    ".cpp": "cpp", ".cxx": "cpp", ".hpp": "cpp", ".hh": "cpp", ".rs": "rust", ".go": "go",
    ".java": "java", ".js": "javascript", ".mjs": "javascript", ".jsx": "javascript",
    ".ts": "typescript", ".tsx": "typescript", ".sh": "shell", ".bash": "shell", ".rb": "ruby",
    ".md": "documentation", ".rst": "documentation", ".tex": "tex", ".html": "html",
    ".htm": "html", ".css": "css", ".sql": "sql", ".r": "r", ".jl": "julia", ".txt": "text",
}  # fmt: skip
"""Domain of a text file by its suffix."""

CODE = frozenset(LANGUAGES.values()) - {"documentation", "text", "tex", "html"}


@dataclass
class ProposedDomain:
    """A domain as the recipe will name it."""

    name: str
    files: list[SurveyedFile]
    patterns: list[str]
    """Paths below the directory that was surveyed."""
    glob: str = "*"
    text: TextField | None = None
    """Field of the text; None for files of plain text."""
    id: str | None = None
    blank_share: float = 0.0
    """Share of the files that the glob matches which hold no text."""
    unsure: list[str] = field(default_factory=list)
    """Guesses, a sentence each."""

    @property
    def size_bytes(self) -> int:
        """Bytes of its files on disk."""
        return sum(file.size_bytes for file in self.files)

    @property
    def reader(self) -> str:
        """Kind of most of its files."""
        return Counter(file.reader for file in self.files).most_common(1)[0][0]


@dataclass
class Proposal:
    """Domains, and what is in none of them."""

    domains: list[ProposedDomain] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Files that are not read, and why, a sentence each."""


def propose(files: Sequence[SurveyedFile], name: str) -> Proposal:
    """Propose domains.

    Args:
        files: The files of a directory, from `survey`.
        name: Name of the directory, for a domain that holds all of it.
    """
    proposal = Proposal()
    kept = _leave_out(files, _fault, proposal)
    if _is_code(kept):
        _by_language(_leave_out(kept, _is_record, proposal), files, proposal)
        _name_apart(proposal.domains)
        return proposal
    if any(map(_is_record, kept)):
        kept = _leave_out(kept, _is_companion, proposal)
    groups = _groups(kept, name)
    if len(groups) > MOST_DOMAINS:
        _propose_group(name, kept, files, proposal)
        for domain in proposal.domains:
            domain.unsure.append(
                f"it joins {len(groups):,} directories or names of files; give a domain to those "
                "that need a share of their own"
            )
    else:
        for group, members in groups.items():
            _propose_group(group, members, files, proposal)
    _name_apart(proposal.domains)
    return proposal


def _leave_out(
    files: Sequence[SurveyedFile], reason_of: Callable[[SurveyedFile], str], proposal: Proposal
) -> list[SurveyedFile]:
    """Return the files that have no reason to be left out, and list the others by theirs."""
    reasons: dict[str, list[str]] = {}
    kept = []
    for file in files:
        reason = reason_of(file)
        if reason:
            reasons.setdefault(reason, []).append(file.name)
        else:
            kept.append(file)
    for reason, names in reasons.items():
        proposal.left_out.append(f"{counted(len(names), 'file')}, {reason}: {list_first(names)}")
    return kept


def _fault(file: SurveyedFile) -> str:
    if not file.is_text:
        return "an archive, or no UTF-8 text"
    if file.is_blank:
        return "without a visible character"
    described = _last(file) in MODEL_FILES or _last(file) in DESCRIPTIONS
    return "describes a model or data" if described else ""


def _is_record(file: SurveyedFile) -> str:
    return "" if file.reader == "text" else "records in a tree of source code"


def _is_companion(file: SurveyedFile) -> str:
    described = file.reader == "text" and is_companion(_last(file))
    return "describes the data beside it" if described else ""


def _last(file: SurveyedFile) -> str:
    return file.name.rpartition("/")[2]


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name, with that of its compression; empty for none.

    Example:
        >>> [suffix_of(name) for name in ("a/wiki.jsonl.zst", "Makefile", ".bashrc", "v1.2.py")]
        ['.jsonl.zst', '', '', '.py']
    """
    last = name.rpartition("/")[2].lstrip(".")
    stem, dot, end = last.rpartition(".")
    if not dot:
        return ""
    before = re.search(r"\.(jsonl?|ndjson|csv|tsv|txt|parquet)$", stem, re.IGNORECASE)
    return f"{before[0] if before else ''}.{end}"


def stem_of(name: str) -> str:
    """Return a file's name without its suffix and the numbers of shards.

    Example:
        >>> names = ("train-00000-of-00010.parquet", "part_3.jsonl.gz", "wiki.jsonl", "007.txt")
        >>> [stem_of(name) for name in names]
        ['train', 'part', 'wiki', '']
    """
    last = name.rpartition("/")[2]
    stem = last.removesuffix(suffix_of(last))
    stem = re.sub(r"[-_.]?\d+[-_.]of[-_.]\d+(?=$|[-_.])", "", stem)
    stem = re.sub(r"([-_.]?(?:part|shard|chunk))?[-_.]?\d+$", r"\1", stem)
    return stem.strip("-_. ")


def _is_code(files: Sequence[SurveyedFile]) -> bool:
    """Return whether files are mostly source code, with few records or none beside it."""
    text = [file for file in files if file.reader == "text"]
    code_bytes = sum(file.size_bytes for file in text if _language(file) in CODE)
    text_bytes = sum(file.size_bytes for file in text)
    if not code_bytes or code_bytes < CODE_SHARE * text_bytes:
        return False
    records = sorted((file for file in files if file.reader != "text"), key=_by_size)
    if sum(file.size_bytes for file in records) < RECORD_SHARE * text_bytes:
        return True
    return not any(map(text_fields, records[:SAMPLED_GROUPS]))


def _by_size(file: SurveyedFile) -> tuple[int, str]:
    return -file.size_bytes, file.name


def _language(file: SurveyedFile) -> str:
    suffix = suffix_of(file.name).lower()
    return LANGUAGES.get(suffix, suffix.lstrip(".") or "other")


def _by_language(
    files: Sequence[SurveyedFile], others: Sequence[SurveyedFile], proposal: Proposal
) -> None:
    """Make a domain of each kind of text file, and one of the small rest."""
    blank = Counter(_kind(file) for file in others if file.is_blank)
    by_kind: dict[str, list[SurveyedFile]] = {}
    for file in files:
        by_kind.setdefault(_language(file), []).append(file)
    total = sum(file.size_bytes for file in files)
    small = [
        kind
        for kind, members in by_kind.items()
        if kind == "other" or sum(m.size_bytes for m in members) < SMALL_SHARE * total
    ]
    rest = [file for kind in small for file in by_kind.pop(kind)]
    sizes = {kind: sum(file.size_bytes for file in members) for kind, members in by_kind.items()}
    for kind in sorted(by_kind, key=lambda kind: (-sizes[kind], kind)):
        domain = _of_suffixes(kind, by_kind[kind])
        lost = sum(blank[one] for one in {_kind(file) for file in domain.files})
        domain.blank_share = lost / (lost + len(domain.files))
        proposal.domains.append(domain)
    spoilt = [file.name for file in rest if blank[_kind(file)]]
    if spoilt:  # a glob would match the blank ones, too
        proposal.left_out.append(
            f"{counted(len(spoilt), 'file')} named like others without a visible character: "
            f"{list_first(spoilt)}"
        )
        rest = [file for file in rest if not blank[_kind(file)]]
    if rest:
        domain = _of_suffixes("other", rest)
        kinds = sorted({_kind(file) for file in rest})
        domain.unsure.append(f"it joins all kinds of little text: {list_first(kinds, 8)}")
        proposal.domains.append(domain)


def _kind(file: SurveyedFile) -> str:
    """Return a file's suffix, or its name if it has none."""
    return suffix_of(file.name) or _last(file)


def _of_suffixes(name: str, files: list[SurveyedFile]) -> ProposedDomain:
    """Make a domain of the files with some suffixes, wherever they are."""
    suffixes = {suffix_of(file.name) for file in files}
    names = {_last(file) for file in files if not suffix_of(file.name)}
    globs = sorted(f"*{suffix}" for suffix in suffixes - {""}) + sorted(map(_literal, names))
    return ProposedDomain(name, files, [""], glob=",".join(globs))


def _literal(name: str) -> str:
    """Write a name as a glob that matches it alone; a comma, which parts globs, as any one."""
    return re.sub(r"([*?[])", r"[\1]", name).replace(",", "?")


def _groups(files: Sequence[SurveyedFile], name: str) -> dict[str, list[SurveyedFile]]:
    """Group files by the first directory in which they differ, or by their names."""
    if not files:
        return {}
    depth = 0
    parts = [file.name.split("/") for file in files]
    while len({tuple(one[: depth + 1]) for one in parts}) == 1 and min(map(len, parts)) > depth + 1:
        depth += 1
    folders = {one[depth] for one in parts if len(one) > depth + 1}
    if len(folders) > 2 and len({_pattern_of(folder) for folder in folders}) == 1:
        return {name: list(files)}  # partitions, such as dates or numbers
    folders -= {folder for folder in folders if folder.lower() in HELD_OUT_SPLITS + ("train",)}
    groups: dict[str, list[SurveyedFile]] = {}
    for file, one in zip(files, parts, strict=True):
        is_loose = len(one) == depth + 1 or one[depth] not in folders
        group = _loose_group(file, name) if is_loose else one[depth]
        groups.setdefault(group, []).append(file)
    return groups


def _loose_group(file: SurveyedFile, name: str) -> str:
    """Return the domain of a file that no subdirectory names."""
    stem = stem_of(file.name)
    if file.reader == "text":
        return f"{name}-text"
    is_plain = stem.lower() in ("", "train", "data", "part", "shard", "chunk", *HELD_OUT_SPLITS)
    return name if is_plain else stem


def _pattern_of(folder: str) -> str:
    """Return a directory's name with its numbers taken out.

    Example:
        >>> _pattern_of("2024-05") == _pattern_of("2023-11"), _pattern_of("lang=de")
        (True, 'lang=*')
    """
    key, equals, _ = folder.partition("=")
    return f"{key}=*" if equals else re.sub(r"\d+", "#", folder)


def _propose_group(
    name: str, members: list[SurveyedFile], others: Sequence[SurveyedFile], proposal: Proposal
) -> None:
    """Make a domain of a group, or two where it has records and text."""
    records = [file for file in members if file.reader != "text"]
    text = [file for file in members if file.reader == "text"]
    records = _without_held_out(name, records, proposal)
    if records:
        _propose_records(name, records, others, proposal)
    if text:
        apart = f"{name}-text" if records else name
        domain = ProposedDomain(apart, text, *_patterns(text, others))
        if records:
            domain.unsure.append(f"it is loose text beside the records of '{name}'")
        proposal.domains.append(domain)


def _without_held_out(
    name: str, files: list[SurveyedFile], proposal: Proposal
) -> list[SurveyedFile]:
    """Leave out the splits for validation and tests where there is one for training."""
    by_split: dict[str, list[SurveyedFile]] = {}
    for file in files:
        words = [stem_of(file.name).lower(), *file.name.lower().split("/")[:-1]]
        split = next((word for word in words if word in HELD_OUT_SPLITS), "")
        by_split.setdefault(split, []).append(file)
    if "" not in by_split:
        return files
    for split, members in by_split.items():
        if split:
            names = list_first([file.name for file in members])
            proposal.left_out.append(
                f"{counted(len(members), 'file')} of '{name}', named as a split for {split}: "
                f"{names}"
            )
    return by_split[""]


def _propose_records(
    name: str, files: list[SurveyedFile], others: Sequence[SurveyedFile], proposal: Proposal
) -> None:
    """Choose the field of the text, and leave out files that lack it."""
    by_stem: dict[str, list[SurveyedFile]] = {}
    for file in files:
        by_stem.setdefault(stem_of(file.name), []).append(file)
    # Partitions may have names of every kind, so only the largest groups are opened.
    order = sorted(by_stem, key=lambda stem: -sum(file.size_bytes for file in by_stem[stem]))
    samples = {stem: _sample(by_stem[stem]) for stem in order[:SAMPLED_GROUPS]}
    fields = {stem: described for stem, (_, described) in samples.items()}
    ranked = {stem: rank(described) for stem, described in fields.items()}
    first = next((stem for stem in ranked if ranked[stem]), None)
    if first is None:
        proposal.left_out.append(
            f"{counted(len(files), 'file')} of '{name}', without a field of text: "
            f"{list_first([file.name for file in files])}"
        )
        return
    text = ranked[first][0]
    lacking = [stem for stem in fields if all(one.name != text.name for one in fields[stem])]
    kept = [file for stem, group in by_stem.items() if stem not in lacking for file in group]
    for stem in lacking:
        names = list_first([file.name for file in by_stem[stem]])
        proposal.left_out.append(f"files of '{name}' without the field '{text.name}': {names}")
    domain = ProposedDomain(name, kept, *_patterns(kept, others), text=text)
    domain.id = identifying_field(samples[first][0], text.name)
    rivals = [one for one in ranked[first][1:] if one.mean_characters
              >= RIVAL_SHARE * text.mean_characters]  # fmt: skip
    if rivals:
        described = list_first([f"'{one.name}' ({one.mean_characters:,.0f})" for one in rivals])
        domain.unsure.append(
            f"the text may be in another field: '{text.name}' has {text.mean_characters:,.0f} "
            f"characters on average, {described}"
        )
    if text.share < 1:
        domain.unsure.append(
            f"only {text.share:.0%} of the first records have text there, and curate plan stops "
            "where a domain loses more than limits.lost_share, 1%"
        )
    if domain.id is None:
        domain.unsure.append("no field identifies a record, so a hash of its text does")
    proposal.domains.append(domain)


def _sample(files: Sequence[SurveyedFile]) -> tuple[SurveyedFile, list[TextField]]:
    """Return the first file whose records hold text, and the fields of it; a few are opened."""
    for file in files[:SAMPLED_FILES]:
        fields = text_fields(file)
        if fields:
            return file, fields
    return files[0], []


def rank(fields: Iterable[TextField]) -> list[TextField]:
    """Order text fields: usual names first, then by length.

    Example:
        >>> fields = [TextField("summary", 80, 1, ""), TextField("story", 900, 1, "")]
        >>> [field.name for field in rank(fields)]
        ['story', 'summary']
    """

    def order(one: TextField) -> tuple[int, float]:
        last = one.name.rpartition(".")[2].lower()
        usual = TEXT_NAMES.index(last) if last in TEXT_NAMES else len(TEXT_NAMES)
        return usual, -one.mean_characters * one.share

    return sorted(fields, key=order)


def _patterns(files: list[SurveyedFile], others: Sequence[SurveyedFile]) -> tuple[list[str], str]:
    """Return paths and a glob that name these files, and none of the others.

    Args:
        files: Files of a domain.
        others: All files of the directory, these included.
    """
    names = {file.name for file in files}
    folder = _common_folder([file.name for file in files])
    suffixes = {suffix_of(name) for name in names}
    stems = {stem_of(name) for name in names}
    candidates = ["*"]
    if "" not in suffixes:
        by_suffix = ",".join(sorted(f"*{suffix}" for suffix in suffixes))
        # Text is named by its suffixes, so that a recipe which is written there is not read.
        is_text = all(file.reader == "text" for file in files)
        candidates.insert(0 if is_text and len(suffixes) <= SAMPLED_GROUPS else 1, by_suffix)
        if "" not in stems and len(stems) <= SAMPLED_GROUPS:
            globs = sorted(f"{_literal(stem)}*{suffix}" for stem in stems for suffix in suffixes)
            candidates.append(",".join(globs))
    below = [file.name for file in others if file.name.startswith(folder)]
    is_flat = all("/" not in name.removeprefix(folder) for name in names)
    has_folders = any("/" in name.removeprefix(folder) for name in below)
    if is_flat and has_folders:  # a directory would be searched with all folders below it
        below = [name for name in below if "/" not in name.removeprefix(folder)]
        candidates.remove("*")  # which names the folders, too
    for globs_text in candidates if len(names) > 1 or not is_flat else ():
        globs = globs_text.split(",")
        matched = {
            name
            for name in below
            if any(fnmatch.fnmatchcase(name.rpartition("/")[2], one) for one in globs)
        }
        if matched == names:
            if is_flat and has_folders:
                return [f"{folder}{one}" for one in globs], "*"
            return [folder], globs_text
    folders = sorted({name.rpartition("/")[0] for name in names})
    whole = [f"{one}/" for one in folders if one and _holds_only(one, names, others)]
    rest = sorted(name for name in names if not any(name.startswith(one) for one in whole))
    return [*whole, *rest], "*"


def _holds_only(folder: str, names: set[str], others: Sequence[SurveyedFile]) -> bool:
    return all(file.name in names for file in others if file.name.startswith(f"{folder}/"))


def _common_folder(names: Sequence[str]) -> str:
    """Return the folder that all names are in, with a slash at its end; empty for the top."""
    folders = [name.split("/")[:-1] for name in names]
    common = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "".join(f"{part}/" for part in common)


def _name_apart(domains: Sequence[ProposedDomain]) -> None:
    """Give each domain a name that a recipe allows, and that no other has."""
    taken: set[str] = set()
    for domain in domains:
        name = valid_name(domain.name)
        number = 2
        unique = name
        while unique.lower() in taken:
            unique = f"{name[:95]}-{number}"
            number += 1
        taken.add(unique.lower())
        domain.name = unique


def valid_name(text: str) -> str:
    """Turn a text into a name that a recipe allows.

    Example:
        >>> valid_name("my data (1)"), valid_name("…")
        ('my-data-1', 'data')
    """
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-._+")
    return name[:100] or "data"
