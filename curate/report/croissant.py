"""Write `croissant.json`, which describes a dataset to catalogues and loaders.

References:
    MLCommons 2024, "Croissant Format Specification", version 1.0.

Left out: a date and an address, which a dataset has once it is published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from curate import __version__
from curate.dataset.bucket import is_stand_in
from curate.dataset.manifest import (
    CARDS,
    CROISSANT,
    DatasetLayout,
    FileRecord,
    Manifest,
    file_damage,
    layout_of,
    load_manifest,
)
from curate.formats.base import TextFormat
from curate.plan.per_domain import PER_DOMAIN
from curate.recipe import LoadedRecipe, source_of
from curate.report.page.fields import dig
from curate.runtime.files import read_json, write_json
from curate.runtime.registry import counted
from curate.runtime.workers import map_tasks
from curate.stats.domain_stats import DomainStats

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification asks for."""

ENCODINGS = (
    (".jsonl.gz", ["application/jsonlines", "application/gzip"]),
    (".jsonl.zst", ["application/jsonlines", "application/zstd"]),
    (".jsonl", ["application/jsonlines"]),
    (".json", ["application/json"]),
    (".parquet", ["application/x-parquet"]),
    (".arrow", ["application/vnd.apache.arrow.stream"]),
    (".tar", ["application/x-tar"]),
    (".yaml", ["application/yaml"]),
    (".yml", ["application/yaml"]),
    (".txt", ["text/plain"]),
)
"""Suffixes and their MIME types; other files are plain bytes."""

RECORDS = ("application/jsonlines", "application/x-parquet")
"""Encodings whose rows a loader can read."""

COLUMNS = {
    "text": "The document.",
    "id": "Its identifier in the source.",
    "source": "Its domain.",
    "metadata": "Other fields of the source, a JSON object as text.",
}
"""Columns of formats of text."""

READ_BYTES = 1 << 22


def write_croissant(
    loaded: LoadedRecipe,
    stats: Sequence[DomainStats],
    certificate: Mapping[str, Any],
    workers: int,
    on_tick: Callable[[], None],
) -> Path:
    """Write the description beside the card.

    Args:
        loaded: The recipe.
        stats: Counts of each domain, in the order of the recipe.
        certificate: The fields of `certificate.json`.
        workers: Number of processes, which hash the files.
        on_tick: Called now and then.
    """
    directory = loaded.output_dir
    manifest = load_manifest(directory)
    files = [file for file in manifest.listed if file.path not in CARDS]
    digests = _digests_at_hand(directory, manifest)
    new = [file for file in files if file.path not in digests]
    layout = layout_of(loaded)
    enough = layout.workers_for(sum(file.bytes for file in new), workers)
    values = map_tasks(partial(_sha256, layout), new, enough, on_tick)
    digests |= {file.path: value for file, value in zip(new, values, strict=True)}
    path = directory / CROISSANT
    write_json(
        path,
        {
            "@context": CONTEXT,
            "@type": "sc:Dataset",
            "conformsTo": CONFORMS_TO,
            "name": loaded.recipe.name,
            "description": _description(loaded, certificate),
            "version": f"1.0.0+{manifest.build_hash}",
            "license": sorted({d.license for d in loaded.recipe.domains if d.license})
            or ["not stated"],
            "keywords": ["pretraining", "text", f"format:{loaded.recipe.output.format}"],
            "isLiveDataset": False,
            "distribution": [
                *(_file_object(file, digests[file.path]) for file in files),
                *_file_sets(loaded, manifest),
            ],
            "recordSet": [_domains(loaded, stats, certificate), *_splits(manifest)],
        },
    )
    return path


def _digests_at_hand(directory: Path, manifest: Manifest) -> dict[str, str]:
    """Read the hashes of a description that this manifest lists, whose shards are the same."""
    record = next((file for file in manifest.files if file.path == CROISSANT), None)
    if record is None or file_damage(directory, record) is not None:
        return {}
    objects = dig(read_json(directory / CROISSANT), "distribution")
    pairs = [(dig(one, "@id"), dig(one, "sha256")) for one in objects or ()]
    return {path: value for path, value in pairs if isinstance(value, str)}


