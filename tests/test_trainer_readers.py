"""Whole builds, read by code that is not curate's: Arrow, tarfile, NumPy, trainers' packages.

What goes with the packages that curate needs anyway runs always. Tests marked `readers` import a
trainer's package and are skipped without it; `tools/readers/` installs them all and checks more.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from tokenizers import Tokenizer

from curate.dataset.manifest import load_manifest
from curate.pipeline.build import BuiltDataset, build
from curate.recipe import load
from curate.runtime.progress import Observer


def of_a_trainer(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that imports a trainer's package, whose own warnings are no fault of ours."""
    return pytest.mark.readers(pytest.mark.filterwarnings("default")(test))


@pytest.fixture
def made(recipe: Path) -> Callable[..., BuiltDataset]:
    def make(name: str, *overrides: str) -> BuiltDataset:
        settings = (f"output={{format: {name}, shard_tokens: 12000}}", *overrides)
        return build(load(recipe, settings), 1, Observer(), overwrite=True)

    return make


def source(corpus: Path) -> dict[str, str]:
    """Text of each document → its domain."""
    found = {}
    for path in sorted(corpus.glob("data/*/*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            found[json.loads(line)["text"]] = path.parent.name
    return found


def check_texts(built: BuiltDataset, corpus: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Rows of (text, domain) are whole documents, but one cut one a domain; counts as planned."""
    known = source(corpus)
    documents: Counter[str] = Counter()
    cut: Counter[str] = Counter()
    for text, domain in rows:
        documents[domain] += 1
        if known.get(text) != domain:
            assert any(one.startswith(text) for one, owner in known.items() if owner == domain)
            cut[domain] += 1
    assert max(cut.values(), default=0) <= 1
    planned = {domain.name: domain.documents for domain in built.plan.domains}
    assert dict(documents) == planned


def check_stream(built: BuiltDataset, corpus: Path, tokens: Iterable[int]) -> None:
    """Ids of all documents: decode to the sources, and by domain as many as the certificate says.

    A cut document has no end token, so the one behind it is found in the same piece.
    """
    tokenizer = Tokenizer.from_file(str(built.directory / "tokenizer.json"))
    manifest = load_manifest(built.directory)
    known = {}
    for text, domain in source(corpus).items():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        known[tuple(ids)] = domain
    found: Counter[str] = Counter()
    piece: list[int] = []
    pieces = []
    for token in tokens:
        piece.append(int(token))
        if token == manifest.tokenizer.eos_id:
            pieces.append(piece)
            piece = []
    unknown = [piece] if piece else []
    for piece in pieces:
        domain = known.get(tuple(piece[:-1]))
        if domain is None:
            unknown.append(piece)
        else:
            found[domain] += len(piece)
    realised = {name: row["realised_tokens"] for name, row in built.certificate["domains"].items()}
    rest = {name: realised[name] - found[name] for name in realised}
    assert len(unknown) <= len(realised) and min(rest.values()) >= 0
    assert sum(rest.values()) == sum(len(one) for one in unknown)


def shards(built: BuiltDataset, suffix: str) -> list[Path]:
    found = sorted((built.directory / "train").glob(f"*{suffix}"))
    assert len(found) >= 2
    return found


def test_parquet_by_arrow(made: Any, corpus: Path) -> None:
    built = made("parquet")
    tables = [pq.read_table(path) for path in shards(built, ".parquet")]
    rows = [(row["text"], row["source"]) for table in tables for row in table.to_pylist()]
    check_texts(built, corpus, rows)


def test_arrow_by_arrow(made: Any, corpus: Path) -> None:
    built = made("arrow")
    rows = []
    for path in shards(built, ".arrow"):
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_stream(file).read_all()
            rows += [(row["text"], row["source"]) for row in table.to_pylist()]
    check_texts(built, corpus, rows)


def test_jsonl_by_json(made: Any, corpus: Path) -> None:
    built = made("jsonl")
    rows = []
    for path in shards(built, ".jsonl.zst"):
        with path.open("rb") as file:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")
            rows += [json.loads(line) for line in lines]
    check_texts(built, corpus, [(row["text"], row["source"]) for row in rows])


def test_webdataset_by_tarfile(made: Any, corpus: Path) -> None:
    built = made("webdataset")
    rows = []
    for path in shards(built, ".tar"):
        with tarfile.open(path) as archive:
            content = [
                (member.name, archive.extractfile(member).read())  # type: ignore[union-attr]
                for member in archive
            ]
        for (name, text), (other, record) in zip(content[::2], content[1::2], strict=True):
            assert name.removesuffix(".txt") == other.removesuffix(".json")
            rows.append((text.decode(), json.loads(record)["source"]))
    check_texts(built, corpus, rows)


def test_npy_and_olmo_by_numpy(made: Any, corpus: Path) -> None:
    built = made("npy")
    check_stream(built, corpus, np.concatenate([np.load(p) for p in shards(built, ".npy")]))
    built = made("olmo")
    paths = shards(built, ".npy")
    check_stream(built, corpus, np.concatenate([np.fromfile(path, "<u2") for path in paths]))


def test_the_check_of_streams_can_fail(made: Any, corpus: Path) -> None:
    built = made("npy")
    stream = np.concatenate([np.load(path) for path in shards(built, ".npy")])
    with pytest.raises(AssertionError):
        check_stream(built, corpus, stream[1:])
    with pytest.raises(AssertionError):
        check_stream(built, corpus, np.where(stream == stream[5], stream[6], stream))


@of_a_trainer
@pytest.mark.parametrize("name", ["parquet", "jsonl"])
def test_load_dataset(name: str, made: Any, corpus: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    built = made(name)
    settings = {"split": "train", "cache_dir": str(tmp_path / "hf")}
    whole = datasets.load_dataset(str(built.directory), **settings)
    check_texts(built, corpus, zip(whole["text"], whole["source"], strict=True))
    stream = datasets.load_dataset(str(built.directory), streaming=True, **settings)
    assert [row["id"] for row in stream] == list(whole["id"])


@of_a_trainer
def test_load_from_disk(made: Any, corpus: Path) -> None:
    datasets = pytest.importorskip("datasets")
    built = made("arrow")
    rows = datasets.load_from_disk(str(built.directory / "train"))
    check_texts(built, corpus, zip(rows["text"], rows["source"], strict=True))


@of_a_trainer
def test_webdataset(made: Any, corpus: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    built = made("webdataset")
    names = [str(path) for path in shards(built, ".tar")]
    rows = webdataset.WebDataset(names, shardshuffle=False).decode()
    check_texts(built, corpus, ((row["txt"], row["json"]["source"]) for row in rows))


@of_a_trainer
def test_datatrove(made: Any, corpus: Path) -> None:
    pytest.importorskip("torch")
    dataset = pytest.importorskip("datatrove.utils.dataset")
    built = made("datatrove")
    check_stream(built, corpus, by_window(dataset.DatatroveFolderDataset, built))


def by_window(folder_dataset: Any, built: BuiltDataset) -> Iterator[int]:
    """Windows of a label and nothing else: every token, file by file."""
    for shard in load_manifest(built.directory).shards:
        if shard.split == "train":
            windows = folder_dataset(
                str(built.directory / "train"), 0, f"{Path(shard.stem).name}.ds", token_size=2
            )
            for number in range(len(windows)):
                yield from windows[number]["input_ids"].tolist()


@of_a_trainer
def test_litdata(made: Any, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITDATA_DISABLE_VERSION_CHECK", "1")
    litdata = pytest.importorskip("litdata")
    built = made("litdata")
    loader = litdata.TokensLoader(block_size=1)
    blocks = litdata.StreamingDataset(str(built.directory / "train"), item_loader=loader)
    check_stream(built, corpus, (int(block[0]) for block in blocks))


@of_a_trainer
def test_megatron(made: Any, corpus: Path) -> None:
    module = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    built = made("megatron")
    documents = []
    for path in shards(built, ".idx"):
        indexed = module.IndexedDataset(str(path.with_suffix("")))
        documents += [np.array(document) for document in indexed]  # it unmaps the file when it goes
    check_stream(built, corpus, np.concatenate(documents))
    assert len(documents) == sum(domain.documents for domain in built.plan.domains)
