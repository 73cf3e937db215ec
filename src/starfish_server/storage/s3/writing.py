"""Objects written: in one request, or in parts; from one body, or from the chunks of a stream."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from starfish_server.checks import checked_chunks
from starfish_server.errors import ObjectTooLargeError
from starfish_server.objects import ANY
from starfish_server.storage.s3.multipart import MOST_PARTS, PART_BYTES, PARTS_IN_FLIGHT, MultipartUpload
from starfish_server.storage.s3.replies import require_stored
from starfish_server.storage.s3.transport import Request, bounded_gather

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping

    from starfish_server.objects import IfVersion
    from starfish_server.storage.s3.conditions import ConditionalWrites
    from starfish_server.storage.s3.transport import Transport

MULTIPART_OVER_BYTES = 16 * 2**20


async def put_object(
    transport: Transport, operation: str, key: str, body: bytes, headers: Mapping[str, str]
) -> str:
    """Store `body`, whole or not at all, without a second copy of it; return its ETag."""
    if len(body) <= MULTIPART_OVER_BYTES:
        request = Request(operation, key, "PUT", target=key, headers=headers, body=body)
        return await transport.run(request, require_stored)
    async with MultipartUpload(transport, operation, key, headers) as upload:
        await send_parts(upload, body)
        return await upload.complete()


async def send_parts(upload: MultipartUpload, body: bytes) -> None:
    """Send `body` in parts, a few concurrently."""
    size = max(PART_BYTES, -(-len(body) // MOST_PARTS))
    view = memoryview(body)

    async def send(number: int) -> None:
        await upload.send(number, view[(number - 1) * size : number * size])

    await bounded_gather(send, range(1, -(-len(body) // size) + 1), limit=PARTS_IN_FLIGHT)


async def upload_object(
    transport: Transport,
    conditional: ConditionalWrites,
    operation: str,
    key: str,
    chunks: Iterable[bytes] | AsyncIterable[bytes],
    headers: Mapping[str, str],
    if_version: IfVersion,
) -> tuple[str, int]:
    """Store the chunks as one object; return its ETag and size.

    Holds the part that is gathered and those in flight, 40 MiB. All parts but the last are of one size,
    which Cloudflare R2 demands.
    """
    async with aclosing(_parts(chunks)) as parts:
        first = await anext(parts, bytearray())
        if len(first) < PART_BYTES:
            return await conditional.put(operation, key, bytes(first), headers, if_version), len(first)
        await conditional.check_completion(operation, key, if_version)
        async with MultipartUpload(transport, operation, key, headers) as upload:
            size = await _send_all(upload, first, parts)
            if if_version is ANY:
                return await upload.complete(), size
            return await conditional.complete(upload, headers, if_version), size


async def _send_all(upload: MultipartUpload, first: bytearray, others: AsyncIterator[bytearray]) -> int:
    """Send each part as soon as it is gathered, a few concurrently; return the size of all."""
    number, size, part = 1, 0, first
    sending: set[asyncio.Task[None]] = set()
    try:
        while part:
            if number > MOST_PARTS:
                most = MOST_PARTS * PART_BYTES
                reason = f"an upload of chunks has at most {MOST_PARTS:,} parts, {most:,} bytes"
                raise ObjectTooLargeError(reason, operation=upload.operation, key=upload.key, max_bytes=most)
            sending.add(asyncio.create_task(upload.send(number, memoryview(part))))
            number, size = number + 1, size + len(part)
            await _results(sending, at_most=PARTS_IN_FLIGHT - 1)
            part = await anext(others, bytearray())
        await _results(sending, at_most=0)
    finally:
        for each in sending:
            each.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
    return size


async def _results(sending: set[asyncio.Task[None]], at_most: int) -> None:
    """Wait until `at_most` tasks are left, and take those that have ended out; raise what one raised."""
    while True:
        for each in [each for each in sending if each.done()]:
            each.result()
            sending.discard(each)
        if len(sending) <= at_most:
            return
        await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)


async def _parts(chunks: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncGenerator[bytearray, None]:
    """Yield the chunks as parts of `PART_BYTES`, the last one shorter."""
    part = bytearray()
    async with aclosing(checked_chunks(chunks, "upload")) as checked:
        async for chunk in checked:
            view = memoryview(chunk)
            while view:
                taken, view = view[: PART_BYTES - len(part)], view[PART_BYTES - len(part) :]
                part += taken
                if len(part) == PART_BYTES:
                    yield part
                    part = bytearray()
    if part:
        yield part
