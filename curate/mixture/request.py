"""Inputs and outputs of every mixing method, and the tokens that supply allows.

A method maps a `MixtureRequest` (supply, evidence, budget) to a `Preference`: the shares of tokens
it would choose. `curate.mixture.mix` then moves them within floors and caps, the same way for every
method. `curate.plan.budget` turns shares into whole tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from curate.errors import RecipeError
from curate.recipe.checks import check_bounds

if TYPE_CHECKING:
    from curate.laws.law import RunTable
    from curate.laws.likelihoods import Likelihoods
    from curate.recipe import MixtureRecipe
    from curate.stats.statistic import SampleKind

SHORTFALL_POLICIES = ("error", "repeat", "redistribute")


@dataclass(frozen=True, slots=True)
class EarlierStage:
    """Tokens that an earlier stage takes of a domain."""

    name: str
    tokens: int
    share: float
    """The domain's share of the stage."""
    budget_tokens: int
    """Tokens of the stage."""
    is_capped: bool = False
    """Whether its method chose other shares because of `max_epochs`, so that they change with the
    budget."""


@dataclass(frozen=True, slots=True)
class DomainSupply:
    """Supply of one domain, and measurements of its text."""

    name: str
    supply_tokens: int
    """Tokens of its training documents, each counted once."""
    max_epochs: float
    """Most passes over it; positive, infinity for no cap."""
    entropy: Mapping[str, float] = field(default_factory=dict)
    """Nats per token, by measure; empty where nothing was measured."""
    weight: float | None = None
    """The recipe's own weight, for `manual`."""
    entropy_error: Mapping[str, float] = field(default_factory=dict)
    """Standard error of each, nats; a measure that is not here has no known error."""
    embedding: tuple[float, ...] = ()
    """Mean embedding of its text, shape (dimension,); empty where none was made."""
    used_tokens: int = 0
    """Tokens that earlier stages take of this supply, repeats included."""
    earlier: tuple[EarlierStage, ...] = ()
    """The stages that take them, in order."""

    def epochs_of(self, tokens: float) -> float:
        """Return the passes over the supply in all stages, after as many tokens in this one."""
        return (self.used_tokens + tokens) / self.supply_tokens if self.supply_tokens else 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """Results of training models; each None where there is none."""

    runs: RunTable | None = None
    """Training runs on known mixtures, for the laws."""
    experts: Likelihoods | None = None
    """Log-probabilities of validation text under one model a domain, for `mde` and `mixmin`."""
    notices: tuple[str, ...] = ()
    """Notes on what was left out or changed while reading."""
    stage: str | None = None
    """Stage that the mixture is for; None: all of training."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Settings of the methods that optimise a predicted loss."""

    objective: str | Mapping[str, float] = "mean"
    """`mean` of all targets' losses, `noise` (their mean weighed by their noise), `worst`, or
    importance by target (one target: all on it)."""
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names and patterns of targets by group; with some, the worst group mean is minimised."""
    against: str | None = None
    """Reference that group means are measured against: `best_run`, `natural`, or None for the
    method's default (the best run; for experts, nothing)."""
    law: str | None = None
    """Name of the law, for method `law`."""
    at_tokens: float | None = None
    """Training tokens at which losses are compared; None: the largest of the runs."""
    at_params: float | None = None
    """Model parameters at which losses are compared; None: the largest of the runs."""
    kl: float | Literal["auto"] | None = None
    """Loss in nats per nat of KL divergence from the prior; `auto`: by cross-validated regret;
    None: the method's default."""
    prior: str | Mapping[str, float] = "natural"
    """`natural`, `uniform`, or shares by domain."""
    keep: Mapping[str, float] | None = None
    """Relative shares of the domains that keep these proportions to each other; empty: none do.
    None: those whose proportions no run of today's domains varies, where others are of earlier
    ones."""
    trust_region: bool = True
    """Keep to mixtures that are near to some run."""
    replicates: int | None = None
    """Resamples for intervals, 0 for none; None: the default of the law."""
    discount_repeats: bool = False
    """Whether repeated tokens count for less, by Muennighoff's law."""
    level: str | int | None = None
    """For experts: `token`, `document` or tokens of a chunk; None: the method's default."""
    seed: int = 42


