"""Replies of S3, read and verified. A 200 says nothing by itself: proxies and portals send it too."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

from starfish_server.storage.s3.errors import Fault, retry_after_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOCATION = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply whose body was read to its end. Header names are case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class MalformedReplyError(Exception):
    """The reply is not what S3 answers to the request; the text says what it is instead."""


class FaultInReplyError(Exception):
    """An `<Error>` where a result was due: S3 may find out after it sent the 200."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.code)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of ListObjectsV2; `token` leads to the next one, None on the last."""

    keys: list[str]
    token: str | None


def read_fault(reply: Reply) -> Fault:
    """What an error reply says, as far as it says anything."""
    request_id = reply.headers.get("x-amz-request-id", "")
    retry_after = retry_after_seconds(reply.headers.get("Retry-After"))
    region = reply.headers.get("x-amz-bucket-region", "")
    code = message = ""
    try:
        root = _parse(reply.body)
    except MalformedReplyError:
        root = None
    if root is not None and _name(root) == "Error":
        space = _namespace(root)
        code = root.findtext(f"{space}Code", "")
        message = root.findtext(f"{space}Message", "")
        region = region or root.findtext(f"{space}Region", "")
    if 300 <= reply.status < 400 and not message:
        location = reply.headers.get("Location", "another address")
        message = f"redirect to {location}, which is not followed: check endpoint and region"
    return Fault(
        status=reply.status,
        code=code,
        message=message,
        region=region if _LOCATION.fullmatch(region) else "",
        request_id=request_id,
        retry_after=retry_after,
    )


def require_object(reply: Reply) -> Reply:
    """A whole object: 200, nothing else of the 2xx, with the ETag that every S3 service sends."""
    if reply.status != 200 or not reply.headers.get("ETag"):
        raise MalformedReplyError(f"HTTP {reply.status} is not an object of S3 (no ETag, or not 200)")
    return reply


def require_stored(reply: Reply) -> str:
    """The ETag of an object just written."""
    etag = reply.headers.get("ETag", "")
    if reply.status != 200 or not etag or reply.body.strip():
        _raise_fault_in(reply)
        raise MalformedReplyError(f"HTTP {reply.status} does not confirm the write (no ETag, or a body)")
    return etag


def require_deleted(reply: Reply) -> None:
    """204, or a 200 without a body."""
    if reply.status not in (200, 204) or reply.body.strip():
        _raise_fault_in(reply)
        raise MalformedReplyError(
            f"HTTP {reply.status} with {len(reply.body)} bytes does not confirm the delete"
        )


def read_list_page(reply: Reply) -> ListPage:
    """The keys of a ListBucketResult, decoded, in the order of the reply."""
    root = _result(reply, "ListBucketResult")
    space = _namespace(root)
    decode = _url_decoded if root.findtext(f"{space}EncodingType") == "url" else str
    try:
        keys = [decode(entry.findtext(f"{space}Key") or "") for entry in root.iterfind(f"{space}Contents")]
    except UnicodeDecodeError as error:
        raise MalformedReplyError("the list holds a key that is not UTF-8") from error
    if "" in keys:
        raise MalformedReplyError("the list holds an entry without a key")
    truncated = root.findtext(f"{space}IsTruncated")
    if truncated not in ("true", "false"):
        raise MalformedReplyError("the list does not say whether there is more")
    token = root.findtext(f"{space}NextContinuationToken") or None
    if truncated == "true" and token is None:
        raise MalformedReplyError("the list says there is more, and not where")
    return ListPage(keys, token if truncated == "true" else None)


def read_delete_faults(reply: Reply) -> dict[str, Fault]:
    """The keys that a DeleteResult names as not deleted, and why."""
    root = _result(reply, "DeleteResult")
    space = _namespace(root)
    return {
        error.findtext(f"{space}Key") or "": Fault(
            status=reply.status,
            code=error.findtext(f"{space}Code", ""),
            message=error.findtext(f"{space}Message", ""),
            request_id=reply.headers.get("x-amz-request-id", ""),
        )
        for error in root.iterfind(f"{space}Error")
    }


def _result(reply: Reply, name: str) -> ET.Element:
    if reply.status != 200:
        raise MalformedReplyError(f"HTTP {reply.status} where 200 with a {name} was due")
    root = _parse(reply.body)
    if _name(root) == "Error":
        raise FaultInReplyError(read_fault(reply))
    if _name(root) != name:
        raise MalformedReplyError(f"HTTP 200 with <{_name(root)[:40]}> where a {name} was due")
    return root


def _raise_fault_in(reply: Reply) -> None:
    fault = read_fault(reply)
    if fault.code:
        raise FaultInReplyError(fault)


def _parse(body: bytes) -> ET.Element:
    """XML without a document type, which S3 never sends, and so without entities that could grow."""
    if not body.strip():
        raise MalformedReplyError("the body is empty")
    try:
        text = body.decode()
        if "<!DOCTYPE" in text:
            raise MalformedReplyError("the body is not XML of S3 (it has a document type)")
        return ET.fromstring(text)  # noqa: S314 - what would be dangerous was refused above
    except (UnicodeDecodeError, ET.ParseError) as error:
        raise MalformedReplyError("the body is not XML") from error


def _namespace(element: ET.Element) -> str:
    return element.tag[: element.tag.find("}") + 1]


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _url_decoded(text: str) -> str:
    return unquote_plus(text, errors="strict")
