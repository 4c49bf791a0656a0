"""Look-ups in both directions equal the source, for every format, kind of file and order."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner
from conftest import END, forge_manifest, make_documents, slow_if

import curate
from curate.cli import cli
from curate.dataset.look_up import LookUp, ShownDocument
from curate.dataset.manifest import load_manifest, read_provenance
from curate.errors import InputError, ShardError
from curate.formats import FORMATS
from curate.formats.base import TextFormat, TokenFormat

LOOK_UPS = 20


class Source(NamedTuple):
    """A record as the test reads it from its file, without curate."""

    id: str
    text: str


def lines_of(path: Path) -> list[Source]:
    open_file = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix)
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    elif open_file is not None:
        with open_file(path) as file:
            data = file.read()
    else:
        data = path.read_bytes()
    return [Source(row["id"], row["text"]) for row in map(json.loads, data.splitlines())]


def read_source(document: ShownDocument) -> Source:
    """The record that a look-up names, by its file and line."""
    assert document.file is not None
    assert document.line is not None
    path = Path(document.file)
    if path.suffix == ".parquet":
        row = pq.read_table(path).slice(document.line - 1, 1).to_pylist()[0]
        return Source(str(row["key"]), row["body"])
    if path.suffix == ".txt":
        assert document.line == 1
        return Source(path.name, path.read_text("utf-8"))
    return lines_of(path)[document.line - 1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources of four kinds: JSON Lines under zstd, gzip and bzip2, Parquet, and text files."""
    root = tmp_path_factory.mktemp("show")
    (root / "wiki").mkdir()
    (root / "notes").mkdir()
    rows = make_documents("wiki", 240)
    data = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]
    compressed = zstandard.ZstdCompressor().compress(b"".join(data[:100]))
    (root / "wiki" / "a.jsonl.zst").write_bytes(compressed)
    (root / "wiki" / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(data[100:180])))
    (root / "wiki" / "c.jsonl.bz2").write_bytes(bz2.compress(b"".join(data[180:])))
    rows = make_documents("code", 160)
    table = pa.table({"key": range(160), "body": [row["text"] for row in rows]})
    pq.write_table(table, root / "code.parquet", row_group_size=30)
    for row in make_documents("talk", 60):
        (root / "notes" / f"{row['id']}.txt").write_text(row["text"] + row["id"], "utf-8")
    return root


def recipe(root: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "shown",
        "tokenizer": {"train": {"vocab_size": 400, "sample_bytes": 60000}},
        "domains": [
            {"name": "wiki", "paths": str(root / "wiki"), "license": "CC-BY-SA-4.0"},
            {"name": "code", "paths": str(root / "code.parquet"), "text": "body", "id": "key",
             "license": "MIT"},
            {"name": "talk", "paths": str(root / "notes")},
        ],
        "mixture": {"method": "uniform"},
        "max_epochs": 4,
        "budget_tokens": 24000,
        "validation": {"documents": 0.05},
        "cache": str(root / "cache"),
        **changes,
    }  # fmt: skip


def build(root: Path, output: Path, format_name: str, **changes: Any) -> Path:
    options = changes.pop("options", {})
    output_keys = {"dir": str(output), "format": format_name, "options": options,
                   "shard_tokens": 9000}  # fmt: skip
    assert curate.build(recipe(root, output=output_keys, **changes), workers=1).ok
    return output


@pytest.fixture(scope="module")
def megatron(root: Path) -> Path:
    return build(root, root / "out" / "megatron", "megatron")


LICENSES = {"wiki": "CC-BY-SA-4.0", "code": "MIT", "talk": None}


QUICK = ("megatron", "npy", "parquet", "webdataset")


@pytest.mark.parametrize("name", slow_if(lambda name: name not in QUICK, FORMATS))
def test_look_ups_both_ways_equal_the_source(root: Path, tmp_path: Path, name: str) -> None:
    options = {"documents": False} if name == "olmo" else {}
    directory = build(root, tmp_path / name, name, options=options)
    manifest = load_manifest(directory)
    rng = np.random.default_rng(7)
    domains = set()
    for number in range(LOOK_UPS):
        shard = manifest.shards[number % len(manifest.shards)]
        rows = read_provenance(directory / shard.provenance.path, shard, manifest)
        piece = int(rng.integers(len(rows)))
        position = int(rows["tokens"][:piece].sum()) + int(rng.integers(rows["tokens"][piece]))
        there = curate.show(directory, f"{shard.stem}:{position}")
        (document,) = there.documents
        domains.add(document.domain)
        source = read_source(document)
        assert (document.id, document.text) == source
        assert document.license == LICENSES[document.domain]
        assert there.place is not None
        assert there.place.position == position
        assert there.place.start < (document.tokens or 0)
        assert there.excerpt
        if isinstance(FORMATS[name], TextFormat):
            assert document.text.startswith(there.excerpt)  # a cut document is a beginning
        # And back: the identifier, the hash and the text each lead to this very place.
        for query in (document.id, document.content, document.text):
            back = curate.show(directory, query)
            (same,) = [
                one
                for one in back.documents
                if one.content == document.content
                and one.document == document.document
                and one.domain == document.domain
            ]
            here = [place for place in same.places if place.shard == shard.stem
                    and place.position <= position < place.position + place.tokens]  # fmt: skip
            assert [place.pass_number for place in here] == [there.place.pass_number]
    assert domains == {"wiki", "code", "talk"}


