"""Objects read whole, in ranges or as streams. Over plain HTTP, damage to a small body is detected."""

from __future__ import annotations

import asyncio
import hashlib
import re
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from starfish_server.errors import StoreError, StoreUnavailableError
from starfish_server.objects import ObjectInfo, ObjectReader, StoredObject, reader_of
from starfish_server.storage.s3.bodies import hex_digest, require_framing
from starfish_server.storage.s3.errors import (
    IncompleteReplyError,
    InvalidRangeError,
    NoSuchKeyError,
    closed_error,
)
from starfish_server.storage.s3.replies import info_of, read_head, read_part, require_object
from starfish_server.storage.s3.sessions import InFlight
from starfish_server.storage.s3.transport import Request
from starfish_server.storage.s3.writing import MULTIPART_OVER_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    import aiohttp

    from starfish_server.storage.s3.replies import Reply
    from starfish_server.storage.s3.sessions import Session
    from starfish_server.storage.s3.transport import Transport

T = TypeVar("T")

_MD5_ETAG = re.compile(r'"?([0-9a-f]{32})"?')
# More bytes than an object can have; services do not understand larger numbers.
_MOST_BYTES = 2**60


async def get_object(transport: Transport, key: str) -> Reply | None:
    """Return the reply that holds the object, or None if there is none.

    With `verify_bodies`, a body of at most 16 MiB is read again if the ETag looks like an MD5 but does not
    match. An ETag is opaque, so a mismatch alone proves nothing: the same body twice is the object, since
    damage does not repeat.
    """
    request = Request("GET", key)
    try:
        if transport.verify_bodies:
            return await transport.attempts(partial(_verified, transport, request))
        return await transport.run(request, require_object)
    except NoSuchKeyError:
        return None


async def _verified(transport: Transport, request: Request) -> Reply:
    reply = await transport.attempt(request, require_object)
    if await _fits_etag(reply):
        return reply
    again = await transport.attempt(request, require_object)
    if again.body == reply.body or await _fits_etag(again):
        return again
    raise StoreUnavailableError("the body was damaged in transit: two reads of the object differ")


async def stat_object(transport: Transport, key: str) -> ObjectInfo | None:
    """Return the info of the object, or None if there is none."""
    try:
        return await transport.run(Request("HEAD", key), lambda reply: read_head(reply, key))
    except NoSuchKeyError:
        return None


async def read_object(transport: Transport, key: str, start: int, stop: int | None) -> StoredObject | None:
    """Return the bytes from `start` to before `stop` with the info of the whole object, or None."""
    if start == 0 and stop is None:
        reply = await get_object(transport, key)
        return reply and StoredObject(info_of(reply.headers, key, len(reply.body)), reply.body)

    def attempt(request: Request) -> Coroutine[None, None, StoredObject]:
        return transport.attempt(request, lambda reply: _cut(reply, key, start, stop))

    found = await _get_range(transport, key, start, stop, attempt)
    return StoredObject(found, b"") if isinstance(found, ObjectInfo) else found


async def open_object(transport: Transport, key: str, start: int, stop: int | None) -> ObjectReader | None:
    """Return a reader of the bytes from `start` to before `stop`, or None if there is no object.

    It reads one reply to one request, and so one version of the object.
    """

    async def attempt(request: Request) -> ObjectReader:
        body = OpenBody(transport, key)
        try:
            part = await transport.attempt(request, lambda reply: read_part(reply, key, start, stop), body)
        except BaseException:
            body.cut_off()
            raise
        body.skip, body.left = part.skip, part.length
        return ObjectReader(part.info, body.next_chunk, body.close)

    found = await _get_range(transport, key, start, stop, attempt)
    return reader_of(found, b"") if isinstance(found, ObjectInfo) else found


