"""The keys of a recipe as frozen structs: type, bounds, default and meaning of each.

The strings below the fields are the recipe reference: `reference.descriptions` reads them for
`curate schema` and for the documentation. Weights are shares of tokens. Rules that concern several
keys at once are in `checks`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields, replace

from curate.runtime.files import bucket_url, hash_json, name_in_cache, user_cache

Positive = Annotated[int, Meta(ge=1, le=10**18)]
Share = Annotated[float, Meta(ge=0, le=1e9)]
UnitShare = Annotated[float, Meta(ge=0, le=1)]
Epochs = Annotated[float, Meta(gt=0, le=1e6)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$(?!\n)")]
"""Fit for a directory's name; the end keeps Python's `$` from passing a last line break."""

FarRuns = Literal["leave_out", "keep"]
"""Treatment of runs that are far from all others."""

AbsentDomains = Literal["refuse", "zero"]
"""Treatment of domains that only some of several run tables have."""

RECORD_BYTES = 128_000_000
"""Default of `limits.record_bytes`: a book of 50 MB whose every character is escaped."""


class Frozen(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every part of a recipe."""


class TrainTokenizer(Frozen, frozen=True):
    """A byte-level BPE tokenizer to train on a balanced sample of the domains."""

    vocab_size: Annotated[int, Meta(ge=260, le=2_000_000)]
    """Number of token ids, from 260 to 2,000,000, the 256 bytes and the end-of-text token
    included.
    """
    sample_bytes: Positive = 16_000_000
    """Bytes of text to train on, shared equally among the domains as far as each has enough."""


class TokenizerRecipe(Frozen, frozen=True):
    """The tokenizer: exactly one of `path`, `hub` and `train`."""

    path: str | None = None
    """A Hugging Face `tokenizer.json` file. A relative path starts from the recipe's directory."""
    hub: str | None = None
    """A repository on the Hugging Face hub, written `owner/name` or `owner/name@revision`."""
    train: TrainTokenizer | None = None
    """Train a byte-level BPE tokenizer on the recipe's own domains."""
    eos: str | None | msgspec.UnsetType = msgspec.UNSET
    """The token that ends every document, such as `<|endoftext|>`, or null for none. `path` and
    `hub` require it; with `train` it only renames the end-of-text token.
    """
    backend: Literal["auto", "tokenizers", "fastokens", "gigatoken"] = "auto"
    """The library that encodes text: `tokenizers` is the reference, and the faster ones must give
    the same ids in a self-test. `auto` tries `fastokens` and falls back to the reference; a faster
    backend named here is an error if it cannot be used.
    """


class HubRecipe(Frozen, frozen=True):
    """A split of a dataset on the Hugging Face Hub, or in a local dataset folder."""

    id: Annotated[str, Meta(min_length=1)]
    """The dataset, as `owner/name`; or a local folder that `datasets` can load, as `./name`, which
    starts from the recipe's directory, or an absolute path.
    """
    config: str | None = None
    """The dataset's config (subset). Omitted: its only one, or its default."""
    split: str = "train"
    """The split whose files are read, as the card or the names of the files say."""
    revision: str | None = None
    """A branch, tag or commit; omitted, `main`. It is resolved to a commit, and `recipe.yaml` of a
    built dataset names that commit.
    """
    columns: list[str] = []
    """The columns beside the text and the identifier that formats of text keep as metadata, and
    that are fetched for it. Omitted: all of them.
    """


class SplitRecipe(Frozen, frozen=True):
    """A division of a domain into sub-domains: by value, or by number with another key."""

    by: str
    """The attribute to split by, or an SQL expression of attributes as in `where`. Each value makes
    a sub-domain `NAME:VALUE`; documents without a value are `NAME:none`.
    """
    quantiles: Annotated[int, Meta(ge=2, le=1000)] | None = None
    """Number of sub-domains with equally many documents, from 2 to 1,000: `NAME:q1` has the lowest
    numbers. Equal numbers stay together.
    """
    edges: Annotated[list[float], Meta(min_length=1, max_length=999)] | None = None
    """Ascending numbers to cut at: `NAME:q1` has those up to and including the first."""
    curve: list[Share] = []
    """Upsampling by bucket, lowest first, as in `[0, 0.5, 1, 2, 4]`: a weight that is given to a
    level is divided in proportion to tokens times these. Documents without a value count once.
    Only with `quantiles` or `edges`, and method `manual`.
    """

    @property
    def is_cut(self) -> bool:
        """Whether it cuts numbers into buckets; otherwise it is by value."""
        return self.quantiles is not None or self.edges is not None

    @property
    def buckets(self) -> int:
        """Number of buckets that it cuts numbers into; 1 for a split by value."""
        return self.quantiles or len(self.edges or ()) + 1


