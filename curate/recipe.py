"""YAML → frozen structs, strict.

An unknown key is an error with a suggestion; a word that peer tools use for one of ours is taken
and a notice returned. Every name (method, format, measure, reader) is resolved here or by the front
function that owns it before a byte of data is read. Weights are shares of tokens.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from curate.errors import RecipeError
from curate.recipe_text import apply_override, nearest_hint, read_yaml, translate
from curate.storage import hash_json

Positive = Annotated[int, Meta(ge=1, le=10**18)]
Share = Annotated[float, Meta(ge=0, le=1e9)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$(?!\n)")]
"""Fit for a directory's name; the end keeps Python's `$` from passing a last line break."""

WORDS = {
    "object": "a mapping",
    "array": "a list",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
    "date": "a date",
    "datetime": "a time",
}
"""How the types of a recipe are called in messages."""

SHOWN_CHARACTERS = 40

NEAR = 0.5
"""Likeness that makes a hint: keys and domains are mistyped more freely than names of methods."""


class Frozen(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every part of a recipe."""


class TrainTokenizer(Frozen, frozen=True):
    """Train a byte-level BPE on a balanced sample of the domains."""

    vocab_size: Annotated[int, Meta(ge=260, le=2_000_000)]
    """Ids in all, the end-of-text token included; 256 bytes are always among them."""
    sample_bytes: Positive = 16_000_000
    """Bytes of text to train on, the same from every domain that holds enough."""


class TokenizerRecipe(Frozen, frozen=True):
    """Exactly one of `path`, `hub` and `train`."""

    path: str | None = None
    """A Hugging Face `tokenizer.json`, relative to the recipe."""
    hub: str | None = None
    """A repository on the Hugging Face hub, `owner/name` or `owner/name@revision`."""
    train: TrainTokenizer | None = None
    eos: str | None | msgspec.UnsetType = msgspec.UNSET
    """The token that ends every document; null for none. Needed with `path` and `hub`."""
    backend: Literal["auto", "tokenizers", "fastokens", "gigatoken"] = "auto"


class DomainRecipe(Frozen, frozen=True):
    """One source of text with a name of its own in the mixture."""

    name: Name
    paths: list[str] | str
    """Files, directories, globs or URLs, relative to the recipe; `corpus://NAME` is built in."""
    weight: Share | None = None
    """Share of tokens, for `method: manual`."""
    max_epochs: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """Passes over the domain that a mixture may use; omitted: the recipe's `max_epochs`."""
    text: str = "text"
    id: str = "id"
    reader: str = "auto"
    glob: str = "*"
    license: str | None = None
    metadata: dict[str, Any] = {}


class ProxyTokenizer(Frozen, frozen=True):
    """A smaller tokenizer for the proxies alone."""

    train: TrainTokenizer


class ProxyRecipe(Frozen, frozen=True):
    """Small models trained on many mixtures; what is omitted is the preset's."""

    preset: str = "nano"
    runs: Annotated[int, Meta(ge=1, le=100_000)] = 16
    """Mixtures to draw, where `mixtures` gives none."""
    mixtures: str | None = None
    """CSV with a column a domain, relative to the recipe; shares of the recipe's tokens."""
    seeds: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Runs of each mixture."""
    tokens: Positive | None = None
    """Of a run."""
    sequence_length: Positive | None = None
    batch: Positive | None = None
    """Sequences of a step."""
    learning_rate: Annotated[float, Meta(gt=0)] | None = None
    """At width 256; carried to the preset's width."""
    schedule: Literal["constant", "cosine", "exponential", "wsd"] = "constant"
    checkpoints: Annotated[int, Meta(ge=1, le=1000)] = 6
    """Times that losses are measured."""
    spacing: Literal["log", "even"] = "log"
    """Of the checkpoints: even in the logarithm of steps, or in steps."""
    validation_tokens: Positive = 50_000
    """Held-out tokens of a domain that losses are measured on, at most."""
    repetition: Literal["matched", "fresh"] = "matched"
    """matched: each domain repeats as often as in `budget_tokens`; fresh: as little as can be."""
    tied: bool | None = None
    """One matrix for embedding and head."""
    tokenizer: ProxyTokenizer | None = None
    """Omitted: the recipe's."""
    device: str = "auto"
    engine: Literal["local", "ray"] = "local"
    """Where the processes of several devices are: on this machine, or in a Ray cluster."""
    models: Positive | None = None
    """Most to train at once; omitted: as many as fit into memory."""
    tensorboard: str | None = None
    """Directory for TensorBoard, relative to the recipe."""


class EvidenceRecipe(Frozen, frozen=True):
    """What was learnt from models; files relative to the recipe."""

    runs: str | list[str] | None = None
    """A run table, `runs.csv`, or a file of mixtures and one of losses."""
    experts: str | None = None
    """Log-probabilities of validation text under one model a domain."""
    proxy: ProxyRecipe | None = None
    """Small models to train for what the method needs and no file gives; instead of `proxy`."""


