"""Turn a recipe's text into plain values: YAML, `--set` overrides, and aliases of peer tools.

`checks` decides which values are valid.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, ClassVar

import yaml
from yaml.composer import Composer, ComposerError
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from curate.errors import RecipeError
from curate.recipe.limits import MOST_DEPTH, MOST_VALUES, TOO_DEEP, TOO_MANY, bounded

ALIASES: dict[str, dict[str, str]] = {
    "recipe": {
        "sources": "domains",
        "requested_tokens": "budget_tokens",
        "target_tokens": "budget_tokens",
        "max_tokens": "budget_tokens",
        "seq_length": "sequence_length",
        "sequence_len": "sequence_length",
        "mix": "mixture",
    },
    "domain": {
        "target_ratio": "weight",
        "ratio": "weight",
        "proportion": "weight",
        "max_repetition_ratio": "max_epochs",
        "max_repetition_factor": "max_epochs",
        "repetition_factor": "max_epochs",
        "source_name": "name",
        "label": "name",
        "documents": "paths",
        "path": "paths",
        "train_urls": "paths",
        "meta": "metadata",
    },
}
"""Our key for each key of a peer tool, in the recipe and in a domain."""

BAD_RECORD_ALIASES = {"warn": "quarantine", "skip": "quarantine"}

BY_DOMAIN = ("weights", "keep", "floors", "caps", "prior")
"""Keys of `mixture` below which domains are named."""

YAML = "tag:yaml.org,2002:"
"""Start of the names of YAML's types."""


class _PythonParser(Reader, Scanner, Parser):
    """The parser where PyYAML was built without libyaml."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


# `Any`, since libyaml's parser has no types; hence the `type: ignore` of the class made from it.
_Parser: Any = vars(yaml.cyaml)["CParser"] if yaml.__with_libyaml__ else _PythonParser

INTEGER = re.compile(r"^[-+]?(0|[1-9][\d_]*|0x[\da-fA-F_]+|0b[01_]+)$")
FLOAT = re.compile(
    r"^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))([eE][-+]?\d+)?$"
    r"|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
IMPLICIT = (
    ("null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", INTEGER, list("-+0123456789")),
    ("float", FLOAT, list("-+0123456789.")),
    ("merge", re.compile(r"^<<$"), ["<"]),
)
"""Plain texts that are no text: type, pattern and first characters. They are YAML 1.2's, so that
`no`, `2024-01-05` and `1:30` stay text, with `_` between digits and keys merged by `<<`."""

SHOWN = 200
"""Most characters of the recipe that a message repeats in one place."""

DIGITS = 100
"""Most characters of a whole number, which Python reads in time quadratic in their number."""


class _RecipeLoader(Composer, _Parser, SafeConstructor, BaseResolver):  # type: ignore[misc]
    """Reads the plain types of YAML, within bounds, and refuses duplicate keys.

    The parser is libyaml's where PyYAML has it, which is five times faster. The composer is
    Python's, since only that one can be bounded.
    """

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: SafeConstructor.yaml_constructors[tag]
        for tag in (None, *(f"{YAML}{name}" for name in ("null", "bool", "float", "str", "seq")))
    }

    def __init__(self, text: str) -> None:
        _Parser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        BaseResolver.__init__(self)
        self._nodes = self._depth = self._merged = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._nodes += 1
        self._depth += 1
        if self._nodes > MOST_VALUES or self._depth > MOST_DEPTH + 1:
            problem = TOO_MANY if self._nodes > MOST_VALUES else TOO_DEEP
            raise ComposerError(None, None, problem, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != f"{YAML}merge":
                if key_node.value in seen:
                    problem = f"the key '{key_node.value}' is given twice"
                    raise ComposerError(None, None, problem, key_node.start_mark)
                seen.add(key_node.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        self._merged += len(node.value)  # merged mappings can double in size with every alias
        if self._merged > MOST_VALUES:
            raise ComposerError(None, None, TOO_MANY, node.start_mark)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > DIGITS:
            problem = f"a whole number of {len(node.value):,} characters"
            raise ConstructorError(None, None, problem, node.start_mark)
        return super().construct_yaml_int(node)


_RecipeLoader.yaml_constructors.update(
    {
        f"{YAML}int": _RecipeLoader.construct_yaml_int,
        f"{YAML}map": _RecipeLoader.construct_yaml_map,
    }
)
for _name, _pattern, _first in IMPLICIT:
    _RecipeLoader.add_implicit_resolver(f"{YAML}{_name}", _pattern, _first)


def read_yaml(text: str, source: str) -> Any:
    """Parse YAML or JSON into values within the bounds of `limits`.

    Raises:
        RecipeError: The text is not valid YAML, or is out of bounds; names `source` and the line or
            the key.
    """
    return bounded(_parse(text, source), source)


def _parse(text: str, source: str) -> Any:
    # JSON is YAML, but libyaml refuses its pairs of \u escapes, with which Python writes emoji. The
    # YAML parser reads what is not JSON, and names the line of what is wrong.
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_int=_whole_number)
    try:
        return _load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        # At the end of the text libyaml is already on the next line.
        line = f":{min(mark.line, len(text.splitlines()) - 1) + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
    except UnicodeEncodeError:
        line, problem = "", "it holds half of a surrogate pair"
    except RecursionError:
        line, problem = "", TOO_DEEP
    raise RecipeError(f"{source}{line}: not valid YAML ({_short(problem)})")


def _short(value: object) -> str:
    """Return a text in one line, cut where it is long."""
    line = " ".join(str(value).split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"


def _load(text: str) -> Any:
    loader = _RecipeLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _whole_number(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError("too long")
    return int(digits)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a mapping, or leave duplicate keys to the YAML parser, which names their line."""
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key is given twice")
    return mapping


