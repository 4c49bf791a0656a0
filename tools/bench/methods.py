"""Every mixing method that takes runs, timed on RegMix's 512 runs of 17 domains.

Run as `python tools/bench/methods.py --data DIR`, where DIR holds RegMix's tables
(`regmix/train_mixture_1m.csv` and so on). Threads are held to one. A method's time is that of
`mix`: fit, optimum, support, and intervals where they are the default.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np  # noqa: E402

from curate.laws.run_tables.read import read_runs  # noqa: E402
from curate.mixture import METHODS, mix  # noqa: E402
from curate.pipeline.from_run_table import RunTableInputs, request_without_text  # noqa: E402
from curate.runtime.progress import Observer  # noqa: E402


def main() -> None:
    """Print a row a method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", help="Names with commas; default: all that take runs alone.")
    options = parser.parse_args()
    paths = tuple(options.data / f"regmix/train_{what}_1m.csv" for what in ("mixture", "pile_loss"))
    runs, _ = read_runs(paths)
    supply = 1e9 * runs.weights.mean(axis=0)
    supplies = tuple(f"{name}={share}" for name, share in zip(runs.domains, supply, strict=True))
    names = [name for name, row in METHODS.items() if row.evidence == "runs" and name != "law"]
    names = [name for name in names if not name.endswith("_mde")]
    if options.methods:
        names = options.methods.split(",")
    print("| method | CPU s | wall s | predicted loss | intervals |")
    print("|---|---|---|---|---|")
    total = np.zeros(2)
    for name in names:
        inputs = RunTableInputs(paths, None, supplies, 10**9, 100.0, (f"mixture.method={name}",))
        before = np.array([time.process_time(), time.perf_counter()])
        mixture = mix(request_without_text(inputs, Observer()).request)
        spent = np.array([time.process_time(), time.perf_counter()]) - before
        total += spent
        print(
            f"| `{name}` | {spent[0]:.1f} | {spent[1]:.1f} | {mixture.predicted_loss:.4f} | "
            f"{'no' if mixture.low is None else 'yes'} |",
            flush=True,
        )
    print(f"| all | {total[0]:.1f} | {total[1]:.1f} | | |")


if __name__ == "__main__":
    main()
