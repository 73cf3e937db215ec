"""Functions over many objects of any store: `scan`, `delete_prefix`, `copy_all`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starfish_server.checks import positive_int
from starfish_server.gather import bounded_gather
from starfish_server.objects import ANY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.storage.base import AbstractObjectStore

PAGE = 1000


async def scan(
    store: AbstractObjectStore,
    prefix: str = "",
    *,
    page_size: int = PAGE,
    context: StoreContext | None = None,
) -> AsyncIterator[ObjectInfo]:
    """Yield every object whose key begins with `prefix`, in byte order, one page in memory at a time.

    Objects written or deleted during the scan may be missed; every other object is yielded exactly once.

    page_size: objects per request, 1,000 by default.
    context: the caller's `StoreContext`, or None by default.

    Raises what `list_objects` of `store` raises, a `StoreError`.
    """
    positive_int("page_size", page_size)
    start_after = None
    while True:
        page = await store.list_objects(prefix, start_after=start_after, limit=page_size, context=context)
        for info in page.objects:
            yield info
        if len(page.objects) < page_size:
            return
        start_after = page.objects[-1].key


async def delete_prefix(
    store: AbstractObjectStore, prefix: str, *, context: StoreContext | None = None
) -> int:
    """Delete every object whose key begins with `prefix`; return how many there were.

    `store` gets `context`, the caller's `StoreContext` or None, with each call. Raises `ValueError` for the
    empty prefix, which would empty the store, and `DeleteManyError` for the first page with keys that could
    not be deleted.
    """
    if not prefix:
        raise ValueError("the empty prefix would delete every object; give the prefix to delete")
    deleted = 0
    start_after: str | None = None
    while keys := await store.list_keys(prefix, start_after=start_after, limit=PAGE, context=context):
        await store.delete_many(keys, context=context)
        deleted += len(keys)
        if len(keys) < PAGE:
            break
        start_after = keys[-1]
    return deleted


async def copy_all(
    source: AbstractObjectStore,
    target: AbstractObjectStore,
    prefix: str = "",
    *,
    concurrency: int = 8,
    context: StoreContext | None = None,
) -> int:
    """Copy every object of `source` whose key begins with `prefix` to `target`; return how many there were.

    Bodies are streamed. Content type and cache control are kept, and metadata if the target supports it. The
    first failure, a `StoreError` of either store, ends the copying and is raised; objects copied before it
    stay.

    concurrency: objects in flight, 8 by default.
    context: the caller's `StoreContext`, for both stores; None by default.
    """
    positive_int("concurrency", concurrency)
    copied = 0

    async def copy(info: ObjectInfo) -> None:
        nonlocal copied
        copied += await copy_object(source, target, info.key, context=context)

    await bounded_gather(copy, scan(source, prefix, context=context), limit=concurrency)
    return copied


async def copy_object(
    source: AbstractObjectStore,
    target: AbstractObjectStore,
    key: str,
    *,
    if_version: IfVersion = ANY,
    context: StoreContext | None = None,
) -> bool:
    """Stream one object from `source` to `target`; return False if `source` does not have it."""
    reader = await source.open(key, context=context)
    if reader is None:
        return False
    async with reader:
        await target.upload(
            key,
            reader,
            content_type=reader.info.content_type,
            cache_control=reader.info.cache_control,
            metadata=reader.info.metadata if target.native("write") else None,
            if_version=if_version,
            context=context,
        )
    return True
