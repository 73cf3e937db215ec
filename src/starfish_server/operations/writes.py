"""The operations that write and delete."""

# Fields narrow `key` and `prefix` to str, and functions are shared as methods, which pyright does not follow.
# pyright: reportAssignmentType=false, reportIncompatibleVariableOverride=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starfish_server.chunks import check_chunks
from starfish_server.objects import ANY
from starfish_server.operations.base import Bodies, KeyFields, Kind, Operation, rename_key, slotted, unchanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.operations.base import Notes


def _restore_info(operation: Operation[Any], result: ObjectInfo, change: Callable[[str], str]) -> ObjectInfo:
    return result.renamed(change)


@slotted
class Put(Operation[None]):
    """`put` as a value. The fields are the parameters of the method, and `notes`."""

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
    """`put_bytes` as a value. The fields are the parameters of the method, and `notes`."""

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
    """`write` as a value. The fields are the parameters of the method, and `notes`."""

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

    @property
    def idempotent(self) -> bool:
        return self.if_version is ANY


@slotted
class Upload(Operation["ObjectInfo"]):
    """`upload` as a value. The fields are the parameters of the method, and `notes`."""

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
        check_chunks(self.chunks, self.name)  # before a layer wraps them

    @property
    def idempotent(self) -> bool:
        return False  # its chunks can be read only once; `Retry` asks whether they were begun


@slotted
class Copy(Operation["ObjectInfo"]):
    """`copy` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("copy", "push", Bodies.COPY, writes=True)
    restore = _restore_info

    source: str
    target: str
    if_version: IfVersion = ANY
    context: StoreContext | None = None
    notes: Notes | None = None

    @property
    def idempotent(self) -> bool:
        return self.if_version is ANY

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.source, self.target)

    @property
    def error_key(self) -> str:
        return self.target

    def rename(self, change: Callable[[str], str]) -> Copy:
        return self.replace(source=change(self.source), target=change(self.target))


class Delete(KeyFields[None]):
    """`delete` as a value. The fields are the parameters of the method, and `notes`."""

    __slots__ = ()
    kind = Kind("delete", "delete", Bodies.NONE, writes=True)
    rename = KeyFields.rename
    restore = unchanged


@slotted
class DeleteMany(Operation[None]):
    """`delete_many` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("delete_many", "delete", Bodies.NONE, writes=True)
    restore = unchanged

    keys: Sequence[str]  # type: ignore[assignment]  # a field where others have a property
    context: StoreContext | None = None
    notes: Notes | None = None

    def rename(self, change: Callable[[str], str]) -> DeleteMany:
        return DeleteMany([change(key) for key in self.keys], self.context, self.notes)
