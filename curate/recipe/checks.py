"""Check a recipe; each message names the field and the values it may hold.

`check_fields` and `readable` look at the mapping that was read. `check_recipe` looks at the structs
made from it, for rules that concern several fields.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from curate.errors import RecipeError
from curate.recipe.limits import INTEGERS
from curate.recipe.structs import (
    Epochs,
    HubRecipe,
    MixtureRecipe,
    ProxyRecipe,
    Recipe,
    Share,
    SplitRecipe,
    StageRecipe,
    TokenizerRecipe,
    UnitShare,
    source_of,
)
from curate.runtime.files import bucket_url, is_url
from curate.runtime.objects import without_access
from curate.runtime.registry import counted, nearest_hint

WORDS = {
    "object": "a mapping",
    "dict": "a mapping",
    "array": "a list",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
    "date": "a date",
    "datetime": "a time",
}
"""Names of the types of a recipe in messages."""

SWITCHES = {"yes": True, "on": True, "no": False, "off": False}
"""YAML 1.1's words for true and false, which are text in YAML 1.2."""

SHOWN_CHARACTERS = 40

ROUNDING = 1e-12
"""Distance from 1 that rounding alone may leave in a sum of shares."""

PRIORS = ("natural", "uniform")

NEAR = 0.5
"""Similarity from 0 to 1 at which a name is suggested; lower than for methods, because keys are
mistyped more freely."""


def check_fields(value: Any, struct: type[Struct], where: str, source: str) -> None:
    """Refuse unknown keys and values at any depth, naming the nearest valid one.

    A float such as 1e9 becomes a whole number, in place, where the field requires one, and `no`
    becomes false.

    Args:
        value: A mapping read from YAML; msgspec checks anything else later.
        struct: The struct whose fields are its keys.
        where: Path of the mapping, such as `mixture.`, for messages.
        source: Name of the recipe in messages.

    Raises:
        RecipeError: A key or a value is unknown.
    """
    if not isinstance(value, dict):
        return
    fields = _types(struct)
    for key, item in value.items():
        if key not in fields:
            hint = _elsewhere(struct, key) or nearest_hint(str(key), fields, NEAR)
            raise RecipeError(
                f"{source}: unknown key '{where}{key}'{hint} (known here: {', '.join(fields)})"
            )
        types = (fields[key], *get_args(fields[key]))
        _check_word(item, types, f"{source}: {where}{key}")
        if isinstance(item, float) and item.is_integer() and int(item) in INTEGERS:
            if int in types:
                value[key] = int(item)
        elif isinstance(item, str) and bool in types and item.lower() in SWITCHES:
            value[key] = SWITCHES[item.lower()]
        for nested in _structs_of(fields[key]):
            if isinstance(item, list):
                for position, entry in enumerate(item):
                    name = entry.get("name", position) if isinstance(entry, dict) else position
                    check_fields(entry, nested, f"{where}{key}[{name}].", source)
            elif get_origin(fields[key]) is dict and isinstance(item, dict):
                for name, entry in item.items():
                    check_fields(entry, nested, f"{where}{key}[{name}].", source)
            else:
                check_fields(item, nested, f"{where}{key}.", source)


def _elsewhere(struct: type[Struct], key: Any) -> str:
    """Say where a key belongs that stands in a stage; empty for other keys."""
    if struct is StageRecipe and key in _types(Recipe):
        return "; it is common to all stages, so write it beside them"
    if struct is StageRecipe and key in _types(MixtureRecipe):
        return "; it belongs below mixture"
    return ""


def _check_word(item: Any, types: Sequence[Any], place: str) -> None:
    """Refuse a word that is none of a field's.

    Args:
        item: The field's value; msgspec checks one of another type than text, where that may be.
        types: Type of the field, and the parts of that type.
        place: The recipe and the field, for the message.
    """
    words = [word for part in types if get_origin(part) is Literal for word in get_args(part)]
    takes_others = get_origin(types[0]) is not Literal
    if not words or item in words or (takes_others and (str in types or not isinstance(item, str))):
        return
    names = [getattr(get_origin(part) or part, "__name__", "") for part in types]
    others = [WORDS[name] for name in names if name in WORDS]
    raise RecipeError(
        f"{place}: cannot be '{item}'{nearest_hint(str(item), words, NEAR)} (known: "
        f"{', '.join([*words, *others])})"
    )


@cache
def _types(struct: type[Struct]) -> dict[str, Any]:
    """Return the type of each key; evaluating annotations takes longer than all checks."""
    hints = get_type_hints(struct)
    return {field.encode_name: hints[field.name] for field in msgspec.structs.fields(struct)}


