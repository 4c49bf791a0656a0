"""Prepare one input for every pipeline: real text as JSON Lines, plain and compressed.

    python tools/bench/inputs.py DIRECTORY [--input DIR] [--megabytes 200] [--subset 40]
        [--tokenizer tokenizer.json --eos TOKEN]

Text is taken evenly from the domains, from the start of each, never twice: repeated text would
flatter every tokenizer that remembers words. What is made is kept and used again; the directory
printed holds

    {full,subset,tiny}/{jsonl,zst}/<domain>/part-NNN.jsonl[.zst]
    {full,subset,tiny}/all.jsonl, {full,subset,tiny}/all.jsonl.zst
    tokenizer/tokenizer.json, tokenizer_config.json, string_merges.json
    input.json
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import tokenizer_files

ROOT = Path(__file__).resolve().parents[2]
VERSION = 2
"""Raised when the same arguments would give another input."""

PART_BYTES = 16_000_000
"""Text in one of a domain's files, about."""

TINY_MEGABYTES = 1.0
"""For warming up."""

ZSTD_LEVEL = 3
LEAST_DOMAINS = 4
SUFFIXES = (".jsonl", ".jsonl.zst")
TRAINED_VOCABULARY = 32_000
TRAINING_CHARACTERS = 12_000_000
EOS = "<|endoftext|>"


@dataclass(frozen=True)
class Request:
    """Description of an input to prepare."""

    source: Path | None
    """Directory of JSON Lines files, one domain a file or a subdirectory; None: embedded corpus."""
    megabytes: float
    """Text in UTF-8, 10^6 bytes; less where the source has less."""
    subset_megabytes: float
    tokenizer: Path | None
    """None: train one on the input."""
    eos: str
    vocabulary: int = TRAINED_VOCABULARY
    """Entries of a tokenizer that is trained."""


