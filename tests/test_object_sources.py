"""Sources in object storage: the same artifacts as from local files, whatever the store does."""

import gzip
import hashlib
import io
import json
import re
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard
from conftest import make_documents
from s3_server import Faults, running
from warm import run_curate

from curate.errors import InputError
from curate.runtime.files import hash_file
from curate.runtime.workers import map_tasks
from curate.sources import SegmentReader, identify, segments
from curate.sources.discover import expand
from curate.sources.overlaps import left_out_notices
from curate.sources.places import Places
from curate.sources.records import ReadOptions
from curate.sources.remote import GLOB_CHARACTERS
from curate.sources.remote_cuts import RemoteCuts


@pytest.fixture
def store(monkeypatch):
    with running("b") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield store


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows, write):
    buffer = io.BytesIO()
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    write(pa.table(columns), buffer)
    return buffer.getvalue()


def write_arrow(columns, buffer):
    with pa.ipc.new_file(buffer, columns.schema) as writer:
        writer.write_table(columns, max_chunksize=100)


def write_stream(columns, buffer):
    with pa.ipc.new_stream(buffer, columns.schema) as writer:
        writer.write_table(columns, max_chunksize=100)


def write_csv(rows):
    return ("id,text\n" + "".join(f'{r["id"]},"{r["text"]}"\n' for r in rows)).encode()


def sources():
    """Files of every reader, one of several segments, each under a folder of its own."""
    wiki, code, talk = (make_documents(name, 400) for name in ("wiki", "code", "talk"))
    many = make_documents("wiki", 45_000, seed=3)
    return {
        "large/all.jsonl": lines(many),
        "lines/a.jsonl": lines(wiki[:200]),
        "lines/b.jsonl": lines(wiki[200:]),
        "packed/a.jsonl.zst": zstandard.compress(lines(code[:200])),
        "packed/b.jsonl.gz": gzip.compress(lines(code[200:]), mtime=0),
        "array/a.json": json.dumps(talk).encode(),
        "csv/a.csv": write_csv(make_documents("talk", 100, seed=1)),
        "parquet/a.parquet": table(make_documents("wiki", 900, seed=2),
                                   lambda t, b: pq.write_table(t, b, row_group_size=100)),
        "arrow/a.arrow": table(make_documents("code", 300, seed=4), write_arrow),
        "arrow/b.arrow": table(make_documents("code", 300, seed=5), write_stream),
        "text/a b.txt": b"A text with a name.\n",
        "text/deep/%20#\xc3\xbc.txt".encode("latin-1").decode(): "Ein Text, \u00fc.\n".encode(),
        "text/c.txt": b"Another text.\n" * 200,
    }  # fmt: skip


FOLDERS = ("large", "lines", "packed", "array", "csv", "parquet", "arrow", "text")


def write_recipe(directory, root, bpe, folders=FOLDERS):
    directory.mkdir()
    (directory / "t.json").write_text(json.dumps(bpe), "utf-8")
    value = {
        "name": "t", "tokenizer": {"path": "t.json", "eos": "<|endoftext|>"},
        "domains": [{"name": name, "paths": f"{root}/{name}"} for name in folders],
        "budget_tokens": 60_000, 
    }  # fmt: skip
    path = directory / "recipe.yaml"
    path.write_text(json.dumps(value), "utf-8")
    return path


def run(*arguments, **environment):
    return run_curate(*arguments, PYTHONWARNINGS="error", **environment)


def artifacts(work, root):
    """The bytes of every artifact, with sources, directories, hashes of the recipe named alike.

    Hashes and lengths of artifacts in others are masked, since each is compared itself.
    """
    directory = work / "out/t"
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    manifest = json.loads((directory / "manifest.json").read_text())
    alike = {root: "ROOT", str(work): "WORK"}
    alike |= {manifest[name]: name for name in ("recipe_hash", "build_hash")}
    for path in paths:
        for digest in (hash_file(path), hashlib.sha256(path.read_bytes()).hexdigest()):
            alike[digest] = f"HASH {path.name}"
    files = {}
    for path in paths:
        data = path.read_bytes()
        if path.suffix in (".json", ".yaml", ".md"):
            for text, name in alike.items():
                data = data.replace(text.encode(), name.encode())
            data = re.sub(
                rb'"bytes": \d+(?=,\s*"xxh3": "HASH)|"contentSize": "\d+ B"', b"SIZE", data
            )
            data = re.sub(rb'"xxh3": "\w{32}"\n}\s*$', b"SEAL", data)
        files[str(path.relative_to(directory))] = data
    return files


