"""The rows of the built-in statistics, which name the functions that compute them.

Imports inside functions keep compiled code out of commands that only need the names.
"""

from __future__ import annotations

from dataclasses import asdict

from curate.stats.statistic import (
    DOCUMENTS,
    EXCERPTS,
    TEXT,
    TOKENS,
    Column,
    DomainSample,
    Measurement,
    Statistic,
    entropy_measurement,
)

BIMIX = "Ge et al. 2024, BiMix, arXiv:2405.14908v4, App. A"


def _conditional(sample: DomainSample) -> Measurement:
    from curate.stats.signals import bits_per_byte

    report = sample.token_entropies
    detail = report.detail
    details = {
        "plugin": detail.plugin,
        "pairs_end": detail.ends.pairs,
        "lift_end": detail.ends.lift,
        "lift_share": detail.lift_share,
        "bursts": detail.bursts,
        "held_out": None if detail.held_out is None else detail.held_out.documents,
        "bits_per_byte": bits_per_byte(detail.nats, sample.bytes_per_token),
    }
    return entropy_measurement(report.conditional, details)


def _von_neumann(sample: DomainSample) -> Measurement:
    report = sample.von_neumann
    details = {
        "encoder": report.encoder,
        "sample_excerpts": report.documents,
        "vendi": report.vendi,
    }
    return entropy_measurement(report.entropy, details, report.plugin)


def _duplicates(sample: DomainSample) -> Measurement:
    from curate.stats.signals import duplicates

    return Measurement(asdict(duplicates(sample.domain)))


def _type_token(sample: DomainSample) -> Measurement:
    from curate.stats.signals import type_token_curve

    return Measurement([list(point) for point in type_token_curve(sample.pairs)])


def _convergence(sample: DomainSample) -> Measurement:
    from curate.stats.intervals import convergence

    return Measurement(convergence(sample.pairs, sample.token_entropies.detail))


SHANNON = Statistic(
    name="shannon",
    label="SE",
    summary="Shannon entropy of the token",
    unit="nats per token",
    sample=TOKENS,
    estimator="unseen",
    paper=f"{BIMIX}; estimator: see curate.stats.unseen_species",
    measure=lambda sample: entropy_measurement(sample.token_entropies.shannon, {}),
    entropy=True,
    count=lambda counted: counted.shannon,
)

JOINT = Statistic(
    name="joint",
    label="JE",
    summary="joint entropy of a token and its successor",
    unit="nats per pair",
    sample=TOKENS,
    estimator="unseen+stationary",
    paper=f"{BIMIX}; estimator: Shannon plus conditional",
    measure=lambda sample: entropy_measurement(sample.token_entropies.joint, {}),
    entropy=True,
    count=lambda counted: counted.joint,
)

CONDITIONAL = Statistic(
    name="conditional",
    label="CE",
    summary="entropy of the next token given this one",
    unit="nats per token",
    sample=TOKENS,
    estimator="stationary",
    paper="Ge et al. 2024, BiMix, arXiv:2405.14908v4, Eq. 12; estimator: ours, see "
    "curate.stats.conditional",
    measure=_conditional,
    entropy=True,
    count=lambda counted: counted.conditional,
    columns=(
        Column("CE plug-in", ("plugin",), nats=True),
        Column("CE held-out", ("held_out",), nats=True),
        Column("CE bits/byte", interval=True, per_byte=True),
        Column("held-out b/B", ("held_out",), nats=True, per_byte=True),
    ),
)

VON_NEUMANN = Statistic(
    name="von_neumann",
    label="vN bits",
    summary="von Neumann entropy of embedded excerpts",
    unit="nats",
    sample=EXCERPTS,
    estimator="jackknife",
    paper="Friedman and Dieng 2023, The Vendi Score, arXiv:2210.02410, Def. 3.1",
    measure=_von_neumann,
    entropy=True,
    columns=(Column("Vendi", ("vendi",), ".1f"),),
)

BYTES_PER_TOKEN = Statistic(
    name="bytes_per_token",
    summary="UTF-8 bytes of text for each token of text",
    unit="bytes per token",
    sample=DOCUMENTS,
    estimator="exact",
    paper="no paper",
    measure=lambda sample: Measurement(sample.bytes_per_token),
    columns=(Column("bytes/token", style=".2f"),),
)

COMPRESSION_RATIO = Statistic(
    name="compression_ratio",
    summary="bytes of text in one compressed byte",
    unit="bytes per byte",
    sample=TEXT,
    estimator="zstd",
    paper="no paper",
    measure=lambda sample: Measurement(sample.compression.ratio),
    columns=(Column("zstd", style=".2f"),),
)

COMPRESSION = Statistic(
    name="compression",
    summary="compression by zstd, with its 95 % interval over frames",
    unit="bytes per byte; bits per byte",
    sample=TEXT,
    estimator="zstd",
    paper="no paper",
    measure=lambda sample: Measurement(asdict(sample.compression)),
    columns=(Column("zstd b/B", ("bits_per_byte",)),),
)

DUPLICATES = Statistic(
    name="duplicates",
    summary="documents whose text already occurred",
    unit="documents; shares from 0 to 1",
    sample=DOCUMENTS,
    estimator="exact",
    paper="no paper",
    measure=_duplicates,
    columns=(
        Column("copied docs", ("document_share",), ".2%"),
        Column("tokens", ("token_share",), ".2%"),
    ),
)

TYPE_TOKEN = Statistic(
    name="type_token",
    summary="distinct tokens among the first tokens of the sample",
    unit="pairs of tokens and distinct tokens",
    sample=TOKENS,
    estimator="exact",
    paper="no paper",
    measure=_type_token,
    columns=(Column("types", (-1, 1), ",d"),),
)

CONVERGENCE = Statistic(
    name="convergence",
    summary="entropies on ever larger parts of the sample",
    unit="tokens; nats per token",
    sample=TOKENS,
    estimator="as shannon and conditional, and plug-in",
    paper="no paper",
    measure=_convergence,
)
