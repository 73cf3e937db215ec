"""Opening a store to read from, writing an object, and reporting the files that lists leave out."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starfish_server.checks import decode_text
from starfish_server.cli.output import print_error
from starfish_server.errors import BucketNotFoundError
from starfish_server.layers import Layer, Namespace
from starfish_server.layers.base import stores_of
from starfish_server.objects import ANY
from starfish_server.storage.filesystem import FilesystemObjectStore
from starfish_server.store_url import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.storage.base import AbstractObjectStore


@asynccontextmanager
async def open_source(url: str) -> AsyncIterator[AbstractObjectStore]:
    """Open a store to read from. A folder that does not exist is an error here, not an empty store."""
    async with open_store(url) as store:
        for part in stores_of(store):
            if isinstance(part, FilesystemObjectStore) and not os.path.isdir(part.base_dir):  # noqa: ASYNC240, PTH112 - once, at the start
                raise BucketNotFoundError(f"there is no folder {part.base_dir!r}")
        yield store


async def write_object(
    store: AbstractObjectStore,
    key: str,
    body: bytes | AsyncIterator[bytes],
    *,
    content_type: str | None,
    cache_control: str | None,
    metadata: Mapping[str, str] | None,
    if_version: IfVersion = ANY,
    context: StoreContext | None,
) -> ObjectInfo:
    """Write the object; chunks are streamed if the store has native streams.

    A body that is not UTF-8 is a `StoreDecodeError` on a store of text only.
    """
    options: dict[str, Any] = {"content_type": content_type, "cache_control": cache_control}
    options |= {"metadata": metadata, "if_version": if_version, "context": context}
    if not isinstance(body, bytes):
        if store.native("upload"):
            return await store.upload(key, body, **options)
        body = b"".join([chunk async for chunk in body])
    takes_bytes = store.native("write") or store.supports("put_bytes")
    return await store.write(key, body if takes_bytes else decode_text(body, "write", key), **options)


async def list_left_out(
    store: AbstractObjectStore, prefix: str, context: StoreContext | None
) -> dict[str, str]:
    """Return the keys and paths below a prefix that lists leave out, with reasons; most leaves have none."""
    full = prefix
    while isinstance(store, Layer):
        if isinstance(store, Namespace):
            full = store.prefix_of(context) + full
        store = store.inner
    unlistable = getattr(store, "unlistable", None)
    if unlistable is None:
        return {}
    return {path[len(full) - len(prefix) :]: reason for path, reason in await unlistable(full)}


def print_left_out(left_out: Mapping[str, str]) -> list[dict[str, str]]:
    """Print on stderr what lists leave out, and return it for JSON."""
    for path, reason in left_out.items():
        print_error(f"left out: {path}: {reason}")
    return [{"path": path, "reason": reason} for path, reason in left_out.items()]