class ObjectiveRecipe(Frozen, frozen=True):
    """Exactly one of `target` and `weights`."""

    target: str | None = None
    """Minimise this loss alone."""
    weights: dict[str, Share] | None = None
    """Minimise the mean with these importances."""


class MixtureRecipe(Frozen, frozen=True):
    """How the weights are found."""

    method: str = "natural"
    measure: str = "conditional"
    """For `entropy`: shannon, joint, conditional or von_neumann."""
    estimator: Literal["corrected", "plugin"] = "corrected"
    """For `entropy`: bias corrected on samples of equal size, with intervals; or the frequencies
    of all tokens as they are, the paper's."""
    temperature: Annotated[float, Meta(gt=0)] | None = None
    weights: dict[str, Share] | None = None
    """For `manual`: share of tokens by domain; instead of `weight` in each domain."""
    evidence: EvidenceRecipe | None = None
    """For the methods that learn from runs or experts; they alone read what follows."""
    law: str | None = None
    """For `law`: a law of `curate fit`."""
    objective: str | ObjectiveRecipe = "mean"
    """`mean`, `worst`, `{target: NAME}` or `{weights: {NAME: importance}}`."""
    at_tokens: Annotated[float, Meta(gt=0)] | None = None
    """Training tokens at which losses are compared; omitted: the most of the runs."""
    at_params: Annotated[float, Meta(gt=0)] | None = None
    """Model parameters, likewise."""
    kl: Annotated[float, Meta(ge=0)] | None = None
    """Pull to `prior`: nats of loss for a nat of KL divergence; omitted: the method's own."""
    prior: str | dict[str, Share] = "natural"
    """`natural`, `uniform`, or shares by domain."""
    floors: dict[str, Share] = {}
    """Least share of a domain."""
    trust_region: bool = True
    """Keep to mixtures near to some run."""
    replicates: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    """Resamples for intervals, 0 for none; omitted: what the law can afford."""
    discount_repeats: bool = False
    """Count repeated tokens for less."""
    level: str | Annotated[int, Meta(ge=1)] | None = None
    """For `mde` and `mixmin`: `token`, `document`, or tokens of a chunk."""


class ValidationRecipe(Frozen, frozen=True):
    """Documents held out of every mixture, chosen by content hash."""

    documents: Annotated[float, Meta(ge=0, lt=1)] = 0.005
    """Share of each domain's documents."""
    key: int = 0
    """Another key holds out other documents."""


class OutputRecipe(Frozen, frozen=True):
    """Where the dataset goes and how."""

    format: str = "megatron"
    shape: Literal["mixed", "per-domain"] = "mixed"
    """One mixed stream, or a folder a domain with the trainer's own mixture file."""
    dir: str | None = None
    """Omitted: `out/<name>` beside the recipe."""
    shard_tokens: Positive = 500_000_000
    options: dict[str, Any] = {}
    """What the format lets you choose; `curate formats NAME` lists it."""


class CountingRecipe(Frozen, frozen=True):
    """Limits of the bigram counter."""

    memory_mb: Annotated[int, Meta(ge=16)] = 256
    """Count tables a worker keeps in memory before it spills them to disk."""


class Recipe(Frozen, frozen=True):
    """What to build. Everything omitted has the default shown."""

    name: Name
    tokenizer: TokenizerRecipe
    domains: Annotated[list[DomainRecipe], Meta(min_length=1)]
    budget_tokens: Positive
    """Tokens of the training set in all, end-of-text tokens included; hit exactly."""
    mixture: MixtureRecipe = MixtureRecipe()
    sequence_length: Positive | None = None
    """Tokens a sequence, for formats that cut the stream; omit for those that keep documents."""
    window: Literal["L", "L+1"] = "L"
    """Tokens of a row: `sequence_length`, or one more for trainers that take labels from it."""
    packing: Literal["concat", "best-fit", "whole"] = "concat"
    """How documents make rows of `sequence_length`; see `curate.packing`."""
    max_epochs: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    """Passes over a domain that a mixture may use, where the domain says nothing else."""
    validation: ValidationRecipe = ValidationRecipe()
    on_shortfall: Literal["error", "repeat", "redistribute"] = "error"
    on_bad_record: Literal["error", "quarantine"] = "quarantine"
    output: OutputRecipe = OutputRecipe()
    counting: CountingRecipe = CountingRecipe()
    proxy: ProxyRecipe = ProxyRecipe()
    cache: str = ".curate"
    """Directory of the token store, relative to the recipe; shared by recipes."""
    seed: int = 42

    @property
    def row_tokens(self) -> int | None:
        """Tokens of a row on disk; None where rows are documents."""
        if self.sequence_length is None:
            return None
        return self.sequence_length + (self.window == "L+1")


