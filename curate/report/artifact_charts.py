"""Charts of what artifacts hold, for the page and for plots.

Artifacts may come from strangers: what is absent, or of another type, is left out, and a chart
without anything to show is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.report.charts import (
    SERIES,
    Axes,
    Chart,
    Dots,
    Line,
    Lines,
    Mark,
    Matrix,
    Point,
    Points,
)
from curate.report.numbers import BITS, NATS_TO_BITS, RATIO, LossUnit, loss_unit, short
from curate.report.page.fields import dig, in_bits, mapping, number, percent

if TYPE_CHECKING:
    import polars

    from curate.report.page.material import LawCheck, TrainingCurve

MEASURES = {
    "conditional": "conditional entropy, bits a token",
    "shannon": "entropy of a token, bits",
    "joint": "entropy of two tokens, bits",
    "von_neumann": "von Neumann entropy, bits",
}
"""Entropies, and the name of each on an axis."""

POINTS = 400
"""Most points of a line or runs in a table of the page."""
CURVE_POINTS = 120
"""Most points of a training curve, each the mean of the steps before it."""
RUNS_NAMED = 8
"""Training curves up to which each has a name."""
GROUPS_PAIRED = 3
"""Groups of targets up to which every two are drawn; of more, each beside the first."""


def entropies(domains: Mapping[str, Any], measure: str) -> Chart | None:
    """Chart one entropy of every domain, highest first.

    Args:
        domains: `domains` of `entropy_report.json` or `stats.json`.
        measure: A key of `MEASURES`.
    """
    marks = [
        (name, Mark(0, value, in_bits(entropy.get("low")), in_bits(entropy.get("high"))))
        for name, row in domains.items()
        if (entropy := mapping(row, "entropy", measure))
        and (value := in_bits(entropy.get("nats"))) is not None
    ]
    if not marks:
        return None
    marks.sort(key=lambda row: -row[1].value)
    return Chart(
        Dots(Axes(MEASURES[measure]), [(name, [mark]) for name, mark in marks]),
        "Conditional entropy with its 95 % interval: the further right, the harder the next "
        "token is to predict. Domains whose intervals overlap may be equal."
        if measure == "conditional"
        else "With its 95 % interval, where that is measured.",
    )


def saturation(domains: Mapping[str, Any], plug_in: bool = False) -> Chart | None:
    """Chart estimates of the conditional entropy on growing samples.

    Args:
        domains: `domains` of `entropy_report.json`.
        plug_in: Whether to chart the plug-in estimate, which is too low on small samples.
    """
    key = "conditional_plugin" if plug_in else "conditional"
    lines = []
    for name, row in domains.items():
        points = dig(row, "convergence")
        pairs = [
            (number(dig(point, "sample_tokens")), in_bits(dig(point, key)))
            for point in (points if isinstance(points, list) else [])
        ]
        measured = [(x, y) for x, y in pairs if x and y is not None]
        if len(measured) > 1:
            lines.append(Line(name, measured))
    if not lines:
        return None
    name = f"conditional entropy{', plug-in' if plug_in else ''}, bits"
    return Chart(
        Lines(Axes("tokens in the sample", name, log_x=True), lines),
        "The same estimate on growing samples. A line that still moves at its right end is "
        "no property of the domain yet.",
    )


def divergence(report: Mapping[str, Any]) -> Chart | None:
    """Chart the divergence of every two domains; the diagonal is empty.

    Args:
        report: The fields of `entropy_report.json`.
    """
    between = mapping(report, "between")
    order, rows = between.get("order"), between.get("js")
    if not isinstance(order, list) or not isinstance(rows, list) or len(order) < 2:
        return None
    names = [str(name) for name in order]
    matrix = [[in_bits(value) for value in row] if isinstance(row, list) else [] for row in rows]
    if any(len(row) != len(names) for row in matrix) or len(matrix) != len(names):
        return None
    for at, row in enumerate(matrix):
        row[at] = None
    cells = Matrix(
        "divergence between domains, bits", names, names, matrix,
        lambda v: f"{v:.2f}" if v >= 0.1 else f"{v:.3f}",
    )  # fmt: skip
    return Chart(
        cells,
        "Jensen-Shannon divergence of the domains' tokens, bits: faint pairs are alike, and one "
        "can stand in for the other.",
    )


def shares(artifacts: Mapping[str, Any]) -> Chart | None:
    """Chart natural, asked and realised shares, in descending order of what was asked.

    Args:
        artifacts: Fields of artifacts by name: `mixture`, `stats`, `plan`, `certificate`.
    """
    planned, realised = (mapping(artifacts, name, "domains") for name in ("plan", "certificate"))
    names = list(mapping(artifacts, "mixture", "weights") or planned or realised)
    supply = {
        name: number(first(dig(artifacts, "stats", "domains", name, "tokens_train"),
                           dig(planned, name, "supply_tokens")))
        for name in names
    }  # fmt: skip
    total = sum(value or 0.0 for value in supply.values())
    rows = []
    for name in names:
        asked = number(first(dig(artifacts, "mixture", "weights", name),
                             dig(planned, name, "weight")))  # fmt: skip
        marks = []
        if supply[name] is not None and total:
            marks.append(Mark(2, (supply[name] or 0.0) / total))
        if asked is not None:
            ends = (number(dig(artifacts, "mixture", end, name)) for end in ("low", "high"))
            marks.append(Mark(0, asked, *ends))
        on_disk = number(dig(realised, name, "realised_share"))
        if on_disk is not None:
            marks.append(Mark(5, on_disk))
        rows.append((name, marks))
    if len(rows) < 2:
        return None
    rows.sort(key=lambda row: -max((m.value for m in row[1] if m.series == 0), default=0.0))
    has_intervals = any(mark.low is not None for _, marks in rows for mark in marks)
    asked_label = "asked, with its 95 % interval" if has_intervals else "asked"
    series = {0: asked_label, 2: "natural", 5: "realised on disk"}
    return Chart(
        Dots(
            Axes("share of training tokens", from_zero=True),
            rows,
            _drawn(series, (mark for _, marks in rows for mark in marks)),
            lambda v: percent(v, 0),
        ),
        "Shares of the training tokens; natural is in proportion to supply.",
    )


def tokens_in_all(domains: Mapping[str, Any], name: str) -> float | None:
    """Return a domain's tokens of all stages, on disk or else planned."""
    return number(first(dig(domains, name, "realised_tokens"), dig(domains, name, "tokens")))


