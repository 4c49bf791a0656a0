"""Read and write objects of S3, Google Cloud Storage and web servers, through obstore.

Credentials, endpoint and region come from the environment alone, so nothing secret is ever part of
a recipe or an artifact. Requests that fail for a while are sent again, with growing pauses; a store
that stays away is a fault of the machine. obstore's threads do not survive a fork, so a process
that may fork workers leaves its requests to a helper process: see `apart`. Left out: other
protocols, which fsspec opens.
"""

from __future__ import annotations

import contextlib
import functools
import io
import multiprocessing
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from curate.errors import CurateError, EngineError, InputError
from curate.runtime.limits import death_of
from curate.runtime.machine import NO_ANSWER, fault_line, machine_fault
from curate.runtime.shared import context, workers_share_memory
from curate.runtime.workers import (
    default_workers,
    failure_of,
    map_tasks,
    revive,
    uses_cluster,
)

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

    from curate.runtime.s3_listing import ListedObject, Page

Item = TypeVar("Item")
Result = TypeVar("Result")

EXTRAS = {"s3": "s3", "gs": "gcs", "http": "http", "https": "http"}
"""Extra of this package that brings what each protocol needs."""

CREDENTIALS = {
    "s3": 'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, as by eval "$(aws configure '
    'export-credentials --format env)", or AWS_SKIP_SIGNATURE=true for a public bucket',
    "gs": "GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, or "
    "GOOGLE_SKIP_SIGNATURE=true for a public bucket",
}
"""Variables to set, by protocol."""

RIGHTS = {
    "s3": {"read": "s3:GetObject", "listed": "s3:ListBucket", "written": "s3:PutObject",
           "deleted": "s3:DeleteObject"},
    "gs": {"read": "storage.objects.get", "listed": "storage.objects.list",
           "written": "storage.objects.create", "deleted": "storage.objects.delete"},
}  # fmt: skip
"""Permission that a store asks for, by protocol and by what is done to an object."""

