"""Filters by attributes equal polars on the same table, and are checked before data are read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zstandard
from conftest import Listener, make_documents

from curate.curation.attribute_tables import AttributeTable, read_table
from curate.curation.attributes import evaluate, parse
from curate.errors import InputError, RecipeError
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.recipe import load
from curate.runtime.sealed import read_sealed
from curate.tokens.domain import DomainTokens

pytestmark = pytest.mark.usefixtures("own_store")

SMALL = "tokenizer.train.vocab_size=280"


def rows_of(count: int) -> list[dict[str, Any]]:
    """Records whose attributes have gaps, ties and nested values."""
    rng = np.random.default_rng(5)
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(make_documents("wiki", count)):
        quality = None if number % 17 == 0 else round(float(rng.random()), 2)
        rows.append(
            {
                "id": f"d{number}",
                "text": row["text"],
                "lang": ["en", "de", "fr"][number % 3],
                "quality": quality,
                "meta": {"year": 2000 + number % 7},
                "seen": number % 5,
            }
        )
        if number % 11 == 0:
            del rows[-1]["lang"]
    return rows


def write(directory: Path, kind: str, rows: list[dict[str, Any]], files: int = 2) -> None:
    directory.mkdir(exist_ok=True)
    step = -(-len(rows) // files)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        path = directory / f"part-{start:05}.{kind}"
        if kind == "parquet":
            pl.DataFrame(part).write_parquet(path)
        elif kind == "csv":
            flat = [{k: v for k, v in row.items() if k != "meta"} for row in part]
            pl.DataFrame(flat, infer_schema_length=None).write_csv(path)
        elif kind == "jsonl.gz":
            path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in part).encode()))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in part))


def over(recipe: Path, where: str, *overrides: str, **fields: Any) -> TokenizedDomains:
    domain = {"name": "web", "paths": "in", **({"where": where} if where else {}), **fields}
    texts = (f"domains={json.dumps([domain])}", SMALL, *overrides)
    return tokenize_domains(load(recipe, texts), 1, Listener())


def identifiers(domain: DomainTokens) -> list[str]:
    return sorted(domain.identifiers(np.arange(len(domain))))


EXPRESSIONS = [
    "lang = 'en' AND quality > 0.4 AND tokens >= 50",
    "quality > 0.4 OR lang IS NULL",
    "quality BETWEEN 0.2 AND 0.7 AND NOT lang IN ('de', 'fr')",
    "quality >= avg(quality)",
    "lang LIKE 'e%' AND seen % 2 = 1",
    "copies = 1 AND bytes_per_token > 1.2",
    "line <= 20 AND id != 'd3'",
    "file LIKE '%part-00000%'",
    '"meta.year" >= 2003',
]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "csv"])
def test_filters_equal_polars_on_the_same_table(recipe: Path, kind: str) -> None:
    rows = rows_of(120)
    write(recipe.parent / "in", kind, rows)
    whole = over(recipe, "").domains[0]
    numbers = np.arange(len(whole))
    files, lines = whole.locate(numbers)
    facts = pl.DataFrame(
        {
            "id": whole.identifiers(numbers),
            "tokens": whole.tokens,
            "bytes": whole.text_bytes,
            "bytes_per_token": whole.text_bytes / whole.tokens,
            "line": lines,
            "file": [whole.files[number].path for number in files],
        }
    )
    table = pl.DataFrame(rows, infer_schema_length=None).join(facts, on="id")
    table = table.with_columns(
        pl.len().over("text").alias("copies"),
        pl.col("meta").struct.field("year").alias("meta.year"),
    )
    for where in EXPRESSIONS:
        if kind == "csv" and "meta" in where:
            continue
        kept = over(recipe, where)
        assert kept.tokenised_bytes == 0
        expected = table.filter(pl.sql_expr(where))["id"].to_list()
        assert 0 < len(expected) < 120
        assert identifiers(kept.domains[0]) == sorted(expected), where
        (row,) = kept.stats
        assert row.removed["filtered"].documents == 120 - len(expected)
        assert row.amounts["read"].documents == 120


def test_null_results_are_removed_and_said(recipe: Path) -> None:
    write(recipe.parent / "in", "jsonl", rows_of(120))
    heard = Listener()
    domain = {"name": "web", "paths": "in", "where": "quality > 0.0"}
    loaded = load(recipe, (f"domains={json.dumps([domain])}", SMALL))
    for _ in range(2):
        kept = tokenize_domains(loaded, 1, heard)
    notice = "domains[web].where is null for 8 documents of 120, which are left out, too"
    assert sum(notice in line for line in heard.notices) == 2
    assert kept.stats[0].removed["filtered"].documents >= 8


def message(recipe: Path, where: str, **fields: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        over(recipe, where, **fields)
    assert not list(recipe.parent.glob(".curate/tokens/*/part-*")), "nothing was tokenised"
    return str(caught.value)


def test_expressions_are_checked_before_data_are_read(recipe: Path) -> None:
    write(recipe.parent / "in", "jsonl", rows_of(60))
    path = recipe.parent / "in/part-00000.jsonl"
    assert message(recipe, "langg = 'en'") == (
        f"domains[web].where: {path} has no column 'langg'; did you mean 'lang'? (columns: "
        "quality, meta, seen, lang; of all documents: bytes, tokens, bytes_per_token, copies, "
        "line, file, id)"
    )
    assert "did you mean 'tokens'?" in message(recipe, "token > 5")
    assert message(recipe, "quality >").startswith(
        "domains[web].where: unable to parse 'quality >'"
    )
    assert "compares text with a number; TRY_CAST(name AS DOUBLE)" in message(recipe, "lang > 5")
    assert "(lang String;" in message(recipe, "lang > 5")
    assert message(recipe, "quality").startswith(
        "domains[web].where: gives Float64, not true or false; compare it"
    )
    assert "domains[web].keep: " in message(recipe, "", keep=["urll"])
    assert "'tokens' is built in" in message(recipe, "", keep=["tokens"])


def test_several_types_in_a_column_name_the_file(recipe: Path) -> None:
    rows = rows_of(60)
    rows[59]["quality"] = "good"
    write(recipe.parent / "in", "jsonl", rows)
    last = recipe.parent / "in/part-00030.jsonl"
    with pytest.raises(InputError, match=re.escape(f"{last}: column 'quality' holds values of")):
        over(recipe, "quality > 0.5")


def test_attributes_are_joined_by_identifier_and_content_hash(recipe: Path) -> None:
    rows = rows_of(60)
    write(recipe.parent / "in", "jsonl", rows)
    whole = over(recipe, "").domains[0]
    scores = [{"id": f"d{n}", "score": n / 60} for n in range(50)]
    by_hash = whole.content_hash(int(whole.with_identifier("d55")[0]))
    scores += [{"id": by_hash, "score": 0.9}, {"id": "nobody", "score": 1.0}]
    scores += [{"id": "d1", "score": 1.0}]
    expected = sorted([f"d{n}" for n in range(31, 50)] + ["d55"])
    root = recipe.parent
    pl.DataFrame(scores).write_parquet(root / "a.parquet")
    pl.DataFrame(scores).write_csv(root / "a.csv")
    (root / "a.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in scores).encode())
    )
    spans = [{"id": r["id"], "attributes": {"score": [[0, 9, r["score"]]]}} for r in scores]
    (root / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spans))
    for name in ("a.parquet", "a.csv", "a.jsonl.gz", "d.jsonl"):
        heard = Listener()
        domain = {"name": "web", "paths": "in", "where": "score > 0.5", "attributes": name}
        kept = tokenize_domains(load(recipe, (f"domains={json.dumps([domain])}", SMALL)), 1, heard)
        assert identifiers(kept.domains[0]) == expected, name
        assert (
            f"domains[web].attributes: {root / name}: 9 documents without a row; 1 row without a "
            "document; 1 row with an identifier again, of which the first counts"
        ) in heard.notices


def test_faulty_tables_are_named(recipe: Path) -> None:
    write(recipe.parent / "in", "jsonl", rows_of(30))
    table = recipe.parent / "a.csv"
    assert "a.csv is no file" in message(recipe, "", attributes="a.csv")
    table.write_text("key,score\na,1\n")
    with pytest.raises(InputError, match=r"a.csv has no column 'id' of identifiers .*key, score"):
        over(recipe, "", attributes="a.csv")
    table.write_text("id,tokens\na,1\n")
    assert "column 'tokens' of" in message(recipe, "", attributes="a.csv")
    table.write_text("id,score\nd1,1\n")
    assert "did you mean 'score'?" in message(recipe, "scoer > 1", attributes="a.csv")


def test_a_changed_threshold_reads_no_file_again(recipe: Path) -> None:
    write(recipe.parent / "in", "jsonl", rows_of(60))
    over(recipe, "quality > 0.5")
    kept = list((recipe.parent / ".curate/attributes").iterdir())
    times = [path.stat().st_mtime_ns for path in kept]
    over(recipe, "quality > 0.6")
    assert list((recipe.parent / ".curate/attributes").iterdir()) == kept
    assert [path.stat().st_mtime_ns for path in kept] == times
    kept[0].write_bytes(b"damaged")
    heard = Listener()
    domain = {"name": "web", "paths": "in", "where": "quality > 0.7"}
    tokenize_domains(load(recipe, (f"domains={json.dumps([domain])}", SMALL)), 1, heard)
    assert any("is damaged: read again" in notice for notice in heard.notices)


def test_workers_and_cuts_change_nothing(recipe: Path) -> None:
    rows = rows_of(120)
    write(recipe.parent / "in", "jsonl", rows, files=1)
    first = over(recipe, "quality > 0.4").domains[0].fingerprint
    for path in (recipe.parent / "in").iterdir():
        path.unlink()
    write(recipe.parent / "in", "parquet", rows[::-1], files=5)
    domain = {"name": "web", "paths": "in", "where": "quality > 0.4"}
    loaded = load(recipe, (f"domains={json.dumps([domain])}", SMALL, "cache=other"))
    assert tokenize_domains(loaded, 2, Listener()).domains[0].fingerprint == first


def test_kept_columns_are_read_before_they_are_asked_for(recipe: Path) -> None:
    write(recipe.parent / "in", "jsonl", rows_of(60))
    over(recipe, "", keep=["quality", "meta.year"])
    kept = sorted((recipe.parent / ".curate/attributes").iterdir())
    assert len(kept) == 2
    times = [path.stat().st_mtime_ns for path in kept]
    over(recipe, 'quality > 0.5 AND "meta.year" > 2002', keep=["quality", "meta.year"])
    assert sorted((recipe.parent / ".curate/attributes").iterdir()) == kept
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_text_is_compared_with_text_only(recipe: Path) -> None:
    rows = [row | {"mark": str(n), "late": None} for n, row in enumerate(rows_of(400))]
    rows[-1]["late"] = "x"
    write(recipe.parent / "in", "jsonl", rows, files=1)
    number = "compares text with a number; TRY_CAST(name AS DOUBLE) reads text as numbers"
    for where in ("mark > 9.5", "9.5 < mark", "seen = 1 OR NOT mark BETWEEN 9.5 AND 20.5"):
        assert number in message(recipe, where), where
    assert "compares text with true or false" in message(recipe, "mark = TRUE")
    assert 'in double quotes: "meta.year"' in message(recipe, "meta.year > 2003")
    kept = over(recipe, "TRY_CAST(mark AS DOUBLE) > 9.5 AND quality IN (0.5, 0.25) OR mark = '1'")
    assert identifiers(kept.domains[0]) == sorted(
        f"d{n}" for n, row in enumerate(rows) if n == 1 or n > 9 and row["quality"] in (0.5, 0.25)
    )
    # A column may be null in the first records.
    for fields in ({"where": "late > 0.5"}, {"where": "late"}, {"where": "1 = 1", "keep": ["mark"],
                   "split": {"by": "late", "quantiles": 2}}):  # fmt: skip
        with pytest.raises(RecipeError, match=r"late .*text|String"):
            over(recipe, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("CAST(day AS DATE) > DATE '2024-01-01'", "text is not cast to dates; DATE(name) reads"),
        ("TRY_CAST(day AS TIMESTAMP) IS NULL", "text is not cast to dates; DATE(name) reads"),
        ("DATE(day) > '2024-01-01'", "compares a date with text; write dates as DATE '2024-01-31'"),
        ("DATE(lang) > DATE '2024-01-01'", "a text is no date such as 2024-01-31; DATE(name, '%d"),
        ("CAST(lang AS BOOLEAN)", "text is not cast to true or false; compare it with a text"),
        ("CAST(lang AS DOUBLE) > 1", "; TRY_CAST gives null where a text is no number (lang "),
    ],
)
def test_casts_that_polars_lacks_say_what_to_write(recipe: Path, where: str, words: str) -> None:
    """Before a text is tokenised, and without the names of methods in Python."""
    rows = [row | {"day": f"2024-01-{n % 28 + 1:02}"} for n, row in enumerate(rows_of(60))]
    write(recipe.parent / "in", "jsonl", rows)
    text = message(recipe, where)
    assert words in text and len(text) < 300
    assert "strict" not in text and "str." not in text


def test_dates_compare_as_dates_and_as_texts(recipe: Path) -> None:
    rows = [row | {"day": f"2024-01-{n % 28 + 1:02}"} for n, row in enumerate(rows_of(60))]
    write(recipe.parent / "in", "jsonl", rows)
    late = sorted(f"d{n}" for n in range(60) if n % 28 + 1 > 20)
    for where in ("DATE(day) > DATE '2024-01-20'", "day > '2024-01-20'"):
        assert identifiers(over(recipe, where).domains[0]) == late


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz"])
def test_a_key_of_late_records_is_a_column(
    recipe: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON Lines have no schema: a key may come first after many records."""
    rows = [row | ({"late": n} if n >= 1180 else {}) for n, row in enumerate(rows_of(1200))]
    write(recipe.parent / "in", kind, rows, files=1)
    kept = identifiers(over(recipe, "late > 1189").domains[0])
    assert kept == sorted(f"d{n}" for n in range(1190, 1200))
    name = f"part-00000.{kind}"
    assert f"{name} has no column 'latte'; did you mean 'late'?" in missing(recipe, "latte = 1")
    monkeypatch.setattr("curate.curation.source_columns.SEARCHED_BYTES", 1 << 18)
    monkeypatch.setattr("curate.sources.jsonl.BLOCK_BYTES", 1 << 16)
    assert f"{name} has no column 'late' in its first 0.25 MiB" in missing(recipe, "late > 1")