@pytest.fixture(scope="session")
def local(tmp_path_factory, bpe):
    """Sources on this machine, and what a build makes of them."""
    directory = tmp_path_factory.mktemp("local")
    content = sources()
    for name, data in content.items():
        path = directory / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    recipe = write_recipe(directory / "work", str(directory / "data"), bpe)
    done = run("build", recipe, "--workers", "2")
    assert done.returncode == 0, done.stderr
    return content, artifacts(directory / "work", str(directory / "data"))


def put_all(store, content, root):
    for name, data in content.items():
        store.put("b", f"{root}/{name}", data)
    store.put("b", f"{root}/text/deep/", b"")  # as the consoles of stores make folders
    store.put("b", f"{root}/text/empty/", b"")


@pytest.mark.parametrize("faults", [None, Faults(seed=7, share=0.3, most=2, slow_seconds=0.02)])
def test_objects_give_the_artifacts_of_local_files(store, local, bpe, tmp_path, faults):
    content, expected = local
    put_all(store, content, "corp us/v1")
    store.faults = faults
    root = "s3://b/corp us/v1"
    recipe = write_recipe(tmp_path / "work", root, bpe)
    done = run("build", recipe, "--workers", "2")
    assert done.returncode == 0, done.stderr
    if faults:
        assert all(faults.drawn[kind] for kind in faults.kinds), faults.drawn
    made = artifacts(tmp_path / "work", root)
    assert made.keys() == expected.keys()
    assert [name for name in made if made[name] != expected[name]] == []


def test_a_second_run_reads_nothing(store, bpe, tmp_path):
    put_all(
        store,
        {
            "lines/a.jsonl": lines(make_documents("wiki", 900)),
            "parquet/a.parquet": table(make_documents("code", 300), pq.write_table),
        },
        "v",
    )
    recipe = write_recipe(tmp_path / "work", "s3://b/v", bpe, ("lines", "parquet"))
    assert run("stats", recipe).returncode == 0
    assert store.asked("GET", "/b/v/lines")
    store.requests.clear()
    done = run("stats", recipe)
    assert done.returncode == 0, done.stderr
    assert {method for method, path, query, _ in store.requests if query == ""} <= {"HEAD"}
    assert all("list-type" in query for _, path, query, _ in store.asked("GET"))


def test_an_object_replaced_meanwhile_ends_the_run_and_the_next_reads_it_anew(store, bpe, tmp_path):
    rows = make_documents("wiki", 45_000, seed=3)
    old, new = lines(rows), lines(rows[::-1])
    assert len(old) == len(new) > 16 << 20  # segments of one file, and no other length
    store.put("b", "large/a.jsonl", old)
    recipe = write_recipe(tmp_path / "work", "s3://b", bpe, ("large",))
    reads = []

    def replace(request):
        reads.append(request.headers.get("Range"))
        if sum(span is not None and span.startswith("bytes=83886") for span in reads) == 1:
            store.before = None
            store.put("b", "large/a.jsonl", new)

    # The second segment is read when the file has been identified and tokenising has begun.
    store.before = replace
    done = run("build", recipe, "--workers", "2")
    assert store.before is None and done.returncode == 2
    assert done.stderr == (
        "curate: s3://b/large/a.jsonl: changed while it was being read; let whatever writes it "
        "finish, then run again\n"
    )
    done = run("build", recipe, "--workers", "2")
    assert done.returncode == 0, done.stderr
    inputs = json.loads((tmp_path / "work/out/t/manifest.json").read_text())["inputs"]
    assert [row["content"].partition("-")[0] for row in inputs] == [xxhash.xxh3_128_hexdigest(new)]


