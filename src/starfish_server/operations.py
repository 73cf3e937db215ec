"""Every operation of the interface as data: what it touches, what it may do, how it is sent to a store."""

# Subclasses narrow `key` and `prefix` to str and share functions as methods, which pyright does not follow.
# pyright: reportAssignmentType=false, reportIncompatibleVariableOverride=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from starfish_server.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from starfish_server.context import StoreContext
    from starfish_server.storage.base import AbstractObjectStore

__all__ = [
    "OPERATIONS",
    "Bodies",
    "Delete",
    "DeleteMany",
    "GetBytes",
    "GetString",
    "GetVersioned",
    "Kind",
    "ListKeys",
    "Operation",
    "Put",
    "PutBytes",
    "PutIf",
]

T = TypeVar("T")
E = TypeVar("E", bound=StoreError)
Op = TypeVar("Op", bound="Operation[Any]")
Notes = dict[str, Any]


class Bodies(Enum):
    """How an operation carries bodies, so that a layer that changes bodies handles each way or refuses it."""

    NONE = auto()
    """No body in the operation or its result."""
    RESULT = auto()
    """The result is, or begins with, the whole body."""
    WRITTEN = auto()
    """The operation's `body` is written whole."""
    VERSIONED = auto()
    """A whole body as text, with the version of what is stored."""


class Kind(NamedTuple):
    """What an operation is.

    name: the store's method, such as "get_string".
    action: the `action` of calls without a context: "pull", "push", "list" or "delete".
    bodies: how it carries bodies.
    writes: whether it changes what is stored.
    idempotent: whether performing it twice is the same as performing it once.
    """

    name: str
    action: str
    bodies: Bodies
    writes: bool
    idempotent: bool = True


class Operation(Generic[T]):
    """One call of a store's method as a value; `T` is what performing it returns.

    An operation is never changed: a layer that wants another one makes it with `rename` or `replace`.

    A new operation is a subclass that says what it is in `kind` and defines `send`, `rename` and `restore`. A
    class that leaves one out is a `TypeError` when it is made. So no operation can pass a layer that changes
    keys or bodies without being changed.
    """

    __slots__ = ()

    kind: ClassVar[Kind]
    name: ClassVar[str]
    action: ClassVar[str]
    bodies: ClassVar[Bodies]
    writes: ClassVar[bool]
    idempotent: ClassVar[bool]

    context: StoreContext | None
    """The caller's context."""
    notes: Notes | None
    """What layers and leaf tell an observer of this call, by name; None where nothing observes it."""

    key: str | None = None
    """The key, or None for an operation on several or no keys."""
    prefix: str | None = None
    """The prefix of a listing; None for other operations."""
    body: str | bytes | None = None
    """The body to write; None for an operation that writes none."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if missing := [name for name in ("kind", "send", "rename", "restore") if name not in vars(cls)]:
            raise TypeError(f"the operation {cls.__name__} must define {', '.join(missing)}")
        cls.name, cls.action, cls.bodies, cls.writes, cls.idempotent = cls.kind

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it touches; empty for a listing."""
        return (self.key,)  # type: ignore[return-value]  # a class without a key defines this itself

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
        names: tuple[str, ...] = type(self).__slots__
        values = [changes.pop(name) if name in changes else getattr(self, name) for name in names]
        if changes:
            raise TypeError(f"{type(self).__name__} has no {', '.join(changes)}")
        return type(self)(*values)

    def observed(self) -> Self:
        """Return the operation with notes open to layers and leaf; itself where they are open already."""
        return self if self.notes is not None else self.replace(notes={})

    def note(self, name: str, value: object) -> None:
        """Tell what observes this call one fact; without cost where nothing observes it."""
        if self.notes is not None:
            self.notes[name] = value

    def error(self, kind: type[E], reason: str, **fields: Any) -> E:
        """Make an error of this operation; `fields` are those of its class besides `operation` and `key`."""
        key = self.key if self.prefix is None else self.prefix
        return kind(reason, operation=self.name, key=key, **fields)


def _rename_key(operation: Op, change: Callable[[str], str]) -> Op:
    return operation.replace(key=change(operation.key))  # type: ignore[arg-type]  # only where there is one


def _unchanged(operation: Operation[Any], result: T, change: Callable[[str], str]) -> T:
    """Restore a result that holds no keys."""
    return result


# One class for each operation. `context` and `notes` are the last fields, in this order.


@dataclass(slots=True, eq=False)
class GetString(Operation["str | None"]):
    """`get_string`."""

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
    """`get_bytes`."""

    kind = Kind("get_bytes", "pull", Bodies.RESULT, writes=False)
    key: str = field()
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key
    restore = _unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, tuple[bytes, str] | None]:
        return store.get_bytes(self.key, context=self.context)


@dataclass(slots=True, eq=False)
class GetVersioned(Operation["tuple[str, str] | None"]):
    """`get_versioned`."""

    kind = Kind("get_versioned", "pull", Bodies.VERSIONED, writes=False)
    key: str = field()
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key
    restore = _unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, tuple[str, str] | None]:
        return store.get_versioned(self.key, context=self.context)


@dataclass(slots=True, eq=False)
class ListKeys(Operation["list[str]"]):
    """`list_keys`."""

    kind = Kind("list_keys", "list", Bodies.NONE, writes=False)
    prefix: str = field()
    start_after: str | None = None
    limit: int | None = None
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    keys = ()

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, list[str]]:
        return store.list_keys(
            self.prefix, start_after=self.start_after, limit=self.limit, context=self.context
        )

    def rename(self, change: Callable[[str], str]) -> ListKeys:
        start_after = None if self.start_after is None else change(self.start_after)
        return self.replace(prefix=change(self.prefix), start_after=start_after)

    def restore(self, result: list[str], change: Callable[[str], str]) -> list[str]:
        return [change(key) for key in result]


@dataclass(slots=True, eq=False)
class Put(Operation[None]):
    """`put`."""

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
    """`put_bytes`."""

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
class PutIf(Operation[str]):
    """`put_if`."""

    kind = Kind("put_if", "push", Bodies.VERSIONED, writes=True, idempotent=False)
    key: str = field()
    body: str = field(repr=False)
    version: str | None
    content_type: str | None = None
    cache_control: str | None = None
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    rename = _rename_key
    restore = _unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, str]:
        headers = {"content_type": self.content_type, "cache_control": self.cache_control}
        return store.put_if(self.key, self.body, version=self.version, **headers, context=self.context)


@dataclass(slots=True, eq=False)
class Delete(Operation[None]):
    """`delete`."""

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
    """`delete_many`."""

    kind = Kind("delete_many", "delete", Bodies.NONE, writes=True)
    keys: Sequence[str] = field()  # type: ignore[assignment]  # a field where others have a property
    context: StoreContext | None = None
    notes: Notes | None = field(default=None, repr=False)
    restore = _unchanged

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, None]:
        return store.delete_many(self.keys, context=self.context)  # type: ignore[arg-type]  # as it was given

    def rename(self, change: Callable[[str], str]) -> DeleteMany:
        return DeleteMany([change(key) for key in self.keys], self.context, self.notes)


OPERATIONS: dict[str, type[Operation[Any]]] = {
    operation.name: operation
    for operation in (GetString, GetBytes, GetVersioned, ListKeys, Put, PutBytes, PutIf, Delete, DeleteMany)
}
"""The class of each operation of the interface, by its name."""
