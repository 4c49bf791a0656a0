"""The joint law on planted tables of ten forms that are not its own, judged without noise.

Run as `python tools/bench/planted.py --seeds 3,4 --forms apple,noisy`. A fifth of the mixtures is
held out; errors are in percent of the noiseless loss. Beside the law stands what it would be
without its fourth expert.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from curate.laws.fitting.features import run_folds
from curate.laws.forms.joint import fit_joint
from curate.laws.law import Array, RunTable

Random = np.random.Generator


@dataclass(frozen=True)
class Form:
    """A grid of mixtures, sizes and checkpoints, and the law of its losses."""

    domains: int
    mixtures: int
    concentration: float
    params: tuple[float, ...]
    billions: tuple[float, ...]
    losses: Callable[[Random, Array, Array, Array], Array]
    """Losses by generator, shares (rows, domains), parameters (rows, 1) and billions of tokens."""
    noise: float = 1e-3


def transfer(rng: Random, count: int, mean: float = -2.2, spread: float = 0.8) -> Array:
    """How much each target learns from each domain; from its own, 1."""
    effects = np.exp(rng.normal(mean, spread, (count, count)))
    np.fill_diagonal(effects, 1)
    return effects


def products(rng: Random, w: Array, n: Array, d: Array) -> Array:
    """The data mixing law, multiplied by powers of size and tokens."""
    k = w.shape[1]
    slopes = rng.normal(0, 0.6, (k, k)) - np.diag(rng.uniform(1, 3, k))
    mixed = rng.uniform(0.4, 1.2, k) * np.exp(w @ slopes.T)
    later = mixed * (n / 1.6e8) ** -0.12 * (d / 8) ** -0.15
    return np.asarray(rng.uniform(1.2, 2.2, k) + later + 0.2 * d**-0.5)


def coupled(rng: Random, w: Array, n: Array, d: Array) -> Array:
    """BiMix with other domains' shares."""
    k = w.shape[1]
    seen = w @ transfer(rng, k, -2.5, 1.0).T + 0.003
    fall = rng.uniform(0.8, 2, k) * d ** -rng.uniform(0.2, 0.6, k) + rng.uniform(1.5, 2.5, k)
    return np.asarray(seen ** -rng.uniform(0.05, 0.2, k) * fall)


def apple(rng: Random, w: Array, n: Array, d: Array) -> Array:
    """The joint form of Shukor et al. 2025: the mixture acts on all terms."""
    k = w.shape[1]
    use = np.exp(rng.normal(0, 0.7, (k, k))) * (0.3 + 3 * np.eye(k))
    first = (use * w[:, None, :] ** rng.uniform(0.15, 0.7, (k, k))).sum(axis=2)
    by_size, by_tokens = (np.exp(rng.normal(0, 0.4, (k, k))) * (0.5 + 2 * np.eye(k)) for _ in "ab")
    larger = 0.2 * (w @ by_size.T + 0.1) ** -0.3 * (n / 1e9) ** -rng.uniform(0.25, 0.4, k)
    later = 0.3 * (w @ by_tokens.T + 0.1) ** -0.4 * (d / 10) ** -rng.uniform(0.25, 0.4, k)
    return np.asarray(rng.uniform(1.2, 1.8, k) + 1 / first + larger + later)


def saturated(rng: Random, w: Array, n: Array, d: Array) -> Array:
    """Useful data stops to help soon, and its absence hurts."""
    k = w.shape[1]
    seen = w @ transfer(rng, k, -2.5, 1.2).T
    fall = rng.uniform(0.5, 1.5, k) * np.exp(-rng.uniform(4, 15, k) * seen)
    return np.asarray(rng.uniform(2.5, 4, k) + fall + 0.25 * np.log1p(0.02 / (seen + 0.01)))


def repeated(rng: Random, w: Array, n: Array, d: Array) -> Array:
    """Muennighoff et al. 2023: repeated tokens count for less."""
    k = w.shape[1]
    supply, rate = np.exp(rng.uniform(np.log(0.5), np.log(20), k)), rng.uniform(4, 15)
    again = np.maximum(w * d / supply - 1, 0)
    worth = np.minimum(w * d, supply) + supply * rate * (1 - np.exp(-again / rate))
    useful = 1e9 * worth @ transfer(rng, k).T
    later = 1488 / (useful**0.3527 + 1) * rng.uniform(0.5, 1.2, k)
    return np.asarray(rng.uniform(1.4, 2.2, k) + 520 / n**0.35 * rng.uniform(0.8, 1.2, k) + later)


def exponents(rng: Random, w: Array, n: Array, d: Array) -> Array:
    """Chinchilla's law, with exponents that depend on the mixture."""
    k = w.shape[1]
    of_size, of_tokens = (0.28 + w @ rng.uniform(-0.08, 0.08, (k, k)) for _ in "ab")
    level = rng.uniform(1.3, 2.0, k) + 0.25 * (w @ transfer(rng, k).T) ** -0.35
    return np.asarray(level + 0.35 * (n / 1e9) ** -of_size + 0.35 * (d / 8) ** -of_tokens)


