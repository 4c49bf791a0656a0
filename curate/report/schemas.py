"""JSON Schemas of the files that curate writes, made from structs of their fields.

`docs/files.md` says what each field means. A schema refuses fields that it does not name, so that
a test notices where a file and its struct differ.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from curate.dataset.manifest import Manifest
from curate.errors import RecipeError
from curate.runtime.registry import unknown_name

Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Shares = dict[str, Share]
Numbers = dict[str, float | None]


class _Fields(Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of all files and of their parts."""


class _Origin(_Fields):
    """Fields that most files begin with."""

    schema: Count
    curate_version: str
    recipe_hash: Digest
    inputs: dict[str, Digest]


class Interval(_Fields):
    """A mean with its 95 % interval."""

    mean: float
    low: float | None | UnsetType = UNSET
    high: float | None | UnsetType = UNSET
    within_noise: bool | UnsetType = UNSET
    predicted: float | None | UnsetType = UNSET
    verdict: str | UnsetType = UNSET


class Range(_Fields):
    """Both ends of an interval."""

    low: float
    high: float


class DocumentAmounts(_Fields):
    """Documents, their bytes of text and their tokens."""

    documents: Count
    bytes: Count
    tokens: Count


class LostAmounts(_Fields):
    """Records that gave no document, and how much more the last build had."""

    records: Count
    bytes: Count
    records_share: Share
    bytes_share: Share
    files_without_document: Count
    damaged_files: Count
    unknown_share: Share
    damaged: list[str]
    shrunk_files: Count
    shrunk_documents: Count
    shrunk_bytes: Count
    shrunk_share: Share


class _Read(_Fields):
    """Amounts of everything read of a domain, by what became of it."""

    amounts: dict[str, DocumentAmounts]
    lost: LostAmounts
    copies_in_domain: DocumentAmounts
    copies_in_other_domains: DocumentAmounts


class CountedEntropy(_Fields):
    """An entropy in nats, as mixtures use it."""

    nats: float
    low: float | None
    high: float | None
    estimator: str
    sample_tokens: Count
    plugin: float | None


class CountedDomain(_Read):
    """A domain in `stats.json`."""

    files: Count
    documents: Count
    documents_validation: Count
    bytes: Count
    tokens: Count
    tokens_train: Count
    tokens_validation: Count
    bad_records: Count
    vocabulary_used: Count
    bigrams_used: Count
    bytes_per_token: float
    entropy: dict[str, CountedEntropy]


class StatsFile(_Origin):
    """`stats.json`: what each domain holds."""

    backend: str
    tokenizer: str
    domains: dict[str, CountedDomain]


class _MixtureFields(_Fields):
    """A method's answer about a mixture; only laws and experts have the optional fields."""

    method: str
    weights: Shares
    unconstrained: Shares
    low: Shares | None
    high: Shares | None
    predicted_loss: float | None
    epochs: Numbers
    constraints_active: list[str]
    warnings: list[str]
    paper: str
    unit: str | UnsetType = UNSET
    law: str | None | UnsetType = UNSET
    level: str | int | UnsetType = UNSET
    optimality_gap: float | None | UnsetType = UNSET
    support: dict[str, Any] | UnsetType = UNSET
    gain_over_natural: dict[str, Any] | None | UnsetType = UNSET
    regret_at_1: Interval | None | UnsetType = UNSET
    target_noise: dict[str, Any] | None | UnsetType = UNSET
    unmoved_targets: list[str] | UnsetType = UNSET
    observed: dict[str, Any] | UnsetType = UNSET
    at: Numbers | UnsetType = UNSET
    predicted_losses: Numbers | UnsetType = UNSET
    predicted_intervals: dict[str, Range] | UnsetType = UNSET
    objective: dict[str, Any] | UnsetType = UNSET
    kl_choice: dict[str, Any] | UnsetType = UNSET
    kept: dict[str, Any] | UnsetType = UNSET
    alike: Numbers | UnsetType = UNSET
    laws: dict[str, Any] | UnsetType = UNSET
    within_noise_of_best: dict[str, Range] | UnsetType = UNSET
    regret: dict[str, Interval] | UnsetType = UNSET
    replicates: Count | UnsetType = UNSET
    schedule: dict[str, Any] | UnsetType = UNSET
    stage_mixtures: dict[str, Any] | UnsetType = UNSET
    predicted_loss_of_stages: float | UnsetType = UNSET
    single_stage: dict[str, Any] | UnsetType = UNSET
    stages_pay: dict[str, Any] | UnsetType = UNSET


