"""Collections of JSON documents: pulled whole or since a checkpoint, pushed over the hash they had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Response
from fastapi.responses import JSONResponse

from starfish_server.router.bodies import accepted_type, parse_push, read_body
from starfish_server.router.document import parse_document
from starfish_server.router.query import MAX_SAFE_INTEGER, integer, refuse
from starfish_server.router.responses import not_modified
from starfish_server.router.wire import PulledDocument, PushedDocument

if TYPE_CHECKING:
    from fastapi import Request

    from starfish_server.router.collection import Collection


async def pull_document(collection: Collection, request: Request) -> Response:
    """The document, or what changed in it after `checkpoint`; a missing one is empty, with an empty hash."""
    key, context = await collection.admit(request, "pull")
    checkpoint = integer(request, "checkpoint", default=0, least=0, most=MAX_SAFE_INTEGER)
    # A client that asks for the last items of an append-only document would take the whole for them.
    refuse(request, "last")
    stored = await collection.store.get_string(key, context=context)
    headers = collection.cache_headers
    if stored is None:
        return _json(PulledDocument(data={}, hash="", timestamp=0), headers)
    document = parse_document(stored)
    etag = f'"{document.tag}"'
    headers = headers | {"ETag": etag}
    if not_modified(request, etag):
        return Response(status_code=304, headers=headers)
    pulled = PulledDocument(
        data=document.changed_since(checkpoint), hash=document.hash, timestamp=document.timestamp
    )
    if document.author is not None:
        pulled.author_pubkey = document.author.pubkey
        pulled.author_signature = document.author.signature
    return _json(pulled, headers)


async def push_document(collection: Collection, request: Request) -> Response:
    """Store the document over the one it was based on."""
    key, context = await collection.admit(request, "push")
    accepted_type(request, collection.config.allowed_mime_types)
    pushed = parse_push(await read_body(request, collection.config.max_body_bytes))
    document = await collection.pushes.push(key, pushed, context)
    return _json(PushedDocument(hash=document.hash, timestamp=document.timestamp))


def _json(answer: PulledDocument | PushedDocument, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(answer.model_dump(by_alias=True, exclude_unset=True), headers=headers)
