"""What each trainer's reader demands beyond a round trip, by hand and through whole builds."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from conftest import Listener

from curate.cli import cli
from curate.dataset.manifest import DatasetLayout, load_manifest
from curate.dataset.verify import verify
from curate.errors import InfeasiblePlan, RecipeError, ShardError
from curate.formats import (
    FORMATS,
    Settings,
    TextBatch,
    TokenBatch,
    TokenFormat,
    check_options,
    configure,
    datatrove,
    dropped_tokens,
    llmc,
    mds,
    olmo,
)
from curate.formats.base import DatasetFolder, TextFormat
from curate.pipeline.build import build
from curate.recipe import load

UINT16 = np.dtype(np.uint16)


def make(recipe: Path, *overrides: str) -> tuple[Any, list[str]]:
    observer = Listener()
    return build(load(recipe, overrides), 1, observer, overwrite=True), observer.notices


def batch(*documents: list[int], dtype: str = "uint16") -> TokenBatch:
    lengths = np.array([len(document) for document in documents], np.int64)
    return TokenBatch(np.array(sum(documents, []), dtype), lengths)


def token_format(name: str, **options: Any) -> TokenFormat:
    found = configure(name, Settings(eos_id=9, options=options))
    assert isinstance(found, TokenFormat)
    return found


def stream_of(form: TokenFormat, stem: Path) -> list[int]:
    return [token for read in form.read(stem, UINT16) for token in read.tokens.tolist()]


# --- bytes by hand ---------------------------------------------------------------------------


def test_olmo_by_hand(tmp_path: Path) -> None:
    path, rows = olmo.write(tmp_path / "s", [batch([5, 6, 9], [7, 9])], UINT16)
    assert path.read_bytes() == b"\5\0\6\0\x09\0\7\0\x09\0"
    assert gzip.decompress(rows.read_bytes()) == b"0,3\n3,5\n"


def test_datatrove_by_hand(tmp_path: Path) -> None:
    paths = datatrove.write(tmp_path / "s", [batch([5, 6, 9], [7, 9])], UINT16, "gpt2")
    assert [path.name for path in paths] == ["s.ds", "s.ds.index", "s.ds.metadata"]
    assert paths[0].read_bytes() == b"\5\0\6\0\x09\0\7\0\x09\0"
    assert paths[1].read_bytes() == struct.pack("<2Q", 3, 5)
    assert paths[2].read_bytes() == b"gpt2|2\n5\n5 T\n"


def test_mds_by_hand(tmp_path: Path) -> None:
    (path,) = mds.write(tmp_path / "s", [batch([5, 6, 9], [7] * 300)], UINT16)
    found = path.read_bytes()
    samples, first, second, end = struct.unpack_from("<4I", found)
    assert (samples, end) == (2, len(found))
    described = json.loads(found[16:first])
    assert (described["column_names"], described["version"]) == (["tokens"], 2)
    assert described["column_encodings"] == ["ndarray:uint16"]
    assert list(described) == sorted(described)
    assert found[first:second] == struct.pack("<IBB3H", 8, 4, 3, 5, 6, 9)
    assert found[second : second + 7] == struct.pack("<IBH", 603, 5, 300)


def test_mds_heads_of_every_width() -> None:
    for length, expected in ((255, 6), (256, 7), (65_535, 7), (65_536, 9)):
        heads, used = mds.sample_heads(np.array([length]), UINT16)
        assert used[0] == expected
        assert int.from_bytes(bytes(heads[0, 5:expected]), "little") == length
        assert int.from_bytes(bytes(heads[0, :4]), "little") == expected - 4 + 2 * length


def test_mds_refuses_an_empty_sample(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="a sample has no tokens, which MDS refuses"):
        mds.write(tmp_path / "s", [batch([1], [])], UINT16)
    assert list(tmp_path.iterdir()) == []


def test_litdata_by_hand(tmp_path: Path) -> None:
    form = token_format("litdata")
    (path,) = form.write(tmp_path / "train" / "s", [batch([5, 6, 9], [7, 9])], UINT16)
    assert path.read_bytes() == struct.pack("<4I5H", 2, 16, 22, 26, 5, 6, 9, 7, 9)
    assert form.finish is not None
    stems = {"train": [tmp_path / "train" / "s"], "validation": []}
    (index,) = form.finish(DatasetFolder(tmp_path, stems, UINT16))
    found = json.loads(index.read_text())
    assert found["chunks"] == [{"chunk_bytes": 26, "chunk_size": 2, "dim": 5, "filename": "s.bin"}]
    assert found["config"]["data_format"] == ["no_header_tensor:20"]


@pytest.mark.parametrize(
    ("variant", "first"), [("llmc", (20240520, 1, 5, 0)), ("nemo", (278895051, 1, 5, 2))]
)
def test_llmc_moves_the_end_token_to_the_front(
    variant: str, first: tuple[int, ...], tmp_path: Path
) -> None:
    form = token_format("llmc", variant=variant)
    (path,) = form.write(tmp_path / "s", [batch([5, 6, 9]), batch(), batch([7, 9])], UINT16)
    found = path.read_bytes()
    assert struct.unpack_from("<4i", found) == first
    assert found[16:1024] == bytes(1008)
    assert struct.unpack("<5H", found[1024:]) == (9, 5, 6, 9, 7)
    assert stream_of(form, tmp_path / "s") == [5, 6, 9, 7, 9]


@pytest.mark.parametrize("stream", [[], [9], [4], [5, 9], [5, 9, 6], [9, 9, 5, 9]])
@pytest.mark.parametrize("variant", ["llmc", "nemo", "nanogpt"])
def test_llmc_gives_every_stream_back(stream: list[int], variant: str, tmp_path: Path) -> None:
    form = token_format("llmc", variant=variant)
    parts = [batch([token]) for token in stream]
    (path,) = form.write(tmp_path / "s", parts, UINT16)
    assert stream_of(form, tmp_path / "s") == stream
    cut = bool(stream) and stream[-1] != 9
    extra = 0 if variant == "nanogpt" else 1024 + 2 * cut
    assert path.stat().st_size == 2 * len(stream) + extra


def test_llmc_of_another_end_token_or_width_is_refused(tmp_path: Path) -> None:
    form = token_format("llmc", variant="nemo")
    form.write(tmp_path / "s", [batch([5, 9])], UINT16)
    with pytest.raises(ShardError, match="expected the end token 3 first, found 9"):
        list(llmc.read(tmp_path / "s", UINT16, "nemo", 3))
    with pytest.raises(ShardError, match="expected tokens of uint32, found uint16"):
        list(form.read(tmp_path / "s", np.dtype(np.uint32)))
    with pytest.raises(ShardError, match="expected the header of llmc .*found .278895051, 1, 2"):
        list(llmc.read(tmp_path / "s", UINT16, "llmc", 9))


def test_llmc_is_refused_beyond_two_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert llmc.MOST_BYTES == 2**31 - 1
    monkeypatch.setattr(llmc, "MOST_BYTES", llmc.HEADER_BYTES + 2000)
    full = TokenBatch(np.zeros(600, np.uint16), np.array([600]))
    llmc.write(tmp_path / "s", [full], UINT16)
    with pytest.raises(ShardError, match=r"t\.bin: 2 GiB or more, beyond what llm"):
        llmc.write(tmp_path / "t", [full, full], UINT16)
    assert [path.name for path in tmp_path.iterdir()] == ["s.bin"]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl"])
def test_jsonl_variants_hold_the_same_lines(suffix: str, tmp_path: Path) -> None:
    variant = {".jsonl.gz": "dolma", ".jsonl": "plain"}[suffix]
    form = configure("jsonl", Settings(options={"variant": variant}))
    assert isinstance(form, TextFormat)
    documents = TextBatch(["é\n"], ["7"], ["wiki"], ['{"year":2020}'])
    (path,) = form.write(tmp_path / "s", [documents])
    assert path.name == f"s{suffix}"
    content = path.read_bytes()
    lines = gzip.decompress(content) if suffix == ".jsonl.gz" else content
    assert json.loads(lines) == {
        "text": "é\n", "id": "7", "source": "wiki", "metadata": {"year": 2020}
    }  # fmt: skip
    assert [read.texts for read in form.read(tmp_path / "s")] == [["é\n"]]
    path.write_bytes(content[:-3])
    with pytest.raises(ShardError, match=path.name):
        list(form.read(tmp_path / "s"))


def test_arrow_is_a_stream_of_batches_of_a_thousand_rows(tmp_path: Path) -> None:
    form = FORMATS["arrow"]
    assert isinstance(form, TextFormat)
    names = [str(row) for row in range(2500)]
    (path,) = form.write(tmp_path / "s", [TextBatch(names, names, names, ["{}"] * 2500)])
    with pa.memory_map(str(path)) as file:
        batches = list(pa.ipc.open_stream(file))
    assert [rows.num_rows for rows in batches] == [1000, 1000, 500]


# --- options, and what a tokenizer allows ------------------------------------------------------


def test_an_unknown_option_names_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"llmc has no option 'varient'; did you mean 'variant'"):
        check_options("llmc", {"varient": "nemo"})
    with pytest.raises(RecipeError, match=r"npy has no option 'variant' \(known: none\)"):
        check_options("npy", {"variant": "x"})


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("llmc", "variant", "gpt", "expected one of llmc, nemo, nanogpt, found 'gpt'"),
        ("llmc", "step_tokens", 0, "expected a whole number of at least 1, found 0"),
        ("llmc", "step_tokens", True, "expected a whole number of at least 1, found True"),
        ("olmo", "documents", "no", "expected true or false, found 'no'"),
        ("datatrove", "tokenizer", 3, "expected text, found 3"),
    ],
)
def test_an_option_of_another_kind_is_refused(
    name: str, key: str, value: Any, message: str
) -> None:
    with pytest.raises(RecipeError, match=f"output.options.{key}: {message}"):
        check_options(name, {key: value})


@pytest.mark.parametrize("name", ["olmo", "llmc"])
def test_readers_that_scan_for_the_end_token_need_one(name: str) -> None:
    with pytest.raises(RecipeError, match=f"{name}.* needs a tokenizer with an end token"):
        configure(name, Settings(eos_id=None))
    configure("llmc", Settings(eos_id=None, options={"variant": "nanogpt"}))


@pytest.mark.parametrize("name", ["olmo", "datatrove", "llmc"])
def test_an_end_token_inside_a_document_is_refused(name: str, tmp_path: Path) -> None:
    form = token_format(name)
    form.write(tmp_path / "s", [batch([5, 9], [9], [6, 7], [8, 9])], UINT16)
    with pytest.raises(ShardError, match="document 1 of a batch holds the end token 9 inside"):
        form.write(tmp_path / "t", [batch([5, 9], [6, 9, 7], [8, 9])], UINT16)
    assert not list(tmp_path.glob("t*"))


def test_datatrove_refuses_a_name_that_nanotron_would_split() -> None:
    with pytest.raises(RecipeError, match=r"nanotron splits at '\|'"):
        token_format("datatrove", tokenizer="a|b")


def test_traps_of_some_vocabularies_are_told() -> None:
    def told(name: str, vocabulary: int) -> list[str]:
        notices = FORMATS[name].notices
        assert notices is not None
        return notices(Settings(vocabulary=vocabulary))

    assert [bool(told("megatron", size)) for size in (65_499, 65_500, 65_536, 65_537)] == [
        False, True, True, False,
    ]  # fmt: skip
    assert "fast_cache_load" in told("megatron", 65_536)[0]
    assert "uint8" in told("olmo", 256)[0] and not told("olmo", 257)


def test_zstd_windows_stay_below_what_readers_refuse(tmp_path: Path) -> None:
    import zstandard

    from curate.formats import jsonl

    text = "a" * (40 << 20)
    (path,) = jsonl.write(tmp_path / "s", [TextBatch([text], ["1"], ["x"], ["{}"])])
    found = zstandard.get_frame_parameters(path.read_bytes()[:32])
    assert found.window_size <= 2**27  # larger windows are refused by some readers


# --- losses ------------------------------------------------------------------------------------


def test_losses_are_what_a_reader_leaves_out() -> None:
    """Each formula against a reader that cuts windows one by one."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = rng.integers(1, 90, rng.integers(0, 9))
        tokens, window = int(rows.sum()), int(rng.integers(1, 70))
        apart = {i for start in range(0, tokens - window + 1, window)
                 for i in range(start, start + window)}  # fmt: skip
        assert dropped_tokens.tails(rows, window) == tokens - len(apart)
        over = {i for start in range(0, tokens - window, window)
                for i in range(start, start + window + 1)}  # fmt: skip
        assert dropped_tokens.overlapping_tails(rows, window) == tokens - len(over)
        assert dropped_tokens.labelled_tails(rows, window) == dropped_tokens.tails(rows, window + 1)
        assert dropped_tokens.cut_rows(rows, window) == sum(max(0, row - window) for row in rows)
        for loss in (
            dropped_tokens.tails,
            dropped_tokens.labelled_tails,
            dropped_tokens.overlapping_tails,
        ):
            assert loss(rows, window) <= dropped_tokens.worst_tails(1, window, tokens)


