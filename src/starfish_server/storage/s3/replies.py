"""Replies of S3, read and verified. A 200 says nothing by itself: proxies and portals send it too."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

from starfish_server.storage.s3.errors import Fault, retry_after_seconds
from starfish_server.storage.s3.options import REGION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.storage.s3.credentials import Keys

# An entry of a list as S3 writes it: printable ASCII, elements without children, nothing escaped in the key.
_PLAIN_ENTRY = re.compile(rb"<Contents><Key>([!-%'-;=-~]+)</Key>(?:<([A-Za-z]+)>[^<]*</\2>)*</Contents>")


class Reply(NamedTuple):
    """A reply whose body was read to its end. Header names are case-insensitive.

    signed_with: the keys of the request, which the server may repeat.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    signed_with: Keys | None = None


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
    """What an error reply says, as far as it says anything, without secrets."""
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
    fault = Fault(
        status=reply.status,
        code=code,
        message=message,
        region=region if REGION.fullmatch(region) else "",
        request_id=request_id,
        retry_after=retry_after,
    )
    return _without_secrets(fault, reply.signed_with)


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


def read_upload_id(reply: Reply) -> str:
    """The id of a multipart upload that has begun."""
    root = _result(reply, "InitiateMultipartUploadResult")
    upload_id = root.findtext(f"{_namespace(root)}UploadId")
    if not upload_id:
        raise MalformedReplyError("the upload has no id")
    return upload_id


def read_completed_upload(reply: Reply) -> None:
    """The object is in its place. S3 may say 200 long before it knows, and then an `<Error>`."""
    root = _result(reply, "CompleteMultipartUploadResult")
    if not root.findtext(f"{_namespace(root)}ETag"):
        raise MalformedReplyError("the reply does not confirm the write (no ETag)")


def require_deleted(reply: Reply) -> None:
    """204, or a 200 without a body."""
    if reply.status not in (200, 204) or reply.body.strip():
        _raise_fault_in(reply)
        raise MalformedReplyError(
            f"HTTP {reply.status} with {len(reply.body)} bytes does not confirm the delete"
        )


def read_list_page(reply: Reply) -> ListPage:
    """The keys of a ListBucketResult, decoded, in the order of the reply."""
    plain_keys, rest = _without_plain_entries(reply.body)
    root = _result(reply._replace(body=rest), "ListBucketResult")
    space = _namespace(root)
    if plain_keys and root.find(f"{space}Contents") is not None:  # not all of them are plain
        plain_keys = []
        root = _result(reply, "ListBucketResult")
    keys = plain_keys or [entry.findtext(f"{space}Key") or "" for entry in root.iterfind(f"{space}Contents")]
    if root.findtext(f"{space}EncodingType") == "url":
        try:
            keys = [unquote_plus(key, errors="strict") for key in keys]
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


def _without_plain_entries(body: bytes) -> tuple[list[str], bytes]:
    """The keys of the entries that are plain, and the body without those entries.

    Eight times as fast as a parser that makes an object of each element, and as exact: where there is
    neither comment, CDATA nor processing instruction, each "<" begins a tag.
    """
    if b"<!" in body or body.find(b"<?", 2) >= 0:
        return [], body
    parts = _PLAIN_ENTRY.split(body)  # what is between entries, a key, the last element's name, and so on
    return [key.decode("ascii") for key in parts[1::3]], b"".join(parts[::3])


def read_delete_faults(reply: Reply) -> dict[str, Fault]:
    """The keys that a DeleteResult names as not deleted, and why, without secrets."""
    root = _result(reply, "DeleteResult")
    space = _namespace(root)
    faults: dict[str, Fault] = {}
    for error in root.iterfind(f"{space}Error"):
        fault = Fault(
            status=reply.status,
            code=error.findtext(f"{space}Code", ""),
            message=error.findtext(f"{space}Message", ""),
            request_id=reply.headers.get("x-amz-request-id", ""),
        )
        faults[error.findtext(f"{space}Key") or ""] = _without_secrets(fault, reply.signed_with)
    return faults


def _without_secrets(fault: Fault, keys: Keys | None) -> Fault:
    for secret in filter(None, (keys.secret_key, keys.token) if keys else ()):
        fault = replace(
            fault,
            code=fault.code.replace(secret, "***"),
            message=fault.message.replace(secret, "***"),
            request_id=fault.request_id.replace(secret, "***"),
        )
    return fault


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
    body = body.strip()  # blanks are how S3 keeps a connection alive while it works
    if not body:
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
