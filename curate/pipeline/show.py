"""The `show` command: open a dataset with its token store, and look something up in it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from curate.dataset.copies import at_hand, fetch_shard
from curate.dataset.look_up import LookUp, OpenDataset, look_up, look_up_step
from curate.dataset.manifest import RECIPE, Manifest, load_manifest
from curate.dataset.steps import StepQuery
from curate.errors import RecipeError
from curate.pipeline.read_back import domains_in, open_store
from curate.recipe import load, source_of
from curate.runtime.files import dataset_url
from curate.runtime.progress import Observer
from curate.tokens import tokenizer as tokenizers
from curate.tokens.backends import ReferenceEncoder
from curate.tokens.selftest import check_builds


def show(directory: Path, query: str | StepQuery) -> LookUp:
    """Look up a position, a content hash, an identifier, a text, or a step of a training run.

    Args:
        directory: Directory of the dataset, or its URL in a bucket.
        query: See `look_up` and `look_up_step`.

    Raises:
        CurateError: Nothing fits the query, or the dataset cannot be read.
    """
    url = dataset_url(directory)
    with at_hand(directory, url) as place:
        dataset = open_dataset(place, url)
        if isinstance(query, StepQuery):
            return look_up_step(dataset, query)
        return look_up(dataset, query)


def open_dataset(directory: Path, url: str | None = None) -> OpenDataset:
    """Open a dataset, and whatever is still there of the files that it was made from.

    Args:
        directory: Its directory, or that of a copy.
        url: URL of the dataset whose copy it is, if it is one.

    Raises:
        ShardError: The directory holds no finished dataset.
        TokenizerError: Its tokenizer is damaged.
    """
    manifest = load_manifest(directory)
    tokenizer = tokenizers.load(directory / "tokenizer.json", manifest.tokenizer.eos)
    notices: list[str] = []
    by_domain = _licenses(directory, notices)
    licenses = {name: by_domain.get(source_of(name)) for name in manifest.domains}
    domains = domains_in(open_store(manifest), manifest, Observer())
    if domains is None:
        notices.append(_without_store(directory, manifest))
        check_builds(tokenizer)  # which may be a stranger's
    encoder = ReferenceEncoder(tokenizer)
    return OpenDataset(
        directory,
        manifest,
        domains,
        licenses,
        encoder=encoder,
        fetch=(lambda _: None) if url is None else partial(fetch_shard, url, directory),
        notices=notices,
    )


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
