"""Multipart uploads: parts sent concurrently, and one object once all have arrived, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Self
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
    from collections.abc import Mapping
    from types import TracebackType

    from starfish_server.storage.s3.transport import Transport

PART_BYTES = 8 * 2**20
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MOST_PARTS = 10_000
PARTS_IN_FLIGHT = 4
_ABORT_SECONDS = 5.0


class MultipartUpload:
    """`async with MultipartUpload(...) as upload:` begins an upload; send all parts, then `complete` it.

    An error or a cancellation within the block removes the parts; what stays because the service does not
    answer is for the bucket's lifecycle rule.
    """

    def __init__(self, transport: Transport, operation: str, key: str, headers: Mapping[str, str]) -> None:
        self.key = key
        self.operation = operation
        self._transport = transport
        self._headers = headers
        self._query = ""
        self.etags: dict[int, str] = {}  # by the part's number
        # Not the threads of the event loop: all of them may be waiting for this very upload.
        self._threads = ThreadPoolExecutor(PARTS_IN_FLIGHT, "starfish-s3-hash")

    async def __aenter__(self) -> Self:
        begin = Request(self.operation, self.key, "POST", self.key, "uploads=", self._headers, b"")
        beginning = asyncio.create_task(self._transport.run(begin, read_upload_id))
        try:
            upload_id = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # The service may have begun it, and only its reply says what to abort.
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(_ABORT_SECONDS):
                    self._named(await beginning)
                    await self._abort()
            raise
        self._named(upload_id)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, NoSuchUploadError):  # also the reply to a repeated request, its first one lost
            reason = "the upload has ended, and whether it was completed is undetermined"
            raise StoreUnavailableError(reason, operation=self.operation, key=self.key) from error
        if error is not None:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(_ABORT_SECONDS):
                    await self._abort()

    async def send(self, number: int, body: bytes | memoryview) -> None:
        """Send the part of this number, from 1, again by itself after a transient failure."""
        signed = None
        if not self._transport.address.secure:
            loop = asyncio.get_running_loop()
            signed = await loop.run_in_executor(self._threads, _sha256_hex, body)
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

    def _named(self, upload_id: str) -> None:
        self._query = f"uploadId={quote(upload_id, safe='~')}"

    def _part(self, number: int) -> Request:
        query = f"partNumber={number}&{self._query}"
        return Request(self.operation, self.key, "PUT", target=self.key, query=query)

    async def _abort(self) -> None:
        abort = Request(self.operation, self.key, "DELETE", target=self.key, query=self._query)
        await self._transport.run(abort, require_deleted)


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