def _structs_of(annotation: Any) -> list[type[Struct]]:
    """List the struct types inside an annotation such as `list[DomainRecipe] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return [annotation]
    return [struct for part in get_args(annotation) for struct in _structs_of(part)]


def readable(message: str, value: dict[str, Any]) -> str:
    """Rewrite msgspec's `... - at `$.domains[0].weight`` as a message that starts with the field.

    Args:
        message: msgspec's own.
        value: The recipe that it refuses, in which `[...]` stands for a key that it does not name.
    """
    body, _, path = message.partition(" - at ")
    field = ""
    refused: Any = value
    for name, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path):
        if name:
            refused = refused[name]
            field += f".{name}"
        else:
            key = _refused_key(refused) if index == "..." else int(index)
            refused = refused[key]
            label = refused.get("name", key) if isinstance(refused, dict) else key
            label = key if isinstance(label, bool) else label
            field += f"[{label}]"
    field = field.removeprefix(".")
    missing = re.fullmatch(r"Object missing required field `(\w+)`", body)
    if missing:
        return f"{field}.{missing[1]} is missing" if field else f"{missing[1]} is missing"
    if path.startswith("`key`"):
        return f"{field}: every key must be text; write numbers, true and false in quotes"
    if "matching regex" in body:
        body = "Expected 1 to 100 letters, digits and . _ + -, the first a letter or digit"
    body = re.sub(r"`([^`]*)`", _type_in_words, body)
    if isinstance(refused, bool) and body.startswith("Expected text"):
        word = "true" if refused else "false"
        body = f"Expected text, and YAML reads {word} as a truth value: put it in quotes"
        return f"{field}: {body[0].lower()}{body[1:]}"
    shown = repr(refused)
    if len(shown) > SHOWN_CHARACTERS:
        shown = f"{shown[:SHOWN_CHARACTERS]}…"
    return f"{field}: {body[0].lower()}{body[1:]}; found {shown}"


def _type_in_words(quoted: re.Match[str]) -> str:
    """Name types in plain words: `str | array` is text or a list."""
    return " or ".join(WORDS.get(part, part) for part in quoted[1].split(" | "))


def _refused_key(weights: dict[str, Any]) -> str:
    """Return the first domain whose weight is not a share, or whose bound is above 1."""
    for kind in (Share, UnitShare, Epochs):
        for name, weight in weights.items():
            try:
                msgspec.convert(weight, kind)
            except (msgspec.ValidationError, UnicodeEncodeError):
                return name
    raise AssertionError("no weight is refused")


URL_TO_WRITE = re.compile(
    r"(s3|gs)://[a-z0-9][a-z0-9._-]{0,254}(/(?!\.{1,2}(/|$))[^/?#\\\x00-\x1f]+)*"
)
"""Bucket and prefix that a dataset or a token store can be written to."""


def check_recipe(recipe: Recipe, source: str) -> None:
    """Refuse fields that contradict each other, and fields whose companions are missing.

    Args:
        recipe: A recipe whose fields are each valid.
        source: Name of the recipe in messages.

    Raises:
        RecipeError: Fields that contradict each other or are missing; names them.
    """
    _check_tokenizer(recipe.tokenizer, source)
    _check_domains(recipe, source)
    _check_rows(recipe, source)
    _check_weights(recipe, source)
    _check_splits(recipe, source)
    if not recipe.is_split:  # else once the sub-domains are known
        names = [domain.name for domain in recipe.domains]
        check_bounds(recipe.mixture.floors, recipe.mixture.caps, names, f"{source}: ")
    check_objective(recipe.mixture, source)
    _check_proxies(recipe, source)
    _check_places(recipe, source)


def _check_places(recipe: Recipe, source: str) -> None:
    """Refuse URLs where no dataset and no token store can be."""
    for key, place in (("cache", recipe.cache), ("output.dir", recipe.output.dir)):
        if place is None or not is_url(place):
            continue
        url = bucket_url(place)
        if url is None or not URL_TO_WRITE.fullmatch(url):
            raise RecipeError(
                f"{source}: {key}: {without_access(place)} cannot be written to; name a "
                "directory, or a bucket and prefix without user name, '?' and '#', as in "
                "s3://bucket/my-mix"
            )


def _check_tokenizer(tokenizer: TokenizerRecipe, source: str) -> None:
    given = [key for key in ("path", "hub", "train") if getattr(tokenizer, key) is not None]
    if len(given) != 1:
        listed = " and ".join(given) or "none"
        raise RecipeError(
            f"{source}: tokenizer needs exactly one of path, hub and train; found {listed}"
        )
    if tokenizer.eos is msgspec.UNSET and tokenizer.train is None:
        raise RecipeError(
            f"{source}: tokenizer.eos is missing: name the token that ends a document, "
            'such as eos: "<|endoftext|>", or eos: null for none'
        )
    if tokenizer.train is not None and tokenizer.eos is None:
        raise RecipeError(
            f"{source}: tokenizer.eos: a trained tokenizer always has an end-of-text token; "
            "name it, or leave eos out"
        )


def _check_domains(recipe: Recipe, source: str) -> None:
    names: dict[str, str] = {}
    for domain in recipe.domains:
        other = names.get(domain.name.lower())
        if other == domain.name:
            raise RecipeError(f"{source}: domains: two are called '{other}'; rename one")
        if other is not None:
            raise RecipeError(
                f"{source}: domains: '{other}' and '{domain.name}' differ only in case, and would "
                "be one file where file names ignore case (macOS, Windows); rename one"
            )
        names[domain.name.lower()] = domain.name
        paths = [domain.paths] if isinstance(domain.paths, str) else domain.paths
        if domain.hf is not None:
            _check_hub(domain.hf, bool(paths), f"{source}: domains[{domain.name}]")
        elif not paths or not all(paths):
            raise RecipeError(
                f"{source}: domains[{domain.name}].paths is missing or empty; name a file, a "
                "directory, a glob or a URL, or a dataset in hf"
            )


def _check_hub(dataset: HubRecipe, has_paths: bool, place: str) -> None:
    if has_paths:
        raise RecipeError(f"{place}: has paths and hf; give one of them, or make two domains")
    is_local = dataset.id.startswith((".", "/", "~"))
    if not is_local and not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset.id):
        raise RecipeError(
            f"{place}.hf.id: expected owner/name, or a local folder as ./name; found {dataset.id!r}"
        )
    if is_local and dataset.revision is not None:
        raise RecipeError(f"{place}.hf.revision: a local folder has no revisions; leave it out")
    if not re.fullmatch(r"[\w.-]+", dataset.split):
        raise RecipeError(
            f"{place}.hf.split: expected the name of one split, such as train; found "
            f"{dataset.split!r}"
        )


def _check_splits(recipe: Recipe, source: str) -> None:
    for domain in recipe.domains:
        where = f"{source}: domains[{domain.name}]"
        for split in domain.splits:
            if split.quantiles is not None and split.edges is not None:
                raise RecipeError(f"{where}.split: takes quantiles or edges, not both")
            if split.edges is not None and split.edges != sorted(set(split.edges)):
                raise RecipeError(f"{where}.split.edges: must ascend; found {split.edges}")
            _check_curve(split, f"{where}.split.curve", recipe.mixture.method)
        if isinstance(domain.max_epochs, dict) and not domain.split:
            raise RecipeError(
                f"{where}.max_epochs: levels are of domains with a split; give one number"
            )


def _check_curve(split: SplitRecipe, where: str, method: str) -> None:
    if not split.curve:
        return
    if not split.is_cut:
        raise RecipeError(f"{where}: only buckets have a curve; add quantiles or edges")
    if len(split.curve) != split.buckets:
        raise RecipeError(
            f"{where}: has {counted(len(split.curve), 'number')} for "
            f"{counted(split.buckets, 'bucket')}; give one for each"
        )
    if not any(split.curve):
        raise RecipeError(f"{where}: leaves nothing; one number must be above 0")
    if method != "manual":
        raise RecipeError(
            f"{where}: divides the weights of method manual, and mixture.method is {method}, which "
            "weighs each sub-domain by itself; leave out the curve, or use manual"
        )


def check_objective(mixture: MixtureRecipe, source: str) -> None:
    """Refuse an objective whose keys contradict each other or have no effect.

    Raises:
        RecipeError: The objective is neither a known word, one target, nor weights or groups.
    """
    objective = mixture.objective
    if isinstance(objective, str):
        if objective not in ("mean", "worst"):
            raise RecipeError(
                f"{source}: mixture.objective: '{objective}' is not one of mean and worst; a "
                f"target is {{target: {objective}}}, weights are {{weights: {{NAME: importance}}}} "
                "or {weights: noise}, groups {groups: {GROUP: [NAME, PATTERN]}}"
            )
        return
    keys = ("target", "weights", "groups")
    given = [key for key in keys if getattr(objective, key) is not None]
    if given not in (["target"], ["weights"], ["groups"], ["weights", "groups"]):
        raise RecipeError(
            f"{source}: mixture.objective needs a target, or weights, groups or both of them; "
            f"found {' and '.join(given) or 'none'}"
        )
    if objective.groups is not None and (
        not objective.groups or not all(objective.groups.values())
    ):
        raise RecipeError(
            f"{source}: mixture.objective.groups: name at least one group, and a target or pattern "
            "in each, such as groups: {code: code_*}"
        )
    if objective.against is not None and objective.groups is None:
        raise RecipeError(
            f"{source}: mixture.objective.against: no effect without groups; remove it, or name "
            "groups"
        )


def _check_rows(recipe: Recipe, source: str) -> None:
    for key, plain in (("packing", "concat"), ("window", "L")):
        value = getattr(recipe, key)
        if value != plain and recipe.sequence_length is None:
            raise RecipeError(
                f"{source}: {key}: {value} is about rows of sequence_length, which is missing; "
                f"set sequence_length, or leave out {key}"
            )


def _check_proxies(recipe: Recipe, source: str) -> None:
    """Refuse small models described twice, and keys of theirs that others make idle."""
    evidence, key, default = recipe.mixture.evidence, "proxy", ProxyRecipe()
    proxy = recipe.proxy
    if evidence is not None and evidence.proxy is not None:
        if proxy != default:
            raise RecipeError(
                f"{source}: small models stand both in mixture.evidence.proxy and in proxy: keep "
                "one (the first trains them for the mixture as needed, the second for `curate "
                "proxy` alone)"
            )
        key, proxy = "mixture.evidence.proxy", evidence.proxy
    if proxy.mixtures is not None and proxy.runs != default.runs:
        raise RecipeError(
            f"{source}: {key}.runs: no mixture is drawn, since {key}.mixtures names a file with a "
            "row for each; keep one"
        )
    if proxy.checkpoints == 1 and proxy.spacing != default.spacing:
        raise RecipeError(
            f"{source}: {key}.spacing: a single checkpoint is at the end of a run, however they "
            f"are spaced; raise {key}.checkpoints, or leave out spacing"
        )


def check_bounds(
    floors: Mapping[str, float], caps: Mapping[str, float], names: Sequence[str], where: str
) -> None:
    """Refuse floors and caps of unknown domains, and those that no mixture obeys.

    Args:
        floors: Least share of the tokens by domain.
        caps: Largest share by domain; a domain that is not named has none.
        names: The domains.
        where: Start of a message: the recipe's name and a colon, or empty.

    Raises:
        RecipeError: Names the key, the domain, and what is possible.
    """
    for key, shares in (("floors", floors), ("caps", caps)):
        for name, share in shares.items():
            check_domain(f"mixture.{key}", name, names, where)
            if not 0 <= share <= 1:
                raise RecipeError(f"{where}mixture.{key}[{name}]: {share:g} is not from 0 to 1")
    for name, floor in floors.items():
        if floor > caps.get(name, 1.0):
            raise RecipeError(
                f"{where}mixture.floors: '{name}' must have at least {floor:g}, but mixture.caps "
                f"allows it at most {caps[name]:g}. Lower the floor or raise the cap"
            )
    least = math.fsum(floors.values())
    if least > 1 + ROUNDING:
        raise RecipeError(
            f"{where}mixture.floors: they sum to {least:g}, more than 1. Lower them, for instance "
            f"to {1 / least:.2g} of what they are"
        )
    most = math.fsum(caps.values())
    if set(names) <= set(caps) and most < 1 - ROUNDING:
        raise RecipeError(
            f"{where}mixture.caps: every domain has one, and they sum to {most:g}, less than 1. "
            "Raise them, or leave one out"
        )


def check_domain(key: str, name: str, names: Sequence[str], where: str) -> None:
    """Refuse a name that is no domain's.

    Args:
        key: The key that names it.
        name: The name.
        names: The domains.
        where: Start of a message.

    Raises:
        RecipeError: There is no such domain; names the nearest.
    """
    if name not in names:
        hint = nearest_hint(name, names, NEAR)
        raise RecipeError(
            f"{where}{key} names no domain '{name}'{hint} (known: {', '.join(names)})"
        )


def _check_weights(recipe: Recipe, source: str) -> None:
    names = [domain.name for domain in recipe.domains]
    split = [domain.name for domain in recipe.domains if domain.split]
    weights = recipe.mixture.weights
    weighted = [domain.name for domain in recipe.domains if domain.weight is not None]
    prior = recipe.mixture.prior
    for key, shares in (("weights", weights), ("keep", recipe.mixture.keep), ("prior", prior)):
        for name in shares if isinstance(shares, dict) else ():
            if any(fnmatchcase(domain, source_of(name)) for domain in split):
                continue  # a level; whether it has sub-domains is known once they are
            check_domain(f"mixture.{key}", name, names, f"{source}: ")
    if isinstance(prior, str) and prior not in PRIORS:
        hint = nearest_hint(prior, PRIORS, NEAR)
        raise RecipeError(
            f"{source}: mixture.prior: cannot be '{prior}'{hint} (known: {', '.join(PRIORS)}, or "
            "shares by domain)"
        )
    if weights is not None and weighted:
        raise RecipeError(
            f"{source}: weights stand both in mixture.weights and in domains[{weighted[0]}].weight:"
            " keep one"
        )
