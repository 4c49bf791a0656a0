"""Datasets of the Hugging Face Hub, asked of a stand-in on this machine, and local folders."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Listener, make_documents, write_jsonl
from hub_stand_in import running
from warm import run_curate

import curate
from curate.errors import EngineError, InputError, RecipeError
from curate.recipe import load_recipe
from curate.runtime.files import open_input
from curate.sources.hub import find_hub_files

CARD = """---
license: mit
configs:
- config_name: en
  data_files:
  - split: train
    path: en/train-*
  - split: test
    path: en/test-*
- config_name: de
  data_files: de/*.parquet
---
# A dataset
"""


def parquet(rows, group_rows=100, **columns):
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]} | columns)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=group_rows)
    return buffer.getvalue()


ROWS = make_documents("wiki", 300)


def web():
    """Files of a dataset of two configs; a wide column stands beside the text."""
    wide = {"image": [os.urandom(4000) for _ in range(150)], "lang": ["xx"] * 150}
    return {
        "README.md": CARD,
        "en/train-00000.parquet": parquet(ROWS[:150], **wide),
        "en/train-00001.parquet": parquet(ROWS[150:], **wide),
        "en/test-00000.parquet": parquet(make_documents("talk", 20)),
        "de/all.parquet": parquet(make_documents("code", 40)),
        "metadata.json": json.dumps({"text": "no document"}),
    }


@pytest.fixture
def hub():
    with running() as hub:
        hub.commit("me/web", web())
        yield hub


@pytest.fixture
def recipe(tmp_path, bpe):
    def write(hf, **keys):
        domain = {"name": "web", "hf": hf, **keys.pop("domain", {})}
        value = {"name": "t", "tokenizer": {"path": "t.json", "eos": "<|endoftext|>"},
                 "domains": [domain], "budget_tokens": 5000, **keys}  # fmt: skip
        (tmp_path / "t.json").write_text(json.dumps(bpe), "utf-8")
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(value), "utf-8")
        return path

    return write


def run(hub, *arguments, **environment):
    """Run the command line in a process of its own: the Hub's libraries read their environment."""
    # huggingface_hub uploads to LFS in a way that its HTTP client calls outdated.
    strict = {} if arguments[0] == "push" else {"PYTHONWARNINGS": "error"}
    variables = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", **strict}
    return run_curate(*arguments, **{**variables, **environment})


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Keep what the libraries cache to this test."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def stats_of(directory):
    return json.loads((directory / "out" / "t" / "stats.json").read_text())["domains"]["web"]


def test_a_split_is_read_at_a_pinned_commit(hub, recipe, tmp_path):
    path = recipe({"id": "me/web", "config": "en"})
    done = run(hub, "build", path)
    assert done.returncode == 0, done.stderr
    commit = hub.datasets["me/web"]["refs"]["main"]
    manifest = json.loads((tmp_path / "out/t/manifest.json").read_text())
    assert manifest["hub"] == [
        {"domain": "web", "id": "me/web", "config": "en", "split": "train", "commit": commit}
    ]
    names = [f"hf://datasets/me/web@{commit}/en/train-0000{number}.parquet" for number in (0, 1)]
    assert [record["path"] for record in manifest["inputs"]] == names
    kept = load_recipe(tmp_path / "out/t/recipe.yaml")
    assert kept.recipe.domains[0].hf.revision == commit
    assert kept.hash == load_recipe(path).hash  # the commit is among the documents' names
    assert stats_of(tmp_path)["documents"] == 300
    # The same documents from a file give the same shards.
    local = tmp_path / "local"
    write_jsonl(local / "a.jsonl", ROWS)
    text = json.loads(path.read_text())
    text["domains"] = [{"name": "web", "paths": str(local)}]
    path.write_text(json.dumps({**text, "output": {"dir": "out/again"}}))
    done = run(hub, "build", path)
    assert done.returncode == 0, done.stderr
    shards = [sorted((tmp_path / "out" / name / "train").glob("*.bin")) for name in ("t", "again")]
    assert [shard.read_bytes() for shard in shards[0]] == [s.read_bytes() for s in shards[1]]


def test_only_the_texts_and_identifiers_are_fetched(hub, recipe, monkeypatch):
    sent = []
    send = hub.RequestHandlerClass.send

    def counted(self, data, *arguments, **keywords):
        if ".parquet" in self.path and self.command == "GET":
            sent.append(len(data))
        send(self, data, *arguments, **keywords)

    monkeypatch.setattr(hub.RequestHandlerClass, "send", counted)
    done = run(hub, "stats", recipe({"id": "me/web", "config": "en"}))
    assert done.returncode == 0, done.stderr
    size_bytes = sum(len(data) for path, data in hub.files("me/web").items() if "train" in path)
    assert size_bytes > 1_200_000
    assert sum(sent) < 500_000  # footers, which are read a few times, and the text


def test_a_moved_branch_is_said_and_a_commit_kept(hub, recipe, tmp_path):
    path = recipe({"id": "me/web", "config": "en"})
    assert run(hub, "stats", path).returncode == 0
    first = hub.datasets["me/web"]["refs"]["main"]
    more = {"en/train-00002.parquet": parquet(make_documents("code", 50))}
    second = hub.commit("me/web", more)
    done = run(hub, "stats", path)
    assert done.returncode == 0, done.stderr
    said = f"domains[web].hf: me/web: revision 'main' is now {second}; the last run here read"
    assert f"{said} {first}: set revision to that" in " ".join(done.stdout.split())
    assert stats_of(tmp_path)["documents"] == 350
    assert not hub.asked("de/all")
    # Files that did not change are neither fetched nor tokenised again.
    assert not [path for path in hub.asked(f"resolve/{second}") if "train-00000.parquet" in path
                and "cdn" in path]  # fmt: skip
    assert "revision 'main' is now" not in run(hub, "stats", path).stdout
    hub.requests.clear()
    done = run(hub, "stats", recipe({"id": "me/web", "config": "en", "revision": first}))
    assert done.returncode == 0 and stats_of(tmp_path)["documents"] == 300
    assert hub.requests == []  # a commit never changes, and all of it is in the cache


def test_a_pinned_recipe_with_a_warm_cache_needs_no_network(hub, recipe, tmp_path):
    commit = hub.datasets["me/web"]["refs"]["main"]
    path = recipe({"id": "me/web", "config": "en", "revision": commit})
    assert run(hub, "build", path).returncode == 0
    shutil.rmtree(tmp_path / "out")
    hub.is_down = True
    done = run(hub, "build", path)
    assert done.returncode == 0, done.stderr
    done = run(hub, "stats", recipe({"id": "me/web", "config": "en"}))
    assert done.returncode == 2
    assert "domains[web].hf: me/web: the Hub cannot be reached" in done.stderr


def test_a_lost_connection_is_resumed_and_never_taken_for_damage(hub, recipe, tmp_path):
    path = recipe({"id": "me/web", "config": "en"})
    hub.drops["en/train-00000.parquet"] = 2
    hub.drops["en/train-00001.parquet"] = 1
    done = run(hub, "stats", path)
    assert done.returncode == 0, done.stderr
    assert hub.drops["en/train-00000.parquet"] == hub.drops["en/train-00001.parquet"] == 0
    stats = stats_of(tmp_path)
    assert (stats["documents"], stats["bad_records"]) == (300, 0)


def test_a_short_answer_ends_the_run_and_the_next_one_goes_on(hub, recipe, tmp_path):
    rows = make_documents("wiki", 3000)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    hub.commit("me/lines", {"data/train.jsonl": text})
    path = recipe({"id": "me/lines"})
    hub.shorts["data/train.jsonl"] = 9
    done = run(hub, "stats", path)
    assert done.returncode == 2, done.stdout
    hub.shorts.clear()
    assert "bytes came); run again when it can be reached" in done.stderr
    done = run(hub, "stats", path)
    assert done.returncode == 0, done.stderr
    stats = stats_of(tmp_path)
    assert (stats["documents"], stats["bad_records"]) == (3000, 0)


def test_jsonl_csv_and_patterns_without_a_card(hub, recipe, tmp_path):
    half = "".join(json.dumps(row) + "\n" for row in ROWS[:50])
    hub.commit("me/plain", {"train.jsonl": half, "test.jsonl": half})
    hub.commit("me/table", {"data/train.csv": "id;text\n1;one text\n2;two texts\n"})
    for name, documents in (("me/plain", 50), ("me/table", 2)):
        done = run(hub, "stats", recipe({"id": name}))
        assert done.returncode == 0, done.stderr
        assert stats_of(tmp_path)["documents"] == documents


REFUSED = [
    ({"id": "me/web"}, "me/web has several configs; set config to one of: en, de"),
    ({"id": "me/web", "config": "enn"}, "has no config 'enn'; did you mean 'en'? set config"),
    ({"id": "me/web", "config": "en", "split": "tset"}, "no split 'tset'; did you mean 'test'?"),
    ({"id": "me/absent"}, "me/absent is no dataset on the Hub, or a private one"),
    ({"id": "me/web", "revision": "v2"}, "me/web has no revision 'v2'"),
    ({"id": "me/code"}, "is loaded by a script of its own, which is never run"),
    ({"id": "me/field"}, "its card sets field: 'data' for config"),
    ({"id": "me/text"}, "with reader: text each file is one document"),
    ({"id": "me/images"}, "is of the kind 'imagefolder', which curate does not read"),
    ({"id": "me/empty"}, "me/empty holds no data file that datasets finds"),
]


def test_what_cannot_be_read_is_refused_in_a_line(hub, tmp_path):
    hub.commit("me/code", {"code.py": "raise SystemExit(3)", "train.jsonl": "{}"})
    nested = "---\nconfigs:\n- config_name: a\n  data_files: a.json\n  field: data\n---\n"
    hub.commit("me/field", {"README.md": nested, "a.json": '{"data": [{"text": "x"}]}'})
    hub.commit("me/text", {"train.txt": "a line\nanother\n"})
    hub.commit("me/images", {"train/a.png": b"\x89PNG"})
    hub.commit("me/empty", {"README.md": "# Nothing\n"})
    code = """
import json, sys
from pathlib import Path
from curate.errors import InputError
from curate.recipe.structs import HubRecipe
from curate.sources.hub import find_hub_files
places = Path(sys.argv[1]), Path(sys.argv[1]) / "cache"
for dataset in json.loads(sys.argv[2]):
    try:
        find_hub_files(HubRecipe(**dataset), "auto", places, print)
    except InputError as error:
        print(error)
"""
    asked = json.dumps([dataset for dataset, _ in REFUSED])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path), asked],
        env={**os.environ, "HF_ENDPOINT": hub.url}, capture_output=True, text=True, check=True,
        cwd=Path.cwd(),
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == len(REFUSED), done.stdout
    for line, (_, expected) in zip(lines, REFUSED, strict=True):
        assert expected in line


def test_a_private_dataset_needs_the_token_of_the_environment(hub, recipe):
    hub.token = "secret"
    path = recipe({"id": "me/web", "config": "de"})
    assert "private one: check the name, or set HF_TOKEN" in run(hub, "stats", path).stderr
    done = run(hub, "stats", path, HF_TOKEN="secret")
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout + done.stderr


def test_columns_of_metadata(hub, recipe, tmp_path):
    output = {"format": "jsonl"}
    path = recipe({"id": "me/web", "config": "en", "columns": ["lang"]}, output=output)
    done = run(hub, "build", path)
    assert done.returncode == 0, done.stderr
    opened = datasets.load_dataset(str(tmp_path / "out/t"), split="train")
    assert all(row == {"lang": "xx"} for row in opened["metadata"])
    done = run(hub, "stats", recipe({"id": "me/web", "config": "en", "columns": ["langg"]}))
    assert done.returncode == 2 and "no column 'langg'" in done.stderr


def test_local_folders_are_resolved_as_datasets_does(tmp_path):
    folder = tmp_path / "folder"
    for name, content in web().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    loaded = load_recipe({
        "name": "t", "tokenizer": {"train": {"vocab_size": 300}}, "budget_tokens": 10,
        "domains": [{"name": "a", "hf": {"id": "./folder", "config": "en", "split": "test"}}],
    })  # fmt: skip
    dataset = loaded.recipe.domains[0].hf
    files = find_hub_files(dataset, "auto", (tmp_path, tmp_path / "cache"), print)
    assert [(file.path, file.name) for file in files] == [
        (str(folder / "en/test-00000.parquet"), "en/test-00000.parquet")
    ]
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="folder is no directory"):
        find_hub_files(dataset, "auto", (tmp_path, tmp_path / "cache"), print)


def test_recipes_that_contradict_themselves():
    base = {"name": "t", "tokenizer": {"train": {"vocab_size": 300}}, "budget_tokens": 10}
    for domain, expected in (
        ({"paths": "a", "hf": {"id": "a/b"}}, "has paths and hf; give one of them"),
        ({"hf": {"id": "a"}}, "hf.id: expected owner/name, or a local folder as ./name"),
        ({"hf": {"id": "./a", "revision": "b"}}, "hf.revision: a local folder has no revisions"),
        ({"hf": {"id": "a/b", "split": "train[:5%]"}}, "hf.split: expected the name of one split"),
    ):
        with pytest.raises(RecipeError, match=expected.replace("[", r"\[")):
            load_recipe({**base, "domains": [{"name": "web", **domain}]})


def test_no_import_without_hf(recipe, tmp_path, corpus):
    path = recipe(None, domain={"paths": str(corpus / "data" / "wiki"), "hf": None})
    code = (
        "import sys, curate\n"
        f"curate.stats({str(path)!r}, workers=1)\n"
        "print([name for name in ('huggingface_hub', 'datasets', 'httpx2') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert done.stdout.strip() == "[]"


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "folder").mkdir()
    dataset = load_recipe({
        "name": "t", "tokenizer": {"train": {"vocab_size": 300}}, "budget_tokens": 10,
        "domains": [{"name": "a", "hf": {"id": "./folder"}}],
    }).recipe.domains[0].hf  # fmt: skip
    with pytest.raises(InputError, match=r"needs the package datasets: pip install"):
        find_hub_files(dataset, "auto", (tmp_path, tmp_path / "cache"), print)


class Short(fsspec.AbstractFileSystem):
    """A store that gives seven of a file's ten bytes."""

    protocol = "short"

    def _open(self, path, mode="rb", **_):
        return ShortFile(b"0123456")


class ShortFile(io.BytesIO):
    size = 10


def test_a_short_read_of_any_store_is_an_error():
    """Otherwise the missing bytes would look like the end of the file."""
    fsspec.register_implementation("short", Short, clobber=True)
    with open_input("short://file") as file:
        assert file.read(4) == b"0123"
        with pytest.raises(EngineError, match="3 of 6 bytes came"):
            file.read()


def saved(directory, rows):
    datasets.Dataset.from_list(rows).save_to_disk(directory)
    return directory


def counts_of(paths, tmp_path):
    """Documents of a domain whose paths these are, and what was said."""
    heard = Listener()
    value = {"name": "t", "tokenizer": {"train": {"vocab_size": 300}}, "budget_tokens": 10,
             "domains": [{"name": "a", "paths": str(paths)}],
             "cache": str(tmp_path / "cache"),
             "output": {"dir": str(tmp_path / "out")}}  # fmt: skip
    curate.stats(value, workers=1, progress=heard)
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    return stats["domains"]["a"]["documents"], " ".join(heard.notices)


def test_a_saved_dataset_is_read_by_what_it_lists(tmp_path):
    directory = saved(tmp_path / "saved", ROWS[:90])
    again = datasets.load_from_disk(directory).filter(lambda row: len(row["text"]) > 200)
    assert len(list(directory.glob("cache-*.arrow"))) == 1 and len(again) > 10
    documents, said = counts_of(directory, tmp_path)
    assert documents == 90
    assert "not part of the saved dataset, by its state.json" in said
    assert counts_of(directory / "*.arrow", tmp_path)[0] == 90
    state = json.loads((directory / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (directory / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="keeps a selection of its rows as indices"):
        counts_of(directory, tmp_path)


def test_splits_of_a_saved_dataset_are_not_mixed(tmp_path):
    parts = {"train": ROWS[:60], "test": ROWS[60:80]}
    both = {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match="saved holds the splits train, test; name one"):
        counts_of(tmp_path / "saved", tmp_path)
    assert counts_of(tmp_path / "saved" / "train", tmp_path)[0] == 60


def test_a_download_is_read_without_its_card(tmp_path):
    folder = tmp_path / "download"
    files = {**web(), "dataset_infos.json": json.dumps({"default": {"text": "a description"}})}
    del files["metadata.json"]
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert counts_of(folder, tmp_path)[0] == 300 + 20 + 40


def built(recipe, corpus, tmp_path, form="jsonl", **output):
    paths = {"paths": str(corpus / "data" / "wiki"), "hf": None, "license": "mit"}
    path = recipe(None, domain=paths, output={"format": form, "shard_tokens": 2000, **output})
    curate.build(path, workers=1)
    return tmp_path / "out" / "t"


def rows_of(hub, name, **environment):
    code = (
        "import datasets, json, sys\n"
        f"rows = datasets.load_dataset({name!r}, split='train')['text']\n"
        "print(json.dumps(list(rows)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "HF_ENDPOINT": hub.url, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_push_uploads_what_load_dataset_opens(hub, recipe, corpus, tmp_path):
    directory = built(recipe, corpus, tmp_path)
    hub.token = "write"
    token = {"HF_TOKEN": "write", "HF_HUB_DISABLE_XET": "1"}
    done = run(hub, "push", directory, "me/mix", **token)
    assert done.returncode == 0, done.stderr
    assert "/datasets/me/mix (private), commit" in "".join(done.stdout.split("\n"))
    assert hub.datasets["me/mix"]["private"]
    pushed = hub.files("me/mix")
    manifest = json.loads((directory / "manifest.json").read_text())
    assert json.loads(pushed["manifest.json"]) == manifest
    shards = [file["path"] for shard in manifest["shards"] for file in shard["files"]]
    assert len(shards) > 3
    assert all(pushed[path] == (directory / path).read_bytes() for path in shards)
    assert b"mit" in pushed["README.md"]
    assert len(hub.datasets["me/mix"]["commits"]) == 2  # the new repository, and one commit
    local = datasets.load_dataset(str(directory), split="train")
    assert rows_of(hub, "me/mix", **token) == list(local["text"])
    # A dataset of fewer shards leaves none of the earlier ones behind.
    smaller = json.loads((tmp_path / "recipe.yaml").read_text()) | {"budget_tokens": 1500}
    curate.build(smaller | {"base": str(tmp_path)}, workers=1, overwrite=True)
    assert run(hub, "push", directory, "me/mix", "--public", **token).returncode == 0
    assert hub.datasets["me/mix"]["private"]  # one that exists stays as it is
    left = {path for path in hub.files("me/mix") if path.startswith("train/")}
    assert 0 < len(left) < len(shards) and left < set(shards)
    done = run(hub, "push", directory, "me/mix", HF_TOKEN="read", HF_HUB_DISABLE_XET="1")
    assert done.returncode == 2 and "HF_TOKEN" in done.stderr


def test_push_refuses_what_is_damaged_or_not_opened(hub, recipe, corpus, tmp_path):
    directory = built(recipe, corpus, tmp_path, "parquet")
    done = run(hub, "push", directory, "me/mix", "--dry-run", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "train/shard-00000.parquet" in done.stdout
    assert "would be pushed to me/mix, private if it is new" in " ".join(done.stdout.split())
    assert run(hub, "push", directory, "mix").stderr.startswith("curate: 'mix': expected a repos")
    shard = next((directory / "train").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    hub.requests.clear()
    done = run(hub, "push", directory, "me/mix")
    assert done.returncode == 2 and "nothing is pushed: run curate build" in done.stderr
    assert hub.requests == []
    other = built(recipe, corpus, tmp_path, "megatron", dir="out/tokens")
    done = run(hub, "push", tmp_path / "out" / "tokens", "me/mix")
    assert done.returncode == 2, other
    assert "load_dataset opens no dataset of format megatron; build one with" in done.stderr
