"""Experts, one model trained on each domain, and their log-probabilities of held-out tokens.

The experts are a swarm whose mixtures are single domains. Methods of the expert family need the
natural logarithm of the probability that each expert gives to each held-out token of any domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate.proxy.group import ModelGroup
from curate.proxy.memory import MOST_ROWS
from curate.proxy.swarm import Swarm, SwarmResult, SwarmRun
from curate.proxy.train import evaluation_tokens
from curate.proxy.training_batches import ValidationRows
from curate.runtime import arrow
from curate.runtime.files import atomic_path


def expert_runs(domains: Sequence[str]) -> tuple[SwarmRun, ...]:
    """Make one run for each domain, named after it and trained on nothing else."""
    rows = np.eye(len(domains)).tolist()
    return tuple(
        SwarmRun(name, 0, tuple(row), tuple(row)) for name, row in zip(domains, rows, strict=True)
    )


def keep_log_probabilities(
    rows: ValidationRows, directory: Path, group: ModelGroup, runs: Sequence[SwarmRun]
) -> None:
    """Write the log-probabilities that trained experts give to held-out tokens, a file a run.

    Args:
        rows: Held-out tokens.
        directory: Folder for `logp-<run>.npy`.
        group: Trained models.
        runs: Runs in the order of the models.
    """
    every = token_log_probabilities(group, rows)
    for run, values in zip(runs, every, strict=True):
        with atomic_path(directory / f"logp-{run.name}.npy") as temporary:
            with temporary.open("wb") as file:
                np.save(file, values, allow_pickle=False)


def write_experts(swarm: Swarm, result: SwarmResult, directory: Path) -> None:
    """Write `experts.parquet`, a row for each held-out token.

    Columns: target_domain, document (its number in the domain), position (of the token in it),
    logp_<expert>… (float32, nats); sorted by the first three. A document's first token is
    predicted from the end-of-text token.

    Args:
        swarm: Swarm whose runs are `expert_runs` of its domains.
        result: Result of training it in `experts/` of the directory.
        directory: Folder for `experts.parquet`.
    """
    logp = directory / "experts"
    names = [run.name for run in swarm.runs if run.name not in result.failed]
    values = {name: np.load(logp / f"logp-{name}.npy", allow_pickle=False) for name in names}
    table = expert_table(swarm.validation, swarm.names, values)
    with atomic_path(directory / "experts.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")


def final_losses(result: SwarmResult) -> dict[str, list[float]]:
    """Return the mean loss of each expert on each domain after its last step, nats per token."""
    return {row.run: list(row.losses) for row in result.rows}


def token_log_probabilities(group: ModelGroup, rows: ValidationRows) -> NDArray[np.float32]:
    """Compute the log-probability of every held-out token under every model.

    Returns:
        Nats, shape (K, tokens), in the order of `rows`.
    """
    stops = np.cumsum(rows.tokens)
    out = np.empty((group.models, int(stops[-1])), np.float32)
    for numbers, batch in rows.batches(evaluation_tokens(group), MOST_ROWS // group.models):
        losses = group.row_losses(batch)[:, : len(numbers)].cpu().numpy()
        inside = np.arange(losses.shape[2]) < rows.tokens[numbers, None]
        first = int(stops[numbers[0]] - rows.tokens[numbers[0]])
        out[:, first : int(stops[numbers[-1]])] = -losses[:, inside]
    return out


def expert_table(
    rows: ValidationRows, domains: Sequence[str], values: dict[str, NDArray[np.float32]]
) -> Any:
    """Arrange log-probabilities as the Arrow table of `experts.parquet`.

    Args:
        rows: Held-out tokens.
        domains: Names, by number.
        values: Log-probabilities by expert, each of shape (tokens,), nats, in the order of `rows`.
    """
    stops = np.cumsum(rows.tokens)
    within = np.arange(int(stops[-1])) - np.repeat(stops - rows.tokens, rows.tokens)
    domain = np.repeat(rows.domain, rows.tokens)
    document = np.repeat(rows.document, rows.tokens)
    position = np.repeat(rows.position, rows.tokens) + within
    order = np.lexsort((position, document, domain))
    named = pa.DictionaryArray.from_arrays(
        arrow.array(domain[order].astype(np.int32)), arrow.array(domains)
    )
    columns: dict[str, arrow.Values] = {"document": document[order], "position": position[order]}
    columns |= {f"logp_{name}": nats[order] for name, nats in values.items()}
    return arrow.table(columns).add_column(0, "target_domain", named)
