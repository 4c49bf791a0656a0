"""Log-probabilities of one model a domain on everybody's held-out tokens.

The experts are a swarm whose mixtures are single domains. What methods of the expert family need of
them is the natural logarithm of the probability of each held-out token, so that is what is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate.proxy.stack import Stack
from curate.proxy.swarm import Swarm, SwarmResult, SwarmRun
from curate.proxy.train import evaluation_tokens
from curate.proxy.training_batches import ValidationRows
from curate.runtime.files import atomic_path


def expert_runs(domains: Sequence[str]) -> tuple[SwarmRun, ...]:
    """One run a domain, named by it, with nothing but that domain."""
    rows = np.eye(len(domains)).tolist()
    return tuple(
        SwarmRun(name, 0, tuple(row), tuple(row)) for name, row in zip(domains, rows, strict=True)
    )


def keep_log_probabilities(
    rows: ValidationRows, directory: Path, stack: Stack, runs: Sequence[SwarmRun]
) -> None:
    """Write the log-probabilities that trained experts give to held-out tokens, a file a run."""
    found = token_log_probabilities(stack, rows)
    for run, values in zip(runs, found, strict=True):
        with atomic_path(directory / f"logp-{run.name}.npy") as temporary:
            with temporary.open("wb") as file:
                np.save(file, values, allow_pickle=False)


def write_experts(swarm: Swarm, result: SwarmResult, directory: Path) -> None:
    """Write `experts.parquet`: a row a held-out token.

    Columns: target_domain, document (its number in the domain), position (of the token in it),
    logp_<expert>… (float32, nats); sorted by the first three. A document's first token is
    predicted from the end-of-text token.

    Args:
        swarm: Its runs are `expert_runs` of its domains.
        result: Of their training, in `experts/` of the directory.
        directory: For `experts.parquet`.
    """
    own = directory / "experts"
    names = [run.name for run in swarm.runs if run.name not in result.failed]
    values = {name: np.load(own / f"logp-{name}.npy", allow_pickle=False) for name in names}
    table = expert_table(swarm.validation, swarm.names, values)
    with atomic_path(directory / "experts.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")


def final_losses(result: SwarmResult) -> dict[str, list[float]]:
    """Mean loss of each expert on each domain at its end, nats per token."""
    return {row.run: list(row.losses) for row in result.rows}


def token_log_probabilities(stack: Stack, rows: ValidationRows) -> NDArray[np.float32]:
    """Of every held-out token under every model, shape (K, tokens), in the order of `rows`."""
    stops = np.cumsum(rows.tokens)
    out = np.empty((stack.models, int(stops[-1])), np.float32)
    for numbers, batch in rows.batches(evaluation_tokens(stack)):
        losses = stack.row_losses(batch).cpu().numpy()
        inside = np.arange(losses.shape[2]) < rows.tokens[numbers, None]
        first = int(stops[numbers[0]] - rows.tokens[numbers[0]])
        out[:, first : int(stops[numbers[-1]])] = -losses[:, inside]
    return out


def expert_table(
    rows: ValidationRows, domains: Sequence[str], values: dict[str, NDArray[np.float32]]
) -> Any:
    """The rows of `experts.parquet` as an Arrow table."""
    stops = np.cumsum(rows.tokens)
    within = np.arange(int(stops[-1])) - np.repeat(stops - rows.tokens, rows.tokens)
    domain = np.repeat(rows.domain, rows.tokens)
    document = np.repeat(rows.document, rows.tokens)
    position = np.repeat(rows.position, rows.tokens) + within
    order = np.lexsort((position, document, domain))
    named = pa.DictionaryArray.from_arrays(
        pa.array(domain[order].astype(np.int32)), pa.array(list(domains))
    )
    columns = {"target_domain": named, "document": document[order], "position": position[order]}
    columns |= {f"logp_{name}": found[order] for name, found in values.items()}
    return pa.table(columns)