@dataclass(frozen=True, slots=True)
class MixtureOptions:
    """The recipe's settings of a method; a method ignores those it has no use for."""

    temperature: float | None = None
    """None: the method's default, where it has one."""
    measure: str = "conditional"
    on_shortfall: str = "error"
    """`error`: manual weights must fit the caps. `redistribute`: they are moved to the nearest that
    do. `repeat`: `max_epochs` is ignored, for every method."""
    search: SearchOptions = field(default_factory=SearchOptions)
    floors: Mapping[str, float] = field(default_factory=dict)
    """Least share by domain, from 0 to 1; every method obeys it."""
    caps: Mapping[str, float] = field(default_factory=dict)
    """Largest share by domain, from 0 to 1; every method obeys it."""


@dataclass(frozen=True, slots=True)
class MixtureRequest:
    """Input of a mixing method."""

    domains: tuple[DomainSupply, ...]
    budget_tokens: int
    method: str
    options: MixtureOptions = field(default_factory=MixtureOptions)
    evidence: Evidence | None = None
    where: str | None = None
    """The expression that left only this supply to a stage; None without one."""
    ends: tuple[tuple[float, float], ...] = ()
    """shape (domains, 2), shares at the start and at the end of a schedule, whose mean the method
    gives; empty without one."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Shares that a method would choose; shape (domains,) each, in the order of the request."""

    weights: tuple[float, ...]
    """Non-negative; need not sum to 1."""
    unconstrained: tuple[float, ...] | None = None
    """Shares it would choose without caps, floors and trust region, if `weights` already take them
    into account."""
    low: tuple[float, ...] | None = None
    """Lower ends of 95 % intervals of the shares, where the method has them. They cover the
    sampling of runs or documents and, for methods of laws, the choice of the law."""
    high: tuple[float, ...] | None = None
    """Upper ends."""
    draws: Sequence[Sequence[float]] | None = None
    """Choices under noise in the evidence, each of shape (domains,). Their quantiles, after caps,
    give the interval in place of `low` and `high`."""
    predicted_loss: float | None = None
    """Nats per token."""
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """More fields of `mixture.json`, such as `support` and `regret`."""
    law: Mapping[str, Any] | None = None
    """Fields of `law.json`, see `curate.mixture.methods.law_record`; None without a law, or where
    its errors on mixtures left out are unknown."""


EVERY_METHOD_READS = ("method", "floors", "caps")
"""Keys of `mixture` that have an effect on every method."""

KEYS_BY_EVIDENCE: Mapping[str | None, tuple[str, ...]] = {
    None: (),
    "runs": (
        "evidence.runs", "evidence.far_runs", "evidence.fill", "evidence.absent_domains",
        "evidence.became", "evidence.alike", "evidence.stage", "evidence.proxy", "objective",
        "at_tokens", "at_params", "kl", "prior", "keep", "trust_region", "replicates",
        "discount_repeats",
    ),
    "experts": (
        "evidence.experts", "evidence.proxy", "objective", "kl", "prior", "replicates", "level",
    ),
}  # fmt: skip
"""Keys of `mixture` that methods read, by the evidence that they need."""

LEAST_REPLICATES = 20
"""Fewest resamples that make an interval of an optimum over runs."""


def check_replicates(replicates: int) -> None:
    """Refuse too few resamples for an interval.

    Raises:
        RecipeError: There are fewer than `LEAST_REPLICATES`.
    """
    if replicates < LEAST_REPLICATES:
        raise RecipeError(
            f"mixture.replicates: {replicates} is too few for an interval; set "
            f"{LEAST_REPLICATES} or more, or 0"
        )


