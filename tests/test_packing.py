"""Packing: documents whole where they fit, rows full, waste counted, everything read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import forge_manifest

from curate.dataset.manifest import DatasetLayout, load_manifest, read_provenance
from curate.errors import RecipeError
from curate.formats import find
from curate.pipeline.build import build
from curate.plan import PAD, PIECE
from curate.plan.packing import BEST_FIT, WHOLE, PackedSampler, Tally, best_fit, pack, split, tally
from curate.recipe import load
from curate.runtime.files import hash_file
from curate.runtime.progress import Observer

ROW = 64


def plain_best_fit(lengths: list[int], row_tokens: int) -> list[int]:
    """Best-fit decreasing by looking at every row: the room left in each."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(row_tokens - length)
    return sorted(rooms)


def documents(lengths: list[int]) -> Any:
    pieces = np.zeros(len(lengths), PIECE)
    pieces["document"] = np.arange(len(lengths))
    pieces["tokens"] = lengths
    return pieces


@pytest.mark.parametrize("seed", range(40))
def test_best_fit_is_the_plain_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    row_tokens = int(rng.integers(1, 70))
    lengths = rng.integers(1, row_tokens + 1, rng.integers(1, 80))
    rows = best_fit(lengths, row_tokens)
    used = np.bincount(rows, lengths).astype(int)
    assert sorted((row_tokens - used).tolist()) == plain_best_fit(lengths.tolist(), row_tokens)


def test_best_fit_by_hand() -> None:
    """7 + 3 and 6 + 4 fill two rows of 10; first-fit in order needs three for 4, 6, 3, 7."""
    assert best_fit(np.array([4, 6, 3, 7]), 10).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("lengths", [[0], [11], [3, -1]])
def test_lengths_out_of_range_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="lengths must be 1 to 10"):
        best_fit(np.array(lengths), 10)


def test_best_fit_wastes_less_than_next_fit() -> None:
    """The dummy puts each document behind the last, and must fail the bar."""
    lengths = np.random.default_rng(0).integers(1, 1500, 20_000)
    packed = (int(best_fit(lengths, 2048).max()) + 1) * 2048 / lengths.sum() - 1
    rows, room = 1, 2048
    for length in lengths.tolist():
        if length > room:
            rows, room = rows + 1, 2048
        room -= length
    assert packed < 0.001 < 0.1 < rows * 2048 / lengths.sum() - 1


