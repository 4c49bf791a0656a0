"""Datasets in a bucket: written as on disk, resumed, verified, loaded, and refused in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import RECIPE, Listener, slow_if
from s3_server import Faults, running

import curate
from curate.errors import EngineError, InputError, RecipeError, ShardError
from curate.formats import FORMATS
from curate.recipe import load
from curate.runtime.files import bucket_url
from curate.runtime.locks import directory_lock, holder_line
from curate.runtime.transfers import describe, write_new
from curate.runtime.workers import on_cluster

URL = "s3://b/my mixes/mix"
DIR = "my mixes/mix/"
DERIVED = ("manifest.json", "certificate.json", "croissant.json")
"""Files that hold the hash of `recipe.yaml`, which states the place of the dataset."""


@pytest.fixture
def store(monkeypatch, tmp_path):
    with running("b") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CURATE_STORE_SECONDS", "20")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        yield store


def build(recipe, url=URL, *overrides, workers=1, **options):
    texts = [f"output.dir={json.dumps(str(url))}", "output.shard_tokens=10000", *overrides]
    return curate.build(load(recipe, tuple(texts)), workers=workers, **options)


def objects(store, prefix=DIR):
    return {
        key.removeprefix(prefix): stored.data
        for key, stored in store.buckets["b"].items()
        if key.startswith(prefix)
    }


def on_disk(directory):
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def without_recipe(content):
    """A derived file without its hash and what it says of `recipe.yaml`."""
    fields = json.loads(content)
    fields.pop("xxh3", None)
    for key in ("files", "distribution"):
        rows = fields.get(key, [])
        fields[key] = [row for row in rows if "recipe.yaml" not in (row.get("path"), row.get("@id"))
                       and row.get("path") != "croissant.json"]  # fmt: skip
    return fields


def assert_same(sent, written):
    assert sorted(sent) == sorted(written)
    for name in set(sent) - {*DERIVED, "recipe.yaml"}:
        assert sent[name] == written[name], name
    for name in DERIVED:
        assert without_recipe(sent[name]) == without_recipe(written[name]), name


QUICK = ("megatron", "mds", "parquet", "webdataset", "llmc nanogpt")


@pytest.mark.parametrize(
    "options",
    slow_if(lambda name: name not in QUICK, [*FORMATS, "llmc nanogpt", "parquet nanochat"]),
)
def test_a_bucket_holds_what_a_directory_would_despite_faults(recipe, store, options):
    name, _, variant = options.partition(" ")
    overrides = [f"output.format={name}", *([f"output.options.variant={variant}"] * bool(variant))]
    local = recipe.parent / "local"
    build(recipe, local, *overrides)
    store.faults = Faults(seed=7, share=0.2, most=1, slow_seconds=0.01)
    built = build(recipe, URL, *overrides)
    assert built.ok and built.path == f"{URL}/certificate.json" and built.directory == URL
    assert sum(store.faults.drawn.values()) > 5
    assert_same(objects(store), on_disk(local))


def test_several_processes_send_the_same(recipe, store):
    build(recipe, "s3://b/one")
    build(recipe, "s3://b/two", workers=3)
    assert_same(objects(store, "two/"), objects(store, "one/"))


def test_manifest_and_certificate_come_last_after_the_rest_was_read_back(recipe, store):
    build(recipe)
    asked = [(row[0], row[1].removeprefix(f"/b/{DIR}")) for row in store.requests]
    last = asked.index(("PUT", "manifest.json"))
    assert last < asked.index(("PUT", "certificate.json"))
    assert {name for verb, name in asked[last:] if verb == "PUT"} == {
        "manifest.json", "certificate.json",
    }  # fmt: skip
    shards = [name for name in objects(store) if name.startswith(("train/", "validation/"))]
    for name in shards:
        assert asked.index(("PUT", name)) < asked.index(("GET", name)) < last


def test_large_files_are_sent_in_parts_with_checksums(store, tmp_path):
    from curate.runtime.transfers import download, upload

    path = tmp_path / "large"
    path.write_bytes(np.random.default_rng(0).bytes(20 << 20))
    store.faults = Faults(seed=3, share=0.4, most=1, slow_seconds=0.01)
    upload(path, f"{URL}/large")
    assert objects(store)["large"] == path.read_bytes()
    assert len({row[2] for row in store.requests if "partNumber" in row[2]}) == 3
    sent = len(store.asked("PUT"))
    upload(path, f"{URL}/large")
    assert len(store.asked("PUT")) == sent  # it was there
    assert download(f"{URL}/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    upload(path, f"{URL}/large")
    assert objects(store)["large"] == path.read_bytes()


def test_staging_holds_no_more_than_the_shards_in_hand(recipe, store):
    staging = load(recipe, (f"output.dir={json.dumps(URL)}",)).output_dir
    largest = [0]

    def measure(_):
        files = (path for path in staging.glob("*/*") if path.is_file())
        largest[0] = max(largest[0], sum(path.stat().st_blocks * 512 for path in files))

    store.before = measure
    build(recipe, URL, "budget_tokens=60000", "max_epochs=9", "output.shard_tokens=2000")
    sizes = [len(data) for name, data in objects(store).items() if "/" in name]
    assert len(sizes) > 60
    assert largest[0] <= 2 * (max(sizes) + 4096) + 8192  # a shard and its provenance
    assert not [path for path in staging.rglob("*") if path.is_file()]


def test_the_same_again_sends_nothing_but_reads_all(recipe, store):
    build(recipe)
    first = objects(store)
    store.requests.clear()
    heard = Listener()
    assert build(recipe, progress=heard).ok
    assert "built already: reading it back" in heard.notices
    assert [row[1] for row in store.asked("PUT")] == [f"/b/{DIR}.curate.lock"]
    read = {row[1] for row in store.asked("GET")}
    assert all(f"/b/{DIR}{name}" in read for name in first if name.startswith("train/"))
    assert objects(store) == first


@pytest.mark.parametrize("killed_after", slow_if(lambda writes: writes != 14, [3, 14, 45]))
def test_a_killed_build_goes_on_with_what_is_there(recipe, store, tmp_path, killed_after):
    build(recipe, "s3://b/whole")
    whole = objects(store, "whole/")
    writes = []

    def count(handler):
        if handler.command in ("PUT", "DELETE"):
            writes.append(handler.key)
            if len(writes) == killed_after:
                os.kill(child.pid, signal.SIGKILL)
                child.wait()

    command = [sys.executable, "-m", "curate.cli", "build", str(recipe), "--out", URL,
               "--set", "output.shard_tokens=10000", "--workers", "1", "-q"]  # fmt: skip
    store.before = count
    child = subprocess.Popen(command)
    child.wait()
    store.before = None
    was_killed = child.returncode == -signal.SIGKILL
    assert was_killed or killed_after > 40
    if was_killed and "manifest.json" not in objects(store):
        with pytest.raises(ShardError, match=r"no manifest\.json, so no finished dataset"):
            curate.load(URL, 128)
    there = {name for name in objects(store) if name.startswith("train/")}
    time.sleep(0.3)  # its helper ends with it
    store.requests.clear()
    assert build(recipe).ok
    sent = {row[1].removeprefix(f"/b/{DIR}") for row in store.asked("PUT")}
    assert not sent & there
    assert_same(objects(store), whole)


def test_another_recipe_replaces_a_dataset_only_when_told(recipe, store):
    build(recipe)
    store.put("b", f"{DIR}notes.txt", b"mine")
    with pytest.raises(
        ShardError, match=rf"^{URL}: holds a dataset of another recipe.*--overwrite"
    ):
        build(recipe, URL, "seed=3", "output.format=npy")
    assert build(recipe, URL, "seed=3", "output.format=npy", overwrite=True).ok
    build(recipe, "s3://b/fresh", "seed=3", "output.format=npy")
    replaced = objects(store)
    assert replaced.pop("notes.txt") == b"mine"
    assert_same(replaced, objects(store, "fresh/"))


def test_foreign_objects_are_not_touched(recipe, store):
    store.put("b", f"{DIR}train/mine.txt", b"mine")
    store.put("b", f"{DIR}stats.json", b"[1]")
    before = objects(store)
    with pytest.raises(ShardError, match=rf"^{URL}: holds 1 file that curate did not write"):
        build(recipe)
    assert objects(store) == before


def test_two_builds_do_not_write_to_one_prefix(recipe, store):
    line = holder_line({}).replace(b'"process": ', b'"process": 1')
    other = line.replace(os.uname().nodename.encode(), b"node-3")
    store.put("b", f"{DIR}.curate.lock", other)
    with pytest.raises(
        ShardError, match=r"of node-3 .* type: aws s3 rm 's3://b/my mixes/mix/\.cur"
    ):
        build(recipe)
    staging = load(recipe, (f"output.dir={json.dumps(URL)}",)).output_dir
    with (
        directory_lock(staging),
        pytest.raises(ShardError, match=rf"^{URL}: process {os.getpid()} .* has locked it; wait"),
    ):
        build(recipe)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    line = json.dumps({"machine": os.uname().nodename, "process": dead.pid, "since": 0.0})
    store.put("b", f"{DIR}.curate.lock", line.encode())
    assert build(recipe).ok  # that process has ended
    assert ".curate.lock" not in objects(store)
    assert write_new(f"{URL}/a", b"1") and not write_new(f"{URL}/a", b"2")
    assert write_new(f"{URL}/a", b"1")  # the first answer was lost


def test_verify_reads_the_bucket_and_writes_its_verdict_there(recipe, store, tmp_path):
    built = build(recipe)
    store.faults = Faults(seed=5, share=0.3, most=2, slow_seconds=0.01)
    again = curate.verify(URL, workers=1)
    assert again.ok and again.json["shards"] == built.json["shards"]
    assert again.path == f"{URL}/certificate.json"
    name = next(name for name in objects(store) if name.startswith("train/"))
    data = objects(store)[name]
    store.put("b", DIR + name, data[:-1] + bytes([data[-1] ^ 1]))
    assert curate.verify(URL, workers=1).problems == [
        f"{name}: content differs from the manifest's hash"
    ]
    assert not json.loads(objects(store)["certificate.json"])["ok"]
    del store.buckets["b"][DIR + name]
    assert f"{name}: missing" in curate.verify(URL, report=tmp_path / "v.json").problems
    store.put("b", f"{DIR}manifest.json", objects(store)["manifest.json"][:-9])
    (problem,) = curate.verify(URL, report=tmp_path / "v.json", workers=1).problems
    assert problem.startswith(f"{URL}/manifest.json: ")
    assert build(recipe).ok  # which mends it
    assert objects(store)[name] == data
    assert not list((tmp_path / "xdg" / "curate" / "buckets").iterdir())


@pytest.mark.parametrize("key", ["train//more.npy", "train/../more.npy", "train/more\x01.npy"])
def test_an_object_among_the_shards_that_no_file_can_stand_for_is_named(recipe, store, key):
    build(recipe)
    store.put("b", f"{DIR}notes//mine.txt", b"mine")
    assert curate.verify(URL, workers=1).ok
    store.put("b", DIR + key, b"more")
    with pytest.raises(ShardError, match=r"more.*\.npy: no file can have this name"):
        curate.verify(URL, workers=1)
    with pytest.raises(ShardError, match="no file can have this name"):
        build(recipe, overwrite=True)


def test_a_store_that_fails_is_never_a_fact_about_the_dataset(recipe, store, monkeypatch):
    monkeypatch.setenv("CURATE_STORE_SECONDS", "1")
    build(recipe)
    before = objects(store)

    def fall(handler):
        store.is_down = handler.command == "GET" and "/train/" in handler.path

    store.before = fall
    with pytest.raises(EngineError, match=rf"^{URL}/train/.*: cannot be reached"):
        curate.verify(URL, workers=1)
    store.is_down, store.before = False, None
    assert objects(store) == before
    store.before = lambda handler: setattr(
        store, "is_down", handler.key.endswith("shard-00001.bin")
    )
    with pytest.raises(EngineError, match="cannot be reached"):
        build(recipe, "s3://b/other")
    store.is_down, store.before = False, None
    assert "manifest.json" not in objects(store, "other/")
    assert build(recipe, "s3://b/other").ok
    assert_same({k: v for k, v in objects(store, "other/").items() if k != ".curate.lock"}, before)


def test_load_copies_the_split_once_and_gives_what_a_directory_gives(recipe, store, tmp_path):
    local = tmp_path / "local"
    build(recipe, local)
    build(recipe)
    expected, data = curate.load(local, 64), curate.load(URL, 64)
    assert len(data) == len(expected)
    assert np.array_equal(data[5]["tokens"], expected[5]["tokens"])
    store.requests.clear()
    assert len(curate.load(URL, 64)) == len(expected)
    assert {row[1] for row in store.requests} == {f"/b/{DIR}manifest.json"}
    assert len(curate.load(URL, 64, split="validation")) > 0
    name = next(name for name in objects(store) if name.startswith("train/"))
    build(recipe, URL, "seed=5", overwrite=True)
    store.put("b", DIR + name, bytes(len(objects(store)[name])))
    with pytest.raises(ShardError, match=rf"^{URL}/{name}: content differs .* curate verify {URL}"):
        curate.load(URL, 64)


def in_stages(corpus, cache, place, anneal="natural", **changes):
    value = yaml.safe_load(RECIPE.format(data=corpus / "data"))
    del value["budget_tokens"]
    value |= {"mixture": {"method": "natural"}, "cache": str(cache)}
    value["output"] = {"format": "npy", "dir": str(place), "shard_tokens": 4000}
    value["stages"] = [
        {"name": "main", "budget_tokens": 12_000},
        {"name": "anneal", "budget_tokens": 6_000, "mixture": {"method": anneal}},
    ]
    return value | changes


def test_stages_are_kept_in_a_bucket_too(corpus, cache, store, tmp_path):
    local = tmp_path / "local"
    expected = curate.build(in_stages(corpus, cache, local), workers=1)
    store.faults = Faults(seed=13, share=0.2, most=1, slow_seconds=0.01)
    built = curate.build(in_stages(corpus, cache, URL), workers=1)
    assert built.ok and built.path == f"{URL}/certificate.json"
    assert built.json["domains"] == expected.json["domains"]
    sent, written = objects(store), on_disk(local)
    assert sorted(sent) == sorted(written)
    for name in sent:
        if name.rpartition("/")[2] not in {*DERIVED, "recipe.yaml", "README.md"}:
            assert sent[name] == written[name], name
    verified = curate.verify(URL, workers=1)
    assert verified.ok and verified.json["stages"] == built.json["stages"]
    data = curate.load(URL, 32)
    assert [len(data.stages[name]) for name in data.stages] == [
        len(curate.load(local / name, 32)) for name in ("main", "anneal")
    ]
    # A later stage that changes leaves the earlier one, and its objects, alone.
    store.requests.clear()
    curate.build(in_stages(corpus, cache, URL, "uniform"), workers=1, overwrite=True)
    shards = {row[1].removeprefix(f"/b/{DIR}") for row in store.asked("PUT") if "/train/" in row[1]}
    assert shards and all(name.startswith("anneal/train/") for name in shards)
    assert curate.verify(URL, workers=1).ok
    # A dataset without stages takes their place only when told, and leaves nothing of them.
    plain = in_stages(corpus, cache, URL) | {"budget_tokens": 9_000}
    del plain["stages"]
    with pytest.raises(ShardError, match=rf"^{URL}: holds a dataset in stages"):
        curate.build(plain, workers=1)
    assert curate.build(plain, workers=1, overwrite=True).ok
    assert not [name for name in objects(store) if name.startswith(("main/", "anneal/"))]
    assert curate.verify(URL, workers=1).ok
    assert curate.build(in_stages(corpus, cache, URL), workers=1, overwrite=True).ok
    assert sorted(objects(store)) == sorted(written)


@pytest.mark.usefixtures("own_store")
def test_a_second_machine_tokenises_nothing(recipe, store, tmp_path, monkeypatch):
    local = tmp_path / "local"
    build(recipe, local)
    with recipe.open("a") as file:
        file.write("cache: s3://b/the store\n")
    store.faults = Faults(seed=11, share=0.3, most=1, slow_seconds=0.01)
    first = tmp_path / "first"
    build(recipe, first, workers=2)
    parts = {name for name in objects(store, "the store/") if name.endswith("part.json")}
    asked = [row[1] for row in store.asked("PUT", "/b/the store/")]
    assert parts and all(asked.index(f"/b/the store/{name}") > asked.index(
        f"/b/the store/{name.removesuffix('part.json')}bad.jsonl") for name in parts)  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine-2"))
    heard = Listener()
    build(recipe, tmp_path / "second", progress=heard)
    assert "tokenise" not in heard.begun
    fetched = [
        notice for notice in heard.notices if "token store fetched from s3://b/the" in notice
    ]
    assert len(fetched) == 1
    assert sorted(on_disk(tmp_path / "second")) == sorted(on_disk(local))
    for directory in ("first", "second"):
        shards = {k: v for k, v in on_disk(tmp_path / directory).items() if k.startswith("train/")}
        assert shards == {k: v for k, v in on_disk(local).items() if k.startswith("train/")}
    # Only what is needed is fetched, and what is damaged there is made again.
    damaged = next(name for name in objects(store, "the store/") if name.endswith("tokens.bin"))
    store.put("b", f"the store/{damaged}", b"\0" * len(objects(store, "the store/")[damaged]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine-3"))
    heard = Listener()
    assert build(recipe, tmp_path / "third", progress=heard).ok
    assert any(
        "tokens.bin is damaged: what no other part holds is tokenised" in n for n in heard.notices
    )
    assert (
        on_disk(tmp_path / "third")["train/shard-00000.bin"]
        == (on_disk(local)["train/shard-00000.bin"])
    )


def test_machines_of_a_cluster_cannot_share_a_cache_in_a_bucket(recipe, store):
    class Machines:
        cores = 2

    with on_cluster(Machines()):
        with pytest.raises(RecipeError, match="cache: s3://b/c: the machines of a cluster must"):
            build(recipe, recipe.parent / "out", "cache=s3://b/c")


def test_after_a_cluster_a_process_says_that_it_cannot_fork(store):
    program = """