class DomainRecipe(Frozen, frozen=True):
    """One source of text, with a share of its own in the mixture."""

    name: Name
    """The domain's name in reports and files: 1 to 100 letters, digits and `. _ + -`, starting with
    a letter or digit. Names must differ in more than case.
    """
    paths: list[str] | str = []
    """Files, directories, globs (`**` spans directories), URLs of object storage and others that
    fsspec can open, or `corpus://NAME` for a built-in corpus (see `curate corpus`). Relative paths
    start from the recipe's directory, `~` is the home directory, and hidden files must be named by
    a pattern. A domain has either `paths` or `hf`.
    """
    hf: HubRecipe | None = None
    """A dataset on the Hugging Face Hub in place of `paths`. Needs the extra `hf`."""
    weight: Share | None = None
    """Relative share of the training tokens, at least 0. Only method `manual` uses it, which needs
    one for every domain, here or in `mixture.weights`.
    """
    max_epochs: Epochs | dict[str, Epochs] | None = None
    """Most passes over the domain's training documents, greater than 0 and at most 1,000,000; if
    omitted, the recipe's `max_epochs`. Every method obeys it unless `on_shortfall` is `repeat`. A
    domain that is split may have one for each level, as in `{"web:*:q4": 4}`.
    """
    text: str = "text"
    """Column or key of a record's text. Dots reach into nested objects, as in `content.body`."""
    id: str = "id"
    """Column or key of a record's identifier, text or a whole number; dots reach into nested
    objects. A record without one is identified by a hash of its content.
    """
    reader: str = "auto"
    """Kind of the files: `jsonl`, `json_array`, `parquet`, `arrow`, `csv` or `text`. `auto` decides
    by each file's content.
    """
    glob: str = "*"
    """Names of the files to read where a path is a directory: patterns separated by commas, as in
    `*.py,*.c`.
    """
    keep: list[str] = []
    """Columns or keys beside the text to read into the cache in one pass, so that later expressions
    over them read no file; dots reach into nested objects. `where` and `split` keep those that they
    name by themselves.
    """
    attributes: list[str] | str = []
    """Tables of attributes computed elsewhere, joined by identifier: Parquet, CSV or JSON Lines
    files, those of dolma's attributes included, or patterns. Each has a column named as `id` says,
    or `id`; a content hash serves as an identifier, too. Relative paths start from the recipe's
    directory.
    """
    where: str | None = None
    """The documents to keep: an SQL expression of polars over columns of the files, `attributes`,
    and `bytes`, `tokens`, `bytes_per_token`, `copies`, `line`, `file` and `id`, as in `lang = 'en'
    AND quality > 0.4 AND tokens >= 50`. A document for which it is null is removed, too.
    """
    split: SplitRecipe | list[SplitRecipe] = []
    """Divides the domain into sub-domains with shares of their own, as in `{by: topic}` or `{by:
    quality, quantiles: 5}`; a list nests, as in `web:sports:q4`. Keys that take shares by domain
    take levels, too, such as `web:*:q4`, and divide them in proportion to tokens.
    """
    license: str | None = None
    """The license of the text, for the dataset card."""
    metadata: dict[str, Any] = {}
    """Further facts about the domain, which change the recipe's hash and have no other effect."""

    @property
    def splits(self) -> list[SplitRecipe]:
        """The splits of the domain, outermost first."""
        return [self.split] if isinstance(self.split, SplitRecipe) else self.split


class ProxyTokenizer(Frozen, frozen=True):
    """A smaller tokenizer that only the proxy models use."""

    train: TrainTokenizer
    """The tokenizer to train on the recipe's own domains."""


