"""Bodies on the wire: hashed and sent without stalling the loop, read whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import io
from typing import TYPE_CHECKING

import aiohttp

from starfish_server.storage.s3.digests import digest_of_object
from starfish_server.storage.s3.replies import MalformedReplyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starfish_server.storage.s3.digests import Digest

# What a socket's send buffer takes at once; a longer body is sent piece by piece, each within the timeout.
SMALL_BODY_BYTES = 48 * 1024
_PIECE_BYTES = 256 * 1024
_HASH_PIECE_BYTES = 1024 * 1024
# Error replies are short; the rest of a longer one is not waited for.
_FAULT_BYTES = 64 * 1024


async def sha256_hex(body: bytes | memoryview) -> str:
    """SHA-256 of `body`, with a turn for other tasks after each MiB."""
    if len(body) <= _HASH_PIECE_BYTES:
        return hashlib.sha256(body).hexdigest()
    digest = hashlib.sha256()
    view = memoryview(body)
    for start in range(0, len(body), _HASH_PIECE_BYTES):
        digest.update(view[start : start + _HASH_PIECE_BYTES])
        await asyncio.sleep(0)
    return digest.hexdigest()


async def pieces(
    body: bytes | memoryview, progress: asyncio.Timeout, seconds: float
) -> AsyncIterator[memoryview]:
    """`body` in pieces, each of which must be sent within `seconds`; as much again for the reply to begin."""
    loop = asyncio.get_running_loop()
    view = memoryview(body)
    for start in range(0, len(body), _PIECE_BYTES):
        progress.reschedule(loop.time() + seconds)
        yield view[start : start + _PIECE_BYTES]
    progress.reschedule(loop.time() + seconds)


async def read_body(response: aiohttp.ClientResponse, *, verify: bool) -> bytes:
    """The whole body. Of an error reply, the first 64 KiB.

    verify: compare an object's body with the digest that came with it. Without TLS nothing else guards
        against damage.
    Raises `MalformedReplyError` if the reply's end is unknown or its body is not what was stored.
    """
    if response.status >= 300:
        return await _read_start(response)
    length = response.content_length
    if length is None and response.status != 204 and "chunked" not in _transfer_encoding(response):
        raise MalformedReplyError("the reply does not say how long it is")
    digest, expected = digest_of_object(response) if verify and response.method == "GET" else (None, "")
    try:
        if length is not None and length <= _HASH_PIECE_BYTES:
            body = await response.read()
            if digest is not None:
                digest.update(body)
        else:
            body = await _read_long(response, digest)
    except aiohttp.ClientPayloadError as error:
        whole = "an unknown number of" if length is None else length
        raise MalformedReplyError(
            f"the body was cut short after {response.content.total_bytes} of {whole} bytes"
        ) from error
    if digest is not None and digest.hexdigest() != expected:
        raise MalformedReplyError("the body was damaged on its way: its digest is not that of the object")
    return body


async def _read_long(response: aiohttp.ClientResponse, digest: Digest | None) -> bytes:
    """Read into one growing buffer, which becomes the result without a copy."""
    buffer = io.BytesIO()
    async for chunk in response.content.iter_any():
        buffer.write(chunk)
        if digest is not None:
            digest.update(chunk)
    return buffer.getvalue()


async def _read_start(response: aiohttp.ClientResponse) -> bytes:
    buffer = io.BytesIO()
    async for chunk in response.content.iter_any():
        buffer.write(chunk)
        if buffer.tell() > _FAULT_BYTES:
            break
    return buffer.getvalue()


def _transfer_encoding(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Transfer-Encoding", "").lower()
