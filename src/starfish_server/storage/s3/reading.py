"""Objects read whole. Over plain HTTP a body that was damaged in transit is found."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from starfish_server.errors import StoreUnavailableError
from starfish_server.storage.s3.errors import NoSuchKeyError
from starfish_server.storage.s3.http import hex_digest
from starfish_server.storage.s3.replies import require_object
from starfish_server.storage.s3.transport import Request

if TYPE_CHECKING:
    from starfish_server.storage.s3.replies import Reply
    from starfish_server.storage.s3.transport import Transport

_MD5_ETAG = re.compile(r'"?([0-9a-f]{32})"?')


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


async def _fits_etag(reply: Reply) -> bool:
    """Return False if the ETag looks like the MD5 of another body."""
    md5 = _MD5_ETAG.fullmatch(reply.headers.get("ETag", ""))
    encryption = reply.headers.get("x-amz-server-side-encryption", "AES256")
    if md5 is None or encryption != "AES256":  # sent in parts, or encrypted with a key of its own
        return True
    return await hex_digest(reply.body, hashlib.md5) == md5[1]