class ProxyRecipe(Frozen, frozen=True):
    """Small models trained on many mixtures. Omitted sizes are the preset's."""

    preset: str = "nano"
    """Model size and training defaults: `nano`, `micro`, `1M`, `10M`, `60M`, `bimix` or `500M`."""
    runs: Annotated[int, Meta(ge=1, le=100_000)] = 16
    """Number of mixtures to draw, from 1 to 100,000; not beside `mixtures`."""
    mixtures: str | None = None
    """A CSV file of mixtures to train, with a column for each domain and shares of the recipe's
    tokens in each row. A relative path starts from the recipe's directory.
    """
    seeds: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Models trained on each mixture, from 1 to 1,000, which differ only in their random seed."""
    tokens: Positive | None = None
    """Training tokens of each run, at least `batch` times `sequence_length`. Omitted: the preset's.
    """
    sequence_length: Positive | None = None
    """Tokens in each training sequence. Omitted: the preset's, not the recipe's
    `sequence_length`.
    """
    batch: Positive | None = None
    """Sequences in each training step. Omitted: the preset's."""
    learning_rate: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """Peak learning rate at width 256, greater than 0, scaled to the preset's width. Omitted: the
    preset's.
    """
    schedule: Literal["constant", "cosine", "exponential", "wsd"] = "constant"
    """Learning rate after warm-up: `constant`, `cosine`, `exponential`, or `wsd` (warm-up, stable,
    decay).
    """
    checkpoints: Annotated[int, Meta(ge=1, le=1000)] = 6
    """Times that losses are measured in a run, from 1 to 1,000; the last is at the end."""
    spacing: Literal["log", "even"] = "log"
    """Spacing of two or more checkpoints, even in training steps (`even`) or in their logarithm
    (`log`).
    """
    validation_tokens: Positive = 50_000
    """Most held-out tokens of each domain on which losses are measured."""
    repetition: Literal["matched", "fresh"] = "matched"
    """How often proxies repeat a domain: as often as the dataset of `budget_tokens` would
    (`matched`), or as rarely as possible (`fresh`).
    """
    tied: bool | None = None
    """Whether the embedding and the output head share one matrix. Omitted: the preset's choice."""
    tokenizer: ProxyTokenizer | None = None
    """A smaller tokenizer for the proxies. Omitted: the recipe's."""
    device: str = "auto"
    """The device that proxies train on: `auto` (a GPU if there is one), `cpu`, `cuda:0`, or several
    of one kind separated by commas.
    """
    engine: Literal["local", "ray"] = "local"
    """Place of the processes for several devices: `local` (this machine) or `ray` (a Ray cluster).
    """
    models: Positive | None = None
    """Most models to train at once. Omitted: as many as fit into the device's memory."""
    tensorboard: str | None = None
    """A directory for TensorBoard logs. A relative path starts from the recipe's directory;
    omitted, no logs are written.
    """


class TableFill(Frozen, frozen=True):
    """Numbers for all rows of a run table that has no column for them."""

    params: Annotated[float, Meta(ge=1, le=1e18)] | None = None
    """Model parameters of every run, at least 1."""
    tokens: Annotated[float, Meta(ge=1, le=1e18)] | None = None
    """Training tokens of every row, at least 1."""


class EvidenceRecipe(Frozen, frozen=True):
    """Losses and log-probabilities from models trained on other mixtures."""

    runs: str | list[str] | None = None
    """A run table such as `runs.csv`, or a list of files, whose tables are joined. A file with
    shares and losses is a table; of the others, each two that follow one another are a pair of
    mixtures and losses, as in `[ratios.csv, metrics.csv, more-runs.csv]`. Relative paths start from
    the recipe's directory. Methods that fit a law need it:
    `bimix`, `bimix_mixed`, `dml`, `olmix`, `additive`, `autoscale`, `ridge`, `gaussian`,
    `boosted`, `regmix`, `joint`, `law`, `ridge_mde`, `gaussian_mde` and `boosted_mde`.
    """
    experts: str | None = None
    """A Parquet file from `curate experts`: log-probabilities of validation text under one model
    for each domain; a relative path starts from the recipe's directory. Methods `mde`, `mixmin`,
    `ridge_mde`, `gaussian_mde` and `boosted_mde` need it.
    """
    far_runs: FarRuns = "leave_out"
    """Treatment of runs that all the others contradict, such as a diverged one: `leave_out` omits
    them from every fit, `keep` does not. They are named in either case.
    """
    fill: dict[str, TableFill] = {}
    """Numbers for tables of `runs` without a column `params` or `tokens`, by file, as in
    `{small.csv: {params: 6e7, tokens: 1e9}}`; the end of a path is enough, and either file of a
    pair. Tables that are joined need both.
    """
    absent_domains: AbsentDomains = "refuse"
    """Treatment of domains that a table in `runs` has no share of, be it one of several tables or
    the only one: `refuse` stops, `zero` takes the share as 0.
    """
    became: dict[str, str | list[str] | dict[str, Share]] = {}
    """Present whereabouts of domains of `runs`, by their name there: another name, as in
    `{web: web-2024}`; a list of the parts that it was divided into, in proportion to their tokens;
    or the share of it that each part holds, as in `{web: {web-hi: 0.3, web-lo: 0.7}}`. Domains with
    the same new name were merged.
    """
    alike: Literal["tokens"] | dict[str, str | list[str]] | None = None
    """Domains of similar text, whose effects law `joint` then expects to be similar before any run,
    if the runs bear it out: groups of names and patterns, as in `{code: [python, "stack-*"]}`; or
    `tokens`, which compares the domains' tokens. It tells most of domains that few runs have.
    """
    stage: str | None = None
    """Stage of training whose rows of `runs` are read, where a column `stage` says which stage each
    row belongs to; with columns `w_<stage>_<domain>`, the stage that the mixture is for.
    """
    proxy: ProxyRecipe | None = None
    """Proxy models that supply the evidence which the method needs and no file gives. It has the
    same keys as the recipe's `proxy` and replaces it.
    """


