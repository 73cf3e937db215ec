"""`Caching`: recent reads answered from memory, with one backend read for any number of callers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from starfish_server.checks import check_page, positive_int, positive_number
from starfish_server.context import StoreContext
from starfish_server.errors import StackError
from starfish_server.layers.base import Slot, Wrapper
from starfish_server.layers.caching.memory import CacheStats, Memory
from starfish_server.layers.fields import TEXT_FIELDS, context_fields
from starfish_server.printable import name_of

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["CacheStats", "Caching"]

VaryBy = Sequence[str] | Callable[[StoreContext], Hashable]


class Caching(Wrapper):
    """Remembers what was read, bounded by bytes and by age, until it is written through this layer.

    Stands inside `Namespace`, where keys are full and tenants cannot mix, and outside retries, timeouts and
    encryption, which a hit skips. Concurrent reads of one object share one backend read, made with the first
    caller's context; cancelling a caller ends it only if nobody else waits. Errors are not remembered.
    `get_versioned` always asks the backend, and what was remembered of the object is read anew after it.

    A read that began before a write ended is neither remembered nor joined after it. A write that failed,
    timed out or was cancelled may still land, so what it wrote to is neither remembered nor shared for a
    minute, or for the longest of the three ages if that is less. What others write to the backend shows
    after at most `ttl`.

    ttl: seconds that an object is served from memory, 30.0. negative_ttl: the same for a missing object,
        list_ttl for what `list_keys` returned; both 0.0, not at all.
    max_bytes: memory for all entries, 64 MiB; the least recently used go first.
    max_object_bytes: a body or a list over it is not remembered, 1 MiB.
    vary_by: what of the caller the answers depend on: names out of "namespace", "identity", "collection",
        "roles" and "params.<name>", or a function of the context that returns something hashable. Callers
        who differ in it share nothing, nor do callers with and without a context.

    Threads and event loops may share a cache; reads under way are shared within a loop only. Raises
    `StackError` if the answers of `inner` depend on the caller and there is no `vary_by`; `ValueError` or
    `TypeError` for other options.
    """

    slot = Slot.CACHE
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        *,
        ttl: float = 30.0,
        max_bytes: int = 64 * 2**20,
        max_object_bytes: int = 2**20,
        negative_ttl: float = 0.0,
        list_ttl: float = 0.0,
        vary_by: VaryBy | None = None,
    ) -> None:
        super().__init__(inner)
        self._variant = None if vary_by is None else _variant(vary_by)
        if vary_by is None and inner.context_dependent:
            raise StackError(
                f"what {type(inner).__name__} returns may depend on the caller, and Caching would hand it to"
                " others: give vary_by=, place Caching inside what looks at the caller, or, if the store"
                " takes the context and answers all alike, set context_dependent = False on its class"
            )
        self._lists = bool(list_ttl)
        self._settings: dict[str, object] = {
            "ttl": ttl,
            "max_bytes": max_bytes,
            "max_object_bytes": max_object_bytes,
            "negative_ttl": negative_ttl,
            "list_ttl": list_ttl,
        }
        if vary_by is not None:
            self._settings["vary_by"] = name_of(vary_by) if callable(vary_by) else tuple(vary_by)
        self._memory = Memory(
            max_bytes=positive_int("max_bytes", max_bytes),
            max_object_bytes=positive_int("max_object_bytes", max_object_bytes),
            object_age=positive_number("ttl", ttl),
            missing_age=positive_number("negative_ttl", negative_ttl) if negative_ttl else 0.0,
            list_age=positive_number("list_ttl", list_ttl) if list_ttl else 0.0,
        )

    def settings(self) -> dict[str, object]:
        return self._settings

    def stats(self) -> CacheStats:
        """What the cache has done and holds."""
        return self._memory.stats()

    async def close(self) -> None:
        """Forget everything and close the store inside; what is read after that raises as it does."""
        self._memory.close()
        await self._inner.close()

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        if not isinstance(key, str):
            return await self._inner.get_string(key, context=context)
        entry_key = (key, "text", None if self._variant is None else self._variant(context))
        held = self._memory.find(entry_key)
        if held is not None:
            value: str | None = held.value
            return value
        return await self._memory.read(entry_key, partial(self._inner.get_string, key, context=context))

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        if not isinstance(key, str):
            return await self._inner.get_bytes(key, context=context)
        entry_key = (key, "bytes", None if self._variant is None else self._variant(context))
        held = self._memory.find(entry_key)
        if held is not None:
            value: tuple[bytes, str] | None = held.value
            return value
        return await self._memory.read(entry_key, partial(self._inner.get_bytes, key, context=context))

    async def get_versioned(self, key: str, *, context: StoreContext | None = None) -> tuple[str, str] | None:
        try:
            return await self._inner.get_versioned(key, context=context)
        finally:
            # It may be newer than what is remembered, and who has seen it must not get the older one.
            if isinstance(key, str):
                self._memory.forget(key)

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        read = partial(self._inner.list_keys, prefix, start_after=start_after, limit=limit, context=context)
        if not self._lists or not isinstance(prefix, str):
            return await read()
        check_page(start_after, limit, any_text=True)  # as an entry's key, True would be equal to 1
        variant = None if self._variant is None else self._variant(context)
        entry_key = ((prefix,), (start_after, limit), variant)
        held = self._memory.find(entry_key)
        keys: list[str] = held.value if held else await self._memory.read(entry_key, read)
        return list(keys)

    async def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        with self._memory.writing((key,)):
            await self._inner.put(
                key, body, content_type=content_type, cache_control=cache_control, context=context
            )

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        with self._memory.writing((key,)):
            await self._inner.put_bytes(
                key, body, content_type=content_type, cache_control=cache_control, context=context
            )

    async def put_if(
        self,
        key: str,
        body: str,
        *,
        version: str | None,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> str:
        with self._memory.writing((key,)):
            return await self._inner.put_if(
                key,
                body,
                version=version,
                content_type=content_type,
                cache_control=cache_control,
                context=context,
            )

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        with self._memory.writing((key,)):
            await self._inner.delete(key, context=context)

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        keys = keys if isinstance(keys, str) else list(keys)
        with self._memory.writing(keys):
            await self._inner.delete_many(keys, context=context)


def _variant(vary_by: VaryBy) -> Callable[[StoreContext | None], Hashable]:
    """What keeps callers apart; None for those without a context, which no context gives."""
    if callable(vary_by):
        return lambda context: None if context is None else (vary_by(context),)
    if not isinstance(vary_by, tuple | list) or not vary_by:
        raise TypeError(f'vary_by must be field names, as in ("namespace",), or a function, not {vary_by!r}')
    fields = context_fields(vary_by, (*TEXT_FIELDS, "roles"))
    return lambda context: None if context is None else fields(context)
