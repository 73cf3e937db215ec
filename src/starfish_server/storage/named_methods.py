"""`NamedMethods`: the named methods of stores that handle operations as values."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar, cast

from starfish_server.objects import ANY
from starfish_server.operations import (
    Copy,
    Delete,
    DeleteMany,
    GetBytes,
    GetString,
    ListKeys,
    ListObjects,
    Open,
    Put,
    PutBytes,
    Read,
    SignedUrl,
    Stat,
    Upload,
    Write,
)
from starfish_server.storage.base import AbstractObjectStore, Result

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectInfo, ObjectList, ObjectReader, StoredObject
    from starfish_server.operations import Operation

T = TypeVar("T")


class NamedMethods(AbstractObjectStore):
    """A store whose named methods each make their operation and pass it to `_perform_named`."""

    context_dependent = False

    @abstractmethod
    def _perform_named(self, operation: Operation[T]) -> Result[T]:
        """Return the coroutine that performs the operation for a caller."""

    def _perform_derived(self, operation: Operation[T]) -> Result[T]:
        """Perform the operation as a store that does not implement it: by others, if that is possible."""
        return operation.send(cast("AbstractObjectStore", super()))

    def get_string(self, key: str, *, context: StoreContext | None = None) -> Result[str | None]:
        return self._perform_named(GetString(key, context))

    def get_bytes(self, key: str, *, context: StoreContext | None = None) -> Result[tuple[bytes, str] | None]:
        return self._perform_named(GetBytes(key, context))

    def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> Result[list[str]]:
        return self._perform_named(ListKeys(prefix, start_after, limit, context))

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

    def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Result[None]:
        return self._perform_named(PutBytes(key, body, content_type, cache_control, context))

    def delete(self, key: str, *, context: StoreContext | None = None) -> Result[None]:
        return self._perform_named(Delete(key, context))

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        if isinstance(keys, str | bytes):
            raise TypeError("delete_many takes a list of keys, not one key; delete takes one")
        # A copy, so that the caller cannot change the keys after a layer has seen them.
        await self._perform_named(DeleteMany(list(keys), context))

    def stat(self, key: str, *, context: StoreContext | None = None) -> Result[ObjectInfo | None]:
        return self._perform_named(Stat(key, context))

    def read(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> Result[StoredObject | None]:
        return self._perform_named(Read(key, start, stop, context))

    def open(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> Result[ObjectReader | None]:
        return self._perform_named(Open(key, start, stop, context))

    def write(
        self,
        key: str,
        body: str | bytes,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> Result[ObjectInfo]:
        return self._perform_named(
            Write(key, body, content_type, cache_control, metadata, if_version, context)
        )

    def upload(
        self,
        key: str,
        chunks: Iterable[bytes] | AsyncIterable[bytes],
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> Result[ObjectInfo]:
        return self._perform_named(
            Upload(key, chunks, content_type, cache_control, metadata, if_version, context)
        )

    def copy(
        self,
        source: str,
        target: str,
        *,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> Result[ObjectInfo]:
        return self._perform_named(Copy(source, target, if_version, context))

    def list_objects(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        delimiter: str | None = None,
        context: StoreContext | None = None,
    ) -> Result[ObjectList]:
        return self._perform_named(ListObjects(prefix, start_after, limit, delimiter, context))

    def signed_url(
        self,
        key: str,
        *,
        method: str = "GET",
        expires: float = 900.0,
        content_type: str | None = None,
        context: StoreContext | None = None,
    ) -> Result[str]:
        return self._perform_named(SignedUrl(key, method, expires, content_type, context))
