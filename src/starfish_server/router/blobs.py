"""Collections of raw bytes: the last push wins, and there is nothing to merge."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from fastapi import Response
from fastapi.responses import JSONResponse

from starfish_server.router.bodies import accepted_type, read_body
from starfish_server.router.refusal import Refusal
from starfish_server.router.responses import not_modified
from starfish_server.router.wire import PushedBlob

if TYPE_CHECKING:
    from fastapi import Request

    from starfish_server.router.collection import Collection


async def pull_blob(collection: Collection, request: Request) -> Response:
    """The bytes, with the type they were pushed with; 404 if there are none."""
    key, context = await collection.admit(request, "pull")
    found = await collection.store.get_bytes(key, context=context)
    if found is None:
        raise Refusal(404, "not_found")
    body, content_type = found
    etag = f'"{_sha256(body)}"'
    headers = collection.cache_headers | {"ETag": etag}
    if not_modified(request, etag):
        return Response(status_code=304, headers=headers)
    # What callers pushed is never to be run as something else than it says.
    headers |= {"Content-Type": content_type, "X-Content-Type-Options": "nosniff"}
    return Response(body, headers=headers)


async def push_blob(collection: Collection, request: Request) -> Response:
    """Store the body as it is."""
    key, context = await collection.admit(request, "push")
    content_type = accepted_type(request, collection.config.allowed_mime_types)
    body = await read_body(request, collection.config.max_body_bytes)
    await collection.store.put_bytes(key, body, content_type=content_type, context=context)
    return JSONResponse(PushedBlob(hash=_sha256(body)).model_dump(by_alias=True))


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
