"""Plan the stages of a recipe one after another, each as a recipe of its own.

The domains are tokenised once. A stage is given the documents that it may draw and what earlier
stages take of them, and then goes through the planning of any recipe. So it depends on the stages
before it and on none after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from msgspec.structs import replace as with_fields

from curate import __version__
from curate.curation.levels import domain_settings
from curate.curation.step import CurationRequest
from curate.dataset.ownership import holds_dataset, refuse_foreign
from curate.dataset.staged import find_stages
from curate.errors import CurateError
from curate.mixture import METHODS
from curate.mixture.caps import is_capped
from curate.mixture.request import EarlierStage
from curate.pipeline.artifacts import notice_bad_records
from curate.pipeline.check import check_mixture, check_names, settled
from curate.pipeline.plan import Planned, plan_json, plan_tokenized, write_artifacts
from curate.pipeline.results import PlanResult, StagedMixtureResult
from curate.pipeline.stage_supply import StageDomain, StageSupply
from curate.pipeline.tokenize import TokenizedDomains, drawable_documents, tokenize_domains
from curate.plan.uses import Draw, Pool, draw_of, usage
from curate.recipe import LoadedRecipe, stage_recipes
from curate.recipe.stages import with_ends
from curate.runtime.locks import directory_lock
from curate.runtime.progress import Observer, write_artifact


@dataclass(frozen=True)
class PlannedStage:
    """A stage and its plan."""

    loaded: LoadedRecipe
    """The stage as a recipe of its own."""
    planned: Planned

    @property
    def name(self) -> str:
        """Return the stage's name."""
        name = self.loaded.stage
        assert name is not None
        return name


@contextmanager
def in_stage(loaded: LoadedRecipe) -> Iterator[None]:
    """Name the stage in errors of the user."""
    try:
        yield
    except CurateError as error:
        raise type(error)(f"stages[{loaded.stage}]: {error}") from error


def check_stage_names(loaded: LoadedRecipe) -> None:
    """Check the names and mixtures of all stages before any data is read.

    Raises:
        CurateError: A name is unknown, or a method lacks what it needs; names the stage.
    """
    _check_stages(stage_recipes(loaded))


def _check_stages(stages: Sequence[LoadedRecipe]) -> None:
    for stage in stages:
        with in_stage(stage):
            check_names(stage)
            check_mixture(stage)
            if stage.where is not None:
                from curate.curation.attributes import parse  # here, since it imports polars

                parse(stage.where, "where")


def plan_staged_recipe(loaded: LoadedRecipe, workers: int, observer: Observer) -> PlanResult:
    """Plan all stages, and write their plans unless there is a dataset.

    Args:
        loaded: A recipe with stages.
        workers: Number of processes.
        observer: Receives progress and warnings.

    Raises:
        CurateError: Any user-fixable error, including an infeasible plan; names the stage.
    """
    return PlanResult(stages_json(loaded, _plan_alone(loaded, workers, observer)))


def mix_staged_recipe(
    loaded: LoadedRecipe, workers: int, observer: Observer
) -> StagedMixtureResult:
    """Derive the mixture of every stage; see `plan_staged_recipe`.

    Args:
        loaded: A recipe with stages.
        workers: Number of processes.
        observer: Receives progress, warnings, and the constraints that bind.

    Raises:
        CurateError: Any user-fixable error; names the stage.
    """
    stages = _plan_alone(loaded, workers, observer)
    tokens: dict[str, int] = {}
    for stage in stages:
        for domain in stage.planned.plan.domains:
            tokens[domain.name] = tokens.get(domain.name, 0) + domain.tokens
    total = sum(tokens.values())
    fields = {
        "weights": {name: count / total for name, count in tokens.items()},
        "stages": {
            stage.name: {
                **stage.planned.mixed.mixture.to_json(),
                "supply_tokens": {
                    domain.name: domain.supply_tokens
                    for domain in stage.planned.mixed.request.domains
                },
            }
            for stage in stages
        },
    }
    supply: dict[str, int | None] = {
        row.name: row.tokens_train for row in stages[0].planned.tokenized.stats
    }
    return StagedMixtureResult(fields, supply)


def _plan_alone(loaded: LoadedRecipe, workers: int, observer: Observer) -> list[PlannedStage]:
    """Plan all stages outside of a build, which alone changes the files of a finished dataset."""
    check_stage_names(loaded)
    if find_stages(loaded.output_dir) is not None or holds_dataset(loaded.output_dir):
        observer.notice(
            f"{loaded.output_dir} holds a dataset: its artifacts are kept, and nothing is written"
        )
        stages = plan_stages(loaded, workers, observer)
        notice_bad_records(stages[0].planned.tokenized, observer)
        return stages
    with directory_lock(loaded.output_dir, loaded.output_url):
        stages = plan_stages(loaded, workers, observer)
        for stage in without_dataset(stages):
            write_artifacts(stage.loaded, stage.planned, observer)
        write_plan(loaded, stages, observer)
        return stages


