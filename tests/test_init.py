"""Recipes that `curate init` writes for directories of many kinds, built."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner
from conftest import END, make_documents

import curate
from curate.cli import cli
from curate.errors import InputError
from curate.recipe import load
from curate.sources import proposals

LIBRARY = Path(sysconfig.get_path("stdlib"))


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def table(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def texts(domain: str, documents: int, seed: int = 0) -> list[str]:
    return [row["text"] for row in make_documents(domain, documents, seed)]


def json_lines(root: Path) -> dict[str, int]:
    for name in ("wiki", "code"):
        rows = make_documents(name, 120)
        compressed = zstandard.ZstdCompressor().compress(lines(rows[:60]))
        write(root / name / "part-0.jsonl.zst", compressed)
        write(root / name / "part-1.jsonl", lines(rows[60:]))
    write(root / "talk-0.jsonl.gz", gzip.compress(lines(make_documents("talk", 40))))
    write(root / "talk-1.jsonl.bz2", bz2.compress(lines(make_documents("talk", 40, 2))))
    return {"code": 120, "talk": 80, "wiki": 120}


def two_text_columns(root: Path) -> dict[str, int]:
    story = texts("wiki", 200)
    table(
        root / "stories-0.parquet",
        uid=[f"u{number}" for number in range(200)],
        summary=[text[:120] for text in story],
        story=story,
    )
    return {"stories": 200}


def code_tree(root: Path) -> dict[str, int]:
    python = [path for name in ("json", "logging") for path in (LIBRARY / name).glob("*.py")]
    for path in python:
        write(root / "src" / path.parent.name / path.name, path.read_bytes())
    write(root / "src" / "empty.py", b"")
    write(root / "src" / "blank.py", b"\n")
    write(root / "src" / "fast.c", b"int main(void) { return 0; }\n" * 400)
    write(root / "docs" / "guide.md", b"# Guide\n" + b"Words of a guide, one by one. " * 400)
    write(root / "README.md", b"# A tree of code\n" * 100)
    write(root / "Makefile", b"all:\n\techo hello\n")
    write(root / "logo.png", bytes(range(256)) * 8)
    write(root / "package.json", b'{"name": "tree", "description": "no document at all, really"}')
    write(root / "data" / "numbers.csv", b"a,b\n" + b"1,2\n" * 20)
    return {"python": len(python), "documentation": 2, "c": 1, "other": 1}


def hub_download(root: Path) -> dict[str, int]:
    for number in range(2):
        table(
            root / "data" / f"train-0000{number}-of-00002.parquet",
            id=range(number * 80, number * 80 + 80),
            content=texts("wiki", 160)[number * 80 : number * 80 + 80],
            lang=["xx"] * 80,
        )
    table(root / "data" / "test-00000-of-00001.parquet", id=range(9), content=texts("talk", 9),
          lang=["xx"] * 9)  # fmt: skip
    write(root / "README.md", b"---\nlicense: cc-by-4.0\nlanguage: [xx]\n---\n# A dataset\n")
    write(root / ".gitattributes", b"*.parquet filter=lfs\n")
    return {"hub_download": 160}


def mixed(root: Path) -> dict[str, int]:
    write(root / "wiki" / "a.jsonl", lines(make_documents("wiki", 100)))
    write(root / "wiki" / "meta.jsonl", b'{"id": 1, "count": 3}\n' * 5)
    write(root / "wiki" / "README.md", b"about these files")
    python = sorted((LIBRARY / "json").glob("*.py"))
    for path in python:
        write(root / "code" / "pkg" / path.name, path.read_bytes())
    for row in make_documents("talk", 30):
        write(root / "notes" / f"{row['id']}.txt", row["text"].encode())
    table(root / "papers.parquet", key=range(90), body=texts("code", 90))
    quoted = [f'{number},"{text.strip()}"\n' for number, text in enumerate(texts("talk", 50, 4))]
    write(root / "faq.csv", ("id,text\n" + "".join(quoted)).encode())
    nested = [{"doc": {"body": text}, "id": n} for n, text in enumerate(texts("wiki", 40, 7))]
    write(root / "posts.json", json.dumps(nested).encode())
    write(root / "old.zip", b"PK\x03\x04" + bytes(100))
    return {"wiki": 100, "code": len(python), "notes": 30, "papers": 90, "faq": 50, "posts": 40}


DIRECTORIES = [json_lines, two_text_columns, code_tree, hub_download, mixed]


@pytest.mark.parametrize("make", DIRECTORIES, ids=lambda make: make.__name__)
def test_the_recipe_that_is_written_builds(
    make: Callable[[Path], dict[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every record and file that holds text is in its domain, and nothing else is."""
    monkeypatch.chdir(tmp_path)
    expected = make(tmp_path / make.__name__)
    result = curate.init(make.__name__)
    assert result.path == f"{make.__name__}.yaml"
    planned = curate.plan(result.path, workers=1)
    assert planned.json["budget_tokens"] == load(Path(result.path)).recipe.budget_tokens
    built = curate.build(result.path, workers=1)
    assert built.ok
    assert built.stats is not None
    domains = built.stats["domains"]
    assert {name: row["documents"] for name, row in domains.items()} == expected
    lost = {name: row["bad_records"] for name, row in domains.items() if row["bad_records"]}
    assert lost == ({"python": 2} if make is code_tree else {})  # an empty file and a blank one
    assert set(result.domains) == set(expected)
    comments = Path(result.path).read_text()
    assert all(f"unsure: {one}"[:40] in comments.replace("\n# ", " ").replace("\n  # ", " ")
               for one in result.unsure if not one.startswith("'"))  # fmt: skip
    with pytest.raises(InputError, match=r"exists, and init overwrites nothing; .*--recipe"):
        curate.init(make.__name__)