class ObjectiveRecipe(Frozen, frozen=True):
    """The loss to minimise: `target`, or `weights`, `groups` or both of them."""

    target: str | None = None
    """Minimise the loss on this target alone."""
    weights: dict[str, Share] | Literal["noise"] | None = None
    """Minimise the mean of the targets' losses with these relative weights, at least 0; a target
    that is left out has weight 0. `noise` learns them from the runs: the less a loss differs
    between mixtures beyond its noise, the less it weighs.
    """
    groups: dict[str, str | list[str]] | None = None
    """Minimise the worst of the means of these groups of targets. Each is a name of a target, a
    pattern such as `code_*`, or a list of them; `weights` weigh the targets within a group.
    """
    against: Literal["best_run", "natural"] | None = None
    """Divisor of group means before they are compared: those of the `best_run` for each group, or
    the predicted ones of `natural` shares. Omitted, the best run; for experts, nothing.
    """


class MixtureRecipe(Frozen, frozen=True):
    """How each domain's share of the tokens is chosen."""

    method: str = "natural"
    """The mixing method. `curate methods` lists them with what each needs."""
    measure: str = "conditional"
    """The entropy that method `entropy` uses: `shannon`, `joint`, `conditional` or `von_neumann`.
    """
    estimator: Literal["corrected", "plugin"] = "corrected"
    """Estimator of method `entropy`: `corrected` corrects for bias on samples of equal size and
    gives intervals; `plugin` uses the frequencies of all tokens, as in the BiMix paper.
    """
    temperature: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """Evenness of the shares, greater than 0: larger is nearer to uniform. Method `temperature`
    needs it; `entropy` (1 if omitted) and `leverage` (5 if omitted) take it.
    """
    weights: dict[str, Share] | str | None = None
    """Relative share of the training tokens by domain, at least 0, in place of each domain's
    `weight`; or the path of an earlier `mixture.json` with them, which starts from the recipe's
    directory. Only method `manual` uses it.
    """
    evidence: EvidenceRecipe | None = None
    """Losses of models trained on other mixtures. Only methods that learn from runs or experts read
    it, and only they obey `law` and the keys from `objective` to `level`.
    """
    law: str | None = None
    """The law that method `law` fits; it needs one. `curate fit` compares laws on a run table."""
    objective: str | ObjectiveRecipe = "mean"
    """The loss to minimise: the `mean` of the targets' losses, the `worst` of them, `{target:
    NAME}`, `{weights: {NAME: importance}}`, `{weights: noise}` or `{groups: {GROUP: [NAME,
    PATTERN]}}`. All methods that learn from runs or experts obey it; `noise` needs runs.
    """
    at_tokens: Annotated[float, Meta(ge=1, le=1e18)] | None = None
    """Training tokens at which predicted losses are compared, at least 1; omitted, the most of
    any run. Methods that learn from runs obey it.
    """
    at_params: Annotated[float, Meta(ge=1, le=1e18)] | None = None
    """Model parameters at which predicted losses are compared, at least 1; omitted, the most of
    any run. Methods that learn from runs obey it.
    """
    kl: Annotated[float, Meta(ge=0, le=1e6)] | Literal["auto"] | None = None
    """Strength of the pull towards `prior`, at least 0, in the unit of the runs' losses (nats per
    token for experts) per nat of KL divergence; omitted, 0.05 bits per byte for `olmix` and 0 for
    others. `auto` takes that of least cross-validated regret; it needs runs, and a method with an
    optimum. Methods that learn from runs or experts obey it.
    """
    prior: str | dict[str, Share] = "natural"
    """The mixture that `kl` pulls towards and around which `regmix` draws: `natural` (in proportion
    to supply), `uniform`, or relative shares by domain.
    """
    keep: dict[str, Share] | str | None = None
    """Domains whose proportions to each other stay as they are: relative shares by domain, at least
    0; or the path of an earlier `mixture.json`, which starts from the recipe's directory. Methods
    that learn from runs then choose the sum of these shares and the shares of all other domains,
    and `curate design` proposes such mixtures. Omitted, those that all runs of today keep beside
    runs on earlier domains; with `{}` all are free.
    """
    floors: dict[str, UnitShare] = {}
    """Least share of the training tokens by domain, from 0 to 1; their sum is at most 1. Every
    method obeys them.
    """
    caps: dict[str, UnitShare] = {}
    """Largest share of the training tokens by domain, from 0 to 1. Every method obeys them, beside
    `max_epochs`.
    """
    trust_region: bool = True
    """Whether to stay close to mixtures that some run has tried. Methods that learn from runs obey
    it, except `regmix`.
    """
    replicates: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    """Number of resamples of the runs or experts, from 0 (no intervals) to 100,000. They give the
    expected regret and the mixtures within noise of the best; the intervals of shares too where
    there are none by refits. Methods that learn from runs or experts obey it; omitted, 100 for
    `mde`, `mixmin` and law `bimix`, 40 for `exponential`, 20 for `ridge`, none for other laws.
    """
    discount_repeats: bool = False
    """Whether repeated tokens count for less (Muennighoff et al. 2023, arXiv:2305.16264). Methods
    that learn from runs obey it; `mde` and `mixmin` refuse it.
    """
    level: str | Annotated[int, Meta(ge=1, le=10**9)] | None = None
    """The unit of text that `mde` and `mixmin` mix experts over: `token`, `document`, or a chunk of
    this many tokens, at least 1. Omitted: `token` for `mde`, `document` for `mixmin`.
    """


