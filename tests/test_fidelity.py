"""Every method against a few lines of its own: the paper's formula, solved by another solver.

Nothing here calls a fit or an optimiser of curate's to make the number that a method is compared
with; fits are SciPy's, NumPy's or LightGBM's, optima are SLSQP's from several starts. `REFERENCES`
has an entry for every row of `METHODS`, as `docs/fidelity.md` has a row.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import slow_if
from method_contract import asked, experts
from mixing_laws import LogLinear, PowerLaw, table_of
from numpy.typing import NDArray
from scipy.optimize import least_squares, linprog, minimize
from scipy.special import logsumexp

from curate.laws import LAWS
from curate.laws.forms.expert_regression import INFORMED
from curate.laws.law import RunTable
from curate.laws.likelihoods import Likelihoods
from curate.mixture import (
    METHODS,
    DomainSupply,
    Evidence,
    MixtureOptions,
    MixtureRequest,
    SearchOptions,
    mix,
)
from curate.mixture.methods.expert_features import expert_features
from curate.stats.entropy import entropies
from curate.tokens.counting import count_stream

Array = NDArray[np.float64]

# SciPy 1.15, the last for Python 3.10, steps out of bounds by rounding errors and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Values in x were outside bounds:RuntimeWarning")
NAMES = ("a", "b", "c")
RNG_RUNS = np.random.default_rng(0).dirichlet(np.full(3, 1.5), 60)
POWER = PowerLaw(np.array([2.0, 3.0, 2.5]), np.array([0.12, 0.05, 0.2]))
EXPONENTIAL = LogLinear(
    np.array([1.5, 1.2, 1.8]),
    np.array([[-1.5, -0.2, 0.1], [-0.1, -1.2, 0.0], [-0.4, -0.3, -0.9]]),
)
FREE = {"trust_region": False, "replicates": 0}


def least(loss: Callable[[Array], float], high: Sequence[float] = (1, 1, 1)) -> Array:
    """Minimise over the simplex by SLSQP with numeric slopes, from seven starts."""
    starts = [np.full(3, 1 / 3), *(np.full(3, 0.1) + 0.7 * np.eye(3)), *RNG_RUNS[:3]]
    ends = [
        minimize(
            loss, start, method="SLSQP", bounds=[(1e-9, cap) for cap in high], tol=1e-12,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"maxiter": 300},
        )
        for start in starts
    ]  # fmt: skip
    return np.asarray(min(ends, key=lambda end: float(end.fun)).x)


def choose(method: str, table: RunTable | None = None, **search: Any) -> Array:
    """Return the shares of `mix`."""
    evidence = None if table is None else Evidence(table, experts())
    weights = mix(asked(method, evidence=evidence, **{**FREE, **search})).weights
    return np.array([weights[name] for name in NAMES])


def corpus(method: str, supplies: Sequence[int], budget: int, **options: Any) -> Array:
    """Return the shares of a method that needs the corpus alone."""
    fields = [options.pop(key, [None] * 3) for key in ("caps", "entropy", "weights", "rows")]
    domains = tuple(
        DomainSupply(
            name, supply, max_epochs=cap or math.inf,
            entropy={} if nats is None else {"conditional": nats}, weight=weight,
            embedding=() if row is None else tuple(row),
        )
        for name, supply, cap, nats, weight, row in zip(NAMES, supplies, *fields, strict=True)
    )  # fmt: skip
    request = MixtureRequest(domains, budget, method, MixtureOptions(**options))
    return np.array(list(mix(request).weights.values()))


Pair = tuple[Array, Array]
"""Our shares, and the reference's."""


def natural() -> Pair:
    return corpus("natural", (100, 300, 600), 500), np.array([0.1, 0.3, 0.6])


def uniform() -> Pair:
    return corpus("uniform", (100, 300, 600), 90), np.full(3, 1 / 3)


def temperature() -> Pair:
    powers = np.array([100, 300, 600]) ** 0.3  # mT5's alpha of 0.3
    return corpus("temperature", (100, 300, 600), 100, temperature=1 / 0.3), powers / powers.sum()


