"""Every operation of the interface as a value: its keys, its properties, and the method it calls."""

# Subclasses narrow `key` and `prefix` to str and share functions as methods, which pyright does not follow.
# pyright: reportAssignmentType=false, reportIncompatibleVariableOverride=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from starfish_server.errors import StoreError
from starfish_server.objects import ANY, IfVersion, ObjectList, StoredObject

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping, Sequence

    from starfish_server.context import StoreContext
    from starfish_server.objects import ObjectInfo, ObjectReader
    from starfish_server.storage.base import AbstractObjectStore

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

T = TypeVar("T")
E = TypeVar("E", bound=StoreError)
Op = TypeVar("Op", bound="Operation[Any]")
Notes = dict[str, Any]


class Bodies(Enum):
    """How an operation carries bodies, so that a layer that changes bodies handles each way or refuses it."""

    NONE = auto()
    """Neither the operation nor its result has to do with a body."""
    RESULT = auto()
    """The result is, or begins with, a body or a range of it."""
    WRITTEN = auto()
    """The operation's `body` is written whole."""
    READER = auto()
    """The result is an `ObjectReader`."""
    CHUNKS = auto()
    """The operation's `chunks` are written."""
    COPY = auto()
    """A stored body is copied to another key."""
    SIZE = auto()
    """The result tells sizes of stored bodies."""
    URL = auto()
    """The result lets others read or write a stored body."""


class Kind(NamedTuple):
    """What an operation is.

    name: the store's method, such as "get_string".
    action: the `action` of calls without a context: "pull", "push", "list" or "delete".
    bodies: how it carries bodies.
    writes: whether it changes what is stored.
    """

    name: str
    action: str
    bodies: Bodies
    writes: bool


class Operation(Generic[T]):
    """One call of a store's method as a value; `T` is what performing it returns.

    Operations are immutable: a layer makes a changed copy with `rename` or `replace`.

    A new operation is a subclass with `kind`, `send`, `rename` and `restore`; a class that lacks one raises
    `TypeError` when it is defined. So no operation can bypass a layer that changes keys or bodies.
    """

    __slots__ = ()

    kind: ClassVar[Kind]
    name: ClassVar[str]
    action: ClassVar[str]
    bodies: ClassVar[Bodies]
    writes: ClassVar[bool]
    result_has_keys: ClassVar[bool]
    _fields: ClassVar[attrgetter[tuple[Any, ...]]]

    context: StoreContext | None
    """The caller's context."""
    notes: Notes | None
    """Facts that layers and the leaf report to an observer, by name; None if there is no observer."""

    key: str | None = None
    """The key, or None for an operation on several or no keys."""
    prefix: str | None = None
    """The prefix of a listing; None for other operations."""
    start_after: str | None = None
    """The place after which a listing begins; None for other operations."""
    chunks: Iterable[bytes] | AsyncIterable[bytes] = ()
    """The chunks to upload; empty for other operations."""
    body: str | bytes | None = None
    """The body to write; None for an operation that writes none."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if missing := [name for name in ("kind", "send", "rename", "restore") if name not in vars(cls)]:
            raise TypeError(f"the operation {cls.__name__} must define {', '.join(missing)}")
        cls.name, cls.action, cls.bodies, cls.writes = cls.kind
        cls.result_has_keys = cls.restore is not _unchanged
        names: tuple[str, ...] = cls.__slots__
        if names:  # not for the class as it is written, of which `dataclass` makes the one that has them
            cls._fields = attrgetter(*names)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it touches; empty for a listing."""
        return (self.key,)  # type: ignore[return-value]  # a class without a key defines this itself

    @property
    def idempotent(self) -> bool:
        """Whether performing it twice is the same as performing it once."""
        return True

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, T]:
        """Call the store's named method."""
        raise NotImplementedError

    def rename(self, change: Callable[[str], str]) -> Self:
        """Return the same operation with every key, prefix and `start_after` changed."""
        raise NotImplementedError

    def restore(self, result: T, change: Callable[[str], str]) -> T:
        """Return `result` with every key in it changed."""
        raise NotImplementedError

    def replace(self, **changes: Any) -> Self:
        """Return the same operation with other values for these fields."""
        changed = type(self)(*self._fields(self))
        for name, value in changes.items():
            if name not in self.__slots__:
                raise TypeError(f"{type(self).__name__} has no {name}")
            setattr(changed, name, value)
        return changed

    def observed(self) -> Self:
        """Return the operation with notes for layers and the leaf; itself if it has notes already."""
        return self if self.notes is not None else self.replace(notes={})

    def note(self, name: str, value: object) -> None:
        """Report a fact to the observer of this operation; costs nothing if there is none."""
        if self.notes is not None:
            self.notes[name] = value

    @property
    def error_key(self) -> str | None:
        """The key or prefix that an error of this operation carries."""
        return self.key if self.prefix is None else self.prefix

    def error(self, kind: type[E], reason: str, **fields: Any) -> E:
        """Make an error of this operation; `fields` are those of its class besides `operation` and `key`."""
        return kind(reason, operation=self.name, key=self.error_key, **fields)