class MixtureFile(_MixtureFields, kw_only=True):
    """`mixture.json`: the weights. Its origin is absent where it is made from runs alone."""

    schema: Count | UnsetType = UNSET
    curate_version: str | UnsetType = UNSET
    recipe_hash: Digest | UnsetType = UNSET
    inputs: dict[str, Digest] | UnsetType = UNSET


class NumberArray(_Fields):
    """Numbers of 64 bits, little-endian, row by row, in base64."""

    shape: list[Count]
    float64: str


class LawFile(_Fields):
    """`law.json`: the law that a mixture was chosen by."""

    law: str
    domains: list[str]
    targets: list[str]
    unit: str
    tokens: float | None
    params: float | None
    goals: list[list[float]]
    relative: bool
    kl: float
    prior: list[float]
    discount_repeats: bool
    half_widths: list[float | None] | None
    widths: dict[str, Any] | None
    runs_tokens: list[float] | None
    misfit: float | None
    radius: float | None
    mixtures: NumberArray
    measured: NumberArray
    unseen: NumberArray | None
    formula: dict[str, Any] | None
    schema: Count | UnsetType = UNSET
    curate_version: str | UnsetType = UNSET
    recipe_hash: Digest | UnsetType = UNSET
    inputs: dict[str, Digest] | UnsetType = UNSET


class ComparedMixture(_MixtureFields, kw_only=True):
    """A mixture in `mixtures.json`."""

    max_epochs: float | None
    tv_natural: float | None


class MixturesFile(_Fields):
    """`mixtures.json`: the mixtures of several methods."""

    budget_tokens: Count | None
    mixtures: dict[str, ComparedMixture]
    left_out: dict[str, str]


class FrontPoint(_Fields):
    """A mixture of `front.json`."""

    importance: dict[str, float]
    losses: dict[str, float]
    weights: Shares
    optimality_gap: float | None


class FrontFile(_Fields, kw_only=True):
    """`front.json`: mixtures between the best for one group of targets and for another."""

    method: str
    unit: str
    law: str | None
    reference: dict[str, float] | None
    natural: dict[str, float]
    relative_error: dict[str, float] | None
    kl_choice: dict[str, Any] | UnsetType = UNSET
    warnings: list[str]
    points: list[FrontPoint]
    schema: Count | UnsetType = UNSET
    curate_version: str | UnsetType = UNSET
    recipe_hash: Digest | UnsetType = UNSET
    inputs: dict[str, Digest] | UnsetType = UNSET


class FileLine(_Fields):
    """A file with its size and hash."""

    path: str
    bytes: Count
    xxh3: Digest


class PlannedShare(_Read):
    """A domain in `plan.json`."""

    weight: Share
    tokens: Count
    documents: Count
    epochs: float
    supply_tokens: Count
    written_tokens: Count | UnsetType = UNSET


class PackedRows(_Fields):
    """How documents made rows of one length."""

    packing: str
    row_tokens: Count
    rows: Count
    padding_tokens: Count
    padding_share: Share
    cuts: Count


class PlanFile(_Origin):
    """`plan.json`: whole tokens by domain."""

    budget_tokens: Count
    domains: dict[str, PlannedShare]
    warnings: list[str]
    reader_loss: dict[str, Count | None] | None | UnsetType = UNSET
    packing: PackedRows | None | UnsetType = UNSET
    trainer_mixture: list[dict[str, Any]] | UnsetType = UNSET


class CertifiedDomain(_Read):
    """A domain in `certificate.json`."""

    asked_share: Share
    planned_tokens: Count
    realised_tokens: Count
    realised_share: Share
    epochs: float
    validation_tokens: Count
    written_tokens: Count | UnsetType = UNSET


class FurthestWindow(_Fields):
    """The stretch of the tokens whose mixture is furthest off."""

    window_tokens: Count
    domain: str
    share: Share
    realised_share: Share
    window: Count | UnsetType = UNSET
    asked_share: Share | UnsetType = UNSET


