"""The `show` command: open a dataset with its token store, and look something up in it."""

from __future__ import annotations

from pathlib import Path

from curate.dataset.look_up import LookUp, OpenDataset, look_up, look_up_step
from curate.dataset.manifest import RECIPE, Manifest, load_manifest
from curate.dataset.steps import StepQuery
from curate.errors import RecipeError
from curate.pipeline.read_back import domains_in, open_store
from curate.recipe import load, source_of
from curate.tokens import tokenizer as tokenizers
from curate.tokens.backends import ReferenceEncoder
from curate.tokens.selftest import check_builds


def show_document(directory: Path, query: str) -> LookUp:
    """Look up a position, a content hash, an identifier, or a text; see `look_up`."""
    return look_up(_open(directory), query)


def show_step(directory: Path, query: StepQuery) -> LookUp:
    """Look up a step of a training run; see `look_up_step`."""
    return look_up_step(_open(directory), query)


def _open(directory: Path) -> OpenDataset:
    """Open a dataset, and whatever is still there of the files that it was made from.

    Raises:
        ShardError: The directory holds no finished dataset.
        TokenizerError: Its tokenizer is damaged.
    """
    manifest = load_manifest(directory)
    tokenizer = tokenizers.load(directory / "tokenizer.json", manifest.tokenizer.eos)
    notices: list[str] = []
    by_domain = _licenses(directory, notices)
    licenses = {name: by_domain.get(source_of(name)) for name in manifest.domains}
    domains = domains_in(open_store(manifest), manifest)
    if domains is None:
        notices.append(_without_store(directory, manifest))
        check_builds(tokenizer)  # which may be a stranger's
    encoder = ReferenceEncoder(tokenizer)
    return OpenDataset(directory, manifest, domains, licenses, encoder=encoder, notices=notices)


def _without_store(directory: Path, manifest: Manifest) -> str:
    return (
        f"the token store {manifest.cache} lacks its documents, so files, lines and identifiers "
        f"are unknown; type curate tokenize {directory / RECIPE} --set cache={manifest.cache}"
    )


def _licenses(directory: Path, notices: list[str]) -> dict[str, str | None]:
    """Return the licence of each domain, as the dataset's recipe states it."""
    try:
        recipe = load(directory / RECIPE).recipe
    except RecipeError as error:
        notices.append(f"licences are unknown: {error}")
        return {}
    return {domain.name: domain.license for domain in recipe.domains}
