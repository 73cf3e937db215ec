"""Objects written: in one request, in parts, or on the condition that nothing has changed."""

from __future__ import annotations

import asyncio
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote
from weakref import WeakKeyDictionary

from starfish_server.checks import conflict
from starfish_server.errors import (
    StoreAccessDeniedError,
    StoreError,
    StoreNotSupportedError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.storage.s3.errors import NoSuchKeyError, NoSuchUploadError, WriteRaceError
from starfish_server.storage.s3.replies import (
    read_completed_upload,
    read_upload_id,
    require_deleted,
    require_stored,
)
from starfish_server.storage.s3.transport import Request, bounded_gather

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.storage.s3.replies import Reply
    from starfish_server.storage.s3.transport import Transport

MULTIPART_OVER_BYTES = 16 * 2**20
PART_BYTES = 8 * 2**20
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_MOST_PARTS = 10_000
_PARTS_IN_FLIGHT = 4
_ABORT_SECONDS = 5.0
# A strong entity tag (RFC 9110, 8.8.3) that no service could take for the "any version" of If-Match.
_ETAG = re.compile(r'"(?!\*")[\x21\x23-\x7e]{1,200}"')
_IF_ABSENT = "If-None-Match"
_IF_UNCHANGED = "If-Match"
_NEVER = {_IF_ABSENT: "*", _IF_UNCHANGED: f'"{"0" * 32}"'}


async def put_object(
    transport: Transport, operation: str, key: str, body: bytes, headers: Mapping[str, str]
) -> None:
    """Store `body`, whole or not at all, without a second copy of it.

    A long one goes out in parts, each of which is retried by itself. If one fails permanently, or the caller
    is cancelled, the parts are removed; what stays because the service does not answer is for the bucket's
    lifecycle rule.
    """
    if len(body) <= MULTIPART_OVER_BYTES:
        request = Request(operation, key, "PUT", target=key, headers=headers, body=body)
        await transport.run(request, require_stored)
        return
    begin = Request(operation, key, "POST", key, "uploads=", headers, b"")
    upload = f"uploadId={quote(await transport.run(begin, read_upload_id), safe='~')}"
    try:
        manifest = _manifest(await _put_parts(transport, operation, key, body, upload))
        end = Request(operation, key, "POST", target=key, query=upload, body=manifest)
        await transport.run(end, read_completed_upload)
    except NoSuchUploadError as error:  # also the reply to a repeated request whose first reply was lost
        reason = "the upload has ended, and whether it was completed is undetermined"
        raise StoreUnavailableError(reason, operation=operation, key=key) from error
    except BaseException:
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_ABORT_SECONDS):
                abort = Request(operation, key, "DELETE", target=key, query=upload)
                await transport.attempt(abort, require_deleted)
        raise


