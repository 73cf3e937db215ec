"""Streams of one object: chunks out of obstore for readers, parts into it for uploads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starfish_server.errors import StoreClosedError, StoreError
from starfish_server.objects import ObjectReader, reader_of
from starfish_server.storage.obstore.errors import ask
from starfish_server.storage.obstore.requests import put

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from weakref import WeakSet

    from obstore import GetResult, PutResult

    from starfish_server.objects import ObjectInfo

CHUNK_BYTES = 2**20
PART_BYTES = 8 * 2**20
PARTS_IN_FLIGHT = 4
ABORT_SECONDS = 5.0


class Download:
    """The chunks of one reader. Dropping obstore's stream gives its connection back."""

    def __init__(self, key: str, result: GetResult) -> None:
        self._key = key
        self._stream: Any = result.stream(min_chunk_size=CHUNK_BYTES)
        self._store_closed = False

    async def fetch(self) -> bytes:
        """Return the next chunk, b"" at the end."""
        try:
            chunk: Any = b"" if self._stream is None else await ask(self._key, anext, self._stream, b"")
            if self._store_closed:
                raise StoreClosedError("this ObstoreObjectStore was closed")
        except StoreError as error:
            error.operation, error.key = "open", self._key
            raise
        return bytes(chunk)

    async def close(self) -> None:
        """Drop the stream, which gives the connection back."""
        self._stream = None

    def close_store(self) -> None:
        """Drop the stream, and make the next fetch raise `StoreClosedError`."""
        self._store_closed = True
        self._stream = None


def make_reader(info: ObjectInfo, result: GetResult | None, downloads: WeakSet[Download]) -> ObjectReader:
    """Return a reader of obstore's reply, and add its download to `downloads`; None is an empty range."""
    if result is None:
        return reader_of(info, b"")
    download = Download(info.key, result)
    downloads.add(download)
    return ObjectReader(info, download.fetch, download.close)


async def send_parts(
    client: Any, key: str, source: AsyncIterator[bytes], attributes: Mapping[str, str] | None
) -> tuple[PutResult, int]:
    """Upload the parts as one object; return obstore's result and the object's size.

    An object of one part is written in one request.

    obstore awaits the parts in its own task, which cannot be cancelled. So it does not get `source` but a
    queue, which can end its wait, also with an error.
    """
    first = await anext(source, b"")
    if len(first) < PART_BYTES:
        return await put(client, key, first, attributes), len(first)
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
    size, failed = len(first), False

    async def parts() -> AsyncIterator[bytes]:
        while (part := await queue.get()) is not None:
            if failed:
                raise ConnectionAbortedError("the upload failed")
            yield part

    sending = asyncio.ensure_future(
        put(
            client,
            key,
            parts(),
            attributes,
            use_multipart=True,
            chunk_size=PART_BYTES,
            max_concurrency=PARTS_IN_FLIGHT,
        )
    )
    try:
        await _unless_ended(sending, queue.put(first))
        async for part in source:
            await _unless_ended(sending, queue.put(part))
            size += len(part)
        await _unless_ended(sending, queue.put(None))
        return await asyncio.shield(sending), size
    finally:
        if not sending.done():
            failed = True
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(b"")
            try:
                # Not cancelled immediately, or its parts would stay: obstore aborts the upload once its
                # source fails. One whose source has ended is completed: obstore has no way to abort it.
                await asyncio.wait([sending], timeout=ABORT_SECONDS)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)


async def _unless_ended(sending: asyncio.Future[Any], put: Any) -> None:
    """Hand over a part, or raise the error of an upload that ended before it took the part."""
    putting = asyncio.ensure_future(put)
    try:
        await asyncio.wait([sending, putting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        putting.cancel()
    if sending.done():
        sending.result()