def test_what_it_was_unsure_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    two_text_columns(tmp_path / "tables")
    result = curate.init("tables")
    recipe = load(Path(result.path)).recipe
    assert (recipe.domains[0].text, recipe.domains[0].id) == ("story", "uid")
    assert result.unsure[0].startswith("'stories': the text may be in another field: 'story' has")
    assert "'summary' (1" in result.unsure[0]
    assert "no tokenizer.json is in, above or beside" in result.unsure[1]
    assert "budget_tokens" in result.unsure[2]
    hub_download(tmp_path / "hub")
    result = curate.init("hub")
    recipe = load(Path(result.path)).recipe
    assert recipe.domains[0].license == "cc-by-4.0"
    assert result.left_out == (
        "1 file, describes the data beside it: README.md",
        "1 file of 'hub', named as a split for test: data/test-00000-of-00001.parquet",
    )
    mixed(tmp_path / "mixed")
    left_out = curate.init("mixed").left_out
    assert "files of 'wiki' without the field 'text': wiki/meta.jsonl" in left_out
    assert "1 file, an archive, or no UTF-8 text: old.zip" in left_out


@pytest.mark.parametrize("place", ["inside", "above"])
def test_a_tokenizer_nearby_is_taken(
    place: str, bpe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "models" / "data"
    write(root / "wiki.jsonl", lines(make_documents("wiki", 60)))
    home = root if place == "inside" else root.parent
    write(home / "tokenizer.json", json.dumps(bpe).encode())
    result = curate.init(root)
    recipe = load(Path(result.path)).recipe
    assert recipe.tokenizer.path == str((home / "tokenizer.json").relative_to(tmp_path))
    assert recipe.tokenizer.eos == END
    assert "is taken as the end of a document" in result.unsure[-2]
    assert result.domains == ("wiki",)
    assert curate.build(result.path, workers=1).ok
    bpe = {**bpe, "added_tokens": []}
    write(home / "tokenizer.json", json.dumps(bpe).encode())
    result = curate.init(root, recipe="other.yaml")
    assert load(Path("other.yaml")).recipe.tokenizer.train is not None
    assert "none of its special tokens is a usual end token" in result.unsure[-2]


def test_a_config_names_the_end_token(
    bpe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "wiki.jsonl", lines(make_documents("wiki", 60)))
    config = b'{"eos_token": {"content": "<|pad|>"}}'
    write(tmp_path / "tokenizer_config.json", config)
    for special, eos in ((END, END), ("<|im_start|>", "<|pad|>"), ("</s>", "</s>")):
        definition = json.dumps(bpe).replace(END, special).encode()
        write(tmp_path / "tokenizer.json", definition)
        result = curate.init(".", recipe=f"{len(special)}.yaml")
        assert load(Path(result.path)).recipe.tokenizer.eos == eos
        assert "names '<|pad|>', which may end a turn of a chat" in result.unsure[-2]
        assert result.domains == ("wiki",)
    write(tmp_path / "tokenizer_config.json", b'{"eos_token": "</s>"}')
    result = curate.init(".", recipe="stated.yaml")
    assert "tokenizer_config.json names '</s>' as the end token" in result.unsure[-2]


def test_a_recipe_inside_the_directory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(texts("wiki", 30)):
        write(tmp_path / f"{number}.txt", text.encode())
    result = curate.init(".")
    built = curate.build(result.path, workers=1)
    assert built.stats is not None
    assert [row["documents"] for row in built.stats["domains"].values()] == [30]


def test_very_many_directories_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(texts("wiki", 60)):
        letters = "".join(chr(97 + int(digit)) for digit in str(number))
        write(tmp_path / "many" / f"repo-{letters}" / "a.txt", text.encode())
        write(tmp_path / "dates" / f"2024-{number:02}" / "a.jsonl", lines([{"text": text}]))
    result = curate.init("many")
    assert result.domains == ("many",)
    assert "it joins 60 directories or names of files" in result.unsure[0]
    result = curate.init("dates")  # partitions, which are no domains
    assert result.domains == ("dates",)
    assert curate.plan(result.path, workers=1)


def test_a_first_record_longer_than_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    book = " ".join(texts("wiki", 400))
    assert len(book) > 100_000
    write(tmp_path / "data" / "books.jsonl", lines([{"isbn": "1", "body": book}] * 2))
    curate.init("data")
    assert load(Path("data.yaml")).recipe.domains[0].text == "body"


def test_a_damaged_file_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        table(tmp_path / "data" / f"part-{number}.parquet", body=texts("wiki", 30, number))
    whole = (tmp_path / "data" / "part-0.parquet").read_bytes()
    (tmp_path / "data" / "part-0.parquet").write_bytes(whole[: len(whole) // 2])
    curate.init("data")
    (domain,) = load(Path("data.yaml")).recipe.domains
    assert domain.text == "body"


def test_hostile_names_and_texts_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comments stay comments and names are quoted, whatever a file says."""
    monkeypatch.chdir(tmp_path)
    text = "first\nbudget_tokens: 1\n\x1b[31mred \u2028" + "word " * 50
    field = 'te"xt: {a: 1} # \n'
    rows = [{field: f"{text} {number}"} for number in range(20)]
    write(tmp_path / "data" / "a: b # c.jsonl", lines(rows))
    write(tmp_path / "data" / "true.jsonl", lines(make_documents("wiki", 20)))
    write(tmp_path / "data" / "README.md", b"---\nlicense: 'no: way # or so'\n---\n")
    result = curate.init("data")
    recipe = load(Path(result.path)).recipe
    assert {domain.name: domain.text for domain in recipe.domains} == {
        "a-b-c": field, "true": "text",
    }  # fmt: skip
    assert {domain.license for domain in recipe.domains} == {"no: way # or so"}
    assert "\x1b" not in result.text
    assert result.text.isascii() or result.text.replace("\n", "").isprintable()


def test_directories_without_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="not a directory; name one that holds"):
        curate.init("gone")
    chat = {"messages": [{"role": "user", "content": "hello there, how are you?"}]}
    write(tmp_path / "chat" / "a.jsonl", lines([chat] * 3))
    with pytest.raises(InputError, match=r"no text to make domains of: 1 file .* without a field"):
        curate.init("chat")
    with pytest.raises(InputError, match="directories of this machine only"):
        curate.init("s3://bucket/data")
    assert not list(tmp_path.glob("*.yaml"))


def test_a_snapshot_of_the_hub_cache_has_its_repository_as_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, files are links to blobs that are named by hashes."""
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "hub" / "datasets--owner--words"
    blob = write(cache / "blobs" / "0f1e", lines(make_documents("wiki", 40)))
    link = cache / "snapshots" / ("ab" * 20) / "train.jsonl"
    link.parent.mkdir(parents=True)
    os.symlink(blob, link)
    result = curate.init(link.parent)
    assert (result.path, result.domains) == ("words.yaml", ("words",))
    assert curate.plan(result.path, workers=1)


def test_the_current_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    json_lines(tmp_path / "texts")
    monkeypatch.chdir(tmp_path / "texts")
    result = curate.init(".", recipe=tmp_path / "a.yaml")
    assert result.text.startswith("# A first recipe for texts, written by curate init.")


def test_a_recipe_inside_the_data_is_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "notes"
    data.mkdir()
    for number in range(4):
        (data / f"{number}.yaml").write_text(f"number: {number}\n" + "words: of a text\n" * 90)
    monkeypatch.chdir(data)
    result = curate.init(".")
    assert result.path == str(tmp_path / "notes.yaml")
    (domain,) = curate.stats(result.path, workers=1).json["domains"].values()
    assert domain["files"] == 4
    with pytest.raises(InputError, match=r"domain '.*' would read the recipe as text; write it"):
        curate.init(".", recipe="x.yaml")
    json_lines(tmp_path / "texts")  # whose files have other names
    monkeypatch.chdir(tmp_path / "texts")
    assert curate.init(".").path == "texts.yaml"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    json_lines(tmp_path / "my data")
    printed = CliRunner().invoke(cli, ["init", "my data"]).output.splitlines()
    assert printed[0] == "wrote my-data.yaml with 3 domains: code, talk, wiki"
    assert printed[-1] == "next: curate plan my-data.yaml"
    again = CliRunner().invoke(cli, ["init", "my data", "--recipe", "b.yaml", "--json"])
    assert json.loads(again.output)["domains"] == ["code", "talk", "wiki"]
    quiet = CliRunner().invoke(cli, ["init", "my data", "--recipe", "c.yaml", "-q"])
    assert quiet.output == "" and Path("c.yaml").is_file()
    rows = CliRunner().invoke(cli, ["init", "my data", "--recipe", "d.yaml", "--csv"]).output
    assert rows.splitlines()[:2] == ["kind,what", "domain,code"]
    shutil.rmtree(tmp_path / "my data")


@pytest.mark.parametrize(
    ("name", "stem"),
    [("wiki_en.jsonl.zst", "wiki_en"), ("train-00000-of-00010-abcd.parquet", "train-abcd"),
     ("shard_00001.jsonl", "shard"), ("c4.jsonl", "c"), ("2024.txt", "")],
)  # fmt: skip
def test_stems_of_file_names(name: str, stem: str) -> None:
    assert proposals.stem_of(name) == stem
