"""Tables and lines about counts, mixtures, plans and certificates, from the JSON that has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from curate.curation.reasons import REMOVED_FIELDS
from curate.mixture import METHODS
from curate.report.numbers import NATS_TO_BITS, RATIO, LossUnit, loss_unit, megabytes
from curate.report.terminal import numbers_table, plain
from curate.runtime.registry import LISTED_NAMES, counted, list_first
from curate.stats import STATISTICS

SHRUNK = "shrunk"
"""Column for what the last build read and this one did not, shown where there is any."""

COPIES = {"copies": "copies_in_domain", "in others": "copies_in_other_domains"}
"""Columns for documents whose text occurs again, shown where there are any, and their fields."""

ENDS = ("from", "to")
"""Keys of the ends of a schedule."""


def result_table(
    certificate: dict[str, Any],
    bad_records: dict[str, int] | None,
    mixture: dict[str, Any] | None = None,
    stats: dict[str, Any] | None = None,
) -> Table:
    """Compare requested, planned and realised tokens of each domain.

    Args:
        certificate: The fields of `certificate.json`.
        bad_records: Records skipped in each domain; None if unknown.
        mixture: The fields of `mixture.json`, to show intervals of the weights where it has them.
        stats: The fields of `stats.json`, to show entropies.
    """
    bad = bad_records or {}
    low = None if mixture is None else mixture["low"]
    measures = [] if stats is None else _shared_entropies(stats)
    extra = _extra_headings(certificate)
    title = "asked, planned and realised, in shares of tokens"
    interval = () if low is None else ("95 % interval",)
    table = numbers_table(
        f"{title}; entropies in bits" if measures else title,
        (
            "domain", "asked", *interval, "realised", "planned tokens", "realised tokens",
            "epochs", "bad", "lost", *extra, *measures,
        ),
    )  # fmt: skip
    for name, row in certificate["domains"].items():
        # A domain written apart is on disk once, even if the plan repeats it.
        expected = row.get("written_tokens", row["planned_tokens"])
        realised = f"{row['realised_tokens']:,}"
        cells = [
            f"{row['asked_share']:.4%}", *_weight_interval(mixture, name),
            f"{row['realised_share']:.4%}", f"{row['planned_tokens']:,}",
            realised if row["realised_tokens"] == expected else f"[red]{realised}[/]",
            f"{row['epochs']:.3f}", f"{bad[name]:,}" if name in bad else "-", _lost(row),
            *(_extra(row, heading) for heading in extra),
        ]  # fmt: skip
        if stats is not None:
            cells += [_entropy(stats["domains"][name]["entropy"][measure]) for measure in measures]
        table.add_row(plain(name), *cells)
    table.add_section()
    tokens = [f"{certificate[key]:,}" for key in ("budget_tokens", "realised_tokens")]
    table.add_row("all", "", *("" for _ in interval), "", *tokens, "",
                  f"{sum(bad.values()):,}" if bad else "-")  # fmt: skip
    return table


def reason_lines(mixture: Mapping[str, Any]) -> list[str]:
    """Say why the weights are what they are: the method's idea, and what its mixture is worth.

    Args:
        mixture: The fields of `mixture.json`.
    """
    method = METHODS[mixture["method"]]
    return [
        plain(f"weights by {method.name}: {method.summary}"),
        *map(plain, mixture_lines(mixture)),
    ]


def _shared_entropies(stats: dict[str, Any]) -> list[str]:
    """List the entropies of `stats.json` that every domain has."""
    domains = stats["domains"].values()
    return [name for name in STATISTICS if all(name in row["entropy"] for row in domains)]


def _weight_interval(mixture: dict[str, Any] | None, name: str) -> tuple[str, ...]:
    """Format the 95 % interval of a weight as one cell or none."""
    if mixture is None or mixture["low"] is None:
        return ()
    return (f"{mixture['low'][name]:.1%} to {mixture['high'][name]:.1%}",)


def trainer_table(mixture: dict[str, Any]) -> Table:
    """Show how one trainer will draw from domains that are written apart."""
    drawn = "" if mixture["exact"] else ", on average"
    title = f"{mixture['trainer']} will draw {mixture['samples']:,} {mixture['unit']}{drawn}"
    headings = ("weight", mixture["unit"], "tokens", "share", "off by", "epochs", "unseen")
    table = numbers_table(title, ("domain", *headings))
    styles = {
        "weight": ".4%", "samples": ",", "tokens": ",", "share": ".4%", "difference": "+.4%",
        "epochs": ".3f", "unseen": ",",
    }  # fmt: skip
    for name, row in mixture["domains"].items():
        table.add_row(plain(name), *(format(row[key], style) for key, style in styles.items()))
    return table


def reader_lines(fields: dict[str, Any]) -> list[str]:
    """Describe the tokens that readers leave out and how rows are packed.

    Args:
        fields: The fields of `plan.json` or `certificate.json`.
    """
    lines = []
    loss, packing = fields.get("reader_loss"), fields.get("packing")
    if loss is not None:
        lost = loss.get("tokens", loss.get("tokens_at_most"))
        bound = "at most " if "tokens_at_most" in loss else ""
        lines.append(
            f"readers leave out {bound}{lost:,} tokens, in windows of {loss['window_tokens']:,}"
        )
    if packing is not None:
        lines.append(
            f"{packing['packing']}: {packing['rows']:,} rows of {packing['row_tokens']:,} tokens, "
            f"{packing['padding_tokens']:,} of them filling ({packing['padding_share']:.2%}); "
            f"documents cut in {packing['cuts']:,} places"
        )
    return lines


def _entropy(entropy: Mapping[str, Any]) -> str:
    """Format an entropy of `stats.json` in bits, with half of its interval where it has one."""
    bits = f"{entropy['nats'] * NATS_TO_BITS:.3f}"
    high = entropy.get("high")
    return bits if high is None else f"{bits} ± {(high - entropy['nats']) * NATS_TO_BITS:.3f}"


def stats_table(stats: dict[str, Any]) -> Table:
    """Show counts of each domain, and entropies in bits per token.

    Entropies are corrected for bias where they were measured so, as mixtures use them.
    """
    counted = [name for name, row in STATISTICS.items() if row.count is not None]
    extra = _extra_headings(stats)
    headings = (
        "documents",
        "MB",
        "tokens",
        "held out",
        "bytes/token",
        "types",
        *counted,
        "bad",
        "lost",
        *extra,
    )
    shown = [row["entropy"][measure] for row in stats["domains"].values() for measure in counted]
    corrected = any(entropy["estimator"] != "plugin" for entropy in shown)
    kind = (
        "± to the upper end of 95 %, bias corrected; without ±: plug-in" if corrected else "plug-in"
    )
    table = numbers_table(f"domains; entropies in bits per token, {kind}", ("domain", *headings))
    for name, row in stats["domains"].items():
        bits = [_entropy(row["entropy"][measure]) for measure in counted]
        cells = [
            f"{row['documents']:,}", megabytes(row['bytes']), f"{row['tokens']:,}",
            f"{row['tokens_validation']:,}", f"{row['bytes_per_token']:.2f}",
            f"{row['vocabulary_used']:,}", *bits,
            f"{row['bad_records']:,}", _lost(row),
            *(_extra(row, heading) for heading in extra),
        ]  # fmt: skip
        table.add_row(plain(name), *cells)
    return table


def removal_tables(fields: dict[str, Any]) -> list[Table]:
    """Show what became of everything that was read, in a list of one; empty if nothing was removed.

    Args:
        fields: The fields of `stats.json`, `plan.json` or `certificate.json`.
    """
    rows = {name: row.get("amounts", {}) for name, row in fields["domains"].items()}
    if not any(field in amounts for amounts in rows.values() for field in REMOVED_FIELDS):
        return []
    reasons = list(dict.fromkeys(reason for amounts in rows.values() for reason in amounts))
    table = numbers_table(
        "documents, MB and tokens by what became of them; read is the sum of the others",
        ("domain", "of", *(reason.replace("_", " ") for reason in reasons)),
    )
    table.named_by = 2
    units = (("documents", "documents"), ("bytes", "MB"), ("tokens", "tokens"))
    total = {
        reason: {
            unit: sum(amounts.get(reason, {}).get(unit, 0) for amounts in rows.values())
            for unit, _ in units
        }
        for reason in reasons
    }
    for place, (name, amounts) in enumerate([*rows.items(), ("all", total)]):
        if place == len(rows):
            table.add_section()
        for unit, label in units:
            values = [amounts.get(reason, {}).get(unit, 0) for reason in reasons]
            cells = [megabytes(value) if unit == "bytes" else f"{value:,}" for value in values]
            table.add_row(plain(name) if unit == "documents" else "", label, *cells)
    return [table]


def _lost(row: dict[str, Any]) -> str:
    """Format the share of a domain that gave no document: of records or of bytes, the larger.

    More may be lost (≥) where a file is cut short.
    """
    lost = row.get("lost")
    if not lost:  # a dataset of an earlier version
        return "-"
    share = max(lost.get("records_share", 0.0), lost.get("bytes_share", 0.0))
    least = "≥" if lost.get("unknown_share") else ""
    if not share:
        return f"{least}0"
    return f"{least}{share:.2%}" if share >= 0.0001 or least else "<0.01%"


def _extra(row: dict[str, Any], heading: str) -> str:
    """Format the documents whose text occurs again, or the share that is no longer there."""
    if heading == SHRUNK:
        share = row.get("lost", {}).get("shrunk_share", 0.0)
        return f"{share:.2%}" if share >= 0.0001 else "<0.01%" if share else "0"
    return f"{row.get(COPIES[heading], {}).get('documents', 0):,}"


def _extra_headings(fields: dict[str, Any]) -> list[str]:
    """List the columns `SHRUNK` and of `COPIES` that hold anything but 0.

    Args:
        fields: The fields of `stats.json` or `certificate.json`.
    """
    rows = fields["domains"].values()
    return [
        heading for heading in (SHRUNK, *COPIES) if any(_extra(row, heading) != "0" for row in rows)
    ]


def mixture_table(mixture: dict[str, Any], supply_tokens: Mapping[str, int | None]) -> Table:
    """Show each domain's weight, with its interval and epochs if known, and the unconstrained one.

    Args:
        mixture: The fields of `mixture.json`.
        supply_tokens: Tokens of each domain; None if unknown.
    """
    if "stage_mixtures" in mixture:
        return _stages_table(mixture)
    if "schedule" in mixture:
        return _schedule_table(mixture, supply_tokens)
    interval = () if mixture["low"] is None else ("95 % interval",)
    table = numbers_table(
        f"{mixture['method']}; weights are shares of tokens",
        ("domain", "weight", *interval, "unconstrained", "epochs", "supply tokens"),
    )
    table.caption = _prediction(mixture)
    for name, weight in mixture["weights"].items():
        epochs, supply = mixture["epochs"][name], supply_tokens[name]
        cells = [
            f"{weight:.4%}", *_weight_interval(mixture, name),
            f"{mixture['unconstrained'][name]:.4%}",
            "" if epochs is None else f"{epochs:.3f}", "" if supply is None else f"{supply:,}",
        ]  # fmt: skip
        table.add_row(plain(name), *cells)
    return table


def _schedule_table(mixture: Mapping[str, Any], supply: Mapping[str, int | None]) -> Table:
    """Show each domain's share at the ends of a schedule, and their mean."""
    schedule = mixture["schedule"]
    steps = "" if schedule["steps"] is None else f" in {schedule['steps']} steps"
    table = numbers_table(
        f"schedule, {schedule['shape']}{steps}; weights are the mean of both ends, in shares of "
        "tokens",
        ("domain", "from", "to", "weight", "epochs", "supply tokens"),
    )
    for name, weight in mixture["weights"].items():
        shares = [f"{share:.4%}" for share in (*(schedule[e][name] for e in ENDS), weight)]
        tokens = supply[name]
        held = "" if tokens is None else f"{tokens:,}"
        table.add_row(plain(name), *shares, f"{mixture['epochs'][name]:.3f}", held)
    return table


