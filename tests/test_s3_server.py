"""The S3 server of the tests answers as that of moto (`pip install 'moto[server]'`)."""

import base64
import hashlib
import http.client
import re
import urllib.parse
from xml.etree import ElementTree

import pytest
from s3_server import KEY_ID, running

pytest.importorskip("moto")

KEYS = [
    "a/1", "a/2", "a/b/3", "a b.txt", "p%20q", "h#x", "\u00fc/\u00e9", "x//y", "dir/", "q?v", "z",
]  # fmt: skip
PARTS = b"x" * (5 << 20), b"the rest"


def digest(data):
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def path(key, query=""):
    return f"/bkt/{urllib.parse.quote(key)}{query}"


LISTS = ["?list-type=2", "?list-type=2&prefix=a/", "?list-type=2&prefix=a%2F&delimiter=%2F",
         "?list-type=2&delimiter=/", "?list-type=2&max-keys=3", "?list-type=2&prefix=none",
         "?list-type=2&start-after=p%2520q", "?list-type=2&prefix=%C3%BC"]  # fmt: skip
REQUESTS = [
    *(("GET", "/bkt" + query, {}, b"") for query in LISTS),
    *(("GET", path(key), {}, b"") for key in KEYS),
    ("GET", path("none"), {}, b""),
    ("GET", "/none?list-type=2", {}, b""),
    ("GET", "/none/a", {}, b""),
    ("HEAD", path("a/1"), {}, b""),
    ("HEAD", path("none"), {}, b""),
    ("GET", path("z"), {"Range": "bytes=0-0"}, b""),
    ("GET", path("z"), {"Range": "bytes=3-"}, b""),
    ("GET", path("z"), {"Range": "bytes=-4"}, b""),
    ("GET", path("z"), {"Range": "bytes=5-1000"}, b""),
    ("GET", path("z"), {"Range": "bytes=1000-1001"}, b""),
    ("GET", path("z"), {"If-Match": '"absent"'}, b""),
    ("GET", path("z"), {"If-Match": f'"{hashlib.md5(b"body of z").hexdigest()}"'}, b""),
    ("GET", path("z"), {"If-None-Match": f'"{hashlib.md5(b"body of z").hexdigest()}"'}, b""),
    ("PUT", path("new"), {"If-None-Match": "*"}, b"first"),
    ("PUT", path("new"), {"If-None-Match": "*"}, b"second"),
    ("GET", path("new"), {}, b""),
    ("PUT", path("new"), {"x-amz-checksum-sha256": digest(b"third")}, b"third"),
    ("PUT", path("new"), {"x-amz-meta-who": "me"}, b"with a header"),
    ("HEAD", path("new"), {}, b""),
    ("PUT", path("copy"), {"x-amz-copy-source": "/bkt/a%20b.txt"}, b""),
    ("GET", path("copy"), {}, b""),
    ("DELETE", path("copy"), {}, b""),
    ("GET", path("copy"), {}, b""),
    ("DELETE", path("copy"), {}, b""),
    ("POST", "/bkt?delete", {}, b"<Delete><Object><Key>z</Key></Object></Delete>"),
    ("GET", path("z"), {}, b""),
]
COMPARED = ("ETag", "Content-Length", "Content-Range", "x-amz-meta-who")


def ask(address, method, target, headers, body):
    connection = http.client.HTTPConnection(address)
    scope = f"Credential={KEY_ID}/20260101/us-east-1/s3/aws4_request"
    signed = {
        "Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0",
        "x-amz-date": "20260101T000000Z",
    }
    if method == "POST":
        signed["Content-MD5"] = base64.b64encode(hashlib.md5(body).digest()).decode()
    connection.request(method, target, body, {**signed, **headers})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, answer.headers, data


def seen(answer):
    """What of an answer is compared: XML by what clients read of it."""
    status, headers, data = answer
    if not data.lstrip().startswith(b"<"):
        kept = {name: headers.get(name) for name in COMPARED if status < 300}
        return status, kept, data
    root = ElementTree.fromstring(re.sub(rb' xmlns="[^"]*"', b"", data))
    if status >= 400:
        return status, root.findtext("Code")
    tags = ("Key", "Size", "ETag", "IsTruncated", "KeyCount", "CommonPrefixes/Prefix")
    return status, {tag: [part.text for part in root.iterfind(f".//{tag}")] for tag in tags}


def upload(address, key, parts):
    _, _, data = ask(address, "POST", path(key, "?uploads="), {}, b"")
    name = re.search(rb"<UploadId>([^<]+)<", data)[1].decode()
    tags = []
    for number, part in enumerate(parts, 1):
        query = f"?partNumber={number}&uploadId={urllib.parse.quote(name)}"
        tags.append(ask(address, "PUT", path(key, query), {}, part)[1]["ETag"])
    listed = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
                     for number, tag in enumerate(tags, 1))  # fmt: skip
    body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
    query = f"?uploadId={urllib.parse.quote(name)}"
    done = ask(address, "POST", path(key, query), {}, body)[0]
    status, headers, data = ask(address, "GET", path(key), {}, b"")
    return tags, done, status, headers["ETag"], hashlib.sha256(data).hexdigest()


def pages(address):
    """Keys of a listing in pages of two."""
    keys, token = [], ""
    while True:
        query = f"/bkt?list-type=2&max-keys=2{token}"
        _, _, data = ask(address, "GET", query, {}, b"")
        keys += re.findall(rb"<Key>([^<]*)</Key>", data)
        after = re.search(rb"<NextContinuationToken>([^<]*)<", data)
        if after is None:
            return keys
        token = f"&continuation-token={urllib.parse.quote(after[1].decode())}"


def test_it_answers_as_moto_does():
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        with running("bkt") as store:
            other = "{}:{}".format(*moto.get_host_and_port())
            mine = store.url.removeprefix("http://")
            assert ask(other, "PUT", "/bkt", {}, b"")[0] == 200
            for key in KEYS:
                body = b"" if key == "dir/" else f"body of {key}".encode()
                for address in (mine, other):
                    assert ask(address, "PUT", path(key), {}, body)[0] == 200
            assert pages(mine) == pages(other)
            differ = [
                (request[:3], ours, theirs)
                for request in REQUESTS
                for ours, theirs in [[seen(ask(address, *request)) for address in (mine, other)]]
                if ours != theirs
            ]
            assert not differ, differ
            assert upload(mine, "large", PARTS) == upload(other, "large", PARTS)
    finally:
        moto.stop()
