"""Measure the parts alone on the same input: no pipeline made of them can be faster.

    python limits.py LIMIT INPUT OUTPUT TOKENIZER WORKERS

prints one line of JSON. `gigatoken` is a whole process (start-up counted by whoever runs it); the
others time only the inner work and say so with `seconds`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BLOCK_CHARACTERS = 4 << 20
READ_BYTES = 1 << 20
COPIED_BYTES = 256 << 20
UINT16_VOCABULARY = 1 << 16


def fastokens(source: Path, output: Path, tokenizer: Path, workers: int) -> dict[str, Any]:
    """Encode text that is in memory already, on one core, from a cold start."""
    if hasattr(os, "sched_setaffinity"):
        # its pool takes as many threads as the process may use cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import fastokens as library

    blocks = list(_blocks(source))
    encoder = library.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    clock = _Clock()
    tokens = 0
    for block in blocks:
        ids, _ = encoder.encode_batch_flat(block, split_special_tokens=True)
        tokens += len(ids) // 4 + len(block)  # as if each document had been ended
    return {**clock.taken(), "tokens": tokens}


def gigatoken(source: Path, output: Path, tokenizer: Path, workers: int) -> dict[str, Any]:
    """Its own file reader, then the ids as one raw file; drops what follows a bad line."""
    os.environ["RAYON_NUM_THREADS"] = str(workers)
    import gigatoken as library
    import numpy as np

    encoder = library.Tokenizer.from_json((tokenizer / "tokenizer.json").read_text("utf-8"))
    paths: list[str | Path | os.PathLike[str]] = [*sorted(source.rglob("*.jsonl*"))]
    encoded = encoder.encode_files(library.JsonlFileSource(paths, field="text"), parallel=True)
    ids = np.asarray(encoded.layout.content.data)
    offsets = np.asarray(encoded.layout.offsets.data)
    vocabulary = json.loads((tokenizer.parent / "input.json").read_text())["vocabulary"]
    dtype = np.dtype(np.uint16 if vocabulary <= UINT16_VOCABULARY else np.uint32)
    tokens = ids[offsets[0] : offsets[-1]]
    tokens.astype(dtype).tofile(output / "tokens.bin")
    return {"tokens": len(tokens) + len(offsets) - 1}  # likewise


def zstd(source: Path, output: Path, tokenizer: Path, workers: int) -> dict[str, Any]:
    """Decompress every file, one thread, in pieces."""
    import zstandard

    clock = _Clock()
    for path in sorted(source.rglob("*.zst")):
        with path.open("rb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file, READ_BYTES)
            while reader.read(READ_BYTES):
                pass
    return clock.taken()


def copy(source: Path, output: Path, tokenizer: Path, workers: int) -> dict[str, Any]:
    """Copy as many bytes as there are of text within memory, one thread."""
    size_bytes = _input_bytes(source, tokenizer)
    origin = b"\x01" * min(size_bytes, COPIED_BYTES)
    target = bytearray(len(origin))
    target[:] = origin  # every page is there before the clock starts
    clock = _Clock()
    for _ in range(-(-size_bytes // len(origin))):
        target[:] = origin
    return clock.taken()


def _input_bytes(source: Path, tokenizer: Path) -> int:
    described = json.loads((tokenizer.parent / "input.json").read_text())
    return int(described[source.parent.name]["text_bytes"])


class _Clock:
    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def taken(self) -> dict[str, Any]:
        """Seconds since it was made."""
        return {
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
        }


def _blocks(source: Path) -> Iterator[list[str]]:
    """Documents of a directory of plain files, in lists of about `BLOCK_CHARACTERS`."""
    import orjson

    block: list[str] = []
    characters = 0
    for path in sorted(source.rglob("*.jsonl")):
        with open(path, "rb") as file:
            for line in file:
                text = orjson.loads(line)["text"]
                block.append(text)
                characters += len(text)
                if characters >= BLOCK_CHARACTERS:
                    yield block
                    block, characters = [], 0
    if block:
        yield block


LIMITS: dict[str, Callable[[Path, Path, Path, int], dict[str, Any]]] = {
    "fastokens": fastokens,
    "gigatoken": gigatoken,
    "zstd": zstd,
    "copy": copy,
}


def main() -> None:
    name, source, output, tokenizer, workers = sys.argv[1:]
    result = LIMITS[name](Path(source), Path(output), Path(tokenizer), int(workers))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