@pytest.mark.parametrize("seed", range(10))
def test_every_token_once_in_full_rows_with_the_fewest_cuts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pieces = documents(rng.integers(1, 4 * ROW, 300).tolist())
    packed = pack(pieces, ROW, BEST_FIT)
    assert set(packed.lengths.tolist()) == {ROW}
    assert int(packed.pieces["tokens"].sum()) == ROW * len(packed.lengths)
    row = (np.cumsum(packed.pieces["tokens"]) - 1) // ROW
    starts = (np.cumsum(packed.pieces["tokens"]) - packed.pieces["tokens"]) // ROW
    assert np.array_equal(row, starts)  # no piece spans two rows
    own = packed.pieces[packed.pieces["domain"] != PAD]
    whole = np.sort(split(pieces, ROW), order=["document", "start"])
    assert np.array_equal(np.sort(own, order=["document", "start"]), whole)
    found = tally(packed.pieces, len(packed.lengths))
    assert found.cuts == int((-(-pieces["tokens"] // ROW) - 1).sum())
    assert found.document_tokens == int(pieces["tokens"].sum())
    assert found.padding_tokens == ROW * found.rows - found.document_tokens


def test_whole_documents_are_rows_of_their_own() -> None:
    packed = pack(documents([10, 130, 64]), ROW, WHOLE)
    assert packed.lengths.tolist() == [10, 64, 64, 2, 64]


def test_nothing_packs_to_nothing() -> None:
    for how in (BEST_FIT, WHOLE):
        assert len(pack(documents([]), ROW, how).lengths) == 0
    assert tally(documents([]), 0) + Tally(1, 2, 3, 4) == Tally(1, 2, 3, 4)


def test_an_unknown_way_of_packing_is_refused() -> None:
    with pytest.raises(ValueError, match="how must be best-fit or whole, got concat"):
        PackedSampler(None, ROW, "concat")  # type: ignore[arg-type]


def make(recipe: Path, *overrides: str, workers: int = 1) -> Any:
    return build(
        load(recipe, (f"sequence_length={ROW}", *overrides)), workers, Observer(), overwrite=True
    )


def train_rows(directory: Path) -> tuple[list[int], Any, int]:
    """Lengths of rows and all tokens of the training set, and the end token."""
    manifest = load_manifest(directory)
    lengths: list[int] = []
    tokens = []
    for shard in manifest.shards:
        if shard.split == "train":
            for batch in manifest.configured().read(
                directory / shard.stem, np.dtype(manifest.dtype)
            ):  # type: ignore[call-arg]  # noqa: E501
                lengths += batch.lengths.tolist()
                tokens.append(batch.tokens)
    assert manifest.tokenizer.eos_id is not None
    return lengths, np.concatenate(tokens), manifest.tokenizer.eos_id


@pytest.mark.parametrize("name", ["mds", "npy", "litdata", "input_ids"])
def test_best_fit_in_every_format_that_keeps_rows(recipe: Path, name: str) -> None:
    built = make(recipe, f"output.format={name}", "packing=best-fit", "output.shard_tokens=9000")
    certificate = built.certificate
    assert certificate["ok"], certificate["problems"]
    assert certificate["tokens_compared_with_store"]
    assert certificate["realised_tokens"] == 30000
    plan = json.loads((built.directory / "plan.json").read_text())
    assert plan["packing"] == certificate["packing"]
    lengths, tokens, eos_id = train_rows(built.directory)
    if name != "npy":
        assert set(lengths) == {ROW}
    assert len(tokens) == certificate["packing"]["rows"] * ROW
    assert len(tokens) - 30000 == certificate["packing"]["padding_tokens"] > 0
    manifest = load_manifest(built.directory)
    pieces = [
        np.array(read_provenance(built.directory / shard.provenance.path, shard, manifest))
        for shard in manifest.shards
        if shard.split == "train"
    ]
    joined = np.concatenate(pieces)
    filled = np.repeat(joined["domain"] == PAD, joined["tokens"])
    assert np.all(tokens[filled] == eos_id)
    assert np.all(joined["content"][joined["domain"] == PAD] == 0)


def test_best_fit_cuts_less_than_concat(recipe: Path) -> None:
    cuts = {
        how: make(recipe, "output.format=mds", f"packing={how}", f"name={how}").certificate[
            "packing"
        ]
        for how in ("concat", "best-fit", "whole")
    }
    assert cuts["best-fit"]["cuts"] == cuts["whole"]["cuts"] < 0.6 * cuts["concat"]["cuts"]
    assert cuts["concat"]["padding_tokens"] == cuts["whole"]["padding_tokens"] == 0
    assert 0 < cuts["best-fit"]["padding_share"] < 0.05


def test_packed_rows_do_not_depend_on_workers(recipe: Path) -> None:
    found = [
        make(recipe, "output.format=mds", "packing=best-fit", f"name=w{workers}", workers=workers,
             ).directory / "train" / "shard-00000.mds"
        for workers in (1, 2)
    ]  # fmt: skip
    assert found[0].read_bytes() == found[1].read_bytes()


def test_rows_of_one_token_more(recipe: Path) -> None:
    built = make(recipe, "output.format=litdata", "packing=best-fit", "window=L+1")
    assert built.certificate["ok"], built.certificate["problems"]
    lengths, _, _ = train_rows(built.directory)
    assert set(lengths) == {ROW + 1}
    # Blocks of 64 and a label never meet a tail: a chunk is whole rows.
    assert built.certificate["reader_loss"] == {"window_tokens": ROW, "tokens": 0}
    mds = make(recipe, "output.format=mds", "window=L+1", "name=mds").certificate
    assert mds["ok"] and mds["reader_loss"]["tokens"] == 0


def test_domains_apart_are_packed_too(recipe: Path) -> None:
    built = make(recipe, "output.format=mds", "packing=best-fit", "output.shape=per-domain")
    assert built.certificate["ok"], built.certificate["problems"]
    plan = json.loads((built.directory / "plan.json").read_text())
    assert plan["trainer_mixture"] == built.certificate["trainer_mixture"]
    assert plan["packing"] == built.certificate["packing"]


def test_verify_finds_a_changed_filling(recipe: Path) -> None:
    from curate.dataset.verify import verify
    from curate.pipeline.read_back import reopen

    built = make(recipe, "output.format=npy", "packing=best-fit")
    domains = reopen(load_manifest(built.directory), 1, Observer())
    path = built.directory / "train" / "shard-00000.npy"
    manifest = load_manifest(built.directory)
    shard = manifest.shards[0]
    pieces = np.array(read_provenance(built.directory / shard.provenance.path, shard, manifest))
    at = int(pieces["tokens"][: int(np.argmax(pieces["domain"] == PAD))].sum())
    tokens = np.load(path, mmap_mode="r+")
    tokens[at] += 1
    tokens.flush()

    def change(manifest: dict[str, Any]) -> None:
        manifest["shards"][0]["files"][0]["xxh3"] = hash_file(path)

    forge_manifest(built.directory, change)
    problems = verify(DatasetLayout(built.directory), domains, 1)["problems"]
    assert any(f"token {at} differs from its document" in problem for problem in problems)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["packing=best-fit", "sequence_length=null"], "packing: best-fit is about rows of"),
        (["window=L+1", "sequence_length=null"], r"window: L\+1 is about rows of sequence_length"),
        (["packing=whole", "output.format=npy"],
         "packing: whole is not for format npy.*it is for mds, input_ids"),
        (["packing=best-fit", "output.format=llmc"], "it is for npy, mds, litdata, input_ids"),
        (["packing=bestfit"], "packing: cannot be 'bestfit'; did you mean 'best-fit'"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_are_refused(recipe: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make(recipe, *overrides)


def test_best_fit_needs_an_end_token(recipe: Path) -> None:
    first = build(load(recipe, ("name=first",)), 1, Observer(), overwrite=True)
    text = recipe.read_text().replace(
        "{train: {vocab_size: 400, sample_bytes: 60000}}",
        f"{{path: {first.directory / 'tokenizer.json'}, eos: null}}",
    )
    other = recipe.with_name("other.yaml")
    other.write_text(text)
    with pytest.raises(RecipeError, match="fills rows with the end token, and the tokenizer has"):
        make(other, "output.format=mds", "packing=best-fit", "name=second")
    assert find("mds").takes_sequences  # type: ignore[union-attr]
