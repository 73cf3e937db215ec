"""The operations that write and delete."""

# Fields narrow `key` and `prefix` to str, and functions are shared as methods, which pyright does not follow.
# pyright: reportAssignmentType=false, reportIncompatibleVariableOverride=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starfish_server.objects import ANY
from starfish_server.operations.base import Bodies, KeyFields, Kind, Operation, rename_key, unchanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping, Sequence

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.operations.base import Notes
    from starfish_server.storage.base import AbstractObjectStore


def _restore_info(operation: Operation[Any], result: ObjectInfo, change: Callable[[str], str]) -> ObjectInfo:
    return result.renamed(change)


class Put(Operation[None]):
    """`put` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ("body", "cache_control", "content_type", "context", "key", "notes")
    key: str
    body: str
    kind = Kind("put", "push", Bodies.WRITTEN, writes=True)
    rename = rename_key
    restore = unchanged

    def __init__(
        self,
        key: str,
        body: str,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.key = key
        self.body = body
        self.content_type = content_type
        self.cache_control = cache_control
        self.context = context
        self.notes = notes

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, None]:
        headers = {"content_type": self.content_type, "cache_control": self.cache_control}
        return store.put(self.key, self.body, **headers, context=self.context)


class PutBytes(Operation[None]):
    """`put_bytes` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ("body", "cache_control", "content_type", "context", "key", "notes")
    key: str
    body: bytes
    kind = Kind("put_bytes", "push", Bodies.WRITTEN, writes=True)
    rename = rename_key
    restore = unchanged

    def __init__(
        self,
        key: str,
        body: bytes,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.key = key
        self.body = body
        self.content_type = content_type
        self.cache_control = cache_control
        self.context = context
        self.notes = notes

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, None]:
        content_type, cache_control = self.content_type, self.cache_control
        return store.put_bytes(
            self.key, self.body, content_type=content_type, cache_control=cache_control, context=self.context
        )


class Write(Operation["ObjectInfo"]):
    """`write` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ("body", "cache_control", "content_type", "context", "if_version", "key", "metadata", "notes")
    key: str
    body: str | bytes
    kind = Kind("write", "push", Bodies.WRITTEN, writes=True)
    rename = rename_key
    restore = _restore_info

    def __init__(
        self,
        key: str,
        body: str | bytes,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.key = key
        self.body = body
        self.content_type = content_type
        self.cache_control = cache_control
        self.metadata = metadata
        self.if_version = if_version
        self.context = context
        self.notes = notes

    @property
    def idempotent(self) -> bool:
        return self.if_version is ANY

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, ObjectInfo]:
        return store.write(
            self.key,
            self.body,
            content_type=self.content_type,
            cache_control=self.cache_control,
            metadata=self.metadata,
            if_version=self.if_version,
            context=self.context,
        )


class Upload(Operation["ObjectInfo"]):
    """`upload` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = (
        "cache_control",
        "chunks",
        "content_type",
        "context",
        "if_version",
        "key",
        "metadata",
        "notes",
    )
    key: str
    chunks: Iterable[bytes] | AsyncIterable[bytes]
    kind = Kind("upload", "push", Bodies.CHUNKS, writes=True)
    rename = rename_key
    restore = _restore_info

    def __init__(
        self,
        key: str,
        chunks: Iterable[bytes] | AsyncIterable[bytes],
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.key = key
        self.chunks = chunks
        self.content_type = content_type
        self.cache_control = cache_control
        self.metadata = metadata
        self.if_version = if_version
        self.context = context
        self.notes = notes

    @property
    def idempotent(self) -> bool:
        return False  # its chunks can be read only once; `Retry` asks whether they were begun

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, ObjectInfo]:
        return store.upload(
            self.key,
            self.chunks,
            content_type=self.content_type,
            cache_control=self.cache_control,
            metadata=self.metadata,
            if_version=self.if_version,
            context=self.context,
        )


class Copy(Operation["ObjectInfo"]):
    """`copy` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ("context", "if_version", "notes", "source", "target")
    kind = Kind("copy", "push", Bodies.COPY, writes=True)
    restore = _restore_info

    def __init__(
        self,
        source: str,
        target: str,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.source = source
        self.target = target
        self.if_version = if_version
        self.context = context
        self.notes = notes

    @property
    def idempotent(self) -> bool:
        return self.if_version is ANY

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.source, self.target)

    @property
    def error_key(self) -> str:
        return self.target

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, ObjectInfo]:
        return store.copy(self.source, self.target, if_version=self.if_version, context=self.context)

    def rename(self, change: Callable[[str], str]) -> Copy:
        return self.replace(source=change(self.source), target=change(self.target))


class Delete(KeyFields[None]):
    """`delete` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ()
    kind = Kind("delete", "delete", Bodies.NONE, writes=True)
    rename = KeyFields.rename
    restore = unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, None]:
        return store.delete(self.key, context=self.context)


class DeleteMany(Operation[None]):
    """`delete_many` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ("context", "keys", "notes")
    keys: Sequence[str]  # type: ignore[assignment]  # a field where others have a property
    kind = Kind("delete_many", "delete", Bodies.NONE, writes=True)
    restore = unchanged

    def __init__(
        self,
        keys: Sequence[str],
        context: StoreContext | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.keys = keys
        self.context = context
        self.notes = notes

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, None]:
        return store.delete_many(self.keys, context=self.context)  # type: ignore[arg-type]  # as it was given

    def rename(self, change: Callable[[str], str]) -> DeleteMany:
        return DeleteMany([change(key) for key in self.keys], self.context, self.notes)