def prepare(request: Request, directory: Path) -> Path:
    """Make the input, unless it is there; its directory."""
    files = find_domains(request.source, directory)
    if len(files) < LEAST_DOMAINS:
        raise SystemExit(f"inputs: {len(files)} domains found, at least {LEAST_DOMAINS} needed")
    target = directory / _key(request, files)
    description = target / "input.json"
    if description.exists():
        return target
    supply = {name: sum(map(_text_bytes, read_texts(paths))) for name, paths in files.items()}
    made = {}
    sizes = {
        "full": request.megabytes,
        "subset": request.subset_megabytes,
        "tiny": min(request.subset_megabytes, TINY_MEGABYTES),
    }
    for name, megabytes in sizes.items():
        quotas = even_quotas(supply, int(megabytes * 1e6))
        made[name] = _write(target / name, files, quotas)
    forms = tokenizer_files.Request(request.tokenizer, request.eos, request.vocabulary)
    texts = itertools.chain.from_iterable(
        _beginning(paths, TRAINING_CHARACTERS // len(files)) for paths in files.values()
    )
    eos_id, vocabulary = tokenizer_files.write(forms, texts, target / "tokenizer")
    source = "embedded corpus" if request.source is None else str(request.source)
    value = {
        "source": source,
        "eos": request.eos,
        "eos_id": eos_id,
        "vocabulary": vocabulary,
        "tokenizer": "trained here" if request.tokenizer is None else str(request.tokenizer),
        **made,
    }
    description.write_text(json.dumps(value, indent=2) + "\n")
    return target


def find_domains(source: Path | None, directory: Path) -> dict[str, list[Path]]:
    """Files of each domain, in order."""
    if source is None:
        sys.path.insert(0, str(ROOT))
        from curate.sources.embedded.corpus import materialise

        source = materialise(directory / "corpus").directory
    domains: dict[str, list[Path]] = {}
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            paths = sorted(path for path in entry.rglob("*") if path.name.endswith(SUFFIXES))
            if paths:
                domains[entry.name] = paths
        elif entry.name.endswith(SUFFIXES):
            domains[entry.name.partition(".jsonl")[0]] = [entry]
    return domains


def even_quotas(supply: dict[str, int], total: int) -> dict[str, int]:
    """The same for every domain, or all of one that has less.

    Example:
        >>> even_quotas({"a": 10, "b": 100, "c": 100}, 110)
        {'a': 10, 'b': 50, 'c': 50}
    """
    quotas: dict[str, int] = {}
    remaining = total
    for number, name in enumerate(sorted(supply, key=lambda name: supply[name])):
        quotas[name] = min(supply[name], remaining // (len(supply) - number))
        remaining -= quotas[name]
    return {name: quotas[name] for name in supply}


def read_texts(paths: list[Path]) -> Iterator[str]:
    """The `text` of every line."""
    import orjson

    for path in paths:
        for line in _lines(path):
            yield orjson.loads(line)["text"]


def _beginning(paths: list[Path], characters: int) -> Iterator[str]:
    """The first documents, until there is enough."""
    taken = 0
    for text in read_texts(paths):
        if taken >= characters:
            return
        taken += len(text)
        yield text


def _lines(path: Path) -> Iterator[bytes]:
    import zstandard

    with path.open("rb") as file:
        if path.name.endswith(".zst"):
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            yield from io.BufferedReader(reader, 1 << 20)
        else:
            yield from file


def _text_bytes(text: str) -> int:
    return len(text.encode())


class _Output:
    """A plain and a compressed file that hold the same lines."""

    def __init__(self, plain: Path, compressed: Path) -> None:
        import zstandard

        self._stack = ExitStack()
        self._files: list[Any] = []
        for path in (plain, compressed):
            path.parent.mkdir(parents=True, exist_ok=True)
            file: BinaryIO = self._stack.enter_context(path.open("wb"))
            if path is compressed:
                packer = zstandard.ZstdCompressor(ZSTD_LEVEL)
                self._files.append(self._stack.enter_context(packer.stream_writer(file)))
            else:
                self._files.append(file)

    def write(self, line: bytes) -> None:
        for file in self._files:
            file.write(line)

    def close(self) -> None:
        self._stack.close()


def _write(directory: Path, files: dict[str, list[Path]], quotas: dict[str, int]) -> dict[str, Any]:
    """Write one of the sizes; bytes and documents by domain."""
    whole = _Output(directory / "all.jsonl", directory / "all.jsonl.zst")
    domains = {}
    for name, paths in files.items():
        domains[name] = _write_domain(directory, name, paths, quotas[name], whole)
    whole.close()
    return {
        "text_bytes": sum(domain["text_bytes"] for domain in domains.values()),
        "documents": sum(domain["documents"] for domain in domains.values()),
        "domains": domains,
    }


def _write_domain(
    directory: Path, name: str, paths: list[Path], quota_bytes: int, whole: _Output
) -> dict[str, int]:
    import orjson

    text_bytes = documents = part_bytes = parts = 0
    part: _Output | None = None
    for text in read_texts(paths):
        if text_bytes >= quota_bytes:
            break
        if part is None or part_bytes >= PART_BYTES:
            if part is not None:
                part.close()
            file = f"{name}/part-{parts:03d}.jsonl"
            part = _Output(directory / "jsonl" / file, directory / "zst" / f"{file}.zst")
            part_bytes, parts = 0, parts + 1
        line = orjson.dumps({"id": f"{name}-{documents}", "text": text}) + b"\n"
        part.write(line)
        whole.write(line)
        size_bytes = _text_bytes(text)
        text_bytes += size_bytes
        part_bytes += size_bytes
        documents += 1
    if part is not None:
        part.close()
    return {"text_bytes": text_bytes, "documents": documents, "files": parts}


def _key(request: Request, files: dict[str, list[Path]]) -> str:
    stats = [
        [name, str(path), path.stat().st_size, path.stat().st_mtime_ns]
        for name, paths in files.items()
        for path in paths
    ]
    own = {name: str(value) for name, value in asdict(request).items()}
    if request.tokenizer is not None:
        own["tokenizer"] = hashlib.sha256(request.tokenizer.read_bytes()).hexdigest()
    value = json.dumps([VERSION, own, stats], sort_keys=True)
    return hashlib.sha256(value.encode()).hexdigest()[:16]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what the input is; `from_options` reads them."""
    parser.add_argument("--input", type=Path, help="directory of .jsonl and .jsonl.zst files")
    parser.add_argument("--megabytes", type=float, default=200.0, help="of text")
    parser.add_argument("--subset", type=float, default=40.0, help="MB of text for slow peers")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json; default: train one")
    parser.add_argument("--eos", default=EOS, help="token that ends a document")
    parser.add_argument("--smoke", action="store_true", help="a tiny input: does it run at all?")


def from_options(options: argparse.Namespace) -> Request:
    """See `add_options`."""
    megabytes, subset, vocabulary = options.megabytes, options.subset, TRAINED_VOCABULARY
    if options.smoke:
        megabytes, subset, vocabulary = 1.0, 0.4, 1000
    source = None if options.input is None else options.input.resolve()
    tokenizer = None if options.tokenizer is None else options.tokenizer.resolve()
    return Request(source, megabytes, subset, tokenizer, options.eos, vocabulary)


def arguments(request: Request, directory: Path) -> list[str]:
    """A command that prepares the input in a process of its own and prints where it is.

    The measuring process must stay small; see `measure`.
    """
    command = [
        *(sys.executable, str(Path(__file__).resolve()), str(directory)),
        *("--megabytes", str(request.megabytes), "--subset", str(request.subset_megabytes)),
        *("--eos", request.eos, "--vocabulary", str(request.vocabulary)),
    ]
    if request.source is not None:
        command += ["--input", str(request.source)]
    if request.tokenizer is not None:
        command += ["--tokenizer", str(request.tokenizer)]
    return command


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepare the input of the benchmarks.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--vocabulary", type=int, help="of a tokenizer trained here")
    add_options(parser)
    options = parser.parse_args()
    request = from_options(options)
    if options.vocabulary is not None:
        from dataclasses import replace

        request = replace(request, vocabulary=options.vocabulary)
    print(prepare(request, options.directory.resolve()))


if __name__ == "__main__":
    main()
