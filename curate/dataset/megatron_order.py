"""Follow the samples of a Megatron run through the index files that it cached.

Megatron-LM shuffles documents, then samples of L tokens and one more. `GPTDataset` caches three
arrays for each prefix: the documents in their order, the first token of each sample in that order,
and the order of the samples. `BlendedDataset` caches which prefix and which of its samples comes
next. A description beside them names the prefix. (Megatron-core 0.16.1, gpt_dataset.py
`_query_document_sample_shuffle_indices` and blended_dataset.py `__getitem__`.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.dataset.places import Provenance, Stretch
from curate.errors import InputError
from curate.runtime.machine import fault_or

CLASSES = ("GPTDataset", "BlendedDataset")

DESCRIPTION = "-description.txt"


class _Description(msgspec.Struct, rename={"kind": "class"}):
    """The fields of a description that are read."""

    kind: str
    dataset_path: str | None = None
    index_split: str | None = None
    split: str | None = None
    datasets: list[_Description] = []


@dataclass(frozen=True)
class _PrefixOrder:
    """The order of one prefix."""

    shard: int
    documents: NDArray[Any]
    samples: NDArray[Any]
    """shape (samples + 1, 2), place in `documents`, and token there."""
    shuffle: NDArray[Any]

    def stretches(self, sample: int, provenance: Provenance) -> list[Stretch]:
        """Return the tokens of a sample, the one more that is only a label included."""
        number = int(self.shuffle[sample])
        if not 0 <= number < len(self.samples) - 1:
            raise _other_shards(provenance.manifest.shards[self.shard].stem)
        (first, low), (last, high) = (
            self.samples[number].tolist(),
            self.samples[number + 1].tolist(),
        )
        pieces = provenance.shard(self.shard)
        stretches = []
        if not 0 <= first <= last < len(self.documents):
            raise _other_shards(pieces.record.stem)
        for place in range(first, last + 1):
            document = int(self.documents[place])
            start, tokens = int(pieces.starts[document]), int(pieces.rows["tokens"][document])
            begin = low if place == first else 0
            end = high + 1 if place == last else tokens
            if not 0 <= begin <= end <= tokens:
                raise _other_shards(pieces.record.stem)
            stretches.append(Stretch(self.shard, start + begin, end - begin))
        return stretches


@dataclass(frozen=True)
class MegatronOrder:
    """The order of samples in one run."""

    prefixes: Sequence[_PrefixOrder]
    blend: tuple[NDArray[Any], NDArray[Any]] | None
    """Number of the prefix, and of its sample, for each sample of the run; None with one prefix."""

    @property
    def samples(self) -> int:
        """Count the samples of the run."""
        return len(self.prefixes[0].shuffle) if self.blend is None else len(self.blend[0])

    def stretches(self, sample: int, provenance: Provenance) -> list[Stretch]:
        """Return the tokens of a sample, in order."""
        if self.blend is None:
            return self.prefixes[0].stretches(sample, provenance)
        prefix, number = int(self.blend[0][sample]), int(self.blend[1][sample])
        if not (
            0 <= prefix < len(self.prefixes) and 0 <= number < len(self.prefixes[prefix].shuffle)
        ):
            raise _other_shards(provenance.manifest.shards[self.prefixes[0].shard].stem)
        return self.prefixes[prefix].stretches(number, provenance)


def read_order(cache: Path, provenance: Provenance) -> MegatronOrder:
    """Read the order of a run over the training shards of a dataset.

    Args:
        cache: Directory that Megatron cached its index files in (`--data-cache-path`), or one
            description among them where there are several runs.
        provenance: Provenance of the dataset.

    Raises:
        InputError: There is no index of these shards, there are several, or it is damaged.
    """
    descriptions = _descriptions(cache)
    fitting = {
        path: shards
        for path, fields in descriptions.items()
        if (shards := _shards_of(fields, provenance)) is not None
    }
    blends = [path for path in fitting if descriptions[path]["class"] == "BlendedDataset"]
    path = _only(blends or list(fitting), cache, provenance)
    fields, shards = descriptions[path], fitting[path]
    if fields["class"] == "GPTDataset":
        return MegatronOrder([_prefix_order(path, shards[0], provenance)], None)
    by_content = {json.dumps(other): name for name, other in _descriptions(path.parent).items()}
    prefixes = []
    for part, shard in zip(fields["datasets"], shards, strict=True):
        part_path = by_content.get(json.dumps(part))
        if part_path is None:
            raise InputError(f"{path}: the index of {part.get('dataset_path')} is not beside it")
        prefixes.append(_prefix_order(part_path, shard, provenance))
    arrays = [_array(path, name) for name in ("dataset_index", "dataset_sample_index")]
    return MegatronOrder(prefixes, (arrays[0], arrays[1]))


def _descriptions(cache: Path) -> dict[Path, dict[str, Any]]:
    """Read the descriptions of the training split."""
    is_file = cache.is_file() and cache.name.endswith(DESCRIPTION)
    paths = [cache] if is_file else sorted(cache.glob(f"*{DESCRIPTION}"))
    descriptions = {}
    for path in paths:
        try:
            content = path.read_bytes()
            described = msgspec.json.decode(content, type=_Description)
            fields = json.loads(content)
        except (OSError, ValueError, RecursionError) as error:
            other = InputError(f"{path}: not a description of Megatron's ({error})")
            raise fault_or(other, error, str(path)) from error
        split = described.index_split or described.split
        if described.kind in CLASSES and split == "train":
            descriptions[path] = fields
    return descriptions


def _shards_of(fields: Mapping[str, Any], provenance: Provenance) -> list[int] | None:
    """Return the shard of each prefix, wherever the dataset was; None if one is of no shard."""
    stems = [(number, provenance.manifest.shards[number].stem)
             for number in provenance.shard_numbers("train")]  # fmt: skip
    parts = fields.get("datasets", []) if fields["class"] == "BlendedDataset" else [fields]
    shards = []
    for part in parts:
        prefix = f"/{part.get('dataset_path')}"
        shard = next((number for number, stem in stems if prefix.endswith(f"/{stem}")), None)
        if shard is None:
            return None
        shards.append(shard)
    return shards


def _only(paths: Sequence[Path], cache: Path, provenance: Provenance) -> Path:
    if not paths:
        raise InputError(
            f"{cache}: no index of Megatron's over the shards of {provenance.directory}; name the "
            "directory of --data-cache-path, or SHARD/cache/GPTDataset_indices"
        )
    if len(paths) > 1:
        raise InputError(
            f"{cache}: the indices of {len(paths)} runs; name one, as in --index {paths[0]}"
        )
    return paths[0]


def _prefix_order(path: Path, shard: int, provenance: Provenance) -> _PrefixOrder:
    names = ("document_index", "sample_index", "shuffle_index")
    documents, samples, shuffle = (_array(path, name) for name in names)
    record = provenance.manifest.shards[shard]
    if (
        (documents.ndim, samples.ndim, shuffle.ndim) != (1, 2, 1)
        or samples.shape != (len(shuffle) + 1, 2)
        or not 0 <= documents.min(initial=0) <= documents.max(initial=0) < record.sequences
    ):
        raise _other_shards(record.stem)
    return _PrefixOrder(shard, documents, samples, shuffle)


def _other_shards(stem: str) -> InputError:
    return InputError(
        f"{stem}: Megatron's index is of another shard of this name; name the dataset that it was "
        "made for"
    )


def _array(description: Path, name: str) -> NDArray[Any]:
    path = description.with_name(description.name.removesuffix(DESCRIPTION) + f"-{name}.npy")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        unreadable = InputError(f"{path}: cannot be read ({reason})")
        raise fault_or(unreadable, error, str(path)) from error
    if array.dtype.kind not in "iu" or not array.size:
        raise InputError(f"{path}: no array of whole numbers, as Megatron writes it")
    return array