NEEDS_EVIDENCE: Mapping[str, str] = {
    "runs": (
        "mixture: method 'METHOD' needs training runs. Name the table in the recipe, mixture: "
        "{evidence: {runs: runs.csv}} (or [ratios.csv, metrics.csv]); `curate proxy RECIPE` trains "
        "one, `curate design` proposes its mixtures"
    ),
    "experts": (
        "mixture: method 'METHOD' needs the experts' log-probabilities. Name the file in the "
        "recipe, mixture: {evidence: {experts: experts.parquet}}; `curate experts RECIPE` makes it"
    ),
}
"""Message where a method lacks its evidence; `METHOD` stands for the method's name."""


@dataclass(frozen=True, slots=True)
class Method:
    """A row of `METHODS`."""

    name: str
    summary: str
    paper: str
    """Short citation with arXiv number and equation, or a note that there is none."""
    needs: str
    """The evidence it needs, in words."""
    prefer: Callable[[MixtureRequest], Preference]
    """Choose the shares. For a method of a law this is a `LawMethod`, for one of experts an
    `ExpertMethod`, whose fields say which law or level predicts the losses."""
    by_hand: bool = False
    """Whether the weights are the user's own, which caps may not move unless the recipe says so."""
    evidence: Literal["runs", "experts"] | None = None
    """Key of `mixture.evidence` that it requires; None: the corpus is enough."""
    measures: Callable[[MixtureRecipe], tuple[SampleKind, ...]] = lambda _: ()
    """Samples of the text that must be measured for it, by the recipe's settings."""
    reads: tuple[str, ...] | None = None
    """Keys of `mixture` that it reads beside `EVERY_METHOD_READS`, with dots into `evidence`; None:
    all that methods with its `evidence` can read. A recipe that sets another one is refused."""
    requires: Mapping[str, str] = field(default_factory=dict)
    """Keys of `mixture` that it cannot do without: the message where one is missing, in which
    `METHOD` stands for the method's name."""
    pulls: bool = False
    """Whether it pulls to `mixture.prior` where the recipe sets no `kl`."""
    prior_always: bool = False
    """Whether `mixture.prior` has an effect even without a pull to it."""

    @property
    def chooses_kl(self) -> bool:
        """Whether it can choose the strength of its pull (`mixture.kl: auto`)."""
        return self.evidence == "runs" and not getattr(self.prefer, "simulated", False)

    @property
    def keys(self) -> frozenset[str]:
        """Every key of `mixture` that has an effect on it."""
        reads = KEYS_BY_EVIDENCE[self.evidence] if self.reads is None else self.reads
        return frozenset((*EVERY_METHOD_READS, *reads))


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares of tokens, and how they came about; keys are domain names."""

    method: str
    weights: dict[str, float]
    """Sum to 1 within 1e-12."""
    unconstrained: dict[str, float]
    """The method's choice without caps, floors and trust region; sums to 1 too."""
    epochs: dict[str, float]
    """Passes over each domain at the budget."""
    constraints_active: tuple[str, ...]
    """Such as `wiki: max_epochs 4 binds` or `web: mixture.caps 0.3 binds`."""
    warnings: tuple[str, ...]
    paper: str
    low: dict[str, float] | None = None
    high: dict[str, float] | None = None
    predicted_loss: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    law: Mapping[str, Any] | None = None
    """Fields of `law.json`; None without a law."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `mixture.json`, but for its origin, which the pipeline adds."""
        return {
            "method": self.method,
            "weights": self.weights,
            "unconstrained": self.unconstrained,
            "low": self.low,
            "high": self.high,
            "predicted_loss": self.predicted_loss,
            "epochs": self.epochs,
            "constraints_active": list(self.constraints_active),
            "warnings": list(self.warnings),
            "paper": self.paper,
            **self.details,
        }