PATIENCE_SECONDS = 180
"""How long a request is tried, unless `CURATE_STORE_SECONDS` says otherwise."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 10.0
QUICK_RETRIES = 3
"""Times that obstore itself repeats a request, or goes on where a body broke off."""
CONNECT_SECONDS, STALL_SECONDS, ANSWER_SECONDS = 10, 30, 600
"""Most time to connect, without a byte of an answer, and for all of an answer."""

SETTLED_SECONDS = 5
"""Age of a modification after which no other can have the same time, to the second."""

FIRST_READ_BYTES, LARGEST_READ_BYTES = 16 << 10, 4 << 20
"""A file that is read on from where the last read ended is fetched in growing pieces."""

has_access = re.compile(
    r"\w+://[^/?#]*@|(?:s3|gs)://[^/?#]*:|.*[?&](?:[\w.-]*(?:signature|credential|token|accesskeyid|accessid)|sig)=",
    re.IGNORECASE,
).match


PASSING_CODES = frozenset({"RequestTimeout", "OperationAborted", "ConditionalRequestConflict"})
"""Errors of S3 that pass although their status, 400 or 409, says that the request is wrong."""

is_full = re.compile(r"\w*(?:Quota|StorageFull)").match
"""Test for errors of stores that have no room."""


ODD_KEY = "a part of the key is empty, '.' or '..', or holds a control character"
"""Reason why curate cannot read an object; see `s3_listing.is_odd_key`."""


class ObjectInfo(NamedTuple):
    """An object as its store describes it."""

    url: str
    size_bytes: int
    version: str
    """Entity tag, or the time of modification where the store gives none; changes with content."""


class MissingObject(InputError):  # noqa: N818 - says what is, not what went wrong
    """There is no object of this name."""


class ObjectExists(InputError):  # noqa: N818 - the same
    """There is an object of this name already."""


class ObjectChanged(InputError):  # noqa: N818 - the same
    """The object has another version than expected."""


class OddKey(InputError):  # noqa: N818 - the same
    """A key holds what obstore cannot name."""


class IncompleteAnswer(Exception):  # noqa: N818 - never leaves this module
    """A store sent less than it was asked for."""


def is_object_url(path: str) -> bool:
    """Whether this module reads a URL.

    Example:
        >>> [is_object_url(path) for path in ("s3://b/a.jsonl", "hf://datasets/a", "a.jsonl")]
        [True, False, False]
    """
    return path.partition("://")[0] in EXTRAS and "://" in path


def store_of(url: str) -> tuple[ObjectStore, str]:
    """Return the store that holds a URL, and the URL's key there.

    Call it only in functions that run through `apart`. Stores are kept, so that connections are
    used again.

    Raises:
        InputError: The URL holds credentials or names no bucket, or obstore is not installed.
    """
    global _threads_of
    if _threads_of not in (None, os.getpid()):
        raise EngineError(
            f"{url}: cannot be reached, since this process was forked from one that talked to "
            "object storage itself, as on a cluster; start a new process for local work"
        )
    refuse_access(url)
    protocol, _, rest = url.partition("://")
    _threads_of = os.getpid()
    if protocol in ("http", "https"):
        return _store(protocol, url, _environment()), ""
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise InputError(f"{url}: names no bucket; write {protocol}://BUCKET/KEY")
    return _store(protocol, bucket, _environment()), key


def refuse_access(url: str) -> None:
    """Refuse a URL that holds credentials, in a line that does not show them.

    Raises:
        InputError: It holds some.
    """
    if has_access(url):
        credentials = CREDENTIALS.get(url.partition("://")[0])
        raise InputError(
            f"{without_access(url)}: its URL holds credentials, which recipes, logs and artifacts "
            "would show; "
            + (f"leave them out, and set {credentials}" if credentials else "download the file")
        )


def without_access(url: str) -> str:
    """Return a URL without what may be secret, for messages.

    Example:
        >>> without_access("s3://me:secret@bucket/a?sig=1"), without_access("s3://me:se/cret@b")
        ('s3://bucket/a', 's3://b')
    """
    protocol, _, rest = re.sub(r"://[^/?#]*@", "://", url.partition("?")[0]).partition("://")
    if protocol in CREDENTIALS and ":" in rest.partition("/")[0]:
        rest = rest.rpartition("@")[2] if "@" in rest else "…"
    return f"{protocol}://{rest}"


_threads_of: int | None = None
"""Process, of this one and those that it was forked from, in which obstore has its threads."""


def _environment() -> tuple[tuple[str, str], ...]:
    """Return the variables that decide how stores are reached."""
    names = ("AWS_", "GOOGLE_", "CURATE_STORE_")
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(names)))


@functools.lru_cache(maxsize=256)
def _store(protocol: str, place: str, environment: tuple[tuple[str, str], ...]) -> ObjectStore:
    try:
        from obstore.store import GCSStore, HTTPStore, S3Store
    except ImportError as error:
        raise InputError(
            f"{protocol}://{place.partition('://')[2] or place}: needs the package obstore: pip "
            f"install 'curate-mix[{EXTRAS[protocol]}]'"
        ) from error
    variables = dict(environment)
    patience = _patience_seconds()
    endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL", "")
    is_plain = protocol == "http" or (
        protocol == "s3"
        and (endpoint.startswith("http://") or variables.get("AWS_ALLOW_HTTP", "") == "true")
    )
    client: ClientConfig = {
        # Only a service account's file can name another endpoint for Google, by its protocol.
        "allow_http": is_plain or protocol == "gs",
        "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS, patience)),
        "read_timeout": timedelta(seconds=min(STALL_SECONDS, patience)),
        "timeout": timedelta(seconds=ANSWER_SECONDS),
    }
    retry: RetryConfig = {
        "max_retries": QUICK_RETRIES,
        "retry_timeout": timedelta(seconds=patience),
        "backoff": {
            "init_backoff": timedelta(seconds=FIRST_PAUSE_SECONDS),
            "max_backoff": timedelta(seconds=LONGEST_PAUSE_SECONDS),
            "base": 2,
        },
    }
    try:
        if protocol == "s3":
            checksum = "SHA256"  # of what is sent, which the store compares
            return S3Store(
                place, checksum_algorithm=checksum, client_options=client, retry_config=retry
            )
        if protocol == "gs":
            return GCSStore(place, client_options=client, retry_config=retry)
        return HTTPStore(place, client_options=client, retry_config=retry)
    except Exception as error:
        url = place if "://" in place else f"{protocol}://{place}"
        raise refusal(error, url) or InputError(
            f"{url}: cannot be opened ({_first_line(error)})"
        ) from error


def _patience_seconds() -> float:
    text = os.environ.get("CURATE_STORE_SECONDS", "")
    try:
        return max(0.1, float(text)) if text else PATIENCE_SECONDS
    except ValueError as error:
        raise InputError(f"CURATE_STORE_SECONDS={text}: must be a number of seconds") from error


def patiently(action: Callable[[], Result], url: str, done: str = "read") -> Result:
    """Do something at a store, again and again while its errors may pass.

    Args:
        action: What to do; must not harm if it is done twice.
        url: What it is done to, for messages.
        done: The same as a participle, such as "read".

    Raises:
        InputError: The store refuses; the message says what to type.
        EngineError: The machine is at fault, or the store does not answer.
    """
    deadline = time.monotonic() + _patience_seconds()
    pause_seconds = FIRST_PAUSE_SECONDS
    while True:
        try:
            return action()
        except CurateError:
            raise
        except Exception as error:
            refused = refusal(error, url, done)
            if refused is not None:
                raise refused from error
            # Others wait at the same time, and should not all come back at once.
            wait_seconds = pause_seconds * random.uniform(0.5, 1.5)
            if time.monotonic() + wait_seconds > deadline:
                raise EngineError(
                    f"{url}: cannot be reached ({_first_line(error)}); run again when it can be"
                ) from error
        time.sleep(wait_seconds)
        pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)


def refusal(error: Exception, url: str, done: str = "read") -> CurateError | None:
    """Return the error to raise if asking again is of no use; else None.

    Args:
        error: From obstore.
        url: What was asked for.
        done: What was to be done to it, such as "read".
    """
    kind, words = type(error).__name__, str(error)
    protocol = url.partition("://")[0]
    credentials = CREDENTIALS.get(protocol)
    if machine_fault(error) not in (None, NO_ANSWER):
        return EngineError(fault_line(error, url) or url)
    code = _code(words)
    if code in PASSING_CODES:
        return None
    if "status code: 507" in words or is_full(code):
        return EngineError(f"{url}: the store has no room ({_first_line(error)}); make some there")
    if code == "RequestTimeTooSkewed":
        return EngineError(f"{url}: the clock of this machine is wrong, says the store; set it")
    if code == "ExpiredToken":
        return InputError(f"{url}: the credentials have expired; set {credentials}")
    if "NoSuchBucket" in words:  # before absent objects, as which obstore reports it, too
        return InputError(
            f"{url}: there is no such bucket; check the name, and AWS_ENDPOINT_URL if the store is "
            "not Amazon's"
        )
    if isinstance(error, FileNotFoundError):
        return MissingObject(f"{url}: there is no such object; check its name")
    # As a status where obstore asked for the rest of a body that broke off.
    if kind == "PreconditionError" or "status code: 412" in words:
        return changed(url)
    if kind == "AlreadyExistsError":
        return ObjectExists(f"{url}: exists already")
    is_denied = code == "AccessDenied" or re.search("status code: 40[13]", words) is not None
    if is_denied or kind in ("PermissionDeniedError", "UnauthenticatedError"):
        remedy = f"; set {credentials}" if credentials else ""
        if credentials and code in ("", "AccessDenied"):  # others say that credentials are wrong
            remedy = f"; grant {RIGHTS[protocol][done]} there, or set {credentials}"
        return InputError(
            f"{url}: cannot be {done}, as access is denied ({_first_line(error)}){remedy}"
        )
    if re.search(r"Missing\w*(AccessKey|Key)|169\.254\.|metadata\.google|credential", words):
        return InputError(f"{url}: there are no credentials; set {credentials}")
    if "redirect" in words.lower() or " 301 " in words:
        return InputError(f"{url}: the bucket lies in another region; set AWS_REGION to it")
    if kind == "InvalidPathError" or "parse path" in words:
        return OddKey(
            f"{url}: holds a key that cannot be read ({_first_line(error)}): parts of keys must "
            "not be empty, '.' or '..', as in 'a//b'; rename it, or name the files beside it"
        )
    if "Range request not supported" in words:
        return InputError(
            f"{url}: its server sends no parts of files, as reading in parallel needs; download it"
        )
    if " 416 " in words:
        return changed(url)
    if re.search(r"status code: (4(?!08|25|29)\d\d|501)", words) or kind == "NotSupportedError":
        return InputError(f"{url}: the store refuses ({_first_line(error)})")
    return None


def changed(url: str) -> ObjectChanged:
    """Return the error for an object that was replaced."""
    return ObjectChanged(
        f"{url}: changed while it was being read; let whatever writes it finish, then run again"
    )


def _first_line(error: Exception) -> str:
    """Describe an error of obstore, without its debugging text and the bodies of answers."""
    words = str(error).partition("Debug source")[0]
    code = _code(words)
    status = re.search(r"status code: (\d+[ \w-]*)", words)
    if status or code:
        return ": ".join(filter(None, [status[1].strip() if status else "", code]))
    # What stands before the last dash tells of each retry.
    return " ".join(words.rpartition(" - ")[2].split()) or type(error).__name__


def _code(words: str) -> str:
    """Return the error that an answer of S3 names; empty if it names none."""
    # Deletions of several objects are answered by 200, and a code for each.
    match = re.search(r"(?:<Code>|\(code: )([\w.-]+)(?:</Code>|\))", words)
    return match[1] if match else ""


# What a process that may fork asks its helper to do. ----------------------------------------------


class _Helper:
    """A process that calls functions for this one, one after the other."""

    def __init__(self) -> None:
        self.environment = _environment()
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._is_broken = False
        self._end, far_end = multiprocessing.Pipe()
        self._process = context().Process(  # type: ignore[attr-defined]
            target=_serve, args=(far_end, self._end), daemon=True
        )
        self._process.start()
        far_end.close()

    def call(self, function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
        with self._lock:
            try:
                self._end.send((function, arguments))
                is_done, answer = self._end.recv()
            except (EOFError, OSError) as error:
                self._is_broken = True
                self._process.join()
                reason = death_of(self._process.exitcode)
                raise EngineError(f"while it talked to object storage, {reason}") from error
            except BaseException:  # such as an interrupt, after which an answer would come late
                self._is_broken = True
                self._process.kill()
                raise
        if is_done:
            result: Result = answer
            return result
        raise answer if isinstance(answer, CurateError) else revive(answer)

    def is_current(self) -> bool:
        """Whether it is this process's, and has its variables."""
        is_same = self.owner == os.getpid() and self.environment == _environment()
        return is_same and not self._is_broken

    def end(self) -> None:
        self._end.close()
        self._process.join()


