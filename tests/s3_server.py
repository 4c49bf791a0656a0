"""An S3 server in memory, on this machine, which can drop, refuse, delay and shorten answers.

It lists (version 2), reads ranges with If-Match, writes with If-None-Match and If-Match, copies,
deletes, and takes multipart uploads; keys are any text, and buckets are named in the path. It also
answers Google Cloud Storage's XML requests, with generations, and anyone's plain GET where
`is_public`. Left out: signatures, of which only the key's identifier is looked at, and versions.
`test_s3_server.py` compares it with moto where that is installed. To run it alone:

    python tests/s3_server.py PORT BUCKET...
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import random
import re
import sys
import threading
import time
import urllib.parse
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.etree import ElementTree
from xml.sax.saxutils import escape

KEY_ID, SECRET = "curate-test", "secret-of-curate-test"
FAULTS = ("drop", "503", "429", "truncate", "slow", "short")


@dataclass(frozen=True)
class Stored:
    """An object; another one with the same key has another generation."""

    data: bytes
    etag: str
    generation: int
    modified: float
    content_type: str = "binary/octet-stream"
    kept: dict = field(default_factory=dict)
    """Headers that the client gave it, such as `x-amz-meta-xxh3`."""


@dataclass
class Faults:
    """Faults drawn by the seed and the request, whatever the order in which requests come.

    `drop` closes the connection, `truncate` closes it within the body, `slow` pauses within it,
    and `short` declares half of the body to be all.
    """

    seed: int = 0
    share: float = 0.3
    """Part of the requests that have a fault, drawn anew each time they are sent."""
    most: int = 2
    """Faults of one request, after which it is answered."""
    kinds: tuple[str, ...] = FAULTS
    slow_seconds: float = 0.2
    drawn: Counter = field(default_factory=Counter)
    """Faults so far, by kind."""
    tries: Counter = field(default_factory=Counter)

    def draw(self, request):
        self.tries[request] += 1
        if self.tries[request] > self.most:
            return ""
        draw = random.Random(repr((self.seed, request, self.tries[request])))
        kind = draw.choice(self.kinds) if draw.random() < self.share else ""
        self.drawn[kind] += bool(kind)
        return kind


class ObjectStore(ThreadingHTTPServer):
    """Buckets by name, each a dictionary of `Stored` by key."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *buckets, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.buckets = {name: {} for name in buckets}
        self.uploads = {}
        """Multipart uploads that are not complete: bucket, key and parts by number."""
        self.requests = []
        """Method, path, query and Range of each request."""
        self.faults = None
        self.is_down = False
        self.is_public = False
        self.denied = ()
        """Regular expressions of `METHOD /bucket/key` that are refused."""
        self.lacks_conditions = False
        """Whether it refuses conditional writes, as some stores do."""
        self.before = None
        """Called with each handler before it answers, so that a test can change what it reads; True
        where it has answered itself."""
        self.without = ()
        """Headers that are left out of answers."""
        self.sends_chunks = False
        """Whether listings come in chunks, without their length, as Amazon's do."""
        self.page_keys = 1000
        self.generations = itertools.count(1)
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self):
        """Variables by which a client reaches this server."""
        return {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.url,
                "AWS_ALLOW_HTTP": "true"}  # fmt: skip

    def handle_error(self, *_):
        """Say nothing of a client that went away, as those do that wait no longer."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*_)

    def put(self, bucket, key, data, etag=None, **about):
        etag = f'"{etag or hashlib.md5(data).hexdigest()}"'
        with self.lock:
            stored = Stored(data, etag, next(self.generations), time.time(), **about)
            self.buckets[bucket][key] = stored
        return stored

    def asked(self, method, part=""):
        """Requests of a method whose path holds `part`."""
        return [row for row in self.requests if row[0] == method and part in row[1]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Say nothing: the server's messages would stand between those of the tests."""

    def do_GET(self):
        store = self.server
        path, _, query = self.path.partition("?")
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.bucket, _, key = path[1:].partition("/")
        self.key = urllib.parse.unquote(key)
        self.body = self.receive()
        span = self.headers.get("Range", "")
        store.requests.append((self.command, urllib.parse.unquote(path), query, span))
        self.fault = store.faults.draw((self.command, self.path, span)) if store.faults else ""
        if store.is_down or self.fault == "drop":
            self.close_connection = True
            return None
        if self.fault in ("503", "429"):
            return self.refuse(int(self.fault), "SlowDown")
        who = self.headers.get("Authorization", "") + self.query.get("X-Amz-Credential", "")
        if not (store.is_public or who.startswith("Bearer ")):
            if not who:
                return self.refuse(403, "AccessDenied")
            if KEY_ID not in who:
                return self.refuse(403, "InvalidAccessKeyId")
        line = f"{self.command} /{self.bucket}/{self.key}"
        if any(re.match(pattern, line) for pattern in store.denied):
            return self.refuse(403, "AccessDenied")
        if store.before is not None and store.before(self):
            return None
        if self.bucket not in store.buckets:
            if self.command == "PUT" and not self.key:
                store.buckets[self.bucket] = {}
                return self.send()
            return self.refuse(404, "NoSuchBucket")
        self.objects = store.buckets[self.bucket]
        return self.answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the names that http.server calls

    def receive(self):
        """Read the body, out of its chunks where it is sent in some."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b"".join(iter(lambda: self.chunk(self.rfile.readline, self.rfile.read), b""))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return body
        pieces = []
        while True:  # chunks with signatures, then checksums, inside the body
            line, _, body = body.partition(b"\r\n")
            size = int(line.partition(b";")[0], 16)
            if not size:
                return b"".join(pieces)
            pieces.append(body[:size])
            body = body[size + 2 :]

    @staticmethod
    def chunk(line, read):
        data = read(int(line().strip(), 16))
        line()
        return data

    def answer(self):
        query, command = self.query, self.command
        if not self.key:
            if command == "POST":
                return self.delete_many()
            return self.listing() if command == "GET" else self.send()
        if "uploads" in query or "uploadId" in query:
            return self.multipart()
        if command == "PUT":
            return self.put()
        if command == "DELETE":
            self.objects.pop(self.key, None)
            return self.send(code=204)
        return self.read()

    def send(self, data=b"", code=200, headers=()):
        sent, declared = data, len(data)
        if self.command == "GET" and code in (200, 206) and len(data) > 1:
            if self.fault in ("truncate", "short"):
                sent = data[: len(data) // 2]
            if self.fault == "short":
                declared = len(sent)
        self.send_response(code)
        for name, value in dict(headers).items():
            if name not in self.server.without:
                self.send_header(name, value)
        if "Transfer-Encoding" in dict(headers):
            sent = b"%x\r\n%b\r\n0\r\n\r\n" % (declared, sent)
        elif "Content-Length" not in dict(headers) and code != 204:
            self.send_header("Content-Length", str(declared))
        self.end_headers()
        if self.command != "HEAD":
            if self.fault == "slow":
                self.wfile.write(sent[:100])
                self.wfile.flush()
                time.sleep(self.server.faults.slow_seconds)
                sent = sent[100:]
            self.wfile.write(sent)
        self.wfile.flush()
        if self.fault == "truncate":
            self.close_connection = True

    def send_xml(self, name, content, code=200):
        head = '<?xml version="1.0" encoding="UTF-8"?>'
        space = "" if name == "Error" else ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        text = f"{head}<{name}{space}>{content}</{name}>"
        headers = {"Content-Type": "application/xml"}
        if name == "ListBucketResult" and self.server.sends_chunks:
            headers["Transfer-Encoding"] = "chunked"
        self.send(text.encode(), code, headers)

    def refuse(self, code, error):
        self.send_xml("Error", f"<Code>{error}</Code><Message>{error}</Message>", code)

    def listing(self):
        query = self.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        most = min(int(query.get("max-keys", 1000)), self.server.page_keys)
        quote = urllib.parse.quote if query.get("encoding-type") == "url" else escape
        rows, prefixes, last, is_truncated = [], [], "", False
        with self.server.lock:
            objects = sorted(self.objects.items(), key=lambda item: item[0].encode())
        for key, stored in objects:
            if not key.startswith(prefix) or key.encode() <= after.encode():
                continue
            head, mark, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            common = prefix + head + mark if mark else ""
            if common and (common in prefixes or (after and after.startswith(common))):
                continue
            if len(rows) + len(prefixes) == most:
                is_truncated = True
                break
            last = common + "\U0010ffff" if common else key
            if common:
                prefixes.append(common)
                continue
            modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stored.modified))
            rows.append(
                f"<Contents><Key>{quote(key)}</Key><LastModified>{modified}</LastModified>"
                f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.data)}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        common = [f"<CommonPrefixes><Prefix>{quote(p)}</Prefix></CommonPrefixes>" for p in prefixes]
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>"
        encoding = "<EncodingType>url</EncodingType>" if "encoding-type" in query else ""
        self.send_xml(
            "ListBucketResult",
            f"<Name>{self.bucket}</Name><Prefix>{quote(prefix)}</Prefix>{encoding}"
            f"<KeyCount>{len(rows) + len(prefixes)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated>"
            f"{token if is_truncated else ''}{''.join(rows)}{''.join(common)}",
        )

    def read(self):
        stored = self.objects.get(self.key)
        if stored is None:
            return self.refuse(404, "NoSuchKey")
        if self.query.get("generation", str(stored.generation)) != str(stored.generation):
            return self.refuse(404, "NoSuchKey")
        if self.headers.get("If-Match", stored.etag) != stored.etag:
            return self.refuse(412, "PreconditionFailed")
        headers = {"ETag": stored.etag, "Accept-Ranges": "bytes",
                   "x-goog-generation": str(stored.generation),
                   "Last-Modified": formatdate(stored.modified, usegmt=True),
                   "Content-Type": stored.content_type, **stored.kept}  # fmt: skip
        if self.headers.get("If-None-Match") == stored.etag:
            return self.send(code=304, headers=headers)
        data, code, length = stored.data, 200, len(stored.data)
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if span:
            first, last = span.groups()
            start = int(first) if first else max(0, length - int(last))
            stop = min(length, int(last) + 1 if first and last else length)
            if start >= length:
                return self.refuse(416, "InvalidRange")
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{length}"
            data, code = data[start:stop], 206
        if self.command == "HEAD":
            headers["Content-Length"] = str(len(data))
        return self.send(data, code, headers)

    def may_write(self):
        """Whether conditions of a write hold; else it is refused."""
        stored = self.objects.get(self.key)
        generation = self.headers.get("x-goog-if-generation-match")
        holds = (
            (stored is None or self.headers.get("If-None-Match") != "*")
            and self.headers.get("If-Match") in (None, stored and stored.etag)
            and generation in (None, str(stored.generation if stored else 0))
        )
        if self.server.lacks_conditions and self.headers.get("If-None-Match"):
            self.refuse(501, "NotImplemented")
            return False
        if not holds:
            self.refuse(412, "PreconditionFailed")
        return holds

    def kept(self):
        """Headers that are kept with an object."""
        prefixes = ("x-amz-meta-", "x-goog-meta-")
        return {k: v for k, v in self.headers.items() if k.lower().startswith(prefixes)}

    def is_whole(self):
        """Whether the body has the checksums that its headers state; else it is refused."""
        digests = {"x-amz-checksum-sha256": hashlib.sha256, "Content-MD5": hashlib.md5}
        for name, digest in digests.items():
            stated = self.headers.get(name)
            if stated and base64.b64encode(digest(self.body).digest()).decode() != stated:
                self.refuse(400, "BadDigest")
                return False
        return True

    def put(self):
        if not self.is_whole() or not self.may_write():
            return
        source = self.headers.get("x-amz-copy-source")
        if source:
            bucket, _, key = urllib.parse.unquote(source).lstrip("/").partition("/")
            origin = self.server.buckets.get(bucket, {}).get(key)
            if origin is None:
                return self.refuse(404, "NoSuchKey")
            self.body = origin.data
        kind = self.headers.get("Content-Type") or "binary/octet-stream"
        stored = self.server.put(
            self.bucket, self.key, self.body, content_type=kind, kept=self.kept()
        )
        if source:
            return self.send_xml("CopyObjectResult", f"<ETag>{escape(stored.etag)}</ETag>")
        self.send(headers={"ETag": stored.etag, "x-goog-generation": str(stored.generation)})

    def multipart(self):
        uploads, place = self.server.uploads, (self.bucket, self.key)
        if self.command == "POST" and "uploads" in self.query:
            name = f"upload-{next(self.server.generations)}"
            uploads[name] = (*place, {}, self.kept())
            content = f"<Bucket>{self.bucket}</Bucket><Key>{escape(self.key)}</Key>"
            return self.send_xml(
                "InitiateMultipartUploadResult", f"{content}<UploadId>{name}</UploadId>"
            )
        name = self.query["uploadId"]
        if uploads.get(name, ())[:2] != place:
            return self.refuse(404, "NoSuchUpload")
        parts = uploads[name][2]
        if self.command == "PUT":
            if self.is_whole():
                etag = f'"{hashlib.md5(self.body).hexdigest()}"'
                parts[int(self.query["partNumber"])] = (etag, self.body)
                self.send(headers={"ETag": etag})
            return None
        if self.command == "DELETE":
            del uploads[name]
            return self.send(code=204)
        named = {}
        for part in ElementTree.fromstring(self.body).iter():
            if part.tag.rpartition("}")[2] == "Part":
                fields = {child.tag.rpartition("}")[2]: child.text for child in part}
                named[int(fields["PartNumber"])] = fields["ETag"].strip('"')
        if not named or any(parts.get(n, ("",))[0].strip('"') != tag for n, tag in named.items()):
            return self.refuse(400, "InvalidPart")
        if not self.may_write():
            return None
        bodies = [parts[number][1] for number in sorted(named)]
        digest = hashlib.md5(b"".join(hashlib.md5(body).digest() for body in bodies)).hexdigest()
        kept, tag = uploads[name][3], f"{digest}-{len(bodies)}"
        stored = self.server.put(*place, b"".join(bodies), tag, kept=kept)
        del uploads[name]
        self.send_xml(
            "CompleteMultipartUploadResult",
            f"<Bucket>{self.bucket}</Bucket><Key>{escape(self.key)}</Key>"
            f"<ETag>{escape(stored.etag)}</ETag>",
        )

    def delete_many(self):
        keys = [entry.text for entry in ElementTree.fromstring(self.body).iter()
                if entry.tag.rpartition("}")[2] == "Key"]  # fmt: skip
        rows = []
        for key in keys:
            line = f"DELETE /{self.bucket}/{key}"
            if any(re.match(pattern, line) for pattern in self.server.denied):
                rows.append(f"<Error><Key>{escape(key)}</Key><Code>AccessDenied</Code>"
                            "<Message>Access Denied</Message></Error>")  # fmt: skip
            else:
                self.objects.pop(key, None)
                rows.append(f"<Deleted><Key>{escape(key)}</Key></Deleted>")
        self.send_xml("DeleteResult", "".join(rows))


@contextmanager
def running(*buckets):
    """A store with these buckets that answers until the block ends."""
    store = ObjectStore(*buckets)
    answer = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.05},
                              daemon=True)  # fmt: skip
    answer.start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()


if __name__ == "__main__":
    ObjectStore(*sys.argv[2:], port=int(sys.argv[1])).serve_forever()