PATTERNS = [
    "data", "data/", "data/*.jsonl", "data/**", "data/**/*.jsonl", "data/x*", "data/a?.*",
    "data/sub", "*/b.jsonl", "data/b.jsonl", "data/.h*", "data/br[1].jsonl", "data/%61",
]  # fmt: skip
NAMES = [
    "a1.jsonl", "b.jsonl", "x1.txt", "xdir/c.jsonl", "sub/d e.jsonl", ".hidden.jsonl",
    "sub/.h/e.jsonl", "br[1].jsonl", "br1.jsonl", "%61", "\u00fc#.jsonl", "empty.jsonl",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_find_what_they_find_on_a_disk(store, tmp_path, pattern):
    for name in NAMES:
        data = b"" if name == "empty.jsonl" else b'{"text": "a"}\n'
        store.put("b", f"data/{name}", data)
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    store.put("b", "data/sub/", b"")
    store.put("b", "database/z.jsonl", b"{}")
    places = Places(), Places()
    on_disk = expand([pattern], ReadOptions(), tmp_path, places[0])
    in_store = expand([f"s3://b/{pattern}"], ReadOptions(), tmp_path, places[1])
    assert [file.name for file in in_store] == [file.name for file in on_disk]
    assert [file.path for file in in_store] == [
        file.path.replace(str(tmp_path), "s3://b") for file in on_disk
    ]
    if not GLOB_CHARACTERS & set(pattern):
        assert set(places[1].left_out.values()) == set(places[0].left_out.values())


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "**",
        "**/*.jsonl",
        "*",
        "m*",
        "*/train/*",
        "mine",
        "other",
        "other/train",
        "left/",
        "s*/**",
    ],
)
@pytest.mark.parametrize("output", ["", "/mine"])
def test_what_curate_wrote_is_left_out_as_on_a_disk(store, tmp_path, pattern, output):
    manifest = b'{"schema": 1, "curate_version": "1"}'
    names = {
        "a.jsonl": b"{}", "mine/.curate": b"", "mine/train/s.jsonl": b"{}",
        "mine/manifest.json": manifest, "mine/source.jsonl": b"{}", "train/s.jsonl": b"{}",
        "other/.curate": b"", "other/manifest.json": manifest, "other/train/s.jsonl": b"{}",
        "left/.curate": b"", "left/train/s.jsonl": b"{}", "store/tokens/part/bad.jsonl": b"{}",
    }  # fmt: skip
    for name, data in names.items():
        store.put("b", name, data)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    results, left_out = [], []
    for base in (str(tmp_path), "s3://b"):
        place = base + output
        written = {f"{place}/train", f"{place}/manifest.json", f"{base}/store"}
        places = Places(place, frozenset(written))
        try:
            files = expand([f"{base}/{pattern}"], ReadOptions(), tmp_path, places)
            results.append([file.path.replace(base, "BASE") for file in files])
        except InputError as error:
            results.append(str(error).replace(base, "BASE"))
        left_out.append({path.rstrip("/").replace(base, "BASE") for path in places.left_out})
    assert results[0] == results[1]
    if pattern != "*/train/*":  # what a search of a disk does not come to
        assert left_out[0] == left_out[1]


def test_odd_keys_are_left_out_and_named(store, tmp_path):
    for key in ("a/1.jsonl", "a//2.jsonl", "a/../3.jsonl", "a//4.csv", "a/5.jsonl", "b/6.jsonl"):
        store.put("b", key, b"{}")
    for pattern, names in (
        ("a", ["1", "5"]),
        ("**/*.jsonl", ["1", "5", "6"]),
        ("b/*.jsonl", ["6"]),
    ):
        places = Places()
        files = expand([f"s3://b/{pattern}"], ReadOptions(glob="*.jsonl"), tmp_path, places)
        assert [file.path[-7:-6] for file in files] == names
        left_out = [] if pattern[0] == "b" else ["s3://b/a/../3.jsonl", "s3://b/a//2.jsonl"]
        assert sorted(places.left_out) == left_out
        for notice in left_out_notices(places):
            assert notice == (
                "not read, as a part of the key is empty, '.' or '..', or holds a control "
                "character; rename such objects to have them read: s3://b/a/../3.jsonl, s3://b/a//2.jsonl"
            )
    for pattern, line in (
        ("a//2.jsonl", r"s3://b/a//2.jsonl: .*rename it, or name the files besid"),
        ("a//*.jsonl", r"holds no file that can be read: s3://b/a//2.jsonl is left out, as a part"),
    ):
        with pytest.raises(InputError, match=line):
            expand([f"s3://b/{pattern}"], ReadOptions(), tmp_path)


REFUSED = [
    ({"paths": "s3://b/none/*.jsonl"}, {},
     "'s3://b/none/*.jsonl' matches no file; see what is there with: aws s3 ls --recursive s3://b/"),
    ({"paths": "s3://none/a.jsonl"}, {}, "there is no such bucket; check the name"),
    ({"paths": "s3://me:hidden@b/a.jsonl"}, {}, "s3://b/a.jsonl: its URL holds credentials"),
    ({"paths": "s3://b/a.jsonl?token=hidden"}, {}, "s3://b/a.jsonl: its URL holds credentials"),
    ({"paths": "ftp://me:hidden@h/a.jsonl"}, {}, "ftp://h/a.jsonl: its URL holds credentials"),
    ({"paths": "s3://b/a.jsonl"}, {"AWS_ACCESS_KEY_ID": "other"}, "access is denied (403"),
    ({"paths": "s3://b/**"}, {"AWS_ACCESS_KEY_ID": "other"},
     "access is denied (403 Forbidden: InvalidAccessKeyId); set AWS_ACCESS_KEY_ID and"),
    ({"paths": "https://127.0.0.1/*.jsonl"}, {}, "web servers list no files; name each"),
]  # fmt: skip


