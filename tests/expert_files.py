"""Files of experts' log-probabilities, for the tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.laws.likelihoods import PREFIX, Likelihoods


def write_likelihoods(likelihoods: Likelihoods, path: Path) -> None:
    """Write an experts file that `read_likelihoods` reads back unchanged."""
    lengths = np.diff(likelihoods.starts)
    document = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(document)) - likelihoods.starts[document]
    columns = {
        "target_domain": pa.array(
            [likelihoods.targets[likelihoods.target[number]] for number in document],
            pa.string(),
        ).dictionary_encode(),
        "document": pa.array(document, pa.int64()),
        "position": pa.array(position, pa.int64()),
    }
    for number, expert in enumerate(likelihoods.experts):
        columns[PREFIX + expert] = pa.array(likelihoods.logp_nats[:, number], pa.float64())
    pq.write_table(pa.table(columns), path, compression="zstd")