class ValidationRecipe(Frozen, frozen=True):
    """Documents held out of every mixture, selected by a hash of their content."""

    documents: Annotated[float, Meta(ge=0, lt=1)] = 0.005
    """Share of each domain's documents to hold out, at least 0 and less than 1."""
    key: int = 0
    """Any whole number; another one holds out other documents."""


class OutputRecipe(Frozen, frozen=True):
    """The format and place of the dataset."""

    format: str = "megatron"
    """The output format. `curate formats` lists them."""
    shape: Literal["mixed", "per-domain"] = "mixed"
    """`mixed` writes one stream in training order. `per-domain` writes a folder for each domain,
    with a mixture file for the trainer.
    """
    dir: str | None = None
    """The directory of the dataset, or a URL such as `s3://bucket/my-mix`. A relative path starts
    from the recipe's directory; omitted, it is `out/<name>` there.
    """
    shard_tokens: Positive = 500_000_000
    """Approximate tokens in each shard. Some formats write smaller ones, such as text formats: at
    most 64 million.
    """
    options: dict[str, Any] = {}
    """Settings of the format. `curate formats NAME` lists them with their defaults."""


class NearRecipe(Frozen, frozen=True):
    """Near copies: documents that share most of their runs of words.

    They are found by MinHash signatures in bands: a pair of Jaccard similarity J is caught with
    probability 1 - (1 - J^rows)^bands.
    """

    bands: Annotated[int, Meta(ge=1, le=1000)] | None = None
    """Bands of a signature, from 1 to 1,000. Omitted, with `rows` and `threshold`: 14, as FineWeb.
    """
    rows: Annotated[int, Meta(ge=1, le=1000)] | None = None
    """Numbers in a band, from 1 to 1,000. Omitted, with `bands` and `threshold`: 8, as FineWeb."""
    threshold: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """Jaccard similarity, greater than 0 and less than 1, in place of `bands` and `rows`: those
    whose curve is nearest to a step there are taken.
    """
    permutations: Annotated[int, Meta(ge=1, le=1000)] | None = None
    """Most numbers in a signature, from 1 to 1,000, where `threshold` is given; omitted: 128."""
    ngram: Annotated[int, Meta(ge=1, le=100)] = 5
    """Words in a run, from 1 to 100."""


class DuplicatesRecipe(Frozen, frozen=True):
    """Copies to remove. One document of each set of copies stays."""

    exact: Literal["text", "normalised", "none"] = "text"
    """Copies of the whole text: the same `text`, or also the same `normalised` text (Unicode NFKC,
    lower case, runs of white space as one space).
    """
    near: NearRecipe | None = None
    """Near copies to remove, too; `{}` for the defaults. Omitted: none."""
    within: Literal["all", "domain"] | list[list[str]] = "all"
    """Documents that are compared: `all` of them, those of one `domain`, or those of a group of
    domains, as in `[[web, news], [code]]`; domains in no group are compared with none but their
    own. Near copies of held-out documents are removed from training in any case.
    """
    order: list[str] = []
    """Domains whose documents stay rather than their copies elsewhere, the first one first. The
    others follow in the recipe's order. Within a domain, the lowest content hash stays.
    """


class EvaluationSet(Frozen, frozen=True):
    """An evaluation set, one item in each record of its files; exactly one of `path` and `hf`."""

    path: str | None = None
    """A file or a pattern: JSON Lines, plain or compressed, or Parquet. A relative path starts from
    the recipe's directory.
    """
    hf: HubRecipe | None = None
    """A split of a dataset on the Hugging Face Hub, or in a local dataset folder, whose files are
    JSON Lines or Parquet.
    """
    text: list[str] | str | None = None
    """Columns or keys with text to look for, each on its own; dots reach into nested objects, and
    the texts of a list are joined. Omitted: all that hold text.
    """