def apply_override(value: dict[str, Any], override: str, notices: list[str]) -> None:
    """Set one dotted key, as in `mixture.method=entropy` or `domains.wiki.max_epochs=2`.

    Args:
        value: The recipe read from YAML, changed in place.
        override: `key.sub=value`.
        notices: Receives a line for each alias.

    Raises:
        RecipeError: The override is not `key.sub=value`, or its key leads to no mapping.
    """
    key, equals, text = override.partition("=")
    label = f"--set {_short(override)}"
    if not equals or not all(key.split(".")):
        raise RecipeError(f"{label}: expected key.sub=value, as in mixture.method=uniform")
    new = read_yaml(text, label)
    *parents, last = _key_parts(key, value, notices)
    target: Any = value
    for position, parent in enumerate(parents):
        if isinstance(target, list):
            target = _list_item(target, parent, ".".join(parents[:position]), label)
        elif isinstance(target, dict):
            if target.get(parent) is None:
                target[parent] = {}
            target = target[parent]
        else:
            break
    where = ".".join(parents)
    if isinstance(target, list):
        remedy = (
            f"name a field of one domain, as in {where}.{last}.weight=0.2"
            if where == "domains"
            else f"'{where}' is a list: give all of it, as in {where}=[{_short(text)}]"
        )
        raise RecipeError(f"{label}: {remedy}")
    if not isinstance(target, dict):
        raise RecipeError(f"{label}: '{where}' is not a mapping")
    target[last] = new


def overridden_key(override: str) -> str:
    """Return the dotted key that an override sets, as the recipe calls it.

    Example:
        >>> overridden_key("mix.kl=0.1")
        'mixture.kl'
    """
    first, dot, rest = override.partition("=")[0].partition(".")
    return ALIASES["recipe"].get(first, first) + dot + rest


def _key_parts(key: str, value: dict[str, Any], notices: list[str]) -> list[str]:
    """Split a dotted key into our keys, allowing for dots in the names of domains."""
    first, *rest = key.split(".")
    parts = [_our_word(first, ALIASES["recipe"], notices)]
    if parts[0] == "mixture" and rest[:1] and rest[0] in BY_DOMAIN and len(rest) > 2:
        return ["mixture", rest[0], ".".join(rest[1:])]
    items = value.get("domains") if parts[0] == "domains" else None
    if not isinstance(items, list) or len(rest) < 2:
        return parts + rest
    names = [item.get("name") for item in items if isinstance(item, dict)]
    stops = [stop for stop in range(1, len(rest)) if ".".join(rest[:stop]) in names]
    stop = max(stops, default=1)
    field = _our_word(rest[stop], ALIASES["domain"], notices)
    return [*parts, ".".join(rest[:stop]), field, *rest[stop + 1 :]]


def _our_word(word: str, aliases: dict[str, str], notices: list[str]) -> str:
    if word in aliases:
        notices.append(f"--set: {word} is read as {aliases[word]}")
    return aliases.get(word, word)


def _list_item(items: list[Any], key: str, where: str, label: str) -> Any:
    for item in items:
        if isinstance(item, dict) and item.get("name") == key:
            return item
    for position, item in enumerate(items):
        if key == str(position):
            return item
    names = [str(item.get("name")) for item in items if isinstance(item, dict)]
    choices = f"there are {', '.join(names)}" if names else f"it has {len(items)} items"
    raise RecipeError(f"{label}: no '{_short(key)}' in '{where}'; {choices}")


def translate(value: dict[str, Any], notices: list[str], source: str) -> None:
    """Replace aliases from peer tools with our keys, in place, with a notice for each.

    Args:
        value: The recipe read from YAML.
        notices: Receives a line for each alias.
        source: Name of the recipe in messages.

    Raises:
        RecipeError: An alias and our own key are both given.
    """
    _rename(value, ALIASES["recipe"], ("", source), notices)
    domains = value.get("domains")
    for position, domain in enumerate(domains if isinstance(domains, list) else []):
        if isinstance(domain, dict):
            where = f"domains[{domain.get('name', position)}]."
            _rename(domain, ALIASES["domain"], (where, source), notices)
    policy = value.get("on_bad_record")
    if isinstance(policy, str) and policy in BAD_RECORD_ALIASES:
        value["on_bad_record"] = BAD_RECORD_ALIASES[policy]
        notices.append(f"on_bad_record: '{policy}' is read as '{BAD_RECORD_ALIASES[policy]}'")


def _rename(
    value: dict[str, Any], aliases: dict[str, str], place: tuple[str, str], notices: list[str]
) -> None:
    where, source = place
    for alias, ours in aliases.items():
        if alias not in value:
            continue
        if ours in value:
            raise RecipeError(
                f"{source}: {where}{alias} means {where}{ours}, which is given too: keep one"
            )
        value[ours] = value.pop(alias)
        notices.append(f"{where}{alias} is read as {where}{ours}")
