"""Sections about the evidence from models: laws, proxy runs and validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from curate.laws.scores import spearman
from curate.report.page import figures
from curate.report.page.figures import Axes, Line
from curate.report.page.material import LawCheck, Material, dig, mapping, number
from curate.report.page.parts import (
    POINTS,
    ROWS_SHOWN,
    Column,
    Drawing,
    Missing,
    Note,
    Part,
    Section,
    Table,
    decimal,
    interval,
    percent,
    whole,
)


def laws(material: Material) -> Section:
    """Compare laws on unseen mixtures, and the mixture's law with each measured loss."""
    section = ("laws", "Laws", "How well is the loss of a mixture predicted before it is trained?")
    parts: list[Part] = []
    if material.law is None:
        parts.append(Note([material.law_missing]))
    else:
        parts += _law_parts(material.law)
    table = _law_table(mapping(material.artifacts, "fit"))
    if table is not None:
        parts.append(table)
    elif material.law is not None:
        parts.append(Missing("Laws were not compared with each other.", "curate fit RUNS"))
    return Section(*section, parts)


def _law_parts(law: LawCheck) -> list[Part]:
    parts: list[Part] = [Drawing(_errors_drawn(law)), _targets_table(law)]
    if len(law.distances) > 1:
        parts.append(Drawing([_support_drawn(law)]))
    return parts


def _errors_drawn(law: LawCheck) -> list[Markup]:
    """Draw predictions beside measurements, and their errors."""
    measured, unseen = law.measured_objective, law.unseen_objective
    kept = np.linspace(0, len(measured) - 1, min(len(measured), 2 * POINTS)).astype(int)
    points = [
        (
            float(measured[at]),
            float(unseen[at]),
            f"{measured[at]:.4f} measured, {unseen[at]:.4f} predicted",
        )
        for at in kept
    ]
    residuals = [
        (
            float(unseen[at]),
            float(100 * (unseen[at] / measured[at] - 1)),
            f"{unseen[at]:.4f}: {100 * (unseen[at] / measured[at] - 1):+.2f} %",
        )
        for at in kept
    ]
    return [
        figures.figure(
            figures.scatter(points, Axes("measured", "predicted, unseen", diagonal=True)),
            f"Objective of every run by law {law.name}, fitted without the run's mixture. On the "
            "line, prediction and measurement agree.",
        ),
        figures.figure(
            figures.scatter(residuals, Axes("predicted, unseen", "error, %", zero=True)),
            "The same errors, in % of the measured objective. A slope would mean that the law "
            "promises too much or too little at its best.",
        ),
    ]


def _targets_table(law: LawCheck) -> Table:
    """Show how well the loss of each target is predicted."""
    columns = [
        Column("target", "Validation text whose loss is predicted.", False),
        Column("least", f"Smallest measured loss, {law.unit}."),
        Column("most", f"Largest measured loss, {law.unit}."),
        Column(
            "mean error",
            "Mean distance between prediction and measurement, of mixtures the fit had not seen.",
        ),
        Column("bias", "Mean error with its sign: above 0, the law expects too high a loss."),
        Column(
            "rank", "Spearman correlation of predicted and measured losses; 1 ranks all runs right."
        ),
        Column(
            "95 % interval", "Around a prediction for a new run, from errors on unseen mixtures."
        ),
        Column("within", "Share of the runs whose loss lies within that interval."),
    ]
    errors = 100 * (law.unseen / law.measured - 1)
    rows = []
    for at, target in enumerate(law.targets):
        measured, predicted = law.measured[:, at], law.unseen[:, at]
        inside = np.abs(np.log(predicted / measured)) <= law.half_width[at] * (1 + 1e-9)
        rows.append(
            [
                target,
                decimal(float(measured.min()), 4),
                decimal(float(measured.max()), 4),
                f"{float(np.abs(errors[:, at]).mean()):.2f} %",
                f"{float(errors[:, at].mean()):+.2f} %",
                decimal(spearman(measured, predicted), 3),
                f"± {100 * float(law.half_width[at]):.2f} %",
                percent(float(inside.mean()), 0),
            ]
        )
    return Table(f"Law {law.name}, on mixtures it had not seen", columns, rows)


def _support_drawn(law: LawCheck) -> Markup:
    """Draw how far the trained mixtures are from each other."""
    spread = sorted(float(value) for value in law.distances)
    steps = [(value, (at + 1) / len(spread)) for at, value in enumerate(spread)]
    axes = Axes("distance to the nearest other run", "share of the mixtures")
    caption = (
        f"How far trained mixtures are from each other. Up to {law.radius:.3f}, where 95 % of them "
        "have another, the law is trusted; the explorer shows the distance of yours."
    )
    return figures.figure(figures.line_plot([Line("trained mixtures", steps)], axes), caption)