def without_dataset(stages: Sequence[PlannedStage]) -> list[PlannedStage]:
    """Return the stages that have no dataset yet, whose artifacts may be written.

    Args:
        stages: The plans of all stages, so that a plan that is refused leaves no files.

    Raises:
        ShardError: The directory of one of them holds files that curate did not write.
    """
    without = [stage for stage in stages if not holds_dataset(stage.loaded.output_dir)]
    for stage in without:
        with in_stage(stage.loaded):
            refuse_foreign(stage.loaded.output_dir)
    return without


@dataclass(frozen=True)
class StageChoice:
    """The stage that a command about one mixture is for."""

    name: str
    method: str | None = None
    """Method in place of the stage's own."""

    def of(self, stage: LoadedRecipe) -> LoadedRecipe:
        """Return a stage's recipe, with the method if it is the chosen one."""
        if stage.stage != self.name or self.method is None:
            return stage
        stage = stage.with_mixture(with_fields(stage.recipe.mixture, method=self.method))
        return with_fields(stage, overridden=(*stage.overridden, "mixture.method"))


@contextmanager
def one_mixture(
    loaded: LoadedRecipe, choice: StageChoice | None, workers: int, observer: Observer
) -> Iterator[tuple[LoadedRecipe, TokenizedDomains]]:
    """Tokenise the domains of a recipe; of a stage, with what earlier stages leave of them.

    The stages before it are planned for that, and nothing is written.

    Args:
        loaded: The recipe, its names checked.
        choice: The stage, for a recipe with stages, and its method.
        workers: Number of processes.
        observer: Receives progress and warnings.

    Yields:
        The recipe, or the stage as a recipe of its own, and its domains.

    Raises:
        CurateError: Any user-fixable error; names the stage.
    """
    if choice is None:
        yield loaded, tokenize_domains(loaded, workers, observer)
        return
    stages = [choice.of(stage) for stage in stage_recipes(loaded)]
    names = [stage.stage for stage in stages]
    _check_stages(stages[: names.index(choice.name) + 1])
    past = _Past(tokenize_domains(loaded, workers, observer), loaded.recipe.seed)
    for of_stage in stages:
        stage, supplied = past.open(of_stage, workers, observer)
        with in_stage(stage):
            if stage.stage == choice.name:
                stage, notices = settled(stage)
                for notice in notices:
                    observer.notice(notice)
                yield stage, supplied
                return
            past.add(stage, plan_tokenized(stage, supplied, workers, observer, write=False))


def plan_stages(loaded: LoadedRecipe, workers: int, observer: Observer) -> list[PlannedStage]:
    """Tokenise, then measure, mix and plan each stage after the ones before it; write nothing.

    Args:
        loaded: A recipe with stages, their names checked.
        workers: Number of processes.
        observer: Receives progress and warnings.

    Raises:
        CurateError: Any user-fixable error, including an infeasible plan; names the stage.
    """
    past = _Past(tokenize_domains(loaded, workers, observer), loaded.recipe.seed)
    stages = []
    for of_stage in stage_recipes(loaded):
        stage, supplied = past.open(of_stage, workers, observer)
        with in_stage(stage):
            stages.append(
                past.add(stage, plan_tokenized(stage, supplied, workers, observer, write=False))
            )
    return stages


def _pools(
    stage: LoadedRecipe, tokenized: TokenizedDomains, workers: int, observer: Observer
) -> list[Pool]:
    """Return the documents of each domain that a stage may draw; empty where it may draw all."""
    if stage.where is None:
        return []
    from curate.curation.pools import filtered_by, find_pools  # here, since they import polars

    curation, sources = tokenized.curation, tokenized.sources
    plans = dict(zip(sources, tokenized.plans, strict=True))
    request = CurationRequest(
        loaded=filtered_by(stage, stage.where),
        domains=tokenized.domains if curation is None else curation.wholes,
        plans=[plans[source] for source in sorted(plans)],
        tokenizer=tokenized.tokenizer,
        workers=workers,
        observer=observer,
    )
    masks, key = find_pools(request, tokenized.domains, sources)
    return [Pool(mask, key) for mask in masks]


def _supply_notice(stage: LoadedRecipe, supply: StageSupply, tokenized: TokenizedDomains) -> str:
    """Say how many training tokens a stage's `where` leaves of each domain."""
    parts = [
        f"'{row.name}' {of_stage.supply_tokens:,} of {row.tokens_train:,}"
        for row, of_stage in zip(tokenized.stats, supply.domains, strict=True)
    ]
    return f"training tokens where {stage.where}: {', '.join(parts)}"


def _supplied(
    stage: LoadedRecipe, supply: StageSupply, tokenized: TokenizedDomains
) -> TokenizedDomains:
    """Return the domains with what a stage may draw of them, and its settings of them."""
    settings = domain_settings(
        stage,
        names=[domain.name for domain in tokenized.domains],
        sources=tokenized.sources,
        tokens=[
            domain.total_tokens if of_stage.pool is None else of_stage.supply_tokens
            for domain, of_stage in zip(tokenized.domains, supply.domains, strict=True)
        ],
    )
    return replace(tokenized, settings=settings, stage=supply)


