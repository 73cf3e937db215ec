"""Every operation of the interface as a value: its keys, its properties, and the method it calls."""

# Fields narrow `key` and `prefix` to str, and functions are shared as methods, which pyright does not follow.
# pyright: reportAssignmentType=false, reportIncompatibleVariableOverride=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from starfish_server.chunks import check_chunks
from starfish_server.objects import ANY, ObjectList, StoredObject
from starfish_server.operations.base import (
    Bodies,
    KeyFields,
    Kind,
    Operation,
    RangeFields,
    rename_key,
    slotted,
    unchanged,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectInfo, ObjectReader
    from starfish_server.operations.base import Notes

__all__ = [
    "OPERATIONS",
    "Bodies",
    "Copy",
    "Delete",
    "DeleteMany",
    "GetBytes",
    "GetString",
    "Kind",
    "ListKeys",
    "ListObjects",
    "Open",
    "Operation",
    "Put",
    "PutBytes",
    "Read",
    "SignedUrl",
    "Stat",
    "Upload",
    "Write",
]

L = TypeVar("L", "ListKeys", "ListObjects")


def _rename_prefix(operation: L, change: Callable[[str], str]) -> L:
    start_after = None if operation.start_after is None else change(operation.start_after)
    return operation.replace(prefix=change(operation.prefix), start_after=start_after)


class GetString(KeyFields["str | None"]):
    """`get_string` as a value."""

    __slots__ = ()
    kind = Kind("get_string", "pull", Bodies.RESULT, writes=False)
    rename = KeyFields.rename
    restore = unchanged


class GetBytes(KeyFields["tuple[bytes, str] | None"]):
    """`get_bytes` as a value."""

    __slots__ = ()
    kind = Kind("get_bytes", "pull", Bodies.RESULT, writes=False)
    rename = KeyFields.rename
    restore = unchanged


class Stat(KeyFields["ObjectInfo | None"]):
    """`stat` as a value."""

    __slots__ = ()
    kind = Kind("stat", "pull", Bodies.SIZE, writes=False)
    rename = KeyFields.rename

    def restore(self, result: ObjectInfo | None, change: Callable[[str], str]) -> ObjectInfo | None:
        return None if result is None else result.renamed(change)


class Read(RangeFields["StoredObject | None"]):
    """`read` as a value."""

    __slots__ = ()
    kind = Kind("read", "pull", Bodies.RESULT, writes=False)
    rename = RangeFields.rename

    def restore(self, result: StoredObject | None, change: Callable[[str], str]) -> StoredObject | None:
        return None if result is None else StoredObject(result.info.renamed(change), result.body)


class Open(RangeFields["ObjectReader | None"]):
    """`open` as a value."""

    __slots__ = ()
    kind = Kind("open", "pull", Bodies.READER, writes=False)
    rename = RangeFields.rename

    def restore(self, result: ObjectReader | None, change: Callable[[str], str]) -> ObjectReader | None:
        if result is not None:
            result.info = result.info.renamed(change)  # a reader has one owner
        return result


class _IfPut:
    """Whether a signed URL is for writing; False of the class."""

    def __get__(self, operation: SignedUrl | None, _: object) -> bool:
        return operation is not None and operation.method != "GET"


@slotted
class SignedUrl(Operation[str]):
    """`signed_url` as a value. A URL for writing counts as a write, so that guards for writes cover it."""

    kind = Kind("signed_url", "pull", Bodies.URL, writes=False)
    writes = _IfPut()
    rename = rename_key
    restore = unchanged

    key: str
    method: str = "GET"
    expires: float = 900.0
    content_type: str | None = None
    context: StoreContext | None = None
    notes: Notes | None = None

    @property
    def action(self) -> str:  # type: ignore[override]  # worked out from `method`
        """The action, which is "push" for a URL for writing."""
        return "push" if self.writes else "pull"


@slotted
class ListKeys(Operation["list[str]"]):
    """`list_keys` as a value."""

    kind = Kind("list_keys", "list", Bodies.NONE, writes=False)
    keys = ()
    rename = _rename_prefix

    prefix: str
    start_after: str | None = None
    limit: int | None = None
    context: StoreContext | None = None
    notes: Notes | None = None

    def restore(self, result: list[str], change: Callable[[str], str]) -> list[str]:
        return [change(key) for key in result]


@slotted
class ListObjects(Operation["ObjectList"]):
    """`list_objects` as a value."""

    kind = Kind("list_objects", "list", Bodies.SIZE, writes=False)
    keys = ()
    rename = _rename_prefix

    prefix: str
    start_after: str | None = None
    limit: int | None = None
    delimiter: str | None = None
    context: StoreContext | None = None
    notes: Notes | None = None

    def restore(self, result: ObjectList, change: Callable[[str], str]) -> ObjectList:
        objects = [info.renamed(change) for info in result.objects]
        return ObjectList(objects, [change(prefix) for prefix in result.prefixes])


def _restore_info(operation: Operation[Any], result: ObjectInfo, change: Callable[[str], str]) -> ObjectInfo:
    return result.renamed(change)


@slotted
class Put(Operation[None]):
    """`put` as a value."""

    kind = Kind("put", "push", Bodies.WRITTEN, writes=True)
    rename = rename_key
    restore = unchanged

    key: str
    body: str
    content_type: str | None = None
    cache_control: str | None = None
    context: StoreContext | None = None
    notes: Notes | None = None


@slotted
class PutBytes(Operation[None]):
    """`put_bytes` as a value."""

    kind = Kind("put_bytes", "push", Bodies.WRITTEN, writes=True)
    rename = rename_key
    restore = unchanged

    key: str
    body: bytes
    content_type: str
    cache_control: str | None = None
    context: StoreContext | None = None
    notes: Notes | None = None


@slotted
class Write(Operation["ObjectInfo"]):
    """`write` as a value."""

    kind = Kind("write", "push", Bodies.WRITTEN, writes=True)
    rename = rename_key
    restore = _restore_info

    key: str
    body: str | bytes
    content_type: str | None = None
    cache_control: str | None = None
    metadata: Mapping[str, str] | None = None
    if_version: IfVersion = ANY
    context: StoreContext | None = None
    notes: Notes | None = None


@slotted
class Upload(Operation["ObjectInfo"]):
    """`upload` as a value."""

    kind = Kind("upload", "push", Bodies.CHUNKS, writes=True)
    rename = rename_key
    restore = _restore_info

    key: str
    chunks: Iterable[bytes] | AsyncIterable[bytes]
    content_type: str | None = None
    cache_control: str | None = None
    metadata: Mapping[str, str] | None = None
    if_version: IfVersion = ANY
    context: StoreContext | None = None
    notes: Notes | None = None

    def __post_init__(self) -> None:
        check_chunks(self.chunks)  # before a layer wraps them

    @property
    def idempotent(self) -> bool:
        return False  # its chunks can be read only once; `Retry` asks whether they were begun


@slotted
class Copy(Operation["ObjectInfo"]):
    """`copy` as a value."""

    kind = Kind("copy", "push", Bodies.COPY, writes=True)
    restore = _restore_info

    source: str
    target: str
    if_version: IfVersion = ANY
    context: StoreContext | None = None
    notes: Notes | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.source, self.target)

    @property
    def error_key(self) -> str:
        return self.target

    def rename(self, change: Callable[[str], str]) -> Copy:
        return self.replace(source=change(self.source), target=change(self.target))


class Delete(KeyFields[None]):
    """`delete` as a value."""

    __slots__ = ()
    kind = Kind("delete", "delete", Bodies.NONE, writes=True)
    rename = KeyFields.rename
    restore = unchanged


@slotted
class DeleteMany(Operation[None]):
    """`delete_many` as a value."""

    kind = Kind("delete_many", "delete", Bodies.NONE, writes=True)
    restore = unchanged

    keys: Sequence[str]  # type: ignore[assignment]  # a field where others have a property
    context: StoreContext | None = None
    notes: Notes | None = None

    def rename(self, change: Callable[[str], str]) -> DeleteMany:
        return DeleteMany([change(key) for key in self.keys], self.context, self.notes)


OPERATIONS: dict[str, type[Operation[Any]]] = {
    operation.name: operation
    for operation in (
        *(GetString, Put, ListKeys, Delete, DeleteMany, GetBytes, PutBytes),
        *(Stat, Read, Open, Write, Upload, Copy, ListObjects, SignedUrl),
    )
}
"""The class of each operation of the interface, by its name."""