def _rename_key(operation: Op, change: Callable[[str], str]) -> Op:
    return operation.replace(key=change(operation.key))  # type: ignore[arg-type]  # only where there is one


def _rename_prefix(operation: Op, change: Callable[[str], str]) -> Op:
    start_after = None if operation.start_after is None else change(operation.start_after)
    return operation.replace(prefix=change(operation.prefix), start_after=start_after)  # type: ignore[arg-type]  # only for listings


def _restore_info(operation: Operation[Any], result: ObjectInfo, change: Callable[[str], str]) -> ObjectInfo:
    return result.renamed(change)


def _unchanged(operation: Operation[Any], result: T, change: Callable[[str], str]) -> T:
    """Restore a result that holds no keys."""
    return result


# One class for each operation. `context` and `notes` are the last fields, in this order.


@dataclass(slots=True, eq=False)
class GetString(Operation["str | None"]):
    """`get_string` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("get_string", "pull", Bodies.RESULT, writes=False)
    key: str = field()
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    restore = _unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, str | None]:
        return store.get_string(self.key, context=self.context)

    def rename(self, change: Callable[[str], str]) -> GetString:
        return GetString(change(self.key), self.context, self.notes)


@dataclass(slots=True, eq=False)
class GetBytes(Operation["tuple[bytes, str] | None"]):
    """`get_bytes` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("get_bytes", "pull", Bodies.RESULT, writes=False)
    key: str = field()
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key
    restore = _unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, tuple[bytes, str] | None]:
        return store.get_bytes(self.key, context=self.context)


@dataclass(slots=True, eq=False)
class ListKeys(Operation["list[str]"]):
    """`list_keys` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("list_keys", "list", Bodies.NONE, writes=False)
    prefix: str = field()
    start_after: str | None = field(default=None)
    limit: int | None = None
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    keys = ()
    rename = _rename_prefix

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, list[str]]:
        return store.list_keys(
            self.prefix, start_after=self.start_after, limit=self.limit, context=self.context
        )

    def restore(self, result: list[str], change: Callable[[str], str]) -> list[str]:
        return [change(key) for key in result]


@dataclass(slots=True, eq=False)
class Put(Operation[None]):
    """`put` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("put", "push", Bodies.WRITTEN, writes=True)
    key: str = field()
    body: str = field(repr=False)
    content_type: str | None = None
    cache_control: str | None = None
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key
    restore = _unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, None]:
        headers = {"content_type": self.content_type, "cache_control": self.cache_control}
        return store.put(self.key, self.body, **headers, context=self.context)


@dataclass(slots=True, eq=False)
class PutBytes(Operation[None]):
    """`put_bytes` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("put_bytes", "push", Bodies.WRITTEN, writes=True)
    key: str = field()
    body: bytes = field(repr=False)
    content_type: str
    cache_control: str | None = None
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key
    restore = _unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, None]:
        content_type, cache_control = self.content_type, self.cache_control
        return store.put_bytes(
            self.key, self.body, content_type=content_type, cache_control=cache_control, context=self.context
        )


@dataclass(slots=True, eq=False)
class Delete(Operation[None]):
    """`delete` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("delete", "delete", Bodies.NONE, writes=True)
    key: str = field()
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key
    restore = _unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, None]:
        return store.delete(self.key, context=self.context)


