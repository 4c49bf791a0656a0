"""The manifest of a dataset in stages: a directory with a dataset in a folder for each stage.

```
<dir>/manifest.json     written last; lists the stages, each with the hash of its manifest
<dir>/<stage>/          a dataset of its own, see `manifest`
<dir>/certificate.json  all stages together: tokens and passes by stage and domain
<dir>/plan.json         the same as planned
<dir>/recipe.yaml       the recipe with all stages
<dir>/README.md         a card of all stages, with its pictures; listed in the manifest
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from curate.dataset.hashed_json import is_whole, write_hashed
from curate.dataset.manifest import (
    RECIPE,
    SCHEMA,
    Count,
    DatasetLayout,
    Digest,
    FileRecord,
    Line,
    Manifest,
    Positive,
    load_manifest,
    record_file,
)
from curate.dataset.regular_files import is_inside, read_regular
from curate.errors import ShardError
from curate.runtime.escape import one_line

StageName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$(?!\n)")]

PLAN = "plan.json"
"""Plan of all stages, in the dataset's directory."""

BESIDE_STAGES = (PLAN, RECIPE)
"""Files beside the folders of stages that the manifest lists."""


class DomainOfStages(msgspec.Struct, frozen=True):
    """A domain in the plan of all stages."""

    supply_tokens: Count
    max_epochs: Annotated[float, Meta(gt=0)]
    tokens: Count
    """Tokens that all stages take."""


class StagedPlan(msgspec.Struct, frozen=True):
    """`plan.json` of all stages, as far as it is compared with what is written or drawn."""

    domains: dict[str, DomainOfStages]
    on_shortfall: Literal["error", "repeat", "redistribute"] = "error"


class StageRecord(msgspec.Struct, frozen=True):
    """A stage of a dataset."""

    name: StageName
    """Its name, and that of its folder."""
    build_hash: Line
    """That of its manifest."""
    budget_tokens: Positive
    sequence_length: Positive | None
    first_token: Count
    """Training tokens of the stages before it."""
    manifest: Digest
    """xxh3-128 of the stage's `manifest.json`."""


class StagedManifest(msgspec.Struct, frozen=True):
    """`manifest.json` of a dataset in stages."""

    schema: int
    curate_version: Line
    name: Line
    recipe_hash: Line
    format: Line
    budget_tokens: Positive
    domains: list[Line]
    stages: Annotated[list[StageRecord], Meta(min_length=1, max_length=1000)]
    """In the order of training."""
    files: list[FileRecord] = []
    """Files beside the folders of the stages, but for the certificate and the manifest itself."""

    def directories(self, directory: Path) -> list[Path]:
        """Return the directories of the stages in a dataset's directory, in order."""
        return [directory / stage.name for stage in self.stages]


def find_stages(directory: Path) -> StagedManifest | None:
    """Read the manifest of a dataset in stages; None if there is none that can be used."""
    try:
        return load_stages(directory)
    except ShardError:
        return None


def names_of_stages(directory: Path) -> list[str]:
    """List the stages of the dataset in a directory; nothing if it has none."""
    stages = find_stages(directory)
    return [] if stages is None else [stage.name for stage in stages.stages]


def load_stages(directory: Path) -> StagedManifest | None:
    """Read the manifest of a dataset in stages; None where there is another one, or none.

    Raises:
        ShardError: It is damaged.
    """
    path = DatasetLayout(directory).manifest
    try:
        content = read_regular(path)
        manifest = msgspec.json.decode(content, type=StagedManifest)
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return None  # `load_manifest` says what is wrong with another one
    if manifest.schema != SCHEMA or not is_whole(content):
        raise ShardError(
            f"{path}: damaged, for it differs from its own hash; run curate build to write it again"
        )
    for file in manifest.files:
        if not is_inside(file.path):
            raise ShardError(
                f"{path}: lists {file.path!r}, which is not a path inside its directory; nothing "
                "is read"
            )
    return manifest


def load_staged_plan(directory: Path) -> StagedPlan:
    """Read the plan of a dataset in stages.

    Raises:
        ShardError: It is absent, or no plan of stages.
    """
    path = directory / PLAN
    try:
        return msgspec.json.decode(read_regular(path), type=StagedPlan)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise ShardError(f"{PLAN}: not a plan of stages ({one_line(str(error))})") from error


def load_stage(directory: Path, record: StageRecord) -> Manifest:
    """Read the manifest of a stage, and compare it with what the stages' manifest says.

    Raises:
        ShardError: It is absent or damaged, or of another build.
    """
    stage = directory / record.name
    manifest = load_manifest(stage)
    if record_file(DatasetLayout(stage).manifest, stage).xxh3 != record.manifest:
        raise ShardError(
            f"{one_line(str(stage))}: its manifest is not the one that {directory}/manifest.json "
            "lists; run curate build to write both again"
        )
    return manifest


def write_stages(manifest: StagedManifest, directory: Path) -> None:
    """Write the manifest of a dataset in stages with a hash of itself, the last act of a build."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_hashed(DatasetLayout(directory).manifest, text)
