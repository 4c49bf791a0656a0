"""Tables of a validation: measured and predicted losses, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from curate.report.numbers import BITS, RATIO, LossUnit
from curate.report.terminal import numbers_table, plain

ADVICE = {
    "confirmed": "build with it: curate build RECIPE",
    "tied": "more seeds (--seeds) or longer runs (proxy.tokens) may tell; else take the simpler "
    "mixture",
    "refuted": "build with BEST instead (its weights are in validation.json, for mixture: {method: "
    "manual, weights: …}), or add runs near both (`curate design`) and mix again",
}
"""Next steps after each verdict; BEST stands for the best rival."""

COLOURS = {"confirmed": "green", "tied": "yellow", "refuted": "red"}


def run_tables(rows: Mapping[str, Mapping[str, Any]], kind: str) -> list[Table]:
    """Show the mixtures of runs, if they have any, and their final losses.

    Args:
        rows: Fields of each run, by name: `loss` and perhaps `weights`, both by domain.
        kind: Word for the runs, such as "experts".
    """
    names = [plain(name) for name in next(iter(rows.values()))["loss"]]
    losses = numbers_table(f"{kind}: losses in bits a token", ("run", *names, "mean"))
    mixtures = numbers_table(f"{kind}: mixtures, shares of tokens in %", ("run", *names))
    for run, row in rows.items():
        values = list(row["loss"].values())
        mean = sum(values) / len(values)
        losses.add_row(plain(run), *map(BITS.show, [*values, mean]))
        if "weights" in row:
            shares = row["weights"].values()
            mixtures.add_row(plain(run), *(f"{100 * share:.1f}" for share in shares))
    return [mixtures, losses] if mixtures.rows else [losses]


def loss_table(size: Mapping[str, Any], objective_unit: str | None) -> Table:
    """Show losses ± half of the 95 % interval, best candidate first, with predictions below.

    Args:
        size: One of `sizes` of `validation.json`.
        objective_unit: That of `validation.json`: losses are in nats, the objective may be a ratio.
    """
    unit = _objective_unit(objective_unit)
    title = f"{size['preset']}, {size['tokens']:,} tokens; bits a token ± 95 % over seeds"
    if unit is RATIO:
        title += "; the objective is a ratio"
    if size["prediction"] is not None:
        title += f"; in brackets as {size['prediction']['by']} predicted"
    headings = (*size["candidates"]["recommended"]["loss"], "objective", "recommended is")
    table = numbers_table(title, ("mixture", *map(plain, headings)))
    for name in size["ranking"]:
        row = size["candidates"][name]
        cells = [_loss(cell, BITS) for cell in row["loss"].values()]
        against = size["against"].get(name)
        table.add_row(plain(name), *cells, _loss(row["objective"], unit),
                      against and _against(against, unit))  # fmt: skip
    return table


def _objective_unit(stated: str | None) -> LossUnit:
    return RATIO if stated == "ratio" else BITS


def summary_lines(result: dict[str, Any]) -> list[str]:
    """Describe verdict, errors of prediction and transfer between sizes, in rich markup."""
    lines, unit = [], _objective_unit(result.get("objective_unit"))
    for size in result["sizes"]:
        verdict = size["verdict"]
        lines.append(
            f"{size['preset']}: the recommendation of {plain(result['method'])} is "
            f"[{COLOURS[verdict]}]{verdict}[/]; best first: {plain(', '.join(size['ranking']))}"
        )
        rivals = [name for name in size["ranking"] if name != "recommended"]
        best, against = rivals[0], size["against"]
        decisive = next(name for name in rivals if against[name]["verdict"] == verdict)
        lines.append(_arithmetic(decisive, against[decisive], unit))
        lines.append(f"next: {ADVICE[verdict].replace('BEST', plain(best))}")
        prediction = size["prediction"]
        if prediction is None:
            lines.append(f"{size['preset']}: nothing predicts losses at this size")
        else:
            rank = (
                "" if prediction["spearman"] is None else f", Spearman {prediction['spearman']:.2f}"
            )
            lines.append(
                f"{size['preset']}: {prediction['by']} misses losses by "
                f"{prediction['mean_relative_error']:.2%} on average (bias "
                f"{prediction['relative_bias']:+.2%}){rank}"
            )
    for moved in result["transfer"]:
        rank = "none" if moved["spearman"] is None else f"{moved['spearman']:.2f}"
        best = "the same" if moved["same_best"] else "another"
        lines.append(
            f"ranking from {moved['from']} to {moved['to']}: Spearman {rank}, {best} mixture is "
            "best"
        )
    return lines


def _arithmetic(rival: str, difference: Mapping[str, Any], unit: LossUnit) -> str:
    """Say how the verdict against a rival follows from losses and noise."""
    mean, low, high = (unit.show(difference[end], "+.4f") for end in ("mean", "low", "high"))
    reason = {
        "confirmed": "all of it is below 0, so the recommendation is better",
        "tied": "it holds 0, so seeds alone could make the difference",
        "refuted": "all of it is above 0, so the rival is better",
    }[difference["verdict"]]
    return (
        f"recommended minus {plain(rival)}: {mean}{unit.after}, 95 % interval over seeds {low} to "
        f"{high}; {reason}"
    )


def _loss(cell: Mapping[str, Any], unit: LossUnit) -> str:
    text = f"{unit.show(cell['mean'])} ± {unit.show(cell['high'] - cell['mean'])}"
    predicted = cell.get("predicted")
    return text if predicted is None else f"{text}\n({unit.show(predicted)})"


def _against(difference: Mapping[str, Any], unit: LossUnit) -> str:
    half = unit.show(difference["high"] - difference["mean"])
    colour = COLOURS[difference["verdict"]]
    return f"{unit.show(difference['mean'], '+.4f')} ± {half}\n[{colour}]{difference['verdict']}[/]"
