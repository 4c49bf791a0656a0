"""Layout of a built dataset on disk, and the manifest that lists its files.

```
<dir>/manifest.json        written last; lists every file with its hash
<dir>/train/               shards: shard-00000…, in the trainer's format; with
                           `output.shape: per-domain` in a folder for each domain
<dir>/validation/<domain>  held-out documents of each domain, in the same format
<dir>/provenance/          for each shard, which document every run of tokens came from
<dir>/trainer/             for some formats: files that trainers need for a whole split;
                           with separate domains, the trainers' mixture files
<dir>/tokenizer.json       the definition that made the tokens
<dir>/recipe.yaml          the recipe, with all overrides
<dir>/stats.json mixture.json plan.json certificate.json quarantine.jsonl
<dir>/removed.parquet      documents that curation removed
<dir>/clusters.parquet spans.parquet   clusters of copies, and matches of evaluation sets
<dir>/README.md croissant.json   what the dataset is, for people and for catalogues
<dir>/card-shares.svg card-entropies.svg   pictures of the card
<dir>/.curate              lists what is curate's below the folders above
```

A manifest may come from strangers, so its paths stay inside its directory and its numbers are
bounded before anything else looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from curate.dataset.bucket import Bucket
from curate.dataset.hashed_json import has_hash, is_whole, write_hashed
from curate.dataset.regular_files import (
    describe_kind,
    is_inside,
    process_faults_named,
    read_regular,
)
from curate.errors import ShardError
from curate.formats import Settings, TextFormat, TokenFormat, configure
from curate.formats.trainer_files import DIRECTORY as TRAINER
from curate.plan import PAD, PIECE
from curate.plan.schedules import Curve, CurveShape
from curate.recipe import LoadedRecipe
from curate.runtime.artifact_names import ARTIFACTS, CLUSTERS, MARK, SPANS
from curate.runtime.escape import one_line
from curate.runtime.files import hash_file
from curate.runtime.mapping import map_file
from curate.runtime.memory import blocks
from curate.runtime.registry import list_first
from curate.runtime.workers import workers_for

SCHEMA = 2
OLD_SCHEMA = 1
"""Manifests without a hash of themselves, which list few files beside the shards."""

MOST = 2**53
"""Largest number in a manifest: sums and products of a hundred such numbers fit 64 bits."""

Count = Annotated[int, Meta(ge=0, le=MOST)]
Positive = Annotated[int, Meta(ge=1, le=MOST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
Line = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$(?!\n)")]
"""Text without control characters, which would act on the terminal that shows it."""

StateName = Annotated[str, Meta(pattern=r"^[0-9a-f]{24}$(?!\n)")]
DomainName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+:-]{0,299}$(?!\n)")]
"""A `Name`, or one of a sub-domain, such as `web:sports:q4`."""

SPLITS = ("train", "validation")

NPY_MAGIC = b"\x93NUMPY\x01\x00"
PROVENANCE_HEAD_BYTES = 4096

PROVENANCE = np.dtype([*[(name, PIECE[name]) for name in PIECE.names or ()], ("content", "<u8")])
"""A piece and the first half of its document's content hash."""

OWN_DIRECTORIES = ("train", "validation", "provenance", TRAINER)
CARD = "README.md"
RECIPE = "recipe.yaml"
CROISSANT = "croissant.json"
PICTURES = ("card-shares.svg", "card-entropies.svg")
"""Pictures of the card; a dataset of one domain has none."""
CARDS = (CARD, CROISSANT, *PICTURES)
"""Files that describe the shards as they were read back, so that they are written last."""
OWN_FILES = (*CARDS, "tokenizer.json", RECIPE)
"""Files beside the shards; in a directory without a dataset of curate they are the user's."""

QUARANTINE = "quarantine.jsonl"
REMOVED = "removed.parquet"
"""Every document that curation removed, and why."""

LISTS = (QUARANTINE, REMOVED, CLUSTERS, SPANS)
"""Lists of records and documents, written with `stats.json` where there are any."""

BESIDE_SHARDS = (
    RECIPE, "tokenizer.json", "stats.json", "mixture.json", "law.json", "plan.json", *LISTS, MARK,
)  # fmt: skip
"""Files that a build writes before its manifest, some only where there is something to say."""


class FileRecord(msgspec.Struct, frozen=True):
    """A file of the dataset."""

    path: Line
    """Relative to the dataset's directory."""
    bytes: Count
    xxh3: Digest
    """xxh3-128, 32 hexadecimal digits."""


