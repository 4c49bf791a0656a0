r"""Compare curate with its peers from raw text to tokens, in alternating rounds.

    python tools/bench/tokenise.py --input DIR --tokenizer tokenizer.json \
        --peer-env datatrove=/path/to/python ... --megatron DIR --json result.json

In a round every pipeline runs once, one after the other, each in fresh processes with a fresh
output and cache directory; ratios are taken within a round, so that what else the machine does
weighs on both sides. Before the rounds each runs once on a tiny input, so that its code is
compiled and in the page cache. Peers without an environment are left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import inputs
import measure
from peers import PIPELINES, Case, Setup, environment, find_pythons, printed_json

TOKENS_TOLERANCE = 1e-3
"""Above this share of difference in tokens written a peer has not done the same work."""

CURATE_FORMS = ("zst", "jsonl", "all.jsonl.zst", "all.jsonl")


@dataclass(frozen=True)
class Sample:
    """One case in one round."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    tokens: int | None
    load: float
    """Load average over a minute, before the run."""


def main() -> None:
    options = _options()
    os.environ.setdefault("XDG_CACHE_HOME", str(options.work.resolve() / "xdg"))
    setup = _prepare(options)
    cases, left_out = choose_cases(setup, options.peers)
    rounds = 1 if options.smoke else options.rounds
    samples = measure_all(setup, cases, rounds, options.work.resolve())
    text_bytes = {size: setup.described[size]["text_bytes"] for size in ("full", "subset")}
    rows = [row(case, samples, text_bytes) for case in cases]
    print(_header(setup, rounds))
    print(markdown(rows))
    for line in left_out:
        print(line)
    if options.json:
        result = {"input": setup.described, "workers": setup.workers, "rows": rows}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="curate and its peers: raw text to tokens.")
    inputs.add_options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument(
        "--peers", help=f"comma-separated, of: {', '.join(PIPELINES)}; default: all there are"
    )
    parser.add_argument("--peer-env", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--megatron", type=Path, help="checkout of Megatron-LM")
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="scratch directory")
    parser.add_argument("--json", type=Path, help="write every sample there")
    return parser.parse_args()


def cores() -> int:
    """Those this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _prepare(options: argparse.Namespace) -> Setup:
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    command = inputs.arguments(inputs.from_options(options), work / "inputs")
    prepared = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    directory = Path(prepared.stdout.strip().splitlines()[-1])
    described = json.loads((directory / "input.json").read_text())
    megatron = None if options.megatron is None else options.megatron.resolve()
    pythons = find_pythons(options.peer_env)
    return Setup(directory, described, options.workers, pythons, megatron, options.eos)


def choose_cases(setup: Setup, peer_names: str | None) -> tuple[list[Case], list[str]]:
    """List the cases to run, curate on every form first, and a line for each peer left out."""
    names = list(PIPELINES) if peer_names is None else ["curate", *peer_names.split(",")]
    for name in names:
        if name not in PIPELINES:
            raise SystemExit(f"--peers: no '{name}'; there are {', '.join(PIPELINES)}")
    peers: list[Case] = []
    left_out = []
    for name in names:
        pipeline = PIPELINES[name]
        if pipeline.environment not in setup.pythons:
            option = f"--peer-env {pipeline.environment}=PYTHON"
            left_out.append(f"left out: {name}; {pipeline.get}, then {option}")
        elif name.startswith("megatron") and setup.megatron is None:
            left_out.append(f"left out: {name}; {pipeline.get}, then --megatron DIR")
        else:
            peers += [Case(name, size, form) for size, form in pipeline.cases]
    ours = [Case("curate", "full", form) for form in CURATE_FORMS]
    ours += [Case("curate", "subset", form) for form in CURATE_FORMS
             if any(case.size == "subset" and case.form == form for case in peers)]  # fmt: skip
    return ours + peers, left_out


def measure_all(
    setup: Setup, cases: Sequence[Case], rounds: int, work: Path
) -> dict[Case, list[Sample]]:
    """Run every case once unmeasured on the tiny input, then in every round."""
    samples: dict[Case, list[Sample]] = {case: [] for case in cases}
    for case in dict.fromkeys(replace(case, size="tiny") for case in cases):
        _say(f"warm-up: {case.pipeline} {case.form}")
        run_case(setup, case, work)
    for number in range(rounds):
        for case in cases:
            sample = run_case(setup, case, work)
            samples[case].append(sample)
            _say(f"round {number + 1}: {case.label}: {sample.wall_seconds:.2f} s")
    return samples


def run_case(setup: Setup, case: Case, work: Path) -> Sample:
    """Run a case in a fresh directory, which is removed afterwards."""
    output = Path(tempfile.mkdtemp(prefix="run-", dir=work))
    try:
        load = os.getloadavg()[0]
        pipeline = PIPELINES[case.pipeline]
        variables = environment(setup, case.pipeline)
        command = pipeline.command(setup, case, output)
        usage = measure.run(command, directory=output, environment=variables)
        tokens = pipeline.tokens(setup, output, usage.output)
        wall_seconds, cpu_seconds = usage.wall_seconds, usage.cpu_seconds
        if case.pipeline.startswith("limit:"):
            inner = printed_json(usage.output)
            wall_seconds = inner.get("seconds", wall_seconds)
            cpu_seconds = inner.get("cpu_seconds", cpu_seconds)
        return Sample(wall_seconds, cpu_seconds, usage.peak_bytes, tokens, load)
    finally:
        shutil.rmtree(output)


def row(
    case: Case, samples: dict[Case, list[Sample]], text_bytes: dict[str, int]
) -> dict[str, Any]:
    """A case's figures over the rounds: [median, least, most] each."""
    size_bytes, own = text_bytes[case.size], samples[case]
    ours = Case("curate", "full", case.form)
    same = Case("curate", case.size, case.form)
    reference = samples[same][0].tokens
    tokens = own[0].tokens

    def ratio(other: Case, seconds: Callable[[Sample], float]) -> list[float]:
        scale = text_bytes[other.size] / size_bytes
        pairs = zip(samples[other], own, strict=True)
        return _spread([scale * seconds(mine) / seconds(theirs) for theirs, mine in pairs])

    assert reference is not None
    return {
        "case": case.label,
        "text_mb": size_bytes / 1e6,
        "wall_mb_s": _spread([size_bytes / 1e6 / sample.wall_seconds for sample in own]),
        "cpu_mb_s": _spread([size_bytes / 1e6 / sample.cpu_seconds for sample in own]),
        "tokens_m_s": _spread([reference / 1e6 / sample.wall_seconds for sample in own]),
        "peak_mb": max(sample.peak_bytes for sample in own) / 1e6,
        "tokens": tokens,
        "tokens_difference": None if tokens is None else tokens / reference - 1,
        "curate_to_this": ratio(ours, lambda sample: sample.wall_seconds),
        "curate_to_this_same_input": ratio(same, lambda sample: sample.wall_seconds),
        "curate_to_this_cpu": ratio(ours, lambda sample: sample.cpu_seconds),
        "samples": [vars(sample) for sample in own],
    }


