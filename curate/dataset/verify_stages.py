"""Certify a dataset in stages from the certificates of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from curate import __version__
from curate.dataset.manifest import Count, file_damage
from curate.dataset.regular_files import read_regular
from curate.dataset.staged import StagedManifest, load_stage
from curate.errors import ShardError
from curate.runtime.escape import one_line

ROUNDING = 1e-9
"""Passes above the cap that are rounding: the cap in tokens is whole."""


class _Domain(msgspec.Struct, frozen=True):
    supply_tokens: Count
    max_epochs: Annotated[float, Meta(gt=0)]
    tokens: Count


class _Plan(msgspec.Struct, frozen=True):
    """`plan.json` of all stages, as far as it is compared with what was written."""

    domains: dict[str, _Domain]
    on_shortfall: Literal["error", "repeat", "redistribute"] = "error"


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
    if not any(problem.startswith("plan.json") for problem in problems):
        plan = _read_plan(directory, problems)
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


def _read_plan(directory: Path, problems: list[str]) -> _Plan | None:
    try:
        return msgspec.json.decode(read_regular(directory / "plan.json"), type=_Plan)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        problems.append(f"plan.json: not a plan of stages ({one_line(str(error))})")
        return None


def _domains(
    manifest: StagedManifest,
    plan: _Plan,
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
