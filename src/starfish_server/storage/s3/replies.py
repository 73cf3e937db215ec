"""Replies of S3, parsed and verified. A 200 alone proves nothing: proxies and portals send it too.

A fact is looked up wherever any service puts it; a reply without it is an error.
"""

from __future__ import annotations

import html
import re
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as ET

from starfish_server.checks import DEFAULT_BYTES_TYPE, check_metadata, header_or_none
from starfish_server.objects import ObjectInfo
from starfish_server.storage.s3.errors import (
    Fault,
    FaultInReplyError,
    MalformedReplyError,
    http_date,
    retry_after_seconds,
)
from starfish_server.storage.s3.options import REGION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.storage.s3.credentials import Credentials

_METADATA = "x-amz-meta-"
# A strong entity tag (RFC 9110, 8.8.3) that no service could take for the "any version" of If-Match.
_ETAG = re.compile(r'"(?!\*")[\x21\x23-\x7e]{1,200}"')
_CONTENT_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20})")
# Errors are read without a parser: services repeat keys in them that cannot stand in XML.
_ERROR = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?<(?:[\w.-]+:)?Error[\s>/]")
_ERROR_FIELD = re.compile(r"<(?:[\w.-]+:)?(Code|Message|Region)>([^<]*)</")


class Reply(NamedTuple):
    """A reply whose body was read to its end. Header names are case-insensitive.

    signed_with: the credentials of the request, which the server may repeat.
    resent: whether the request had been sent before, on a connection that broke.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    signed_with: Credentials | None = None
    resent: bool = False


class Part(NamedTuple):
    """What a reply to a range holds: its object's info, and where to cut its body.

    skip: bytes of the body before the range: a service that ignores `Range` sends the whole object.
    length: bytes of the range; None where the service does not say how large the object is.
    """

    info: ObjectInfo
    skip: int
    length: int | None


def read_fault(reply: Reply) -> Fault:
    """Return what an error reply says, as far as it says anything, without secrets."""
    found: dict[str, str] = {}
    if _ERROR.match(reply.body):
        for name, text in _ERROR_FIELD.findall(reply.body.decode(errors="replace")):
            found.setdefault(name, html.unescape(text).strip())
    message = found.get("Message", "")
    region = reply.headers.get("x-amz-bucket-region") or found.get("Region", "")
    if 300 <= reply.status < 400 and not message:
        location = reply.headers.get("Location", "another address")
        message = f"redirect to {location}, which is not followed: check endpoint and region"
    fault = Fault(
        status=reply.status,
        code=found.get("Code", ""),
        message=message,
        region=region if REGION.fullmatch(region) else "",
        request_id=reply.headers.get("x-amz-request-id", ""),
        retry_after=retry_after_seconds(reply.headers.get("Retry-After")),
        resent=reply.resent,
    )
    return _without_secrets(fault, reply.signed_with)


def require_object(reply: Reply) -> Reply:
    """Return the reply if it is a whole object: 200, with the ETag that every S3 service sends."""
    if reply.status != 200 or not reply.headers.get("ETag"):
        raise MalformedReplyError(f"HTTP {reply.status} is not an object of S3 (no ETag, or not 200)")
    return reply


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
        if header[: len(_METADATA)].lower() == _METADATA:
            with suppress(ValueError):
                found |= check_metadata({header[len(_METADATA) :].lower(): value})
    return found


def _content_length(reply: Reply) -> int | None:
    length = reply.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def require_stored(reply: Reply) -> str:
    """Return the ETag of an object that was just written."""
    etag = reply.headers.get("ETag", "")
    if reply.status != 200 or not etag or reply.body.strip():
        _raise_fault_in(reply)
        raise MalformedReplyError(f"HTTP {reply.status} does not confirm the write (no ETag, or a body)")
    return etag


def read_upload_id(reply: Reply) -> str:
    """Return the id of a multipart upload that was begun."""
    return _required(read_result(reply), "UploadId", "the reply holds no id of an upload")


def read_written(reply: Reply) -> tuple[str, datetime | None]:
    """Return ETag and time of a copy or a completed upload. S3 may send a 200 and then an `<Error>`."""
    root = read_result(reply)
    etag = _required(root, "ETag", "the reply does not confirm the write (no ETag)")
    return quoted(etag), read_time(text_of(root, "LastModified"))


def require_deleted(reply: Reply) -> None:
    """Check that a delete is confirmed: 204, or a 200 without a body."""
    if reply.status not in (200, 204) or reply.body.strip():
        _raise_fault_in(reply)
        raise MalformedReplyError(
            f"HTTP {reply.status} with {len(reply.body)} bytes does not confirm the delete"
        )


def read_delete_faults(reply: Reply) -> dict[str, Fault]:
    """Return the keys that a DeleteResult names as not deleted, each with the reason, without secrets."""
    root = read_result(reply)
    if not root.tag.rpartition("}")[2].startswith("Delete"):  # it may be empty, so only its name proves it
        raise MalformedReplyError("the reply does not confirm the delete (no DeleteResult)")
    faults: dict[str, Fault] = {}
    for error in root.iterfind("{*}Error"):
        fault = Fault(
            status=reply.status,
            code=text_of(error, "Code").strip(),
            message=text_of(error, "Message"),
            request_id=reply.headers.get("x-amz-request-id", ""),
            resent=reply.resent,
        )
        faults[text_of(error, "Key")] = _without_secrets(fault, reply.signed_with)
    return faults


def _without_secrets(fault: Fault, credentials: Credentials | None) -> Fault:
    for secret in filter(None, (credentials.secret_key, credentials.token) if credentials else ()):
        fault = replace(
            fault,
            code=fault.code.replace(secret, "***"),
            message=fault.message.replace(secret, "***"),
            request_id=fault.request_id.replace(secret, "***"),
        )
    return fault


def read_result(reply: Reply) -> ET.Element:
    """Return the root of the XML of a 200, without a document type and so without entities that grow."""
    if reply.status != 200:
        raise MalformedReplyError(f"HTTP {reply.status} where 200 with a result was expected")
    _raise_fault_in(reply)
    body = reply.body.strip()  # blanks are how S3 keeps a connection alive while it works
    if not body:
        raise MalformedReplyError("the body is empty")
    try:
        text = body.decode()
        if "<!DOCTYPE" in text:
            raise MalformedReplyError("the body is not XML of S3 (it has a document type)")
        return ET.fromstring(text)  # noqa: S314 - what would be dangerous was refused above
    except (UnicodeDecodeError, ET.ParseError) as error:
        raise MalformedReplyError("the body is not XML") from error


def _raise_fault_in(reply: Reply) -> None:
    if _ERROR.match(reply.body):
        raise FaultInReplyError(read_fault(reply))


def quoted(etag: str) -> str:
    """Return an ETag as headers show it: in XML some services leave the quotes out."""
    return etag if etag.startswith("W/") else '"' + etag.strip('"') + '"'


def read_time(text: str) -> datetime | None:
    """Return the time of an element; None if it is not one."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if time.tzinfo is UTC:
        return time
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def text_of(element: ET.Element, name: str) -> str:
    """Return the text of a child, whatever its namespace; "" where there is none."""
    return element.findtext(f"{{*}}{name}") or ""


def _required(element: ET.Element, name: str, otherwise: str) -> str:
    text = text_of(element, name).strip()
    if not text:
        raise MalformedReplyError(otherwise)
    return text
