"""The commands about training runs: `fit` compares laws on them, `design` proposes more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import curate
from curate.cli.session import (
    Screen,
    open_inputs,
    recipe_or_runs_command,
    work_command,
)
from curate.errors import RecipeError


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--laws", default="all", show_default=True, help="Names separated by commas, or all.")
@click.option("--folds", default=5, show_default=True, help="Folds of the cross-validation.")
@click.option(
    "--experts",
    type=click.Path(path_type=Path),
    help="Log-probabilities of one expert per domain; adds regressions with and without them.",
)
@click.option(
    "--far-runs", type=click.Choice(["leave_out", "keep"]), default="leave_out", show_default=True,
    help="Runs that all the others contradict, such as a diverged one.",
)  # fmt: skip
@click.option(
    "--fill",
    multiple=True,
    metavar="FILE:params=N,tokens=N",
    help="Numbers for all rows of a table without such a column; may be repeated.",
)
@click.option(
    "--absent-domains", type=click.Choice(["refuse", "zero"]), default="refuse", show_default=True,
    help="Domains that only some of several tables have.",
)  # fmt: skip
@click.option(
    "--became",
    multiple=True,
    metavar="OLD=NEW[:SHARE,NEW:SHARE]",
    help="New name of a domain, or its parts with their shares of it; may be repeated.",
)
@click.option(
    "--alike",
    multiple=True,
    metavar="GROUP=PATTERN[,PATTERN]",
    help="Domains of similar text, for the law joint; may be repeated.",
)
@click.option("--stage", help="Stage whose rows are read, where a column stage names several.")
@click.option("--targets", help="Losses to fit, separated by commas; default: all.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="Where fit.json goes.")
@work_command
def fit(runs: tuple[Path, ...], **options: Any) -> None:
    """Fit laws to run tables and compare them on unseen mixtures.

    RUNS is a runs.csv, or several, which are joined. A file of mixtures (ratios.csv) next to one of
    losses (metrics.csv) is a table too.
    """
    from rich.text import Text

    from curate.report.laws import group_table, law_table, lead, noise_line

    screen = Screen(options)
    result = curate.fit(
        runs,
        laws=None if options["laws"] == "all" else options["laws"].split(","),
        folds=options["folds"],
        experts=options["experts"],
        targets=options["targets"].split(",") if options["targets"] else None,
        far_runs=options["far_runs"],
        fill=_fills(options["fill"]),
        absent_domains=options["absent_domains"],
        became=_became(options["became"]),
        alike=_alike(options["alike"]),
        stage=options["stage"],
        directory=options["out"],
        workers=options["workers"],
        progress=screen.observer,
    )
    fields = result.json
    first, groups = lead(fields), group_table(fields)
    screen.show(
        result,
        lambda: [
            *([] if first is None else [Text(first)]),
            law_table(fields),
            noise_line(fields["seed_noise"]),
            *([groups] if groups else []),
        ],
    )
    screen.list_written()


def _fills(texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Read texts such as `FILE:params=N,tokens=N`."""
    fills: dict[str, dict[str, float]] = {}
    for text in texts:
        name, _, settings = text.rpartition(":")
        try:
            pairs = [setting.split("=") for setting in settings.split(",") if name]
            if not pairs:
                raise ValueError
            fills.setdefault(name, {}).update({key: float(number) for key, number in pairs})
        except ValueError:
            raise RecipeError(
                f"--fill {text}: expected FILE:params=NUMBER, FILE:tokens=NUMBER or both, as in "
                "small.csv:params=6e7,tokens=1e9"
            ) from None
    return fills


def _alike(texts: Sequence[str]) -> dict[str, list[str]]:
    """Read texts such as `GROUP=PATTERN,PATTERN`."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        group, _, patterns = text.partition("=")
        if not (group and patterns and all(patterns.split(","))):
            raise RecipeError(
                f"--alike {text}: expected GROUP=PATTERN,PATTERN, as in code=python,stack-*"
            )
        groups.setdefault(group, []).extend(patterns.split(","))
    return groups


def _became(texts: Sequence[str]) -> dict[str, str | dict[str, float]]:
    """Read texts such as `OLD=NEW` and `OLD=NEW:0.3,OTHER:0.7`."""
    became: dict[str, str | dict[str, float]] = {}
    for text in texts:
        old, _, new = text.partition("=")
        if old in became:
            raise RecipeError(
                f"--became {text}: '{old}' is named before; name all its parts at once, as in "
                f"{old}=web-hi:0.3,web-lo:0.7"
            )
        parts = [part.rpartition(":") for part in new.split(",")]
        try:
            became[old] = {name: float(share) for name, _, share in parts}
            wrong = not all(name for name, _, _ in parts)
        except ValueError:
            # Names of parts have colons themselves, as in `web:hi`.
            became[old], wrong = new, len(parts) > 1
        if wrong or not (old and new):
            raise RecipeError(
                f"--became {text}: expected OLD=NEW, or OLD=NEW:SHARE,NEW:SHARE, as in "
                "web=web-hi:0.3,web-lo:0.7"
            )
    return became


@click.command()
@click.option(
    "-n",
    "count",
    type=click.IntRange(1),
    help="Number of mixtures; default: as many as are still needed.",
)
@click.option(
    "--strategy",
    help="dirichlet, entropy, filling, determinant or variance; default: filling, but variance "
    "beside runs on earlier domains.",
)  # fmt: skip
@click.option(
    "--flops",
    type=float,
    help="Buy runs at a small and a large size for this much training, 6 N D a run.",
)
@click.option(
    "--sizes", metavar="PARAMS:TOKENS,PARAMS:TOKENS",
    help="The two sizes; default: the smallest and the largest of the runs.",
)  # fmt: skip
@recipe_or_runs_command
def design(
    count: int | None,
    strategy: str | None,
    flops: float | None,
    sizes: str | None,
    **options: Any,
) -> None:
    """Propose the next mixtures to train, within supply.

    Without RECIPE, for the domains of --runs. With --flops, how many of each size too.
    """
    from curate.report.laws import design_table, purchase_table

    screen, arguments = open_inputs(options)
    result = curate.design(count=count, strategy=strategy, flops=flops, sizes=sizes, **arguments)
    bought = result.json.get("purchase")
    tables = [] if bought is None else [purchase_table(bought)]
    screen.show(result, lambda: [*tables, design_table(result.json)])
    screen.list_written()
