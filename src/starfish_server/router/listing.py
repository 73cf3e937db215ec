"""Listing a collection: the values of the last field of its `storagePath`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse

from starfish_server.router.paths import is_segment
from starfish_server.router.query import integer, single
from starfish_server.router.refusal import Refusal
from starfish_server.router.wire import Listing

if TYPE_CHECKING:
    from fastapi import Request, Response

    from starfish_server.context import StoreContext
    from starfish_server.router.collection import Collection
    from starfish_server.storage.base import AbstractObjectStore

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


async def list_items(collection: Collection, request: Request) -> Response:
    """The names after `after`, at most `limit` of them, and whether there are more."""
    prefix, context = await collection.admit_listing(request)
    limit = integer(request, "limit", default=DEFAULT_LIMIT, least=1, most=MAX_LIMIT)
    after = single(request, "after") or None
    if after is not None and not is_segment(after):
        raise Refusal(400, "invalid_after")
    items = await _children(collection.store, prefix, after, limit + 1, context)
    listing = Listing(items=items[:limit], has_more=len(items) > limit)
    return JSONResponse(listing.model_dump(by_alias=True), headers=collection.cache_headers)


async def _children(
    store: AbstractObjectStore, prefix: str, after: str | None, count: int, context: StoreContext
) -> list[str]:
    """Up to `count` keys directly under `prefix`, without it; what lies deeper is of other collections."""
    children: list[str] = []
    start_after = None if after is None else prefix + after
    while True:
        keys = await store.list_keys(prefix, start_after=start_after, limit=count, context=context)
        names = [key.removeprefix(prefix) for key in keys]
        children += filter(is_segment, names)
        if len(keys) < count or len(children) >= count:
            return children[:count]
        # Skip the rest of a folder: "~" comes after whatever a key may hold.
        folder, slash, _ = names[-1].partition("/")
        start_after = max(keys[-1], f"{prefix}{folder}/~") if slash else keys[-1]