def _stages_table(mixture: Mapping[str, Any]) -> Table:
    """Show each domain's share of every stage, beside the best single mixture."""
    stages, single = mixture["stage_mixtures"], mixture["single_stage"]
    unit = loss_unit(mixture.get("unit"))
    table = numbers_table(
        f"law {mixture['law']}; weights are shares of the tokens of each stage",
        ("domain", *map(plain, stages), "single mixture"),
    )
    for name in single["weights"]:
        shares = [f"{stage['weights'][name]:.4%}" for stage in stages.values()]
        table.add_row(plain(name), *shares, f"{single['weights'][name]:.4%}")
    table.add_section()
    fractions = [f"{stage['fraction']:.2%}" for stage in stages.values()]
    table.add_row("part of all tokens", *fractions, "100.00%")
    table.caption = (
        f"predicted loss {unit.show(mixture['predicted_loss_of_stages'])}, of the single mixture "
        f"{unit.show(single['predicted_loss'])}{unit.after}"
    )
    return table


def gain_line(
    gain: Mapping[str, Any], this: str, other: str, unit: LossUnit, style: str = ".4f"
) -> str:
    """Word an expected gain with its interval, or that there is none beyond noise.

    Args:
        gain: `mean`, `low`, `high` and `within_noise`.
        this: Name of what gains.
        other: Name of what it is compared with.
        unit: Unit of the gain, as shown.
        style: Format of the numbers: percent where the objective is a ratio.
    """
    mean, low, high = (unit.show(gain[end], style) for end in ("mean", "low", "high"))
    interval = f"{mean}{unit.after} (95 %: {low} to {high})"
    if gain["within_noise"]:
        return f"{this} is no better than {other} within noise: {interval}"
    return f"{this} is better than {other} by {interval}"


