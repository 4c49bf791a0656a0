"""The loader: every sequence once an epoch, whoever reads it and wherever it was stopped."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import forge_manifest

import curate
from curate.dataset.manifest import load_manifest, read_provenance
from curate.errors import CurateError, RecipeError, ShardError
from curate.formats import find
from curate.loader import FIELDS, LoaderOptions, Sequences
from curate.loader.batch_loader import PLANNED_SEQUENCES, Share
from curate.pipeline.build import build
from curate.recipe import load as load_recipe
from curate.runtime.progress import Observer

LENGTH = 64
SMALL_SHARDS = "output.shard_tokens=7000"
"""Five shards of the 30,000 tokens, so that windows cross borders."""


def make(recipe: Path, *overrides: str) -> Path:
    return build(load_recipe(recipe, overrides), 1, Observer(), overwrite=True).directory


@pytest.fixture(scope="module")
def places(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One corpus as a recipe, as documents in megatron shards, and as sequences in npy shards."""
    from conftest import RECIPE

    root = tmp_path_factory.mktemp("loader")
    path = root / "recipe.yaml"
    path.write_text(RECIPE.format(data=corpus / "data"), "utf-8")
    documents = make(path, SMALL_SHARDS, "name=documents")
    fixed = make(path, SMALL_SHARDS, "name=fixed", "output.format=npy", f"sequence_length={LENGTH}")
    return {"recipe": path, "documents": documents, "fixed": fixed}


KINDS = ("documents", "fixed", "recipe")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few batches, so that the small dataset has many; forked workers inherit it."""
    monkeypatch.setattr("curate.loader.batch_loader.BLOCK_TOKENS", 15 * LENGTH)


def open_all(places: dict[str, Path], kind: str, *fields: str, length: int = LENGTH) -> Sequences:
    found = curate.load(places[kind], length, fields=fields or ("tokens", "samples"))
    assert isinstance(found, Sequences)
    return found


def stream_of(directory: Path) -> np.ndarray:
    """All training tokens through the format's own reader."""
    manifest = load_manifest(directory)
    chosen = find(manifest.format)
    batches = [
        batch.tokens
        for record in manifest.shards
        if record.split == "train"
        for batch in chosen.read(directory / record.stem, np.dtype(manifest.dtype))
    ]
    return np.concatenate(batches)


def collect(loader: Any, name: str = "samples") -> np.ndarray:
    return np.concatenate([np.asarray(batch[name]) for batch in loader])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.usefixtures("small_blocks")
def test_an_epoch_longer_than_what_is_planned_at_once_has_every_sequence(
    places: dict[str, Path], kind: str, prefetch: int
) -> None:
    data = open_all(places, kind, "samples", length=4)
    assert len(data) > PLANNED_SEQUENCES
    loader = data.loader(8, options=LoaderOptions(prefetch_batches=prefetch))
    for _ in range(2):
        assert sorted(collect(loader)) == list(range(len(data)))


# What a sequence holds.


@pytest.mark.parametrize("length", [1, 64, 999, 29_999])
def test_windows_over_documents_are_the_stream_cut(places: dict[str, Path], length: int) -> None:
    stream = stream_of(places["documents"])
    data = open_all(places, "documents", "tokens", length=length)
    read = data.read(np.arange(len(data)))["tokens"]
    count = len(stream) // length
    assert len(load_manifest(places["documents"]).shards) > 3
    assert np.array_equal(read, stream[: count * length].reshape(count, length))
    assert data.left_over_tokens == len(stream) - count * length
    assert f"{data.left_over_tokens:,} tokens fill none" in repr(data)


def test_labels_are_the_next_tokens_and_none_is_lost(places: dict[str, Path]) -> None:
    stream = stream_of(places["documents"])
    data = open_all(places, "documents", "tokens", "labels")
    batch = data.read(np.arange(len(data)))
    assert np.array_equal(batch["labels"].ravel(), stream[1 : 1 + batch["labels"].size])
    assert np.array_equal(batch["tokens"].ravel(), stream[: batch["labels"].size])
    assert len(data) == (len(stream) - 1) // LENGTH
    assert data.left_over_tokens == len(stream) - len(data) * LENGTH - 1 < LENGTH