def unimax() -> Pair:
    """The paper's aim by a solver: the shares nearest to equal ones within the epochs."""
    most = 2 * np.array([100, 300, 600]) / 900
    nearest = least(lambda w: 1e3 * float(((w - 1 / 3) ** 2).sum()), most.tolist())
    return corpus("unimax", (100, 300, 600), 900, caps=[2.0] * 3), nearest


def manual() -> Pair:
    return corpus("manual", (100, 300, 600), 100, weights=[2, 3, 5]), np.array([0.2, 0.3, 0.5])


def plain_conditional(text: list[list[int]]) -> float:
    """BiMix's Eq. 12 by dictionaries, nats a token; a document's end (0) is a successor."""
    pairs = Counter(pair for row in text for pair in zip(row, [*row[1:], 0], strict=True))
    firsts = Counter(token for row in text for token in row)
    total = sum(pairs.values())
    return -sum(n / total * math.log(n / firsts[x]) for (x, _), n in pairs.items())


def entropy() -> Pair:
    rng = np.random.default_rng(5)
    texts = [rng.integers(1, 3 + 4 * i, (20, 30)).tolist() for i in range(3)]
    streams = [np.array([t for row in text for t in [*row, 0]], np.uint16) for text in texts]
    counted = [entropies([count_stream(s, end=0, symbols=20)]).conditional for s in streams]
    own = np.exp([plain_conditional(text) for text in texts])  # e^H: the base is e, Eq. 13
    return corpus("entropy", (100, 300, 600), 90, entropy=counted), own / own.sum()


def leverage() -> Pair:
    """Chameleon's code: K (K + lambda k I)^-1, over its sum, softmax(1 / (5 s))."""
    rows = np.random.default_rng(2).normal(size=(3, 8)) + np.array([[0.0], [0.5], [3.0]])
    centred = rows - rows.mean(0)
    kernel = centred @ centred.T
    kernel /= np.trace(kernel) / 3  # ours: so the ridge of 10 does not depend on the units
    scores = np.diag(kernel @ np.linalg.inv(kernel + 10 * 3 * np.eye(3)))
    inverse = 1 / (scores / scores.sum() + 1e-12)
    powers = np.exp(inverse / 5)
    return corpus("leverage", (9, 9, 9), 9, rows=rows), powers / powers.sum()


def powers_of(table: RunTable) -> Callable[[Array], float]:
    """BiMix's Eq. 3 at one token count: a straight line of ln L over ln r for each domain."""
    lines = [
        np.polyfit(np.log(x), np.log(y), 1)
        for x, y in zip(table.weights.T, table.losses.T, strict=True)
    ]
    return lambda w: float(
        np.mean([math.exp(b) * r**a for (a, b), r in zip(lines, w, strict=True)])
    )


def bimix() -> Pair:
    table = table_of(POWER, RNG_RUNS, 0.01)
    return choose("bimix", table), least(powers_of(table))


def law() -> Pair:
    table = table_of(POWER, RNG_RUNS, 0.01, seed=1)
    return choose("law", table, law="bimix"), least(powers_of(table))


def fitted(
    form: Callable[[Array, Array], Array], start: Array, table: RunTable
) -> Callable[[Array], float]:
    """Fit a formula to each target by SciPy, without priors; return the mean of its losses."""
    best = [
        least_squares(
            lambda t, y=y: np.log(np.maximum(form(t, table.weights), 1e-9)) - np.log(y),
            start, method="trf", x_scale="jac", max_nfev=4000,
        ).x
        for y in table.losses.T
    ]  # fmt: skip
    return lambda w: float(np.mean([form(theta, w[None])[0] for theta in best]))


def mixing_law(theta: Array, weights: Array) -> Array:
    """c + k exp(t . r), with t of the last domain 0 (k takes it up)."""
    return np.exp(theta[0]) + np.exp(theta[1] + weights[:, :2] @ theta[2:])


def exponential_of(table: RunTable) -> Callable[[Array], float]:
    return fitted(mixing_law, np.array([0.3, -0.5, -0.3, -0.3]), table)