def _law_table(fit: Mapping[str, Any]) -> Table | None:
    compared = mapping(fit, "laws")
    if not compared:
        return None
    columns = [
        Column("law", "See `docs/laws.md` for the form of each.", False),
        Column(
            "regret@1",
            "Loss that the law's best unseen run gives up to the really best one: what "
            "trusting it costs.",
        ),
        Column("mean error", "Mean relative error on mixtures it was not fitted to."),
        Column("R2 mean", "Explained share of the variance between mixtures, mean of all targets."),
        Column(
            "R2 worst", "The same for the worst target; below 0, its mean would predict better."
        ),
        Column(
            "rank", "Spearman correlation of predicted and measured losses, mean of all targets."
        ),
        Column("later tokens", "Mean relative error on the last fifth of every run."),
        Column("CPU s", "Processor time of all its fits."),
        Column("verdict", "Whether errors differ from the best law's and from a dummy's.", False),
    ]
    rows = []
    for name, law in compared.items():
        unseen = mapping(law, "unseen_mixtures")
        verdict = "as good as the best" if dig(law, "ties_with_best") is True else ""
        if dig(law, "beats_dummies") is False:
            verdict = "no better than a dummy"
        problem = dig(law, "problem")
        rows.append(
            [
                name,
                decimal(dig(law, "selection", "regret_at_1"), 4),
                percent(unseen.get("mean_relative_error")),
                decimal(unseen.get("r2_mean")),
                decimal(unseen.get("r2_worst")),
                decimal(unseen.get("spearman_mean")),
                percent(dig(law, "later_tokens", "mean_relative_error")),
                decimal(dig(law, "seconds"), 1),
                str(problem) if problem else verdict,
            ]
        )
    return Table(
        f"Laws compared by {whole(fit.get('folds'))}-fold cross-validation over mixtures",
        columns,
        rows,
    )


def runs(material: Material) -> Section:
    """Show the small models' training curves."""
    section = ("runs", "Proxy runs", "Did the small models train as they should?")
    if not material.curves:
        command = f"curate proxy {material.command}"
        return Section(*section, [Missing("No curves of small models are at hand.", command)])
    lines = [
        Line(curve.run, list(zip(curve.tokens.tolist(), curve.losses.tolist(), strict=True)))
        for curve in material.curves
        if len(curve.tokens) > 1
    ]
    parts: list[Part] = []
    if lines:
        axes = Axes("training tokens", "training loss, nats a token", log_x=True)
        caption = (
            f"Training loss of {len(lines)} runs, each on a mixture of its own, so losses differ "
            "by what is in the mixture, too. A line that rises or breaks off is a failed run."
        )
        parts.append(Drawing([figures.figure(figures.line_plot(lines, axes), caption)]))
    columns = [
        Column("run", "Name in the run table.", False),
        Column("tokens", "Training tokens seen."),
        Column("first loss", "Mean training loss of the first tenth, nats per token."),
        Column(
            "last loss",
            "Mean training loss of the last tenth; far above the others', the run diverged.",
        ),
    ]
    rows = []
    for curve in material.curves[:POINTS]:
        tenth = max(len(curve.losses) // 10, 1)
        rows.append(
            [
                curve.run,
                whole(float(curve.tokens[-1])),
                decimal(float(curve.losses[:tenth].mean())),
                decimal(float(curve.losses[-tenth:].mean())),
            ]
        )
    parts.append(Table("Runs", columns, rows, folded=len(rows) > ROWS_SHOWN))
    return Section(*section, parts)


def validation(material: Material) -> Section:
    """Show the verdict on the recommendation."""
    section = ("validation", "Validation", "Is the recommended mixture better when it is trained?")
    verdict = mapping(material.artifacts, "validation")
    if not verdict:
        command = f"curate validate {material.command}"
        return Section(
            *section, [Missing("The recommendation was not trained against its rivals.", command)]
        )
    tones = {"confirmed": "good", "refuted": "bad"}
    word, seeds = str(verdict.get("verdict")), verdict.get("seeds")
    seeds = len(seeds) if isinstance(seeds, list) else whole(seeds)
    parts: list[Part] = [
        Note(
            [
                f"The recommendation of {verdict.get('method')} is {word}, over {seeds} seeds: "
                "confirmed is better than every rival beyond seed noise, refuted is worse than one."
            ],
            tones.get(word, "warning"),
        )
    ]
    columns = [
        Column("mixture", "Recommended, or a rival.", False),
        Column("objective", "Mean over seeds of what is minimised, nats per token."),
        Column("95 % interval", "Of that mean, over seeds."),
        Column("predicted", "Mean of the losses that the law predicted; empty where it cannot."),
        Column(
            "recommended is",
            "Objective of the recommendation minus the rival's; below 0 the "
            "recommendation is better.",
        ),
        Column("verdict", "Whether that difference is beyond seed noise.", False),
    ]
    for size in verdict["sizes"] if isinstance(verdict.get("sizes"), list) else []:
        rows = []
        for name, row in mapping(size, "candidates").items():
            objective, against = mapping(row, "objective"), mapping(size, "against", name)
            losses = [number(dig(cell, "predicted")) for cell in mapping(row, "loss").values()]
            predicted = [loss for loss in losses if loss is not None]
            complete = len(predicted) == len(losses) > 0
            mean = sum(predicted) / len(predicted) if complete else None
            rows.append(
                [
                    name,
                    decimal(objective.get("mean"), 4),
                    interval(objective.get("low"), objective.get("high"), lambda v: decimal(v, 4)),
                    decimal(mean, 4),
                    _difference(against),
                    str(against.get("verdict") or ""),
                ]
            )
        params, tokens = (whole(dig(size, key)) for key in ("params", "tokens"))
        title = f"{dig(size, 'preset')}: {params} parameters, {tokens} tokens"
        parts.append(Table(title, columns, rows))
    return Section(*section, parts)


def _difference(against: Mapping[str, Any]) -> str:
    """Format a difference with its interval."""
    mean = number(against.get("mean"))
    ends = interval(against.get("low"), against.get("high"), lambda v: decimal(v, 4))
    return "" if mean is None else f"{mean:+.4f} ({ends})"
