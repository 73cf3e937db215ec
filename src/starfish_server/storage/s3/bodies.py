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

    from starfish_server.storage.s3.connections import Progress
    from starfish_server.storage.s3.digests import Digest

# What a socket's send buffer takes at once; a longer body is sent piece by piece, each within the timeout.
SMALL_BODY_BYTES = 48 * 1024
_PIECE_BYTES = 256 * 1024
_HASH_PIECE_BYTES = 1024 * 1024
# Error replies are short; the rest of a longer one is not waited for.
_FAULT_BYTES = 64 * 1024


async def sha256_hex(body: bytes | memoryview) -> str:
    """SHA-256 of `body`, with a turn for other tasks after each MiB.

    Not in a thread: those of the event loop may all be waiting for this very request.
    """
    if len(body) <= _HASH_PIECE_BYTES:
        return hashlib.sha256(body).hexdigest()
    digest = hashlib.sha256()
    view = memoryview(body)
    for start in range(0, len(body), _HASH_PIECE_BYTES):
        digest.update(view[start : start + _HASH_PIECE_BYTES])
        await asyncio.sleep(0)
    return digest.hexdigest()


async def pieces(body: bytes | memoryview, progress: Progress) -> AsyncIterator[memoryview]:
    """`body` in pieces, with a call of `progress` before each and after the last."""
    view = memoryview(body)
    for start in range(0, len(body), _PIECE_BYTES):
        progress()
        yield view[start : start + _PIECE_BYTES]
    progress()


async def read_body(response: aiohttp.ClientResponse, progress: Progress, *, verify: bool) -> bytes:
    """The whole body. Of an error reply, the first 64 KiB.

    progress: called for each part that comes.
    verify: compare an object's body with the digest that came with it. Without TLS nothing else guards
        against damage.
    Raises `MalformedReplyError` if the reply's end is unknown or its body is not what was stored.
    """
    if response.status >= 300:
        return await _read(response, progress, limit=_FAULT_BYTES)
    length = response.content_length
    if length is None and response.status != 204 and _last_coding(response) != "chunked":
        raise MalformedReplyError("the reply does not say how long it is")
    digest, expected = digest_of_object(response) if verify and response.method == "GET" else (None, "")
    try:
        body = await _read(response, progress, digest)
    except aiohttp.ClientPayloadError as error:
        whole = "an unknown number of" if length is None else length
        raise MalformedReplyError(
            f"the body was cut short after {response.content.total_bytes} of {whole} bytes"
        ) from error
    if digest is not None and digest.hexdigest() != expected:
        raise MalformedReplyError("the body was damaged on its way: its digest is not that of the object")
    return body


async def _read(
    response: aiohttp.ClientResponse,
    progress: Progress,
    digest: Digest | None = None,
    limit: int | None = None,
) -> bytes:
    """Read into one growing buffer, which becomes the result without a copy. Of an error, up to `limit`."""
    content = response.content
    if content.is_eof():  # a small body comes with its headers
        body = content.read_nowait()
        if digest is not None:
            digest.update(body)
        return body
    buffer = io.BytesIO()
    progress()
    async for chunk in content.iter_any():
        buffer.write(chunk)
        if digest is not None:
            digest.update(chunk)
        if limit is not None and buffer.tell() > limit:
            break
        progress()
    return buffer.getvalue()


def _last_coding(response: aiohttp.ClientResponse) -> str:
    """Of the transfer codings, the one that frames the body."""
    codings = response.headers.getall("Transfer-Encoding", [""])[-1]
    return codings.rpartition(",")[2].strip().lower()
