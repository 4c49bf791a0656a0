"""List a bucket of S3 whose keys obstore cannot name, such as `a//b`.

obstore ends a listing at the first of them, so a page of it is asked for by a signed URL: that of
some object as obstore signs it, signed anew for a listing. Python's own client fetches it, since
obstore takes no answer without its length, which Amazon does not send with listings. Left out:
stores other than S3, and credentials that are not in the environment, which obstore does not show.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from urllib.parse import SplitResult, parse_qsl, quote, unquote_plus, urlsplit, urlunsplit
from xml.etree import ElementTree

if TYPE_CHECKING:
    from obstore.store import ClientConfig

LASTING = timedelta(hours=1)
"""How long a signed URL is valid."""

MODEL_KEY = "x"
"""Key of which obstore signs a URL; no such object is asked for."""

STALL_SECONDS = 30
"""Most time to wait for a part of an answer."""

TRUE = {"1", "true", "on", "yes", "y"}
"""Values that obstore takes for true, in lower case."""


class RefusedListing(Exception):  # noqa: N818 - an answer, worded as obstore words them
    """A store answered with another status than 200."""


class ListedObject(NamedTuple):
    """A row of a listing."""

    key: str
    size_bytes: int
    version: str
    """The same as `ObjectInfo.version`."""


Page: TypeAlias = tuple[list[ListedObject], str]
"""Rows of a listing, and the token of its next page; empty at the end."""


def is_odd_key(key: str) -> bool:
    """Whether obstore cannot name a key: a part is empty, `.` or `..`, or has a control character.

    Example:
        >>> [is_odd_key(key) for key in ("a/b", "a/", "a//b", "../b")]
        [False, False, True, True]
    """
    parts = key.removesuffix("/").split("/")
    has_control = any(character < " " or character == "\x7f" for character in key)
    return has_control or not {"", ".", ".."}.isdisjoint(parts)


def list_pages(bucket: str, prefix: str, read: Callable[[str], Page]) -> list[ListedObject] | None:
    """List the objects below a prefix, whatever their keys; None without credentials to sign with.

    Args:
        bucket: Name of the bucket.
        prefix: Beginning of the keys.
        read: Reads the page of a URL, as `read_page` does.
    """
    listed: list[ListedObject] = []
    token = ""
    while True:
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        url = listing_url(bucket, query | ({"continuation-token": token} if token else {}))
        if url is None:
            return None
        rows, token = read(url)
        listed += rows
        if not token:
            return listed


def listing_url(bucket: str, query: dict[str, str]) -> str | None:
    """Return the URL of a listing; None if the secret that signs is not in the environment.

    Args:
        bucket: Name of the bucket.
        query: Parameters of the listing.
    """
    import obstore
    from obstore.store import S3Store

    is_public = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in TRUE
    secret = os.environ.get("AWS_SECRET_ACCESS_KEY")
    if secret is None and not is_public:
        return None
    options: ClientConfig = {"allow_http": True}
    if is_public:  # its address is that of its signed URLs, whoever signs
        store = S3Store(bucket, client_options=options, skip_signature=False,
                        access_key_id="-", secret_access_key="-")  # fmt: skip
    else:
        store = S3Store(bucket, client_options=options)
    model = urlsplit(obstore.sign(store, "GET", MODEL_KEY, LASTING))
    path = model.path.removesuffix(MODEL_KEY).rstrip("/") or "/"
    if is_public or secret is None:
        return urlunsplit(model._replace(path=path, query=_joined(query)))
    signs = f"{os.environ.get('AWS_ACCESS_KEY_ID')}/"
    is_ours = dict(parse_qsl(model.query))["X-Amz-Credential"].startswith(signs)
    return signed_anew(model, path, query, secret) if is_ours else None


def signed_anew(model: SplitResult, path: str, query: dict[str, str], secret: str) -> str:
    """Return a signed URL of the place and time of another one.

    Args:
        model: The other one.
        path: Path to ask for, quoted.
        query: Parameters beside those of the signature.
        secret: The secret that signed the model.

    References:
        Amazon S3 API reference, "Authenticating Requests: Using Query Parameters (AWS Signature
        Version 4)".
    """
    given = dict(parse_qsl(model.query))
    del given["X-Amz-Signature"]
    text = _joined(given | query)
    request = f"GET\n{path}\n{text}\nhost:{model.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(request.encode()).hexdigest()
    scope = given["X-Amz-Credential"].partition("/")[2]
    signing_key = f"AWS4{secret}".encode()
    for word in scope.split("/"):
        signing_key = _hmac(signing_key, word)
    lines = f"AWS4-HMAC-SHA256\n{given['X-Amz-Date']}\n{scope}\n{digest}"
    signature = _hmac(signing_key, lines).hex()
    return urlunsplit(model._replace(path=path, query=f"{text}&X-Amz-Signature={signature}"))


def _joined(query: dict[str, str]) -> str:
    """Write parameters in their order, quoted as a signature takes them."""
    pairs = ((quote(name, safe="-_.~"), quote(query[name], safe="-_.~")) for name in sorted(query))
    return "&".join(f"{name}={value}" for name, value in pairs)


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def read_page(url: str) -> Page:
    """Fetch a page of a listing by its signed URL, which no error quotes.

    Raises:
        RefusedListing: The store answers with another status than 200.
        OSError: It does not answer.
        ValueError: What it answers is no listing.
    """
    from urllib.error import HTTPError
    from urllib.request import urlopen  # imports email and sockets

    try:
        with urlopen(url, timeout=STALL_SECONDS) as answer:
            return parse_page(answer.read())
    except HTTPError as error:
        with error:  # of its body only the code: what else it quotes may be secret
            codes = re.findall(rb"<Code>[\w.-]+</Code>", error.read())
        words = b"".join(codes[:1]).decode()
        raise RefusedListing(f"status code: {error.code} {error.reason}: {words}") from None


def parse_page(answer: bytes) -> Page:
    """Parse a page of a listing.

    Raises:
        ValueError: It is none, or does not say where it goes on.
    """
    try:
        page = ElementTree.fromstring(answer)
    except ElementTree.ParseError as error:
        raise ValueError(f"the listing is cut or damaged: {error}") from None
    token = page.findtext("{*}NextContinuationToken") or ""
    is_cut = page.findtext("{*}IsTruncated") == "true" and not token
    if page.tag.rpartition("}")[2] != "ListBucketResult" or is_cut:
        raise ValueError("the answer is no listing of S3's version 2")
    # Stores that do not quote keys, though asked to, do not say that they have.
    is_quoted = page.findtext("{*}EncodingType") == "url"
    rows = []
    for row in page.iterfind("{*}Contents"):
        field = {child.tag.rpartition("}")[2]: child.text or "" for child in row}
        version = field.get("ETag") or str(
            datetime.fromisoformat(field["LastModified"].replace("Z", "+00:00"))
        )
        key = unquote_plus(field["Key"]) if is_quoted else field["Key"]
        rows.append(ListedObject(key, int(field["Size"]), version))
    return rows, token
