"""Evaluation sets in documents: planted spans are found, traps are not."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench.planted_texts import CONTAMINATED, TRAPS, VERBATIM, planted_corpus
from conftest import Listener
from test_duplicates import TokenizedDomains, place, tokenized  # noqa: F401 - a fixture

from curate.curation.contamination import (
    ContaminationRequest,
    common_documents,
    describe,
    find_contaminated,
    masks_of,
    write_details,
    write_spans,
)
from curate.curation.evaluation_sets import EvaluationIndex, read_index, set_files
from curate.curation.texts import TextDecoder
from curate.errors import CurateError
from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import load
from curate.recipe.structs import DecontaminateRecipe, EvaluationSet, HubRecipe

pytestmark = pytest.mark.usefixtures("own_store")


def write_sets(directory: Path, sets: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Write sets as JSON Lines, compressed or not, and Parquet in turn."""
    paths = {}
    for number, (name, rows) in enumerate(sets.items()):
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if number % 3 == 0:
            path = directory / f"{name}.jsonl"
            path.write_bytes(lines)
        elif number % 3 == 1:
            path = directory / f"{name}.parquet"
            pl.DataFrame(rows).write_parquet(path)
        else:
            path = directory / f"{name}.jsonl.gz"
            path.write_bytes(gzip.compress(lines))
        paths[name] = str(path)
    return paths


def asked(place: Path, corpus: TokenizedDomains, settings: DecontaminateRecipe, workers: int = 1):  # noqa: F811
    return ContaminationRequest(
        domains=corpus.domains,
        staying=[np.ones(len(domain), bool) for domain in corpus.domains],
        settings=settings,
        index=index_of(settings, place),
        tokenizer=corpus.tokenizer,
        cache=place / "cache" / "curation",
        workers=workers,
        observer=Listener(),
    )


def index_of(settings: DecontaminateRecipe, base: Path) -> EvaluationIndex:
    files = {
        name: set_files(name, evaluation, (base, base / "cache"), lambda _: None)
        for name, evaluation in settings.sets.items()
    }
    return read_index(settings, files)


def texts_with(corpus: TokenizedDomains, masks: Any) -> Counter[str]:
    decoder = TextDecoder(corpus.tokenizer)
    return Counter(
        decoder.decode(tokens, np.array([len(tokens)]))[0]
        for domain, mask in zip(corpus.domains, masks, strict=True)
        for tokens in map(domain.document, np.flatnonzero(mask))
    )


def test_planted_spans_are_found_and_traps_are_not(place: Path):  # noqa: F811
    """Recall of verbatim spans at least .95, precision at least .99."""
    planted = planted_corpus(seed=1)
    kinds = planted.documents
    files = [kinds[kind] for kind in kinds]
    corpus = tokenized(place, {"web": files[::2], "code": files[1::2]})
    settings = DecontaminateRecipe(sets=write_sets(place, planted.sets), action="remove")
    request = asked(place, corpus, settings)
    matches = find_contaminated(request)
    removed = texts_with(corpus, masks_of(matches, corpus.domains))
    shares = {kind: sum(removed[t] for t in kinds[kind]) / len(kinds[kind]) for kind in kinds}
    assert all(shares[kind] >= 0.95 for kind in VERBATIM), shares
    right = sum(removed[text] for kind in CONTAMINATED for text in kinds[kind])
    assert right >= 0.99 * removed.total(), shares
    assert all(shares[kind] <= 0.01 for kind in TRAPS), shares

    write_spans(request, matches, place / "spans.parquet")
    spans = pl.read_parquet(place / "spans.parquet")
    assert spans.height == len(matches)
    whole = spans.filter(pl.col("coverage") == 1, pl.col("set") == "problems")
    assert whole.height > 50 and (whole["span"].str.contains("how many of")).all()
    write_details(request, matches, place / "details.parquet")
    details = pl.read_parquet(place / "details.parquet")
    assert details.height == removed.total() == details.select("domain", "row").n_unique()
    lines = list(describe(request, matches))
    assert len(lines) == 6 and "(removed)" in lines[0] and "least certain" in lines[1]

    # A detector that takes any shared run of words for contamination is worse than a coin on traps.
    rows = [row for listed in planted.sets.values() for row in listed]
    runs = {run for row in rows for text in row.values() for run in runs_of(text)}
    flagged = {
        kind: sum(not runs.isdisjoint(runs_of(text)) for text in kinds[kind]) for kind in kinds
    }
    assert sum(flagged[kind] for kind in CONTAMINATED) < 0.6 * sum(flagged.values())