def missing(recipe: Path, where: str) -> str:
    with pytest.raises(RecipeError) as caught:
        over(recipe, where)
    return str(caught.value)


def test_tables_without_spans_or_with_numbers_for_identifiers(recipe: Path) -> None:
    rows = [row | {"id": f"{n:03}"} for n, row in enumerate(rows_of(30))]
    write(recipe.parent / "in", "jsonl", rows)
    table = recipe.parent / "a.csv"
    table.write_text("id,score\n" + "".join(f"{n:03},{n}\n" for n in range(30)))
    expected = [f"{n:03}" for n in range(20, 30)]
    assert identifiers(over(recipe, "score >= 20", attributes="a.csv").domains[0]) == expected
    (recipe.parent / "d.jsonl").write_text(
        "".join(
            json.dumps({"id": f"{n:03}", "attributes": {"level": n, "spans": []}}) + "\n"
            for n in range(30)
        )
    )
    kept = over(recipe, "level >= 20 AND spans IS NULL", attributes="d.jsonl")
    assert identifiers(kept.domains[0]) == expected
    table.write_text("id,quality\n000,1\n")
    with pytest.raises(RecipeError, match=r"'quality' is a column of .*a.csv and of .*part-00000"):
        over(recipe, "quality > 0.1", attributes="a.csv")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("bytes IN (SELECT a FROM read_csv('{path}'))", "has a sub-query"),
        ("day < Now ( )", r"NOW differs from run to run of one recipe; write the date"),
        ("day < CURRENT_DATE", "CURRENT_DATE differs"),
        ("bytes IN (FROM \"read_csv\"('{path}'))", "has a sub-query"),
        ("bytes IN (-- '\nFROM READ_CSV('{path}'))", "has a sub-query"),
        ("$q$ ' $q$ = '' OR bytes IN (SELECT a FROM read_csv('{path}'))", "has a sub-query"),
        ("+".join(["1"] * 5000), "9,999 characters, texts in quotes apart"),
        ("(" * 3000 + "bytes" + ")" * 3000, "characters, texts in quotes apart"),
        (" OR ".join(f"bytes = {number}" for number in range(250)), "more than 200 operations"),
        ("bytes" + " BETWEEN 1 AND 2" * 200, "more than 200 operations"),
        ("(" * 1500 + "bytes", r"unable to parse .*…; write it as"),
    ],
)
def test_expressions_read_no_files_and_are_bounded(
    expression: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "secret.csv"
    path.write_text("root:x:0\n1\n")
    with pytest.raises(RecipeError, match=message) as caught:
        parse(expression.replace("{path}", str(path)), "domains[web].where")
    assert "root" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "expression",
    [
        "topic = 'select a from read_csv'",
        "read_time > 5",
        "topic IN ({})".format(", ".join(f"'{number}'" for number in range(900))),
        " OR ".join(f"bytes = {number}" for number in range(150)),
    ],
)
def test_usual_expressions_are_within_bounds(expression: str) -> None:
    frame = pl.DataFrame({"topic": ["7"], "read_time": [6], "bytes": [1]})
    assert evaluate(frame, parse(expression, "where"), "where").dtype == pl.Boolean


