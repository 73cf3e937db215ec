"""Objects copied by the service itself, within one bucket."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from starfish_server.checks import check_unchanged
from starfish_server.errors import (
    ObjectNotFoundError,
    StoreError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.gather import bounded_gather
from starfish_server.objects import ANY
from starfish_server.storage.s3.conditions import condition_headers
from starfish_server.storage.s3.errors import NoSuchKeyError
from starfish_server.storage.s3.reading import read_object, stat_object
from starfish_server.storage.s3.replies import headers_for, read_written, version_or_none
from starfish_server.storage.s3.transport import Request
from starfish_server.storage.s3.writing import MOST_PARTS, PARTS_IN_FLIGHT, multipart_upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.storage.s3.conditions import Writes
    from starfish_server.storage.s3.transport import Transport

# https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
ONE_REQUEST_BYTES = 5 * 2**30
PART_BYTES = 512 * 2**20
# Of a source that is read: one part of the upload.
_RANGE_BYTES = 8 * 2**20
# How often the source may be replaced during a copy before that is an error.
_REPLACED = 3


async def copy_object(writes: Writes, source: str, target: str, if_version: IfVersion) -> ObjectInfo:
    """Copy one version of `source` to `target`; return the info of the copy.

    A conditional copy passes through this process, except on AWS: other services are not known to support
    conditions of copies, and trying them would overwrite what the condition protects.
    """
    transport = writes.transport
    refused: ObjectInfo | None = None
    may_be_done = False  # by an attempt whose reply was lost
    try:
        for _ in range(_REPLACED):
            info = await stat_object(transport, source)
            if info is None:
                raise ObjectNotFoundError("there is no object to copy", operation="copy", key=source)
            if refused is not None and _state(refused) == _state(info):  # so it was the target's condition
                check_unchanged(if_version, "another")
            if source == target:
                check_unchanged(if_version, info.version)
                return info
            try:
                if if_version is not ANY and not transport.address.is_aws:
                    return await _by_reading(writes, info, target, if_version)
                if info.size is not None and info.size > ONE_REQUEST_BYTES:
                    return await _in_parts(writes, info, target, if_version)
                return await _in_one_request(transport, info, target, if_version)
            except (VersionConflictError, NoSuchKeyError) as error:
                refused, may_be_done = info, may_be_done or error.undetermined
    except StoreError as error:
        error.undetermined = may_be_done or error.undetermined
        raise
    raise StoreUnavailableError("the source was replaced during every attempt")


async def _in_one_request(
    transport: Transport, info: ObjectInfo, target: str, if_version: IfVersion
) -> ObjectInfo:
    headers = _source(transport, info) | condition_headers(if_version)
    etag, modified = await transport.run(Request("PUT", target, headers=headers, body=b""), read_written)
    return replace(info, key=target, version=version_or_none(etag), modified=modified)


async def _in_parts(writes: Writes, info: ObjectInfo, target: str, if_version: IfVersion) -> ObjectInfo:
    """Copy a large object by parts, each of the version that `info` is of."""
    transport = writes.transport
    size = info.size or 0
    part = max(PART_BYTES, -(-size // MOST_PARTS))
    source = _source(transport, info)
    headers = headers_for(info)
    async with multipart_upload(transport, target, headers) as upload:

        async def copy(number: int) -> None:
            first, last = (number - 1) * part, min(number * part, size) - 1
            await upload.copy(number, source | {"x-amz-copy-source-range": f"bytes={first}-{last}"})

        await bounded_gather(copy, range(1, -(-size // part) + 1), limit=PARTS_IN_FLIGHT)
        # A service that ignores the condition on the source may have mixed parts of two versions.
        now = await stat_object(transport, info.key)
        if now is None or _state(now) != _state(info):
            raise VersionConflictError("the source has changed")
        etag = await writes.complete(upload, headers, if_version)
    return replace(info, key=target, version=version_or_none(etag), modified=None)


async def _by_reading(writes: Writes, info: ObjectInfo, target: str, if_version: IfVersion) -> ObjectInfo:
    """Copy through this process, in ranges: a stream would hold a connection that the upload may wait for."""

    async def chunks() -> AsyncIterator[bytes]:
        at = 0
        while at != info.size:
            found = await read_object(writes.transport, info.key, at, at + _RANGE_BYTES)
            if found is None or _state(found.info) != _state(info):
                raise VersionConflictError("the source has changed")
            yield found.body
            at += len(found.body)

    etag, _ = await writes.upload(target, chunks(), headers_for(info), if_version)
    return replace(info, key=target, version=version_or_none(etag), modified=None)


def _state(info: ObjectInfo) -> tuple[object, ...]:
    """Return what changes with each write of an object, also where it has no version."""
    return info.version or info.modified, info.size


def _source(transport: Transport, info: ObjectInfo) -> dict[str, str]:
    """Return the headers that name the source, and its version where it has one."""
    headers = {"x-amz-copy-source": f"/{transport.address.bucket}/{quote(info.key, safe='/~')}"}
    if info.version is not None:
        headers["x-amz-copy-source-if-match"] = info.version
    return headers