def useful(rng: Random, w: Array, n: Array, d: Array) -> Array:
    """Tokens of useful data."""
    k = w.shape[1]
    later = 0.45 * (w @ transfer(rng, k, -2.5).T * d / 10) ** -rng.uniform(0.2, 0.35, k)
    return np.asarray(rng.uniform(1.3, 2.1, k) + 0.3 * (n / 1e9) ** -0.3 + later)


def capacity(rng: Random, w: Array, n: Array, d: Array) -> Array:
    """Domains share the model's capacity by their weight."""
    k = w.shape[1]
    fall, need = rng.uniform(0.2, 0.35), rng.uniform(0.5, 1.5, k)
    part = ((w + 0.002) * need) ** (1 / (fall + 1))
    part *= n / 1e8 / part.sum(axis=1, keepdims=True)
    later = 0.12 * ((w + 0.01) * d / 10) ** -rng.uniform(0.25, 0.4, k)
    return np.asarray(rng.uniform(1.4, 2.2, k) + 0.21 * need * part**-fall + later)


def steps(count: int, each: float) -> tuple[float, ...]:
    """Checkpoints at equal distances."""
    return tuple(each * (step + 1) for step in range(count))


FORMS = {
    "products": Form(7, 45, 1.0, (7e7, 1.6e8, 4.1e8), steps(8, 2), products),
    "coupled": Form(5, 36, 1.5, (1.5e8,), steps(12, 1), coupled),
    "apple": Form(8, 60, 0.8, (1e8, 3e8, 1e9, 3e9), (2, 5, 10, 20, 40), apple),
    "saturated": Form(14, 120, 0.5, (1e8,), (1,), saturated, 2e-3),
    "repeated": Form(6, 50, 1.0, (1.5e8, 4e8, 1e9), (3, 6, 12, 24, 48), repeated),
    "exponents": Form(7, 61, 1.0, (1.2e8, 2.6e8, 5.7e8, 1.2e9, 2.7e9), steps(8, 4), exponents),
    "few": Form(6, 25, 1.0, (1.5e8, 6e8), steps(6, 4), repeated),
    "corners": Form(7, 61, 0.2, (1.2e8, 3e8, 7e8), steps(6, 5), useful),
    "noisy": Form(12, 120, 0.6, (1.2e8,), steps(5, 4), useful, 3e-3),
    "capacity": Form(7, 61, 2.0, (1.2e8, 2.6e8, 5.6e8, 1.2e9), steps(8, 2), capacity),
}


def planted(form: Form, seed: int) -> tuple[RunTable, Array]:
    """A table with noise between runs and between rows, and its losses without."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(form.domains, form.concentration), form.mixtures)
    shares[shares < 2e-4] = 0
    shares /= shares.sum(axis=1, keepdims=True)
    place = np.indices((form.mixtures, len(form.params), len(form.billions))).reshape(3, -1)
    weights, params = shares[place[0]], np.array(form.params)[place[1]]
    billions, run = np.array(form.billions)[place[2]], place[0] * len(form.params) + place[1]
    clean = form.losses(rng, weights, params[:, None], billions[:, None])
    losses = clean * np.exp(rng.normal(0, form.noise / 2, (run.max() + 1, form.domains)))[run]
    losses *= np.exp(rng.normal(0, form.noise, losses.shape))
    names = tuple(f"domain{index:02d}" for index in range(form.domains))
    varied = (
        values if count > 1 else np.full(len(run), np.nan)
        for values, count in ((billions * 1e9, len(form.billions)), (params, len(form.params)))
    )
    return RunTable(names, names, tuple(map(str, run)), weights, *varied, losses), clean


def main() -> None:
    """Print a row for each form and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--forms", default=",".join(FORMS))
    options = parser.parse_args()
    print("| form, seed | rows | error % | noise % | worst R2 | without the fourth | fit s |")
    print("|---|---|---|---|---|---|---|")
    for seed in map(int, options.seeds.split(",")):
        for name in options.forms.split(","):
            table, clean = planted(FORMS[name], seed)
            held = run_folds(table, 5)[0]
            train, test, truth = table.take(~held), table.take(held), clean[held]
            started = time.process_time()
            law = fit_joint(train)
            spent = time.process_time() - started
            votes = law.votes[:3] / law.votes[:3].sum(axis=0)
            experts = replace(law.experts, corrected=law.experts.corrected[:1])
            fewer = replace(law, votes=votes, experts=experts)
            rows = (test.weights, test.tokens, test.params)
            predicted, plain = law.predict(*rows), fewer.predict(*rows)
            logs = np.log(truth)
            missed = ((np.log(predicted) - logs) ** 2).sum(axis=0)
            worst = (1 - missed / ((logs - logs.mean(axis=0)) ** 2).sum(axis=0)).min()
            errors = [
                100 * np.abs(off / truth - 1).mean() for off in (predicted, test.losses, plain)
            ]
            print(f"| {name}, {seed} | {len(train.runs)} | {errors[0]:.3f} | {errors[1]:.3f} | "
                  f"{worst:.4f} | {errors[2]:.3f} | {spent:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
