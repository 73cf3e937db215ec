"""`NamedMethods`: the abstract methods of the interface, for stores that handle operations as values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starfish_server.operations import Delete, DeleteMany, GetString, ListKeys, Put
from starfish_server.storage.base import AbstractObjectStore, Result

if TYPE_CHECKING:
    from starfish_server.context import StoreContext


class NamedMethods(AbstractObjectStore):
    """A store whose named methods each make their operation and pass it to `_perform_named`."""

    context_dependent = False

    def get_string(self, key: str, *, context: StoreContext | None = None) -> Result[str | None]:
        return self._perform_named(GetString(key, context))

    def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Result[None]:
        return self._perform_named(Put(key, body, content_type, cache_control, context))

    def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> Result[list[str]]:
        return self._perform_named(ListKeys(prefix, start_after, limit, context))

    def delete(self, key: str, *, context: StoreContext | None = None) -> Result[None]:
        return self._perform_named(Delete(key, context))

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        if isinstance(keys, str | bytes):
            raise TypeError("delete_many takes a list of keys, not one key; delete takes one")
        # A copy, so that the caller cannot change the keys after a layer has seen them.
        await self._perform_named(DeleteMany(list(keys), context))