class DecontaminateRecipe(Frozen, frozen=True):
    """Evaluation sets to look for in the documents.

    The texts of an item are compared by runs of words, each of which weighs less the more documents
    hold it: one of the weight 1 is in a single document or none, one of the weight 0 in `common`.
    """

    sets: Annotated[dict[Name, str | EvaluationSet], Meta(min_length=1)]
    """Evaluation sets by name: a path, or `{path, text}`."""
    action: Literal["report", "remove", "truncate"] = "report"
    """Treatment of a document that holds a text: `report` only lists it, `remove` removes it
    whole. `truncate` is refused, since the token store holds whole documents.
    """
    ngram: Annotated[int, Meta(ge=2, le=100)] = 8
    """Words in a run, from 2 to 100. Texts with fewer words are not looked for."""
    coverage: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Least share of the weight of a text's runs that a document must hold, greater than 0 and at
    most 1.
    """
    least_words: Positive = 13
    """Least words of a text that a document must hold in such runs; of a shorter text, all."""
    common: Annotated[int, Meta(ge=2, le=10**12)] | None = None
    """Number of documents from which on a run of words is no evidence, at least 2, as with licences
    and boilerplate. Omitted: a quarter of the square root of all documents, but at least 10.
    """


class CountingRecipe(Frozen, frozen=True):
    """Limits of the bigram counter."""

    memory_mb: Annotated[int, Meta(ge=16, le=10**9)] = 256
    """Memory for count tables in each worker, in MiB, at least 16; the rest goes to disk."""


class LimitsRecipe(Frozen, frozen=True):
    """Limits on what a record may hold, on what may be lost, and on memory."""

    record_bytes: Annotated[int, Meta(ge=1, le=10**12)] = RECORD_BYTES
    """Most bytes of one record: of its text, and of the line, array element, CSV record, table cell
    or text file that holds it, decompressed. A larger one is set aside as a bad record and never
    held in memory. A worker may need eight times as much memory as its largest record.
    """
    lost_share: Annotated[float, Meta(ge=0, le=1)] = 0.01
    """Largest share of a domain's bytes or records that may give no document, from 0 to 1: a domain
    that loses more stops the run. A file that is cut short counts as a whole, since nothing says
    what it lacks. It also limits by how much a domain may have shrunk since the last build of the
    same recipe in the output directory. 1 allows any loss.
    """

    memory_mb: Annotated[int, Meta(ge=64, le=10**9)] = 1024
    """Memory in each process for all that grows with the number of documents, in MiB, at least 64:
    lists of documents beyond it are kept in files of the cache directory. Not part of it are the
    programs themselves (150 MB), count tables (`counting.memory_mb`) and single large records.
    """


class ScheduleRecipe(Frozen, frozen=True, rename={"start": "from", "end": "to"}):
    """A mixture that changes from one to another while training goes on."""

    start: dict[str, Share] | str
    """The mixture at the start: relative weights by domain, at least 0, or the name of an earlier
    stage, whose planned shares it then is.
    """
    end: dict[str, Share] | str
    """The mixture at the end, as in `from`."""
    shape: Literal["linear", "cosine", "step"] = "linear"
    """The curve between them over the tokens: `linear`; `cosine`, which is flat at both ends; or
    `step`, which holds each of `steps` mixtures for an equal part of the tokens.
    """
    steps: Annotated[int, Meta(ge=2, le=1000)] | None = None
    """Number of equal parts of the tokens, from 2 to 1,000, in each of which the mixture is
    constant. Omitted: 2 for `step`; `linear` and `cosine` then change with every sample.
    """


class StageRecipe(Frozen, frozen=True):
    """A part of training with a mixture of its own. What it leaves out is the recipe's."""

    name: Name
    """The stage's name, and that of its folder in the output directory."""
    budget_tokens: Positive
    """Exact number of tokens in the stage, end-of-text tokens included."""
    mixture: MixtureRecipe | None = None
    """How each domain's share of the stage's tokens is chosen. It replaces the recipe's as a
    whole; not beside `schedule`.
    """
    schedule: ScheduleRecipe | None = None
    """A mixture that changes within the stage, in place of `mixture`."""
    sequence_length: Positive | None = None
    """Tokens in each row of the stage. Omitted: the recipe's."""
    window: Literal["L", "L+1"] | None = None
    """Tokens stored for each row of the stage. Omitted: the recipe's."""
    packing: Literal["concat", "best-fit", "whole"] | None = None
    """How documents fill the rows of the stage. Omitted: the recipe's."""
    where: str | None = None
    """The documents that the stage may draw, of every domain: an SQL expression as in
    `domains[].where`, such as `tokens >= 8192`. Held-out documents stay the same.
    """
    options: dict[str, Any] = {}
    """Settings of the format for the stage, over those of `output.options`."""
    batch_sequences: Positive | None = None
    """Sequences of a training step. With `output.shape: per-domain` and one for every stage,
    `trainer/` has a file with which the trainer goes through all stages, where it can.
    """