def dml() -> Pair:
    table = table_of(EXPONENTIAL, RNG_RUNS, 2e-4)
    return choose("dml", table), least(exponential_of(table))


def olmix() -> Pair:
    """KL of 0.05 in the losses' own unit where that is bits per byte."""
    table = replace(table_of(EXPONENTIAL, RNG_RUNS, 2e-4), loss_per_bpb=1.0)
    mean = exponential_of(table)

    def pulled(w: Array) -> float:
        return mean(w) + 0.05 * float((w * np.log(3 * np.maximum(w, 1e-12))).sum())

    return choose("olmix", table), least(pulled)


class Additive:
    """E_i + 1 / sum_j C_ij w_j^gamma_ij."""

    use = np.array([[3.0, 0.5, 0.3], [0.4, 2.5, 0.5], [0.3, 0.6, 2.0]])
    powers = np.array([[0.5, 0.6, 0.4], [0.4, 0.5, 0.7], [0.6, 0.4, 0.5]])

    def predict(self, weights: Array, *_: Any) -> Array:
        return 1.5 + 1 / (self.use * weights[:, None, :] ** self.powers).sum(2)


def additive() -> Pair:
    table = table_of(Additive(), RNG_RUNS, 1e-4)

    def form(theta: Array, weights: Array) -> Array:
        parts = np.exp(theta[1:4]) * np.maximum(weights, 1e-12) ** np.exp(theta[4:])
        return np.exp(theta[0]) + 1 / parts.sum(1)

    return choose("additive", table), least(fitted(form, np.zeros(7) - 0.1, table))


class Autoscale:
    """c + sum_j F_ij (1 + w_j / a_ij)^-b_ij."""

    amplitude = np.array([[1.5, 0.4, 0.2], [0.3, 1.2, 0.3], [0.2, 0.4, 1.4]])

    def predict(self, weights: Array, *_: Any) -> Array:
        return 1.5 + (self.amplitude * (1 + weights[:, None, :] / 0.2) ** -0.6).sum(2)


def autoscale() -> Pair:
    table = table_of(Autoscale(), RNG_RUNS, 1e-4)

    def form(theta: Array, weights: Array) -> Array:
        amplitude, start, power = np.exp(theta[1:4]), np.exp(theta[4:7]), np.exp(theta[7:])
        return np.exp(theta[0]) + (amplitude * (1 + weights / start) ** -power).sum(1)

    start = np.concatenate([[0.3], np.full(3, -0.5), np.full(3, -1.5), np.full(3, -0.5)])
    return choose("autoscale", table), least(fitted(form, start, table))


class BimixMixed:
    """sum_j F_ij (w_j + 0.0005)^-alpha_ij."""

    scales = np.array([[1.0, 0.3, 0.4], [0.3, 1.2, 0.3], [0.5, 0.3, 0.9]])
    powers = np.array([[0.15, 0.05, 0.04], [0.05, 0.10, 0.06], [0.04, 0.05, 0.2]])

    def predict(self, weights: Array, *_: Any) -> Array:
        return (self.scales * (weights[:, None, :] + 5e-4) ** -self.powers).sum(2)


def bimix_mixed() -> Pair:
    table = table_of(BimixMixed(), RNG_RUNS, 1e-4)

    def form(theta: Array, weights: Array) -> Array:
        return (np.exp(theta[:3]) * (weights + 5e-4) ** -np.exp(theta[3:])).sum(1)

    start = np.concatenate([np.full(3, -0.5), np.full(3, -2.5)])
    return choose("bimix_mixed", table), least(fitted(form, start, table))


def plain_ridge(columns: Array, losses: Array, penalty: float) -> tuple[Array, Array]:
    """Ridge as least squares on rows that stand for the penalty; the intercept has none."""
    rows, width = columns.shape
    design = np.hstack([np.ones((rows, 1)), columns])
    extra = np.hstack([np.zeros((width, 1)), math.sqrt(penalty) * np.eye(width)])
    both = np.vstack([losses, np.zeros((width, losses.shape[1]))])
    theta = np.linalg.lstsq(np.vstack([design, extra]), both, rcond=None)[0]
    return theta[0], theta[1:]