def _spread(values: Sequence[float]) -> list[float]:
    return [statistics.median(values), min(values), max(values)]


def _header(setup: Setup, rounds: int) -> str:
    full, subset = setup.described["full"], setup.described["subset"]
    return (
        f"{full['text_bytes'] / 1e6:.1f} MB of text in {full['documents']:,} documents of "
        f"{len(full['domains'])} domains ({setup.described['source']}; subset "
        f"{subset['text_bytes'] / 1e6:.1f} MB), vocabulary {setup.described['vocabulary']:,}, "
        f"{setup.workers} workers, {rounds} rounds: median (least-most). Peak: resident set of "
        "the largest process (wait4). Ratio: MB/s of curate by MB/s of this on the same form of "
        "input in the same round, curate on the full input and on the very same input. limit: "
        "inner work alone, except gigatoken, a whole process.\n"
    )


HEADINGS = (
    *("pipeline", "MB", "wall MB/s", "CPU MB/s", "Mtok/s", "peak MB", "tokens"),
    *("curate ÷ this, wall", "same input", "CPU"),
)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table of all rows."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    lines += ["| " + " | ".join(_cells(found)) + " |" for found in rows]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    ratios = ("curate_to_this", "curate_to_this_same_input", "curate_to_this_cpu")
    return [
        row["case"],
        f"{row['text_mb']:.0f}",
        _shown(row["wall_mb_s"]),
        _shown(row["cpu_mb_s"]),
        _shown(row["tokens_m_s"]),
        f"{row['peak_mb']:.0f}",
        _shown_difference(row["tokens_difference"]),
        *(_shown(row[name]) + "×" for name in ratios),
    ]


def _shown(spread: Sequence[float]) -> str:
    """Median (least-most), three digits each.

    Example:
        >>> _shown([2.04, 1.5, 123.4])
        '2.04 (1.50-123)'
    """
    middle, least, most = (_digits(value) for value in spread)
    return f"{middle} ({least}-{most})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _shown_difference(difference: float | None) -> str:
    if difference is None:
        return "-"
    if difference == 0:
        return "same"
    mark = "" if abs(difference) <= TOKENS_TOLERANCE else " (!)"
    return f"{difference * 100:+.4f} %{mark}"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
