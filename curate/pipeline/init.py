"""The `init` command: write a first recipe for the files of a directory.

The recipe says by its comments what was guessed. It is read back before it is written, so that
`curate plan` accepts it as far as the text allows.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from curate.errors import InputError, RecipeError, TokenizerError
from curate.recipe import parse
from curate.recipe.effective import PLAIN
from curate.recipe.structs import LimitsRecipe
from curate.recipe.text import read_yaml
from curate.runtime.escape import one_line
from curate.runtime.files import atomic_path, read_small
from curate.runtime.machine import raise_fault
from curate.runtime.registry import counted, list_first
from curate.runtime.tabular import Row, Tabular
from curate.sources.proposals import Proposal, ProposedDomain, propose, valid_name
from curate.sources.remote import name_filter
from curate.sources.survey import survey
from curate.tokens import tokenizer as tokenizers

TOKENIZER = "tokenizer.json"
CARD = "README.md"
URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""Beginning of a URL, whose second slash a path does not keep."""

CARD_BYTES = 1 << 20

END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
"""Usual end tokens of pretraining, the most usual first."""

BYTES_PER_TOKEN = 4
"""Bytes of text for a token, of English text and usual vocabularies."""

EXPANSION = {"parquet": 2.0}
"""Guessed bytes of text for a byte on disk, by reader; 1 for others."""

COMPRESSED = 3.0
"""Guessed bytes of text for a compressed byte."""

VOCABULARIES = {
    100_000_000: 32_768, 20_000_000: 16_384, 2_000_000: 4_096, 200_000: 1_024, 20_000: 300,
}  # fmt: skip
"""Sizes of a vocabulary to train, by the bytes of text from which each is taken."""

LEAST_VOCABULARY = 260

MAX_EPOCHS = 4
"""Up to four passes repeat text at little loss (Muennighoff et al. 2023, arXiv:2305.16264)."""

EXAMPLE_CHARACTERS = 60


class InitResult(Tabular, msgspec.Struct, frozen=True):
    """A recipe that was written."""

    path: str
    """The recipe."""
    domains: tuple[str, ...]
    """Names of its domains."""
    unsure: tuple[str, ...]
    """Guesses that should be checked, a sentence each."""
    left_out: tuple[str, ...]
    """Files in no domain, and why, a sentence each."""
    text: str
    """Text of the recipe."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that the command prints with `--json`."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields

    def rows(self) -> list[Row]:
        """Return one row for each domain, guess and file left out, with its `kind`."""
        kinds = {"domain": self.domains, "unsure": self.unsure, "not read": self.left_out}
        return [{"kind": kind, "what": line} for kind, lines in kinds.items() for line in lines]


@dataclass(frozen=True)
class _Guess:
    """A line of the recipe, and what is unsure about it."""

    line: str
    unsure: str


def init(directory: Path, recipe: Path | None) -> InitResult:
    """Look at a directory and write a recipe for it.

    Args:
        directory: Directory of text.
        recipe: Where to write; None: `<name of the directory>.yaml` in the current directory.

    Raises:
        InputError: The directory holds no text, or the recipe exists.
    """
    if URL.match(str(directory)) and not directory.exists():
        raise InputError(f"{directory}: init looks at directories of this machine only")
    name = valid_name(_directory_name(directory))
    path = recipe or Path(f"{name}.yaml")
    _refuse_existing(path)
    files, skipped = survey(directory)
    proposal = propose(files, name)
    proposal.left_out += _grouped(skipped, directory)
    if not proposal.domains:
        reasons = "; ".join(proposal.left_out) or "it holds no file"
        raise InputError(f"{directory}: no text to make domains of: {reasons}")
    reader = _domain_reading(path, directory, proposal.domains)
    if reader is not None:  # the recipe must not become text
        outside = directory.resolve().parent / f"{name}.yaml"
        if recipe is not None:
            raise InputError(
                f"{path}: domain '{reader}' would read the recipe as text; write it elsewhere, as "
                f"in --recipe {outside}"
            )
        path = outside
        _refuse_existing(path)
    base = path.resolve().parent
    text_bytes = sum(map(_text_bytes, proposal.domains))
    tokenizer = _tokenizer(directory, base, text_bytes)
    budget = _budget(text_bytes)
    text = _recipe_text(
        name, proposal, (tokenizer, budget), _Writer(directory, base, _license(directory))
    )
    try:
        parse(text, base, source=str(path))
    except RecipeError as error:  # names of files that YAML or the recipe cannot hold
        raise InputError(f"{directory}: no recipe can name these files ({error})") from error
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")
    unsure = [f"'{domain.name}': {one}" for domain in proposal.domains for one in domain.unsure]
    return InitResult(
        path=str(path),
        domains=tuple(domain.name for domain in proposal.domains),
        unsure=(*unsure, tokenizer.unsure, budget.unsure),
        left_out=tuple(proposal.left_out),
        text=text,
    )


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise InputError(
            f"{path}: exists, and init overwrites nothing; name another file, as in "
            f"--recipe {path.stem}-2.yaml"
        )


def _domain_reading(path: Path, directory: Path, domains: Sequence[ProposedDomain]) -> str | None:
    """Return the name of the domain whose patterns match a file; None if there is none."""
    file, root = path.resolve(), directory.resolve()
    for domain in domains:
        for pattern in domain.patterns:
            place = (root / pattern).resolve()
            if place.is_dir():
                fits = name_filter(domain.glob)
                is_read = file.is_relative_to(place) and bool(fits(file.name))
            else:
                is_read = fnmatch.fnmatchcase(str(file), str(root / pattern))
            if is_read:
                return domain.name
    return None


def _directory_name(directory: Path) -> str:
    """Return a directory's name; of a snapshot in the hub's cache, that of its repository."""
    real = Path(os.path.realpath(directory))
    repository = real.parents[1].name if len(real.parents) > 1 else ""
    if real.parent.name == "snapshots" and repository.startswith("datasets--"):
        return repository.rpartition("--")[2]
    return real.name


def _grouped(skipped: dict[str, str], directory: Path) -> list[str]:
    """Say what the search for files left out, reason by reason."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in skipped.items():
        by_reason.setdefault(reason, []).append(os.path.relpath(path, directory))
    return [
        f"{counted(len(paths), 'path')}, {reason}: {list_first(paths)}"
        for reason, paths in by_reason.items()
    ]