@dataclass(slots=True, eq=False)
class DeleteMany(Operation[None]):
    """`delete_many` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("delete_many", "delete", Bodies.NONE, writes=True)
    keys: Sequence[str] = field()  # type: ignore[assignment]  # a field where others have a property
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    restore = _unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, None]:
        return store.delete_many(self.keys, context=self.context)  # type: ignore[arg-type]  # as it was given

    def rename(self, change: Callable[[str], str]) -> DeleteMany:
        return DeleteMany([change(key) for key in self.keys], self.context, self.notes)


@dataclass(slots=True, eq=False)
class Stat(Operation["ObjectInfo | None"]):
    """`stat` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("stat", "pull", Bodies.SIZE, writes=False)
    key: str = field()
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, ObjectInfo | None]:
        return store.stat(self.key, context=self.context)

    def restore(self, result: ObjectInfo | None, change: Callable[[str], str]) -> ObjectInfo | None:
        return None if result is None else result.renamed(change)


@dataclass(slots=True, eq=False)
class Read(Operation["StoredObject | None"]):
    """`read` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("read", "pull", Bodies.RESULT, writes=False)
    key: str = field()
    start: int = 0
    stop: int | None = None
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, StoredObject | None]:
        return store.read(self.key, start=self.start, stop=self.stop, context=self.context)

    def restore(self, result: StoredObject | None, change: Callable[[str], str]) -> StoredObject | None:
        return None if result is None else StoredObject(result.info.renamed(change), result.body)


@dataclass(slots=True, eq=False)
class Open(Operation["ObjectReader | None"]):
    """`open` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("open", "pull", Bodies.READER, writes=False)
    key: str = field()
    start: int = 0
    stop: int | None = None
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, ObjectReader | None]:
        return store.open(self.key, start=self.start, stop=self.stop, context=self.context)

    def restore(self, result: ObjectReader | None, change: Callable[[str], str]) -> ObjectReader | None:
        if result is not None:
            result.info = result.info.renamed(change)  # a reader has one owner
        return result


@dataclass(slots=True, eq=False)
class Write(Operation["ObjectInfo"]):
    """`write` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("write", "push", Bodies.WRITTEN, writes=True)
    key: str = field()
    body: str | bytes = field(repr=False)
    content_type: str | None = None
    cache_control: str | None = None
    metadata: Mapping[str, str] | None = None
    if_version: IfVersion = ANY
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key
    restore = _restore_info

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


@dataclass(slots=True, eq=False)
class Upload(Operation["ObjectInfo"]):
    """`upload` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("upload", "push", Bodies.CHUNKS, writes=True)
    key: str = field()
    chunks: Iterable[bytes] | AsyncIterable[bytes] = field(repr=False)
    content_type: str | None = None
    cache_control: str | None = None
    metadata: Mapping[str, str] | None = None
    if_version: IfVersion = ANY
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key
    restore = _restore_info

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


@dataclass(slots=True, eq=False)
class Copy(Operation["ObjectInfo"]):
    """`copy` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("copy", "push", Bodies.COPY, writes=True)
    source: str
    target: str
    if_version: IfVersion = ANY
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    restore = _restore_info

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


@dataclass(slots=True, eq=False)
class ListObjects(Operation["ObjectList"]):
    """`list_objects` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("list_objects", "list", Bodies.SIZE, writes=False)
    prefix: str = field()
    start_after: str | None = field(default=None)
    limit: int | None = None
    delimiter: str | None = None
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    keys = ()
    rename = _rename_prefix

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


@dataclass(slots=True, eq=False)
class SignedUrl(Operation[str]):
    """`signed_url` as a value. The fields are the parameters of the method, and `notes`."""

    kind = Kind("signed_url", "pull", Bodies.URL, writes=False)
    key: str = field()
    method: str = "GET"
    expires: float = 900.0
    content_type: str | None = None
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key
    restore = _unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, str]:
        return store.signed_url(
            self.key,
            method=self.method,
            expires=self.expires,
            content_type=self.content_type,
            context=self.context,
        )


OPERATIONS: dict[str, type[Operation[Any]]] = {
    operation.name: operation
    for operation in (
        *(GetString, Put, ListKeys, Delete, DeleteMany, GetBytes, PutBytes),
        *(Stat, Read, Open, Write, Upload, Copy, ListObjects, SignedUrl),
    )
}
"""The class of each operation of the interface, by its name."""