def _serve(connection: Any, other_end: Any) -> None:
    """Answer calls until the process that asks is gone."""
    other_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it too, and goes on or ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, arguments = connection.recv()
            try:
                answer = True, function(*arguments)
            except CurateError as error:
                answer = False, error
            except Exception as error:  # noqa: BLE001 - passed on to the process that asked
                answer = False, failure_of(error)
            connection.send(answer)


_helper: _Helper | None = None
_helper_lock = threading.Lock()
_forks_no_more = False
_direct_process = 0
"""The process that has talked to stores itself, and so must not fork others that do."""


def stay_direct() -> None:
    """Let this process, which will never fork workers, talk to stores itself."""
    global _forks_no_more
    _forks_no_more = True


def is_direct() -> bool:
    """Whether this process talks to stores itself: it is a worker, or workers do not fork."""
    return (
        _forks_no_more
        or not workers_share_memory()
        or uses_cluster()
        or multiprocessing.current_process().daemon
    )


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function that uses `store_of` where its threads cannot be lost in a fork.

    Args:
        function: A module's function; what it raises comes back.
        arguments: Picklable, as is the result.

    Raises:
        CurateError: Raised by the function.
        EngineError: This process has talked to stores while a cluster did the work, so that one
            that it forks would wait forever.
    """
    global _helper, _direct_process
    if is_direct():
        _direct_process = os.getpid()
        return function(*arguments)
    if _direct_process == os.getpid():
        raise EngineError(
            "this process has used object storage with a cluster, and its workers here could not; "
            "start a new process, or go on with the cluster"
        )
    with _helper_lock:
        if _helper is None or not _helper.is_current():
            if _helper is not None and _helper.owner == os.getpid():
                _helper.end()
            _helper = _Helper()
        helper = _helper
    return helper.call(function, arguments)


def map_apart(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Apply a function that uses `store_of` to every item, in several processes if there are more.

    Args:
        function: A module's function.
        items: Picklable, as are the results.
    """
    workers = min(default_workers(), len(items))
    if workers > 1:
        return map_tasks(function, items, workers)
    return [apart(function, item) for item in items]