from curate.runtime.objects import list_objects
from curate.runtime.workers import on_cluster
class Machines: cores = 2
with on_cluster(Machines()):
    print(list_objects("s3://b/x"))
list_objects("s3://b/x")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "[]\n"
    assert "this process has used object storage with a cluster" in done.stderr


@pytest.mark.usefixtures("own_store")
def test_a_part_that_could_not_be_sent_is_sent_by_the_next_run(recipe, store, tmp_path):
    with recipe.open("a") as file:
        file.write("cache: s3://b/store\n")
    store.denied = ("PUT /b/store/.*part.json",)
    with pytest.raises(InputError, match="access is denied"):
        build(recipe, tmp_path / "out")
    assert not [name for name in objects(store, "store/") if name.endswith("part.json")]
    store.denied = ()
    assert build(recipe, tmp_path / "out").ok
    assert [name for name in objects(store, "store/") if name.endswith("part.json")]


def test_what_a_bucket_cannot_do_is_said_in_one_line(recipe, store, tmp_path):
    def refused(kind, text, *overrides, url=URL):
        with pytest.raises(kind, match=text):
            build(recipe, url, *overrides)

    refused(InputError, r"s3://none/mix.*: there is no such bucket; check", url="s3://none/mix")
    refused(RecipeError, "cache: https://b/c cannot be written to", "cache=https://b/c")
    for url in (
        "s3://me:secret@b/x",
        "s3://me:se/secret@b/x",
        "s3://b/x?sig=secret",
        "https://b/x",
        "s3://b/a/../c",
        "s3://b//c",
    ):
        with pytest.raises(RecipeError, match="output.dir: .* cannot be written to") as caught:
            build(recipe, url)
        assert "secret" not in str(caught.value)
    for call in (
        lambda: curate.push(URL, "me/mix"),
        lambda: curate.remove(URL, "ids.txt"),
    ):
        with pytest.raises(InputError, match=rf"^{URL}: \w+ reads directories; .* aws s3 cp "):
            call()
    for url in ("s3://me:secret@b", "s3://b/x?X-Amz-Signature=secret", "gs://me:se/secret@b/x"):
        for call in (curate.verify, curate.report, partial(curate.load, sequence_length=8),
                     partial(curate.diff, b=url), partial(curate.show, query="train/a:0"),
                     lambda url: curate.report(recipe, directory=url)):  # fmt: skip
            with pytest.raises(InputError) as caught:
                call(url)
            assert "secret" not in str(caught.value)
    assert not list(tmp_path.rglob("*secret*"))
    with pytest.raises(InputError, match=rf"^{URL}/plan.json: is in a bucket; copy the file"):
        curate.plots.shares(f"{URL}/plan.json")
    refused(
        RecipeError,
        "s3://b/a#b cannot be written .* without user name, '.' and '#'",
        url="s3://b/a#b",
    )
    store.lacks_conditions = True
    refused(InputError, r"\.curate\.lock: the store refuses \(501 Not Implemented")
    store.lacks_conditions = False
    for denied, refusal, right in (
        ("PUT", f"{URL}: objects there cannot be written", "s3:PutObject"),
        ("DELETE", f"{URL}: objects there cannot be deleted", "s3:DeleteObject"),
        ("GET /b/$", f"{URL}: cannot be listed", "s3:ListBucket"),
    ):
        store.denied = (denied,)
        refused(
            InputError,
            rf"^{refusal}, as access is denied \((403 Forbidden: )?AccessDenied\); grant {right} "
            "there, or set AWS_ACCESS_KEY_ID",
        )
    assert not objects(store)


