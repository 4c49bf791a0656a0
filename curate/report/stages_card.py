"""Write the card of a dataset in stages: a `README.md` about all of them, beside their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curate import __version__
from curate.dataset.manifest import CARD, load_manifest
from curate.formats.base import TextFormat, TokenFormat
from curate.formats.trainer_files import DIRECTORY
from curate.plan.per_domain import PER_DOMAIN
from curate.recipe import LoadedRecipe, source_of
from curate.recipe.structs import ScheduleRecipe
from curate.report.card import (
    front_matter,
    licences_of,
    loading_config,
    metadata_of,
    pictures,
    verdict_of,
)
from curate.runtime.escape import markdown
from curate.runtime.files import atomic_path
from curate.runtime.registry import counted

SHARES = "Shares of the training tokens of each stage by domain"
"""Meaning of the first picture."""


def write_stages_card(loaded: LoadedRecipe, certificate: dict[str, Any]) -> Path:
    """Write the card beside the folders of the stages.

    Args:
        loaded: The recipe with the stages.
        certificate: The fields of `certificate.json` of all stages.

    Returns:
        Path of the card.
    """
    path = loaded.output_dir / CARD
    names = [stage.name for stage in loaded.recipe.stages]
    form = load_manifest(loaded.output_dir / names[0]).configured()
    sequences = sum(row["train_sequences"] or 0 for row in certificate["stages"].values())
    metadata = metadata_of(loaded, sequences, "stages")
    if form.hub_suffix is not None:
        metadata["configs"] = [
            loading_config(loaded, form.hub_suffix, certificate["stages"][name]["domains"], name)
            for name in names
        ]
    with atomic_path(path) as temporary:
        temporary.write_text(front_matter(metadata) + _body(loaded, form, certificate), "utf-8")
    return path


def _body(loaded: LoadedRecipe, form: TokenFormat | TextFormat, certificate: dict[str, Any]) -> str:
    recipe, names = loaded.recipe, list(certificate["stages"])
    domains = certificate["domains"]
    of_domains = counted(len(domains), "domain")
    return f"""# {markdown(recipe.name)}

{certificate["realised_tokens"]:,} training tokens from {of_domains} in {len(names)}
stages, which follow each other in training, written as `{recipe.output.format}` by curate
{__version__}. Read back after writing: {verdict_of(certificate)}.

## Stages

| stage | first token | tokens | sequence length | mixture |
|---|---:|---:|---:|---|
{_stage_rows(loaded, certificate)}

Each is a dataset in the folder of its name, with a card, a manifest and a certificate of its own.

## Composition

Shares are of the tokens of a stage. Passes are over a domain's training documents, in all stages
together; `max_epochs` bounds them.

| domain | {" | ".join(map(markdown, names))} | tokens in all | passes | at most | licence |
|---|{"---:|" * (len(names) + 3)}---|
{_domain_rows(loaded, certificate)}
{pictures(loaded.output_dir, SHARES)}
{_validation_sentence(domains)}

## Loading

{_loading(loaded, form)}

## Provenance

`manifest.json` lists the stages, each with the hash of its own manifest, and the files beside them;
`certificate.json` compares tokens and passes of all stages with `plan.json`. Recipe hash
`{loaded.hash}`, seed {recipe.seed}; `recipe.yaml` builds the dataset again.
"""


def _stage_rows(loaded: LoadedRecipe, certificate: dict[str, Any]) -> str:
    rows = []
    for stage in loaded.recipe.stages:
        row = certificate["stages"][stage.name]
        length = row["sequence_length"]
        unit = "documents" if length is None else f"{length:,}"
        mixture = stage.mixture or loaded.recipe.mixture
        how = f"`{mixture.method}`" if stage.schedule is None else _curve(stage.schedule)
        where = "" if stage.where is None else f", where {markdown(stage.where)}"
        rows.append(
            f"| [{markdown(stage.name)}]({stage.name}/{CARD}) | {row['first_token']:,} "
            f"| {row['realised_tokens'] or 0:,} | {unit} | {how}{where} |"
        )
    return "\n".join(rows)


def _validation_sentence(domains: dict[str, Any]) -> str:
    if not any(row["validation_tokens"] for row in domains.values()):
        return "There is no validation set: no document is held out."
    return "The same documents are held out of all stages, under `validation/` of each."


def _curve(schedule: ScheduleRecipe) -> str:
    """Describe a schedule in a cell of a table."""
    ends = [
        f"that of {markdown(end)}"
        if isinstance(end, str)
        else ", ".join(f"{markdown(name)} {weight:g}" for name, weight in end.items())
        for end in (schedule.start, schedule.end)
    ]
    return f"{schedule.shape} from {ends[0]} to {ends[1]}"


def _domain_rows(loaded: LoadedRecipe, certificate: dict[str, Any]) -> str:
    licence, rows = licences_of(loaded), []
    for name, row in certificate["domains"].items():
        shares = [
            f"{stage['domains'][name]['realised_share']:.4%}"
            for stage in certificate["stages"].values()
        ]
        rows.append(
            f"| {markdown(name)} | {' | '.join(shares)} | {row['realised_tokens']:,} "
            f"| {row['epochs']:.3f} | {row['max_epochs']:g} | {licence[source_of(name)]} |"
        )
    return "\n".join(rows)


def _loading(loaded: LoadedRecipe, form: TokenFormat | TextFormat) -> str:
    """Show how to go through all stages, as far as something does."""
    recipe = loaded.recipe
    names = [stage.name for stage in recipe.stages]
    parts = []
    packed = any((stage.packing or recipe.packing) != "concat" for stage in recipe.stages)
    has_length = all(stage.sequence_length or recipe.sequence_length for stage in recipe.stages)
    if isinstance(form, TokenFormat) and form.view is not None and not packed:
        weights = ', weights="planned"' if recipe.output.shape == PER_DOMAIN else ""
        length = "" if has_length else ", 2048"
        sizes = ", ".join(f'"{name}": 8' for name in names)
        parts.append(
            "In the order of training, with a state that resumes across the borders of stages:\n\n"
            f'```python\nimport curate\n\ndata = curate.load("DIR"{length}{weights})\n'
            f"for batch in data.loader({{{sizes}}}):\n"
            '    batch["tokens"]  # sequences of one stage\n```'
        )
    elif form.hub_suffix is not None:
        parts.append(
            "Stage by stage:\n\n```python\nfrom datasets import load_dataset\n\n"
            f'for stage in {names!r}:\n    rows = load_dataset("DIR", stage, split="train")\n```'
        )
    trainer = loaded.output_dir / DIRECTORY
    files = sorted(path.name for path in trainer.iterdir()) if trainer.is_dir() else []
    if files:
        listed = ", ".join(f"`{DIRECTORY}/{name}`" for name in files)
        parts.append(f"With {listed} the trainer goes through all stages in one run.")
    parts.append("The card of each stage says how its trainer reads it.")
    return "\n\n".join(parts)