@pytest.mark.parametrize("refused", REFUSED)
def test_what_cannot_be_read_is_refused_in_a_line(store, bpe, tmp_path, refused):
    domain, environment, line = refused
    store.put("b", "a.jsonl", b"{}")
    recipe = write_recipe(tmp_path / "work", "s3://b", bpe, ("x",))
    value = json.loads(recipe.read_text())
    value["domains"] = [{"name": "x", **domain}]
    recipe.write_text(json.dumps(value))
    done = run("stats", recipe, **environment)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert line in done.stderr and "hidden" not in done.stdout + done.stderr
    assert "secret-of" not in done.stdout + done.stderr


def test_a_store_that_stays_away_is_no_fact_about_a_file(store, bpe, tmp_path):
    rows = make_documents("wiki", 3000)
    store.put("b", "lines/a.jsonl", lines(rows))
    recipe = write_recipe(tmp_path / "work", "s3://b", bpe, ("lines",))
    reads = []

    def leave(request):
        reads.append(request)
        store.is_down = len(reads) > 5  # while its bytes are read

    store.before = leave
    done = run("stats", recipe, CURATE_STORE_SECONDS="1")
    assert done.returncode == 2 and store.is_down
    assert done.stderr.startswith("curate: s3://b/lines/a.jsonl: cannot be reached (")
    assert done.stderr.endswith("; run again when it can be\n")
    store.before, store.is_down = None, False
    done = run("stats", recipe)
    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "work/out/t/stats.json").read_text())["domains"]["lines"]
    assert (stats["documents"], stats["bad_records"]) == (3000, 0)


def test_web_servers_and_google_serve_sources_too(store, bpe, tmp_path):
    store.is_public = True  # Google's tokens are not asked for
    store.put("b", "web/a b.jsonl", lines(make_documents("wiki", 3000)))
    store.put("b", "cloud/a.parquet", table(make_documents("code", 300), pq.write_table))
    account = {"gcs_base_url": store.url, "disable_oauth": True, "client_email": "",
               "private_key": "", "private_key_id": ""}  # fmt: skip
    (tmp_path / "account.json").write_text(json.dumps(account))
    recipe = write_recipe(tmp_path / "work", "gs://b", bpe, ("cloud",))
    value = json.loads(recipe.read_text())
    value["domains"].append({"name": "web", "paths": f"{store.url}/b/web/a%20b.jsonl?download=1"})
    recipe.write_text(json.dumps(value))
    done = run("stats", recipe, GOOGLE_SERVICE_ACCOUNT=str(tmp_path / "account.json"))
    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "work/out/t/stats.json").read_text())["domains"]
    assert {name: row["documents"] for name, row in stats.items()} == {"cloud": 300, "web": 3000}


def test_many_small_objects_are_asked_for_at_once(store, tmp_path):
    """A store answers after tens of milliseconds; one request after the other would take hours."""
    rows = make_documents("wiki", 600)
    for number in range(60):
        store.put("b", f"lines/{number:02}.jsonl", lines(rows[number * 10 : number * 10 + 10]))
        store.put("b", f"text/{number:02}.txt", rows[number]["text"].encode())
        store.put("b", f"tables/{number:02}.parquet", table(rows[:5], pq.write_table))
    now, most, lock = [0], [0], threading.Lock()

    def wait(request):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1

    store.before = wait
    for folder, documents in (("lines", 600), ("text", 60), ("tables", 300)):
        paths = expand([f"s3://b/{folder}"], ReadOptions(), tmp_path)
        most[0] = 0
        files = identify(paths, tmp_path)
        assert most[0] >= 4
        most[0] = 0
        plans = segments(files, ReadOptions(), cuts=RemoteCuts(tmp_path))
        assert most[0] >= 4 or folder != "tables"
        most[0] = 0
        texts = map_tasks(texts_of, [*plans, *plans], workers=2)
        assert most[0] >= 4 or folder == "tables"
        assert sum(map(len, texts)) == 2 * documents and texts[: len(plans)] == texts[len(plans) :]


def texts_of(plan):
    reader = SegmentReader()
    return [text for block in reader.read(plan.segment(0)) for text in block.texts]
