"""Run datatrove's MinHash on a JSON Lines file, as its example does: peer_near.py INPUT OUTPUT."""

from __future__ import annotations

import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter


def main() -> None:
    source, output = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    config = MinhashConfig()  # 14 buckets of 8 hashes, runs of 5 words
    reader = JsonlReader(str(source.parent), glob_pattern=source.name)
    folders = {
        name: str(output / name) for name in ("signatures", "buckets", "clusters", "removed")
    }
    steps = [
        (1, [reader, MinhashDedupSignature(folders["signatures"], config=config)]),
        (
            config.num_buckets,
            [MinhashDedupBuckets(folders["signatures"], folders["buckets"], config=config)],
        ),
        (1, [MinhashDedupCluster(folders["buckets"], folders["clusters"], config=config)]),
        (1, [reader, MinhashDedupFilter(folders["clusters"], JsonlWriter(folders["removed"]))]),
    ]
    for number, (tasks, pipeline) in enumerate(steps):
        logs = str(output / f"logs-{number}")
        LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=logs).run()


if __name__ == "__main__":
    main()