def ridge() -> Pair:
    """The corner that linear programming finds; caps keep it from being one domain."""
    table = table_of(EXPONENTIAL, RNG_RUNS, 0.001)
    penalty = LAWS["ridge"].fit(table).penalty  # type: ignore[attr-defined]
    slopes = plain_ridge(table.weights, table.losses, penalty)[1].mean(1)
    caps = (0.6, 0.55, 0.5)
    corner = linprog(slopes, A_eq=np.ones((1, 3)), b_eq=[1], bounds=[(0, cap) for cap in caps]).x
    request = asked("ridge", caps=caps, evidence=Evidence(table), **FREE)
    return np.array(list(mix(request).weights.values())), corner


def textbook_processes(fitted: Any, seen: Array, values: Array) -> Callable[[Array], Array]:
    """Posterior means k' K^-1 y (Rasmussen and Williams, Eq. 2.23), lengths and variances given."""
    centre, scale = values.mean(0), values.std(0)
    solved = []
    for process, y in zip(fitted.processes, ((values - centre) / scale).T, strict=True):
        theta = process.covariance.theta
        kernel = textbook_kernel(np.exp(theta[: seen.shape[1]]), np.exp(2 * theta[-3:]))
        noise = (math.exp(2 * theta[-1]) + 1e-8) * np.eye(len(seen))
        solved.append((kernel, np.linalg.inv(kernel(seen, seen) + noise) @ y))
    return lambda new: centre + scale * np.stack([k(new, seen) @ a for k, a in solved], axis=1)


def textbook_kernel(lengths: Array, variances: Array) -> Callable[[Array, Array], Array]:
    """Matern 5/2 and a linear kernel, and the vague variance of the mean."""

    def kernel(one: Array, other: Array) -> Array:
        a, b = one / lengths, other / lengths
        far = np.sqrt(5 * ((a[:, None] - b[None]) ** 2).sum(2))
        near = (1 + far + far**2 / 3) * np.exp(-far)
        return np.asarray(variances[0] * near + variances[1] * (a @ b.T) + 10.0)

    return kernel


def gaussian() -> Pair:
    table = table_of(Additive(), RNG_RUNS, 0.005)
    model: Any = LAWS["gaussian"].fit(table)
    off = np.log(table.losses / model.mean.predict(table.weights, table.tokens, table.params))
    process = textbook_processes(model.residuals, np.sqrt(table.weights + 1e-4), off)

    def mean(w: Array) -> float:
        row = np.maximum(w[None], 0)
        base = model.mean.predict(row, np.full(1, np.nan), np.full(1, np.nan))
        return float((base * np.exp(process(np.sqrt(row + 1e-4)))).mean())

    return choose("gaussian", table), least(mean)


def joint() -> Pair:
    """Ours, without a paper: its optimum by another solver, on what it predicts."""
    table = table_of(POWER, RNG_RUNS, 0.002)
    model, missing = LAWS["joint"].fit(table), np.full(1, np.nan)
    return choose("joint", table), least(
        lambda w: float(model.predict(np.maximum(w[None], 0), missing, missing).mean())
    )


def one_target() -> RunTable:
    """RegMix's case: one loss, of one domain."""
    table = table_of(EXPONENTIAL, RNG_RUNS, 0.002)
    return replace(table, targets=("a",), losses=table.losses[:, :1])


def trees(columns: Array, losses: Array, leaf: int) -> Callable[[Array], Array]:
    """LightGBM with the settings of RegMix's notebook, called directly."""
    import lightgbm

    settings = {
        "boosting_type": "gbdt", "objective": "regression", "learning_rate": 0.01, "seed": 42,
        "verbosity": -1, "num_threads": 1, "deterministic": True, "force_col_wise": True,
        "min_child_samples": leaf,
    }  # fmt: skip
    model = lightgbm.train(settings, lightgbm.Dataset(columns, losses), 1000)
    return lambda rows: np.asarray(model.predict(rows, num_threads=1))