class Recipe(Frozen, frozen=True):
    """A dataset to build. Relative paths start from the recipe's directory."""

    name: Name
    """The dataset's name, which also names its directory: 1 to 100 letters, digits and `. _ + -`,
    starting with a letter or digit.
    """
    tokenizer: TokenizerRecipe
    """The tokenizer of the dataset."""
    domains: Annotated[list[DomainRecipe], Meta(min_length=1)]
    """The sources of text, at least one."""
    budget_tokens: Positive
    """Exact number of tokens in the training set, end-of-text tokens included."""
    mixture: MixtureRecipe = MixtureRecipe()
    """How each domain's share of the tokens is chosen."""
    schedule: ScheduleRecipe | None = None
    """A mixture that changes from the first token to the last, in place of `mixture`."""
    stages: list[StageRecipe] = []
    """Parts of training that follow each other, such as pretraining and annealing, each in a folder
    of the output directory. `max_epochs` then holds over all of them together, and `budget_tokens`
    is their sum, which may be left out.
    """
    sequence_length: Positive | None = None
    """Tokens in each row. Formats that cut the stream into rows need it; omit it for those that
    keep documents.
    """
    window: Literal["L", "L+1"] = "L"
    """Tokens stored for each row: `sequence_length` (`L`), or one more (`L+1`) for trainers that
    take the last label from the row. `L+1` needs `sequence_length`.
    """
    packing: Literal["concat", "best-fit", "whole"] = "concat"
    """How documents fill rows: `concat` joins them and cuts the stream, `best-fit` packs parts of
    documents to cut as few as possible, `whole` gives each part a row of its own. Values other than
    `concat` need `sequence_length`.
    """
    max_epochs: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    """Most passes over any domain's training documents, greater than 0 and at most 1,000,000, where
    the domain sets none itself. Every method obeys it unless `on_shortfall` is `repeat`.
    """
    validation: ValidationRecipe = ValidationRecipe()
    """Documents held out for validation."""
    on_shortfall: Literal["error", "repeat", "redistribute"] = "error"
    """Policy where a domain has too few tokens for its share: `error` refuses weights of method
    `manual` that break a cap, `redistribute` moves them to the nearest that fit, and `repeat`
    ignores the caps of every method. Other methods always stay within the caps unless it is
    `repeat`. A schedule keeps its curve, so `redistribute` refuses one that does not fit.
    """
    on_bad_record: Literal["error", "quarantine"] = "quarantine"
    """Policy for a record that cannot be read: stop (`error`), or set it aside and count it
    (`quarantine`).
    """
    exclude: str | None = None
    """A text file that names documents to leave out, one a line: a record's identifier (a URL where
    `id` names its column) or a content hash of 32 hexadecimal digits, as `curate show` gives it.
    Lines that match no document are counted and said. A relative path starts from the recipe's
    directory.
    """
    duplicates: DuplicatesRecipe | None = None
    """Copies to remove, within and across domains. Omitted: none; copies are only counted."""
    decontaminate: DecontaminateRecipe | None = None
    """Evaluation sets to keep out of the documents. Omitted: none."""
    output: OutputRecipe = OutputRecipe()
    """The format and place of the dataset."""
    limits: LimitsRecipe = LimitsRecipe()
    """Limits on records, losses and memory."""
    counting: CountingRecipe = CountingRecipe()
    """Limits of the bigram counter."""
    proxy: ProxyRecipe = ProxyRecipe()
    """Proxy models for `curate proxy`; `mixture.evidence.proxy` trains them for the mixture
    instead.
    """
    base: str | None = None
    """The directory that relative paths start from. Omitted: the recipe's directory, from which a
    relative `base` starts, too.
    """
    cache: str = ".curate"
    """The directory of the token store, which recipes may share, or a URL such as
    `s3://bucket/store`, from which parts are fetched as needed. A relative path starts from the
    recipe's directory.
    """
    seed: int = 42
    """Any whole number: it determines the order and selection of documents."""

    @property
    def row_tokens(self) -> int | None:
        """Tokens of a row on disk; None where rows are documents."""
        if self.sequence_length is None:
            return None
        return self.sequence_length + (self.window == "L+1")

    @property
    def is_split(self) -> bool:
        """Whether any domain is split, so that sub-domains are known only from the data."""
        return any(domain.split for domain in self.domains)


def source_of(name: str) -> str:
    """Return the recipe's domain that a domain, perhaps one of its sub-domains, is part of.

    Example:
        >>> source_of("web:sports:q4"), source_of("web")
        ('web', 'web')
    """
    return name.partition(":")[0]


class MixtureSettings(Frozen, frozen=True):
    """The part of a recipe that mixing a run table needs."""

    mixture: MixtureRecipe = MixtureRecipe()
    """How shares are chosen."""
    seed: int = 42
    """Seed of the search."""