class ShardRecord(msgspec.Struct, frozen=True):
    """A shard and its provenance."""

    split: Line
    stem: Line
    """Stem that the format's reader takes, relative to the dataset's directory."""
    sequences: Count
    tokens: Count
    files: list[FileRecord]
    provenance: FileRecord


class TokenizerRecord(msgspec.Struct, frozen=True):
    """The tokenizer that made the tokens."""

    name: str
    fingerprint: Line
    eos: str | None
    eos_id: Count | None
    vocabulary: Annotated[int, Meta(ge=1, le=2**32)]
    backend: str


class InputRecord(msgspec.Struct, frozen=True):
    """An input file."""

    domain: str
    path: str
    content: str
    """Key of its content and of how it was read; see `FilePlan.keys`."""
    segments: Count
    """Number of segments that it was read in."""


class SelectionRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The documents of a domain's files that curation kept; see `curate.curation`."""

    source: Count
    """Number of the recipe's domain."""
    removals: StateName | UnsetType = UNSET
    """Name of the state, in the cache, that says which are removed."""
    buckets: StateName | UnsetType = UNSET
    """Name of the state that says in which sub-domain each is, where the domain is split."""
    bucket: Annotated[int, Meta(ge=0, le=2**16 - 1)] = 0
    """Number of the sub-domain."""


class HubRecord(msgspec.Struct, frozen=True):
    """The dataset of the Hugging Face Hub that a domain was read from."""

    domain: str
    id: str
    config: str | None
    split: str
    commit: str


class ScheduleRecord(msgspec.Struct, frozen=True):
    """A mixture that changes over the training tokens."""

    shape: Literal["linear", "cosine", "step"]
    steps: Annotated[int, Meta(ge=2, le=1000)] | None
    shares: dict[str, tuple[Share, Share]]
    """Shares at the start and at the end, by domain."""

    def curves(self, domains: Sequence[str]) -> list[Curve]:
        """Return the share of each domain over the training tokens."""
        shape = CurveShape(self.shape, self.steps)
        return [Curve(shape, *self.shares.get(name, (0.0, 0.0))) for name in domains]


class Manifest(msgspec.Struct, frozen=True):
    """`manifest.json`: what a dataset consists of."""

    schema: int
    curate_version: Line
    name: Line
    recipe_hash: Line
    build_hash: Line
    """Recipe, tokenizer, documents and curate version: the same hash gives the same shards."""
    format: Line
    dtype: Annotated[str, Meta(pattern=r"^[<|][ui][1248]$(?!\n)")] | None
    """Type of a token on disk; None for text."""
    sequence_length: Positive | None
    seed: int
    budget_tokens: Positive
    tokenizer: TokenizerRecord
    domains: Annotated[list[DomainName], Meta(min_length=1, max_length=PAD)]
    shards: list[ShardRecord]
    inputs: list[InputRecord]
    cache: Line
    """Absolute path of the token store at build time."""
    options: dict[str, str | int | bool | None] = {}
    """Options of the format, as the recipe gave them."""
    folder_files: list[FileRecord] = []
    """Files that the format's readers expect beside the shards."""
    window: Literal["L", "L+1"] = "L"
    """`L+1` where `sequence_length` is one more than the trainer's."""
    packing: Literal["concat", "best-fit", "whole"] = "concat"
    """How documents form sequences; see `curate.plan.packing`."""
    plan: FileRecord | UnsetType = UNSET
    """`plan.json`, in manifests of schema 1; later ones have it in `files`."""
    shape: Literal["mixed", "per-domain"] = "mixed"
    """`mixed`, or `per-domain`: a folder a domain, the mixture left to the trainer."""
    hub: list[HubRecord] | UnsetType = UNSET
    """The datasets of the Hub, if there are any."""
    files: list[FileRecord] = []
    """Every other file that curate wrote, but for the certificate and the manifest itself."""
    selections: dict[str, SelectionRecord] | UnsetType = UNSET
    """The part of each domain that is kept, by name; domains that keep all files are left out."""
    schedule: ScheduleRecord | UnsetType = UNSET
    """The mixture's change over the training tokens, where it has one."""

    @property
    def beside_shards(self) -> list[FileRecord]:
        """List the files that are neither shards nor their provenance."""
        plan = [] if self.plan is UNSET else [self.plan]
        return [*self.folder_files, *plan, *self.files]

    @property
    def listed(self) -> list[FileRecord]:
        """List every file."""
        of_shards = [file for shard in self.shards for file in [*shard.files, shard.provenance]]
        return [*of_shards, *self.beside_shards]

    @property
    def settings(self) -> Settings:
        """Return the settings that the format was configured with."""
        return Settings(
            eos_id=self.tokenizer.eos_id,
            vocabulary=self.tokenizer.vocabulary,
            tokenizer=self.tokenizer.name,
            sequence_length=self.sequence_length and self.sequence_length - (self.window == "L+1"),
            row_tokens=None if self.packing == "whole" else self.sequence_length,
            options=self.options,
        )

    def configured(self) -> TokenFormat | TextFormat:
        """Return the format that wrote the shards, configured with its options."""
        return configure(self.format, self.settings)