def regmix() -> Pair:
    """RegMix's notebook: 100,000 draws around the prior, the mean of the best 128."""
    table = one_target()
    score = trees(table.weights, table.losses[:, 0], 20)
    draws = np.random.RandomState(42).dirichlet(np.array([0.2, 0.3, 0.5]), 100_000)
    best = draws[np.argsort(score(draws), kind="stable")[:128]].mean(0)
    prior = {"a": 0.2, "b": 0.3, "c": 0.5}
    evidence = Evidence(table)
    mixture = mix(asked("regmix", evidence=evidence, replicates=0, prior=prior))
    return np.array(list(mixture.weights.values())), best / best.sum()


def lowest(score: Callable[[Array], Array], shares: Array) -> Pair:
    """Trees have plateaus, so losses are compared: ours is as low as the best of many draws."""
    draws = np.random.default_rng(9).dirichlet(np.full(3, 0.7), 3_000)
    floor = score(draws).min(keepdims=True)
    return np.maximum(score(shares[None]), floor), floor


def boosted() -> Pair:
    table = one_target()
    return lowest(trees(table.weights, table.losses[:, 0], 5), choose("boosted", table))


@functools.cache
def planted_experts() -> Likelihoods:
    return experts()


def mixed_experts(logp: Likelihoods, weights: Array, level: str) -> Array:
    """Mean over blocks of -ln sum_i w_i p_i, for each target and token of text."""
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(weights, 0))
    lengths = np.diff(logp.starts)
    if level == "token":
        each, of = logsumexp(logp.logp_nats + logs, axis=1), np.repeat(logp.target, lengths)
    else:  # MixMin's code: each document's over its length
        sums = np.add.reduceat(logp.logp_nats, logp.starts[:-1])
        each, of = logsumexp(sums + logs, axis=1) / lengths, logp.target
    return np.array([-each[of == target].mean() for target in range(len(logp.targets))])


def mde() -> Pair:
    return choose("mde", trust_region=True), least(
        lambda w: float(mixed_experts(planted_experts(), w, "token").mean())
    )


def mixmin() -> Pair:
    return choose("mixmin", trust_region=True), least(
        lambda w: float(mixed_experts(planted_experts(), w, "document").mean())
    )


def beside(table: RunTable) -> Callable[[Array], Array]:
    """MDE's features: the experts' losses of a mixture, standardised over the runs."""
    raw = np.array([mixed_experts(planted_experts(), w, "token") for w in table.weights])

    def features(weights: Array) -> Array:
        rows = np.array([mixed_experts(planted_experts(), w, "token") for w in weights])
        return np.asarray((rows - raw.mean(0)) / raw.std(0))

    return features


def ridge_mde() -> Pair:
    table = table_of(POWER, RNG_RUNS, 0.002)
    features = beside(table)
    columns = np.hstack([table.weights, features(table.weights)])
    law: Any = INFORMED["ridge_mde"].fit(table, experts=expert_features(planted_experts(), NAMES))
    level, slopes = plain_ridge(columns, table.losses, law.inner.penalty)
    return choose("ridge_mde", table), least(
        lambda w: float((level + np.hstack([w[None], features(w[None])]) @ slopes).mean())
    )


def gaussian_mde() -> Pair:
    table = table_of(POWER, RNG_RUNS, 0.002)
    features = beside(table)
    law: Any = INFORMED["gaussian_mde"].fit(
        table, experts=expert_features(planted_experts(), NAMES)
    )
    unit = float(np.sqrt(table.weights).std(0).mean())

    def rows(w: Array) -> Array:
        return np.hstack([np.sqrt(np.maximum(w, 0) + 1e-4), unit * features(w)])

    process = textbook_processes(law.processes, rows(table.weights), np.log(table.losses))
    return choose("gaussian_mde", table), least(
        lambda w: float(np.exp(process(rows(w[None]))).mean())
    )


def boosted_mde() -> Pair:
    table = one_target()
    features = beside(table)
    score = trees(np.hstack([table.weights, features(table.weights)]), table.losses[:, 0], 5)
    return lowest(lambda w: score(np.hstack([w, features(w)])), choose("boosted_mde", table))