class _Past:
    """Amounts that the stages planned so far take of each domain."""

    def __init__(self, tokenized: TokenizedDomains, seed: int) -> None:
        self._tokenized = tokenized
        self._seed = seed
        self._draws: list[tuple[Draw, ...]] = [() for _ in tokenized.domains]
        self._earlier: list[tuple[EarlierStage, ...]] = [() for _ in tokenized.domains]
        self.shares: dict[str, dict[str, float]] = {}
        """Shares by domain at the end of each stage."""

    def open(
        self, stage: LoadedRecipe, workers: int, observer: Observer
    ) -> tuple[LoadedRecipe, TokenizedDomains]:
        """Find what the next stage may draw.

        Args:
            stage: Its recipe.
            workers: Number of processes.
            observer: Told of the stage, and of the supply that its `where` leaves.

        Returns:
            The recipe, with shares for names of stages in its schedule; and the domains with what
            the stage may draw of them.
        """
        with in_stage(stage):
            stage = with_ends(stage, self.shares)
            observer.notice(f"stage {stage.stage}")
            pools = _pools(stage, self._tokenized, workers, observer)
            supply = self._supply(pools)
            if pools:
                observer.notice(_supply_notice(stage, supply, self._tokenized))
            return stage, _supplied(stage, supply, self._tokenized)

    def _supply(self, pools: Sequence[Pool]) -> StageSupply:
        """Return what the next stage may draw.

        Args:
            pools: The documents of each domain that it may draw; empty for all.
        """
        domains = tuple(
            self._stage_domain(number, pools[number] if pools else None)
            for number in range(len(self._tokenized.domains))
        )
        return StageSupply(domains)

    def _stage_domain(self, number: int, pool: Pool | None) -> StageDomain:
        draws, earlier = self._draws[number], self._earlier[number]
        used = sum(draw.tokens for draw in draws)
        supply = self._tokenized.stats[number].tokens_train
        if pool is not None:
            domain = self._tokenized.domains[number]
            drawable = drawable_documents(self._tokenized.validation[number], pool)
            by_uses = usage(domain, drawable, self._seed, draws)
            supply = sum(by_uses.values())
            used = min(used, sum(uses * tokens for uses, tokens in by_uses.items()))
        return StageDomain(supply, used, draws, earlier, pool)

    def add(self, loaded: LoadedRecipe, planned: Planned) -> PlannedStage:
        """Remember what a stage takes of its supply."""
        stage = PlannedStage(loaded, planned)
        tokenized, budget = planned.tokenized, planned.plan.budget_tokens
        assert tokenized.stage is not None
        shares = {domain.name: domain.tokens / budget for domain in planned.plan.domains}
        ends = tokenized.settings.ends
        if ends:
            shares = {domain: end for domain, (_, end) in zip(shares, ends, strict=True)}
        self.shares[stage.name] = shares
        request = planned.mixed.request
        shares_given = tuple(planned.mixed.mixture.weights.values())
        capped = is_capped(METHODS[request.method], request, shares_given)
        for number, (stream, domain) in enumerate(
            zip(planned.streams, tokenized.domains, strict=True)
        ):
            of_stage = tokenized.stage.domains[number]
            draw = draw_of(stream, domain, self._seed, of_stage.draws, of_stage.pool)
            self._draws[number] += (draw,)
            self._earlier[number] += (
                EarlierStage(stage.name, stream.tokens, stream.tokens / budget, budget, capped),
            )
        return stage


def stages_json(loaded: LoadedRecipe, stages: Sequence[PlannedStage]) -> dict[str, Any]:
    """Return the fields of `plan.json` of all stages, but for those of its origin.

    Args:
        loaded: The recipe with the stages.
        stages: Their plans.
    """
    tokenized = stages[0].planned.tokenized
    most = tokenized.settings.epochs(loaded.recipe.max_epochs)
    domains = {}
    for number, row in enumerate(tokenized.stats):
        of_stages = {stage.name: stage.planned.plan.domains[number] for stage in stages}
        tokens = {name: domain.tokens for name, domain in of_stages.items()}
        supply = row.tokens_train
        domains[row.name] = {
            "supply_tokens": supply,
            "max_epochs": most[number],
            "tokens": sum(tokens.values()),
            "epochs": sum(tokens.values()) / supply if supply else 0.0,
            "epochs_by_stage": {
                name: count / supply if supply else 0.0 for name, count in tokens.items()
            },
        }
    return {
        "budget_tokens": loaded.recipe.budget_tokens,
        "on_shortfall": loaded.recipe.on_shortfall,
        "domains": domains,
        "stages": {
            stage.name: {
                "sequence_length": stage.loaded.recipe.sequence_length,
                **plan_json(stage.planned),
            }
            for stage in stages
        },
    }


def write_plan(loaded: LoadedRecipe, stages: Sequence[PlannedStage], observer: Observer) -> None:
    """Write `plan.json` of all stages.

    Args:
        loaded: The recipe with the stages.
        stages: Their plans.
        observer: Told of the file.
    """
    origin = {"schema": 1, "curate_version": __version__, "recipe_hash": loaded.hash}
    path = loaded.output_dir / "plan.json"
    write_artifact(path, {**origin, **stages_json(loaded, stages)}, observer)