class PlannedDomain(msgspec.Struct, frozen=True):
    """A domain in `plan.json`, as far as it is compared with what was written."""

    weight: Annotated[float, Meta(ge=0)]
    tokens: Count
    supply_tokens: Count
    written_tokens: Count | None = None
    amounts: dict[str, dict[str, Count]] = {}
    """Documents, bytes and tokens that were read, by what became of them; like the next three, only
    repeated in the certificate.
    """
    lost: dict[str, float | int | list[str]] = {}
    """Records and bytes that gave no document."""
    copies_in_domain: dict[str, Count] = {}
    copies_in_other_domains: dict[str, Count] = {}


class PlanRecord(msgspec.Struct, frozen=True):
    """`plan.json`, as far as it is compared with what was written."""

    domains: dict[str, PlannedDomain]


@dataclass(frozen=True, slots=True)
class ShardOnDisk:
    """A shard to be checked, with its dataset and its provenance."""

    directory: Path
    """Directory of the dataset."""
    manifest: Manifest
    record: ShardRecord
    pieces: NDArray[Any]
    """shape (pieces,), dtype `PROVENANCE`."""


@dataclass(frozen=True, slots=True)
class DatasetLayout:
    """Paths of a dataset."""

    directory: Path
    bucket: Bucket | None = None
    """The bucket that it is in, with `directory` for staging; None where it is on disk."""

    def stage(self, name: str) -> DatasetLayout:
        """Return the paths of a stage."""
        bucket = None if self.bucket is None else self.bucket.child(name)
        return DatasetLayout(self.directory / name, bucket)

    @property
    def where(self) -> str:
        """Name the dataset in messages, by its directory or its URL."""
        return str(self.directory) if self.bucket is None else self.bucket.url

    def at_hand(self, paths: Iterable[Path]) -> AbstractContextManager[None]:
        """Have the content of files on disk during a block."""
        return nullcontext() if self.bucket is None else self.bucket.at_hand(paths)

    def workers_for(self, work_bytes: int, workers: int) -> int:
        """Return how many of `workers` pay for themselves; a bucket lets any number of them wait.

        Args:
            work_bytes: Bytes of the files that are read or written.
            workers: Most processes.
        """
        return workers if self.bucket is not None else workers_for(work_bytes, workers)

    def settle(self, paths: Iterable[Path]) -> None:
        """Send files that were just written and recorded, if the dataset is in a bucket."""
        if self.bucket is not None:
            self.bucket.send(paths)

    @property
    def manifest(self) -> Path:
        """Written last, removed first."""
        return self.directory / "manifest.json"

    def stem(self, split: str, name: str) -> Path:
        """Return a shard's path without the format's suffix."""
        return self.directory / split / name

    def provenance(self, split: str, name: str) -> Path:
        """Return the path of a shard's provenance."""
        return self.directory / "provenance" / f"{split}-{name.replace('/', '--')}.npy"

    def relative(self, path: Path) -> str:
        """Return a path as the manifest writes it."""
        return path.relative_to(self.directory).as_posix()


def layout_of(loaded: LoadedRecipe) -> DatasetLayout:
    """Return the paths of a recipe's dataset, which may be in a bucket."""
    url, directory = loaded.output_url, loaded.output_dir
    return DatasetLayout(directory) if url is None else layout_in_bucket(url, directory)


def layout_in_bucket(url: str, staging: Path) -> DatasetLayout:
    """Return the paths of a dataset in a bucket.

    Args:
        url: URL of the dataset.
        staging: Directory for what is written or read.
    """
    beside = frozenset({*ARTIFACTS, *BESIDE_SHARDS, *CARDS})
    return DatasetLayout(staging, Bucket(url, staging, OWN_DIRECTORIES, beside))


