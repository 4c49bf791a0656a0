"""Tables of a validation: measured and predicted losses, and the verdict."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from curate.report.terminal import numbers_table, plain

ADVICE = {
    "tied": "more seeds (--seeds) or longer runs (proxy.tokens) may tell; else take the simpler "
    "mixture",
    "refuted": "build with BEST instead (its weights are in validation.json, for mixture: {method: "
    "manual, weights: …}), or add runs near both (`curate design`) and mix again",
}
"""Next steps after each verdict; BEST stands for the best rival."""

COLOURS = {"confirmed": "green", "tied": "yellow", "refuted": "red"}


def loss_table(size: dict[str, Any]) -> Table:
    """Show losses ± half of the 95 % interval, best candidate first, with predictions below."""
    title = f"{size['preset']}, {size['tokens']:,} tokens; nats per token ± 95 % over seeds"
    if size["prediction"] is not None:
        title += f"; in brackets as {size['prediction']['by']} predicted"
    headings = (*size["candidates"]["recommended"]["loss"], "objective", "recommended is")
    table = numbers_table(title, ("mixture", *map(plain, headings)))
    for name in size["ranking"]:
        row = size["candidates"][name]
        cells = [_loss(cell) for cell in row["loss"].values()]
        against = size["against"].get(name)
        table.add_row(plain(name), *cells, _loss(row["objective"]), against and _against(against))
    return table


def summary_lines(result: dict[str, Any]) -> list[str]:
    """Describe verdict, errors of prediction and transfer between sizes, in rich markup."""
    lines = []
    for size in result["sizes"]:
        verdict = size["verdict"]
        lines.append(
            f"{size['preset']}: the recommendation of {plain(result['method'])} is "
            f"[{COLOURS[verdict]}]{verdict}[/]; best first: {plain(', '.join(size['ranking']))}"
        )
        if verdict != "confirmed":
            best = next(name for name in size["ranking"] if name != "recommended")
            lines.append(f"{size['preset']}: {ADVICE[verdict].replace('BEST', plain(best))}")
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


def _loss(cell: dict[str, Any]) -> str:
    text = f"{cell['mean']:.4f} ± {cell['high'] - cell['mean']:.4f}"
    predicted = cell.get("predicted")
    return text if predicted is None else f"{text}\n({predicted:.4f})"


def _against(difference: dict[str, Any]) -> str:
    half = difference["high"] - difference["mean"]
    colour = COLOURS[difference["verdict"]]
    return f"{difference['mean']:+.4f} ± {half:.4f}\n[{colour}]{difference['verdict']}[/]"