REFERENCES: dict[str, tuple[Callable[[], Pair], float]] = {
    "natural": (natural, 1e-12),
    "uniform": (uniform, 1e-12),
    "temperature": (temperature, 1e-12),
    "unimax": (unimax, 1e-5),
    "manual": (manual, 1e-12),
    "entropy": (entropy, 1e-12),
    "leverage": (leverage, 1e-8),
    "bimix": (bimix, 1e-5),
    "bimix_mixed": (bimix_mixed, 1e-3),
    "dml": (dml, 1e-3),
    "olmix": (olmix, 1e-3),
    "additive": (additive, 1e-3),
    "autoscale": (autoscale, 1e-3),
    "ridge": (ridge, 1e-6),
    "gaussian": (gaussian, 1e-4),
    "boosted": (boosted, 0.002),
    "regmix": (regmix, 1e-6),
    "joint": (joint, 1e-4),
    "ridge_mde": (ridge_mde, 1e-4),
    "gaussian_mde": (gaussian_mde, 1e-4),
    "boosted_mde": (boosted_mde, 0.002),
    "law": (law, 1e-5),
    "mde": (mde, 1e-5),
    "mixmin": (mixmin, 1e-5),
}
"""The reference of each method, and the largest difference in a share (boosted trees: in the loss,
nats a token, above the best of many draws)."""


