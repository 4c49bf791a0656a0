"""Sub-domains of split domains equal polars on the same table; levels share what they are given."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import Listener
from test_attributes import SMALL, identifiers, rows_of, write

from curate.curation.levels import divided, members_of
from curate.dataset.manifest import DatasetLayout
from curate.errors import InputError, RecipeError
from curate.pipeline.build import BuiltDataset, build
from curate.pipeline.read_back import read_back
from curate.pipeline.show import show
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.recipe import load
from curate.runtime.files import read_json


def split(recipe: Path, split: Any, *overrides: str, **fields: Any) -> TokenizedDomains:
    domain = {"name": "web", "paths": "in", "split": split, **fields}
    texts = (f"domains={json.dumps([domain])}", SMALL, *overrides)
    return tokenize_domains(load(recipe, texts), 1, Listener())


def by_name(tokenized: TokenizedDomains) -> dict[str, list[str]]:
    return {domain.name: identifiers(domain) for domain in tokenized.domains}


def groups(table: pl.DataFrame, name: pl.Expr) -> dict[str, list[str]]:
    named = table.with_columns(name.alias("name"))
    return {key[0]: sorted(part["id"]) for key, part in named.group_by("name")}


@pytest.fixture
def table(recipe: Path) -> pl.DataFrame:
    rows = rows_of(120)
    write(recipe.parent / "in", "jsonl", rows)
    return pl.DataFrame(rows, infer_schema_length=None)


@pytest.mark.filterwarnings("ignore:`q?cut` is deprecated")
def test_values_quantiles_and_edges_equal_polars(recipe: Path, table: pl.DataFrame) -> None:
    lang = pl.lit("web:") + pl.col("lang").fill_null("none")
    assert by_name(split(recipe, {"by": "lang"})) == groups(table, lang)
    labels = [f"q{n}" for n in range(1, 6)]
    cut = pl.col("quality").qcut(5, labels=labels).cast(pl.String).fill_null("none")
    assert by_name(split(recipe, {"by": "quality", "quantiles": 5})) == groups(
        table, pl.lit("web:") + cut
    )
    cut = pl.col("quality").cut([0.25, 0.8], labels=labels[:3]).cast(pl.String).fill_null("none")
    assert by_name(split(recipe, {"by": "quality", "edges": [0.25, 0.8]})) == groups(
        table, pl.lit("web:") + cut
    )
    year = pl.lit("web:") + pl.col("meta").struct.field("year").cast(pl.String)
    assert by_name(split(recipe, {"by": '"meta.year"'})) == groups(table, year)


@pytest.mark.filterwarnings("ignore:`q?cut` is deprecated")
def test_nested_quantiles_are_of_each_topic(recipe: Path, table: pl.DataFrame) -> None:
    nested = split(recipe, [{"by": "lang"}, {"by": "quality", "quantiles": 4}])
    cut = pl.col("quality").qcut(4, labels=["q1", "q2", "q3", "q4"]).over("lang")
    name = pl.concat_str(
        pl.lit("web"), pl.col("lang").fill_null("none"), cut.cast(pl.String).fill_null("none"),
        separator=":",
    )  # fmt: skip
    assert by_name(nested) == groups(table, name)
    assert [domain.name for domain in nested.domains[:5]] == [
        "web:de:q1", "web:de:q2", "web:de:q3", "web:de:q4", "web:de:none",
    ]  # fmt: skip


def test_amounts_of_sub_domains_sum_to_what_was_read(recipe: Path, table: pl.DataFrame) -> None:
    with (recipe.parent / "in/part-00000.jsonl").open("a") as file:
        file.write("{}\n")
    (recipe.parent / "ids.txt").write_text("d1\nd2\n")
    parts = split(
        recipe,
        {"by": "quality", "quantiles": 3},
        "exclude=ids.txt",
        where="quality > 0.3 OR lang = 'en'",
    )
    total: dict[str, int] = {}
    for row in parts.stats:
        amounts = row.amounts
        assert amounts["read"].documents == sum(
            amounts[key].documents for key in amounts if key != "read"
        )
        for key, amount in amounts.items():
            total[key] = total.get(key, 0) + amount.documents
    assert total["read"] == 121
    assert total["bad"] == 1 and [row.bad_records for row in parts.stats][1:] == [0] * (
        len(parts.stats) - 1
    )
    kept = table.filter(
        (pl.col("quality") > 0.3).fill_null(False) | (pl.col("lang") == "en").fill_null(False),
        ~pl.col("id").is_in(["d1", "d2"]),
    )
    assert total["excluded"] == 2
    assert total["filtered"] == 118 - len(kept)
    assert sorted(sum(by_name(parts).values(), [])) == sorted(kept["id"])
    sizes = [len(domain) for domain in parts.domains if "none" not in domain.name]
    assert max(sizes) - min(sizes) <= 4, "quantiles are of what stays, but for ties"


def test_removed_documents_of_an_emptied_sub_domain_count_with_the_nearest(
    recipe: Path, table: pl.DataFrame
) -> None:
    parts = [{"by": "lang"}, {"by": "quality", "edges": [0.3, 0.7]}]
    gone = "lang = 'fr' AND quality > 0.7"
    where = f"NOT coalesce({gone}, FALSE)"
    heard = Listener()
    domain = {"name": "web", "paths": "in", "split": parts, "where": where}
    made = tokenize_domains(load(recipe, (f"domains={json.dumps([domain])}", SMALL)), 1, heard)
    removed = len(table.filter(pl.sql_expr(gone)))
    filtered = {stats.name: stats.amounts["filtered"].documents for stats in made.stats}
    assert "web:fr:q3" not in filtered and removed > 3
    assert filtered == dict.fromkeys(filtered, 0) | {"web:fr:q2": removed}
    assert (
        f"domains[web].split: nothing is left of 'web:fr:q3'; its {removed} removed documents "
        "count with 'web:fr:q2'"
    ) in heard.notices


def test_splits_do_not_depend_on_files_and_workers(recipe: Path, table: pl.DataFrame) -> None:
    splits = [{"by": "lang"}, {"by": "quality", "quantiles": 3}]
    first = split(recipe, splits)
    for path in (recipe.parent / "in").iterdir():
        path.unlink()
    write(recipe.parent / "in", "parquet", rows_of(120)[::-1], files=5)
    domain = {"name": "web", "paths": "in", "split": splits}
    loaded = load(recipe, (f"domains={json.dumps([domain])}", SMALL, "cache=other"))
    other = tokenize_domains(loaded, 2, Listener())
    assert [(d.name, d.fingerprint) for d in other.domains] == [
        (d.name, d.fingerprint) for d in first.domains
    ]


def built(recipe: Path, *overrides: str, **fields: Any) -> BuiltDataset:
    domain = {"name": "web", "paths": "in", "license": "MIT", **fields}
    other = {"name": "plain", "paths": "plain"}
    texts = (f"domains={json.dumps([domain, other])}", SMALL, "max_epochs=9", *overrides)
    return build(load(recipe, texts), 1, Listener())


@pytest.mark.parametrize("shape", ["mixed", "per-domain"])
def test_levels_have_weights_epochs_and_a_dataset(
    recipe: Path, table: pl.DataFrame, shape: str
) -> None:
    write(recipe.parent / "plain", "jsonl", rows_of(40))
    output = ["output={format: megatron, shape: per-domain}"]
    if shape == "mixed":
        output = ["output={format: npy}", "sequence_length=128"]
    weights = {"web:*:q2": 0.6, "web:*:q1": 0.1, "web:*:none": 0.1, "plain": 0.2}
    dataset = built(
        recipe,
        f"mixture={json.dumps({'method': 'manual', 'weights': weights})}",
        "budget_tokens=9000",
        *output,
        split=[{"by": "lang"}, {"by": "quality", "quantiles": 2}],
        max_epochs={"web:*:q2": 20},
    )
    assert dataset.certificate["ok"]
    rows = dataset.certificate["domains"]
    share = {key: 0.0 for key in weights}
    for name, row in rows.items():
        level = "plain" if name == "plain" else f"web:*:{name.rpartition(':')[2]}"
        share[level] += row["asked_share"]
    assert share == pytest.approx(weights)
    assert sum(row["planned_tokens"] for row in rows.values()) == 9000
    names = [domain.name for domain in dataset.tokenized.domains]
    tops = [names.index(name) for name in names if name.endswith(":q2")]
    assert {dataset.tokenized.settings.epochs(9)[number] for number in tops} == {20}
    assert not any(":" in path.name for path in dataset.directory.rglob("*"))
    again = read_back(DatasetLayout(dataset.directory), None, 1, Listener())
    assert again.ok and again.json["tokens_compared_with_store"]
    shown = show(dataset.directory, "d5").documents[0]
    assert shown.domain.startswith("web:") and shown.license == "MIT"
    assert '"domains/license": "MIT"' in (dataset.directory / "croissant.json").read_text()
    manifest = read_json(dataset.directory / "manifest.json")
    assert {record["domain"] for record in manifest["inputs"]} == {"web", "plain"}


@pytest.mark.usefixtures("own_store")
def test_a_warm_store_tokenises_and_splits_nothing_again(recipe: Path, table: pl.DataFrame) -> None:
    split(recipe, {"by": "quality", "quantiles": 3})
    state = {p: p.stat().st_mtime_ns for p in (recipe.parent / ".curate/curation").rglob("*.*")}
    again = split(recipe, {"by": "quality", "quantiles": 3})
    assert again.tokenised_bytes == 0
    assert state == {
        p: p.stat().st_mtime_ns for p in (recipe.parent / ".curate/curation").rglob("*.*")
    }
    assert split(recipe, {"by": "quality", "quantiles": 4}).tokenised_bytes == 0


def test_ties_leave_buckets_empty_and_are_said(recipe: Path) -> None:
    rows = [{**row, "quality": 1.0 if n < 50 else 2.0} for n, row in enumerate(rows_of(60))]
    write(recipe.parent / "in", "jsonl", rows)
    heard = Listener()
    domain = {"name": "web", "paths": "in", "split": {"by": "quality", "quantiles": 4}}
    parts = tokenize_domains(load(recipe, (f"domains={json.dumps([domain])}", SMALL)), 1, heard)
    assert {d.name: len(d) for d in parts.domains} == {"web:q1": 50, "web:q4": 10}
    assert (
        "domains[web].split: 2 buckets of 'quality' without a document, since equal values are "
        "never apart"
    ) in heard.notices
    assert "'web' is split into 'web:q1', 'web:q4'" in heard.notices


def message(recipe: Path, parts: Any, *overrides: str, **fields: Any) -> str:
    with pytest.raises((RecipeError, InputError)) as caught:
        split(recipe, parts, *overrides, **fields)
    return str(caught.value)


def test_what_cannot_be_split_is_said(recipe: Path, table: pl.DataFrame) -> None:
    assert "has no column 'topik'" in message(recipe, {"by": "topik"})
    assert "holds fractions, each of which would be" in message(recipe, {"by": "quality"})
    assert "is String, and only numbers have quantiles" in message(
        recipe, {"by": "lang", "quantiles": 3}
    )
    assert "is List, which names no sub-domain" in message(recipe, {"by": "ARRAY_AGG(lang)"})
    assert "takes quantiles or edges, not both" in message(
        recipe, {"by": "quality", "quantiles": 3, "edges": [0.5]}
    )
    assert "split.edges: must ascend" in message(recipe, {"by": "quality", "edges": [2, 1]})
    assert "caps: 'web:*:q9' matches no domain" in message(
        recipe, {"by": "lang"}, "mixture.caps={'web:*:q9': 0.5}"
    )
    assert "mixture.weights names no domain 'wob:en'" in message(
        recipe, {"by": "lang"}, "mixture={method: manual, weights: {'wob:en': 1}}"
    )
    assert "both match 'web:en'" in message(
        recipe, {"by": "lang"}, "mixture.floors={'web:e*': 0.1, 'web:*n': 0.1}"
    )
    rows = [{**row, "lang": ["a/b", "a b"][n % 2]} for n, row in enumerate(rows_of(40))]
    write(recipe.parent / "in", "jsonl", rows)
    assert re.search("'a b' and 'a/b' of 'lang' would both be called 'a_b'", message(
        recipe, {"by": "lang"}
    ))  # fmt: skip


def test_a_split_domain_of_which_nothing_is_left_is_named(
    recipe: Path, table: pl.DataFrame
) -> None:
    with pytest.raises(InputError, match=r"'web': no document is left, of 120 \(filtered 120\)"):
        split(recipe, {"by": "lang"}, where="bytes < 0")


def test_levels_divide_what_they_have(recipe: Path) -> None:
    rng = np.random.default_rng(2)
    names = [f"web:{topic}:q{n}" for topic in "abc" for n in range(1, 4)] + ["wiki"]
    supply = dict(zip(names, rng.integers(1, 100, len(names)).tolist(), strict=True))
    values = divided({"web:*:q3": 0.5, "web:a:q3": 0.1, "wiki": 0.2, "web:b:q1": 0}, supply, "w")
    assert values["web:a:q3"] == 0.1 and values["wiki"] == 0.2 and values["web:b:q1"] == 0
    assert values["web:b:q3"] + values["web:c:q3"] == pytest.approx(0.5)
    ratio = supply["web:b:q3"] / supply["web:c:q3"]
    assert values["web:b:q3"] / values["web:c:q3"] == pytest.approx(ratio)
    assert members_of({"web": 1}, names, "w") == {"web": names[:9]}


def test_a_curve_upsamples_buckets_within_a_weight(recipe: Path, table: pl.DataFrame) -> None:
    write(recipe.parent / "plain", "jsonl", rows_of(40))
    curve = [0, 1, 4]
    dataset = built(
        recipe,
        "mixture={method: manual, weights: {web: 0.75, plain: 0.25}}",
        "budget_tokens=8000",
        split={"by": "quality", "quantiles": 3, "curve": curve},
        where="quality IS NOT NULL",
    )
    rows = {name: row for name, row in dataset.certificate["domains"].items() if name != "plain"}
    assert sum(row["planned_tokens"] for row in rows.values()) == 6000
    tokens = [row.tokens for row in dataset.tokenized.stats][:3]
    rates = [
        row["planned_tokens"] / count for row, count in zip(rows.values(), tokens, strict=True)
    ]
    assert rates[0] == 0 and rates[2] / rates[1] == pytest.approx(4, rel=1e-2)


def test_curves_that_fit_nothing_are_refused(recipe: Path, table: pl.DataFrame) -> None:
    manual = "mixture={method: manual}"
    cut = {"by": "quality", "quantiles": 3}
    assert "has 1 number for 3 buckets; give one for each" in message(
        recipe, {**cut, "curve": [1]}, manual
    )
    assert "has 2 numbers for 3 buckets" in message(recipe, {**cut, "curve": [1, 2]}, manual)
    assert "leaves nothing" in message(recipe, {**cut, "curve": [0, 0, 0]}, manual)
    assert "only buckets have a curve" in message(recipe, {"by": "lang", "curve": [1]}, manual)
    assert "mixture.method is natural" in message(
        recipe, {**cut, "curve": [1, 2, 3]}, "mixture={method: natural}"
    )


def test_shrunk_sources_of_a_split_domain_count_once(recipe: Path, table: pl.DataFrame) -> None:
    write(recipe.parent / "plain", "jsonl", rows_of(40))
    fields: dict[str, Any] = {"split": {"by": "quality", "quantiles": 3}}
    overrides = ("mixture={method: natural}", "budget_tokens=3000", "limits.lost_share=0.9")
    built(recipe, *overrides, **fields)
    (recipe.parent / "in/part-00060.jsonl").unlink()
    domain = {"name": "web", "paths": "in", "license": "MIT", **fields}
    texts = (f"domains={json.dumps([domain])}", SMALL, *overrides)
    heard = Listener()
    stats = tokenize_domains(load(recipe, texts), 1, heard).stats
    assert [row.losses.shrunk.documents for row in stats] == [60, 0, 0, 0]
    (said,) = [notice for notice in heard.notices if "has shrunk" in notice]
    assert said.startswith("domain 'web' has shrunk since the last run here: 60 documents")
    assert [n for n in heard.notices if " is gone: " in n] == [
        "domain 'plain' is gone: it had 40 documents at the last run here"
    ]


@pytest.mark.usefixtures("own_store")
def test_damaged_sub_domains_are_split_again(recipe: Path, table: pl.DataFrame) -> None:
    before = by_name(split(recipe, {"by": "lang"}))
    (file,) = (recipe.parent / ".curate").rglob("*.buckets")
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-1] + bytes([content[-1] ^ 255])):
        file.write_bytes(damaged)
        heard = Listener()
        domain = {"name": "web", "paths": "in", "split": {"by": "lang"}}
        loaded = load(recipe, (f"domains={json.dumps([domain])}", SMALL))
        assert by_name(tokenize_domains(loaded, 1, heard)) == before
        assert f"{file.parent} is damaged: split again" in heard.notices