def load_manifest(directory: Path) -> Manifest:
    """Read a dataset's manifest, and check all that can be checked without its files.

    Raises:
        ShardError: There is no manifest, it is damaged or not curate's, or its paths lead out of
            the directory.
        EngineError: This process lacks memory or descriptors.
    """
    path = DatasetLayout(directory).manifest
    try:
        content = read_regular(path)
        manifest = msgspec.json.decode(content, type=Manifest)
    except (FileNotFoundError, NotADirectoryError) as error:
        problem = "no manifest.json, so no finished dataset; run curate build"
        if directory.is_file():
            problem = "a file, but a dataset is a directory; name the one that curate build wrote"
        raise ShardError(f"{directory}: {problem}") from error
    except OSError as error:
        raise ShardError(f"{path}: {_reason(error)}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        stages = _stage_names(content)
        if stages:
            raise ShardError(
                f"{directory}: holds a dataset in stages ({list_first(stages)}), and this is about "
                f"one of them: name it, as in {directory / stages[0]}"
            ) from error
        raise ShardError(
            f"{path}: not a manifest of curate ({one_line(str(error))}); run curate build to write "
            "it again"
        ) from error
    if manifest.schema not in (OLD_SCHEMA, SCHEMA):
        raise ShardError(
            f"{path}: schema {manifest.schema}, this curate reads {SCHEMA}; build it again"
        )
    if not is_whole(content) and (manifest.schema == SCHEMA or has_hash(content)):
        raise ShardError(
            f"{path}: damaged, for it differs from its own hash; run curate build to write it again"
        )
    contradiction = _contradiction(manifest)
    if contradiction is not None:
        raise ShardError(f"{path}: {contradiction}")
    return manifest


class _Stage(msgspec.Struct):
    name: Line


class _Stages(msgspec.Struct):
    stages: list[_Stage]


def _stage_names(content: bytes) -> list[str]:
    """List the stages of a manifest of a dataset in stages, see `staged`; else nothing."""
    try:
        return [stage.name for stage in msgspec.json.decode(content, type=_Stages).stages]
    except (msgspec.DecodeError, ValueError, RecursionError):
        return []


def find_manifest(directory: Path) -> Manifest | None:
    """Read the manifest of a finished dataset; None if there is none, or none that can be used."""
    try:
        return load_manifest(directory)
    except ShardError:
        return None


def read_plan(path: Path) -> PlanRecord:
    """Read `plan.json`.

    Raises:
        ShardError: It cannot be read, or is not a plan.
    """
    try:
        return msgspec.json.decode(read_regular(path), type=PlanRecord)
    except OSError as error:
        raise ShardError(f"{path.name}: cannot be read ({_reason(error)})") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ShardError(f"{path.name}: not a plan of curate ({one_line(str(error))})") from error


def _contradiction(manifest: Manifest) -> str | None:
    """Describe what no manifest that curate writes says; None if there is nothing."""
    for path in [*(file.path for file in manifest.listed), *(s.stem for s in manifest.shards)]:
        if not is_inside(path):
            return f"lists {path!r}, which is not a path inside its directory; nothing is read"
    paths = [file.path for file in manifest.listed]
    if len(set(paths)) != len(paths):
        return "lists a file twice"
    for shard in manifest.shards:
        stem = shard.stem
        beside = [file.path for file in shard.files if not file.path.startswith(stem)]
        if beside or shard.split not in SPLITS or not stem.startswith(f"{shard.split}/"):
            return f"the files of the shard {stem!r} are elsewhere"
    if sum(shard.tokens for shard in manifest.shards) > MOST:
        return f"its shards hold more than {MOST} tokens"
    if len(set(manifest.domains)) != len(manifest.domains):
        return "names a domain twice"
    if manifest.sequence_length is None and (manifest.packing, manifest.window) != ("concat", "L"):
        return f"packing {manifest.packing} with window {manifest.window} needs a sequence_length"
    return None


def file_damage(
    directory: Path,
    file: FileRecord,
    hashed: bool = True,
    on_read: Callable[[int], None] = lambda _: None,
) -> str | None:
    """Describe in one line how a file differs from its record; None if it does not.

    A link differs, too: curate writes none, and it may lead out of the directory.

    Args:
        directory: Directory of the dataset.
        file: The record.
        hashed: Whether to compare the content, too.
        on_read: Called with the number of bytes of each piece once it is hashed.

    Raises:
        EngineError: This process lacks memory or descriptors.
    """
    path = directory / file.path
    try:
        status = path.lstat()
        kind = describe_kind(status.st_mode)
        if kind is not None:
            return f"{file.path}: {kind}"
        if path.resolve() != directory.resolve() / file.path:
            return f"{file.path}: is reached through a link, which curate does not write"
        if status.st_size != file.bytes:
            return f"{file.path}: {status.st_size} bytes, the manifest says {file.bytes}"
        with process_faults_named(path):
            differs = hashed and hash_file(path, on_read) != file.xxh3
        if differs:
            return f"{file.path}: content differs from the manifest's hash"
    except (FileNotFoundError, NotADirectoryError):
        return f"{file.path}: missing"
    except OSError as error:
        return f"{file.path}: cannot be read ({_reason(error)})"
    return None


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def record_file(
    path: Path, directory: Path, on_read: Callable[[int], None] = lambda _: None
) -> FileRecord:
    """Return the record of a file just written: path, size and hash.

    Args:
        path: The file.
        directory: Directory of the dataset.
        on_read: Called with the number of bytes of each piece once it is hashed.
    """
    hashed = hash_file(path, on_read)
    return FileRecord(path.relative_to(directory).as_posix(), path.stat().st_size, hashed)


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write the manifest with a hash of itself, the last act of a build."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_hashed(DatasetLayout(directory).manifest, text)


def records_beside(directory: Path) -> list[FileRecord]:
    """Record the files beside the shards, but for the cards, which are written last."""
    names = [name for name in BESIDE_SHARDS if _is_file(directory, name)]
    return [record_file(directory / name, directory) for name in names]


def list_cards(directory: Path) -> list[FileRecord]:
    """Record the cards, which describe the shards as they were read back, in the manifest.

    Returns:
        The records of all files beside the shards.
    """
    manifest = load_manifest(directory)
    files = [file for file in manifest.files if file.path not in CARDS]
    files += [
        record_file(directory / name, directory) for name in CARDS if (directory / name).exists()
    ]
    listed = msgspec.structs.replace(manifest, files=files)
    if listed != manifest:
        write_manifest(listed, directory)
    return listed.beside_shards


def _is_file(directory: Path, name: str) -> bool:
    path = directory / name
    return path.is_file() and not path.is_symlink()


def read_provenance(path: Path, shard: ShardRecord, manifest: Manifest) -> NDArray[Any]:
    """Read a shard's provenance, memory-mapped.

    Args:
        path: The file.
        shard: The shard, to whose tokens the pieces must add up.
        manifest: Manifest of its dataset, which has the domains.

    Raises:
        ShardError: The file is absent or damaged, or contradicts shard or manifest.
        EngineError: This process lacks memory or descriptors.
    """
    try:
        with process_faults_named(path):
            pieces = _map_provenance(path)
    except OSError as error:
        raise ShardError(f"{path}: provenance cannot be read ({_reason(error)})") from error
    if not _are_of_shard(pieces, shard, manifest):
        raise ShardError(
            f"{path}: its pieces are not those of a shard of {shard.tokens} tokens of "
            f"{len(manifest.domains)} domains; build it again"
        )
    return pieces


def _are_of_shard(pieces: NDArray[Any], shard: ShardRecord, manifest: Manifest) -> bool:
    """Return whether pieces are of the dataset's domains, and add up to the shard's tokens."""
    total_tokens = 0
    for rows in blocks(len(pieces)):
        part = pieces[rows]
        in_range = part["domain"] < len(manifest.domains)
        if manifest.packing == "best-fit":  # no other has rows to fill
            in_range |= part["domain"] == PAD
        for name in ("document", "start", "tokens"):
            in_range &= part[name] >= 0
        in_range &= part["tokens"] <= shard.tokens
        # A sum of integers could wrap round to the right number, so one of floats comes first.
        if not in_range.all() or part["tokens"].sum(dtype=np.float64) > MOST:
            return False
        total_tokens += int(part["tokens"].sum())
    return total_tokens == shard.tokens


def _map_provenance(path: Path) -> NDArray[Any]:
    """Map the pieces of a provenance file whose header is that of this version."""
    with path.open("rb") as file:
        head = file.read(PROVENANCE_HEAD_BYTES)
    size_bytes = path.stat().st_size
    head_bytes = len(NPY_MAGIC) + 2 + int.from_bytes(head[len(NPY_MAGIC) :][:2], "little")
    rows, rest = divmod(size_bytes - head_bytes, PROVENANCE.itemsize)
    expected = f"{{'descr': {PROVENANCE.descr}, 'fortran_order': False, 'shape': ({rows},), }}"
    text = head[len(NPY_MAGIC) + 2 : head_bytes].decode("latin-1")
    if not head.startswith(NPY_MAGIC) or rest or text.rstrip() != expected:
        raise ShardError(f"{path}: not provenance of this version of curate")
    return map_file(path, PROVENANCE, head_bytes, rows)
