"""Write the dataset card, a `README.md` with metadata that the Hugging Face hub accepts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from curate import __version__
from curate.dataset.manifest import CARD, PICTURES, load_manifest
from curate.formats.base import TextFormat, TokenFormat
from curate.plan.per_domain import PER_DOMAIN, shard_stem
from curate.recipe import LoadedRecipe, source_of
from curate.runtime.escape import markdown
from curate.runtime.files import atomic_path
from curate.runtime.registry import counted
from curate.stats.domain_stats import DomainStats

SIZE_CATEGORIES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
    (10_000_000_000, "1B<n<10B"),
    (100_000_000_000, "10B<n<100B"),
    (1_000_000_000_000, "100B<n<1T"),
)
"""Numbers of rows, each with the hub's category for fewer rows."""

SHARES = "Shares of the training tokens by domain: natural, asked and realised"
"""Meaning of the first picture."""

LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,49}")
"""Form of the hub's names of licences."""


def write_card(
    loaded: LoadedRecipe, stats: Sequence[DomainStats], certificate: dict[str, Any]
) -> Path:
    """Write the card beside the shards.

    Args:
        loaded: The recipe.
        stats: Counts of each domain, in the order of the recipe.
        certificate: The fields of `certificate.json`.

    Returns:
        Path of the card.
    """
    path = loaded.output_dir / CARD
    form = load_manifest(loaded.output_dir).configured()
    metadata = metadata_of(loaded, certificate["train_sequences"])
    if form.hub_suffix is not None:
        metadata["configs"] = [loading_config(loaded, form.hub_suffix, certificate["domains"])]
    with atomic_path(path) as temporary:
        temporary.write_text(
            front_matter(metadata) + _body(loaded, form, stats, certificate), "utf-8"
        )
    return path


def front_matter(metadata: dict[str, Any]) -> str:
    """Write metadata as the beginning of a card."""
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n\n"


def metadata_of(loaded: LoadedRecipe, rows: int, *tags: str) -> dict[str, Any]:
    """Return the metadata that the Hub accepts, but for what it loads.

    Args:
        loaded: The recipe.
        rows: Rows of the training set.
        tags: Further tags.
    """
    recipe = loaded.recipe
    licences = sorted({domain.license for domain in recipe.domains if domain.license})
    metadata: dict[str, Any] = {
        "pretty_name": recipe.name,
        "task_categories": ["text-generation"],
        "task_ids": ["language-modeling"],
        "tags": ["pretraining", "curate", f"format:{recipe.output.format}", *tags],
        "size_categories": [_size_category(rows)],
    }
    is_one = len(licences) == 1 and all(domain.license for domain in recipe.domains)
    if is_one and LICENCE.fullmatch(licences[0]):
        metadata["license"] = licences[0].lower()
    else:
        metadata["license"] = "other"
        metadata["license_name"] = "by-source"
    return metadata


def loading_config(
    loaded: LoadedRecipe, suffix: str, domains: dict[str, Any], stage: str | None = None
) -> dict[str, Any]:
    """Return what the Hub loads: the files of each split.

    Args:
        loaded: The recipe.
        suffix: End of the names of the files.
        domains: `domains` of the certificate.
        stage: The stage whose files are loaded, by its name; None: all, by default.
    """
    folder = "" if stage is None else f"{stage}/"
    return {
        "config_name": stage or "default",
        "data_files": [
            {"split": split, "path": f"{folder}{split}/{_folders(loaded, split)}*{suffix}"}
            for split in ("train", "validation")
            if split == "train" or _held_out(domains)
        ],
    }


def _folders(loaded: LoadedRecipe, split: str) -> str:
    """Return the pattern of the folders that hold the shards of a split."""
    return "*/" if split == "train" and loaded.recipe.output.shape == PER_DOMAIN else ""


def _first_shard(loaded: LoadedRecipe, stats: Sequence[DomainStats]) -> str:
    """Return the stem of the shard that the loading snippet shows."""
    if loaded.recipe.output.shape == PER_DOMAIN:
        return f"train/{shard_stem(stats[0].name, 0)}"
    return "train/shard-00000"


def _size_category(rows: int) -> str:
    for limit, name in SIZE_CATEGORIES:
        if rows < limit:
            return name
    return "n>1T"


