"""Turn a recipe's text into plain values: YAML, `--set` overrides, and aliases of peer tools.

`checks` decides which values are valid.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from curate.errors import RecipeError

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

BY_DOMAIN = ("weights", "floors", "caps", "prior")
"""Keys of `mixture` below which domains are named."""

MERGE_TAG = "tag:yaml.org,2002:merge"


class _RecipeLoader(yaml.SafeLoader):
    """Reads YAML 1.2 floats, and refuses duplicate keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != MERGE_TAG:
                if key_node.value in seen:
                    problem = f"the key '{key_node.value}' is given twice"
                    raise yaml.composer.ComposerError(None, None, problem, key_node.start_mark)
                seen.add(key_node.value)
        return node


_RecipeLoader.add_implicit_resolver(  # 1e9 is a number, unlike in YAML 1.1
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def read_yaml(text: str, source: str) -> Any:
    """Parse YAML.

    Raises:
        RecipeError: The text is not valid YAML; names `source` and the line.
    """
    try:
        return yaml.load(text, Loader=_RecipeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
    except ValueError as error:  # such as a month 13
        line, problem = "", error
    raise RecipeError(f"{source}{line}: not valid YAML ({' '.join(str(problem).split())})")


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
    if not equals or not all(key.split(".")):
        raise RecipeError(f"--set {override}: expected key.sub=value, as in mixture.method=uniform")
    new = read_yaml(text, f"--set {override}")
    *parents, last = _key_parts(key, value, notices)
    target: Any = value
    for position, parent in enumerate(parents):
        if isinstance(target, list):
            target = _list_item(target, parent, ".".join(parents[:position]), override)
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
            else f"'{where}' is a list: give all of it, as in {where}=[{text}]"
        )
        raise RecipeError(f"--set {override}: {remedy}")
    if not isinstance(target, dict):
        raise RecipeError(f"--set {override}: '{where}' is not a mapping")
    target[last] = new


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


def _list_item(items: list[Any], key: str, where: str, override: str) -> Any:
    for item in items:
        if isinstance(item, dict) and item.get("name") == key:
            return item
    if key.isdecimal() and int(key) < len(items):
        return items[int(key)]
    names = [str(item.get("name")) for item in items if isinstance(item, dict)]
    choices = f"there are {', '.join(names)}" if names else f"it has {len(items)} items"
    raise RecipeError(f"--set {override}: no '{key}' in '{where}'; {choices}")


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
