"""Which mixing method wins when its mixture is trained? `python tools/studies/rivals.py`.

Trains small models on the embedded corpus (`nano.yaml`, beside this program) by two protocols, lets
every method that the runs allow recommend a mixture from each, and trains all recommendations with
the same five fresh seeds, against mixtures that need no runs:

- BiMix's (Ge et al. 2024, arXiv:2405.14908v4): four runs, on the mixtures of four entropies, with
  20 even checkpoints;
- RegMix's (Liu et al. 2024, arXiv:2407.01492v2): a swarm of Dirichlet draws, last losses only;
- experts, one a domain, for `mde` and `mixmin`.

Prints Markdown tables of differences with 95 % intervals over seeds. `--text DIR` takes the files
of a directory as domains, and `--protocols ""` compares only the mixtures that need no runs. What
is in the work directory already is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from nano import Loud

from curate.laws.scores import spearman
from curate.mixture import METHODS
from curate.mixture.constraints import match_itself
from curate.mixture.design import design
from curate.pipeline.compare_mixtures import compare_recipe
from curate.pipeline.measure import gather
from curate.pipeline.mix import mixture_request
from curate.pipeline.proxies import (
    final_rows,
    fresh_seeds,
    mixtures_job,
    run_name,
    train_domain_experts,
    train_proxies,
)
from curate.pipeline.proxy_devices import train_job
from curate.pipeline.proxy_setup import prepare
from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import LoadedRecipe, load
from curate.runtime.workers import default_workers
from curate.stats.seed_intervals import SeedMean, seed_mean

TEXT_ONLY = ("natural", "uniform", "unimax", "entropy", "leverage")
"""Methods that need no runs; the first three are the rivals of all others."""
ENTROPIES = 4
"""Mixtures of BiMix's protocol."""
PROTOCOLS = ("bimix", "regmix")
ALIKE = 0.02
"""Recommendations whose shares differ by less in total variation are trained once."""

Shares = Mapping[str, float]


def main() -> None:
    """Train by every protocol, recommend, train the recommendations, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("nano.yaml"))
    parser.add_argument("--text", type=Path, help="Directory whose files are the domains.")
    parser.add_argument("--work", type=Path, default=Path("bench-work/rivals-study"))
    parser.add_argument("--protocols", default=",".join(PROTOCOLS))
    parser.add_argument("--tokens", type=int, default=81_920)
    parser.add_argument("--runs", type=int, default=40, help="Runs of RegMix's protocol.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=default_workers())
    options = parser.parse_args()
    if options.text is not None and not (options.text.is_dir() and any(options.text.iterdir())):
        print(f"{options.text}: no such directory, or nothing in it; this corpus is skipped")
        return
    started = time.monotonic(), time.process_time()
    study = Study(options)
    candidates = study.text_only()
    protocols = [name for name in options.protocols.split(",") if name]
    predicted: dict[str, dict[str, float]] = {}
    if protocols:
        experts = study.experts()
        for protocol in protocols:
            runs = study.bimix_runs() if protocol == "bimix" else study.regmix_runs()
            candidates[protocol], predicted[protocol] = study.recommend(protocol, runs, experts)
    losses = study.train([shares for group in candidates.values() for shares in group.values()])
    for group in candidates:
        show(study, group, candidates, losses, predicted.get(group, {}))
    wall, cpu = time.monotonic() - started[0], time.process_time() - started[1]
    print(f"\n{wall:.0f} s, {cpu:.0f} s of CPU in all")


class Study:
    """A corpus, and models trained on mixtures of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Read the recipe with the study's settings, and tokenise its domains."""
        self.options = options
        self.work: Path = options.work.resolve()
        self.effort = (options.workers, Loud())
        self.loaded = self.load("base")
        self.tokenized = tokenize_domains(self.loaded, *self.effort)

    def load(self, out: str, mixture: object = None, **proxy: object) -> LoadedRecipe:
        """Read the recipe.

        Args:
            out: Folder of results in the work directory.
            mixture: Replaces the recipe's; None: the study's proxies.
            proxy: Settings of the proxies besides the study's.
        """
        settings = {
            "preset": "nano", "tokens": self.options.tokens, "seeds": 1, "sequence_length": 64,
            "batch": 8, "schedule": "exponential", "checkpoints": 1, "validation_tokens": 10_000,
        } | proxy  # fmt: skip
        fields: dict[str, object] = {
            "cache": str(self.work / "cache"),
            "output.dir": str(self.work / out),
            "mixture": mixture or {"method": "bimix", "evidence": {"proxy": settings}},
        }
        if self.options.text is not None:
            fields["domains"] = [
                {"name": path.name.partition(".")[0], "paths": str(path)}
                for path in sorted(self.options.text.resolve().iterdir())
            ]
        return load(self.options.recipe, [f"{key}={json.dumps(v)}" for key, v in fields.items()])

    @property
    def names(self) -> list[str]:
        """Names of the domains."""
        return [domain.name for domain in self.loaded.recipe.domains]

    def text_only(self) -> dict[str, dict[str, Shares]]:
        """Return the mixtures of methods that look at the text only."""
        loaded = self.load("text", {"method": "uniform"})
        mixtures = compare_recipe(loaded, *self.effort, TEXT_ONLY).json["mixtures"]
        return {"text": {name: row["weights"] for name, row in mixtures.items()}}

    def bimix_runs(self) -> Path:
        """Train BiMix's runs, and return their table."""
        measured = gather(self.loaded, self.tokenized, ("tokens", "excerpts"), *self.effort)
        request = mixture_request(self.loaded, self.tokenized, measured)
        box = match_itself(request).box
        proposal = design(request, box, np.empty((0, len(self.names))), "entropy", ENTROPIES)
        path = self.work / "entropies.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["run", *self.names])
            table.writerows([f"e{at}", *row] for at, row in enumerate(proposal.mixtures.tolist()))
        curves = {"checkpoints": 20, "spacing": "even", "mixtures": str(path)}
        train_proxies(self.load("bimix", **curves), *self.effort, self.tokenized)
        return self.work / "bimix" / "runs.csv"

    def regmix_runs(self) -> Path:
        """Train RegMix's runs, and return their table."""
        loaded = self.load("regmix", runs=self.options.runs)
        train_proxies(loaded, *self.effort, self.tokenized)
        return self.work / "regmix" / "runs.csv"

    def experts(self) -> Path:
        """Train the experts, and return their log-probabilities."""
        train_domain_experts(self.load("experts"), *self.effort, self.tokenized)
        return self.work / "experts" / "experts.parquet"

    def recommend(
        self, protocol: str, runs: Path, experts: Path
    ) -> tuple[dict[str, Shares], dict[str, float]]:
        """Return the mixture of every method that this evidence allows, and its predicted loss."""
        evidence = {"runs": str(runs), "experts": str(experts)}
        mixture = {"method": "bimix", "replicates": 0, "evidence": evidence}
        names = [name for name, method in METHODS.items() if method.evidence and name != "law"]
        result = compare_recipe(self.load(f"{protocol}-mixtures", mixture), *self.effort, names)
        for name, problem in result.json["left_out"].items():
            print(f"<!-- {protocol}: {name} left out: {problem} -->")
        rows = result.json["mixtures"]
        return (
            {name: row["weights"] for name, row in rows.items()},
            {name: row["predicted_loss"] for name, row in rows.items() if row["predicted_loss"]},
        )

    def train(self, mixtures: Sequence[Shares]) -> dict[tuple[float, ...], np.ndarray]:
        """Train mixtures with fresh seeds; those nearly alike once.

        Returns:
            Losses of each kept mixture, shape (seeds, domains), nats per token.
        """
        distinct: list[tuple[float, ...]] = []
        for shares in mixtures:
            row = tuple(shares[name] for name in self.names)
            if nearest(row, distinct) is None:
                distinct.append(row)
        loaded = self.load("trained", seeds=self.options.seeds)
        prepared = prepare(loaded, self.tokenized, *self.effort)
        by_name = {f"c{at}": row for at, row in enumerate(distinct)}
        job = mixtures_job(loaded, prepared, by_name, self.work / "trained")
        rows = {row.run: row for row in final_rows(train_job(job, prepared, *self.effort))}
        seeds = fresh_seeds(loaded)
        return {
            row: np.array([rows[run_name(row, seed)].losses for seed in seeds]) for row in distinct
        }


