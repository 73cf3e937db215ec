"""Multipart uploads: parts sent concurrently, and one object once all have arrived, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from starfish_server.errors import StoreError, StoreUnavailableError
from starfish_server.storage.s3.errors import NoSuchUploadError
from starfish_server.storage.s3.replies import (
    read_completed_upload,
    read_copied,
    read_upload_id,
    require_deleted,
    require_stored,
)
from starfish_server.storage.s3.transport import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starfish_server.storage.s3.transport import Transport

PART_BYTES = 8 * 2**20
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MOST_PARTS = 10_000
PARTS_IN_FLIGHT = 4
_ABORT_SECONDS = 5.0


@asynccontextmanager
async def multipart_upload(
    transport: Transport, operation: str, key: str, headers: Mapping[str, str]
) -> AsyncIterator[MultipartUpload]:
    """Begin an upload for the block, which sends all parts and then calls `complete`.

    An error or a cancellation within the block removes the parts; what stays because the service does not
    answer is for the bucket's lifecycle rule. A store that is closed lets the block go on for a while.
    """
    upload = MultipartUpload(transport, operation, key)
    try:
        async with transport.held(operation, key):
            await upload.begin(headers)
            try:
                yield upload
            except NoSuchUploadError as error:  # also the reply to a repeated request, its first one lost
                reason = "the upload has ended, and whether it was completed is undetermined"
                raise StoreUnavailableError(reason, operation=operation, key=key) from error
            except BaseException:
                await upload.abort()
                raise
    finally:
        upload.threads.shutdown(wait=False, cancel_futures=True)


class MultipartUpload:
    """An upload that has begun: its parts, and how it ends.

    etags: those of the parts that were sent, by the part's number.
    """

    def __init__(self, transport: Transport, operation: str, key: str) -> None:
        self.key = key
        self.operation = operation
        self.etags: dict[int, str] = {}
        # Not the threads of the event loop: all of them may be waiting for this very upload.
        self.threads = ThreadPoolExecutor(PARTS_IN_FLIGHT, "starfish-s3-hash")
        self._transport = transport
        self._query = ""

    async def begin(self, headers: Mapping[str, str]) -> None:
        begin = Request(self.operation, self.key, "POST", self.key, "uploads=", headers, b"")

        async def ask() -> None:
            upload_id = await self._transport.run(begin, read_upload_id)
            self._query = f"uploadId={quote(upload_id, safe='~')}"

        asking = asyncio.create_task(ask())
        try:
            await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The service may have begun it, and only its reply says what to abort.
            await asyncio.wait([asking], timeout=_ABORT_SECONDS)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await self.abort()
            raise

    async def abort(self) -> None:
        """Remove the parts, as far as the service answers within 5 s."""
        abort = Request(self.operation, self.key, "DELETE", target=self.key, query=self._query)
        if self._query:  # without it the object would be deleted
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(_ABORT_SECONDS):
                    await self._transport.run(abort, require_deleted)

    async def send(self, number: int, body: bytes | memoryview) -> None:
        """Send the part of this number, from 1, again by itself after a transient failure."""
        signed = None
        if not self._transport.address.secure:
            loop = asyncio.get_running_loop()
            signed = await loop.run_in_executor(self.threads, _sha256_hex, body)
        request = self._part(number)._replace(body=body, body_hash=signed)
        self.etags[number] = await self._transport.run(request, require_stored)

    async def copy(self, number: int, source: Mapping[str, str]) -> None:
        """Let the service copy a part; `source` are the headers that say what."""
        request = self._part(number)._replace(headers=source, body=b"")
        self.etags[number] = (await self._transport.run(request, read_copied)).etag

    async def complete(self, condition: Mapping[str, str] | None = None) -> str:
        """Make the object of the parts, if `condition` holds; return its ETag.

        Tries once with a condition: a second try could not tell its own first write from another's.
        """
        manifest = _manifest(self.etags)
        request = Request(
            self.operation, self.key, "POST", self.key, self._query, condition or {}, body=manifest
        )
        if condition:
            return await self._transport.attempt(request, read_completed_upload)
        return await self._transport.run(request, read_completed_upload)

    def _part(self, number: int) -> Request:
        query = f"partNumber={number}&{self._query}"
        return Request(self.operation, self.key, "PUT", target=self.key, query=query)


def _sha256_hex(part: bytes | memoryview) -> str:
    return hashlib.sha256(part).hexdigest()


def _manifest(etags: Mapping[int, str]) -> bytes:
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in sorted(etags.items())
    )
    return (
        '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{parts}</CompleteMultipartUpload>"
    ).encode()