def table_of(path: Path) -> pl.DataFrame:
    return read_table(AttributeTable("domains[web].attributes", (path,), "url"))


@pytest.mark.parametrize("kind", ["gz", "zst", "bz2", "xz"])
def test_compressed_tables_are_read_to_their_end(kind: str, tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).integers(0, 1 << 62, 150_000)
    lines = [f'{{"url": "{n}", "score": {number}}}\n' for n, number in enumerate(numbers)]
    packed = {
        "gz": partial(gzip.compress, compresslevel=1),
        "zst": partial(zstandard.compress, level=1),
        "bz2": partial(bz2.compress, compresslevel=1),
        "xz": partial(lzma.compress, preset=0),
    }[kind]("".join(lines).encode())
    path = tmp_path / f"scores.jsonl.{kind}"
    path.write_bytes(packed)
    assert table_of(path)["score"].to_list() == numbers.tolist()
    path.write_bytes(packed[: len(packed) * 2 // 3])
    with pytest.raises(
        InputError, match=r"scores\.jsonl\.\w+ cannot be read \(the \w+ data is cut"
    ):
        table_of(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"url": [["a"]]}, "column 'url' of .* holds Lists, and identifiers are text or whole num"),
        ({"url": [{"a": 1}]}, "column 'url' of .* holds Structs, and identifiers are text"),
        ({"url": [b"\xff"]}, "identifiers or spans of .* cannot be read"),
        (
            {"url": ["a"], "id": ["b"]},
            "has identifiers in 'url', and a column 'id', too; leave one",
        ),
    ],
)
def test_identifiers_that_are_none_are_named(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "scores.parquet"
    pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(InputError, match=message):
        table_of(path)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("url,score,score\na,1,2\n")
    with pytest.raises(
        InputError, match=r"scores\.csv has two columns 'score'; rename one of them"
    ):
        table_of(path)


def test_a_table_may_have_any_column(recipe: Path) -> None:
    rows = rows_of(30)
    write(recipe.parent / "in", "jsonl", rows)
    names = ["row", "identity", "high", "low"]
    scores = {"id": [row["id"] for row in rows], **{name: range(30) for name in names}}
    pl.DataFrame(scores).write_parquet(recipe.parent / "scores.parquet")
    expression = " AND ".join(f"{name} >= 10" for name in names)
    tokenized = over(recipe, expression, attributes="scores.parquet")
    assert identifiers(tokenized.domains[0]) == sorted(scores["id"][10:])


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("1" + "0" * 30, 1e30),
        ("-1" + "0" * 30, -1e30),
        ("[1" + "0" * 30 + "]", f"[{10**30}]"),
        ('{"a": ' + "[" * 500 + "]" * 500 + "}", '{"a":' + "[" * 500 + "]" * 500 + "}"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_large_numbers_and_depth_are_values_like_others(
    value: str, stored: Any, workers: int, recipe: Path
) -> None:
    (recipe.parent / "in").mkdir()
    texts = [json.dumps(row["text"]) for row in make_documents("wiki", 60)]
    lines = [f'{{"text": {text}, "c": {value}}}\n' for text in texts]
    (recipe.parent / "in" / "a.jsonl").write_text("".join(lines))
    domain = json.dumps([{"name": "web", "paths": "in", "where": "c IS NOT NULL", "keep": ["c"]}])
    tokenize_domains(load(recipe, (f"domains={domain}", SMALL)), workers, Listener())
    (kept,) = (recipe.parent / ".curate" / "attributes").glob("*.column")
    column = pl.read_parquet(io.BytesIO(read_sealed(kept)))["value"]
    assert column.to_list() == [stored] * 60
