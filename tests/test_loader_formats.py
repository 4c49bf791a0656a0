"""`curate.load` over every format of tokens: the same stream, the same resumption, clear faults."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import RECIPE

import curate
from curate.dataset.manifest import load_manifest
from curate.errors import RecipeError, ShardError
from curate.formats import FORMATS
from curate.formats.base import TokenFormat
from curate.pipeline.build import build
from curate.recipe import load as load_recipe
from curate.runtime.progress import Observer

LENGTH = 64
SHARDS = "output.shard_tokens=7000"
ABLE = [n for n, f in FORMATS.items() if isinstance(f, TokenFormat) and f.view is not None]
OPTIONS = {"nanogpt": ("llmc", "{variant: nanogpt}"), "nemo": ("llmc", "{variant: nemo}"),
           "stream": ("olmo", "{documents: false}")}  # fmt: skip
SEQUENCES = ("npy", "mds", "litdata", "llmc")

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def make(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Builds the corpus as a format, once for each way."""
    path = tmp_path_factory.mktemp("formats") / "recipe.yaml"
    path.write_text(RECIPE.format(data=corpus / "data"), "utf-8")
    made: dict[tuple[str, ...], Path] = {}

    def one(name: str, *overrides: str) -> Path:
        key = (name, *overrides)
        if key not in made:
            form, options = OPTIONS.get(name, (name, "{}"))
            asked = (SHARDS, f"name={name}-{len(made)}", f"output.format={form}",
                     f"output.options={options}", *overrides)  # fmt: skip
            made[key] = build(load_recipe(path, asked), 1, Observer()).directory
        return made[key]

    return one


def stream_of(directory: Path) -> np.ndarray:
    """All training tokens through the format's own reader."""
    manifest = load_manifest(directory)
    chosen = manifest.configured()
    assert isinstance(chosen, TokenFormat)
    dtype = np.dtype(str(manifest.dtype))
    return np.concatenate([
        batch.tokens
        for record in manifest.shards
        if record.split == "train"
        for batch in chosen.read(directory / record.stem, dtype)
    ])  # fmt: skip


def test_all_binary_formats_but_parquet_are_read() -> None:
    tokens = [name for name, form in FORMATS.items() if isinstance(form, TokenFormat)]
    assert set(tokens) - set(ABLE) == {"input_ids"}


@pytest.mark.parametrize("name", [*ABLE, *OPTIONS])
def test_windows_over_documents_are_the_stream_cut(make: Maker, name: str) -> None:
    directory = make(name)
    stream = stream_of(directory)
    assert len(stream) == 30_000
    data = curate.load(directory, LENGTH, fields=("tokens", "labels"))
    assert len(data) == (len(stream) - 1) // LENGTH
    batch = data.read(np.arange(len(data)))
    assert np.array_equal(batch["tokens"].ravel(), stream[: len(data) * LENGTH])
    assert np.array_equal(batch["labels"].ravel(), stream[1 : len(data) * LENGTH + 1])
    backwards = data.read(np.arange(len(data))[::-1].copy())
    assert np.array_equal(backwards["tokens"], batch["tokens"][::-1])


@pytest.mark.parametrize("name", ABLE)
def test_documents_of_every_format_are_those_of_megatron(make: Maker, name: str) -> None:
    fields = ("tokens", "positions", "segments", "domains")
    found, expected = (
        curate.load(make(one), LENGTH, fields=fields).read(np.arange(400))
        for one in (name, "megatron")
    )
    for field in fields:
        assert np.array_equal(found[field], expected[field]), field


@pytest.mark.parametrize("name", SEQUENCES)
def test_stored_sequences_are_read_as_stored(make: Maker, name: str) -> None:
    directory = make(name, f"sequence_length={LENGTH}")
    shards = [s.tokens for s in load_manifest(directory).shards if s.split == "train"]
    assert len(shards) > 3
    pieces = np.split(stream_of(directory), np.cumsum(shards)[:-1])
    rows = [piece[: len(piece) // LENGTH * LENGTH].reshape(-1, LENGTH) for piece in pieces]
    data = curate.load(directory)
    assert np.array_equal(data.read(np.arange(len(data)))["tokens"], np.concatenate(rows))
    assert data.left_over_tokens == 30_000 - len(data) * LENGTH


@pytest.mark.parametrize("name", ["mds", "llmc", "litdata", "olmo", "datatrove"])
def test_resume_on_three_ranks_shows_exactly_the_unseen(make: Maker, name: str) -> None:
    data = curate.load(make(name), LENGTH, fields=("tokens", "samples"))
    whole = np.concatenate([batch["samples"] for batch in data.loader(4)])
    assert np.array_equal(np.sort(whole), np.arange(len(data)))
    first = data.loader(4)
    steps = iter(first)
    seen = np.concatenate([next(steps)["samples"] for _ in range(17)])
    state = first.state_dict()
    rest = []
    for rank in range(3):
        again = data.loader(2, rank, 3)
        again.load_state_dict(state)
        rest += [batch["samples"] for batch in again]
    assert np.array_equal(np.sort(np.concatenate([seen, *rest])), np.arange(len(data)))


@pytest.mark.parametrize("name", ABLE)
def test_a_cut_shard_of_any_format_is_found(make: Maker, name: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(make(name), tmp_path / "copy"))
    for path in sorted((copy / "train").glob("shard-00001.*")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(ShardError, match=f"{path.name}: .* bytes, the manifest says"):
            curate.load(copy, LENGTH)
        path.write_bytes(whole)
    curate.load(copy, LENGTH)


def test_parquet_is_refused_with_what_can_be_loaded(make: Maker) -> None:
    with pytest.raises(RecipeError, match="does not read format input_ids.*megatron, npy, olmo"):
        curate.load(make("input_ids"), LENGTH)


def test_a_sample_of_any_length_may_lie_at_any_byte(make: Maker) -> None:
    """MDS puts heads of 6, 7 or 9 bytes before its samples; single tokens still come out right."""
    directory = make("mds")
    data = curate.load(directory, 1, dtype=np.uint16)
    assert np.array_equal(data.read(np.arange(len(data)))["tokens"][:, 0], stream_of(directory))