async def _put_parts(transport: Transport, operation: str, key: str, body: bytes, upload: str) -> list[str]:
    """Send the parts, a few concurrently, and return their ETags."""
    size = max(PART_BYTES, -(-len(body) // _MOST_PARTS))
    view = memoryview(body)
    parts = [view[start : start + size] for start in range(0, len(body), size)]
    etags = [""] * len(parts)
    loop = asyncio.get_running_loop()
    # Not the threads of the event loop: all of them may be waiting for this very upload.
    threads = ThreadPoolExecutor(_PARTS_IN_FLIGHT, "starfish-s3-hash")

    async def send(index: int) -> None:
        part, query = parts[index], f"partNumber={index + 1}&{upload}"
        signed = None if transport.address.secure else await loop.run_in_executor(threads, _sha256_hex, part)
        request = Request(operation, key, "PUT", target=key, query=query, body=part, body_hash=signed)
        etags[index] = await transport.run(request, require_stored)

    try:
        await bounded_gather(send, range(len(parts)), limit=_PARTS_IN_FLIGHT)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    return etags


def _sha256_hex(part: memoryview) -> str:
    return hashlib.sha256(part).hexdigest()


def _manifest(etags: list[str]) -> bytes:
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    return (
        '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{parts}</CompleteMultipartUpload>"
    ).encode()


class ConditionalWrites:
    """Writes of one bucket that depend on the ETag of the object.

    A service that does not know a condition overwrites in silence. A refusal shows that it does know it.
    Where the first write succeeds, the same write is sent again with a condition that cannot hold: a service
    that stores it once more is not trusted with this condition from then on. AWS is known to heed both.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._heeded = dict.fromkeys(_NEVER, True) if transport.address.is_aws else {}
        self._trials: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def version_of(self, reply: Reply, key: str) -> str:
        """Return the version of the object that `reply` holds."""
        version = reply.headers["ETag"]
        if not _ETAG.fullmatch(version):
            raise self._unsupported("gives objects no strong ETag", "get_versioned", key)
        return version

    async def put(self, key: str, body: bytes, version: str | None, headers: Mapping[str, str]) -> str:
        """Write if the object has this version, or, for None, if there is none; return the new version.

        Tries once, unless it is clear that nothing was written: a second try could not tell its own first
        write from another's.
        """
        if version is not None and not _ETAG.fullmatch(version):
            raise conflict(key, version, found=True)
        condition = _IF_ABSENT if version is None else _IF_UNCHANGED
        if condition not in self._heeded:
            async with self._trials.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
                if condition not in self._heeded:
                    return await self._first_put(key, body, version, headers, condition)
        return await self._put(key, body, version, headers, condition)

    async def _first_put(
        self, key: str, body: bytes, version: str | None, headers: Mapping[str, str], condition: str
    ) -> str:
        await self._check_condition(key, version)
        etag = await self._put(key, body, version, headers, condition)
        self._heeded[condition] = await self._is_heeded(key, body, headers, condition)
        if not self._heeded[condition]:
            what = f"does not heed {condition}: it may have overwritten a version that it should not"
            raise self._unsupported(what, "put_if", key)
        return etag

    async def _put(
        self, key: str, body: bytes, version: str | None, headers: Mapping[str, str], condition: str
    ) -> str:
        if not self._heeded.get(condition, True):
            raise self._unsupported(f"does not heed {condition}", "put_if", key)
        conditional = {**headers, condition: version or "*"}
        request = Request("put_if", key, "PUT", target=key, headers=conditional, body=body)
        try:
            return await self._transport.attempts(
                lambda: self._transport.attempt(request, require_stored), transient=WriteRaceError
            )
        except (VersionConflictError, NoSuchKeyError) as error:
            self._heeded[condition] = True
            raise conflict(key, version, found=not isinstance(error, NoSuchKeyError)) from error

    async def _check_condition(self, key: str, version: str | None) -> None:
        """Refuse a write whose condition does not hold now: the service may not heed it."""
        try:
            head = Request("put_if", key, "HEAD", target=key)
            found = await self._transport.run(head, lambda reply: reply.headers.get("ETag"))
        except NoSuchKeyError:
            found = None
        except StoreAccessDeniedError:  # the credentials may be good for writing alone
            return
        if found != version:
            raise conflict(key, version, found=found is not None)

    async def _is_heeded(self, key: str, body: bytes, headers: Mapping[str, str], condition: str) -> bool:
        never = {**headers, condition: _NEVER[condition]}
        request = Request("put_if", key, "PUT", target=key, headers=never, body=body)
        try:
            await self._transport.run(request, require_stored)
        except (VersionConflictError, NoSuchKeyError):
            return True
        except StoreNotSupportedError:
            pass
        return False

    def _unsupported(self, what: str, operation: str, key: str) -> StoreNotSupportedError:
        bucket = self._transport.address.bucket
        reason = f"the service of bucket {bucket!r} {what}, so it cannot write conditionally"
        return StoreNotSupportedError(reason, operation=operation, key=key)
