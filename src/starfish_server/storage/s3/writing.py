"""Multipart uploads, from one body or from the chunks of a stream."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from starfish_server.chunks import grouped
from starfish_server.errors import ObjectTooLargeError, StoreError, StoreUnavailableError
from starfish_server.gather import bounded_gather
from starfish_server.storage.s3.bodies import Blocks, size_of
from starfish_server.storage.s3.errors import NoSuchUploadError
from starfish_server.storage.s3.replies import read_upload_id, read_written, require_deleted, require_stored
from starfish_server.storage.s3.transport import Request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping

    from starfish_server.storage.s3.sessions import Session
    from starfish_server.storage.s3.transport import Transport

MULTIPART_OVER_BYTES = 16 * 2**20
PART_BYTES = 8 * 2**20
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MOST_PARTS = 10_000
PARTS_IN_FLIGHT = 4
# Shorter chunks are joined: each block of a part is hashed and sent by itself.
_BLOCK_BYTES = 64 * 1024
REMOVAL_SECONDS = 5.0


async def parts_of(
    chunks: Iterable[bytes] | AsyncIterable[bytes], *, hashed: bool
) -> AsyncGenerator[Blocks, None]:
    """Yield the chunks as parts of `PART_BYTES`, the last one shorter. If `hashed`, hash them on the way.

    Only a long chunk that is cut is copied: otherwise each of its parts would hold all of it.
    """

    def new_part() -> Blocks:
        part = Blocks()
        part.sha256 = hashlib.sha256(usedforsecurity=False) if hashed else None
        return part

    part, missing = new_part(), PART_BYTES
    async with aclosing(grouped(chunks, _BLOCK_BYTES)) as blocks:
        async for block in blocks:
            view = memoryview(block)
            while view:
                taken, view = view[:missing], view[missing:]
                part.add(taken if len(taken) == len(block) else memoryview(bytes(taken)))
                missing -= len(taken)
                if not missing:
                    yield part
                    part, missing = new_part(), PART_BYTES
    if part:
        yield part


@asynccontextmanager
async def in_one_task(parts: AsyncGenerator[Blocks, None]) -> AsyncIterator[AsyncIterator[Blocks]]:
    """Read all of `parts` in one task, though several tasks take them, and close it after the block.

    A source may hold a time limit or a context variable from one chunk to the next. A part is read once it is
    waited for.
    """
    wanted = asyncio.Semaphore(0)
    gathered: asyncio.Queue[Blocks | None] = asyncio.Queue()

    async def read() -> None:
        async with aclosing(parts):
            await wanted.acquire()
            async for part in parts:
                gathered.put_nowait(part)
                del part
                await wanted.acquire()

    reading = asyncio.create_task(read())
    reading.add_done_callback(lambda _: gathered.put_nowait(None))

    async def taken() -> AsyncIterator[Blocks]:
        wanted.release()
        while (part := await gathered.get()) is not None:
            yield part
            del part
            wanted.release()
        reading.result()  # raises the error of the source

    try:
        yield taken()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@asynccontextmanager
async def multipart_upload(
    transport: Transport, key: str, headers: Mapping[str, str]
) -> AsyncIterator[MultipartUpload]:
    """Begin an upload for the block, which sends all parts and then calls `complete`.

    An error within the block removes the parts. A cancellation does too, without waiting for it. Parts that
    stay because the service does not answer are left to the bucket's lifecycle rule. A store that is closed
    lets the block finish for a while.
    """
    async with transport.sessions.held() as session:
        upload = MultipartUpload(transport, session, key)
        try:
            await upload.begin(headers)
            yield upload
        except NoSuchUploadError as error:  # also the reply to a repeated request, its first one lost
            end = "whether it was completed is undetermined" if upload.completing else "it was not completed"
            failure = StoreUnavailableError(f"the upload has ended, and {end}")
            failure.undetermined = upload.completing
            raise failure from error
        except BaseException as error:
            if isinstance(error, StoreError) and not upload.completing:
                error.undetermined = False  # without its completion there is no object
            removal = session.background(upload.remove())
            if isinstance(error, Exception):  # a cancelled caller does not wait
                await asyncio.shield(removal)
            raise


class MultipartUpload:
    """An upload that has begun: its parts, and how it ends.

    etags: those of the parts that were sent, by the part's number.
    size: bytes of the parts that were sent.
    completing: whether its completion was requested.
    """

    def __init__(self, transport: Transport, session: Session, key: str) -> None:
        self.key = key
        self.etags: dict[int, str] = {}
        self.size = 0
        self.completing = False
        self._transport = transport
        self._session = session
        self._query = ""
        self._beginning: asyncio.Task[None] | None = None

    async def begin(self, headers: Mapping[str, str]) -> None:
        begin = Request("POST", self.key, "uploads=", headers, b"")

        async def ask() -> None:
            upload_id = await self._transport.run(begin, read_upload_id)
            self._query = f"uploadId={quote(upload_id, safe='~')}"

        # Not ended by a cancellation: the service may have begun it, and only its reply says what to remove.
        self._beginning = self._session.background(ask())
        await asyncio.shield(self._beginning)

    async def remove(self) -> None:
        """Remove the parts, as far as the service answers within 5 s."""
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(REMOVAL_SECONDS):
                if self._beginning is not None:
                    await self._beginning
                if self._query:  # without it the object would be deleted
                    await self._transport.run(Request("DELETE", self.key, self._query), require_deleted)

    async def send_body(self, body: bytes) -> None:
        """Send a body in parts, a few concurrently."""
        size = max(PART_BYTES, -(-len(body) // MOST_PARTS))
        view = memoryview(body)
        parts = ((at // size + 1, Blocks([view[at : at + size]])) for at in range(0, len(body), size))
        await bounded_gather(self._send, parts, limit=PARTS_IN_FLIGHT)

    async def send_parts(self, gathered: list[Blocks], others: AsyncIterator[Blocks]) -> None:
        """Send the part in `gathered`, and each other one as soon as it is gathered, a few concurrently.

        Takes the part out of the list, so that nothing holds it once it is sent.
        """

        async def numbered() -> AsyncIterator[tuple[int, Blocks]]:
            yield 1, gathered.pop()
            number = 1
            async for part in others:
                number += 1
                if number > MOST_PARTS:
                    most = MOST_PARTS * PART_BYTES
                    reason = f"an upload of chunks has at most {MOST_PARTS:,} parts, {most:,} bytes"
                    raise ObjectTooLargeError(reason, max_bytes=most)
                yield number, part

        await bounded_gather(self._send, numbered(), limit=PARTS_IN_FLIGHT + 1)  # one of them gathers

    async def _send(self, part: tuple[int, Blocks]) -> None:
        """Send one part, again by itself after a transient failure."""
        number, body = part
        self.etags[number] = await self._transport.run(self._part(number)._replace(body=body), require_stored)
        self.size += size_of(body)

    async def copy(self, number: int, source: Mapping[str, str]) -> None:
        """Let the service copy a part; `source` are the headers that say what."""
        request = self._part(number)._replace(headers=source, body=b"")
        self.etags[number], _ = await self._transport.run(request, read_written)

    async def complete(self, condition: Mapping[str, str] | None = None) -> str:
        """Make the object of the parts, if `condition` holds; return its ETag.

        With a condition it makes one attempt: a second could not tell its own first write from another's.
        """
        self.completing = True
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            for number, etag in sorted(self.etags.items())
        )
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        body = f'<CompleteMultipartUpload xmlns="{space}">{parts}</CompleteMultipartUpload>'.encode()
        request = Request("POST", self.key, self._query, condition or {}, body)
        if condition:
            etag, _ = await self._transport.mapped(self._transport.attempt(request, read_written))
        else:
            etag, _ = await self._transport.run(request, read_written)
        return etag

    def _part(self, number: int) -> Request:
        return Request("PUT", self.key, f"partNumber={number}&{self._query}")