def without_defaults(value: Any) -> Any:
    """Return plain values, without the keys that have their default.

    Example:
        >>> without_defaults(ValidationRecipe(key=3))
        {'key': 3}
    """
    if isinstance(value, list):
        return [without_defaults(item) for item in value]
    if isinstance(value, dict):
        return {key: without_defaults(item) for key, item in value.items()}
    if not isinstance(value, Struct):
        return value
    items = {}
    for field in _fields(type(value)):
        item = getattr(value, field.name)
        is_made = field.default_factory is not msgspec.NODEFAULT
        if item != (field.default_factory() if is_made else field.default):
            items[field.encode_name] = without_defaults(item)
    return items


@cache
def _fields(struct: type[Struct]) -> tuple[FieldInfo, ...]:
    """List the fields of a struct; msgspec would evaluate its annotations at every call."""
    return fields(struct)


class LoadedRecipe(Struct, frozen=True):
    """A recipe, the directory it came from, and notices from reading it."""

    recipe: Recipe
    base: Path
    """Directory that relative paths start from."""
    notices: list[str]
    overridden: tuple[str, ...] = ()
    """Dotted keys that overrides set, such as `mixture.method`."""
    stage_of: LoadedRecipe | None = None
    """The recipe with stages whose last stage this is; None for a recipe of its own."""
    where: str | None = None
    """The stage's `where`: the documents that it may draw."""

    @property
    def stage(self) -> str | None:
        """Name of the stage that this recipe is of; None for a recipe of its own."""
        return None if self.stage_of is None else self.stage_of.recipe.stages[-1].name

    def overrides(self, key: str) -> bool:
        """Whether an override set this dotted key, a section that holds it, or a part of it."""
        return any(
            f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.")
            for other in self.overridden
        )

    @property
    def hash(self) -> str:
        """Hash of everything that shapes the dataset, but not where it lies on disk.

        Keys that have their default do not count, so that a version of curate with more keys gives
        the same recipe the same hash.
        """
        domains = [
            # The commit that a revision stands for is part of the files' names and contents.
            domain if domain.hf is None else replace(domain, hf=replace(domain.hf, revision=None))
            for domain in self.recipe.domains
        ]
        recipe = replace(
            self.recipe,
            domains=domains,
            base=None,
            cache="",
            proxy=ProxyRecipe(),
            counting=CountingRecipe(),
            limits=LimitsRecipe(record_bytes=self.recipe.limits.record_bytes),
            output=replace(self.recipe.output, dir=None),
        )
        mixture = recipe.mixture
        if mixture.evidence is not None:  # the proxies' losses are hashed, as evidence
            mixture = replace(mixture, evidence=replace(mixture.evidence, proxy=None))
        value = without_defaults(replace(recipe, mixture=mixture))
        if self.where is not None:
            value["where"] = self.where
        return hash_json(msgspec.to_builtins(value, str_keys=True))

    @property
    def proxies(self) -> ProxyRecipe:
        """The small models, from `mixture.evidence.proxy` or `proxy`."""
        evidence = self.recipe.mixture.evidence
        evidence_proxy = evidence.proxy if evidence is not None else None
        return self.recipe.proxy if evidence_proxy is None else evidence_proxy

    def with_proxies(self, proxies: ProxyRecipe) -> LoadedRecipe:
        """Return the same recipe with other small models, under the key that it uses for them."""
        mixture = self.recipe.mixture
        if mixture.evidence is None or mixture.evidence.proxy is None:
            return replace(self, recipe=replace(self.recipe, proxy=proxies))
        return self.with_mixture(
            replace(mixture, evidence=replace(mixture.evidence, proxy=proxies))
        )

    def with_mixture(self, mixture: MixtureRecipe) -> LoadedRecipe:
        """Return the same recipe with another section `mixture`."""
        return replace(self, recipe=replace(self.recipe, mixture=mixture))

    @property
    def cache_dir(self) -> Path:
        """Directory of the token store; where that is in a bucket, of what is fetched from it."""
        url = self.cache_url
        if url is not None:
            return user_cache() / "stores" / name_in_cache(url)
        return self.base / self.recipe.cache

    @property
    def cache_url(self) -> str | None:
        """URL of the token store, where `cache` is one."""
        return bucket_url(self.recipe.cache)

    @property
    def output_dir(self) -> Path:
        """Directory of the artifacts and shards; the staging directory of those in a bucket."""
        url = self.output_url
        if url is not None and self.stage_of is not None:
            return self.stage_of.output_dir / self.stage_of.recipe.stages[-1].name
        if url is not None:
            return self.cache_dir / "buckets" / name_in_cache(url)
        return self.base / (self.recipe.output.dir or f"out/{self.recipe.name}")

    @property
    def output_url(self) -> str | None:
        """URL of the dataset, where `output.dir` is one."""
        if self.stage_of is not None:
            url = self.stage_of.output_url
            return url and f"{url}/{self.stage}"
        return None if self.recipe.output.dir is None else bucket_url(self.recipe.output.dir)