def test_urls_of_other_stores_are_named_as_they_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("https://example.org/mix", "hf://datasets/me/mix", "https://me:secret@b/x?sig=1"):
        shown = url.replace("me:secret@", "").partition("?")[0]
        for call in (curate.verify, curate.report, curate.load, partial(curate.diff, b=url),
                     partial(curate.show, query="train/a:0"),
                     lambda url: curate.verify(Path(url))):  # fmt: skip
            with pytest.raises(InputError) as caught:
                call(url)
            assert str(caught.value).startswith(f"{shown}: datasets are read from directories and")


def test_a_dataset_in_a_bucket_is_looked_up_and_compared(recipe, cache, store, tmp_path):
    build(recipe, tmp_path / "mix")
    build(recipe)
    here, there = str(tmp_path / "mix"), URL
    for query in ("train/shard-00000:0", "wiki-3"):
        assert curate.show(there, query).documents == curate.show(here, query).documents
    (copy,) = (tmp_path / "xdg" / "curate" / "datasets").glob("mix-*[0-9a-f]")
    assert {path.stem for path in (copy / "train").iterdir()} == {"shard-00000"}
    tokens = cache / "tokens"
    tokens.rename(tmp_path / "moved")  # without it, texts are read from shards
    assert curate.show(there, "train/shard-00000:0").excerpt
    with pytest.raises(InputError, match=rf"^{URL}: no shard 'train/shard-9'; there are "):
        curate.show(there, "train/shard-9:0")
    (tmp_path / "moved").rename(tokens)
    compared = curate.diff(here, there)
    assert (compared.a, compared.b, compared.domains) == (here, URL, ())
    changed = build(recipe, "s3://b/other", "budget_tokens=20000")
    assert changed.ok
    compared = curate.diff(there, "s3://b/other")
    assert {"budget_tokens"} <= {change.key for change in compared.changes}
    with pytest.raises(ShardError, match=r"^s3://b/none: no manifest.json, so no finished dataset"):
        curate.diff(here, "s3://b/none")


