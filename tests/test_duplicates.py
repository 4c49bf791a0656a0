"""Copies: exact, normalised and near; what is caught, what stays, and that nothing else matters."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tokenizers
from conftest import Listener, write_jsonl

from curate.curation.duplicates import (
    CopiesRequest,
    Kind,
    banding_of,
    find_copies,
    write_clusters,
    write_details,
)
from curate.curation.links import link_equal, new_clusters, settle
from curate.curation.signatures import Banding, band_hashes, best_banding
from curate.curation.texts import TextDecoder, byte_characters
from curate.curation.words import fold, hash_shingles, normalise, split_words
from curate.errors import RecipeError
from curate.pipeline.build import build
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.recipe import load, load_recipe
from curate.recipe.structs import DuplicatesRecipe, NearRecipe, ValidationRecipe
from curate.runtime.memory import bounded
from curate.tokens.tokenizer import from_json

pytestmark = pytest.mark.usefixtures("own_store")

VOCABULARY = np.array([f"word{number}" for number in range(20_000)])
NEAR = DuplicatesRecipe(exact="none", near=NearRecipe())


def random_words(rng: np.random.Generator, count: int) -> list[str]:
    return list(rng.choice(VOCABULARY, count))


def edited(rng: np.random.Generator, words: list[str], edits: int) -> list[str]:
    """Replace some words by others."""
    changed = list(words)
    for place in rng.choice(len(words), edits, replace=False):
        changed[place] = f"new{rng.integers(10**9)}"
    return changed


def jaccard(first: list[str], second: list[str], length: int = 5) -> float:
    """Compare sets of shingles, without any of curate's code."""
    a, b = (
        {tuple(words[n : n + length]) for n in range(len(words) - length + 1)}
        for words in (first, second)
    )
    return len(a & b) / len(a | b)


def tokenized(
    directory: Path, domains: dict[str, list[list[str]]], workers: int = 1
) -> TokenizedDomains:
    """Tokenise domains of files of texts, in a cache that the directory keeps."""
    listed = []
    for name, files in domains.items():
        folder = directory / f"data-{len(list(directory.glob('data-*')))}" / name
        for number, texts in enumerate(files):
            write_jsonl(folder / f"{number:03}.jsonl", [{"text": text} for text in texts])
        listed.append({"name": name, "paths": f"{folder}/*"})
    recipe = {
        "name": "copies",
        "tokenizer": {"path": str(directory / "tokenizer.json"), "eos": "<|endoftext|>"},
        "domains": listed,
        "budget_tokens": 100,
        "cache": str(directory / "cache"),
    }
    path = directory / "recipe.yaml"
    path.write_text(json.dumps(recipe), "utf-8")
    return tokenize_domains(load_recipe(path), workers, Listener())


