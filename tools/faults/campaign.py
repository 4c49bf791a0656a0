"""Run every program of the campaign and print one table.

`python tools/faults/campaign.py --seed 1` takes an hour on two cores; `--share 0.05` runs a
twentieth of each program's trials. `--only kills flips` runs some of them.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from trials import Row, report

PROGRAMS = {
    "kills": 300,
    "rewrites": 60,
    "cache_flips": 500,
    "syscalls": 1,
    "flips": 1000,
    "full_disks": 60,
    "hostile_files": 200,
    "environments": 14,
    "locks": 10_000,
    "together": 50,
    "object_storage": 60,
}
"""Trials of each program in a whole campaign."""


def campaign(share: float, seed: int, only: list[str]) -> list[Row]:
    """Run programs one after the other.

    Args:
        share: Share of the trials of a whole campaign.
        seed: Seed of every program.
        only: Names of programs; empty for all.
    """
    rows = []
    for name, trials in PROGRAMS.items():
        if not only or name in only:
            program = importlib.import_module(name)
            print(f"{name} …", file=sys.stderr)
            rows += program.run(max(1, round(trials * share)), seed)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the campaign of faults.")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], choices=PROGRAMS)
    options = parser.parse_args()
    if "full_disks" in (options.only or PROGRAMS):
        importlib.import_module("full_disks").in_namespace()
    sys.exit(report(campaign(options.share, options.seed, options.only)))


if __name__ == "__main__":
    main()
