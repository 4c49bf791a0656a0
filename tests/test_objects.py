"""Requests to object storage: what is sent again, what is refused, and what a fork leaves whole."""

import functools
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from s3_server import FAULTS, SECRET, Faults, running

from curate.errors import CurateError, EngineError, InputError
from curate.runtime.objects import (
    MissingObject,
    ObjectChanged,
    apart,
    has_access,
    is_lasting_version,
    list_objects,
    list_with_odd,
    object_info,
    open_object,
    read_object,
)
from curate.runtime.s3_listing import parse_page, signed_anew
from curate.runtime.transfers import write_object
from curate.runtime.workers import map_tasks


@pytest.fixture
def store(monkeypatch):
    with running("b") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield store


def test_listings_of_many_pages_are_whole(store):
    for number in range(2345):
        store.put("b", f"many/{number:04}.txt", b"x")
    store.put("b", "many-more/x", b"y")
    urls = [info.url for info in list_objects("s3://b/many")]
    assert urls == [f"s3://b/many/{number:04}.txt" for number in range(2345)]
    assert len(list_objects("s3://b")) == 2346
    assert len(store.asked("GET", "/b")) == 6


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_that_pass_are_waited_out(store, kind):
    data = os.urandom(300_000)
    store.put("b", "a", data)
    store.faults = Faults(seed=1, share=1.0, most=1, kinds=(kind,), slow_seconds=0.05)
    assert [info.size_bytes for info in list_objects("s3://b")] == [len(data)]
    assert read_object("s3://b/a", 7, 200_000) == data[7:200_000]
    assert store.faults.drawn[kind] >= 2


def test_a_store_that_stays_away_is_a_fault_of_the_machine(store, monkeypatch):
    monkeypatch.setenv("CURATE_STORE_SECONDS", "0.5")
    store.is_down = True
    with pytest.raises(EngineError, match=r"^s3://b/a: cannot be reached \(.*run again when it"):
        object_info("s3://b/a")


def test_refusals_are_one_line_that_says_what_to_type(store, monkeypatch):
    store.put("b", "a", b"abc")
    store.put("b", "x//y", b"abc")
    for call, kind, line in [
        (lambda: object_info("s3://b/none"), MissingObject, "s3://b/none: there is no such object"),
        (lambda: list_objects("s3://none/"), InputError, "there is no such bucket; check the name"),
        (lambda: object_info("s3://b/x//y"), InputError, "'a//b'; rename it, or name the files"),
        (lambda: object_info("s3:///a"), InputError, "names no bucket; write s3://BUCKET/KEY"),
        (lambda: read_object("s3://b/a", 0, 1, '"old"'), ObjectChanged, "changed while it was"),
    ]:
        with pytest.raises(kind, match=line):
            call()
    store.denied = ("GET /b/a", "GET /b/$")
    for call, right in (
        (lambda: read_object("s3://b/a", 0, 1), "s3:GetObject"),
        (lambda: list_objects("s3://b"), "s3:ListBucket"),
    ):
        denied = rf"access is denied \(403 .*grant {right} there, or set AWS_ACCESS_KEY_ID and"
        with pytest.raises(InputError, match=denied):
            call()
    monkeypatch.setenv("CURATE_STORE_SECONDS", "soon")
    with pytest.raises(InputError, match="^CURATE_STORE_SECONDS=soon: must be a number of seconds"):
        object_info("s3://b/a")
    monkeypatch.delenv("CURATE_STORE_SECONDS")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(InputError, match="there are no credentials; set AWS_ACCESS_KEY_ID and"):
        object_info("s3://b/a")


ODD = ["a//2", "a/./3", "a/../4", "a/x\ty", "//b", "a/z//"]


@pytest.mark.parametrize("is_public", [False, True])
def test_odd_keys_are_listed_apart(store, monkeypatch, is_public):
    store.page_keys, store.sends_chunks = 2, True
    names = [*"034", "5 é+%", "z"]
    for key in [*ODD, *(f"a/{name}" for name in names), "b"]:
        store.put("b", key, b"abc")
    if is_public:
        store.is_public = True
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    read, odd = list_with_odd("s3://b/a/")
    assert [info.url for info in read] == [f"s3://b/a/{name}" for name in names]
    assert sorted(info.url for info in odd) == sorted(
        f"s3://b/{key.removesuffix('/')}" for key in ODD if key.startswith("a/")
    )
    assert list_objects("s3://b")[:-1] == read
    assert read[0] == object_info("s3://b/a/0")  # also the version by which a change is noticed