def noise_lines(noise: Mapping[str, Any], unmoved: Sequence[str]) -> list[str]:
    """Word the noise of the losses, and which of them no mixture moves."""
    stated = {name: value for name, value in noise["relative"].items() if value is not None}
    lines = []
    if stated:
        low, high = (pick(stated, key=lambda name: stated[name]) for pick in (min, max))
        source = (
            f"pooled over repeats of {counted(noise['mixtures_repeated'], 'mixture')}"
            if noise["mixtures_repeated"]
            else "what no smooth function of the mixture explains"
        )
        lines.append(
            f"noise of a loss: {stated[low]:.2%} ({plain(low)}) to {stated[high]:.2%} "
            f"({plain(high)}), {source}"
        )
    if unmoved:
        lines.append(
            f"no mixture moves {len(unmoved)} of {len(noise['relative'])} losses beyond noise: "
            + list_first([plain(name) for name in unmoved])
        )
    return lines


def mixture_lines(mixture: Mapping[str, Any]) -> list[str]:
    """Say what a law's mixture is worth and what it minimises: gain over natural, regret@1, noise.

    Empty where that is unknown.
    """
    pay = mixture.get("stages_pay")
    return [
        *([] if pay is None else [pay["verdict"]]),
        *_worth(mixture),
        *_goal_lines(mixture.get("objective")),
        *_kl_lines(mixture),
    ]


