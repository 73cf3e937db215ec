"""The bodies of requests and replies: sent in pieces, hashed, and received."""

from __future__ import annotations

import asyncio
import ctypes
import io
import mmap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeGuard

import aiohttp

from starfish_server.storage.s3.errors import IncompleteReplyError, MalformedReplyError
from starfish_server.threads import start_in_thread, wake

if TYPE_CHECKING:
    import hashlib
    from collections.abc import AsyncIterator, Callable

    from starfish_server.storage.s3.sessions import InFlight

_SMALL_BYTES = 48 * 1024
_PIECE_BYTES = 512 * 1024
# Error replies are short; the rest of a longer one is not waited for.
_FAULT_BYTES = 64 * 1024
_HASHED_INLINE_BYTES = 2**20
# Smaller bodies gain nothing; for larger ones no memory is allocated just because a reply claims a size.
_RECEIVED_BYTES = range(2**18, 2**30)
# The least for which numpy asks for huge pages, too. None where the system has none.
_HUGE_BYTES = 4 * 2**20
_HUGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)


class Blocks(list[memoryview]):
    """Consecutive blocks of a body.

    sha256: the hash of the blocks so far; None if the body is hashed later, or not at all.
    """

    sha256: hashlib._Hash | None = None

    def add(self, block: memoryview) -> None:
        """Append a block, and hash it while it is still in the processor's cache.

        A long block, which would hold the event loop, leaves the body to be hashed later in a thread.
        """
        self.append(block)
        if len(block) > _HASHED_INLINE_BYTES:
            self.sha256 = None
        elif self.sha256 is not None:
            self.sha256.update(block)


Body = bytes | Blocks
"""The body of a request: whole, or in consecutive blocks."""


def size_of(body: Body) -> int:
    """Return the number of bytes in a body."""
    return len(body) if isinstance(body, bytes) else sum(map(len, body))


def goes_in_pieces(body: Body | None) -> TypeGuard[Body]:
    """Return whether a body is sent in pieces; a socket's send buffer takes a small one whole."""
    return isinstance(body, list) or (body is not None and len(body) > _SMALL_BYTES)


def _blocks(body: Body) -> list[memoryview]:
    return [memoryview(body)] if isinstance(body, bytes) else body


async def pieces(body: Body, request: InFlight) -> AsyncIterator[memoryview]:
    """Yield `body` in pieces; sending each of them is progress."""
    for block in _blocks(body):
        for start in range(0, len(block), _PIECE_BYTES):
            request.progress()
            yield block[start : start + _PIECE_BYTES]
    request.progress()


async def hex_digest(body: Body, algorithm: Callable[..., Any]) -> str:
    """Return a digest of `body`, of a long one in a thread of its own.

    Not in the event loop's executor: all its threads may be waiting for this request.
    """

    def digest() -> str:
        digest = algorithm(usedforsecurity=False)
        for block in _blocks(body):
            digest.update(block)
        return str(digest.hexdigest())

    if size_of(body) <= _HASHED_INLINE_BYTES:
        return digest()
    threads = ThreadPoolExecutor(1, "starfish-s3-hash")
    try:
        return await start_in_thread(digest, threads)
    finally:
        threads.shutdown(wait=False)


async def read_body(response: aiohttp.ClientResponse, request: InFlight) -> bytes:
    """Return the whole body; of an error reply, the first 64 KiB.

    Raises `MalformedReplyError` if the reply's end is unknown, `IncompleteReplyError` if it is cut short.
    """
    content, size = response.content, response.content_length
    if response.status >= 300:
        return await _read(content, request, limit=_FAULT_BYTES)
    require_framing(response)
    try:
        if content.is_eof():  # a small body comes with its headers
            return content.read_nowait()
        transport = response.connection and response.connection.transport
        if size is not None and size in _RECEIVED_BYTES and transport is not None:
            return await receive(content, size, transport, request)
        return await _read(content, request)
    except aiohttp.ClientPayloadError as error:
        whole = "an unknown number of" if size is None else size
        raise IncompleteReplyError(
            f"the body was cut short after {content.total_bytes} of {whole} bytes"
        ) from error


def require_framing(response: aiohttp.ClientResponse) -> None:
    """Raise `MalformedReplyError` if the end of the body is unknown, so that a part may look like all."""
    if response.content_length is not None or response.status == 204 or response.method == "HEAD":
        return
    if response.headers.get("Transfer-Encoding", "").lower() != "chunked":
        raise MalformedReplyError("the reply does not say how long it is")


async def _read(content: aiohttp.StreamReader, request: InFlight, limit: int | None = None) -> bytes:
    """Read into one growing buffer, which becomes the result without a copy."""
    buffer = io.BytesIO()
    request.progress()
    async for chunk in content.iter_any():
        buffer.write(chunk)
        if limit is not None and buffer.tell() > limit:
            break
        request.progress()
    return buffer.getvalue()


async def receive(
    content: aiohttp.StreamReader, size: int, transport: asyncio.Transport, request: InFlight
) -> bytes:
    """Return a body: what `content` holds of it, then the rest from `transport`, straight into the result.

    aiohttp's own reader copies it twice. Raises `IncompleteReplyError` if it is cut short.
    """
    # One byte more, to see what follows the body. No memory is touched before the body comes.
    result = io.BytesIO(bytes(size + 1))
    with result.getbuffer() as memory:  # released, or `getvalue` would return a copy
        _ask_for_huge_pages(memory)
        at = 0
        while chunk := content.read_nowait():
            memory[at : at + len(chunk)] = chunk
            at += len(chunk)
        if at < size:
            receiver = _Receiver(memory, at, transport, request)
            await receiver.ended
            if receiver.at < size:
                raise IncompleteReplyError(f"the body was cut short after {receiver.at} of {size} bytes")
            if receiver.at > size:
                transport.abort()  # the rest would be taken for the reply to another request
            content.feed_eof()  # gives the connection back
    result.truncate(size)
    return result.getvalue()


def _ask_for_huge_pages(memory: memoryview) -> None:
    """Ask the system for huge pages: faults on small ones take a fifth of a large get."""
    if _HUGE_PAGES is not None and len(memory) >= _HUGE_BYTES:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        length = ctypes.c_size_t(address + len(memory) - first)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), length, _HUGE_PAGES)  # a refusal does not matter


class _Receiver(asyncio.BufferedProtocol):
    """Takes the place of a connection's protocol until the body is whole or the connection ends.

    memory: for the body and one byte more.
    at: bytes of it that are filled.
    ended: done when the body is whole or the connection has ended; cancelled with the request.
    """

    def __init__(self, memory: memoryview, at: int, transport: asyncio.Transport, request: InFlight) -> None:
        self.at = at
        self.ended = asyncio.get_running_loop().create_future()
        self._memory = memory
        self._transport = transport
        self._protocol = transport.get_protocol()
        self._request = request
        request.progress()
        self._hand_to(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._memory[self.at :]

    def buffer_updated(self, nbytes: int) -> None:
        self.at += nbytes
        self._request.progress()
        if self.at >= len(self._memory) - 1:
            self._hand_to(self._protocol)
            wake(self.ended)

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
        wake(self.ended)

    def _hand_to(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.pause_reading()  # a transport that is reading may keep its old protocol
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()