ANSWERS_BY_HAND = [
    (lambda handler: handler.refuse(403, "AccessDenied"), r"listed, as access is denied \(403"),
    (lambda handler: handler.send(b"<html/>"), r"reached \(the answer is no listing"),
    (lambda handler: handler.send(b"<a"), r"reached \(the listing is cut"),
    (lambda handler: setattr(handler, "close_connection", True), r"reached \(Remote end"),
]


@pytest.mark.parametrize(("answer", "line"), ANSWERS_BY_HAND)
def test_no_error_quotes_a_signed_url(store, monkeypatch, answer, line):
    def signed(handler):
        if "X-Amz-Signature" not in handler.query:
            return False
        answer(handler)
        return True

    store.put("b", "a//2", b"")
    store.before = signed
    monkeypatch.setenv("CURATE_STORE_SECONDS", "0.2")
    with pytest.raises(CurateError, match=f"^s3://b/a: cannot be {line}") as said:
        list_objects("s3://b/a")
    assert "X-Amz" not in str(said.value)


@pytest.mark.parametrize(("encoding", "key"), [("", "a+b%20"), ("url", "a b ")])
def test_keys_are_unquoted_where_the_store_says_that_it_quotes(encoding, key):
    row = "<Key>a+b%20</Key><ETag>e</ETag><Size>3</Size>"
    page = f"<EncodingType>{encoding}</EncodingType><Contents>{row}</Contents>"
    answer = f"<ListBucketResult>{page}</ListBucketResult>".encode()
    assert parse_page(answer) == ([(key, 3, "e")], "")


def sign(**session):
    """Sign a URL; called through `apart`, as obstore's threads are lost in a fork."""
    import obstore
    from obstore.store import S3Store

    signer = S3Store("b", client_options={"allow_http": True}, **session)
    return obstore.sign(signer, "GET", "a b/é+", timedelta(seconds=60))


@pytest.mark.parametrize("session", [{}, {"session_token": "to/k+en="}])
def test_a_url_is_signed_as_obstore_signs_it(store, session):
    model = urlsplit(apart(functools.partial(sign, **session)))
    assert signed_anew(model, model.path, {}, SECRET).rpartition("=")[2] in model.query
    assert signed_anew(model, model.path, {}, "another").rpartition("=")[2] not in model.query


ANSWERS = [
    (400, "ExpiredToken", InputError, "s3://b/a: the credentials have expired; set AWS_ACCESS_KEY"),
    (403, "QuotaExceeded", EngineError, r"the store has no room \(403 Forbidden: QuotaExceeded\)"),
    (507, "XMinioStorageFull", EngineError, r"the store has no room \(507 .*; make some there"),
    (403, "RequestTimeTooSkewed", EngineError, "the clock of this machine is wrong"),
    (400, "RequestTimeout", None, ""),
    (409, "OperationAborted", None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "kind", "line"), ANSWERS)
def test_errors_are_told_by_their_codes(store, status, code, kind, line):
    writes = []

    def answer(request):
        if request.command == "PUT":
            writes.append(request.key)
            if kind is not None or len(writes) == 1:
                request.send(f"<Error><Code>{code}</Code></Error>".encode(), status)
                return True
        return False

    store.before = answer
    if kind is None:
        write_object("s3://b/a", b"abc")
        assert len(writes) == 2 and store.buckets["b"]["a"].data == b"abc"
    else:
        with pytest.raises(kind, match=line):
            write_object("s3://b/a", b"abc")


def test_an_object_replaced_where_an_answer_broke_off_has_changed(store):
    store.put("b", "a", b"x" * 3_000_000)
    store.faults = Faults(share=1.0, most=1, kinds=("truncate",))
    version = object_info("s3://b/a").version

    def replace_before_the_rest(request):
        if request.command == "GET" and len(store.asked("GET")) == 2:
            store.put("b", "a", b"y" * 3_000_000)

    store.before = replace_before_the_rest
    with pytest.raises(ObjectChanged):
        read_object("s3://b/a", 0, 3_000_000, version)


def test_web_servers_without_entity_tags_are_told_by_times(store):
    store.is_public, store.without = True, ("ETag",)
    url = f"{store.url}/b/a"
    store.put("b", "a", b"x" * 3_000_000)
    with open_object(url) as file:
        assert file.read(1000) == b"x" * 1000
        stored = store.put("b", "a", b"y" * 3_000_000)
        store.buckets["b"]["a"] = replace(stored, modified=stored.modified + 10)
        with pytest.raises(ObjectChanged, match="changed while it was being read"):
            file.read()
    store.buckets["b"]["a"] = replace(stored, modified=stored.modified - 60)
    assert is_lasting_version(object_info(url).version)
    store.buckets["b"]["a"] = replace(stored, modified=time.time())
    assert not is_lasting_version(object_info(url).version)
    store.without = ("ETag", "Last-Modified")
    assert not is_lasting_version(object_info(url).version)


