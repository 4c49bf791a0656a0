"""Make a recipe of its own from each stage of a recipe.

A stage is planned and written as any recipe is. Only what its documents were used for before, in
earlier stages, is not part of it: `curate.pipeline.stages` hands that on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from curate.errors import RecipeError
from curate.recipe.checks import NEAR, check_domain, check_recipe
from curate.recipe.structs import LoadedRecipe, MixtureRecipe, Recipe, ScheduleRecipe, StageRecipe
from curate.runtime.registry import nearest_hint

FOLDERS = ("train", "validation", "provenance", "trainer", "experts", "validation_runs")
"""Folders of a dataset, and of what commands make beside it, which no stage may be called."""

SUFFIXES = (".json", ".jsonl", ".yaml", ".csv", ".parquet", ".md", ".html", ".svg")
"""Ends of the names of files beside them, which no stage's name may have."""


def complete_budget(value: dict[str, Any]) -> None:
    """Fill in `budget_tokens` as the sum of the stages' budgets where it is left out, in place.

    Args:
        value: A recipe read from YAML; a budget that is no number is left to be refused later.
    """
    stages = value.get("stages")
    if not isinstance(stages, list) or not stages or "budget_tokens" in value:
        return
    budgets = [stage.get("budget_tokens") for stage in stages if isinstance(stage, dict)]
    numbers = [int(budget) for budget in budgets if isinstance(budget, int | float) and budget >= 1]
    value["budget_tokens"] = sum(numbers) if len(numbers) == len(stages) else 1


def check_stages(recipe: Recipe, source: str) -> None:
    """Refuse stages and schedules that contradict each other, or that are no valid recipes.

    Args:
        recipe: A recipe whose fields are each valid.
        source: Name of the recipe in messages.

    Raises:
        RecipeError: Names the stage, the field, and what is possible.
    """
    if recipe.schedule is not None:
        if recipe.stages:
            raise RecipeError(
                f"{source}: schedule: a recipe with stages has its schedules in them; move it to "
                f"stages[{recipe.stages[0].name}].schedule"
            )
        if recipe.mixture != MixtureRecipe():
            raise RecipeError(f"{source}: mixture and schedule exclude each other: keep one")
        _check_schedule(recipe.schedule, recipe, (), f"{source}: ")
    total = sum(stage.budget_tokens for stage in recipe.stages)
    if recipe.stages and total != recipe.budget_tokens:
        raise RecipeError(
            f"{source}: budget_tokens: {recipe.budget_tokens} is not the sum of the stages, "
            f"{total}; leave it out"
        )
    batches = [stage.batch_sequences for stage in recipe.stages]
    if any(batches) and (recipe.output.shape != "per-domain" or None in batches):
        raise RecipeError(
            f"{source}: stages[].batch_sequences is for the trainer's file of all stages, with "
            "output.shape: per-domain; give it in every stage, or leave it out"
        )
    names: list[str] = []
    for stage in recipe.stages:
        where = f"{source}: stages[{stage.name}]"
        if stage.name.lower() in (*FOLDERS, *(name.lower() for name in names)):
            taken = "a folder of every dataset" if stage.name.lower() in FOLDERS else "taken"
            raise RecipeError(f"{where}: the name is {taken}; give the stage another one")
        if stage.name.lower().endswith(SUFFIXES):
            raise RecipeError(
                f"{where}: the name ends as that of a file of curate, and each stage is a folder "
                "beside them; give the stage another one"
            )
        if stage.schedule is not None:
            if stage.mixture is not None:
                raise RecipeError(f"{where}: mixture and schedule exclude each other: keep one")
            _check_schedule(stage.schedule, recipe, names, f"{where}.")
        names.append(stage.name)
        check_recipe(_alone(recipe, stage), where)


def _check_schedule(
    schedule: ScheduleRecipe, recipe: Recipe, earlier: Sequence[str], where: str
) -> None:
    """Refuse ends of a schedule that are neither shares of the recipe's domains nor a stage."""
    domains = [domain.name for domain in recipe.domains]
    for key, end in (("from", schedule.start), ("to", schedule.end)):
        if isinstance(end, str):
            if end not in earlier:
                hint = nearest_hint(end, earlier, NEAR)
                names = f"those are {', '.join(earlier)}" if earlier else "there is none"
                raise RecipeError(
                    f"{where}schedule.{key}: '{end}' is no earlier stage ({names}){hint or '.'} "
                    f"{'Name one, or give' if earlier else 'Give'} weights by domain"
                )
            continue
        if not math.fsum(end.values()) > 0:
            raise RecipeError(f"{where}schedule.{key}: one weight must be above 0")
        if not recipe.is_split:
            for name in end:
                check_domain(f"schedule.{key}", name, domains, where)


def stage_recipes(loaded: LoadedRecipe) -> tuple[LoadedRecipe, ...]:
    """Return a recipe for each stage, in order; empty for a recipe without stages."""
    recipe = loaded.recipe
    made = []
    for number, stage in enumerate(recipe.stages):
        alone = _alone(recipe, stage)
        place = str(loaded.output_dir / stage.name)
        upto = replace(
            recipe,
            stages=recipe.stages[: number + 1],
            budget_tokens=sum(one.budget_tokens for one in recipe.stages[: number + 1]),
        )
        inherits = stage.mixture is None and stage.schedule is None
        made.append(
            replace(
                loaded,
                recipe=replace(alone, output=replace(alone.output, dir=place)),
                notices=[],
                overridden=loaded.overridden if inherits else (),
                stage_of=replace(loaded, recipe=upto),
                where=stage.where,
            )
        )
    return tuple(made)


def with_ends(loaded: LoadedRecipe, shares: Mapping[str, Mapping[str, float]]) -> LoadedRecipe:
    """Replace names of stages at the ends of a schedule by the shares of those stages.

    Args:
        loaded: A stage's recipe.
        shares: Shares by domain, of each earlier stage.
    """
    schedule = loaded.recipe.schedule
    if schedule is None:
        return loaded
    ends = {
        key: dict(shares[end]) if isinstance(end, str) else end
        for key, end in (("start", schedule.start), ("end", schedule.end))
    }
    return replace(loaded, recipe=replace(loaded.recipe, schedule=replace(schedule, **ends)))


def _alone(recipe: Recipe, stage: StageRecipe) -> Recipe:
    """Return a stage as a recipe of its own; its name and place are not final."""
    given = {
        key: value
        for key in ("sequence_length", "window", "packing")
        if (value := getattr(stage, key)) is not None
    }
    mixture = stage.mixture or recipe.mixture
    evidence = mixture.evidence
    if evidence is not None and evidence.runs is not None and evidence.stage is None:
        mixture = replace(mixture, evidence=replace(evidence, stage=stage.name))
    return replace(
        recipe,
        name=f"{recipe.name}-{stage.name}",
        stages=[],
        budget_tokens=stage.budget_tokens,
        mixture=MixtureRecipe() if stage.schedule is not None else mixture,
        schedule=stage.schedule,
        output=replace(recipe.output, options={**recipe.output.options, **stage.options}),
        **given,
    )
