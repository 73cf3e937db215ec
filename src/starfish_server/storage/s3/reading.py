"""Objects read whole or in ranges. Over plain HTTP a whole body that was damaged in transit is found."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from starfish_server.errors import StoreUnavailableError
from starfish_server.objects import ObjectInfo, StoredObject
from starfish_server.storage.s3.errors import IncompleteReplyError, InvalidRangeError, NoSuchKeyError
from starfish_server.storage.s3.http import hex_digest
from starfish_server.storage.s3.infos import info_of, read_head, read_part
from starfish_server.storage.s3.replies import require_object
from starfish_server.storage.s3.transport import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from starfish_server.storage.s3.replies import Reply
    from starfish_server.storage.s3.transport import Transport

T = TypeVar("T")

_MD5_ETAG = re.compile(r'"?([0-9a-f]{32})"?')
# More bytes than an object can have; services do not understand larger numbers.
_MOST_BYTES = 2**60
# How often a range may be refused although the object has it: it may be replaced all the time.
_REFUSALS = 3


async def get_object(transport: Transport, operation: str, key: str, *, verify: bool) -> Reply | None:
    """Return the reply that holds the object, or None if there is none.

    verify: where the ETag looks like an MD5 and is not that of the body, read again. An ETag is opaque, so
        that proves nothing by itself: the same body twice is the object. Damage does not come twice alike.
    """
    request = Request(operation, key, "GET", target=key)

    async def verified() -> Reply:
        reply = await transport.attempt(request, require_object)
        if await _fits_etag(reply):
            return reply
        again = await transport.attempt(request, require_object)
        if again.body == reply.body or await _fits_etag(again):
            return again
        raise StoreUnavailableError(
            "the body was damaged in transit: two reads of the object differ", operation=operation, key=key
        )

    try:
        return await (transport.attempts(verified) if verify else transport.run(request, require_object))
    except NoSuchKeyError:
        return None


async def stat_object(transport: Transport, operation: str, key: str) -> ObjectInfo | None:
    """Return the info of the object, or None if there is none."""
    head = Request(operation, key, "HEAD", target=key)
    try:
        return await transport.run(head, lambda reply: read_head(reply, key))
    except NoSuchKeyError:
        # The reply to a HEAD has no body, which would say if it is the bucket that is missing.
        probe = Request(operation, key, "GET", target=key, headers={"Range": "bytes=0-0"})
        with suppress(NoSuchKeyError, InvalidRangeError):
            await transport.run(probe, lambda _: None)
        return None


async def read_object(
    transport: Transport, key: str, start: int, stop: int | None, *, verify: bool
) -> StoredObject | None:
    """Return the bytes from `start` to before `stop` with the info of the whole object, or None."""
    if start == 0 and stop is None:
        reply = await get_object(transport, "read", key, verify=verify)
        return reply and StoredObject(info_of(reply.headers, key, len(reply.body)), reply.body)

    def read(request: Request) -> Coroutine[None, None, StoredObject]:
        return transport.run(request, lambda reply: _cut(reply, key, start, stop))

    found = await get_range(transport, "read", key, start, stop, read)
    return StoredObject(found, b"") if isinstance(found, ObjectInfo) else found


async def get_range(
    transport: Transport,
    operation: str,
    key: str,
    start: int,
    stop: int | None,
    get: Callable[[Request], Awaitable[T]],
) -> T | ObjectInfo | None:
    """Call `get` with the request for a range, and return its result.

    Returns the object's info instead where the object has no bytes in the range, None for a missing object.
    """
    last = "" if stop is None or stop > _MOST_BYTES else stop - 1
    headers = {} if start == 0 and last == "" else {"Range": f"bytes={start}-{last}"}
    for _ in range(_REFUSALS):
        if start != stop and start < _MOST_BYTES:
            try:
                return await get(Request(operation, key, "GET", target=key, headers=headers))
            except NoSuchKeyError:
                return None
            except InvalidRangeError:
                pass
        info = await stat_object(transport, operation, key)
        if info is None or start == stop or (info.size or 0) <= start:
            return info
    raise StoreUnavailableError(
        "the service refuses a range that the object has", operation=operation, key=key
    )


def _cut(reply: Reply, key: str, start: int, stop: int | None) -> StoredObject:
    part = read_part(reply, key, start, stop)
    body = reply.body[start:stop] if reply.status == 200 else reply.body
    if part.length is not None and len(body) != part.length:
        raise IncompleteReplyError(f"the range holds {len(body)} of {part.length} bytes")
    return StoredObject(part.info, body)


async def _fits_etag(reply: Reply) -> bool:
    """Return False if the ETag looks like the MD5 of another body."""
    md5 = _MD5_ETAG.fullmatch(reply.headers.get("ETag", ""))
    encryption = reply.headers.get("x-amz-server-side-encryption", "AES256")
    if md5 is None or encryption != "AES256":  # sent in parts, or encrypted with a key of its own
        return True
    return await hex_digest(reply.body, hashlib.md5) == md5[1]