class CertificateFile(_Fields):
    """`certificate.json`: planned against realised. A damaged manifest leaves the first fields."""

    schema: Count
    curate_version: str
    ok: bool
    problems: list[str]
    domains: dict[str, CertifiedDomain]
    recipe_hash: Digest | UnsetType = UNSET
    build_hash: Digest | UnsetType = UNSET
    budget_tokens: Count | UnsetType = UNSET
    realised_tokens: Count | UnsetType = UNSET
    train_sequences: Count | UnsetType = UNSET
    shape: str | UnsetType = UNSET
    trainer_mixture: list[dict[str, Any]] | UnsetType = UNSET
    train_validation_overlap_documents: Count | UnsetType = UNSET
    tokens_compared_with_store: bool | UnsetType = UNSET
    reader_loss: dict[str, Count | None] | None | UnsetType = UNSET
    packing: PackedRows | None | UnsetType = UNSET
    largest_share_deviation_in_windows: FurthestWindow | None | UnsetType = UNSET
    shards: list[FileLine] | UnsetType = UNSET
    files: list[FileLine] | UnsetType = UNSET
    xxh3: Digest | UnsetType = UNSET


class QuarantineLine(_Fields):
    """`quarantine.jsonl`, a line: a bad record."""

    domain: str
    file: str
    line: Count
    reason: str
    excerpt: str


class ProxyFile(_Fields):
    """`proxy.json`: the runs of small models in `runs.csv`."""

    schema: Count
    settings: Digest
    runs: dict[str, str]
    failed: dict[str, str]
    domains: dict[str, dict[str, Any]] | UnsetType = UNSET


class TriedCandidate(_Fields):
    """A mixture in `validation.json`, over its seeds."""

    objective: Interval
    loss: dict[str, Interval]


class ValidatedSize(_Fields):
    """A size of models in `validation.json`."""

    preset: str
    params: Count
    tokens: Count
    verdict: str
    against: dict[str, Interval]
    ranking: list[str]
    candidates: dict[str, TriedCandidate]
    prediction: dict[str, Any] | None


class ValidationFile(_Origin):
    """`validation.json`: the recommended mixture against its rivals."""

    method: str
    seeds: list[Count]
    weights: dict[str, Shares]
    verdict: str
    objective_unit: str
    sizes: list[ValidatedSize]
    transfer: list[dict[str, Any]]


class EntropyReportFile(_Origin):
    """`entropy_report.json`: entropies with what they rest on."""

    backend: str
    tokenizer: str
    sample: dict[str, Any]
    estimators: dict[str, list[str]]
    domains: dict[str, dict[str, Any]]
    between: dict[str, Any]
    warnings: list[str]
    comparison: dict[str, Any] | UnsetType = UNSET


class TriedLaw(_Fields):
    """A law in `fit.json`."""

    problem: str | None
    seconds: float
    ties_with_best: bool | None
    beats_dummies: bool | None
    selection: dict[str, Any] | None
    unseen_mixtures: dict[str, Any] | None
    later_tokens: dict[str, Any] | None


class FitFile(_Fields):
    """`fit.json`: laws compared on runs."""

    schema: Count
    curate_version: str
    inputs: dict[str, Digest]
    notices: list[str]
    table: dict[str, Any]
    folds: Count
    seed_noise: dict[str, Any] | None
    target_noise: dict[str, Any] | None
    unmoved_targets: list[str]
    laws: dict[str, TriedLaw]
    groups: dict[str, Any] | None | UnsetType = UNSET


ARTIFACT_SCHEMAS: dict[str, type[Struct]] = {
    "certificate": CertificateFile,
    "entropy_report": EntropyReportFile,
    "fit": FitFile,
    "front": FrontFile,
    "law": LawFile,
    "manifest": Manifest,
    "mixture": MixtureFile,
    "mixtures": MixturesFile,
    "plan": PlanFile,
    "proxy": ProxyFile,
    "quarantine": QuarantineLine,
    "stats": StatsFile,
    "validation": ValidationFile,
}
"""Files with a schema, by their name without suffix."""


def artifact_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a file that curate writes.

    Args:
        name: Its name without suffix, such as `stats`.

    Raises:
        RecipeError: There is no schema of that name.

    Example:
        >>> sorted(artifact_schema("quarantine")["$defs"]["QuarantineLine"]["required"])
        ['domain', 'excerpt', 'file', 'line', 'reason']
    """
    if name not in ARTIFACT_SCHEMAS:
        raise RecipeError(unknown_name("artifact", name, ["recipe", *ARTIFACT_SCHEMAS], "schema"))
    fields = msgspec.json.schema(ARTIFACT_SCHEMAS[name])
    for definition in fields["$defs"].values():
        if "properties" in definition:
            definition["additionalProperties"] = False
    if name == "manifest":  # which is written with its own hash
        properties = fields["$defs"]["Manifest"]["properties"]
        properties["xxh3"] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **fields}