def runs_of(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[n : n + 8]) for n in range(len(words) - 7)}


def test_workers_and_files_do_not_matter(place: Path, tmp_path: Path, bpe: Any):  # noqa: F811
    planted = planted_corpus(seed=2, items=20, background=100)
    listed = [text for texts in planted.documents.values() for text in texts]
    sets = write_sets(place, planted.sets)
    seen = []
    for workers, cut in ((1, 1), (2, 9)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "tokenizer.json").write_text(json.dumps(bpe), "utf-8")
        corpus = tokenized(folder, {"web": [listed[n::cut] for n in range(cut)]}, workers)
        request = asked(folder, corpus, DecontaminateRecipe(sets=sets), workers)
        write_spans(request, find_contaminated(request), folder / "spans.parquet")
        seen.append(pl.read_parquet(folder / "spans.parquet"))
    assert seen[0].height > 20
    assert seen[0].equals(seen[1])


def test_short_texts_need_all_of_their_words(place: Path):  # noqa: F811
    question = "Who first sailed around the stormy southern cape?"  # 8 words
    longer = "Name the river that the old trade route crosses near Kufra"  # 11 words
    sets = {"quiz": [{"q": question}, {"q": longer}, {"q": "Too short to tell?"}]}
    texts = [
        f"He asked: {question} Nobody knew.",
        "name the river that the old trade route crosses",
        f"xyz {longer.upper()}!",
        "too short to tell is what they said and left",
    ]
    corpus = tokenized(place, {"web": [texts]})
    request = asked(place, corpus, DecontaminateRecipe(sets=write_sets(place, sets)))
    matches = find_contaminated(request)
    assert texts_with(corpus, masks_of(matches, corpus.domains)) == Counter([texts[0], texts[2]])
    (line, _) = describe(request, matches)
    assert line == (
        "decontaminate: quiz: 2 of 3 items in 2 documents of web (reported only); "
        "1 have fewer than 8 words and were not looked for"
    )


def test_changing_a_threshold_reads_no_document_again(place: Path):  # noqa: F811
    planted = planted_corpus(seed=3, items=20, background=50)
    corpus = tokenized(place, {"web": list(planted.documents.values())})
    sets = write_sets(place, planted.sets)
    find_contaminated(asked(place, corpus, DecontaminateRecipe(sets=sets)))
    kept = {path: path.stat().st_mtime_ns for path in place.glob("cache/curation/runs/*")}
    find_contaminated(asked(place, corpus, DecontaminateRecipe(sets=sets, coverage=0.9)))
    assert kept == {path: path.stat().st_mtime_ns for path in place.glob("cache/curation/runs/*")}
    assert common_documents(DecontaminateRecipe(sets=sets), 10**6) == 250
    assert common_documents(DecontaminateRecipe(sets=sets), 5) == 10


def test_columns_nested_objects_and_lists(place: Path):  # noqa: F811
    rows = [{"a": {"b": "one two three four"}, "c": ["five six", "seven"], "n": 3, "d": None}]
    (place / "set.jsonl").write_text(json.dumps(rows[0]) + "\n\n", "utf-8")
    for text, columns in ((None, ["a", "c"]), (["a.b"], ["a.b"]), ("c", ["c"])):
        evaluation = EvaluationSet(path="*.jsonl", text=text)
        settings = DecontaminateRecipe(sets={"s": evaluation}, ngram=2)
        assert [text.column for text in index_of(settings, place).texts] == columns
    assert index_of(settings, place).texts[0].folded == "five six\nseven"