def _body(
    loaded: LoadedRecipe,
    form: TokenFormat | TextFormat,
    stats: Sequence[DomainStats],
    certificate: dict[str, Any],
) -> str:
    recipe = loaded.recipe
    licence = licences_of(loaded)
    rows = []
    for domain in stats:
        row = certificate["domains"].get(domain.name)
        if row is None:  # nothing could be compared; the verdict says why
            continue
        of_source = licence[source_of(domain.name)]
        rows.append(
            f"| {markdown(domain.name)} | {row['asked_share']:.4%} | {row['realised_share']:.4%} "
            f"| {row['realised_tokens']:,} | {row['epochs']:.3f} | {domain.documents:,} "
            f"| {domain.bytes:,} | {domain.bad_records:,} | {of_source} |"
        )
    table = "\n".join(rows)
    return f"""# {markdown(recipe.name)}

{certificate["realised_tokens"]:,} training tokens from {counted(len(stats), "domain")}, mixed by
`{recipe.mixture.method}` and written as `{recipe.output.format}` by curate {__version__}.
Read back after writing: {verdict_of(certificate)}.

## Composition

Shares are of tokens. Documents and bytes are those that curation left, used or not; bad records are
those of the source.

| domain | asked | realised | tokens | epochs | documents | bytes | bad records | licence |
|---|---:|---:|---:|---:|---:|---:|---:|---|
{table}
{pictures(loaded.output_dir, SHARES)}{_mixture_sentence(certificate)}
{_validation_sentence(recipe.validation.documents, certificate)}

## Loading

For {form.trainers}.{_loss_sentence(certificate)}

```
{_snippet(_first_shard(loaded, stats), form, certificate)}
```

## Provenance

`manifest.json` lists every file with its hash and every input; `provenance/` says for each run of
tokens which document it came from; `certificate.json` compares what was asked, planned and written.
`croissant.json` describes files, licences and columns in the Croissant format.
Recipe hash `{loaded.hash}`, seed {recipe.seed}. Tokenizer: `tokenizer.json`.

`curate report DIR` makes one page of this directory, with figures of its mixture, domains and laws;
`--plots DIR` writes them as PNG and SVG.
"""


def verdict_of(certificate: dict[str, Any]) -> str:
    """Say in words what came of reading the dataset back."""
    if certificate["ok"]:
        return "passed"
    return "FAILED: " + markdown("; ".join(certificate["problems"]))


def licences_of(loaded: LoadedRecipe) -> dict[str, str]:
    """Return the licence of each of the recipe's domains, for a table."""
    domains = loaded.recipe.domains
    return {domain.name: markdown(domain.license or "not stated") for domain in domains}


def pictures(directory: Path, shares: str) -> str:
    """Show the pictures that lie beside the card.

    Args:
        directory: Directory of the dataset.
        shares: Meaning of the picture of its shares.
    """
    meanings = (shares, "Conditional entropy by domain, bits a token")
    shown = [
        f"![{meaning}]({name})\n"
        for name, meaning in zip(PICTURES, meanings, strict=True)
        if (directory / name).is_file()
    ]
    return "\n".join(["", *shown]) if shown else ""


def _snippet(shard: str, form: TokenFormat | TextFormat, certificate: dict[str, Any]) -> str:
    """Show how to load the dataset; without validation documents there is no file of them."""
    snippet = form.snippet.format(path=shard).strip()
    if not _held_out(certificate["domains"]):
        for mention in (" and trainer/val.bin", " -j trainer/val.bin"):
            snippet = snippet.replace(mention, "")
    return snippet


def _held_out(domains: dict[str, Any]) -> list[str]:
    """List the domains that have validation documents."""
    return [name for name, row in domains.items() if row["validation_tokens"]]


def _validation_sentence(share: float, certificate: dict[str, Any]) -> str:
    """Describe the validation set, as far as there is one."""
    names = _held_out(certificate["domains"])
    if not names:
        return "There is no validation set: no document is held out."
    lacking = len(certificate["domains"]) - len(names)
    none = "1 domain has" if lacking == 1 else f"{lacking} domains have"
    apart = f" ({none} none)" if lacking else ""
    return (
        f"Validation documents ({share:.3%} of each domain, chosen by content hash) are\n"
        f"under `validation/`, one file a domain{apart}; "
        f"{certificate['train_validation_overlap_documents']} of them\n"
        "are also in the training set."
    )


def _mixture_sentence(certificate: dict[str, Any]) -> str:
    """Describe the trainer's mixture, if domains are written apart."""
    if not certificate["trainer_mixture"]:
        return ""
    mixture = certificate["trainer_mixture"][0]
    drawn = "" if mixture["exact"] else ", on average, for it draws by lot"
    return (
        "\nDomains are written apart, their tokens once; `trainer/` holds the trainer's own "
        f"mixture.\nRealised shares and epochs are those that {mixture['trainer']} makes of it in "
        f"{mixture['samples']:,} {mixture['unit']}{drawn}.\n"
    )


def _loss_sentence(certificate: dict[str, Any]) -> str:
    """Describe how many tokens the format's reader leaves out, if any."""
    loss = certificate["reader_loss"]
    if loss is None:
        return ""
    return (
        f" Its reader, with windows of {loss['window_tokens']:,} tokens, leaves out "
        f"{loss['tokens']:,} training tokens at the ends of shards or sequences."
    )
