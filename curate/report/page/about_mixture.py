"""Sections about the result: summary, mixture, and what other methods would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from curate.report import artifact_charts
from curate.report.artifact_charts import first, tokens_in_all
from curate.report.numbers import loss_unit
from curate.report.page import figures
from curate.report.page.fields import decimal, dig, interval, lines_of, mapping, percent, whole
from curate.report.page.material import Material
from curate.report.page.parts import (
    DOMAIN,
    Drawing,
    Facts,
    Missing,
    Note,
    PageColumn,
    Part,
    Section,
    Table,
    Texts,
)


def summary(material: Material) -> Section:
    """Say what this is, whether it was certified, and what to know before using it."""
    artifacts = material.artifacts
    certificate, mixed = mapping(artifacts, "certificate"), mapping(artifacts, "mixture")
    manifest, plan = mapping(artifacts, "manifest"), mapping(artifacts, "plan")
    tokenizer = dig(manifest, "tokenizer", "name") or dig(artifacts, "stats", "tokenizer")
    names = (
        mapping(certificate, "domains")
        or mapping(plan, "domains")
        or mapping(artifacts, "stats", "domains")
        or mapping(mixed, "weights")
    )
    rows = [
        ("source", material.source),
        ("domains", whole(len(names)) if names else ""),
        ("stages", ", ".join(mapping(certificate, "stages") or mapping(plan, "stages"))),
        ("training tokens", whole(certificate.get("realised_tokens") or plan.get("budget_tokens"))),
        ("method", _method(mixed)),
        ("predicted loss", _loss(mixed)),
        ("format", str(manifest.get("format") or "")),
        ("sequences", whole(certificate.get("train_sequences"))),
        ("tokenizer", str(tokenizer or "")),
        (
            "made by",
            f"curate {manifest.get('curate_version') or mixed.get('curate_version') or ''}",
        ),
    ]
    parts: list[Part] = [Facts([(name, value) for name, value in rows if value])]
    if certificate:
        parts.insert(0, _verdict(certificate))
    else:
        parts.append(
            Missing(
                "No dataset was built and read back, so nothing is certified.",
                f"curate build {material.command}",
            )
        )
    if material.notices:
        parts.append(Note(material.notices, "warning"))
    return Section("summary", "Summary", "What is this, and can it be trusted?", parts)


def _loss(mixed: Mapping[str, Any]) -> str:
    """Format a predicted loss with its unit; empty without."""
    unit = loss_unit(mixed.get("unit"))
    shown = unit.show(mixed.get("predicted_loss"))
    return shown and f"{shown} {unit.name}"


def _method(mixed: Mapping[str, Any]) -> str:
    words = [str(mixed[key]) for key in ("method", "paper") if mixed.get(key)]
    return ", ".join(word for word in words if "no paper" not in word)


def _verdict(certificate: Mapping[str, Any]) -> Note:
    problems = certificate.get("problems")
    if certificate.get("ok") is True:
        overlap = whole(certificate.get("train_validation_overlap_documents"))
        stages = mapping(certificate, "stages")
        what = f"every shard of all {len(stages)} stages" if stages else "every shard"
        line = f"Certified: {what} was read back and holds the tokens that were planned."
        if overlap:
            line += f" {overlap} documents are in both training and validation."
        return Note([line], "good")
    listed = [str(line) for line in problems] if isinstance(problems, list) else []
    return Note(["Not certified: what is on disk differs from the plan.", *listed], "bad")


def mixture(material: Material) -> Section:
    """Show the shares asked, planned and realised."""
    section = ("mixture", "Mixture", "Is the share you get the one asked for?")
    artifacts = material.artifacts
    mixed = mapping(artifacts, "mixture")
    realised = mapping(artifacts, "certificate", "domains")
    names = list(mapping(mixed, "weights") or mapping(artifacts, "plan", "domains") or realised)
    if not names:
        command = f"curate mix {material.command}"
        return Section(*section, [Missing("No mixture was derived.", command)])
    staged = mapping(artifacts, "certificate", "stages") or mapping(artifacts, "plan", "stages")
    parts: list[Part] = [_shares_table(artifacts, names)]
    chart = artifact_charts.shares(artifacts)
    if staged:
        parts = _stage_tables(artifacts, names)
        chart = artifact_charts.stages(artifacts)
    elif mapping(mixed, "stages"):
        parts.append(_law_stages_table(mixed))
    if chart is not None:
        parts.insert(0, Drawing([figures.draw(chart)]))
    if not realised:
        parts.append(
            Missing(
                "Nothing was written yet, so nothing is realised.",
                f"curate build {material.command}",
            )
        )
    lines = [
        line for key in ("constraints_active", "warnings") for line in lines_of(mixed.get(key))
    ]
    if lines:
        parts.append(Note(lines, "warning"))
    parts += _trainer_tables(artifacts)
    return Section(*section, parts)


def _shares_table(artifacts: Mapping[str, Any], names: Sequence[str]) -> Table:
    """Compare the shares asked, planned and realised, with passes and supply."""
    mixed = mapping(artifacts, "mixture")
    planned = mapping(artifacts, "plan", "domains")
    realised = mapping(artifacts, "certificate", "domains")
    columns = [
        DOMAIN,
        PageColumn(
            "asked", "Share of the training tokens that the method chose, after caps and floors."
        ),
        PageColumn(
            "95 % interval",
            "Where the share would lie with other runs or documents of the same "
            "kind, and with other laws; empty where the method states none.",
        ),
        PageColumn("planned tokens", "The share as whole tokens; they sum to the budget exactly."),
        PageColumn("realised tokens", "Counted in the shards on disk."),
        PageColumn("realised", "Share of the tokens counted on disk."),
        PageColumn(
            "passes", "How often the domain's training text is seen: 2 is every document twice."
        ),
        PageColumn("supply", "Training tokens of the domain, each document counted once."),
    ]
    rows = [
        [
            name,
            percent(dig(mixed, "weights", name) if mixed else dig(planned, name, "weight"), 3),
            interval(dig(mixed, "low", name), dig(mixed, "high", name), lambda v: percent(v, 1)),
            whole(dig(planned, name, "tokens")),
            whole(dig(realised, name, "realised_tokens")),
            percent(dig(realised, name, "realised_share"), 3),
            decimal(
                first(
                    dig(realised, name, "epochs"),
                    dig(planned, name, "epochs"),
                    dig(mixed, "epochs", name),
                )
            ),
            whole(
                first(
                    dig(planned, name, "supply_tokens"),
                    dig(artifacts, "stats", "domains", name, "tokens_train"),
                )
            ),
        ]
        for name in names
    ]
    budget = first(
        dig(artifacts, "plan", "budget_tokens"), dig(artifacts, "certificate", "budget_tokens")
    )
    total = [
        "all",
        "",
        "",
        whole(budget),
        whole(dig(artifacts, "certificate", "realised_tokens")),
        "",
        "",
        "",
    ]
    return Table("Asked, planned and realised", columns, rows, total)


def _stage_tables(artifacts: Mapping[str, Any], names: Sequence[str]) -> list[Part]:
    """Show shares and passes of a recipe in stages, by stage and over all of them."""
    planned, realised = (mapping(artifacts, name) for name in ("plan", "certificate"))
    stages = mapping(realised, "stages") or mapping(planned, "stages")
    whole_run = mapping(realised, "domains") or mapping(planned, "domains")
    sizes = {name: whole(dig(stage, "budget_tokens")) for name, stage in stages.items()}
    in_all = {name: tokens_in_all(whole_run, name) or 0.0 for name in names}
    total = sum(in_all.values())

    def share(stage: Any, name: str) -> str:
        row = mapping(stage, "domains", name)
        asked = percent(first(row.get("asked_share"), row.get("weight")), 2)
        on_disk = percent(row.get("realised_share"), 2)
        return asked if on_disk in ("", asked) else f"{asked} ({on_disk})"

    columns = [
        DOMAIN,
        *(
            PageColumn(
                name, f"Share of the {sizes[name]} tokens of stage {name} that is asked for; in "
                "brackets what is on disk, where that differs.",
            )
            for name in stages
        ),
        PageColumn("in all", "Share of the tokens of all stages."),
        PageColumn("tokens", "Tokens of all stages."),
    ]  # fmt: skip
    shares = [
        [
            name,
            *(share(stage, name) for stage in stages.values()),
            percent(in_all[name] / total, 2) if total else "",
            whole(in_all[name]),
        ]
        for name in names
    ]
    sums = ["all", *sizes.values(), "", whole(total)]
    passes_columns = [
        DOMAIN,
        *(PageColumn(name, f"Passes over the domain's training text in stage {name}.")
          for name in stages),
        PageColumn("in all", "Passes of all stages together, which max_epochs bounds."),
        PageColumn("at most", "The most passes that the recipe allows."),
        PageColumn("supply", "Training tokens of the domain, each document counted once."),
    ]  # fmt: skip
    passes = [
        [
            name,
            *(decimal(dig(whole_run, name, "epochs_by_stage", stage)) for stage in stages),
            decimal(dig(whole_run, name, "epochs")),
            decimal(dig(whole_run, name, "max_epochs"), 2),
            whole(dig(whole_run, name, "supply_tokens")),
        ]
        for name in names
    ]
    return [
        Table("Mixture by stage, in the order of training", columns, shares, sums),
        Table("Passes by stage", passes_columns, passes),
    ]


def _law_stages_table(mixed: Mapping[str, Any]) -> Table:
    """Show the mixture that a law of stages finds for each, beside the best single one."""
    stages = mapping(mixed, "stages")
    single = mapping(mixed, "single_stage", "weights")
    columns = [
        DOMAIN,
        *(
            PageColumn(
                name, f"Share in stage {name}, {percent(dig(stage, 'fraction'), 1)} of the run."
            )
            for name, stage in stages.items()
        ),
        PageColumn("single mixture", "Share in the best mixture that all stages have in common."),
    ]
    rows = [
        [
            name,
            *(percent(dig(stage, "weights", name), 2) for stage in stages.values()),
            percent(single.get(name), 2),
        ]
        for name in single
    ]
    verdict = dig(mixed, "stages_pay", "verdict")
    return Table("Stages by the law", columns, rows, note=str(verdict or ""))


def _trainer_tables(artifacts: Mapping[str, Any]) -> list[Part]:
    """Show what a trainer will draw from domains that are written apart."""
    mixtures = dig(artifacts, "certificate", "trainer_mixture") or dig(
        artifacts, "plan", "trainer_mixture"
    )
    tables: list[Part] = []
    for row in mixtures if isinstance(mixtures, list) else []:
        columns = [
            DOMAIN,
            PageColumn("weight", "Number in the trainer's own mixture file."),
            PageColumn("samples", "Windows or rows that the trainer will draw."),
            PageColumn("tokens", "Tokens in them."),
            PageColumn("share", "Their share of all tokens."),
            PageColumn("off by", "Difference from the share asked for."),
            PageColumn("passes", "How often the trainer sees the domain."),
        ]
        rows = [
            [
                name,
                percent(dig(cells, "weight"), 4),
                whole(dig(cells, "samples")),
                whole(dig(cells, "tokens")),
                percent(dig(cells, "share"), 4),
                percent(dig(cells, "difference"), 4),
                decimal(dig(cells, "epochs")),
            ]
            for name, cells in mapping(row, "domains").items()
        ]
        tables.append(Table(f"What {dig(row, 'trainer')} will draw", columns, rows))
    return tables


def methods(material: Material) -> Section:
    """Compare the mixtures of several methods."""
    section = ("methods", "Methods side by side", "Would another method choose another mixture?")
    comparison = mapping(material.artifacts, "mixtures") or mapping(
        material.artifacts, "entropy_report", "comparison"
    )
    mixtures = mapping(comparison, "mixtures")
    if not mixtures:
        command = f"curate mix {material.command} --compare"
        missing = Missing("Methods were not compared.", command)
        return Section(*section, [missing, *_front(material)])
    names = list(
        dict.fromkeys(name for row in mixtures.values() for name in mapping(row, "weights"))
    )
    columns = [DOMAIN] + [
        PageColumn(method, f"Share of the training tokens by method {method}.")
        for method in mixtures
    ]
    rows = [
        [name, *(percent(dig(row, "weights", name), 1) for row in mixtures.values())]
        for name in names
    ]
    parts: list[Part] = [Table("Shares by method", columns, rows), _promises(mixtures)]
    chart = artifact_charts.methods(comparison)
    if chart is not None and len(names) <= figures.ROWS_DRAWN:
        parts.insert(0, Drawing([figures.draw(chart)]))
    parts += _front(material)
    left_out = mapping(comparison, "left_out")
    if left_out:
        lines = [f"{name}: {reason}" for name, reason in left_out.items()]
        parts.append(Texts("Methods left out, and why", [("reasons", lines)]))
    return Section(*section, parts)


def _front(material: Material) -> list[Part]:
    """Show the Pareto front between groups of targets, where it was traced."""
    front = mapping(material.artifacts, "front")
    charts = artifact_charts.front(front)
    if not charts:
        return []
    method = front.get("method")
    lines = [
        f"Pareto front between groups of targets, by {method}.",
        *lines_of(front.get("warnings")),
    ]
    return [Note(lines), Drawing([figures.draw(chart) for chart in charts])]


def _promises(mixtures: Mapping[str, Any]) -> Table:
    """Compare predicted losses, passes, and distances from natural and from the runs."""
    columns = [
        PageColumn("method", "See `curate methods` for what each is.", False),
        PageColumn(
            "predicted loss",
            "By the method's own law, in bits a token where the runs tell their unit; laws of "
            "different methods do not compare beyond their errors.",
        ),
        PageColumn("most passes", "Passes over the most repeated domain."),
        PageColumn(
            "from natural", "Share of tokens that differ from mixing in proportion to supply."
        ),
        PageColumn(
            "nearest run",
            "Distance to the nearest training run, from 0 (the same mixture) to 1 (no domain in "
            "common), and how far runs are from each other.",
        ),
    ]
    rows = [
        [
            name,
            loss_unit(dig(row, "unit")).show(dig(row, "predicted_loss")),
            decimal(dig(row, "max_epochs"), 2),
            percent(dig(row, "tv_natural"), 1),
            _support(row),
        ]
        for name, row in mixtures.items()
    ]
    return Table("What each promises", columns, rows)


def _support(row: Mapping[str, Any]) -> str:
    distance, radius = (decimal(dig(row, "support", key)) for key in ("distance", "radius"))
    outside = ", outside" if dig(row, "support", "inside") is False else ""
    return f"{distance} of {radius}{outside}" if distance else ""