def test_fixed_sequences_are_read_as_stored(places: dict[str, Path]) -> None:
    stream = stream_of(places["fixed"])
    count = len(stream) // LENGTH
    data = curate.load(places["fixed"])
    assert data.sequence_length == LENGTH and len(data) == count
    assert data.left_over_tokens == len(stream) - count * LENGTH
    read = data.read(np.arange(count))["tokens"]
    assert np.array_equal(read, stream[: count * LENGTH].reshape(count, LENGTH))
    halves = open_all(places, "fixed", "tokens", length=30)
    rows = stream[: count * LENGTH].reshape(count, LENGTH)[:, :60].reshape(-1, 30)
    assert np.array_equal(halves.read(np.arange(2 * count))["tokens"], rows)
    assert halves.left_over_tokens == len(stream) - len(halves) * 30
    labelled = curate.load(places["fixed"], fields=["tokens", "labels"])
    assert labelled.sequence_length == LENGTH - 1
    batch = labelled.read(np.arange(count))
    assert np.array_equal(batch["labels"][:, :-1], batch["tokens"][:, 1:])


def test_a_recipe_gives_what_its_build_would(places: dict[str, Path]) -> None:
    direct, written = open_all(places, "recipe"), open_all(places, "fixed")
    assert len(direct) == len(written)
    for position in (0, 1, len(direct) // 2, len(direct) - 1, -1):
        assert np.array_equal(direct[position]["tokens"], written[position]["tokens"])
    options = LoaderOptions(order="stored")
    batches = zip(
        direct.loader(7, options=options), written.loader(7, options=options), strict=True
    )
    for own, other in batches:
        assert np.array_equal(own["tokens"], other["tokens"])


@pytest.mark.parametrize("kind", KINDS)
def test_fields_agree_with_the_documents_below(places: dict[str, Path], kind: str) -> None:
    fields = [name for name in FIELDS if name != "cu_seqlens"]
    data = open_all(places, kind, *fields, "cu_seqlens", length=LENGTH - 1)
    batch = next(iter(data.loader(len(data))))
    tokens, labels = batch["tokens"], batch["labels"]
    assert tokens.shape == (len(data), LENGTH - 1)
    assert np.array_equal(tokens[:, 1:], labels[:, :-1])
    # Positions rise by one within a segment, and begin at 0 with each.
    steps, turns = np.diff(batch["positions"]), np.diff(batch["segments"])
    assert (batch["positions"][:, 0] == 0).all() and (batch["segments"][:, 0] == 0).all()
    assert set(np.unique(turns)) == {0, 1}
    assert (steps[turns == 0] == 1).all() and (batch["positions"][:, 1:][turns == 1] == 0).all()
    starts = np.flatnonzero(batch["positions"].ravel() == 0)
    assert batch["cu_seqlens"].tolist() == [*starts.tolist(), tokens.size]
    assert batch["cu_seqlens"].dtype == np.int32
    # A label is ignored exactly where the token after begins another segment.
    ignored = batch["document_labels"] == -100
    assert np.array_equal(ignored[:, :-1], turns == 1)
    assert np.array_equal(batch["document_labels"][~ignored], labels[~ignored])
    # Segments end with the end-of-text token unless the window or the budget cut them.
    assert (tokens[:, :-1][turns == 1] == 0).mean() > 0.95
    assert len(set(batch["domains"].ravel().tolist())) == 3
    assert batch["domains"].max() < len(data.domains)


def test_domains_of_tokens_are_those_of_the_provenance(places: dict[str, Path]) -> None:
    directory = places["documents"]
    expected = []
    manifest = load_manifest(directory)
    for record in manifest.shards:
        if record.split == "train":
            rows = read_provenance(directory / record.provenance.path, record, manifest)
            expected.append(np.repeat(rows["domain"], rows["tokens"]))
    data = open_all(places, "documents", "domains", length=100)
    found = data.read(np.arange(len(data)))["domains"]
    assert np.array_equal(found.ravel(), np.concatenate(expected)[: found.size])


def test_an_epoch_holds_the_planned_mixture(places: dict[str, Path]) -> None:
    plan = json.loads((places["fixed"] / "plan.json").read_text())["domains"]
    data = open_all(places, "recipe", "domains")
    domains = collect(data.loader(16), "domains")
    counts = np.bincount(domains.ravel(), minlength=3)
    missing = np.array([plan[name]["tokens"] for name in data.domains]) - counts
    assert (missing >= 0).all() and missing.sum() == data.left_over_tokens < LENGTH


def test_the_store_spreads_every_epoch_evenly(places: dict[str, Path]) -> None:
    data = open_all(places, "recipe", "domains")
    loader = data.loader(1)
    share = np.zeros(3)
    for epoch in range(3):
        domains = collect(loader, "domains")[:, 0]
        share = np.bincount(domains, minlength=3) / len(domains)
        for tenth in np.array_split(domains, 10):
            assert (abs(np.bincount(tenth, minlength=3) - share * len(tenth)) <= 3).all(), epoch
    shuffled = np.random.default_rng(0).permutation(domains)  # the dummy: a plain shuffle
    off = [abs(np.bincount(t, minlength=3) - share * len(t)).max()
           for t in np.array_split(shuffled, 10)]  # fmt: skip
    assert max(off) > 3


def test_dtypes_and_single_fields(places: dict[str, Path]) -> None:
    wide = curate.load(places["documents"], LENGTH)[5]["tokens"]
    assert wide.dtype == np.int64 and wide.shape == (LENGTH,)
    for dtype in (np.uint16, np.int32, "uint32"):
        narrow = curate.load(places["documents"], LENGTH, dtype=dtype)[5]["tokens"]
        assert narrow.dtype == np.dtype(dtype) and np.array_equal(narrow, wide)
    with pytest.raises(IndexError, match="expected a position from 0 to 467, got 468"):
        curate.load(places["documents"], LENGTH)[468]
    with pytest.raises(IndexError, match="expected numbers from 0 to 467, got"):
        curate.load(places["documents"], LENGTH).read(np.array([-1]))


def test_validation_by_split_and_domain(places: dict[str, Path]) -> None:
    whole = curate.load(places["fixed"], 16, split="validation")
    parts = [
        curate.load(places["fixed"], 16, split=f"validation/{name}", fields=["domains", "tokens"])
        for name in whole.domains
    ]
    for number, part in enumerate(parts):
        assert (part.read(np.arange(len(part)))["domains"] == number).all()
    tokens = sum(
        record.tokens
        for record in load_manifest(places["fixed"]).shards
        if record.split == "validation"
    )
    assert tokens == len(whole) * 16 + whole.left_over_tokens
    assert tokens == sum(len(part) * 16 + part.left_over_tokens for part in parts)


# Order.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_blocks")
def test_ten_epochs_are_ten_permutations(places: dict[str, Path], kind: str) -> None:
    data = open_all(places, kind)
    loader = data.loader(10)
    epochs = [collect(loader) for _ in range(10)]
    assert loader.epoch == 10 and loader.position == 0
    for own in epochs:
        assert sorted(own.tolist()) == list(range(len(data)))
    for number, own in enumerate(epochs):
        for other in epochs[:number]:
            assert (own == other).mean() < 0.1
    again = [collect(again) for again in [data.loader(10)] for _ in range(2)]
    assert np.array_equal(again, epochs[:2])
    other = collect(data.loader(10, options=LoaderOptions(seed=7)))
    assert sorted(other.tolist()) == list(range(len(data)))
    assert (other == epochs[0]).mean() < 0.1


def test_the_stored_order_stays(places: dict[str, Path]) -> None:
    loader = open_all(places, "documents").loader(10, options=LoaderOptions(order="stored"))
    for _ in range(2):
        assert np.array_equal(collect(loader), np.arange(468))


def test_many_stretches_are_one_order(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collect(open_all(places, "recipe").loader(8))
    monkeypatch.setattr("curate.loader.store_windows.STRETCH_SEQUENCES", 5)
    monkeypatch.setattr("curate.loader.batch_loader.PLANNED_SEQUENCES", 3)
    data = open_all(places, "recipe")
    assert np.array_equal(collect(data.loader(8)), whole)
    by_one = [int(data[position]["samples"]) for position in range(len(data))]
    assert by_one == whole.tolist()  # epoch 0 is the order of the build


# Ranks, workers, resumption.


def train(data: Sequences, ranks: int, state: Any, steps: int, batch: int) -> tuple[Any, list[int]]:
    """All ranks for some steps; the state, which must be the same on each, and what was used."""
    options = LoaderOptions(prefetch_batches=3)
    loaders = [data.loader(batch, rank, ranks, options) for rank in range(ranks)]
    used: list[int] = []
    for loader in loaders:
        if state is not None:
            loader.load_state_dict(state)
        batches = iter(loader)
        for _ in range(min(steps, len(loader))):
            used += next(batches)["samples"].tolist()
        batches.close()
    states = [loader.state_dict() for loader in loaders]
    assert all(other == states[0] for other in states)
    return json.loads(json.dumps(states[0])), used


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("small_blocks")
def test_resuming_on_other_ranks_continues_with_the_unseen(
    places: dict[str, Path], kind: str, seed: int
) -> None:
    rng = np.random.default_rng([seed, len(kind)])
    data = open_all(places, kind)
    state, seen = None, []
    while state is None or (state["epoch"] == 0 and len(seen) < len(data) - 60):
        ranks, batch = int(rng.integers(1, 5)), int(rng.integers(1, 6))
        whole_steps, rest = divmod(len(data) - len(seen), ranks * batch)
        if 0 < rest < ranks:
            continue  # refused: the last step would leave a rank without
        steps = min(int(rng.integers(1, 12)), whole_steps - 1)
        state, used = train(data, ranks, state, steps, batch)
        seen += used
    state, used = train(data, 1, state, 1000, 4)
    assert sorted(seen + used) == list(range(len(data)))
    assert (state["epoch"], state["position"]) == (1, 0)
    _, following = train(data, 1, state, 1000, 4)
    assert sorted(following) == list(range(len(data))) and following != seen + used


@pytest.mark.usefixtures("small_blocks")
def test_one_rank_then_three(places: dict[str, Path]) -> None:
    data = open_all(places, "recipe")
    straight = collect(data.loader(6))
    state, seen = train(data, 1, None, 11, 6)
    rest = [collect(resumed(data, rank, 3, state, 2)) for rank in range(3)]
    assert seen == straight[:66].tolist()
    assert sorted(np.concatenate(rest).tolist()) == sorted(straight[66:].tolist())
    first = [next(iter(resumed(data, rank, 3, state, 2)))["samples"] for rank in range(3)]
    assert np.concatenate(first).tolist() == straight[66:72].tolist()  # the same global step


def resumed(data: Sequences, rank: int, ranks: int, state: Any, batch: int) -> Any:
    loader = data.loader(batch, rank, ranks)
    loader.load_state_dict(state)
    return loader


@pytest.mark.usefixtures("small_blocks")
def test_what_is_read_ahead_is_not_counted(places: dict[str, Path]) -> None:
    loader = open_all(places, "documents").loader(4, options=LoaderOptions(prefetch_batches=8))
    batches = iter(loader)
    assert loader.state_dict()["position"] == 0
    for step in range(1, 4):
        next(batches)
        assert loader.state_dict()["position"] == 4 * step
    batches.close()
    assert collect(loader).size == 468 - 12  # goes on where it stood


def test_dropping_is_counted(places: dict[str, Path]) -> None:
    data = open_all(places, "documents")
    options = LoaderOptions(last="drop")
    loaders = [data.loader(50, rank, 4, options) for rank in range(4)]
    assert [loader.dropped_sequences for loader in loaders] == [68] * 4
    assert "68 sequences dropped" in repr(loaders[0])
    used = [collect(loader) for loader in loaders]
    assert [len(own) for own in used] == [100] * 4
    assert len(set(np.concatenate(used).tolist())) == 400
    assert [(loader.epoch, loader.position) for loader in loaders] == [(1, 0)] * 4
    short = data.loader(50, 0, 4)
    assert short.dropped_sequences == 0 and len(short) == 3


@pytest.mark.usefixtures("small_blocks")
def test_workers_share_the_steps_of_a_rank(places: dict[str, Path]) -> None:
    loader = open_all(places, "recipe").loader(5, 1, 3)
    whole = [batch["samples"].tolist() for batch in loader]
    loader = open_all(places, "recipe").loader(5, 1, 3)
    for workers in (2, 3, 200):
        parts = [list(loader.blocks(own, workers)) for own in range(workers)]
        blocks = sum(map(len, parts))
        assert blocks == -(-len(whole) // 3) > 8
        found = []
        for number in range(blocks):  # the order in which torch asks its workers
            block, read = parts[number % workers][number // workers]
            found += [batch["samples"].tolist() for _, _, batch in block.batches(read)]
        assert found == whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickled_source_reads_the_same(places: dict[str, Path], kind: str) -> None:
    data = open_all(places, kind, "tokens", "segments", "samples")
    packed = pickle.dumps(data.loader(9))
    assert len(packed) < 30_000  # names of files, not tokens
    for own, other in zip(data.loader(9), pickle.loads(packed), strict=True):  # noqa: S301
        assert all(np.array_equal(own[name], other[name]) for name in own)


# Faults.


def broken(places: dict[str, Path], kind: str, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(places[kind], tmp_path / "copy"))


def test_a_cut_shard_is_found(places: dict[str, Path], tmp_path: Path) -> None:
    for kind, suffix in (("documents", "bin"), ("documents", "idx"), ("fixed", "npy")):
        directory = broken(places, kind, tmp_path / f"{kind}-{suffix}")
        path = directory / "train" / f"shard-00002.{suffix}"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(ShardError, match=rf"{path.name}: .* bytes, the manifest says"):
            curate.load(directory, LENGTH)
        path.unlink()
        with pytest.raises(ShardError, match=f"{path.name}: missing"):
            curate.load(directory, LENGTH)


def test_another_dtype_is_found(places: dict[str, Path], tmp_path: Path) -> None:
    for kind, other in (("documents", "<i4"), ("fixed", "<u4")):
        directory = broken(places, kind, tmp_path / kind)
        forge_manifest(directory, partial(dict.update, dtype=other))
        with pytest.raises(ShardError, match=r"expected tokens of u?int32, found .*uint16"):
            curate.load(directory, LENGTH)


def test_a_manifest_that_contradicts_its_shards(places: dict[str, Path], tmp_path: Path) -> None:
    directory = broken(places, "documents", tmp_path)

    def add(tokens: int, manifest: dict[str, Any]) -> None:
        manifest["shards"][1]["tokens"] += tokens

    forge_manifest(directory, partial(add, 1))
    with pytest.raises(ShardError, match="expected .* tokens as the manifest says, found"):
        curate.load(directory, LENGTH)
    forge_manifest(directory, partial(add, -1))
    provenance = directory / load_manifest(directory).shards[0].provenance.path
    rows = np.load(provenance)
    rows["tokens"][0] += 1
    np.save(provenance, rows)
    curate.load(directory, LENGTH)  # the provenance is not read unless asked for
    with pytest.raises(ShardError, match="its pieces are not those of a shard of"):
        curate.load(directory, LENGTH, fields=["domains"])


def test_a_state_of_other_shards_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    state = curate.load(places["documents"], LENGTH).loader(2).state_dict()
    changed = make(places["recipe"], SMALL_SHARDS, f"output.dir={tmp_path / 'x'}", "seed=9")
    options = LoaderOptions(seed=42)
    with pytest.raises(ShardError, match="changed since the state was saved"):
        curate.load(changed, LENGTH).loader(2, options=options).load_state_dict(state)
    with pytest.raises(ShardError, match=r"the seed of the order .* was 42 .* is 9 now"):
        curate.load(changed, LENGTH).loader(2).load_state_dict(state)
    with pytest.raises(ShardError, match=r"tokens of a window .* was 64 .* is 65 now"):
        labelled = curate.load(places["documents"], LENGTH, fields=["labels"])
        labelled.loader(2).load_state_dict(state)
    with pytest.raises(ShardError, match="the number of sequences was 468"):
        curate.load(places["documents"], 32).loader(2).load_state_dict(state)
    own = curate.load(places["documents"], LENGTH)
    with pytest.raises(ShardError, match=r"the order .* was 'shuffled' .* is 'stored' now"):
        own.loader(2, options=LoaderOptions(order="stored")).load_state_dict(state)
    assert own.loader(2).load_state_dict(state) is None


def test_a_state_of_another_plan_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    state = curate.load(places["recipe"], LENGTH).loader(2).state_dict()
    again = curate.load(places["recipe"], LENGTH).loader(3)
    again.load_state_dict(state)
    old, new = "{method: entropy, estimator: plugin}", "{method: uniform}"
    text = places["recipe"].read_text("utf-8").replace(old, new)
    assert "uniform" in text
    other = places["recipe"].with_name("other.yaml")  # beside it, so that the store is the same
    other.write_text(text, "utf-8")
    with pytest.raises(ShardError, match="shards, store or plan changed since the state was saved"):
        curate.load(other, LENGTH).loader(2).load_state_dict(state)
    with pytest.raises(ShardError, match="changed since the state was saved"):
        curate.load(places["fixed"], LENGTH).loader(2).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": "1"}, "not made by state_dict"),
        ({"position": -1}, "not made by state_dict"),
        ({"position": 469}, "position 469 is beyond the 468 sequences"),
        ({"version": 9}, "version 9, but this curate reads version 1"),
        (None, "it lacks version, epoch"),
    ],
)
def test_what_is_no_state_is_refused(places: dict[str, Path], change: Any, message: str) -> None:
    loader = curate.load(places["documents"], LENGTH).loader(2)
    state = {} if change is None else {**loader.state_dict(), **change}
    with pytest.raises(ShardError, match=message):
        loader.load_state_dict(state)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("documents", {}, "so a sequence length is needed"),
        ("documents", {"sequence_length": 30_001}, "sequence_length may be 1 to 30000"),
        ("documents", {"sequence_length": 0}, "sequence_length may be 1 to 30000"),
        ("fixed", {"sequence_length": 64, "fields": ["labels"]}, "may be 1 to 63"),
        ("fixed", {"fields": ["token"]}, "fields: there is no 'token'; did you mean 'tokens'"),
        ("fixed", {"fields": []}, "fields: none given"),
        ("fixed", {"dtype": "float32"}, "float32 is not an integer type"),
        (
            "fixed",
            {"dtype": "int8"},
            "int8 holds ids up to 127, but the tokenizer has ids up to 399",
        ),
        ("fixed", {"split": "test"}, "split 'test' has no tokens; there are train, validation"),
        ("fixed", {"split": "train/wiki"}, "split 'train/wiki' has no tokens"),
        ("fixed", {"split": "validation/web"}, "validation/wiki"),
        ("recipe", {}, "sequence_length is needed"),
        (
            "recipe",
            {"sequence_length": 40_000},
            "windows of 40000 tokens do not fit: the plan has 30000",
        ),
        ("recipe", {"sequence_length": 64, "split": "validation"}, "only the split 'train'"),
    ],
)
def test_what_cannot_be_loaded(
    places: dict[str, Path], kind: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        curate.load(places[kind], **arguments)


def test_what_is_not_there_or_holds_text(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected the directory of a build or a recipe file"):
        curate.load(tmp_path / "absent", LENGTH)
    with pytest.raises(ShardError, match="no manifest"):
        curate.load(tmp_path, LENGTH)
    text = make(places["recipe"], "output.format=jsonl", f"output.dir={tmp_path / 'text'}")
    with pytest.raises(RecipeError, match="curate.load does not read format jsonl"):
        curate.load(text, LENGTH)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "a batch has at least 1"),
        ((1, 2, 2), "rank 2 of 2"),
        (
            (1, 0, 1, LoaderOptions(order="random")),
            "order: there is no 'random'; there are shuffled",
        ),
        ((1, 0, 1, LoaderOptions(last="pad")), "last: there is no 'pad'; there are short, drop"),
        ((1, 0, 1, LoaderOptions(prefetch_batches=-1)), "prefetch_batches: -1"),
        ((500, 0, 1, LoaderOptions(last="drop")), "takes 500 sequences, there are 468"),
    ],
)
def test_wrong_shares_and_options(places: dict[str, Path], arguments: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        curate.load(places["documents"], LENGTH).loader(*arguments)


def test_a_last_step_that_some_ranks_would_wait_for(places: dict[str, Path]) -> None:
    loader = curate.load(places["documents"], LENGTH).loader(1, 0, 467)
    with pytest.raises(RecipeError, match="has 1 sequence for 467 ranks"):
        next(iter(loader))


def test_shares_of_any_step_are_a_partition() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        batch, ranks, left = (int(value) for value in rng.integers(1, 20, 3))
        found = [Share(batch, rank, ranks).positions(7, 7 + left) for rank in range(ranks)]
        assert np.concatenate(found).tolist() == list(range(7, 7 + min(left, batch * ranks)))
        assert max(map(len, found)) - min(map(len, found)) <= 1


# Without torch, and with it.


def test_numpy_needs_no_torch(places: dict[str, Path]) -> None:
    program = f"""
import sys
sys.modules["torch"] = None  # as if it were not installed
import curate
data = curate.load({str(places["fixed"])!r}, fields=["tokens", "samples"])
assert sum(len(batch["samples"]) for batch in data.loader(8)) == len(data)
try:
    data.torch_loader(8)
except curate.errors.CurateError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "torch_loader needs torch" in done.stdout and "pip install torch" in done.stdout


def test_importing_curate_stays_light() -> None:
    program = "import sys, curate; sys.exit('numpy' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = curate.lode


@pytest.mark.parametrize("kind", KINDS)
def test_torch_gives_the_same_batches(places: dict[str, Path], kind: str) -> None:
    torch = pytest.importorskip("torch")
    data = open_all(places, kind, *FIELDS, length=50)
    for own, other in zip(data.loader(9), data.torch_loader(9), strict=True):
        assert list(own) == list(other) and other["tokens"].dtype == torch.int64
        assert all(np.array_equal(own[name], other[name].numpy()) for name in own)


def test_torch_takes_it_as_a_map_style_dataset(places: dict[str, Path]) -> None:
    data_module = pytest.importorskip("torch.utils.data")
    data = open_all(places, "recipe", "tokens", "samples")
    loader = data_module.DataLoader(data, batch_size=7, shuffle=True)
    assert sorted(collect(loader).tolist()) == list(range(len(data)))


@pytest.mark.usefixtures("small_blocks")
def test_no_workers_then_two_then_three_ranks(places: dict[str, Path]) -> None:
    """A state after a random step goes on with exactly the unseen samples."""
    pytest.importorskip("torch")
    data = open_all(places, "recipe")
    rng = np.random.default_rng(11)
    first = data.torch_loader(5, (0, 1))
    seen = take(first, int(rng.integers(5, 30)))
    second = data.torch_loader(4, (0, 1), workers=2)
    second.load_state_dict(first.state_dict())
    seen += take(second, int(rng.integers(5, 30)))
    rest = []
    for rank in range(3):
        third = data.torch_loader(3, (rank, 3), workers=2 * (rank == 1))
        third.load_state_dict(second.state_dict())
        assert len(third) == -(-(len(data) - len(seen)) // 9)
        rest += collect(third).tolist()
        assert third.state_dict()["epoch"] == 1
    assert sorted(seen + rest) == list(range(len(data)))


def take(loader: Any, steps: int) -> list[int]:
    batches = iter(loader)
    return [sample for _ in range(steps) for sample in next(batches)["samples"].tolist()]


RANK_PROGRAM = """
import sys
import torch.distributed
import curate
rank, root, place = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", f"file://{root}/meet", rank=rank, world_size=2)
loader = curate.load(place, 64, fields=["samples"]).torch_loader(5)
found = [sample for batch in loader for sample in batch["samples"].tolist()]
torch.distributed.destroy_process_group()
print(found)
"""


def test_ranks_come_from_torch_distributed(places: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("torch.distributed")
    command = [sys.executable, "-c", RANK_PROGRAM]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path), str(places["documents"])],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    found = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert len(found[0]) == len(found[1])
    assert sorted(found[0] + found[1]) == list(range(468))


def test_torch_workers_below_none(places: dict[str, Path]) -> None:
    pytest.importorskip("torch")
    with pytest.raises(RecipeError, match="workers: -1"):
        curate.load(places["fixed"]).torch_loader(2, workers=-1)


def test_errors_are_the_users(places: dict[str, Path]) -> None:
    assert issubclass(RecipeError, CurateError)