# --- whole builds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llmc", "{variant: nanogpt}"),
        ("llmc", "{variant: nemo}"),
        ("llmc", "{step_tokens: 4096}"),
        ("olmo", "{documents: false}"),
        ("jsonl", "{variant: dolma}"),
        ("jsonl", "{variant: plain}"),
        ("parquet", "{variant: nanochat}"),
        ("datatrove", "{tokenizer: gpt2}"),
    ],
)
def test_every_variant_builds_and_is_certified(recipe: Path, name: str, options: str) -> None:
    built, _ = make(
        recipe, f"output.format={name}", f"output.options={options}", "output.shard_tokens=9000"
    )
    assert built.certificate["ok"], built.certificate["problems"]
    again, said = make(
        recipe, f"output.format={name}", f"output.options={options}", "output.shard_tokens=9000"
    )
    assert again.reused and "built already: reading it back" in said


@pytest.mark.parametrize("name", ["mds", "litdata", "input_ids", "llmc"])
def test_sequences_of_one_length(recipe: Path, name: str) -> None:
    built, _ = make(recipe, f"output.format={name}", "sequence_length=128")
    assert built.certificate["ok"], built.certificate["problems"]
    manifest = load_manifest(built.directory)
    form = manifest.configured()
    assert isinstance(form, TokenFormat)
    shard = manifest.shards[0]
    read = list(form.read(built.directory / shard.stem, np.dtype(manifest.dtype)))
    assert shard.sequences == -(-30_000 // 128)
    if form.keeps_documents:
        lengths = np.concatenate([found.lengths for found in read])
        assert set(lengths[:-1]) == {128} and lengths[-1] == 30_000 % 128
    if name == "mds":
        assert built.certificate["reader_loss"] == {"window_tokens": 128, "tokens": 0}


@pytest.mark.parametrize("name", ["olmo", "datatrove", "parquet"])
def test_formats_of_documents_take_no_sequence_length(recipe: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=f"format {name} keeps whole documents"):
        make(recipe, f"output.format={name}", "sequence_length=128")


def test_no_shard_of_llmc_is_shorter_than_a_step(recipe: Path) -> None:
    options = "output.options={step_tokens: 8000}"
    built, _ = make(recipe, "output.format=llmc", options, "output.shard_tokens=4000")
    shards = [s for s in load_manifest(built.directory).shards if s.split == "train"]
    assert len(shards) == 3 and min(shard.tokens for shard in shards) > 8000
    with pytest.raises(InfeasiblePlan, match=r"every shard of format llmc needs.*: 40"):
        make(recipe, "output.format=llmc", "output.options={step_tokens: 40000}")
    _, said = make(recipe, "output.format=llmc")
    assert any("llm.c stops at a shard of fewer than" in line for line in said)


def test_the_loss_is_planned_certified_and_refused_where_it_is_large(recipe: Path) -> None:
    built, _ = make(
        recipe, "output.format=datatrove", "output.options={window_tokens: 99}",
        "output.shard_tokens=9000",
    )  # fmt: skip
    plan = json.loads((built.directory / "plan.json").read_text())
    shards = [s for s in load_manifest(built.directory).shards if s.split == "train"]
    assert plan["reader_loss"] == {"window_tokens": 99, "tokens_at_most": 4 * 99}
    lost = sum(shard.tokens % 100 for shard in shards)
    assert built.certificate["reader_loss"] == {"window_tokens": 99, "tokens": lost}
    assert f"leaves out {lost} training" in (built.directory / "README.md").read_text()
    shape = ("output.format=datatrove", "output.shard_tokens=9000")
    with pytest.raises(InfeasiblePlan, match=r"may drop 8192 of 30000 .*set budget_tokens: 40960"):
        make(recipe, *shape, "output.options={window_tokens: 2048}")
    with pytest.raises(InfeasiblePlan, match=r"may drop 1600 of 30000 .*shard_tokens: 10000 or"):
        make(recipe, *shape, "output.options={window_tokens: 400}")
    fewer = ("output.shard_tokens=10000", "output.options={window_tokens: 400}")
    assert make(recipe, *shape, *fewer)[0].certificate["ok"]  # the advice helps


@pytest.mark.parametrize("name", ["npy", "mds", "litdata", "input_ids"])
def test_a_sequence_longer_than_all_tokens_is_refused(recipe: Path, name: str) -> None:
    message = "not one sequence of 40000 tokens is full with budget_tokens 30000; set sequence_le"
    with pytest.raises(InfeasiblePlan, match=message):
        make(recipe, f"output.format={name}", "sequence_length=40000")


def test_an_output_that_cannot_be_written_is_named(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ShardError, match=r"taken: nothing can be written there \(File exists\)"):
        make(recipe, f"output.dir={tmp_path / 'taken'}")
    assert (tmp_path / "taken").read_text() == "mine"


def test_nanogpt_and_nanochat_get_their_folders(recipe: Path) -> None:
    built, _ = make(
        recipe, "output.format=llmc", "output.options={variant: nanogpt}",
        "output.shard_tokens=9000",
    )  # fmt: skip
    trainer = built.directory / "trainer"
    assert (trainer / "train.bin").stat().st_size == 2 * 30_000
    manifest = load_manifest(built.directory)
    held_out = sum(shard.tokens for shard in manifest.shards if shard.split == "validation")
    assert (trainer / "val.bin").stat().st_size == 2 * held_out
    built, _ = make(
        recipe, "output.format=parquet", "output.options={variant: nanochat}",
        "output.shard_tokens=9000",
    )  # fmt: skip
    names = sorted(path.name for path in trainer.glob("shard_*"))
    assert names == [f"shard_{number:05d}.parquet" for number in range(5)]
    assert os.path.samefile(trainer / names[0], built.directory / "train" / "shard-00000.parquet")
    with pytest.raises(ShardError, match="nanochat takes its last file for validation"):
        make(
            recipe, "output.format=parquet", "output.options={variant: nanochat}",
            "validation.documents=0",
        )  # fmt: skip


@pytest.mark.parametrize("name", ["mds", "litdata", "arrow"])
def test_files_of_the_folder_are_listed_and_verified(recipe: Path, name: str) -> None:
    built, _ = make(recipe, f"output.format={name}")
    manifest = load_manifest(built.directory)
    assert {Path(file.path).parent.name for file in manifest.folder_files} == {
        "train", "validation",
    }  # fmt: skip
    changed = built.directory / manifest.folder_files[0].path
    changed.write_text(changed.read_text().replace("shard-00000", "shard-00009"))
    certificate = verify(DatasetLayout(built.directory), None, 1)
    assert not certificate["ok"]
    assert any(manifest.folder_files[0].path in found for found in certificate["problems"])
    rebuilt, _ = make(recipe, f"output.format={name}", "seed=3")
    assert rebuilt.certificate["ok"]


def test_a_foreign_file_in_the_trainers_folder_is_not_touched(recipe: Path) -> None:
    built, _ = make(recipe, "output.format=llmc", "output.options={variant: nanogpt}")
    foreign = built.directory / "trainer" / "notes.txt"
    foreign.write_text("mine")
    with pytest.raises(ShardError, match=r"trainer/notes\.txt"):
        make(recipe, "output.format=llmc", "output.options={variant: nanogpt}", "seed=3")
    assert foreign.read_text() == "mine"


@pytest.mark.parametrize("name", FORMATS)
def test_card_and_command_show_how_to_load(recipe: Path, name: str) -> None:
    shown = CliRunner().invoke(cli, ["formats", name]).output
    snippet = FORMATS[name].snippet.format(path="train/shard-00000").strip()
    assert snippet in shown
    for key in FORMATS[name].options:
        assert f"output.options.{key}: " in shown
    if name in ("input_ids", "webdataset"):
        built, _ = make(recipe, f"output.format={name}")
        card = (built.directory / "README.md").read_text()
        assert snippet in card
        (config,) = yaml.safe_load(card.split("---")[1])["configs"]
        for files in config["data_files"]:
            assert list(built.directory.glob(files["path"]))


def test_the_command_shows_every_variant() -> None:
    shown = CliRunner().invoke(cli, ["formats", "llmc"]).output
    assert "variant nanogpt:" in shown and "trainer/train.bin" in shown


def test_input_ids_of_one_length_for_readers_that_refuse_a_short_row(tmp_path: Path) -> None:
    form = configure("input_ids", Settings(eos_id=9, sequence_length=4, row_tokens=4))
    assert isinstance(form, TokenFormat)
    sequences = [batch([1, 2, 3, 4], [5, 6, 7, 8]), batch([1, 2, 3, 4], [5])]
    (path,) = form.write(tmp_path / "s", sequences, UINT16)
    rows = pq.read_table(path)["input_ids"].to_pylist()
    assert rows == [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [5, 9, 9, 9]]
    assert stream_of(form, tmp_path / "s") == [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"all sequences but the last must have 4 tokens"):
        form.write(tmp_path / "t", [batch([1, 2]), batch([3, 4, 5, 6])], UINT16)
    with pytest.raises(ValueError, match=r"must have 4 tokens, got \[5\]"):
        form.write(tmp_path / "t", [batch([1, 2, 3, 4, 5])], UINT16)
    assert not (tmp_path / "t.parquet").exists()
    (whole,) = form.write(tmp_path / "w", [batch([1, 2, 3, 4])], UINT16)
    assert b"curate.fill_tokens" not in (pq.read_metadata(whole).metadata or {})


def test_input_ids_that_lies_about_what_was_filled_up(tmp_path: Path) -> None:
    form = token_format("input_ids")
    table = pa.table({"input_ids": pa.array([[1, 2]], pa.list_(pa.uint16()))})
    pq.write_table(
        table.replace_schema_metadata({"curate.fill_tokens": "2"}), tmp_path / "s.parquet"
    )
    with pytest.raises(ShardError, match=r"expected curate.fill_tokens below the 2 tokens of the"):
        stream_of(form, tmp_path / "s")


@pytest.mark.parametrize(
    ("eos_id", "said"), [(9, "filled up to 4 tokens with end tokens"), (None, "levanter refuses")]
)
def test_input_ids_says_what_becomes_of_a_short_last_sequence(
    eos_id: int | None, said: str
) -> None:
    notices = FORMATS["input_ids"].notices
    assert notices is not None
    assert said in notices(Settings(eos_id=eos_id, sequence_length=4, row_tokens=4))[0]


# --- what trainers leave behind --------------------------------------------------------------


def test_megatrons_cache_beside_a_shard_is_no_damage_and_goes_with_it(recipe: Path) -> None:
    built, _ = make(recipe)
    cache = built.directory / "train" / "shard-00000" / "cache" / "GPTDataset_indices"
    cache.mkdir(parents=True)
    (cache / "0-description.txt").write_text("of the shard as it was")
    assert verify(DatasetLayout(built.directory), None, 1)["ok"]
    make(recipe, "seed=7")
    assert not cache.exists()


def test_other_files_in_a_folder_of_a_shards_name_are_named(recipe: Path) -> None:
    built, _ = make(recipe)
    stray = built.directory / "train" / "shard-00000" / "notes.txt"
    stray.parent.mkdir()
    stray.write_text("mine")
    found = verify(DatasetLayout(built.directory), None, 1)["problems"]
    assert found == ["train/shard-00000/notes.txt: not in the manifest"]
    with pytest.raises(ShardError, match=r"1 file that curate did not write \(train/shard-00000/"):
        make(recipe, "seed=7")
    assert stray.read_text() == "mine"