# Operations. --------------------------------------------------------------------------------------


def list_objects(url: str) -> list[ObjectInfo]:
    """List the objects below a URL taken as a directory, in the order of their keys.

    Those that cannot be read are left out; see `list_with_odd`.

    Raises:
        InputError: The store refuses.
        EngineError: The store does not answer.
    """
    return list_with_odd(url)[0]


def list_with_odd(url: str) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
    """List the objects below a URL, and apart from them those whose keys cannot be read.

    Raises:
        InputError: The store refuses, or holds a key that cannot be read and is not S3, or its
            credentials are not in the environment.
        EngineError: The store does not answer.
    """
    return apart(_list, url)


def _list(url: str) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
    store, key = store_of(url)
    import obstore

    root = url.removesuffix(key) if key else f"{url.rstrip('/')}/"

    def listing() -> list[ObjectInfo]:
        pages = obstore.list(store, key.strip("/") or None, chunk_size=1000)
        return [
            ObjectInfo(root + row["path"], row["size"], _version(row))
            for page in pages
            for row in page
        ]

    try:
        return sorted(patiently(listing, url, "listed")), []
    except OddKey:
        rows = _list_by_hand(url, key) if url.startswith("s3://") else None
        if rows is None:
            raise
    from curate.runtime.s3_listing import is_odd_key

    normal: list[ObjectInfo] = []
    odd: list[ObjectInfo] = []
    for row in rows:
        kind = odd if is_odd_key(row.key) else normal
        kind.append(ObjectInfo(root + row.key.removesuffix("/"), *row[1:]))
    return sorted(normal), sorted(odd)