def _text_bytes(domain: ProposedDomain) -> float:
    """Estimate the bytes of text of a domain from its files' sizes."""
    return sum(
        file.size_bytes * (EXPANSION.get(file.reader, 1.0) if file.compression == "plain"
                           else COMPRESSED)
        for file in domain.files
    )  # fmt: skip


def _budget(text_bytes: float) -> _Guess:
    """Guess about as many tokens as the text has, rounded down to one digit."""
    tokens = max(1, int(text_bytes / BYTES_PER_TOKEN))
    unit = int(10 ** (len(str(tokens)) - 1))
    budget = tokens // unit * unit
    return _Guess(
        f"budget_tokens: {budget:_}",
        f"budget_tokens: {budget:,} is a guess from {_size(text_bytes)} of text at "
        f"{BYTES_PER_TOKEN} bytes a token; curate plan says how many passes it takes",
    )


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:,.1f} kB"


def _tokenizer(directory: Path, base: Path, text_bytes: float) -> _Guess:
    """Take a tokenizer.json in or above the directory, or beside the recipe; else train one."""
    real = directory.resolve()
    places = dict.fromkeys([real, *list(real.parents)[:2], base])
    for place in places:
        path = place / TOKENIZER
        if path.is_file():
            eos, doubt = _end_token(path)
            if doubt and eos is None:
                return _trained(text_bytes, doubt)
            shown = _relative(path, base)
            line = f"tokenizer: {{path: {json.dumps(shown)}, eos: {json.dumps(eos)}}}"
            return _Guess(line, f"{shown} lies nearby, so it is taken; {doubt}")
    return _trained(text_bytes, "no tokenizer.json is in, above or beside the directory")


def _trained(text_bytes: float, reason: str) -> _Guess:
    size = next((size for least, size in VOCABULARIES.items() if text_bytes >= least), None)
    line = f"tokenizer: {{train: {{vocab_size: {size or LEAST_VOCABULARY}}}}}"
    return _Guess(
        line,
        f"{reason}: one is trained on this text. For a model that exists, name its file and end "
        'token, as in tokenizer: {path: tokenizer.json, eos: "<|endoftext|>"}',
    )


def _end_token(path: Path) -> tuple[str | None, str]:
    """Return a tokenizer's end token, and how it was chosen; None with the reason it is unfit."""
    try:
        special = tokenizers.load(path, None).special_tokens
    except TokenizerError as error:
        return None, f"it cannot be used ({error})"
    stated = _stated_end_token(path.with_name("tokenizer_config.json"))
    if stated in END_TOKENS and stated in special:
        return stated, f"its tokenizer_config.json names '{stated}' as the end token"
    usual = next((token for token in END_TOKENS if token in special), None)
    if usual is not None:
        rival = f"; its tokenizer_config.json names '{stated}', which may end a turn of a chat"
        doubt = f"of its special tokens, '{usual}' is taken as the end of a document"
        return usual, doubt + (rival if stated else "")
    if stated in special:
        return stated, f"its tokenizer_config.json names '{stated}', which may end a turn of a chat"
    return None, f"{path}: none of its special tokens is a usual end token ({list_first(special)})"