@pytest.fixture
def place(tmp_path: Path, bpe: dict[str, Any]) -> Path:
    """A directory with a tokenizer."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe), "utf-8")
    return tmp_path


def copies_in(
    place: Path,
    corpus: TokenizedDomains,
    settings: DuplicatesRecipe,
    workers: int = 1,
    **other: Any,
) -> Any:
    staying = [np.ones(len(domain), bool) for domain in corpus.domains]
    return find_copies(
        CopiesRequest(
            domains=corpus.domains,
            staying=other.get("staying", staying),
            settings=settings,
            validation=ValidationRecipe(other.get("held_out", 0.0)),
            tokenizer=corpus.tokenizer,
            cache=place / "cache" / "curation",
            workers=workers,
            observer=Listener(),
        )
    )


def removed_texts(corpus: TokenizedDomains, copies: Any) -> dict[str, Counter[str]]:
    """The texts removed from each domain."""
    decoder = TextDecoder(corpus.tokenizer)
    removed = {}
    for domain, mask in zip(corpus.domains, copies.masks, strict=True):
        documents = [domain.document(number) for number in np.flatnonzero(mask)]
        texts = [decoder.decode(tokens, np.array([len(tokens)]))[0] for tokens in documents]
        removed[domain.name] = Counter(texts)
    return removed


def test_words_and_normalised_form():
    assert normalise("  Ａ１ ＝\t“Ünï”\n\nﬁn ") == "a1 = “ünï” fin"
    texts = ["snake_case, don't! 12.5%", "学而时习之 abc", "...", "ไทย", "Ünḯcode"]
    words = split_words([fold(text) for text in texts])
    assert np.diff(words.stops).tolist() == [6, 6, 0, 3, 1]
    assert [words.ends[0], words.ends[5]] == [5, 23]
    again = split_words([fold("12 5 SNAKE case")])
    assert again.hashes.tolist() == [words.hashes[n] for n in (4, 5, 0, 1)]
    shingles, stops = hash_shingles(words, 5)
    assert stops.tolist() == [0, 2, 4, 4, 5, 6]  # short texts have one shingle, of all their words
    assert len(set(shingles.tolist())) == 6


def test_decoding_equals_the_librarys(place: Path, bpe: dict[str, Any]):
    odd = {**bpe["added_tokens"][0], "id": 400, "content": "<odd token ü>", "special": False}
    definition = json.dumps({**bpe, "added_tokens": [*bpe["added_tokens"], odd]})
    tokenizer = from_json(definition.encode(), "<|endoftext|>", "test")
    library = tokenizers.Tokenizer.from_str(tokenizer.definition)
    rng = np.random.default_rng(3)
    documents = [rng.integers(2, 401, rng.integers(0, 30)) for _ in range(300)]
    tokens = np.concatenate([np.append(document, 0) for document in documents]).astype(np.uint16)
    stops = np.cumsum([len(document) + 1 for document in documents])
    expected = [library.decode(d.tolist(), skip_special_tokens=False) for d in documents]
    assert TextDecoder(tokenizer).decode(tokens, stops) == expected
    assert len(byte_characters()) == len({*byte_characters()}) == 256


def test_other_tokenizers_are_decoded_by_the_library_and_say_what_they_lose():
    value = {
        "model": {"type": "WordLevel", "vocab": {"the": 0, "quick": 1, "?": 2}, "unk_token": "?"},
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "decoder": None,
        "added_tokens": [],
        "post_processor": None,
        "version": "1.0",
    }
    decoder = TextDecoder(from_json(json.dumps(value).encode(), None, "test"))
    stops = np.array([2, 3])
    assert decoder.decode(np.array([0, 1, 1], np.uint16), stops) == ["the quick", "quick"]
    notice = decoder.lossy_notice()
    assert notice is not None and "'The  Quick" in notice and "'the quick" in notice


def test_near_copies_are_caught_as_the_curve_says():
    """Pairs at every similarity from 0.5 to 1: the caught share is the curve's within 2 points."""
    rng = np.random.default_rng(5)
    banding = banding_of(NearRecipe())
    texts, similarities = [], []
    for _ in range(5000):
        words = random_words(rng, 120)
        other = edited(rng, words, int(rng.integers(0, 9)))
        texts += [" ".join(words), " ".join(other)]
        similarities.append(jaccard(words, other))
    hashes = band_hashes(texts, banding)
    is_caught = (hashes[0::2] == hashes[1::2]).any(1)
    similarity = np.array(similarities)
    curve = np.array([banding.caught(value) for value in similarities])
    edges = [0.45, 0.6, 0.7, 0.8, 0.9, 1.01]
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        here = (similarity >= low) & (similarity < high)
        error = 3 * np.sqrt((curve[here] * (1 - curve[here])).sum()) / here.sum()
        assert abs(is_caught[here].mean() - curve[here].mean()) <= max(0.02, error), (low, high)
    assert abs(is_caught.mean() - curve.mean()) < 0.02
    relevant = similarity >= 0.8
    for observed, stated in (
        (is_caught[relevant].mean(), curve[relevant].mean()),  # recall
        (relevant[is_caught].mean(), curve[relevant].sum() / curve.sum()),  # precision
    ):
        assert abs(observed - stated) < 0.02


def test_clusters_equal_those_of_all_pairs(place: Path):
    """The linked documents are the components of all pairs that share a band, by brute force."""
    rng = np.random.default_rng(6)
    texts = []
    for _ in range(60):
        words = random_words(rng, 80)
        texts += [" ".join(words)]
        texts += [" ".join(edited(rng, words, int(rng.integers(1, 8)))) for _ in range(3)]
    corpus = tokenized(place, {"web": [texts]})
    copies = copies_in(place, corpus, NEAR)
    hashes = band_hashes(texts, banding_of(NearRecipe()))
    pairs = (hashes[:, None] == hashes[None]).any(2)
    reach = np.linalg.matrix_power(pairs.astype(float), 8) > 0
    domain = corpus.domains[0]
    by_text = {text: number for number, text in enumerate(texts)}
    decoder = TextDecoder(corpus.tokenizer)
    numbers = [
        by_text[decoder.decode(tokens, np.array([len(tokens)]))[0]]
        for tokens in map(domain.document, range(len(domain)))
    ]
    keepers = [min(np.flatnonzero(reach[number][numbers])) for number in numbers]
    assert copies.clusters[0].keepers.tolist() == keepers
    assert 60 < copies.masks[0].sum() < 180


