"""The table that compares laws on one run table, from `fit.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from curate.report.numbers import loss_unit, short
from curate.report.tables import gain_line, noise_lines
from curate.report.terminal import numbers_table, plain
from curate.runtime.registry import counted

HEADINGS = (
    "regret@1",
    "error %",
    "R2 mean",
    "R2 worst",
    "Spearman",
    "of the mean",
    "later %",
    "CPU s",
)

GROUP_HEADINGS = ("regret@1", "error %", "R2", "Spearman", "of the mean", "regret %")


def lead(fit: Mapping[str, Any]) -> str | None:
    """Say what the best law is worth: regret, gain, noise, and targets that nothing moves.

    None where no law could be fitted.
    """
    scored = [(name, law) for name, law in fit["laws"].items() if law["selection"] is not None]
    if not scored:
        return None
    name, law = scored[0]
    selection, unit = law["selection"], loss_unit(fit["table"].get("unit"))
    gain = selection["gain_over_average_run"]
    moved = len(fit["target_noise"]["relative"]) - len(fit["unmoved_targets"])
    return "\n".join([
        *_idle(name, moved=moved > 0, beats=law["beats_dummies"]),
        f"{name}: regret@1 {unit.show(selection['regret_at_1'])}{unit.after} (95 %: up to "
        f"{unit.show(selection['regret_at_1_high'])}), the mean loss that its best unseen run "
        "gives up to the really best one",
        gain_line(gain, "its best unseen run", "the average run", unit),
        *noise_lines(fit["target_noise"], fit["unmoved_targets"]),
    ])  # fmt: skip


def _idle(best: str, *, moved: bool, beats: bool) -> list[str]:
    """Say that the runs do not tell mixtures apart, or that no law is better than a dummy."""
    if not moved:
        return ["no law beats the mean of the runs beyond noise: they do not tell mixtures apart"]
    if beats:
        return []
    return [
        f"no law beats {best}, a dummy: more runs, or longer ones, would tell what else moves "
        "losses"
    ]


def law_table(fit: Mapping[str, Any]) -> Table:
    """Compare the laws that could be fitted, best first; `=` marks ties with the best."""
    runs, unit = fit["table"], loss_unit(fit["table"].get("unit"))
    table = numbers_table(
        f"{runs['runs']:,} runs, {runs['rows']:,} rows, {len(runs['domains'])} domains, "
        f"{len(runs['targets'])} losses; {fit['folds']}-fold cross-validation by mixture; regret "
        f"{unit.name}",
        ("law", *HEADINGS),
    )
    table.add_column("", overflow="fold")
    for name, law in fit["laws"].items():
        unseen, later = law["unseen_mixtures"], law["later_tokens"]
        if unseen is None:
            continue
        note = "=" if law["ties_with_best"] else ""
        cells = [
            unit.show(law["selection"]["regret_at_1"]),
            _number(unseen["mean_relative_error"], 2, 100),
            _number(unseen["r2_mean"], 3),
            _number(unseen["r2_worst"], 3),
            _number(unseen["spearman_mean"], 1, 100),
            _number(unseen["spearman_of_mean"], 1, 100),
            _number(None if later is None else later["mean_relative_error"], 2, 100),
            f"{law['seconds']:.1f}",
        ]
        verdict = (
            note
            if law["beats_dummies"]
            and len(fit["unmoved_targets"]) < len(fit["target_noise"]["relative"])
            else f"{note} not better than a dummy".strip()
        )
        table.add_row(plain(name), *cells, verdict)
    return table


def group_table(fit: Mapping[str, Any]) -> Table | None:
    """Show what each size and length of runs adds; None where that was not measured."""
    comparison = fit["groups"]
    groups, trials = comparison["groups"], comparison["trials"]
    if not trials:
        return None
    target = groups[-1]
    table = numbers_table(
        f"what each group of runs adds to predictions of {group_name(target)}, by "
        f"{comparison['law']}; {fit['folds']}-fold cross-validation by mixture",
        ("fitted to", "runs", "FLOPs", *GROUP_HEADINGS),
    )
    table.add_column("", overflow="fold")
    for trial in trials:
        without = trial["without_group"]
        name = "all runs" if without is None else f"without {group_name(groups[without])}"
        table.add_row(
            name,
            f"{trial['runs']:,}",
            "" if trial["flops"] is None else f"{trial['flops']:.2g}",
            _number(trial["mean_relative_error"], 2, 100),
            _number(trial["r2_mean"], 3),
            _number(trial["spearman_mean"], 1, 100),
            _number(trial["spearman_of_mean"], 1, 100),
            _number(trial["relative_regret"], 2, 100),
            _group_verdict(trial),
        )
    return table


def purchase_table(purchase: Mapping[str, Any]) -> Table:
    """Compare purchases of runs at two sizes, from `curate design --flops`."""
    small, large = (group_name(purchase["sizes"][name]) for name in ("small", "large"))
    table = numbers_table(
        f"runs of {small} and of {large}: expected regret at the larger size, in % of the loss",
        ("", "small", "large", "FLOPs", "regret %", "±"),
    )
    table.add_column("")
    best = purchase["best"]
    for place, row in enumerate([purchase["nothing"], *purchase["candidates"]]):
        table.add_row(
            "" if place else "no run",
            f"{row['small']:,}",
            f"{row['large']:,}",
            f"{row['flops']:.3g}",
            f"{100 * row['expected_regret']:.3f}",
            f"{200 * row['standard_error']:.3f}",
            "proposed" if place == best + 1 else "",
        )
    return table


def design_table(design: Mapping[str, Any]) -> Table:
    """Show the mixtures to train, in %, with their sizes where they were bought by size."""
    runs = design["runs"]
    sizes = design.get("purchase", {}).get("run_sizes")
    headings = ["run", *(["size"] if sizes else []), *map(plain, next(iter(runs.values())))]
    table = numbers_table("mixtures to train, shares in %", headings)
    for run, shares in runs.items():
        size = [group_name(sizes[run])] if sizes else []
        table.add_row(plain(run), *size, *(f"{100 * share:.1f}" for share in shares.values()))
    return table


def noise_line(noise: Mapping[str, Any]) -> str:
    """Word the noise between seeds of one mixture, and the mark of ties."""
    if not noise["groups"]:
        return "no mixture was run twice, so seed noise is unknown; = : ties by paired errors alone"
    spread = noise["relative_of_mean"]
    return (
        f"seed noise, {counted(noise['groups'], 'mixture')} run more than once: "
        f"{spread * 100:.3f} % of the mean loss; = : indistinguishable from the best"
    )


def _group_verdict(trial: Mapping[str, Any]) -> str:
    if trial["problem"]:
        return plain(f"no fit: {trial['problem']}")
    if trial["verdict"] is None:
        return ""
    return "no difference" if trial["verdict"] == "no difference" else f"it {trial['verdict']}"


def group_name(group: Mapping[str, Any]) -> str:
    """Name a group of runs by its size and tokens."""
    parts = []
    if group["params"] is not None:
        parts.append(f"{short(group['params'], 3)} params")
    if group["tokens"] is not None:
        parts.append(f"{short(group['tokens'], 3)} tokens")
    return ", ".join(parts)


def problems(fit: Mapping[str, Any]) -> list[str]:
    """List the laws that could not be fitted, each with its reason."""
    return [law["problem"] for law in fit["laws"].values() if law["problem"]]


def _number(value: float | None, digits: int, scale: float = 1) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"