def _kl_lines(mixture: Mapping[str, Any]) -> list[str]:
    """Word how the strength of the pull was chosen; empty where the recipe gives it."""
    choice = mixture.get("kl_choice")
    if choice is None:
        return []
    unit = loss_unit(mixture.get("unit"))
    rows = ", ".join(f"{row['kl']:.3g}: {unit.show(row['regret'])}" for row in choice["tried"])
    return [f"kl {choice['kl']:.3g} by cross-validated regret, {unit.name} ({rows})"]


def _worth(mixture: Mapping[str, Any]) -> list[str]:
    gain, regret = mixture.get("gain_over_natural"), mixture.get("regret_at_1")
    if gain is None or regret is None:
        return []
    unit, style = loss_unit(mixture.get("unit")), ".4f"
    if mixture["objective"]["against"] is not None:
        unit, style = RATIO, ".2%"
    return [
        gain_line(gain, "this mixture", "natural", unit, style),
        f"regret@1 {unit.show(regret['mean'], style)}{unit.after} (95 %: up to "
        f"{unit.show(regret['high'], style)}), the objective that the law's best unseen run gives "
        "up to the really best one",
        *noise_lines(mixture["target_noise"], mixture["unmoved_targets"]),
    ]


def _goal_lines(objective: Mapping[str, Any] | None) -> list[str]:
    """Word the worst of the goals and weights by noise; empty for a plain or weighted mean."""
    if objective is None:
        return []
    goals, lines = objective["goals"], []
    if objective["against"] is not None:
        ratios = {name: goal["loss"] / goal["reference"] for name, goal in goals.items()}
        worst = [
            f"{plain(name)} {ratios[name]:.4f}"
            for name in sorted(ratios, key=lambda name: -ratios[name])
        ]
        what = "groups" if any(len(goal["weights"]) > 1 for goal in goals.values()) else "losses"
        lines.append(
            f"objective: the worst of {len(goals)} {what}, each over that of "
            f"{'natural' if objective['against'] == 'natural' else 'its best run'}: "
            + list_first(worst)
        )
    if objective["weighed_by_noise"]:
        for goal in goals.values():
            if len(goal["weights"]) == 1:  # all of it on one target, whatever its noise
                continue
            weights = sorted(goal["weights"].items(), key=lambda pair: -pair[1])
            shown = [f"{plain(name)} {weight:.1%}" for name, weight in weights]
            if len(shown) > 2 * LISTED_NAMES:
                shown = [*shown[:LISTED_NAMES], "…", *shown[-LISTED_NAMES:]]
            lines.append(f"weights by noise: {', '.join(shown)} (equal: {1 / len(weights):.1%})")
    return lines


