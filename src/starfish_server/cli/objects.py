"""Whole objects, from stores that hold bytes and from stores that hold text only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starfish_server.checks import DEFAULT_TEXT_TYPE, decode_text

if TYPE_CHECKING:
    from starfish_server.context import StoreContext
    from starfish_server.storage.base import AbstractObjectStore


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A body with its content type; None where the store, one of text alone, does not tell it."""

    body: bytes
    content_type: str | None

    def matches(self, other: StoredObject | None) -> bool:
        """Whether both are the same, as far as their stores tell."""
        if other is None or self.body != other.body:
            return False
        types = {self.content_type, other.content_type}
        return len(types) == 1 or None in types


async def read_object(
    store: AbstractObjectStore, key: str, context: StoreContext | None
) -> StoredObject | None:
    """The object, or None. A store of text alone gives the UTF-8 bytes of its text."""
    if store.supports("get_bytes"):
        found = await store.get_bytes(key, context=context)
        return None if found is None else StoredObject(*found)
    text = await store.get_string(key, context=context)
    return None if text is None else StoredObject(text.encode(), None)


async def write_object(
    store: AbstractObjectStore,
    key: str,
    stored: StoredObject,
    context: StoreContext | None,
    *,
    cache_control: str | None = None,
) -> None:
    """Put the object. A store of text alone takes UTF-8 only; else it is a `StoreDecodeError`."""
    if store.supports("put_bytes"):
        await store.put_bytes(
            key,
            stored.body,
            content_type=stored.content_type or DEFAULT_TEXT_TYPE,
            cache_control=cache_control,
            context=context,
        )
    else:
        text = decode_text(stored.body, "put", key)
        await store.put(
            key, text, content_type=stored.content_type, cache_control=cache_control, context=context
        )
