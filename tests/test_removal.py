"""Documents taken out of datasets again: found, removed, and proved to be gone."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import make_documents, write_jsonl
from warm import run_curate

import curate
from curate.dataset.manifest import load_manifest
from curate.dataset.removal import compare, contents_left, read_state
from curate.errors import InputError
from curate.pipeline.show import open_dataset

pytestmark = pytest.mark.usefixtures("small_search")


@pytest.fixture
def dataset(tmp_path, bpe):
    """Build a dataset of three domains; returns its directory."""

    def write(form="megatron", budget_tokens=60_000, **keys):
        (tmp_path / "t.json").write_text(json.dumps(bpe), "utf-8")
        domains = []
        for name, documents in (("wiki", 800), ("code", 500), ("talk", 300)):
            rows = make_documents(name, documents)
            write_jsonl(tmp_path / "data" / f"{name}.jsonl", rows)
            domains.append({"name": name, "paths": f"data/{name}.jsonl"})
        recipe = {"name": "t", "tokenizer": {"path": "t.json", "eos": "<|endoftext|>"},
                  "domains": domains, "budget_tokens": budget_tokens,
                  "mixture": {"method": "temperature", "temperature": 2.0},
                  "validation": {"documents": 0.02},
                  "output": {"format": form, "shard_tokens": 5000}, **keys}  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), "utf-8")
        curate.build(tmp_path / "recipe.yaml", workers=1)
        return tmp_path / "out" / "t"

    return write


def held_rows(directory, documents):
    """Identifiers of documents in the training shards whose texts no other document has."""
    dataset = open_dataset(directory)
    standing = set()
    for number in dataset.provenance.shard_numbers("train"):
        rows = dataset.provenance.shard(number).rows
        standing |= set(zip(rows["domain"].tolist(), rows["document"].tolist(), strict=True))
    texts = Counter(int(content) for domain in dataset.domains for content in domain.content_high)
    names = [
        dataset.domains[domain].identifiers(np.array([document]))[0]
        for domain, document in sorted(standing)
        if texts[int(dataset.domains[domain].content_high[document])] == 1
    ]
    return np.random.default_rng(0).choice(names, documents, replace=False).tolist()


def listed(tmp_path, names):
    path = tmp_path / "ids.txt"
    path.write_text("".join(f"{name}\n" for name in names), "utf-8")
    return path


def test_a_hundred_documents_are_gone_and_the_shares_stay(dataset, tmp_path):
    directory = dataset()
    before = load_manifest(directory)
    state = read_state(directory, before)
    plan = json.loads((directory / "plan.json").read_text())["domains"]
    names = held_rows(directory, 100)
    path = listed(tmp_path, [*names, "no-such-document"])
    looked = curate.remove(directory, path)
    (of_dataset,) = looked.json["datasets"]
    assert len(of_dataset["documents"]) == 100 and of_dataset["in_shards"] == 100
    assert looked.json["unmatched"] == ["no-such-document"]
    shown = curate.show(directory, names[0]).documents[0]
    (held,) = [document for document in of_dataset["documents"] if document["id"] == names[0]]
    assert [place["position"] for place in held["places"]] == [p.position for p in shown.places]
    assert load_manifest(directory) == before  # a look changes nothing
    contents = {int(document["content"][:16], 16) for document in of_dataset["documents"]}
    assert contents_left(directory, before, contents) >= 100

    done = curate.remove(directory, path, rebuild=True)
    (of_dataset,) = done.json["datasets"]
    rebuilt = load_manifest(directory)
    assert of_dataset["copies"] == []
    assert contents_left(directory, rebuilt, contents) == 0
    for name in names:  # in no shard, and no longer in the domain
        shown = curate.show(directory, name)
        assert shown.documents == () and [row.reason for row in shown.removed] == ["excluded"]
    after = json.loads((directory / "plan.json").read_text())["domains"]
    certificate = json.loads((directory / "certificate.json").read_text())
    for name, domain in plan.items():
        assert after[name]["tokens"] == domain["tokens"]
        assert certificate["domains"][name]["realised_tokens"] == domain["tokens"]
    changed = of_dataset["rebuilt"]
    again = compare(state, read_state(directory, rebuilt, state.page_bytes))
    assert changed["changed_bytes"] == again.changed_bytes > 0
    assert 0 < changed["new_tokens"] < changed["tokens"] / 2
    assert curate.verify(directory, workers=1).ok
    assert curate.verify(directory, workers=1).json["excluded"] == {
        "names": 101, "in_shards": 0
    }  # fmt: skip


def test_verify_finds_what_a_longer_list_names(dataset, tmp_path):
    path = listed(tmp_path, ["no-such-document"])
    directory = dataset(exclude=str(path))
    assert curate.verify(directory, workers=1).ok
    (name,) = held_rows(directory, 1)
    listed(tmp_path, ["no-such-document", name])
    verdict = curate.verify(directory, workers=1)
    assert not verdict.ok
    assert any(f"holds 1 document that exclude lists, as '{name}'" in p for p in verdict.problems)
    curate.remove(directory, path, rebuild=True)
    assert curate.verify(directory, workers=1).ok


def test_names_are_added_to_the_recipe_s_list(dataset, tmp_path):
    kept = tmp_path / "kept.txt"
    kept.write_text("wiki-0")
    directory = dataset(exclude="kept.txt")
    (name,) = held_rows(directory, 1)
    new = listed(tmp_path, [name, "absent"])
    done = curate.remove([directory], new, rebuild=True)
    assert done.json["datasets"][0]["rebuilt"]["list"] == str(kept)
    assert kept.read_text() == f"wiki-0\n{name}\n"


def test_copies_that_stay_are_named_and_hashes_remove_them(dataset, tmp_path):
    directory = dataset()
    # Of ten documents, the last is a copy of the first.
    (of_dataset,) = curate.remove(directory, listed(tmp_path, ["wiki-0"])).json["datasets"]
    assert of_dataset["copies"] == ["wiki-9"]
    content = of_dataset["documents"][0]["content"]
    path = listed(tmp_path, [content])
    (of_dataset,) = curate.remove(directory, path, rebuild=True).json["datasets"]
    assert {document["id"] for document in of_dataset["documents"]} == {"wiki-0", "wiki-9"}
    assert of_dataset["copies"] == []
    assert contents_left(directory, load_manifest(directory), {int(content[:16], 16)}) == 0


def test_without_the_store_only_hashes_are_found(dataset, tmp_path):
    directory = dataset()
    name = held_rows(directory, 1)[0]
    content = curate.show(directory, name).documents[0].content
    (tmp_path / ".curate").rename(tmp_path / "away")
    (of_dataset,) = curate.remove(directory, listed(tmp_path, [name, content])).json["datasets"]
    assert [document["name"] for document in of_dataset["documents"]] == [content]
    with pytest.raises(InputError, match="cannot be rebuilt without its token store"):
        curate.remove(directory, tmp_path / "ids.txt", rebuild=True)


def test_the_command(dataset, tmp_path):
    directory = dataset()
    name = held_rows(directory, 1)[0]
    path = listed(tmp_path, [name])
    done = run_curate("remove", directory, path)
    said = " ".join(done.stdout.split())
    assert "1 of 1 listed document, 1 in shards" in said
    assert f"curate remove {directory} {path} --rebuild" in said
    done = run_curate("remove", directory, path, "--rebuild")
    said = " ".join(done.stdout.split())
    assert "of shard bytes changed" in said and "none is left" in said
    path.write_text("\n")
    refused = run_curate("remove", directory, path)
    assert refused.returncode == 2 and "lists no document" in refused.stderr


def test_pages_that_changed_are_counted(dataset):
    directory = dataset()
    manifest = load_manifest(directory)
    before = read_state(directory, manifest, 1000)
    assert compare(before, before).changed_bytes == 0
    path = sorted((directory / "train").glob("*.bin"))[0]
    content = bytearray(path.read_bytes())
    content[1500] ^= 1
    path.write_bytes(content)
    changed = compare(before, read_state(directory, manifest, 1000))
    assert (changed.changed_shards, changed.changed_bytes) == (1, 1000)
    assert changed.new_tokens == 0
    assert np.isclose(changed.changed_share, 1000 / changed.bytes)
