"""The operations that read and list."""

# Fields narrow `key` and `prefix` to str, and functions are shared as methods, which pyright does not follow.
# pyright: reportAssignmentType=false, reportIncompatibleVariableOverride=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

from starfish_server.objects import ObjectList, StoredObject
from starfish_server.operations.base import Bodies, KeyFields, Kind, Operation, rename_key, unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starfish_server.context import StoreContext
    from starfish_server.objects import ObjectInfo, ObjectReader
    from starfish_server.operations.base import Notes
    from starfish_server.storage.base import AbstractObjectStore

T = TypeVar("T")
L = TypeVar("L", "ListKeys", "ListObjects")


class _RangeFields(Operation[T], abstract=True):
    """The fields of an operation on a range of an object."""

    __slots__ = ("context", "key", "notes", "start", "stop")
    key: str

    def __init__(
        self,
        key: str,
        start: int = 0,
        stop: int | None = None,
        context: StoreContext | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.key = key
        self.start = start
        self.stop = stop
        self.context = context
        self.notes = notes

    def rename(self, change: Callable[[str], str]) -> Self:
        return type(self)(change(self.key), self.start, self.stop, self.context, self.notes)


def _rename_prefix(operation: L, change: Callable[[str], str]) -> L:
    start_after = None if operation.start_after is None else change(operation.start_after)
    return operation.replace(prefix=change(operation.prefix), start_after=start_after)


class GetString(KeyFields["str | None"]):
    """`get_string` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ()
    kind = Kind("get_string", "pull", Bodies.RESULT, writes=False)
    rename = KeyFields.rename
    restore = unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, str | None]:
        return store.get_string(self.key, context=self.context)


class GetBytes(KeyFields["tuple[bytes, str] | None"]):
    """`get_bytes` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ()
    kind = Kind("get_bytes", "pull", Bodies.RESULT, writes=False)
    rename = KeyFields.rename
    restore = unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, tuple[bytes, str] | None]:
        return store.get_bytes(self.key, context=self.context)


class Stat(KeyFields["ObjectInfo | None"]):
    """`stat` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ()
    kind = Kind("stat", "pull", Bodies.SIZE, writes=False)
    rename = KeyFields.rename

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, ObjectInfo | None]:
        return store.stat(self.key, context=self.context)

    def restore(self, result: ObjectInfo | None, change: Callable[[str], str]) -> ObjectInfo | None:
        return None if result is None else result.renamed(change)


class Read(_RangeFields["StoredObject | None"]):
    """`read` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ()
    kind = Kind("read", "pull", Bodies.RESULT, writes=False)
    rename = _RangeFields.rename

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, StoredObject | None]:
        return store.read(self.key, start=self.start, stop=self.stop, context=self.context)

    def restore(self, result: StoredObject | None, change: Callable[[str], str]) -> StoredObject | None:
        return None if result is None else StoredObject(result.info.renamed(change), result.body)


class Open(_RangeFields["ObjectReader | None"]):
    """`open` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ()
    kind = Kind("open", "pull", Bodies.READER, writes=False)
    rename = _RangeFields.rename

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, ObjectReader | None]:
        return store.open(self.key, start=self.start, stop=self.stop, context=self.context)

    def restore(self, result: ObjectReader | None, change: Callable[[str], str]) -> ObjectReader | None:
        if result is not None:
            result.info = result.info.renamed(change)  # a reader has one owner
        return result


class SignedUrl(Operation[str]):
    """`signed_url` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ("content_type", "context", "expires", "key", "method", "notes")
    key: str
    kind = Kind("signed_url", "pull", Bodies.URL, writes=False)
    rename = rename_key
    restore = unchanged

    def __init__(
        self,
        key: str,
        method: str = "GET",
        expires: float = 900.0,
        content_type: str | None = None,
        context: StoreContext | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.key = key
        self.method = method
        self.expires = expires
        self.content_type = content_type
        self.context = context
        self.notes = notes

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, str]:
        return store.signed_url(
            self.key,
            method=self.method,
            expires=self.expires,
            content_type=self.content_type,
            context=self.context,
        )


class ListKeys(Operation["list[str]"]):
    """`list_keys` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ("context", "limit", "notes", "prefix", "start_after")
    prefix: str
    kind = Kind("list_keys", "list", Bodies.NONE, writes=False)
    keys = ()
    rename = _rename_prefix

    def __init__(
        self,
        prefix: str,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.prefix = prefix
        self.start_after = start_after
        self.limit = limit
        self.context = context
        self.notes = notes

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, list[str]]:
        return store.list_keys(
            self.prefix, start_after=self.start_after, limit=self.limit, context=self.context
        )

    def restore(self, result: list[str], change: Callable[[str], str]) -> list[str]:
        return [change(key) for key in result]


class ListObjects(Operation["ObjectList"]):
    """`list_objects` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ("context", "delimiter", "limit", "notes", "prefix", "start_after")
    prefix: str
    kind = Kind("list_objects", "list", Bodies.SIZE, writes=False)
    keys = ()
    rename = _rename_prefix

    def __init__(
        self,
        prefix: str,
        start_after: str | None = None,
        limit: int | None = None,
        delimiter: str | None = None,
        context: StoreContext | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.prefix = prefix
        self.start_after = start_after
        self.limit = limit
        self.delimiter = delimiter
        self.context = context
        self.notes = notes

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, ObjectList]:
        return store.list_objects(
            self.prefix,
            start_after=self.start_after,
            limit=self.limit,
            delimiter=self.delimiter,
            context=self.context,
        )

    def restore(self, result: ObjectList, change: Callable[[str], str]) -> ObjectList:
        objects = [info.renamed(change) for info in result.objects]
        return ObjectList(objects, [change(prefix) for prefix in result.prefixes])