def _list_by_hand(url: str, key: str) -> list[ListedObject] | None:
    """List a bucket of S3, whatever its keys; None without credentials in the environment."""
    from curate.runtime.s3_listing import list_pages, read_page  # imports a parser of XML

    def read(address: str) -> Page:
        return patiently(functools.partial(read_page, address), url, "listed")

    bucket, prefix = url.removeprefix("s3://").partition("/")[0], key.strip("/")
    return list_pages(bucket, prefix and f"{prefix}/", read)


def object_info(url: str) -> ObjectInfo:
    """Ask a store about an object.

    Raises:
        MissingObject: There is none.
        InputError: The store refuses.
        EngineError: The store does not answer.
    """
    return apart(_info, url)


def _info(url: str) -> ObjectInfo:
    store, key = store_of(url)
    import obstore

    row = patiently(lambda: obstore.head(store, key), url)
    return ObjectInfo(url, row["size"], _version(row))


def _version(row: Any) -> str:
    return str(row["e_tag"] or row["last_modified"])


def is_lasting_version(version: str) -> bool:
    """Whether the same version will always mean the same content.

    It does not where the store says nothing, which reads as 1970, nor by the time of a modification
    that is seconds ago.

    Example:
        >>> is_lasting_version('"5d41"'), is_lasting_version("1970-01-01 00:00:00+00:00")
        (True, False)
    """
    try:
        modified = datetime.fromisoformat(version)
    except ValueError:
        return True
    return 0 < modified.timestamp() < time.time() - SETTLED_SECONDS


def read_object(url: str, start: int, stop: int, version: str = "") -> bytes:
    """Read bytes `start` to `stop` of an object.

    Args:
        url: The object.
        start: First byte.
        stop: One past the last; must not pass the object's end.
        version: `ObjectInfo.version` that it must have; empty for any.

    Raises:
        ObjectChanged: It has another version.
        InputError: The store refuses.
        EngineError: The store does not answer.
    """
    return apart(_read, url, start, stop, version)


def _read(url: str, start: int, stop: int, version: str) -> bytes:
    import obstore

    if start >= stop:
        return b""
    store, key = store_of(url)
    # A weak tag never matches by the protocol; what was read is compared in any case.
    options: GetOptions = {"range": (start, stop)}
    if version.startswith('"'):
        options["if_match"] = version

    def reading() -> bytes:
        answer = obstore.get(store, key, options=options)
        if version and _version(answer.meta) != version:
            raise changed(url)
        data = bytes(answer.bytes())
        if len(data) != stop - start:
            if answer.meta["size"] < stop:
                raise changed(url)
            raise IncompleteAnswer(f"{len(data):,} of {stop - start:,} bytes came")
        return data

    return patiently(reading, url)


