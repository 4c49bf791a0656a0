"""Compare clients of object storage: seconds of CPU, memory, installed size.

    python tools/bench/object_storage.py [--objects 10000 --megabytes 256 --rounds 3]

An S3 server of the tests (`tests/s3_server.py`) runs in a process of its own on this machine, so
CPU seconds are those of the client alone, which is a new process for each number. Reading is done
in one thread, and in eight that read a segment of 4 MB each, as workers do; small objects are read
one after the other. Clients that are not installed are left out:
`pip install obstore s3fs boto3`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUCKET, PORT = "bench", 5077
SEGMENT_BYTES, READ_BYTES, THREADS, SMALL = 4 << 20, 1 << 20, 8, 1000
ACTIONS = ("nothing", "list", "read", "segments", "small")


def obstore_client() -> dict[str, Callable[..., Any]]:
    import obstore
    from obstore.store import S3Store

    store = S3Store(BUCKET)

    def stream(key: str) -> Iterator[int]:
        return map(len, obstore.get(store, key).stream(min_chunk_size=READ_BYTES))

    def segment(key: str, start: int) -> int:
        return len(memoryview(obstore.get_range(store, key, start=start, length=SEGMENT_BYTES)))

    return {
        "list": lambda: sum(map(len, obstore.list(store, "many/", chunk_size=1000))),
        "stream": stream,
        "segment": segment,
        "whole": lambda key: len(bytes(obstore.get(store, key).bytes())),
    }


def s3fs_client() -> dict[str, Callable[..., Any]]:
    import s3fs

    store = s3fs.S3FileSystem()

    def stream(key: str) -> Iterator[int]:
        with store.open(f"{BUCKET}/{key}", cache_type="readahead") as file:
            yield from iter(lambda: len(file.read(READ_BYTES)), 0)

    def segment(key: str, start: int) -> int:
        return len(store.cat_file(f"{BUCKET}/{key}", start=start, end=start + SEGMENT_BYTES))

    return {
        "list": lambda: len(store.find(f"{BUCKET}/many/", detail=True)),
        "stream": stream,
        "segment": segment,
        "whole": lambda key: len(store.cat_file(f"{BUCKET}/{key}")),
    }


def boto3_client() -> dict[str, Callable[..., Any]]:
    import boto3

    store = boto3.client("s3")

    def stream(key: str) -> Iterator[int]:
        body = store.get_object(Bucket=BUCKET, Key=key)["Body"]
        yield from iter(lambda: len(body.read(READ_BYTES)), 0)

    def segment(key: str, start: int) -> int:
        span = f"bytes={start}-{start + SEGMENT_BYTES - 1}"
        return len(store.get_object(Bucket=BUCKET, Key=key, Range=span)["Body"].read())

    def listing() -> int:
        pages = store.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="many/")
        return sum(len(page["Contents"]) for page in pages)

    return {
        "list": listing,
        "stream": stream,
        "segment": segment,
        "whole": lambda key: len(store.get_object(Bucket=BUCKET, Key=key)["Body"].read()),
    }


CLIENTS = {"obstore": obstore_client, "s3fs": s3fs_client, "boto3": boto3_client}


def act(client: str, action: str, objects: int, size_bytes: int) -> dict[str, float]:
    """Do one thing with one client in this process; return seconds and peak memory."""
    calls = CLIENTS[client]()
    started, before = time.perf_counter(), time.process_time()
    if action == "list":
        assert calls["list"]() == objects
    elif action == "read":
        assert sum(calls["stream"]("large")) == size_bytes
    elif action == "segments":
        with ThreadPoolExecutor(THREADS) as threads:
            starts = range(0, size_bytes, SEGMENT_BYTES)
            assert sum(threads.map(lambda at: calls["segment"]("large", at), starts)) == size_bytes
    elif action == "small":
        for number in range(min(SMALL, objects)):
            assert calls["whole"](f"many/{number:06}.jsonl") == 1024
    cpu, wall = time.process_time() - before, time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu": cpu, "wall": wall, "peak": peak, "start": before}


def installed(name: str, seen: set[str]) -> int:
    """Return the bytes of a package with what it requires, apart from packages in `seen`."""
    name = re.sub("[-_.]+", "-", name).lower()
    if name in seen:
        return 0
    seen.add(name)
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return 0
    size_bytes = sum(
        os.path.getsize(path)
        for path in map(package.locate_file, package.files or ())
        if os.path.isfile(path) and not str(path).endswith(".pyc")
    )
    needs = (row for row in package.requires or () if "extra ==" not in row)
    return size_bytes + sum(installed(re.split(r"[\s;<>=!~(\[]", row)[0], seen) for row in needs)


@contextmanager
def server(objects: int, size_bytes: int) -> Iterator[None]:
    """Run the store in a process of its own."""
    command = [sys.executable, __file__, "--serve", str(objects), str(size_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


def serve(objects: int, size_bytes: int) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from s3_server import ObjectStore  # type: ignore[import-not-found]

    store = ObjectStore(BUCKET, port=PORT)
    for number in range(objects):
        store.put(BUCKET, f"many/{number:06}.jsonl", bytes(1024))
    store.put(BUCKET, "large", os.urandom(1 << 20) * (size_bytes >> 20))
    threading.Timer(0.1, lambda: print("ready", flush=True)).start()
    store.serve_forever()


def main() -> None:
    options = _options()
    if options.serve:
        return serve(*options.serve)
    if options.act:
        print(json.dumps(act(*options.act[:2], *map(int, options.act[2:]))))
        return None
    if options.smoke:
        options.objects, options.megabytes, options.rounds = 1200, 16, 1
    size_bytes = options.megabytes << 20
    clients = [name for name in CLIENTS if _is_installed(name)]
    environment = {"AWS_ACCESS_KEY_ID": "curate-test", "AWS_SECRET_ACCESS_KEY": "secret",
                   "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
                   "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}", "AWS_ALLOW_HTTP": "true",
                   "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
    print(f"{options.objects:,} objects, {options.megabytes} MB, {options.rounds} rounds, medians")
    print("\n| client | action | CPU s | wall s | peak MB |\n|---|---|---:|---:|---:|")
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    with server(options.objects, size_bytes):
        for _ in range(options.rounds):
            for client in clients:
                for action in ACTIONS:
                    sizes = map(str, (options.objects, size_bytes))
                    command = [sys.executable, __file__, "--act", client, action, *sizes]
                    done = subprocess.run(command, env={**os.environ, **environment},
                                          stdout=subprocess.PIPE, check=True)  # fmt: skip
                    results.setdefault((client, action), []).append(json.loads(done.stdout))
    for (client, action), rows in results.items():
        middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        cpu = middle["start"] if action == "nothing" else middle["cpu"]
        print(f"| {client} | {action} | {cpu:.2f} | {middle['wall']:.2f} | {middle['peak']:.0f} |")
    print()
    present: set[str] = set()
    installed("curate-mix", present)
    for client in clients:
        print(
            f"\n{client} and what it needs: {installed(client, set(present)) / 1e6:.0f} MB", end=""
        )
    print()
    return None


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--serve", nargs=2, type=int)
    parser.add_argument("--act", nargs=4)
    return parser.parse_args()


if __name__ == "__main__":
    main()
