"""Sections about the evidence from models: laws, proxy runs and validation."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from curate.laws.scores import spearman
from curate.report import artifact_charts
from curate.report.artifact_charts import POINTS, objective_unit
from curate.report.numbers import BITS, LossUnit, loss_unit
from curate.report.page import figures
from curate.report.page.fields import bits, decimal, dig, interval, mapping, number, percent, whole
from curate.report.page.material import LawCheck, Material
from curate.report.page.parts import (
    ROWS_SHOWN,
    Drawing,
    Missing,
    Note,
    PageColumn,
    Part,
    Section,
    Table,
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
        command = f"curate fit {shlex.join(material.run_tables) or 'RUNS'}"
        parts.append(Missing("Laws were not compared with each other.", command))
    return Section(*section, parts)


def _law_parts(law: LawCheck) -> list[Part]:
    drawings = [figures.draw(chart) for chart in artifact_charts.predictions(law)]
    parts: list[Part] = [Drawing(drawings), _targets_table(law)]
    chart = artifact_charts.support(law)
    if chart is not None:
        parts.append(Drawing([figures.draw(chart)]))
    return parts


def _targets_table(law: LawCheck) -> Table:
    """Show how well the loss of each target is predicted."""
    unit = loss_unit(law.unit)
    columns = [
        PageColumn("target", "Validation text whose loss is predicted.", False),
        PageColumn("least", f"Smallest measured loss, {unit.name}."),
        PageColumn("most", f"Largest measured loss, {unit.name}."),
        PageColumn(
            "mean error",
            "Mean distance between prediction and measurement, of mixtures the fit had not seen.",
        ),
        PageColumn("bias", "Mean error with its sign: above 0, the law expects too high a loss."),
        PageColumn(
            "rank", "Spearman correlation of predicted and measured losses; 1 ranks all runs right."
        ),
        PageColumn(
            "95 % interval", "Around a prediction for a new run, from errors on unseen mixtures."
        ),
        PageColumn("within", "Share of the runs whose loss lies within that interval."),
    ]
    errors = 100 * (law.unseen / law.measured - 1)
    rows = []
    for at, target in enumerate(law.targets):
        measured, predicted = law.measured[:, at], law.unseen[:, at]
        inside = np.abs(np.log(predicted / measured)) <= law.half_width[at] * (1 + 1e-9)
        rows.append(
            [
                target,
                unit.show(float(measured.min())),
                unit.show(float(measured.max())),
                f"{float(np.abs(errors[:, at]).mean()):.2f} %",
                f"{float(errors[:, at].mean()):+.2f} %",
                decimal(spearman(measured, predicted), 3),
                f"± {100 * float(law.half_width[at]):.2f} %",
                percent(float(inside.mean()), 0),
            ]
        )
    return Table(f"Law {law.name}, on mixtures it had not seen", columns, rows)


def _law_table(fit: Mapping[str, Any]) -> Table | None:
    compared, unit = mapping(fit, "laws"), loss_unit(dig(fit, "table", "unit"))
    if not compared:
        return None
    columns = [
        PageColumn("law", "See `docs/laws.md` for the form of each.", False),
        PageColumn(
            "regret@1",
            "Loss that the law's best unseen run gives up to the really best one: what "
            f"trusting it costs, {unit.name}.",
        ),
        PageColumn("mean error", "Mean relative error on mixtures it was not fitted to."),
        PageColumn(
            "R2 mean", "Explained share of the variance between mixtures, mean of all targets."
        ),
        PageColumn(
            "R2 worst", "The same for the worst target; below 0, its mean would predict better."
        ),
        PageColumn(
            "rank", "Spearman correlation of predicted and measured losses, mean of all targets."
        ),
        PageColumn("later tokens", "Mean relative error on the last fifth of every run."),
        PageColumn("CPU s", "Processor time of all its fits."),
        PageColumn(
            "verdict", "Whether errors differ from the best law's and from a dummy's.", False
        ),
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
                unit.show(dig(law, "selection", "regret_at_1")),
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
    chart = artifact_charts.curves(material.curves)
    parts: list[Part] = [] if chart is None else [Drawing([figures.draw(chart)])]
    columns = [
        PageColumn("run", "Name in the run table.", False),
        PageColumn("tokens", "Training tokens seen."),
        PageColumn("first loss", "Mean training loss of the first tenth, bits a token."),
        PageColumn(
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
                bits(float(curve.losses[:tenth].mean())),
                bits(float(curve.losses[-tenth:].mean())),
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
    drawings = [figures.draw(chart) for chart in artifact_charts.rivals(verdict)]
    if drawings:
        parts.append(Drawing(drawings))
    unit = objective_unit(verdict)
    unit_name = f", {unit.name}" if unit.name else ": the worst ratio to the best candidate"
    columns = [
        PageColumn("mixture", "Recommended, or a rival.", False),
        PageColumn("objective", f"Mean over seeds of what is minimised{unit_name}."),
        PageColumn("95 % interval", "Of that mean, over seeds."),
        PageColumn(
            "predicted",
            "Mean of the losses that the law predicted, bits a token; empty where it cannot.",
        ),
        PageColumn(
            "recommended is",
            "Objective of the recommendation minus the rival's; below 0 the "
            "recommendation is better.",
        ),
        PageColumn("verdict", "Whether that difference is beyond seed noise.", False),
    ]
    for size in verdict["sizes"] if isinstance(verdict.get("sizes"), list) else []:
        rows = []
        for name, row in mapping(size, "candidates").items():
            objective, against = mapping(row, "objective"), mapping(size, "against", name)
            rows.append(
                [
                    name,
                    unit.show(objective.get("mean")),
                    interval(objective.get("low"), objective.get("high"), unit.show),
                    BITS.show(artifact_charts.mean_predicted(row)),
                    _difference(against, unit),
                    str(against.get("verdict") or ""),
                ]
            )
        params, tokens = (whole(dig(size, key)) for key in ("params", "tokens"))
        title = f"{dig(size, 'preset')}: {params} parameters, {tokens} tokens"
        parts.append(Table(title, columns, rows))
    return Section(*section, parts)


def _difference(against: Mapping[str, Any], unit: LossUnit) -> str:
    """Format a difference with its interval."""
    mean = number(against.get("mean"))
    ends = interval(against.get("low"), against.get("high"), unit.show)
    return "" if mean is None else f"{unit.show(mean, '+.4f')} ({ends})"
