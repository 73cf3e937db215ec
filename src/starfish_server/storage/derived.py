"""General operations derived from others, for stores that do not implement them."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

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
from starfish_server.chunks import checked_chunks
from starfish_server.errors import ObjectNotFoundError, ObjectTooLargeError, StoreNotSupportedError
from starfish_server.objects import ANY, ObjectInfo, ObjectList, StoredObject, one_level, reader_of
from starfish_server.operations import Put, PutBytes, Write

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import ObjectReader
    from starfish_server.operations import Copy, ListObjects, Open, Read, Stat, Upload
    from starfish_server.storage.base import AbstractObjectStore, Result

MAX_GATHERED_BYTES = 64 * 2**20


class Derivation(NamedTuple):
    """How an operation is derived.

    perform: does it, by calling the store's other operations.
    parts: the operations that it needs: all of one of these groups.
    """

    perform: Callable[[AbstractObjectStore, Any], Result[Any]]
    parts: tuple[tuple[str, ...], ...]


async def stat(store: AbstractObjectStore, call: Stat) -> ObjectInfo | None:
    """Read an empty range of the object for its info."""
    found = await store.read(call.key, stop=0, context=call.context)
    return None if found is None else found.info


async def read(store: AbstractObjectStore, call: Read) -> StoredObject | None:
    """Read the whole body and cut it."""
    check_range(call.start, call.stop)
    if store.native("get_bytes"):
        found = await store.get_bytes(call.key, context=call.context)
        if found is None:
            return None
        body, content_type = found
    else:
        text = await store.get_string(call.key, context=call.context)
        if text is None:
            return None
        body, content_type = encode_text(text, "read", call.key), DEFAULT_TEXT_TYPE
    return StoredObject(ObjectInfo(call.key, len(body), content_type), body[call.start : call.stop])


async def open_(store: AbstractObjectStore, call: Open) -> ObjectReader | None:
    """Read the range and return it as one chunk."""
    found = await store.read(call.key, start=call.start, stop=call.stop, context=call.context)
    return None if found is None else reader_of(found.info, found.body)


async def write(store: AbstractObjectStore, call: Write) -> ObjectInfo:
    """Put text or bytes, with neither a condition nor metadata."""
    check_if_version(call.if_version)
    if call.if_version is not ANY or check_metadata(call.metadata):
        what = "metadata" if call.if_version is ANY else "if_version"
        reason = f"{type(store).__name__} has no write of its own, which {what} needs"
        raise call.error(StoreNotSupportedError, reason)
    key, body = call.key, call.body
    kind = type_or_default(call.content_type, body)
    content = encode_body(body, "write", key)
    if isinstance(body, str):
        await store.perform(Put(key, body, call.content_type, call.cache_control, call.context))
    else:
        await store.perform(PutBytes(key, content, kind, call.cache_control, call.context))
    return ObjectInfo(key, len(content), kind, call.cache_control)


async def upload(store: AbstractObjectStore, call: Upload) -> ObjectInfo:
    """Gather the chunks in memory and write them."""
    body = bytearray()
    async with aclosing(checked_chunks(call.chunks)) as checked:
        async for chunk in checked:
            body += chunk
            if len(body) > MAX_GATHERED_BYTES:
                most = f"at most {MAX_GATHERED_BYTES} bytes"
                reason = f"{type(store).__name__} gathers an upload in memory, {most}"
                raise call.error(ObjectTooLargeError, reason, max_bytes=MAX_GATHERED_BYTES)
    fields = (call.content_type, call.cache_control, call.metadata, call.if_version, call.context)
    return await store.perform(Write(call.key, bytes(body), *fields))


async def copy(store: AbstractObjectStore, call: Copy) -> ObjectInfo:
    """Read the source and write the target."""
    check_if_version(call.if_version)
    found = await store.read(call.source, context=call.context)
    if found is None:
        raise ObjectNotFoundError("there is no object to copy", operation="copy", key=call.source)
    info = found.info
    fields = (info.content_type, info.cache_control, info.metadata, call.if_version, call.context)
    return await store.perform(Write(call.target, found.body, *fields))


async def list_objects(store: AbstractObjectStore, call: ListObjects) -> ObjectList:
    """List keys, with no other fields of the infos."""
    prefix, start_after, limit = call.prefix, call.start_after, call.limit
    check_delimiter(call.delimiter)
    check_page(start_after, limit, "list_objects")
    wanted = limit if call.delimiter is None else None  # a folder may hide any number of keys
    keys = await store.list_keys(prefix, start_after=start_after, limit=wanted, context=call.context)
    objects = [ObjectInfo(key) for key in keys]
    return ObjectList(objects) if call.delimiter is None else one_level(objects, prefix, start_after, limit)


DERIVED = {
    "read": Derivation(read, (("get_bytes",), ("get_string",))),
    "stat": Derivation(stat, (("read",),)),
    "open": Derivation(open_, (("read",),)),
    "write": Derivation(write, (("put", "put_bytes"),)),
    "upload": Derivation(upload, (("write",),)),
    "copy": Derivation(copy, (("read", "write"),)),
    "list_objects": Derivation(list_objects, (("list_keys",),)),
}
"""The operations that are derived from others where a store does not implement them."""
