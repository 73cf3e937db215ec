"""General operations derived from others, for stores that do not implement them."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from starfish_server.checks import (
    DEFAULT_TEXT_TYPE,
    check_delimiter,
    check_if_version,
    check_metadata,
    check_page,
    check_range,
    encode_body,
    encode_text,
    type_or_default,
)
from starfish_server.chunks import check_chunks, checked_chunks
from starfish_server.errors import ObjectNotFoundError, ObjectTooLargeError, StoreNotSupportedError
from starfish_server.objects import ANY, ObjectInfo, ObjectList, StoredObject, one_level, reader_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectReader
    from starfish_server.operations import Upload
    from starfish_server.storage.base import AbstractObjectStore

MAX_GATHERED_BYTES = 64 * 2**20
DERIVED: dict[str, tuple[tuple[str, ...], ...]] = {
    "read": (("get_bytes",), ("get_string",)),
    "stat": (("read",),),
    "open": (("read",),),
    "write": (("put", "put_bytes"),),
    "upload": (("write",),),
    "copy": (("read", "write"),),
    "list_objects": (("list_keys",),),
}
"""The operations that each derived operation is made of: all of one of its groups."""


async def stat(store: AbstractObjectStore, key: str, context: StoreContext | None) -> ObjectInfo | None:
    """Read an empty range of the object for its info."""
    found = await store.read(key, stop=0, context=context)
    return None if found is None else found.info


async def read(
    store: AbstractObjectStore, key: str, start: int, stop: int | None, context: StoreContext | None
) -> StoredObject | None:
    """Read the whole body and cut it."""
    check_range(start, stop)
    if store.native("get_bytes"):
        found = await store.get_bytes(key, context=context)
        if found is None:
            return None
        body, content_type = found
    else:
        text = await store.get_string(key, context=context)
        if text is None:
            return None
        body, content_type = encode_text(text, "read", key), DEFAULT_TEXT_TYPE
    return StoredObject(ObjectInfo(key, len(body), content_type), body[start:stop])


async def open_(
    store: AbstractObjectStore, key: str, start: int, stop: int | None, context: StoreContext | None
) -> ObjectReader | None:
    """Read the range and return it as one chunk."""
    found = await store.read(key, start=start, stop=stop, context=context)
    return None if found is None else reader_of(found.info, found.body)


async def write(
    store: AbstractObjectStore,
    key: str,
    body: str | bytes,
    content_type: str | None,
    cache_control: str | None,
    metadata: Mapping[str, str] | None,
    if_version: IfVersion,
    context: StoreContext | None,
) -> ObjectInfo:
    """Put text or bytes, with neither a condition nor metadata."""
    check_if_version(if_version)
    if if_version is not ANY or check_metadata(metadata):
        what = "metadata" if if_version is ANY else "if_version"
        reason = f"{type(store).__name__} has no write of its own, which {what} needs"
        raise StoreNotSupportedError(reason, operation="write", key=key)
    kind = type_or_default(content_type, body)
    content = encode_body(body, "write", key)
    if isinstance(body, str):
        await store.put(key, body, content_type=content_type, cache_control=cache_control, context=context)
    else:
        await store.put_bytes(key, content, content_type=kind, cache_control=cache_control, context=context)
    return ObjectInfo(key, len(content), kind, cache_control)


async def upload(store: AbstractObjectStore, call: Upload) -> ObjectInfo:
    """Gather the chunks in memory and write them."""
    check_chunks(call.chunks, "upload")
    body = bytearray()
    async with aclosing(checked_chunks(call.chunks, "upload")) as checked:
        async for chunk in checked:
            body += chunk
            if len(body) > MAX_GATHERED_BYTES:
                most = f"at most {MAX_GATHERED_BYTES} bytes"
                reason = f"{type(store).__name__} gathers an upload in memory, {most}"
                raise call.error(ObjectTooLargeError, reason, max_bytes=MAX_GATHERED_BYTES)
    return await store.write(
        call.key,
        bytes(body),
        content_type=call.content_type,
        cache_control=call.cache_control,
        metadata=call.metadata,
        if_version=call.if_version,
        context=call.context,
    )


async def copy(
    store: AbstractObjectStore,
    source: str,
    target: str,
    if_version: IfVersion,
    context: StoreContext | None,
) -> ObjectInfo:
    """Read the source and write the target."""
    check_if_version(if_version)
    found = await store.read(source, context=context)
    if found is None:
        raise ObjectNotFoundError("there is no object to copy", operation="copy", key=source)
    return await store.write(
        target,
        found.body,
        content_type=found.info.content_type,
        cache_control=found.info.cache_control,
        metadata=found.info.metadata,
        if_version=if_version,
        context=context,
    )


async def list_objects(
    store: AbstractObjectStore,
    prefix: str,
    start_after: str | None,
    limit: int | None,
    delimiter: str | None,
    context: StoreContext | None,
) -> ObjectList:
    """List keys, with no other fields of the infos."""
    check_delimiter(delimiter)
    check_page(start_after, limit, "list_objects")
    wanted = limit if delimiter is None else None  # a folder may hide any number of keys
    keys = await store.list_keys(prefix, start_after=start_after, limit=wanted, context=context)
    objects = [ObjectInfo(key) for key in keys]
    return ObjectList(objects) if delimiter is None else one_level(objects, prefix, start_after, limit)
