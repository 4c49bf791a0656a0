"""What a recipe says, as frozen structs with the bounds of every number.

Weights are shares of tokens. Left out: what no one field tells, see `checks`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from curate.runtime.files import hash_json

Positive = Annotated[int, Meta(ge=1, le=10**18)]
Share = Annotated[float, Meta(ge=0, le=1e9)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$(?!\n)")]
"""Fit for a directory's name; the end keeps Python's `$` from passing a last line break."""


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
    """How documents make rows of `sequence_length`; see `curate.plan.packing`."""
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