class ObjectFile(io.RawIOBase):
    """An object as a file that is read in pieces, all of one version."""

    def __init__(self, info: ObjectInfo, is_sparse: bool) -> None:
        """Start at the first byte.

        Args:
            info: The object; if it changes, reading raises `ObjectChanged`.
            is_sparse: Whether nothing is fetched beyond what is asked for.
        """
        self.size_bytes = info.size_bytes
        self.reads_to: int | None = None
        """End of what will be read in a row, all of which is fetched and nothing more; None if
        that is unknown."""
        self._info = info
        self._is_sparse = is_sparse
        self._position = 0
        self._piece = memoryview(b"")
        self._piece_start = 0
        self._next_bytes = FIRST_READ_BYTES
        self._ahead: tuple[int, Future[bytes]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def read(self, limit_bytes: int | None = -1, /) -> bytes:
        """Read up to a limit; less only at the end of the object."""
        left_bytes = max(0, self.size_bytes - self._position)
        if limit_bytes is None or limit_bytes < 0 or limit_bytes > left_bytes:
            limit_bytes = left_bytes
        pieces = []
        while limit_bytes:
            offset = self._position - self._piece_start
            if not 0 <= offset < len(self._piece):
                self._fetch(limit_bytes)
                offset = self._position - self._piece_start
            pieces.append(self._piece[offset : offset + limit_bytes])
            self._position += len(pieces[-1])
            limit_bytes -= len(pieces[-1])
        return pieces[0].tobytes() if len(pieces) == 1 else b"".join(pieces)

    def _fetch(self, limit_bytes: int) -> None:
        """Fetch the piece that begins at the position, and begin to fetch the next one."""
        start = self._position
        is_sequel = start == self._piece_start + len(self._piece)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == start:
            data = ahead[1].result()
        else:
            self._next_bytes = 4 * self._next_bytes if is_sequel else FIRST_READ_BYTES
            data = self._read(start, self._stop_of(start, limit_bytes))
        self._piece, self._piece_start = memoryview(data), start
        next_start = start + len(data)
        self._next_bytes = min(4 * self._next_bytes, LARGEST_READ_BYTES)
        stop = self._stop_of(next_start, 0)
        if (is_sequel or self.reads_to) and stop > next_start and is_direct():
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1)
            self._ahead = next_start, self._thread.submit(self._read, next_start, stop)

    def _stop_of(self, start: int, limit_bytes: int) -> int:
        """Return the end of the piece to fetch at `start`."""
        stop = start + limit_bytes
        if not self._is_sparse and self.reads_to is None:
            stop = max(stop, start + min(self._next_bytes, LARGEST_READ_BYTES))
        elif self.reads_to is not None and start < self.reads_to:
            piece_bytes = LARGEST_READ_BYTES
            if self.reads_to - start < LARGEST_READ_BYTES + LARGEST_READ_BYTES // 4:
                piece_bytes = self.reads_to - start  # no request for a small rest
            stop = max(stop, start + piece_bytes)
        return min(self.size_bytes, stop)

    def _read(self, start: int, stop: int) -> bytes:
        return read_object(self._info.url, start, stop, self._info.version)

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a byte."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Stop fetching."""
        self._ahead = None
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
        super().close()


def open_object(url: str, size_bytes: int = 0, version: str = "", is_sparse: bool = False) -> Any:
    """Open an object.

    Args:
        url: The object.
        size_bytes: Its size, where `version` is given.
        version: `ObjectInfo.version` that it must have; empty for the one that it has now.
        is_sparse: Whether parts are read that lie apart.

    Raises:
        InputError: The store refuses, or has no such object.
        EngineError: The store does not answer.
    """
    info = ObjectInfo(url, size_bytes, version) if version else object_info(url)
    return ObjectFile(info, is_sparse)


if sys.platform != "win32":  # a lock that another thread held stays locked in a forked process

    def _renew_lock() -> None:
        global _helper_lock
        _helper_lock = threading.Lock()

    os.register_at_fork(after_in_child=_renew_lock)
