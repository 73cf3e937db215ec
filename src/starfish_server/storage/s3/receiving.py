"""Large bodies received from the socket straight into the result: aiohttp's own reader copies them twice."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

from starfish_server.storage.s3.errors import IncompleteReplyError

if TYPE_CHECKING:
    import aiohttp

    from starfish_server.storage.s3.sessions import InFlight

# Smaller bodies gain nothing; for larger ones no memory is allocated just because a reply claims a size.
RECEIVED_BYTES = range(2**18, 2**30)


async def receive(
    content: aiohttp.StreamReader, size: int, transport: asyncio.Transport, request: InFlight
) -> bytes:
    """Return a body: what `content` holds of it, then the rest from `transport`.

    Raises `IncompleteReplyError` if it is cut short.
    """
    # One byte more, to see what follows the body. No memory is touched before the body comes.
    result = io.BytesIO(bytes(size + 1))
    with result.getbuffer() as memory:  # released, or `getvalue` would return a copy
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


class _Receiver(asyncio.BufferedProtocol):
    """Takes the place of a connection's protocol until the body is whole or the connection ends.

    memory: for the body and one byte more.
    at: bytes of it that are filled.
    ended: done when the body is whole or the connection has ended.
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
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
        self._end()

    def _hand_to(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.pause_reading()  # a transport that is reading may keep its old protocol
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def _end(self) -> None:
        if not self.ended.done():  # it is cancelled with the request
            self.ended.set_result(None)