def test_what_is_planned_for_a_bucket_is_reported_from_staging(recipe, store, tmp_path):
    loaded = load(recipe, (f"output.dir={json.dumps(URL)}",))
    with pytest.raises(InputError, match=rf"type curate report {URL}$"):
        curate.report(loaded)
    curate.plan(loaded, workers=1)
    with pytest.raises(InputError, match=rf"{URL}, or, of what is planned, curate report ") as line:
        curate.report(loaded)
    place = str(line.value).rpartition("curate report ")[2]
    assert curate.report(place, directory=tmp_path).path == tmp_path / "report.html"


def test_a_url_after_out_is_never_a_directory(recipe, tmp_path):
    command = [sys.executable, "-m", "curate.cli", "build", str(recipe), "--out"]
    for url in ("https://me:secret@b/x", "az://b/x"):
        done = subprocess.run(
            [*command, url], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 2
        shown = url.replace("me:secret@", "")
        assert f"output.dir: {shown} cannot be written to; name a directory, or a" in done.stderr
        assert not list(tmp_path.glob("*:"))


def test_without_obstore_the_line_says_what_to_install(recipe, store, tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "obstore.py").write_text("raise ImportError('absent')")
    path = os.pathsep.join([str(tmp_path / "without"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "curate.cli", "build", str(recipe), "--out", URL]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.endswith("needs the package obstore: pip install 'curate-mix[s3]'\n")


def test_secrets_stay_in_the_environment(recipe, store, tmp_path):
    build(recipe)
    secrets = [value.encode() for name, value in store.environment.items() if "KEY" in name]
    files = [*objects(store).values(), *on_disk(tmp_path).values()]
    assert secrets and not [data for data in files for secret in secrets if secret in data]


def test_google_cloud_storage_holds_the_same(recipe, store, tmp_path, monkeypatch):
    build(recipe, "s3://b/s3")
    account = {"gcs_base_url": store.url, "disable_oauth": True, "client_email": "",
               "private_key": "", "private_key_id": ""}  # fmt: skip
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    store.is_public = True
    dead = {"machine": os.uname().nodename, "process": 2**22 + 1, "since": 0.0}
    store.put("b", "gs/.curate.lock", json.dumps(dead).encode())
    assert build(recipe, "gs://b/gs").ok
    assert_same(objects(store, "gs/"), objects(store, "s3/"))
    store.requests.clear()
    assert build(recipe, "gs://b/gs").ok
    assert {row[1] for row in store.asked("PUT")} == {"/b/gs/.curate.lock"}
    assert curate.verify("gs://b/gs", workers=1).ok
    assert len(curate.load("gs://b/gs", 64)) > 0


def test_a_ray_cluster_sends_the_same(recipe, store):
    pytest.importorskip("ray")
    build(recipe, "s3://b/local")
    command = [sys.executable, "-m", "curate.cli", "build", str(recipe), "-q",
               "--set", "output.shard_tokens=10000", "--out", "s3://b/ray", "--engine", "ray",
               "--workers", "2"]  # fmt: skip
    subprocess.run(command, check=True)
    assert_same(objects(store, "ray/"), objects(store, "local/"))


def test_urls_are_known_however_they_are_written():
    assert bucket_url(Path("s3://b/a//")) == "s3://b/a"
    assert bucket_url("out/s3") is None and bucket_url("https://b/a") is None
    assert describe.__doc__