async def _get_range(
    transport: Transport,
    key: str,
    start: int,
    stop: int | None,
    attempt: Callable[[Request], Awaitable[T]],
) -> T | ObjectInfo | None:
    """Call `attempt` with the request for a range until it succeeds, and return its result.

    Returns the object's info instead where the object has no bytes in the range, None for a missing object.
    """
    last = "" if stop is None or stop > _MOST_BYTES else stop - 1
    headers = {} if start == 0 and last == "" else {"Range": f"bytes={start}-{last}"}
    if start != stop and start < _MOST_BYTES:
        try:
            return await transport.attempts(partial(attempt, Request("GET", key, headers=headers)))
        except NoSuchKeyError:
            return None
        except InvalidRangeError:
            pass
    info = await stat_object(transport, key)
    if info is not None and start != stop and (info.size or 0) > start:
        raise StoreUnavailableError("the service refuses a range that the object has")
    return info


def _cut(reply: Reply, key: str, start: int, stop: int | None) -> StoredObject:
    part = read_part(reply, key, start, stop)
    body = reply.body[start:stop] if reply.status == 200 else reply.body
    if part.length is not None and len(body) != part.length:
        raise IncompleteReplyError(f"the range holds {len(body)} of {part.length} bytes")
    return StoredObject(part.info, body)


async def _fits_etag(reply: Reply) -> bool:
    """Return False if the ETag looks like the MD5 of another body.

    A long body is not compared: nearly all are sent in parts, and then the ETag is not an MD5. The comparison
    would take longer than the transfer.
    """
    if len(reply.body) > MULTIPART_OVER_BYTES:
        return True
    md5 = _MD5_ETAG.fullmatch(reply.headers.get("ETag", ""))
    encryption = reply.headers.get("x-amz-server-side-encryption", "AES256")
    if md5 is None or encryption != "AES256":  # sent in parts, or encrypted with another key
        return True
    return await hex_digest(reply.body, hashlib.md5) == md5[1]


class OpenBody:
    """The body of a reply that is read chunk by chunk. It holds the reply's connection until `close`.

    aiohttp stops reading from the socket while about 1 MiB waits here. The connection is cut, too, when the
    body is garbage.

    skip, left: bytes to leave out before the range, and bytes of the range to come (None to the end).
    """

    def __init__(self, transport: Transport, key: str) -> None:
        self.skip = 0
        self.left: int | None = None
        self._transport = transport
        self._key = key
        self._finalizer: weakref.finalize[..., OpenBody] | None = None

    def attach(self, response: aiohttp.ClientResponse, session: Session) -> None:
        """Take over the response to a request that succeeded."""
        self._response = response
        self._session = session
        self._finalizer = weakref.finalize(self, _cut_off, asyncio.get_running_loop(), response)
        self._finalizer.atexit = False
        session.readers.add(self)
        require_framing(response)

    async def next_chunk(self) -> bytes:
        """Return the next bytes of the range, b"" at its end. Raises errors of the store."""
        try:
            if self._transport.sessions.closed:
                raise closed_error()
            return await self._transport.mapped(self._next_chunk())
        except StoreError as error:
            error.operation, error.key = "open", self._key
            raise

    async def _next_chunk(self) -> bytes:
        while self.left != 0:
            chunk = await self._read()
            if not chunk:
                if self.left is not None:
                    raise IncompleteReplyError(f"the body was cut short, {self.left} bytes before its end")
                break
            chunk, self.skip = chunk[self.skip :], max(0, self.skip - len(chunk))
            if self.left is not None:
                chunk = chunk[: self.left]
                self.left -= len(chunk)
            if chunk:
                return chunk
        return b""

    async def _read(self) -> bytes:
        content = self._response.content
        chunk = content.read_nowait()
        if chunk or content.at_eof():
            return chunk
        async with InFlight(self._session) as in_flight:
            in_flight.progress()
            return await content.readany()

    async def close(self) -> None:
        self.cut_off()

    def cut_off(self) -> None:
        """Cut the connection, unless it has been given back at the end of the body."""
        if self._finalizer is not None:
            self._finalizer.detach()
            if not self._response.closed:
                self._response.close()


def _cut_off(loop: asyncio.AbstractEventLoop, response: aiohttp.ClientResponse) -> None:
    with suppress(RuntimeError):  # the loop has ended, and its connections with it
        loop.call_soon_threadsafe(response.close)