def test_every_place_and_pass_is_counted(megatron: Path) -> None:
    """The places of all documents cover every token of every shard once."""
    manifest = load_manifest(megatron)
    total = 0
    seen: set[tuple[str, int]] = set()
    for shard in manifest.shards:
        rows = read_provenance(megatron / shard.provenance.path, shard, manifest)
        for domain, number in {(int(row["domain"]), int(row["document"])) for row in rows}:
            if (key := (manifest.domains[domain], number)) in seen:
                continue
            seen.add(key)
            content = next(f"{int(row['content']):016x}" for row in rows
                           if (row["domain"], row["document"]) == (domain, number))  # fmt: skip
            for document in curate.show(megatron, content).documents:
                if (document.domain, document.document) == key:
                    total += sum(place.tokens for place in document.places)
                    train = [place for place in document.places if place.shard.startswith("train")]
                    whole = [place.pass_number for place in train if place.start == 0]
                    assert whole == list(range(1, len(whole) + 1))
    assert total == sum(shard.tokens for shard in manifest.shards)


def tokens_of(directory: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All tokens of each shard, as the format's reader gives them."""
    manifest = load_manifest(directory)
    form = manifest.configured()
    assert isinstance(form, TokenFormat)
    dtype = np.dtype(manifest.dtype)
    return {
        shard.stem: np.concatenate([b.tokens for b in form.read(directory / shard.stem, dtype)])
        for shard in manifest.shards
    }


def tokens_at(directory: Path, result: LookUp) -> list[np.ndarray[Any, Any]]:
    """The tokens of each sequence of a step, by the places that the look-up names."""
    stored = tokens_of(directory)
    return [
        np.concatenate(
            [stored[place.shard][place.position :][: place.tokens] for place in sequence.places]
        )
        for sequence in result.sequences
    ]


@pytest.mark.parametrize("order", ["stored", "shuffled"])
@pytest.mark.parametrize("labels", [False, True])
def test_a_step_holds_the_loaders_batch(megatron: Path, order: str, labels: bool) -> None:
    fields = ("tokens", "labels", "samples") if labels else ("tokens", "samples")
    data = curate.load(megatron, 100, fields=fields)
    loader = data.loader(8, options=curate.loader.LoaderOptions(order=order))
    step = 0
    for epoch in range(2):
        for number, batch in enumerate(loader):
            if number in (0, 3, 28):
                shown = curate.show(
                    megatron, step=step, batch=8, length=100, order=order, labels=labels
                )
                assert [one.sample for one in shown.sequences] == batch["samples"].tolist()
                expected = batch["tokens"]
                if labels:
                    expected = np.concatenate([expected, batch["labels"][:, -1:]], axis=1)
                for tokens, row in zip(tokens_at(megatron, shown), expected, strict=True):
                    np.testing.assert_array_equal(tokens, row)
                names_pass = any("pass 2" in notice for notice in shown.notices)
                assert names_pass == (epoch == 1)
            step += 1


def test_an_excerpt_marks_the_next_document(megatron: Path) -> None:
    manifest = load_manifest(megatron)
    record = manifest.shards[0]
    rows = read_provenance(megatron / record.provenance.path, record, manifest)
    border = int(rows["tokens"][0])
    (first,), (second,) = (
        curate.show(megatron, f"{record.stem}:{position}").documents for position in (0, border)
    )
    excerpt = curate.show(megatron, f"{record.stem}:{border - 9}").excerpt
    end, begin, *_ = excerpt.split(" ‖ ")
    assert end
    assert first.text.endswith(end)
    assert begin
    assert second.text.startswith(begin)


def test_steps_of_rows(root: Path, tmp_path: Path) -> None:
    """Rows are samples where trainers read rows; fillings of rows are no document."""
    packed = build(root, tmp_path / "packed", "mds", sequence_length=64, packing="best-fit")
    shown = curate.show(packed, step=2, batch=4)
    assert all(sum(place.tokens for place in one.places) == 64 for one in shown.sequences)
    assert [one.sample for one in shown.sequences] == [8, 9, 10, 11]
    assert {place.row for one in shown.sequences for place in one.places} == {8, 9, 10, 11}
    manifest = load_manifest(packed)
    stem = manifest.shards[0].stem
    rows = read_provenance(
        packed / manifest.shards[0].provenance.path, manifest.shards[0], manifest
    )
    filling = int(np.flatnonzero(rows["domain"] == 65535)[0])
    there = curate.show(packed, f"{stem}:{int(rows['tokens'][:filling].sum())}")
    assert there.documents == ()
    assert there.place is not None
    assert there.place.document is None
    documents = build(root, tmp_path / "documents", "input_ids")
    shown = curate.show(documents, step=0, batch=3)
    assert [len(one.places) for one in shown.sequences] == [1, 1, 1]
    assert "permute rows by a seed of their own" in shown.notices[0]
    with pytest.raises(InputError, match="samples are its rows; leave it out"):
        curate.show(documents, step=0, batch=3, length=64)


def write_index(
    directory: Path, cache: Path, stems: list[str], length: int, seed: int = 5
) -> list[list[np.ndarray[Any, Any]]]:
    """Write index files in Megatron's layout; return the samples of each prefix in their order.

    Samples of `length` tokens and one more are cut from two passes over shuffled documents, which
    is how GPTDataset's helpers walk, written here from its documentation.
    """
    cache.mkdir()
    rng = np.random.default_rng(seed)
    manifest, stored = load_manifest(directory), tokens_of(directory)
    parts, samples = [], []
    for stem in stems:
        (record,) = [shard for shard in manifest.shards if shard.stem == stem]
        rows = read_provenance(directory / record.provenance.path, record, manifest)
        lengths = rows["tokens"].astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        documents = np.concatenate([rng.permutation(len(rows)) for _ in range(2)])
        stream = np.concatenate([stored[stem][starts[d] : starts[d] + lengths[d]]
                                 for d in documents])  # fmt: skip
        stops = np.cumsum(lengths[documents])
        begins = np.arange(0, len(stream) - 1, length)
        begins = begins[begins + length < len(stream)]
        places = np.searchsorted(stops, np.append(begins, begins[-1] + length), side="right")
        offsets = np.append(begins, begins[-1] + length) - (stops - lengths[documents])[places]
        shuffle = rng.permutation(len(begins))
        part = {"class": "GPTDataset", "dataset_path": f"/elsewhere/{stem}", "num_samples": None,
                "index_split": "train", "sequence_length": length}  # fmt: skip
        parts.append(part)
        prefix = cache / f"{stem.replace('/', '-')}-GPTDataset-train"
        prefix.with_name(prefix.name + "-description.txt").write_text(json.dumps(part, indent=4))
        np.save(f"{prefix}-document_index.npy", documents.astype(np.int32))
        np.save(f"{prefix}-sample_index.npy", np.stack([places, offsets], 1).astype(np.int32))
        np.save(f"{prefix}-shuffle_index.npy", shuffle.astype(np.uint32))
        samples.append([stream[begins[n] : begins[n] + length + 1] for n in shuffle])
    if len(stems) > 1:
        blend = {"class": "BlendedDataset", "datasets": parts, "split": "train", "weights": None}
        prefix = cache / "0-BlendedDataset-train"
        prefix.with_name(prefix.name + "-description.txt").write_text(json.dumps(blend, indent=4))
        order = rng.permutation(np.repeat(range(len(stems)), 20)).astype(np.int16)
        within = np.array([np.sum(order[:n] == one) for n, one in enumerate(order)], np.int64)
        np.save(f"{prefix}-dataset_index.npy", order)
        np.save(f"{prefix}-dataset_sample_index.npy", within)
        return [[samples[one][n] for one, n in zip(order, within, strict=True)]]
    return samples


def test_a_megatron_batch_is_traced_through_its_own_index(megatron: Path, tmp_path: Path) -> None:
    stems = [s.stem for s in load_manifest(megatron).shards if s.split == "train"]
    assert len(stems) == 3
    for cache, used in ((tmp_path / "one", stems[1:2]), (tmp_path / "blend", stems)):
        (expected,) = write_index(megatron, cache, used, length=64)
        for step in (0, 4):
            shown = curate.show(megatron, step=step, batch=8, index=cache)
            batch = expected[8 * step : 8 * step + 8]
            for tokens, sample in zip(tokens_at(megatron, shown), batch, strict=True):
                np.testing.assert_array_equal(tokens, sample)
            assert shown.notices == ()
    with pytest.raises(InputError, match=r"60 samples, 8 steps of 8"):
        curate.show(megatron, step=8, batch=8, index=tmp_path / "blend")
    shutil.copytree(tmp_path / "blend", tmp_path / "two")
    again = (tmp_path / "two" / "0-BlendedDataset-train-description.txt").read_text()
    (tmp_path / "two" / "1-BlendedDataset-train-description.txt").write_text(again)
    with pytest.raises(InputError, match="indices of 2 runs; name one"):
        curate.show(megatron, step=0, batch=8, index=tmp_path / "two")
    one = tmp_path / "two" / "0-BlendedDataset-train-description.txt"
    assert curate.show(megatron, step=0, batch=8, index=one).sequences
    np.save(next((tmp_path / "one").glob("*document_index.npy")), np.array([10**6]))
    with pytest.raises(InputError, match="index is of another shard of this name"):
        curate.show(megatron, step=0, batch=8, index=tmp_path / "one")
    shuffle = next((tmp_path / "blend").glob("*shard-00000*shuffle_index.npy"))
    np.save(shuffle, np.full(len(np.load(shuffle)), 10**9))
    with pytest.raises(InputError, match="index is of another shard of this name"):
        curate.show(megatron, step=0, batch=60, index=tmp_path / "blend")
    np.save(shuffle, np.array(["not", "numbers"]))
    with pytest.raises(InputError, match="no array of whole numbers"):
        curate.show(megatron, step=0, batch=60, index=tmp_path / "blend")
    (tmp_path / "two" / "2-GPTDataset-train-description.txt").write_text("[1]")
    with pytest.raises(InputError, match="2-GPTDataset-train-description.txt: not a description"):
        curate.show(megatron, step=0, batch=8, index=tmp_path / "two")
    with pytest.raises(InputError, match=r"no index of Megatron's .*data-cache-path"):
        curate.show(megatron, step=0, batch=8, index=tmp_path)


def test_provenance_that_the_store_contradicts(root: Path, tmp_path: Path) -> None:
    """A number of a document that the store lacks is an error of one line, never a wrong answer."""
    directory = build(root, tmp_path / "forged", "npy")
    manifest = load_manifest(directory)
    path = directory / manifest.shards[0].provenance.path
    rows = np.load(path)
    same = rows[(rows["domain"] == rows["domain"][0]) & (rows["content"] != rows["content"][0])]
    for number, message in (
        (10**6, "not those that were written; build again"),
        (int(same["document"][0]), "the provenance gives two texts to one document of"),
    ):
        forged = rows.copy()
        forged["document"][0] = number
        np.save(path, forged)
        with pytest.raises(ShardError, match=message):
            curate.show(directory, "train/shard-00000:0")


def test_an_identifier_like_a_position_is_one(root: Path, tmp_path: Path) -> None:
    """`validation/wiki` is a shard, but `wiki:3` may be an identifier."""
    rows = [{"id": f"wiki:{number}", "text": f"text number {number} of the source"}
            for number in range(50)]  # fmt: skip
    (tmp_path / "w.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    domains = [{"name": "wiki", "paths": str(tmp_path / "w.jsonl")}]
    directory = build(root, tmp_path / "ids", "npy", domains=domains, budget_tokens=200,
                      tokenizer={"train": {"vocab_size": 270}})  # fmt: skip
    shown = curate.show(directory, "wiki:3")
    assert (shown.by, [document.line for document in shown.documents]) == ("id", [4])
    assert curate.show(directory, "validation/wiki:3").by == "position"


def test_part_of_a_text_names_its_documents(megatron: Path) -> None:
    shown = curate.show(megatron, " 17\n")
    assert shown.by == "text"
    assert {document.id for document in shown.documents} >= {"wiki-17", "17"}
    many = curate.show(megatron, "the")
    assert len(many.documents) == 100
    assert "first 100 documents" in many.notices[0]


def test_a_document_that_no_shard_holds(root: Path, tmp_path: Path) -> None:
    directory = build(root, tmp_path / "small", "npy", budget_tokens=300)
    unused = [document for number in range(60)
              for document in curate.show(directory, f"talk-{number}.txt").documents
              if not document.places]  # fmt: skip
    assert unused
    assert read_source(unused[0]).text == unused[0].text
    printed = CliRunner().invoke(cli, ["show", str(directory), unused[0].id])
    assert "stands in no shard" in printed.output


def test_without_the_token_store(root: Path, tmp_path: Path) -> None:
    directory = build(root, tmp_path / "alone", "datatrove")
    before = curate.show(directory, "train/shard-00000:0").documents[0]
    forge_manifest(directory, lambda manifest: manifest.update(cache=str(tmp_path / "gone")))
    (directory / "recipe.yaml").unlink()
    shown = curate.show(directory, "train/shard-00000:0")
    (document,) = shown.documents
    assert (document.file, document.line, document.id, document.license) == (None, None, "", None)
    assert before.content.startswith(document.content)
    assert (document.text, document.places) == (before.text, before.places)
    assert "the token store" in shown.notices[1]
    assert curate.show(directory, before.content).documents[0].text == before.text
    with pytest.raises(InputError, match=r"no position or hash, and the token store .* lacks"):
        curate.show(directory, "wiki-3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0:0"], r"'0:0' names a shard by its number, and is no .*as in train/shard-00000:0"),
        (["train/shard-00000:999999999"], r"shard-00000:999999999: the shard has the tokens 0 to"),
        (["shard-00000#99999"], r"shard-00000#99999: the shard has the rows 0 to \d+"),
        (["shard-00009:0"], r"no shard 'shard-00009'; there are train/shard-00000"),
        (["no such text anywhere"], r"is no position, hash, identifier or part of a text"),
        ([], r"takes a position or a document, or --step with --batch"),
        (["--step", "1"], r"takes a position or a document, or --step with --batch"),
        (["wiki-1", "--length", "8"], r"need --step and --batch"),
        (["wiki-1", "--step", "1", "--batch", "2"], r"exclude each other"),
        (["--step", "-1", "--batch", "2"], r"--step counts from 0"),
        (["--step", "1", "--batch", "2"], r"shards hold whole documents: add --length"),
        (["--step", "1", "--batch", "2", "--length", "99999999"], r"--length 99999999: no such"),
        (["--step", "1", "--batch", "2", "--length", "8", "--index", "x"], r"leave out --length"),
    ],
)
def test_what_cannot_be_looked_up_says_what_can(
    megatron: Path, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(cli, ["show", str(megatron), *arguments])
    assert isinstance(result.exception, InputError)
    assert "\n" not in str(result.exception)
    with pytest.raises(InputError, match=message):
        raise result.exception


def test_text_and_separate_domains_are_not_traced(root: Path, tmp_path: Path) -> None:
    text = build(root, tmp_path / "text", "jsonl")
    with pytest.raises(InputError, match="cuts into sequences by itself"):
        curate.show(text, step=0, batch=2)
    output = {"dir": str(tmp_path / "apart"), "format": "megatron", "shape": "per-domain"}
    assert curate.build(recipe(root, output=output), workers=1).ok
    with pytest.raises(InputError, match="trainer mixes its domains"):
        curate.show(tmp_path / "apart", step=0, batch=2, length=64)
    with pytest.raises(InputError, match="names 3 shards; name one of train/"):
        curate.show(tmp_path / "apart", "shard-00000:0")
    with pytest.raises(InputError, match="index is for format megatron"):
        curate.show(text, step=0, batch=2, index=tmp_path)
    with pytest.raises(ShardError, match="no finished dataset"):
        curate.show(tmp_path, "x")


def test_the_command_at_80_columns(megatron: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    position = CliRunner().invoke(cli, ["show", str(megatron), "shard-00001:77"]).output
    step = (
        CliRunner()
        .invoke(cli, ["show", str(megatron), "--step", "1", "--batch", "2", "--length", "128"])
        .output
    )
    for output in (position, step):
        assert max(map(len, output.splitlines())) <= 80
        assert "…" not in output
        assert END not in output
    as_json = CliRunner().invoke(cli, ["show", str(megatron), "shard-00001:77", "--json"]).output
    fields = json.loads(as_json)
    assert fields["by"] == "position"
    assert fields["place"]["position"] == 77
    assert fields["documents"][0]["places"][0]["pass"] == 1


def test_rows_and_logs_of_look_ups(megatron: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    step = ["show", str(megatron), "--step", "1", "--batch", "2", "--length", "128"]
    output = CliRunner().invoke(cli, [*step, "--csv", "--log-file", str(log)]).output
    rows = list(csv.DictReader(output.splitlines()))
    assert log.is_file()
    assert sum(int(row["tokens_here"]) for row in rows) == 2 * 128
    assert {row["sequence"] for row in rows} == {"0", "1"}
    assert all(row["domain"] and row["shard"] and row["pass"] for row in rows)
    one = curate.show(megatron, "shard-00001:77")
    places = one.documents[0].places
    assert [row["position"] for row in one.rows()] == [place.position for place in places]
    assert one.to_markdown().count("\n") == len(places) + 1