def _stated_end_token(path: Path) -> str | None:
    try:
        fields = msgspec.json.decode(read_small(path, CARD_BYTES))
    except (OSError, ValueError) as error:
        raise_fault(error, str(path))
        return None
    token = fields.get("eos_token") if isinstance(fields, dict) else None
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _license(directory: Path) -> str | None:
    """Return the licence that a dataset card in the directory states, if it states one."""
    try:
        text = read_small(directory / CARD, CARD_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise_fault(error, str(directory / CARD))
        return None
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        card = read_yaml(front[1], CARD) if front else None
    except RecipeError:
        return None
    stated = card.get("license") if isinstance(card, dict) else None
    return stated if isinstance(stated, str) and stated not in ("other", "unknown") else None


def _relative(path: Path, base: Path) -> str:
    """Return a path as a recipe in `base` names it: relative where it is below."""
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()


@dataclass(frozen=True)
class _Writer:
    """Writes domains as YAML."""

    directory: Path
    base: Path
    license: str | None

    def domain(self, domain: ProposedDomain) -> list[str]:
        """Return the lines of a domain."""
        size = _size(domain.size_bytes)
        lines = _comment(f"{counted(len(domain.files), 'file')} ({domain.reader}), {size}", "  ")
        if domain.text is not None:
            example = domain.text.example[:EXAMPLE_CHARACTERS]
            lines += _comment(f"the first text begins: {example}", "  ")
        for one in domain.unsure:
            lines += _comment(f"unsure: {one}", "  ")
        paths = [self._path(pattern) for pattern in domain.patterns]
        lines.append(f"  - name: {_scalar(domain.name)}")
        lines.append(f"    paths:{_inline(paths)}")
        if domain.glob != "*":
            lines.append(f"    glob: {json.dumps(domain.glob, ensure_ascii=False)}")
        if domain.text is None:
            lines.append("    reader: text")
        elif domain.text.name != "text":
            lines.append(f"    text: {_scalar(domain.text.name)}")
        if domain.id is not None and domain.id != "id":
            lines.append(f"    id: {_scalar(domain.id)}")
        if self.license is not None:
            lines.append(f"    license: {_scalar(self.license)}")
        return lines

    def _path(self, pattern: str) -> str:
        return _relative(Path(os.path.realpath(self.directory)) / pattern, self.base)


def _recipe_text(
    name: str, proposal: Proposal, guesses: tuple[_Guess, _Guess], writer: _Writer
) -> str:
    """Write the recipe with its comments."""
    tokenizer, budget = guesses
    lines = _comment(
        f"A first recipe for {_directory_name(writer.directory) or writer.directory}, written by "
        "curate init. Check the lines marked unsure, then type curate plan."
    )
    lines += [f"name: {_scalar(name)}", ""]
    lines += [*_comment(f"unsure: {tokenizer.unsure}"), tokenizer.line, ""]
    lines += ["domains:"]
    for domain in proposal.domains:
        lines += [*writer.domain(domain), ""]
    for one in proposal.left_out:
        lines += _comment(f"not read: {one}")
    lines += [""] if proposal.left_out else []
    method = "unimax" if len(proposal.domains) > 1 else "natural"
    meaning = {
        "unimax": "equal shares, as far as max_epochs allows",
        "natural": "shares in proportion to the text",
    }[method]
    lines += [
        *_comment(f"{meaning}; curate methods lists others"),
        f"mixture: {{method: {method}}}",
        "",
        *_comment("most passes over a domain"),
        f"max_epochs: {MAX_EPOCHS}",
        "",
        *_comment(f"unsure: {budget.unsure}"),
        budget.line,
        "",
        *_limits(proposal),
        *_comment("unsure: take the format of your trainer; curate formats lists them"),
        "output: {format: megatron}",
    ]
    return "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    """Write a text as YAML, without quotes where nothing could take it for anything else."""
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _limits(proposal: Proposal) -> list[str]:
    """Allow the blank files that a domain's glob cannot part from the others."""
    share = max(domain.blank_share for domain in proposal.domains)
    if share < LimitsRecipe().lost_share:
        return []
    allowed = math.ceil(share * 100 + 1) / 100
    return [
        *_comment(f"{share:.1%} of a domain's files are blank; more than this would stop a build"),
        f"limits: {{lost_share: {allowed:g}}}",
        "",
    ]


def _inline(items: Sequence[str]) -> str:
    if len(items) == 1:
        return f" {json.dumps(items[0], ensure_ascii=False)}"
    return "".join(f"\n      - {json.dumps(item, ensure_ascii=False)}" for item in items)


def _comment(text: str, indent: str = "", width: int = 96) -> list[str]:
    """Wrap a text into lines of comment, in which nothing ends the comment or is invisible."""
    words = one_line(text).split(" ")
    lines, line = [], f"{indent}#"
    for word in words:
        if len(line) + 1 + len(word) > width and line != f"{indent}#":
            lines.append(line)
            line = f"{indent}#"
        line += f" {word}"
    return [*lines, line]
