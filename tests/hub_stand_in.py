"""Answer what `huggingface_hub` and `datasets` ask of the Hub, from memory, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LFS_BYTES = 1000
"""Files from this size are LFS objects, which are served after a redirect."""


class Hub(ThreadingHTTPServer):
    """Datasets by id; each has commits, oldest first, and names of revisions."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.datasets = {}
        self.objects = {}
        self.requests = []
        self.drops = Counter()
        """Requests for a path whose body ends in the middle, still to come."""
        self.shorts = Counter()
        """The same, but what comes is declared to be all."""
        self.is_down = False
        self.token = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def storage(self):
        """Address of the storage of LFS objects, a host of its own as on the Hub."""
        return f"http://localhost:{self.server_port}"

    def commit(self, name, files, *, keep=True, branch="main"):
        """Add a commit with files, given as bytes or text; None removes one."""
        dataset = self.datasets.setdefault(name, {"commits": {}, "refs": {}, "private": False})
        before = dataset["commits"].get(dataset["refs"].get(branch), {}) if keep else {}
        content = {**before, **{k: v.encode() if isinstance(v, str) else v
                                for k, v in files.items()}}  # fmt: skip
        content = {path: data for path, data in content.items() if data is not None}
        number = len(dataset["commits"])
        sha = hashlib.sha1(repr((name, number, sorted(content))).encode()).hexdigest()
        dataset["commits"][sha] = content
        dataset["refs"][branch] = sha
        return sha

    def files(self, name, revision="main"):
        dataset = self.datasets[name]
        return dataset["commits"][dataset["refs"].get(revision, revision)]

    def asked(self, part):
        """Requests whose path holds `part`."""
        return [path for _, path in self.requests if part in path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing: the server's messages would stand between those of the tests."""

    def do_GET(self):
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the names that http.server calls

    def answer(self):
        hub = self.server
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = b"".join(iter(self.chunk, b""))
        path, _, query = self.path.partition("?")
        path = urllib.parse.unquote(path)
        hub.requests.append((self.command, path))
        if hub.is_down:
            self.close_connection = True
            return None
        is_storage = path.startswith(("/cdn/", "/lfs/"))  # whose addresses are signed
        if (
            hub.token
            and not is_storage
            and self.headers.get("Authorization") != f"Bearer {hub.token}"
        ):
            return self.refuse(401, "RepoNotFound")
        query = dict(urllib.parse.parse_qsl(query))
        for pattern, method in ROUTES:
            match = re.fullmatch(pattern, path)
            if match:
                return getattr(self, method)(query, **match.groupdict())
        return self.refuse(404, "EntryNotFound")

    def chunk(self):
        size = int(self.rfile.readline().strip(), 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def send(self, data, code=200, headers=(), drop=False):
        if not isinstance(data, bytes):
            data = json.dumps(data).encode()
        self.send_response(code)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if drop else data)
        if drop:
            self.wfile.flush()
            self.close_connection = True

    def refuse(self, code, error):
        self.send({"error": error}, code, {"X-Error-Code": error, "X-Error-Message": error})

    def at(self, name, revision):
        """Commit and files of a revision; None after answering that there is none."""
        dataset = self.server.datasets.get(name)
        if dataset is None:
            return self.refuse(404, "RepoNotFound")
        sha = dataset["refs"].get(revision, revision)
        if sha not in dataset["commits"]:
            return self.refuse(404, "RevisionNotFound")
        return sha, dataset["commits"][sha]

    def info(self, query, name, revision="main"):
        if at := self.at(name, revision):
            sha, files = at
            siblings = [{"rfilename": path} for path in sorted(files)]
            private = self.server.datasets[name]["private"]
            self.send({"id": name, "sha": sha, "private": private, "siblings": siblings,
                       "downloads": 0, "likes": 0, "tags": [], "disabled": False,
                       "gated": False})  # fmt: skip

    def tree(self, query, name, revision, below=""):
        if not (at := self.at(name, revision)):
            return
        below = (below or "").strip("/")
        files = {p: d for p, d in at[1].items() if not below or p.startswith(f"{below}/")}
        if below and not files:
            return self.refuse(404, "EntryNotFound")
        rest = len(below) + 1 if below else 0
        entries = {}
        for path, data in files.items():
            parts = path[rest:].split("/")
            for depth in range(1, len(parts)):
                folder = path[:rest] + "/".join(parts[:depth])
                entries[folder] = directory(folder)
            entries[path] = described(path, data)
        if query.get("recursive", "").lower() != "true":
            entries = {p: e for p, e in entries.items() if "/" not in p[rest:]}
        self.send([entries[path] for path in sorted(entries)])

    def paths_info(self, query, name, revision):
        if at := self.at(name, revision):
            if "json" in self.headers.get("Content-Type", ""):
                paths = json.loads(self.body)["paths"]
            else:
                paths = urllib.parse.parse_qs(self.body.decode())["paths"]
            entries = []
            for path in [paths] if isinstance(paths, str) else paths:
                if path in at[1]:
                    entries.append(described(path, at[1][path]))
                elif any(other.startswith(f"{path}/") for other in at[1]):
                    entries.append(directory(path))
            self.send(entries)

    def resolve(self, query, name, revision, path):
        if not (at := self.at(name, revision)):
            return
        sha, files = at
        if path not in files:
            return self.refuse(404, "EntryNotFound")
        data = files[path]
        entry = described(path, data)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            oid = entry["lfs"]["oid"]
            self.server.objects[oid] = data
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{oid}"',
                        "Location": f"{self.server.storage}/cdn/{oid}/{path}"}  # fmt: skip
            return self.send(b"", 302, headers)
        self.ranged(path, data, headers)

    def cdn(self, query, oid, path):
        self.ranged(path, self.server.objects[oid], {"ETag": f'"{oid}"'})

    def ranged(self, path, data, headers):
        code = 200
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span:
            start, stop = int(span[1]), int(span[2] or len(data) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"
            data, code = data[start:stop], 206
        if self.command == "GET" and self.server.shorts[path] > 0:
            self.server.shorts[path] -= 1
            data = data[: len(data) // 2]
        drop = self.command == "GET" and self.server.drops[path] > 0
        self.server.drops[path] -= drop
        self.send(data, code, headers, drop=drop)

    def create(self, query):
        asked = json.loads(self.body)
        owner = asked.get("organization")
        name = f"{owner}/{asked['name']}" if owner else asked["name"]
        if name in self.server.datasets:
            return self.send({"error": "exists", "url": f"{self.server.url}/datasets/{name}"}, 409)
        self.server.commit(name, {".gitattributes": ""})
        self.server.datasets[name]["private"] = (
            asked.get("private") or asked.get("visibility") == "private"
        )
        self.send({"url": f"{self.server.url}/datasets/{name}", "id": name})

    def preupload(self, query, name, revision):
        files = json.loads(self.body)["files"]
        self.send({"files": [
            {"path": file["path"], "shouldIgnore": False,
             "uploadMode": "lfs" if file["size"] >= LFS_BYTES else "regular"}
            for file in files
        ]})  # fmt: skip

    def lfs_batch(self, query, name):
        asked = json.loads(self.body)
        objects = []
        for entry in asked["objects"]:
            upload = {"href": f"{self.server.url}/lfs/{entry['oid']}", "header": {}}
            actions = {} if entry["oid"] in self.server.objects else {"actions": {"upload": upload}}
            objects.append({"oid": entry["oid"], "size": entry["size"], **actions})
        self.send({"transfer": "basic", "objects": objects},
                  headers={"Content-Type": "application/vnd.git-lfs+json"})  # fmt: skip

    def lfs_put(self, query, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.objects[oid] = self.body
        self.send(b"")

    def commit(self, query, name, revision):
        files = {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files[value["path"]] = None
        sha = self.server.commit(name, files)
        url = f"{self.server.url}/datasets/{name}/commit/{sha}"
        self.send({"success": True, "commitOid": sha, "commitUrl": url})

    def whoami(self, query):
        self.send({"type": "user", "name": "me", "auth": {"type": "access_token"}, "orgs": []})

    def validate_yaml(self, query):
        self.send({"errors": [], "warnings": []})


DATASET = r"(?P<name>[^/]+/[^/]+?)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    (rf"/api/datasets/{DATASET}", "info"),
    (rf"/api/datasets/{DATASET}/revision/{REVISION}", "info"),
    (rf"/api/datasets/{DATASET}/tree/{REVISION}(?P<below>/.*)?", "tree"),
    (rf"/api/datasets/{DATASET}/paths-info/{REVISION}", "paths_info"),
    (rf"/datasets/{DATASET}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
    (r"/cdn/(?P<oid>[0-9a-f]+)/(?P<path>.+)", "cdn"),
    (r"/api/repos/create", "create"),
    (rf"/api/datasets/{DATASET}/preupload/{REVISION}", "preupload"),
    (rf"/datasets/{DATASET}\.git/info/lfs/objects/batch", "lfs_batch"),
    (r"/lfs/(?P<oid>[0-9a-f]+)", "lfs_put"),
    (rf"/api/datasets/{DATASET}/commit/{REVISION}", "commit"),
    (r"/api/whoami-v2", "whoami"),
    (r"/api/validate-yaml", "validate_yaml"),
]


def directory(path):
    """Describe a directory as the Hub does."""
    return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}


def described(path, data):
    """Describe a file as the Hub does."""
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry = {"type": "file", "oid": oid, "size": len(data), "path": path}
    if len(data) >= LFS_BYTES:
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 130}
    return entry


@contextmanager
def running():
    """A Hub that answers until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