class LoadedRecipe(Struct, frozen=True):
    """A recipe with where it came from and what was said while reading it."""

    recipe: Recipe
    base: Path
    """Directory that relative paths start from."""
    notices: list[str]

    @property
    def hash(self) -> str:
        """Hash of everything that shapes the dataset; where it is put does not count."""
        value = msgspec.to_builtins(self.recipe, str_keys=True)
        value.pop("cache")
        value.pop("proxy")
        value["output"].pop("dir", None)
        if value["mixture"]["evidence"] is not None:  # what proxies find counts, as evidence
            value["mixture"]["evidence"].pop("proxy")
        return hash_json(value)

    @property
    def proxies(self) -> ProxyRecipe:
        """The small models, from `mixture.evidence.proxy` or `proxy`."""
        evidence = self.recipe.mixture.evidence
        asked = evidence.proxy if evidence is not None else None
        return self.recipe.proxy if asked is None else asked

    def with_proxies(self, proxies: ProxyRecipe) -> LoadedRecipe:
        """The same recipe with other small models, put where it has its own."""
        mixture = self.recipe.mixture
        if mixture.evidence is None or mixture.evidence.proxy is None:
            return replace(self, recipe=replace(self.recipe, proxy=proxies))
        mixture = replace(mixture, evidence=replace(mixture.evidence, proxy=proxies))
        return replace(self, recipe=replace(self.recipe, mixture=mixture))

    @property
    def cache_dir(self) -> Path:
        """Directory of the token store."""
        return self.base / self.recipe.cache

    @property
    def output_dir(self) -> Path:
        """Directory of the artifacts and shards."""
        return self.base / (self.recipe.output.dir or f"out/{self.recipe.name}")


def load(path: Path, overrides: tuple[str, ...] = ()) -> LoadedRecipe:
    """Read a recipe file and apply `--set key.sub=value` overrides.

    Raises:
        RecipeError: It is absent, not YAML, or says something that cannot be; names the field.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text ({error})") from error
    return parse(text, path.resolve().parent, overrides, str(path))


def parse(
    text: str, base: Path, overrides: tuple[str, ...] = (), source: str = "recipe"
) -> LoadedRecipe:
    """Read a recipe from text; see `load`.

    Example:
        >>> text = "{name: tiny, tokenizer: {train: {vocab_size: 512}}, budget_tokens: 1e6,"
        >>> text += "sources: [{name: code, path: corpus://python_code}]}"
        >>> loaded = parse(text, Path("."), ("mixture.method=uniform",))
        >>> loaded.recipe.budget_tokens, loaded.recipe.mixture.method
        (1000000, 'uniform')
        >>> loaded.notices
        ['sources is read as domains', 'domains[code].path is read as domains[code].paths']
    """
    value = read_yaml(text, source)
    if not isinstance(value, dict):
        raise RecipeError(f"{source}: a recipe is a mapping of keys; try `curate schema`")
    notices: list[str] = []
    translate(value, notices, source)
    for override in overrides:
        apply_override(value, override, notices)
        translate(value, notices, source)
    _check_fields(value, Recipe, "", source)
    try:
        recipe = msgspec.convert(value, Recipe)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{source}: {_readable(str(error), value)}") from error
    _check_tokenizer(recipe.tokenizer, source)
    _check_domains(recipe, source)
    _check_rows(recipe, source)
    _check_weights(recipe, source, notices)
    _check_objective(recipe.mixture, source)
    _check_proxies(recipe, source)
    return LoadedRecipe(recipe, base, notices)


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors; peers' aliases are not in it."""
    return msgspec.json.schema(Recipe)


def _check_fields(value: Any, struct: type[Struct], where: str, source: str) -> None:
    """Refuse unknown keys and unknown words, with the nearest known one, anywhere.

    A float such as 1e9 becomes a whole number, in place, where the field wants one.
    """
    if not isinstance(value, dict):
        return
    fields = get_type_hints(struct)
    for key, item in value.items():
        if key not in fields:
            hint = nearest_hint(str(key), fields, NEAR)
            raise RecipeError(
                f"{source}: unknown key '{where}{key}'{hint} (known here: {', '.join(fields)})"
            )
        choices = get_args(fields[key]) if get_origin(fields[key]) is Literal else ()
        if choices and item not in choices:
            hint = nearest_hint(str(item), choices, NEAR)
            raise RecipeError(
                f"{source}: {where}{key}: cannot be '{item}'{hint} (known: {', '.join(choices)})"
            )
        if isinstance(item, float) and item.is_integer():
            if int in (fields[key], *get_args(fields[key])):
                value[key] = int(item)
        for nested in _structs_of(fields[key]):
            if isinstance(item, list):
                for position, entry in enumerate(item):
                    name = entry.get("name", position) if isinstance(entry, dict) else position
                    _check_fields(entry, nested, f"{where}{key}[{name}].", source)
            else:
                _check_fields(item, nested, f"{where}{key}.", source)