def stages(artifacts: Mapping[str, Any]) -> Chart | None:
    """Chart the share of each domain in every stage; None for more stages than series.

    Args:
        artifacts: Fields of artifacts by name: `plan`, `certificate`.
    """
    fields = mapping(artifacts, "certificate")
    if not mapping(fields, "stages"):
        fields = mapping(artifacts, "plan")
    named = mapping(fields, "stages")
    rows: list[tuple[str, list[Mark]]] = []
    for name in mapping(fields, "domains"):
        marks = []
        for at, stage in enumerate(named.values()):
            row = mapping(stage, "domains", name)
            share = number(first(row.get("realised_share"), row.get("weight")))
            if share is not None:
                marks.append(Mark(at, share))
        rows.append((name, marks))
    if len(rows) < 2 or len(named) > SERIES or not any(marks for _, marks in rows):
        return None
    return Chart(
        Dots(
            Axes("share of the stage's tokens", from_zero=True),
            rows,
            {at: f"{name}, {short(number(dig(stage, 'budget_tokens')) or 0)} tokens"
             for at, (name, stage) in enumerate(named.items())},
            lambda v: percent(v, 0),
        ),
        "Shares of the tokens of each stage, in the order of training.",
    )  # fmt: skip


def _drawn(series: Mapping[int, str], marks: Iterable[Mark | Point]) -> dict[int, str]:
    """Return the names of the series that have a mark."""
    used = {mark.series for mark in marks}
    return {at: name for at, name in series.items() if at in used}


def first(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)


