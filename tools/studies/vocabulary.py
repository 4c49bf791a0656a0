"""Does the ranking of mixtures survive another tokenizer? `python tools/studies/vocabulary.py`.

Trains the mixtures of the nano study (run that first) under a smaller tokenizer, on the same text,
and once more under their own with other seeds, which says what noise alone does to a ranking.
Compares bits per byte of held-out text, means over the recipe's seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from curate.laws.scores import spearman
from curate.pipeline.proxies import mixtures_job, run_name, train_proxies
from curate.pipeline.proxy_devices import train_job
from curate.pipeline.proxy_setup import prepare
from curate.pipeline.tokenize import tokenize_domains
from curate.proxy.runs import RunRow, read_runs
from curate.recipe import LoadedRecipe, load
from curate.runtime.progress import Observer

VOCABULARY = 512
PROXY = "mixture.evidence.proxy"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--work", type=Path, default=Path("bench-work/nano-study"))
    arguments.add_argument("--recipe", type=Path, default=Path(__file__).with_name("nano.yaml"))
    arguments.add_argument("--workers", type=int, default=1)
    options = arguments.parse_args()
    work = options.work.resolve()
    places = (f"cache={json.dumps(str(work / 'cache'))}",)
    plain = load(options.recipe, places)
    names = [domain.name for domain in plain.recipe.domains]
    first = over_seeds(read_runs(work / "runs.csv", names))
    mixtures = work / "mixtures.csv"
    with mixtures.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["run", *(f"w_{name}" for name in names)])
        table.writerows([row.run, *row.weights] for row in first.values())

    smaller = f"{PROXY}.tokenizer={{train: {{vocab_size: {VOCABULARY}, sample_bytes: 2000000}}}}"
    tokens = same_text(load(options.recipe, (*places, smaller)), options.workers)
    out = work / "tokenizer"
    changes = (
        smaller, f"{PROXY}.tokens={tokens}", f"{PROXY}.mixtures={mixtures}",
        f"output.dir={json.dumps(str(out))}",
    )  # fmt: skip
    train_proxies(load(options.recipe, (*places, *changes)), options.workers, Observer())
    print(f"{VOCABULARY} ids on {tokens:,} tokens a run, the same text\n")
    print(f"| Spearman of bits per byte with the study's | {' | '.join(names)} | mean |")
    print("|---" * (len(names) + 2) + "|")
    other = over_seeds(read_runs(out / "runs.csv", names))
    show(f"{VOCABULARY} ids", [(first[name], other[name]) for name in first if name in other])
    effort = (options.workers, Observer())
    shares = {name: row.weights for name, row in first.items()}
    prepared = prepare(plain, tokenize_domains(plain, *effort), *effort)
    job = mixtures_job(plain, prepared, shares, work / "seed")
    trained = train_job(job, prepared, *effort)
    fresh = over_seeds(trained.rows)
    again = [
        (first[name], fresh[run_name(weights, 0).removesuffix(".s0")])
        for name, weights in shares.items()
    ]
    show("its own ids, other seeds", again)
    for title, rows in (("the study", first), (f"{VOCABULARY} ids", other)):
        best = min(rows.values(), key=lambda row: np.mean(row.bits_per_byte))
        print(f"\nbest by {title}: {best.run}, {np.mean(best.bits_per_byte):.4f} bits per byte")


def show(title: str, pairs: Sequence[tuple[RunRow, RunRow]]) -> None:
    print(f"| {title} | {' | '.join(f'{cell:.3f}' for cell in rankings(pairs))} |", flush=True)


def over_seeds(rows: Iterable[RunRow]) -> dict[str, RunRow]:
    """The last checkpoint of each mixture, its bits per byte the mean over its seeds."""
    by_mixture: dict[str, list[RunRow]] = {}
    for row in {row.run: row for row in rows}.values():
        by_mixture.setdefault(row.run.removesuffix(f".s{row.seed}"), []).append(row)
    return {
        name: replace(
            seeds[0], bits_per_byte=tuple(np.mean([row.bits_per_byte for row in seeds], axis=0))
        )
        for name, seeds in by_mixture.items()
    }


def same_text(loaded: LoadedRecipe, workers: int) -> int:
    """Tokens of a run, in whole steps, that hold the text of the study's, in all domains' mean."""
    swarm = prepare(loaded, None, workers, Observer())
    ratio = float(np.dot(swarm.ratio, swarm.supply) / np.sum(swarm.supply))
    step = swarm.swarm.step_tokens
    return step * round(swarm.swarm.steps * ratio)


def rankings(pairs: Sequence[tuple[RunRow, RunRow]]) -> list[float]:
    """Return rank correlations of every domain's bits per byte, and of their mean."""
    one, other = (np.array([pair[side].bits_per_byte for pair in pairs]) for side in (0, 1))
    columns = [spearman(a, b) for a, b in zip(one.T, other.T, strict=True)]
    return [*columns, spearman(one.mean(axis=1), other.mean(axis=1))]


if __name__ == "__main__":
    main()