def cap_tokens(domain: DomainSupply) -> int | None:
    """Return the most tokens a domain's cap allows, floor(max_epochs * supply); None: no cap.

    What earlier stages take is not allowed again. `max_epochs` is taken as the decimal the user
    wrote, not as the binary float next to it.

    Example:
        >>> cap_tokens(DomainSupply("wiki", 10, 0.3))
        3
    """
    if math.isinf(domain.max_epochs):
        return None
    allowed = int(Fraction(str(float(domain.max_epochs))) * domain.supply_tokens)
    return max(0, allowed - domain.used_tokens)


def supply_limits(request: MixtureRequest) -> list[int]:
    """Return the most tokens that each domain's supply allows to this budget, shape (domains,).

    Each is at most the budget, and the budget itself where there is no cap or `on_shortfall` is
    `repeat`.
    """
    budget = request.budget_tokens
    if request.options.on_shortfall == "repeat":
        return [budget] * len(request.domains)
    caps = [cap_tokens(domain) for domain in request.domains]
    return [budget if cap is None else min(cap, budget) for cap in caps]


def limit_tokens(request: MixtureRequest) -> list[int]:
    """Return the most tokens each domain may give to this budget, shape (domains,).

    These are the limits of supply, and `mixture.caps` rounded up to whole tokens: caps that sum to
    1 must fill the budget.
    """
    budget, caps = request.budget_tokens, request.options.caps
    return [
        min(limit, math.ceil(Fraction(str(float(caps[domain.name]))) * budget))
        if domain.name in caps
        else limit
        for domain, limit in zip(request.domains, supply_limits(request), strict=True)
    ]


@dataclass(frozen=True, slots=True)
class ShareBounds:
    """Least and largest share of each domain, shape (domains,) each."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def allow_all(self) -> bool:
        """Whether every mixture obeys them."""
        return max(self.low) <= 0 and min(self.high) >= 1


def share_bounds(request: MixtureRequest) -> ShareBounds:
    """Return the bounds of every method's shares: floors, caps, and what supply allows."""
    asked = asked_bounds(request)
    budget = request.budget_tokens
    supply = (limit / budget for limit in supply_limits(request))
    return ShareBounds(asked.low, tuple(map(min, asked.high, supply)))


def asked_bounds(request: MixtureRequest) -> ShareBounds:
    """Return the bounds that `mixture.floors` and `mixture.caps` set, whatever the supply."""
    options = request.options
    names = [domain.name for domain in request.domains]
    return ShareBounds(
        tuple(float(options.floors.get(name, 0.0)) for name in names),
        tuple(float(options.caps.get(name, 1.0)) for name in names),
    )


def check_request(request: MixtureRequest) -> None:
    """Check the rules that types do not express.

    Raises:
        RecipeError: No domain, two of one name, a budget or `max_epochs` that is not positive, an
            unknown `on_shortfall`, or floors and caps that no mixture obeys; names the field and
            what to type.
        ValueError: A negative supply.
    """
    if not request.domains:
        raise RecipeError("domains: a mixture needs at least one")
    names = [domain.name for domain in request.domains]
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise RecipeError(f"domains: two are called '{twice[0]}'; give each a name of its own")
    if request.budget_tokens < 1:
        raise RecipeError(f"budget_tokens: {request.budget_tokens} is not a positive number")
    for domain in request.domains:
        if not domain.max_epochs > 0:
            raise RecipeError(
                f"domains[{domain.name}].max_epochs: {domain.max_epochs} is not a positive number"
            )
        if domain.supply_tokens < 0:
            raise ValueError(f"expected a supply of at least 0, got {domain.supply_tokens}")
    policy = request.options.on_shortfall
    if policy not in SHORTFALL_POLICIES:
        policies = ", ".join(SHORTFALL_POLICIES)
        raise RecipeError(f"on_shortfall: '{policy}' is not one of {policies}")
    check_bounds(request.options.floors, request.options.caps, names, "")
