"""Certify a dataset in stages from the certificates of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curate import __version__
from curate.dataset.manifest import file_damage
from curate.dataset.staged import (
    PLAN,
    StagedManifest,
    StagedPlan,
    load_stage,
    load_staged_plan,
)
from curate.errors import ShardError

ROUNDING = 1e-9
"""Passes above the cap that are rounding: the cap in tokens is whole."""


def certify_stages(
    directory: Path, manifest: StagedManifest, certificates: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the fields of `certificate.json` of all stages.

    Args:
        directory: Directory of the dataset.
        manifest: Its manifest.
        certificates: The fields of each stage's certificate, by stage.
    """
    problems = [
        damage for file in manifest.files if (damage := file_damage(directory, file)) is not None
    ]
    for stage in manifest.stages:
        of_stage = certificates[stage.name]["problems"]
        problems += [f"{stage.name}: {text}" for text in of_stage]
        try:
            load_stage(directory, stage)
        except ShardError as error:
            if str(error) not in of_stage:
                problems.append(str(error))
    plan = None
    if not any(problem.startswith(PLAN) for problem in problems):
        try:
            plan = load_staged_plan(directory)
        except ShardError as error:
            problems.append(str(error))
    domains = {} if plan is None else _domains(manifest, plan, certificates, problems)
    stages = {
        stage.name: {
            "budget_tokens": stage.budget_tokens,
            "sequence_length": stage.sequence_length,
            "first_token": stage.first_token,
            **{
                key: certificates[stage.name].get(key)
                for key in ("ok", "realised_tokens", "train_sequences", "domains",
                            "largest_share_deviation_in_windows", "reader_loss", "packing")
            },
        }
        for stage in manifest.stages
    }  # fmt: skip
    return {
        "schema": 1,
        "curate_version": __version__,
        "recipe_hash": manifest.recipe_hash,
        "ok": not problems,
        "problems": problems,
        "budget_tokens": manifest.budget_tokens,
        "realised_tokens": sum(row["realised_tokens"] or 0 for row in stages.values()),
        "domains": domains,
        "stages": stages,
    }


def _domains(
    manifest: StagedManifest,
    plan: StagedPlan,
    certificates: Mapping[str, dict[str, Any]],
    problems: list[str],
) -> dict[str, Any]:
    """Add up tokens and passes over all stages; add passes beyond caps to `problems`."""
    rows = {}
    for name, planned in plan.domains.items():
        of_stages = {
            stage.name: certificates[stage.name]["domains"].get(name) for stage in manifest.stages
        }
        if any(row is None for row in of_stages.values()):
            continue  # a stage that could not be read says so itself
        supply = planned.supply_tokens
        passes = {
            stage: row["planned_tokens"] / supply if supply else 0.0
            for stage, row in of_stages.items()
        }
        tokens = sum(row["planned_tokens"] for row in of_stages.values())
        rows[name] = {
            "supply_tokens": supply,
            "max_epochs": planned.max_epochs,
            "planned_tokens": planned.tokens,
            "realised_tokens": sum(row["realised_tokens"] for row in of_stages.values()),
            "epochs": tokens / supply if supply else 0.0,
            "epochs_by_stage": passes,
            "validation_tokens": next(iter(of_stages.values()))["validation_tokens"],
        }
        if tokens != planned.tokens:
            problems.append(f"'{name}': planned {planned.tokens} tokens, {tokens} in its stages")
        over = rows[name]["epochs"] > planned.max_epochs + ROUNDING
        if over and plan.on_shortfall != "repeat":
            problems.append(
                f"'{name}': {rows[name]['epochs']:.4g} passes in all stages, max_epochs is "
                f"{planned.max_epochs:g}"
            )
    return rows