def _structs_of(annotation: Any) -> list[type[Struct]]:
    """The struct types inside an annotation such as `list[DomainRecipe] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return [annotation]
    return [found for part in get_args(annotation) for found in _structs_of(part)]


def _readable(message: str, value: dict[str, Any]) -> str:
    """Turn msgspec's `... - at `$.domains[0].weight`` into words that start with the field."""
    body, _, path = message.partition(" - at ")
    field = ""
    found: Any = value
    for name, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path):
        if name:
            found = found[name]
            field += f".{name}"
        else:
            key = _refused_key(found) if index == "..." else int(index)
            found = found[key]
            label = found.get("name", key) if isinstance(found, dict) else key
            field += f"[{label}]"
    field = field.removeprefix(".")
    missing = re.fullmatch(r"Object missing required field `(\w+)`", body)
    if missing:
        return f"{field}.{missing[1]} is missing" if field else f"{missing[1]} is missing"
    if path.startswith("`key`"):
        return f"{field}: every key must be text; write numbers in quotes"
    if "matching regex" in body:
        body = "Expected 1 to 100 letters, digits and . _ + -, the first a letter or digit"
    body = re.sub(r"`([^`]*)`", _type_in_words, body)
    shown = repr(found)
    if len(shown) > SHOWN_CHARACTERS:
        shown = f"{shown[:SHOWN_CHARACTERS]}…"
    return f"{field}: {body[0].lower()}{body[1:]}; found {shown}"


def _type_in_words(quoted: re.Match[str]) -> str:
    """Such as `str | array` → text or a list."""
    return " or ".join(WORDS.get(part, part) for part in quoted[1].split(" | "))


def _refused_key(weights: dict[str, Any]) -> str:
    """The first domain whose weight is not a share."""
    for name, weight in weights.items():
        try:
            msgspec.convert(weight, Share)
        except msgspec.ValidationError:
            return name
    raise AssertionError("no weight is refused")


def _check_tokenizer(tokenizer: TokenizerRecipe, source: str) -> None:
    given = [key for key in ("path", "hub", "train") if getattr(tokenizer, key) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise RecipeError(
            f"{source}: tokenizer needs exactly one of path, hub and train; found {found}"
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
    known: dict[str, str] = {}
    for domain in recipe.domains:
        other = known.get(domain.name.lower())
        if other == domain.name:
            raise RecipeError(f"{source}: domains: two are called '{other}'; rename one")
        if other is not None:
            raise RecipeError(
                f"{source}: domains: '{other}' and '{domain.name}' differ only in case, and would "
                "be one file where file names ignore case (macOS, Windows); rename one"
            )
        known[domain.name.lower()] = domain.name
        paths = [domain.paths] if isinstance(domain.paths, str) else domain.paths
        if not paths or not all(paths):
            raise RecipeError(
                f"{source}: domains[{domain.name}].paths is empty; name a file, a directory, a "
                "glob or a URL"
            )


def _check_objective(mixture: MixtureRecipe, source: str) -> None:
    objective = mixture.objective
    if isinstance(objective, str):
        return
    given = [key for key in ("target", "weights") if getattr(objective, key) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise RecipeError(
            f"{source}: mixture.objective needs exactly one of target and weights; found {found}"
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
    evidence = recipe.mixture.evidence
    if evidence is None or evidence.proxy is None or recipe.proxy == ProxyRecipe():
        return
    raise RecipeError(
        f"{source}: small models stand both in mixture.evidence.proxy and in proxy: keep one (the "
        "first trains them for the mixture as needed, the second for `curate proxy` alone)"
    )


def _check_weights(recipe: Recipe, source: str, notices: list[str]) -> None:
    names = [domain.name for domain in recipe.domains]
    weights = recipe.mixture.weights
    weighted = [domain.name for domain in recipe.domains if domain.weight is not None]
    for name in weights or ():
        if name not in names:
            hint = nearest_hint(name, names, NEAR)
            raise RecipeError(
                f"{source}: mixture.weights names no domain '{name}'{hint} "
                f"(known: {', '.join(names)})"
            )
    if weights is not None and weighted:
        raise RecipeError(
            f"{source}: weights stand both in mixture.weights and in domains[{weighted[0]}].weight:"
            " keep one"
        )
    method = recipe.mixture.method
    if method != "manual" and (weights is not None or weighted):
        notices.append(f"the recipe's weights are not used: mixture.method is {method}, not manual")
