"""Files with which trainers mix domains that are written apart, and change the mixture by stage.

Only trainers whose own configuration has stages are here. Paths are relative to the directory of
all stages. A trainer counts in steps, so the recipe says how many sequences a step has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from curate.errors import RecipeError
from curate.formats.trainers import config_files, draws, rounding
from curate.formats.trainers.config_files import ConfigInputs
from curate.formats.trainers.draws import WrittenDomain


@dataclass(frozen=True, slots=True)
class StageFiles:
    """A stage on disk."""

    name: str
    """Its name, and its folder in the directory of all stages."""
    inputs: ConfigInputs
    batch_sequences: int
    """Sequences of a training step."""

    @property
    def sequences(self) -> int:
        """Sequences that the stage trains on, repeats included."""
        planned = sum(domain.planned_tokens for domain in self.inputs.train)
        return planned // self.inputs.window_tokens

    @property
    def steps(self) -> int:
        """Whole training steps of the stage."""
        return self.sequences // self.batch_sequences

    def placed(self) -> ConfigInputs:
        """Return its files as the directory of all stages names them."""
        train = [
            WrittenDomain(
                f"{self.name}/{domain.name}",
                domain.planned_tokens,
                tuple(replace(shard, stem=f"{self.name}/{shard.stem}") for shard in domain.shards),
            )
            for domain in self.inputs.train
        ]
        validation = {
            f"{self.name}/{domain}": f"{self.name}/{stem}"
            for domain, stem in self.inputs.validation.items()
        }
        return replace(self.inputs, train=train, validation=validation)


def nanotron(stages: Sequence[StageFiles]) -> dict[str, str]:
    """Make `data_stages` of nanotron: a Nanoset a stage, with the step that it begins at.

    nanotron counts steps from 1, and a stage begins with the first one of its own.
    """
    start, listed = 1, []
    for stage in stages:
        placed = stage.placed()
        dataset = config_files.nanoset(placed)
        listed.append(
            {
                "name": stage.name,
                "start_training_step": start,
                "data": {"dataset": dataset, "num_loading_workers": 1, "seed": 42},
                "sequence_length": placed.window_tokens,
            }
        )
        start += stage.steps
    comment = (
        f"{start - 1} steps of {stages[0].batch_sequences} sequences; leave out sequence_length "
        "where your nanotron does not know it"
    )
    return {"nanotron_stages.yaml": config_files.as_yaml({"data_stages": listed}, comment)}


def levanter(stages: Sequence[StageFiles], row_format: dict[str, str]) -> dict[str, str]:
    """Make components of all stages and `train_weights` that change between them.

    levanter changes weights at multiples of its block only, which is a whole number of steps here,
    so each start is rounded to the nearest.

    Raises:
        RecipeError: Stages differ in what levanter has once for the whole run.
    """
    for what, values in {
        "sequence_length": {stage.inputs.window_tokens for stage in stages},
        "batch_sequences": {stage.batch_sequences for stage in stages},
    }.items():
        if len(values) > 1:
            listed = ", ".join(map(str, sorted(values)))
            raise RecipeError(
                f"stages: levanter has one {what} for the whole run, and the stages have {listed}; "
                "give all the same, or leave out batch_sequences for no file of all stages"
            )
    batch = stages[0].batch_sequences
    placed = [stage.placed() for stage in stages]
    weights = [draws.by_planned(inputs.train) for inputs in placed]
    block = max(rounding.levanter_block(of_stage) for of_stage in weights)
    block = math.lcm(block, batch)
    components: dict[str, Any] = {}
    changes: list[list[Any]] = []
    before = 0
    for number, (stage, inputs, of_stage) in enumerate(zip(stages, placed, weights, strict=True)):
        # The same documents are held out of all stages, so they are named once.
        held_out = inputs.validation if number == 0 else {}
        components |= config_files.levanter_components(
            replace(inputs, validation=held_out), row_format
        )
        start = round(before / block) * block
        if changes and start <= changes[-1][0] * batch:
            raise RecipeError(
                f"stages[{stage.name}]: levanter changes weights every {block} sequences, and the "
                "stage before is shorter; raise its budget_tokens, or lower batch_sequences"
            )
        shares = {domain.name: share for domain, share in zip(inputs.train, of_stage, strict=True)}
        changes.append([start // batch, shares])
        before += stage.sequences
    data = {
        "components": components,
        "train_weights": changes,
        "mixture_block_size": block,
        "stop_strategy": "restart",
    }
    comment = f"train_weights: from which step of {batch} sequences; {before // batch} steps in all"
    return {"levanter_stages.yaml": config_files.as_yaml({"data": data}, comment)}


def levanter_text(stages: Sequence[StageFiles]) -> dict[str, str]:
    """Make levanter's file of all stages for text; see `levanter`."""
    return levanter(stages, config_files.LEVANTER_TEXT)


def levanter_prebuilt(stages: Sequence[StageFiles]) -> dict[str, str]:
    """Make levanter's file of all stages for rows of tokens; see `levanter`."""
    return levanter(stages, config_files.LEVANTER_ROWS)
