"""Write a dataset to a bucket and to a directory: CPU, time, and the room that staging takes.

    python tools/bench/bucket_output.py [--tokens 1e8 --shard-tokens 4e6 --workers 2]

An S3 server of the tests (`tests/s3_server.py`) runs in a process of its own on this machine. The
corpus is the embedded one, tokenised before. Staging is looked at every 10 ms; blocks on disk are
counted, which stand-ins do not have. Every object is compared with the file on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PORT, BUCKET = 5078, "bench"
URL = f"s3://{BUCKET}/mix"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("bench-work/bucket_output"))
    parser.add_argument("--tokens", type=float, default=1e8)
    parser.add_argument("--shard-tokens", type=float, default=4e6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--format", default="megatron")
    parser.add_argument("--smoke", action="store_true", help="a few seconds")
    options = parser.parse_args()
    if options.smoke:
        options.tokens, options.shard_tokens = 2e6, 2e5
    shutil.rmtree(options.work / "local", ignore_errors=True)
    options.work.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "curate-test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-curate-test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}",
        "XDG_CACHE_HOME": str(options.work.resolve() / "user"),
    }
    server = subprocess.Popen([sys.executable, ROOT / "tests" / "s3_server.py", str(PORT), BUCKET])
    try:
        _measure(options, environment)
    finally:
        server.kill()
        server.wait()


def _measure(options: argparse.Namespace, environment: dict[str, str]) -> None:
    recipe = options.work / "recipe.yaml"
    recipe.write_text(
        json.dumps(
            {
                "name": "bench",
                "tokenizer": {"train": {"vocab_size": 8192}},
                "domains": [
                    {"name": "code", "paths": "corpus://python_code"},
                    {"name": "manuals", "paths": "corpus://manuals"},
                ],
                "mixture": {"method": "uniform"},
                "max_epochs": 1000,
                "budget_tokens": int(options.tokens),
                "output": {"format": options.format, "shard_tokens": int(options.shard_tokens)},
            }
        ),
        "utf-8",
    )
    local = options.work.resolve() / "local"
    build = ["build", str(recipe), "--workers", str(options.workers), "-q", "--out"]
    commands = {
        "tokenise (not counted)": ["tokenize", str(recipe), "-q"],
        "build, directory": [*build, str(local)],
        "build, bucket": [*build, URL],
        "build, bucket, again": [*build, URL],
        "verify, directory": ["verify", str(local), "-q", "--workers", str(options.workers)],
        "verify, bucket": ["verify", URL, "-q", "--workers", str(options.workers)],
    }
    print(f"{'':24}{'CPU s':>8}{'clock s':>9}{'staging MB':>12}")
    for name, arguments in commands.items():
        cpu, clock, staging = _run(arguments, environment, options.work)
        print(f"{name:24}{cpu:8.2f}{clock:9.2f}{staging / 1e6:12.1f}")
    sizes = [path.stat().st_size for path in local.rglob("*") if path.is_file()]
    print(f"dataset: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB, largest {max(sizes) / 1e6:.1f}")
    print(f"objects that differ from files: {_different(local, environment) or 'none'}")


def _run(arguments: list[str], environment: dict[str, str], work: Path) -> tuple[float, float, int]:
    """Run a command; return its CPU seconds, its seconds, and the most bytes in staging."""
    places = [work / ".curate" / "buckets", work / "user" / "curate" / "buckets"]
    before, started, most = os.times(), time.monotonic(), 0
    process = subprocess.Popen([sys.executable, "-m", "curate.cli", *arguments], env=environment)
    while process.poll() is None:
        most = max(most, sum(map(_blocks, places)))
        time.sleep(0.01)
    if process.returncode:
        sys.exit(process.returncode)
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return cpu, time.monotonic() - started, most


def _blocks(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:  # it has just been replaced
                continue
    return total


def _different(local: Path, environment: dict[str, str]) -> list[str]:
    """List the files that an object differs from, but those that name the dataset's place."""
    os.environ.update(environment)
    from curate.runtime.transfers import read_whole

    names_place = {"recipe.yaml", "manifest.json", "certificate.json", "croissant.json"}
    different = []
    for path in sorted(local.rglob("*")):
        name = path.relative_to(local).as_posix()
        if path.is_file() and name not in names_place:
            answer = read_whole(f"{URL}/{name}")
            if answer is None or answer[0] != path.read_bytes():
                different.append(name)
    return different


if __name__ == "__main__":
    main()