def test_every_method_has_a_reference_and_a_row_in_the_documentation() -> None:
    assert list(REFERENCES) == list(METHODS)
    page = (Path(__file__).parents[1] / "docs" / "fidelity.md").read_text("utf-8")
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| `")]
    for name in METHODS:
        assert f"`{name}`" in rows, f"docs/fidelity.md has no row for {name}"


@pytest.mark.parametrize("method", METHODS)
def test_method_is_what_its_formula_says(method: str) -> None:
    reference, tolerance = REFERENCES[method]
    ours, theirs = reference()
    assert np.abs(ours - theirs).max() <= tolerance
    if method != "uniform" and len(theirs) == 3:  # the dummy
        assert np.abs(1 / 3 - theirs).max() > 10 * tolerance


@pytest.mark.parametrize("bytes_per_token", [2.5, 4.4])
def test_olmix_pulls_by_bits_per_byte_whatever_the_unit(bytes_per_token: float) -> None:
    """Losses in nats a token are bits per byte times ln 2 times bytes a token; so is the pull."""
    nats_per_bpb = math.log(2) * bytes_per_token
    table = replace(table_of(EXPONENTIAL, RNG_RUNS, 2e-4), loss_per_bpb=nats_per_bpb)
    mean = exponential_of(table)

    def pulled(w: Array, kl: float) -> float:
        return mean(w) + kl * float((w * np.log(3 * np.maximum(w, 1e-12))).sum())

    ours = choose("olmix", table)
    assert np.abs(ours - least(lambda w: pulled(w, 0.05 * nats_per_bpb))).max() < 1e-3
    assert np.abs(ours - least(lambda w: pulled(w, 0.05))).max() > 0.01  # the dummy: not converted


@pytest.mark.parametrize(
    "method",
    slow_if("joint".__eq__, ["bimix", "dml", "olmix", "additive", "autoscale", "joint"]),
)
def test_before_caps_is_the_choice_without_them(method: str) -> None:
    """Beside a capped answer, `unconstrained` is what the reference finds without caps."""
    table = {
        "bimix": table_of(POWER, RNG_RUNS, 0.01),
        "joint": table_of(POWER, RNG_RUNS, 0.002),
        "additive": table_of(Additive(), RNG_RUNS, 1e-4),
        "autoscale": table_of(Autoscale(), RNG_RUNS, 1e-4),
    }.get(method, replace(table_of(EXPONENTIAL, RNG_RUNS, 2e-4), loss_per_bpb=1.0))
    caps = (0.2, np.inf, np.inf)
    capped = mix(asked(method, caps=caps, evidence=Evidence(table), replicates=0))
    free = REFERENCES[method][0]()[1]
    assert np.abs(np.array(list(capped.unconstrained.values())) - free).max() < 1e-3
    assert capped.weights["a"] <= 0.2 + 1e-9 < free[0] - 0.05


SEPARATE = PowerLaw(np.array([2.0, 2.2, 2.5]), np.array([0.12, 0.10, 0.03]))
"""A planted BiMix law: each domain's loss by its own share."""


def planted_swarm(least_c: float, count: int = 10) -> RunTable:
    """Runs whose least share of c is `least_c`."""
    rng = np.random.default_rng(0)
    c = np.concatenate([[least_c], rng.uniform(least_c, least_c + 0.4, count - 1)])
    a = (1 - c) * rng.uniform(0.3, 0.7, count)
    return table_of(SEPARATE, np.stack([a, 1 - c - a, c], axis=1))


def true_optimum(table: RunTable, search: dict[str, Any], unique: Array) -> Array:
    """Minimise the true law's mean loss by SLSQP, in the ball of each run in turn."""
    missing = np.full(1, np.nan)
    kl, natural = search.get("kl", 0.0), unique / unique.sum()

    def loss(w: Array) -> float:
        w = np.maximum(w, 1e-9)
        seen = w
        if search.get("discount_repeats"):  # Muennighoff et al., Eq. 5
            repeats = np.maximum(w / unique - 1, 0)
            worth = np.minimum(w, unique) + unique * 15.387756 * -np.expm1(-repeats / 15.387756)
            seen = worth / worth.sum()
        pull = kl * float((w * np.log(w / natural)).sum())
        return float(SEPARATE.predict(seen[None], missing, missing).mean()) + pull

    if not search["trust_region"]:
        return least(loss)
    roots = np.sqrt(table.weights)
    apart = np.sqrt(np.maximum(0, 1 - roots @ roots.T)) + 9 * np.eye(len(roots))
    radius = float(np.quantile(apart.min(axis=1), 0.95))
    ends = []
    for root in roots:
        ball = {
            "type": "ineq",
            "fun": lambda w, r=root: np.sqrt(np.maximum(w, 0)) @ r - 1 + radius**2,
        }
        total = {"type": "eq", "fun": lambda w: w.sum() - 1}
        ends.append(minimize(loss, root**2, method="SLSQP", bounds=[(1e-9, 1)] * 3, tol=1e-12,
                             constraints=[ball, total], options={"maxiter": 300}))  # fmt: skip
    inside = [end for end in ends if end.success]
    return np.asarray(min(inside, key=lambda end: float(end.fun)).x)


SETTINGS = list(
    itertools.product([0.02, 0.122, 0.3], [True, False], [0.0, 1e-9, 0.05], [None, 10.0, 0.3])
)


@pytest.mark.parametrize(
    "setting", slow_if(lambda setting: SETTINGS.index(setting) % 7 > 0, SETTINGS), ids=str
)
def test_bimix_reaches_the_true_optimum_in_every_setting(
    setting: tuple[float, bool, float, float | None],
) -> None:
    """`supply` is that of each domain over the budget, where repeats are discounted."""
    least_c, trust_region, kl, supply = setting
    table = planted_swarm(least_c)
    unique = np.full(3, 10.0 if supply is None else supply) * np.array([1.0, 1.5, 0.7])
    search = {"kl": kl, "trust_region": trust_region, "discount_repeats": supply is not None}
    request = MixtureRequest(
        tuple(DomainSupply(n, int(1e9 * u), math.inf) for n, u in zip(NAMES, unique, strict=True)),
        10**9, "bimix", MixtureOptions(search=SearchOptions(replicates=0, **search)),
        Evidence(table),
    )  # fmt: skip
    mixture = mix(request)
    ours = np.array(list(mixture.weights.values()))
    assert np.abs(ours - true_optimum(table, search, unique)).sum() / 2 < 0.01
    for name, share, trained in zip(NAMES, ours, table.weights.min(axis=0), strict=True):
        warned = any(f"'{name}'" in text and "(trained " in text for text in mixture.warnings)
        assert share > trained / 1.1 or warned, f"{name} {share:.3f} of {trained:.3f}"
    assert ours.min() > 0.02
