"""Infos of objects from the headers of replies, and the headers that store what an info holds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from starfish_server.checks import DEFAULT_BYTES_TYPE, check_metadata, header_or_none
from starfish_server.objects import ObjectInfo
from starfish_server.storage.s3.errors import MalformedReplyError, http_date
from starfish_server.storage.s3.replies import require_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.storage.s3.replies import Reply

_METADATA = "x-amz-meta-"
# A strong entity tag (RFC 9110, 8.8.3) that no service could take for the "any version" of If-Match.
_ETAG = re.compile(r'"(?!\*")[\x21\x23-\x7e]{1,200}"')
_CONTENT_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20})")


class Part(NamedTuple):
    """What a reply to a range holds: its object's info, and where to cut its body.

    skip: bytes of the body before the range: a service that ignores `Range` sends the whole object.
    length: bytes of the range; None where the service does not say how large the object is.
    """

    info: ObjectInfo
    skip: int
    length: int | None


def version_or_none(etag: str) -> str | None:
    """Return an ETag as a version; None for one that cannot be the condition of a write."""
    return etag if _ETAG.fullmatch(etag) else None


def info_of(headers: Mapping[str, str], key: str, size: int | None) -> ObjectInfo:
    """Return the info that the headers of an object tell. Metadata that breaks the rules is left out."""
    return ObjectInfo(
        key,
        size,
        header_or_none(headers.get("Content-Type")) or DEFAULT_BYTES_TYPE,
        header_or_none(headers.get("Cache-Control")),
        _metadata(headers),
        version_or_none(headers["ETag"]),
        http_date(headers.get("Last-Modified", "")),
    )


def read_head(reply: Reply, key: str) -> ObjectInfo:
    """Return the info that the reply to a HEAD tells."""
    return info_of(require_object(reply).headers, key, _content_length(reply))


def read_part(reply: Reply, key: str, start: int, stop: int | None) -> Part:
    """Return what the reply holds of the bytes from `start` to before `stop`.

    Raises `MalformedReplyError` for a reply that holds another range.
    """
    if reply.status == 200:
        size = _content_length(reply)
        info = info_of(require_object(reply).headers, key, size)
        end = stop if size is None else min(size, size if stop is None else stop)
        return Part(info, start, None if end is None else max(0, end - start))
    described = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if reply.status != 206 or not reply.headers.get("ETag") or described is None:
        raise MalformedReplyError(f"HTTP {reply.status} is not a range of an object of S3")
    first, last, size = map(int, described.groups())
    if (first, last) != (start, (size if stop is None else min(stop, size)) - 1):
        raise MalformedReplyError(f"the reply holds bytes {first} to {last}, which were not asked for")
    return Part(info_of(reply.headers, key, size), 0, last - first + 1)


def object_headers(
    content_type: str, cache_control: str | None, metadata: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the headers that store these beside a body."""
    headers = {"Content-Type": content_type}
    if cache_control is not None:
        headers["Cache-Control"] = cache_control
    for name, value in (metadata or {}).items():
        headers[f"{_METADATA}{name}"] = value
    return headers


def headers_for(info: ObjectInfo) -> dict[str, str]:
    """Return the headers that store what `info` says beside the body."""
    return object_headers(info.content_type or DEFAULT_BYTES_TYPE, info.cache_control, info.metadata)


def _metadata(headers: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for header, value in headers.items():
        name = header.lower()
        if name.startswith(_METADATA):
            try:
                found |= check_metadata({name.removeprefix(_METADATA): value})
            except ValueError:
                continue
    return found


def _content_length(reply: Reply) -> int | None:
    length = reply.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None