def methods(comparison: Mapping[str, Any]) -> Chart | None:
    """Chart the shares of each domain by method: marks for a few methods, a matrix for many.

    Args:
        comparison: The fields of `mixtures.json`.
    """
    mixtures = mapping(comparison, "mixtures")
    names = list(
        dict.fromkeys(name for row in mixtures.values() for name in mapping(row, "weights"))
    )
    if not names:
        return None
    table = [[number(dig(row, "weights", name)) for row in mixtures.values()] for name in names]
    if len(mixtures) > SERIES:
        return Chart(
            Matrix("share of training tokens by method, %", names, list(mixtures), table,
                   lambda v: f"{100 * v:.0f}"),
            "Share of the training tokens by method, in %.",
        )  # fmt: skip
    rows = [
        (name, [Mark(at, share) for at, share in enumerate(row) if share is not None])
        for name, row in zip(names, table, strict=True)
    ]
    return Chart(
        Dots(
            Axes("share of training tokens", from_zero=True),
            rows,
            dict(enumerate(mixtures)),
            lambda v: percent(v, 0),
        ),
        "Where methods agree, their marks lie on each other.",
    )


def front(fields: Mapping[str, Any]) -> list[Chart]:
    """Chart the losses of every two groups of targets along the Pareto front.

    Args:
        fields: The fields of `front.json`.
    """
    points = fields.get("points")
    losses = [mapping(point, "losses") for point in (points if isinstance(points, list) else [])]
    groups, unit = list(losses[0]) if losses else [], loss_unit(fields.get("unit"))
    pairs = list(combinations(groups, 2))
    if len(groups) > GROUPS_PAIRED:
        pairs = [(groups[0], other) for other in groups[1:]]
    charts = []
    for across, up in pairs:
        rows = [(0, "on the front", row) for row in losses]
        rows.append((3, "natural", mapping(fields, "natural")))
        drawn = [
            Point(
                x * unit.factor,
                y * unit.factor,
                f"{about}: {unit.show(x)} {across}, {unit.show(y)} {up}",
                series,
            )
            for series, about, row in rows
            if (x := number(row.get(across))) is not None and (y := number(row.get(up))) is not None
        ]
        if not drawn:
            continue
        series = {0: "on the front", 3: "natural"}
        charts.append(
            Chart(
                Points(Axes(f"loss of {across}, {unit.name}", f"loss of {up}"), drawn,
                       _drawn(series, drawn)),
                "Predicted losses of mixtures between the best for one group of targets and for "
                "another: no mixture within the recipe's limits is better for one group without "
                "being worse for another.",
            )
        )  # fmt: skip
    return charts