def nearest(
    shares: tuple[float, ...], mixtures: Sequence[tuple[float, ...]]
) -> tuple[float, ...] | None:
    """Return the mixture within `ALIKE` of these shares; None if there is none."""
    for mixture in mixtures:
        if np.abs(np.subtract(shares, mixture)).sum() / 2 < ALIKE:
            return mixture
    return None


def show(
    study: Study,
    group: str,
    candidates: Mapping[str, Mapping[str, Shares]],
    losses: Mapping[tuple[float, ...], np.ndarray],
    predicted: Mapping[str, float],
) -> None:
    """Print measured losses of a group's mixtures, and what they gain on mixtures without runs."""

    def measured(shares: Shares) -> np.ndarray:
        row = nearest(tuple(shares[name] for name in study.names), list(losses))
        assert row is not None
        return losses[row].mean(axis=1)

    rivals = {name: measured(candidates["text"][name]) for name in TEXT_ONLY[:3]}
    rows = {name: measured(shares) for name, shares in candidates[group].items()}
    print(f"\n{group}: shares of {', '.join(study.names)}; mean loss over {study.options.seeds} "
          "seeds, nats per token, and minus each rival, ± 95 %\n")  # fmt: skip
    print(f"| method | shares % | loss | predicted | minus {' | minus '.join(rivals)} |")
    print("|---" * (4 + len(rivals)) + "|")
    for name in sorted(rows, key=lambda name: rows[name].mean()):
        shares = " ".join(f"{100 * candidates[group][name][d]:.1f}" for d in study.names)
        cells = [
            "" if np.array_equal(rows[name], rival) else cell(seed_mean(rows[name] - rival))
            for rival in rivals.values()
        ]
        seeds = seed_mean(rows[name])
        loss = f"{seeds.mean:.4f} ± {seeds.high - seeds.mean:.4f}"
        forecast = f"{predicted[name]:.4f}" if name in predicted else ""
        print(f"| `{name}` | {shares} | {loss} | {forecast} | {' | '.join(cells)} |", flush=True)
    both = [name for name in rows if name in predicted]
    if len(both) > 2:
        means = [rows[name].mean() for name in both]
        off = [abs(predicted[name] / rows[name].mean() - 1) for name in both]
        rank = spearman(np.array([predicted[name] for name in both]), np.array(means))
        print(f"\npredictions of their own losses miss by {100 * np.mean(off):.1f} % on average; "
              f"Spearman of predicted and measured {rank:.2f}")  # fmt: skip


def cell(difference: SeedMean) -> str:
    """Write a difference with its interval; bold where it is beyond seed noise."""
    text = f"{difference.mean:+.4f} ± {difference.high - difference.mean:.4f}"
    return f"**{text}**" if difference.low > 0 or difference.high < 0 else text


if __name__ == "__main__":
    main()