def _prediction(mixture: dict[str, Any]) -> str | None:
    """Describe predicted loss, regret and distance from the runs, if the method has them."""
    parts: list[str] = []
    unit = loss_unit(mixture.get("unit"))
    if mixture["predicted_loss"] is not None:
        parts.append(f"predicted loss {unit.show(mixture['predicted_loss'])}{unit.after}")
    regret = mixture.get("regret", {}).get("recommendation")
    if regret is not None:
        # In a worst case the regret is a ratio, whose unit is 1.
        against = (mixture.get("objective") or {}).get("against")
        worth = unit if against is None else RATIO
        parts.append(f"expected regret {worth.show(regret['mean'])}{worth.after}")
    support = mixture.get("support")
    if support is not None:
        parts.append(f"{support['distance']:.3f} from the nearest run, runs within "
                     f"{support['radius']:.3f} of each other")  # fmt: skip
    return "; ".join(parts) or None


def plan_table(plan: dict[str, Any]) -> Table:
    """Show the whole tokens that the plan takes of each domain."""
    table = numbers_table(
        f"plan of {plan['budget_tokens']:,} tokens",
        ("domain", "weight", "tokens", "documents", "epochs", "supply tokens"),
    )
    styles = {
        "weight": ".4%", "tokens": ",", "documents": ",", "epochs": ".3f", "supply_tokens": ",",
    }  # fmt: skip
    for name, row in plan["domains"].items():
        table.add_row(plain(name), *(format(row[key], style) for key, style in styles.items()))
    return table