def predictions(law: LawCheck) -> list[Chart]:
    """Chart predicted against measured objectives, and their errors."""
    unit = RATIO if law.relative else loss_unit(law.unit)
    measured, unseen = (
        values * unit.factor for values in (law.measured_objective, law.unseen_objective)
    )
    step = max(1, len(measured) // (2 * POINTS))
    pairs = [(float(m), float(p)) for m, p in zip(measured[::step], unseen[::step], strict=True)]
    errors = [(m, p, 100 * (p / m - 1)) for m, p in pairs]
    return [
        Chart(
            Points(
                Axes(f"measured{_after_comma(unit)}", "predicted, unseen", diagonal=True),
                [Point(m, p, f"{m:.4f} measured, {p:.4f} predicted") for m, p in pairs],
            ),
            f"Objective of every run by law {law.name}, fitted without the run's mixture. On the "
            "line, prediction and measurement agree.",
        ),
        Chart(
            Points(
                Axes("predicted, unseen", "error, %", zero=True),
                [Point(p, error, f"{p:.4f}: {error:+.2f} %") for _, p, error in errors],
            ),
            "The same errors, in % of the measured objective. A slope would mean that the law "
            "promises too much or too little at its best.",
        ),
    ]


def support(law: LawCheck) -> Chart | None:
    """Chart how far the trained mixtures are from each other."""
    spread = sorted(float(value) for value in law.distances)
    if len(spread) < 2:
        return None
    steps = [(value, (at + 1) / len(spread)) for at, value in enumerate(spread)]
    return Chart(
        Lines(
            Axes("distance to the nearest other run", "share of the mixtures"),
            [Line("trained mixtures", steps)],
        ),
        f"How far trained mixtures are from each other. Up to {law.radius:.3f}, where 95 % of them "
        "have another, the law is trusted; the explorer shows the distance of yours.",
    )


def training_curves(losses: polars.DataFrame) -> list[TrainingCurve]:
    """Read curves as `curate proxy` writes them, thinned to means of some steps each.

    Args:
        losses: Columns `run`, `seed`, `tokens` and `loss`, a row for each step.

    Raises:
        polars.exceptions.PolarsError: A column is missing.
    """
    import polars as pl

    from curate.report.page.material import TrainingCurve

    table = losses.with_columns(pl.col("run").cast(pl.String))
    curves = []
    for group in table.partition_by("run", "seed", maintain_order=True):
        tokens, values = (group[name].to_numpy().astype(float) for name in ("tokens", "loss"))
        ends = np.unique(np.geomspace(1, len(values), CURVE_POINTS).round().astype(int))
        starts = np.concatenate([[0], ends[:-1]])
        means = np.add.reduceat(values, starts) / (ends - starts)
        curves.append(TrainingCurve(str(group["run"][0]), tokens[ends - 1], means))
    return curves


def curves(runs: Sequence[TrainingCurve]) -> Chart | None:
    """Chart the training losses of small models."""
    lines = [
        Line(
            curve.run,
            list(zip(curve.tokens.tolist(), (curve.losses * NATS_TO_BITS).tolist(), strict=True)),
        )
        for curve in runs
        if len(curve.tokens) > 1
    ]
    if not lines:
        return None
    return Chart(
        Lines(
            Axes("training tokens", "training loss, bits a token", log_x=True), lines, RUNS_NAMED
        ),
        f"Training loss of {len(lines)} runs, each on a mixture of its own, so losses differ "
        "by what is in the mixture, too. A line that rises or breaks off is a failed run.",
    )


def rivals(validation: Mapping[str, Any]) -> list[Chart]:
    """Chart the recommendation's objective beside its rivals', by size of the models.

    Args:
        validation: The fields of `validation.json`.
    """
    sizes, unit = validation.get("sizes"), objective_unit(validation)
    charts = []
    for size in sizes if isinstance(sizes, list) else []:
        rows = []
        for name, row in mapping(size, "candidates").items():
            objective = mapping(row, "objective")
            marks = []
            predicted = mean_predicted(row)
            if predicted is not None:
                marks.append(Mark(1, predicted * BITS.factor))
            if number(objective.get("mean")) is not None:
                marks.append(_mark(objective, unit))
            rows.append((name, marks))
        if not any(marks for _, marks in rows):
            continue
        series = {0: "trained, with its 95 % interval over seeds", 1: "predicted by the law"}
        axes = Axes(f"objective, {dig(size, 'preset')} models{_after_comma(unit)}")
        shown = _drawn(series, (mark for _, marks in rows for mark in marks))
        charts.append(
            Chart(
                Dots(axes, rows, shown, lambda v: f"{v:.3f}"),
                "Objective of the recommended mixture and of its rivals; further left is better.",
            )
        )
        charts += _differences(size, unit)
    return charts


def objective_unit(verdict: Mapping[str, Any]) -> LossUnit:
    """Return the unit of the objectives of `validation.json`: bits, or a ratio in a worst case."""
    return RATIO if verdict.get("objective_unit") == "ratio" else BITS


def _after_comma(unit: LossUnit) -> str:
    return f", {unit.name}" if unit.name else ""


def _mark(interval: Mapping[str, Any], unit: LossUnit) -> Mark:
    """Mark a mean with its interval."""
    mean, *ends = (number(interval.get(end)) for end in ("mean", "low", "high"))
    shown = [None if end is None else end * unit.factor for end in ends]
    return Mark(0, (mean or 0.0) * unit.factor, *shown)


def _differences(size: Mapping[str, Any], unit: LossUnit) -> list[Chart]:
    """Chart the recommendation's objective minus each rival's, seed by seed."""
    rows = [
        (name, [_mark(row, unit)])
        for name, row in mapping(size, "against").items()
        if number(dig(row, "mean")) is not None
    ]
    if not rows:
        return []
    return [
        Chart(
            Dots(Axes(f"recommended minus rival{_after_comma(unit)}", from_zero=True), rows,
                 text=lambda v: f"{v:.3f}"),
            "Difference of the two, seed by seed, with its 95 % interval. Left of zero, the "
            "recommendation is better.",
        )
    ]  # fmt: skip


def mean_predicted(candidate: Mapping[str, Any]) -> float | None:
    """Return the mean of a candidate's predicted losses; None where one is missing."""
    losses = [number(dig(cell, "predicted")) for cell in mapping(candidate, "loss").values()]
    predicted = [loss for loss in losses if loss is not None]
    return sum(predicted) / len(predicted) if len(predicted) == len(losses) > 0 else None