def varied_corpus(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(80):
        words = random_words(rng, int(rng.integers(1, 90)))
        texts.append(" ".join(words))
        texts += [texts[-1]] * int(rng.integers(0, 2))
        texts += [texts[-1].upper() + "\n"] * int(rng.integers(0, 2))
        texts.append(" ".join(edited(rng, words, len(words) // 30)))
    return texts


def test_workers_files_and_their_order_do_not_matter(place: Path, tmp_path: Path, bpe: Any):
    texts = {name: varied_corpus(seed) for seed, name in enumerate(["a", "b"])}
    texts["b"] += texts["a"][::3]
    settings = DuplicatesRecipe(exact="normalised", near=NearRecipe())
    seen = []
    for workers, cut, seed in ((1, 1, None), (2, 7, 1), (2, 40, 2)):
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        (folder / "tokenizer.json").write_text(json.dumps(bpe), "utf-8")
        files = {}
        for name, listed in texts.items():
            order = list(listed)
            if seed is not None:
                np.random.default_rng(seed).shuffle(order)
            files[name] = [order[n::cut] for n in range(cut)]
        corpus = tokenized(folder, files, workers)
        with bounded((1 << 10) * 100, None):  # blocks of 100 rows
            copies = copies_in(folder, corpus, settings, workers)
            write_clusters(copies, corpus.domains, folder / "clusters.parquet")
            write_details(copies, corpus.domains, folder / "details.parquet")
        clusters = pl.read_parquet(folder / "clusters.parquet")
        seen.append((removed_texts(corpus, copies), clusters.sort(clusters.columns)))
        details = pl.read_parquet(folder / "details.parquet")
        assert details.height == sum(int(mask.sum()) for mask in copies.masks)
        removed = {(d, r) for d, m in enumerate(copies.masks) for r in np.flatnonzero(m).tolist()}
        assert removed == {*details.select("domain", "row").iter_rows()}
    assert all(copies.counts[kind] > 0 for kind in (Kind.TEXT, Kind.NORMALISED, Kind.NEAR))
    for other in seen[1:]:
        assert other[0] == seen[0][0]
        assert other[1].equals(seen[0][1])


def test_exact_copies_across_domains_equal_a_plain_count(place: Path):
    texts = {name: [varied_corpus(seed % 2)] for seed, name in enumerate(["c", "a", "b"])}
    texts["a"][0].append("only in a")
    corpus = tokenized(place, texts)
    copies = copies_in(place, corpus, DuplicatesRecipe(order=["b", "a"]))
    seen: set[str] = set()
    expected: dict[str, Counter[str]] = {}
    for name in ("b", "a", "c"):
        expected[name] = Counter()
        for text in texts[name][0]:
            expected[name][text] += text in seen
            seen.add(text)
    assert removed_texts(corpus, copies) == {n: +expected[n] for n in ("c", "a", "b")}
    normalised = copies_in(place, corpus, DuplicatesRecipe(exact="normalised"))
    distinct = {normalise(text) for files in texts.values() for text in files[0]}
    documents = sum(len(domain) for domain in corpus.domains)
    assert documents - sum(int(mask.sum()) for mask in normalised.masks) == len(distinct)


def test_groups_and_what_earlier_steps_removed(place: Path):
    corpus = tokenized(place, {name: [["same text", f"text of {name}"]] for name in "abcd"})
    for within, removed in (
        ("all", [0, 1, 1, 1]), ("domain", [0, 0, 0, 0]), ([["d", "b"]], [0, 0, 0, 1]),
    ):  # fmt: skip
        copies = copies_in(place, corpus, DuplicatesRecipe(within=within))
        assert [int(mask.sum()) for mask in copies.masks] == removed
    staying = [np.ones(2, bool) for _ in "abcd"]
    staying[0][:] = False
    copies = copies_in(place, corpus, DuplicatesRecipe(), staying=staying)
    assert [int(mask.sum()) for mask in copies.masks] == [0, 0, 1, 1]


def test_held_out_documents_lose_their_near_copies(place: Path):
    """Without duplicates removed across domains, their near copies there still leave training."""
    rng = np.random.default_rng(8)
    originals = [random_words(rng, 200) for _ in range(200)]
    near = [" ".join(edited(rng, words, 1)) for words in originals]
    files = {"a": [[" ".join(words) for words in originals]], "b": [near]}
    corpus = tokenized(place, files)
    share = 0.2
    settings = DuplicatesRecipe(exact="none", near=NearRecipe(), within="domain")
    copies = copies_in(place, corpus, settings, held_out=share)
    held_out = [domain.validation(share, 0) for domain in corpus.domains]
    assert all(not (mask & held).any() for mask, held in zip(copies.masks, held_out, strict=True))
    decoder = TextDecoder(corpus.tokenizer)
    pair_of = {text: n for files_of in files.values() for n, text in enumerate(files_of[0])}
    state: list[dict[int, tuple[bool, bool]]] = []
    for domain, held, mask in zip(corpus.domains, held_out, copies.masks, strict=True):
        texts = [decoder.decode(t, np.array([len(t)]))[0] for t in map(domain.document, range(200))]
        state.append(
            {pair_of[t]: (bool(h), bool(m)) for t, h, m in zip(texts, held, mask, strict=True)}
        )
    first, second = ([state[0][n] for n in range(200)], [state[1][n] for n in range(200)])
    for (a_held, a_removed), (b_held, b_removed) in zip(first, second, strict=True):
        assert a_removed == (b_held and not a_held)
        assert b_removed == (a_held and not b_held)
    assert copies.counts[Kind.HELD_OUT] > 20


def test_added_files_cost_only_their_own(place: Path):
    texts = varied_corpus(1)
    first = tokenized(place, {"web": [texts]})
    copies_in(place, first, NEAR)
    kept = {path: path.stat().st_mtime_ns for path in place.glob("cache/curation/bands/*")}
    again = tokenized(place, {"web": [texts, varied_corpus(2)]})
    copies_in(place, again, NEAR)
    after = {path: path.stat().st_mtime_ns for path in place.glob("cache/curation/bands/*")}
    assert len(kept) == 1 and len(after) == 2 and kept.items() < after.items()
    damaged = next(iter(kept))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-9] + b"x" + content[-8:])
    copies_in(place, again, NEAR)
    assert damaged.read_bytes() == content


def test_links_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(4)
    numbers = np.concatenate([rng.permutation(5000) for _ in range(3)])
    high = rng.integers(0, 9000, len(numbers)).astype(np.uint64) * np.uint64(2**50)

    def clusters(order: np.ndarray, memory_bytes: int) -> list[int]:
        with bounded(memory_bytes, None):
            parents = new_clusters(5000)
            link_equal(parents, lambda: [{"high": high[order], "number": numbers[order]}])
            settle(parents)
        return parents.tolist()

    first = clusters(np.arange(len(numbers)), 1 << 30)
    assert clusters(rng.permutation(len(numbers)), 1 << 17) == first
    assert 10 < len(set(first)) < 4000
    assert all(root <= number for number, root in enumerate(first))


def test_thresholds_choose_the_bands_of_datasketch():
    lsh = pytest.importorskip("datasketch").MinHashLSH
    for threshold in (0.5, 0.7, 0.9):
        oracle = lsh(threshold=threshold, num_perm=128)
        assert best_banding(threshold, 128, 5) == Banding(oracle.b, oracle.r, 5)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("order: [wiki, cod]", "duplicates.order: no domain is called 'cod'; did you mean 'code'?"),
        ("within: [[wiki], [wiki]]", "duplicates.within: 'wiki' is listed twice; leave one"),
        ("exact: none", "duplicates: with exact: none and no near, no copies are removed"),
        ("near: {threshold: 0.8, rows: 8}", "duplicates.near: threshold chooses bands and rows"),
        ("near: {rows: 8}", "duplicates.near: bands and rows go together"),
        ("near: {permutations: 8}", "duplicates.near.permutations: only used with threshold"),
    ],
)
def test_sections_that_make_no_sense(recipe: Path, section: str, message: str):
    with pytest.raises(RecipeError, match=re.escape(message)):
        tokenize_domains(load(recipe, (f"duplicates={{{section}}}",)), 1, Listener())


def test_a_build_counts_copies_and_says_what_is_caught(recipe: Path):
    """Every tenth document of the corpus copies another; reasons sum to what was read."""
    heard = Listener()
    overrides = ("mixture={method: natural}", "budget_tokens=5000")
    section = "duplicates={exact: normalised, near: {threshold: 0.8}, within: domain}"
    build(load(recipe, (*overrides, section)), 1, heard)
    text = "\n".join(heard.notices)
    assert "9 bands of 13 rows catch 0%, 8%, 40%, 93% of pairs at Jaccard 0.5, 0.7" in text
    assert "duplicates: 60 documents removed: 60 of the same text; 60 clusters" in text
    assert "clusters of copies: see " in text
    stats = json.loads((recipe.parent / "out" / "tiny" / "stats.json").read_text("utf-8"))
    for name, documents in (("wiki", 30), ("code", 20), ("talk", 10)):
        amounts = stats["domains"][name]["amounts"]
        assert amounts["copies"]["documents"] == documents
        for unit in ("documents", "bytes", "tokens"):
            others = sum(amounts[reason][unit] for reason in amounts if reason != "read")
            assert amounts["read"][unit] == others