def test_addresses_that_lead_elsewhere_are_followed(store):
    store.is_public = True
    store.put("b", "real", b"abc")

    def redirect(request):
        if request.key == "a":
            request.send(b"", 302, {"Location": f"{store.url}/b/real"})
        return request.key == "a"

    store.before = redirect
    assert read_all(f"{store.url}/b/a?download=1") == 3


class WholeFiles(http.server.SimpleHTTPRequestHandler):
    """Python's own server, which knows neither parts of files nor entity tags."""

    def log_message(self, *_):
        pass


def test_a_server_that_sends_no_parts_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(b"{}" * 100_000)
    handler = functools.partial(WholeFiles, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.jsonl"
        try:
            with pytest.raises(InputError, match=r"its server sends no parts of files, .*download"):
                read_all(url)
            with pytest.raises(MissingObject):
                read_all(f"{url}.gz")
        finally:
            server.shutdown()


SECRETS = [
    "s3://key:hidden@b/a.jsonl",
    "https://host/a.jsonl?page=2&X-Amz-Signature=hidden",
    "https://host/a.jsonl?X-Goog-Credential=hidden",
    "https://host/a.jsonl?access_token=hidden",
    "gs://me:hidden@b/a",
]


@pytest.mark.parametrize("url", SECRETS)
def test_urls_with_credentials_are_refused_and_not_repeated(url):
    with pytest.raises(InputError, match="its URL holds credentials") as refused:
        object_info(url)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("url", ["s3://b/a@c:d", "https://host/a?page=2&token_count=3", "gs://b/a"])
def test_other_urls_are_not(url):
    assert not has_access(url)


def read_all(url):
    with open_object(url) as file:
        return sum(map(len, iter(lambda: file.read(50_000), b"")))


def test_workers_that_are_forked_after_requests_read_too(store):
    """obstore's threads are lost in a fork; its requests would never end."""
    store.put("b", "a", os.urandom(3_000_000))
    assert read_all("s3://b/a") == 3_000_000
    assert map_tasks(read_all, ["s3://b/a"] * 4, workers=2) == [3_000_000] * 4


def test_a_file_is_read_as_one_version(store):
    store.put("b", "a", b"x" * 3_000_000)
    with open_object("s3://b/a") as file:
        assert file.read(1000) == b"x" * 1000
        store.put("b", "a", b"y" * 3_000_000)
        with pytest.raises(ObjectChanged, match=r"^s3://b/a: changed while it was being read"):
            file.read()


def test_an_interrupted_request_leaves_no_answer_for_the_next(store):
    store.put("b", "a", b"abc")

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            apart(time.sleep, 2)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert object_info("s3://b/a").size_bytes == 3


DIRECT = """
import sys
from curate.runtime.objects import object_info, stay_direct
from curate.runtime.workers import map_tasks
stay_direct()
print(object_info(sys.argv[1]).size_bytes)
map_tasks(object_info, [sys.argv[1]] * 2, workers=2)
"""


def test_a_process_that_talked_itself_does_not_fork_workers_that_wait_for_ever(store):
    store.put("b", "a", b"abc")
    path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    command, environment = [sys.executable, "-c", DIRECT, "s3://b/a"], {"PYTHONPATH": path}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )
    assert done.stdout == "3\n"
    assert "EngineError: s3://b/a: cannot be reached, since this process was forked" in done.stderr


def test_a_helper_that_was_killed_is_said_and_replaced(store):
    store.put("b", "a", b"abc")
    helper = apart(os.getpid)
    with pytest.raises(EngineError, match="while it talked to object storage, a worker was ended"):
        apart(os.kill, helper, signal.SIGKILL)
    assert object_info("s3://b/a").size_bytes == 3


ENDLESS = """
import os, sys, time
from curate.runtime.objects import apart
print(apart(os.getpid), flush=True)
time.sleep(60)
"""


def test_the_helper_ends_with_the_process_that_it_helps():
    path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    helper = int(process.stdout.readline())
    assert helper != process.pid
    process.kill()
    process.communicate()
    for _ in range(100):
        state = Path(f"/proc/{helper}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("it still runs")