def _sha256(layout: DatasetLayout, file: FileRecord) -> str:
    path, digest = layout.directory / file.path, hashlib.sha256()
    if layout.bucket is not None and is_stand_in(path):
        sent = layout.bucket.sha256(path)  # of the bytes whose other hash has just been verified
        if sent is not None:
            return sent
    with layout.at_hand([path]), path.open("rb", buffering=0) as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _description(loaded: LoadedRecipe, certificate: Mapping[str, Any]) -> str:
    recipe = loaded.recipe
    return (
        f"{certificate['realised_tokens']:,} training tokens from "
        f"{counted(len(recipe.domains), 'domain')}, mixed by {recipe.mixture.method} and "
        f"written as {recipe.output.format} by curate {__version__}. "
        "Licences are those of the domains, in the record set `domains`."
    )


def _file_object(file: FileRecord, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": file.path.rpartition("/")[2],
        "contentUrl": file.path,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": _encoding(file.path),
        "sha256": sha256,
    }


def _encoding(path: str) -> list[str]:
    kinds = (kinds for suffix, kinds in ENCODINGS if path.endswith(suffix))
    return next(kinds, ["application/octet-stream"])


def _splits_of_text(manifest: Manifest) -> dict[str, str]:
    """Return the suffix of the files of each split, where their rows are text that loaders read."""
    form = manifest.configured()
    suffix = form.hub_suffix if isinstance(form, TextFormat) else None
    if suffix is None or not set(_encoding(suffix)) & set(RECORDS):
        return {}
    return {shard.split: suffix for shard in manifest.shards}


def _file_sets(loaded: LoadedRecipe, manifest: Manifest) -> list[dict[str, Any]]:
    """Group the shards of each split."""
    apart = loaded.recipe.output.shape == PER_DOMAIN
    return [
        {
            "@type": "cr:FileSet",
            "@id": f"files-of-{split}",
            "name": f"files of {split}",
            "encodingFormat": _encoding(suffix),
            "includes": f"{split}/{'*/' if apart and split == 'train' else ''}*{suffix}",
        }
        for split, suffix in _splits_of_text(manifest).items()
    ]


def _splits(manifest: Manifest) -> list[dict[str, Any]]:
    """Describe the rows of each split."""
    return [
        {
            "@type": "cr:RecordSet",
            "@id": split,
            "name": split,
            "description": f"Documents for {'training' if split == 'train' else split}.",
            "field": [
                {
                    "@type": "cr:Field",
                    "@id": f"{split}/{column}",
                    "name": column,
                    "description": about,
                    "dataType": "sc:Text",
                    "source": {
                        "fileSet": {"@id": f"files-of-{split}"},
                        "extract": {"column": column},
                    },
                }
                for column, about in COLUMNS.items()
            ],
        }
        for split in _splits_of_text(manifest)
    ]


def _domains(
    loaded: LoadedRecipe, stats: Sequence[DomainStats], certificate: Mapping[str, Any]
) -> dict[str, Any]:
    """List the domains with their licences and shares."""
    fields = {
        "name": ("sc:Text", "Name in the recipe, and in the column `source` of formats of text."),
        "license": ("sc:Text", "As the recipe states it."),
        "documents": ("sc:Integer", "Documents of the whole source."),
        "train_tokens": ("sc:Integer", "Training tokens in the shards."),
        "train_share": ("sc:Float", "Share of the training tokens."),
    }
    licences = {domain.name: domain.license for domain in loaded.recipe.domains}
    rows = []
    for domain in stats:
        realised = certificate["domains"].get(domain.name)
        values = [
            domain.name,
            licences.get(source_of(domain.name)) or "not stated",
            domain.documents,
            0 if realised is None else realised["realised_tokens"],
            0.0 if realised is None else realised["realised_share"],
        ]
        rows.append({f"domains/{key}": value for key, value in zip(fields, values, strict=True)})
    return {
        "@type": "cr:RecordSet",
        "@id": "domains",
        "name": "domains",
        "description": "Domains of the mixture, with licences and shares.",
        "key": {"@id": "domains/name"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"domains/{key}",
                "name": key,
                "description": about,
                "dataType": kind,
            }
            for key, (kind, about) in fields.items()
        ],
        "data": rows,
    }
