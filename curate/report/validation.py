"""Tables of a validation: measured and predicted losses, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

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
    losses = numbers_table(f"{kind}: losses in nats per token", ("run", *names, "mean"))
    mixtures = numbers_table(f"{kind}: mixtures, shares of tokens in %", ("run", *names))
    for run, row in rows.items():
        values = list(row["loss"].values())
        mean = sum(values) / len(values)
        losses.add_row(plain(run), *(f"{value:.4f}" for value in [*values, mean]))
        if "weights" in row:
            shares = row["weights"].values()
            mixtures.add_row(plain(run), *(f"{100 * share:.1f}" for share in shares))
    return [mixtures, losses] if mixtures.rows else [losses]


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
        rivals = [name for name in size["ranking"] if name != "recommended"]
        best, against = rivals[0], size["against"]
        decisive = next(name for name in rivals if against[name]["verdict"] == verdict)
        lines.append(_arithmetic(decisive, against[decisive]))
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


def _arithmetic(rival: str, difference: Mapping[str, Any]) -> str:
    """Say how the verdict against a rival follows from losses and noise."""
    low, high = difference["low"], difference["high"]
    reason = {
        "confirmed": "all of it is below 0, so the recommendation is better",
        "tied": "it holds 0, so seeds alone could make the difference",
        "refuted": "all of it is above 0, so the rival is better",
    }[difference["verdict"]]
    return (
        f"recommended minus {plain(rival)}: {difference['mean']:+.4f} nats per "
        f"token, 95 % interval over seeds {low:+.4f} to {high:+.4f}; {reason}"
    )


def _loss(cell: dict[str, Any]) -> str:
    text = f"{cell['mean']:.4f} ± {cell['high'] - cell['mean']:.4f}"
    predicted = cell.get("predicted")
    return text if predicted is None else f"{text}\n({predicted:.4f})"


def _against(difference: dict[str, Any]) -> str:
    half = difference["high"] - difference["mean"]
    colour = COLOURS[difference["verdict"]]
    return f"{difference['mean']:+.4f} ± {half:.4f}\n[{colour}]{difference['verdict']}[/]"
