"""Objects read as streams: from the socket, as fast as the reader takes them."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from starfish_server.objects import ObjectInfo, ObjectReader
from starfish_server.storage.s3.errors import IncompleteReplyError
from starfish_server.storage.s3.http import require_framing
from starfish_server.storage.s3.infos import Part, read_part
from starfish_server.storage.s3.reading import get_range

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import aiohttp

    from starfish_server.storage.s3.replies import Reply
    from starfish_server.storage.s3.sessions import Session
    from starfish_server.storage.s3.transport import Request, Transport


async def open_object(
    transport: Transport, operation: str, key: str, start: int, stop: int | None
) -> ObjectReader | None:
    """Return a reader of the bytes from `start` to before `stop`, or None if there is no object.

    It reads one reply to one request, and so one version of the object.
    """

    def read(reply: Reply) -> Part:
        return read_part(reply, key, start, stop)

    async def begin(request: Request) -> ObjectReader:
        async def attempt() -> ObjectReader:
            body = OpenBody()
            try:
                part = await transport.attempt(request, read, body)
            except BaseException:
                await body.close()
                raise
            body.cut(part)

            def fetch() -> Awaitable[bytes]:
                return transport.mapped(operation, key, body.next_chunk)

            return ObjectReader(part.info, fetch, body.close)

        return await transport.attempts(attempt)

    found = await get_range(transport, operation, key, start, stop, begin)
    return ObjectReader(found, _nothing) if isinstance(found, ObjectInfo) else found


async def _nothing() -> bytes:
    return b""


class OpenBody:
    """The body of a reply that is read bit by bit. It holds the reply's connection until `close`.

    aiohttp stops reading from the socket while about 1 MiB waits here. The connection is cut, too, when the
    body is garbage.
    """

    def __init__(self) -> None:
        self._skip = 0
        self._left: int | None = None

    def attach(self, response: aiohttp.ClientResponse, session: Session) -> None:
        """Take over the response to a request that succeeded."""
        require_framing(response)
        self._response = response
        self._session = session
        self._finalizer = weakref.finalize(self, _cut_off, asyncio.get_running_loop(), response)
        self._finalizer.atexit = False
        session.readers.add(self)

    def owns(self, response: aiohttp.ClientResponse) -> bool:
        return getattr(self, "_response", None) is response

    def cut(self, part: Part) -> None:
        """Leave out what the body holds besides the range."""
        self._skip, self._left = part.skip, part.length

    async def next_chunk(self) -> bytes:
        """Return the next bytes, b"" at the end. Raises `IncompleteReplyError` for a body that ends early."""
        while self._left != 0:
            chunk = await self._read()
            if not chunk:
                if self._left is not None:
                    raise IncompleteReplyError(f"the body was cut short, {self._left} bytes before its end")
                return b""
            skipped = min(self._skip, len(chunk))
            self._skip -= skipped
            chunk = chunk[skipped:] if skipped else chunk
            if self._left is not None:
                chunk = chunk if len(chunk) <= self._left else chunk[: self._left]
                self._left -= len(chunk)
            if chunk:
                return chunk
        return b""

    async def _read(self) -> bytes:
        content = self._response.content
        chunk = content.read_nowait()
        if chunk or content.at_eof():
            return chunk
        async with asyncio.timeout(None) as timeout:
            in_flight = self._session.begin(timeout)
            in_flight.progress()
            try:
                return await content.readany()
            finally:
                self._session.end(in_flight)

    async def close(self) -> None:
        """Cut the connection, unless it has been given back at the end of the body."""
        self.cut_off()

    def cut_off(self) -> None:
        if hasattr(self, "_response"):
            self._finalizer.detach()
            if not self._response.closed:
                self._response.close()


def _cut_off(loop: asyncio.AbstractEventLoop, response: aiohttp.ClientResponse) -> None:
    with suppress(RuntimeError):  # the loop has ended, and its connections with it
        loop.call_soon_threadsafe(response.close)