def packed(column: pa.Array) -> bytes:
    """Return a Parquet file with one column."""
    content = io.BytesIO()
    pq.write_table(pa.table({"q": column}), content)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "entry", "message"),
    [
        (b'{"q": "x"}\n', {"path": "set.jsonl", "text": "z"},
         r"decontaminate\.sets\.s\.text: .*set\.jsonl:1 has no 'z'; it has q"),
        (b"[1]\n", {"path": "set.jsonl"}, r"set\.jsonl:1: is no record"),
        (b"nonsense\n", {"path": "set.jsonl"}, r"cannot be read as an evaluation set \(.*JSON"),
        (b'{"q": "x"}\n\n{"q": "\xc3\xa9", "score": NaN}\n', {"path": "set.jsonl"},
         r"set\.jsonl:3: cannot .* \(NaN is not JSON, write null, column 21\)"),
        (b'{"q": -Infinity}\n', {"path": "set.jsonl"}, r"set\.jsonl:1: .*Infinity is not JSON"),
        (b'{"q": 1}\n{"q": "\xff"}\n', {"path": "set.jsonl"}, r"set\.jsonl:2: .*not valid UTF-8"),
        (b"PAR1nonsense", {"path": "set.jsonl"}, r"cannot be read as an evaluation set"),
        (b"\n", {"path": "set.jsonl"}, r"decontaminate\.sets\.s: no record in .*set\.jsonl; name"),
        (packed(pa.array([1 << 62], pa.timestamp("us"))), {"path": "set.jsonl"},
         r"set\.jsonl: cannot be read as an evaluation set \(.*out of range"),
        (packed(pa.array([b"\xff"]).view(pa.string())), {"path": "set.jsonl"},
         r"set\.jsonl: cannot be read as an evaluation set \('utf-8' codec"),
        (b"", {}, r"decontaminate\.sets\.s: needs exactly one of path and hf"),
        (b"", {"path": "other.jsonl"}, r"decontaminate\.sets\.s: .*other\.jsonl is no file"),
    ],
)  # fmt: skip
def test_sets_that_cannot_be_read(tmp_path: Path, content: bytes, entry: Any, message: str):
    (tmp_path / "set.jsonl").write_bytes(content)
    settings = DecontaminateRecipe(sets={"s": EvaluationSet(**entry)})
    with pytest.raises(CurateError, match=message):
        index_of(settings, tmp_path)


def test_a_build_reports_or_removes_and_refuses_to_truncate(recipe: Path):
    line = json.loads((corpus_file(recipe)).read_text("utf-8").splitlines()[3])
    (recipe.parent / "quiz.jsonl").write_text(json.dumps({"q": line["text"]}), "utf-8")
    seen = {}
    for action in ("report", "remove"):
        heard = Listener()
        section = f"decontaminate={{sets: {{quiz: quiz.jsonl}}, action: {action}}}"
        tokenized = tokenize_domains(load(recipe, (section,)), 1, heard)
        seen[action] = tokenized.stats[0].amounts["contaminated"].documents
        assert any("decontaminate: quiz: 1 of 1 item in 1 document of wiki" in n
                   for n in heard.notices)  # fmt: skip
    assert seen == {"report": 0, "remove": 1}
    with pytest.raises(CurateError, match="truncate is not possible, since the token store holds"):
        tokenize_domains(load(recipe, (section.replace("remove", "truncate"),)), 1, Listener())


def corpus_file(recipe: Path) -> Path:
    """The first file of the recipe's first domain."""
    match = re.search(r"paths: \"(.*)/\*\"", recipe.read_text("utf-8"))
    assert match is not None
    return sorted(Path(match[1]).iterdir())[0]


def test_a_dataset_folder_is_a_set(tmp_path: Path):
    pytest.importorskip("datasets")
    folder = tmp_path / "quiz" / "data"
    folder.mkdir(parents=True)
    pl.DataFrame({"q": ["one two three"]}).write_parquet(folder / "test-0.parquet")
    pl.DataFrame({"q": ["four five six"]}).write_parquet(folder / "train-0.parquet")
    evaluation = EvaluationSet(hf=HubRecipe(id="./quiz", split="test"))
    index = index_of(DecontaminateRecipe(sets={"quiz": evaluation}, ngram=2), tmp_path)
    assert [text.folded for text in index.texts] == ["one two three"]
