"""`Operation`, a call of a store's method as a value, and the properties that every operation has."""

# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

from enum import Enum, auto
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar, dataclass_transform

from starfish_server.context import StoreContext
from starfish_server.errors import StoreError, StoreNotSupportedError
from starfish_server.objects import ANY

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping

    from starfish_server.objects import IfVersion
    from starfish_server.storage.base import AbstractObjectStore

T = TypeVar("T")
E = TypeVar("E", bound=StoreError)
Op = TypeVar("Op", bound="Operation[Any]")
Notes = dict[str, Any]

_POSITIONAL = frozenset(("key", "keys", "source", "target", "prefix", "body", "chunks"))
_NOT_SHOWN = ("body", "chunks", "notes")


class Bodies(Enum):
    """How an operation carries bodies, so that a layer that changes bodies handles each way or refuses it."""

    NONE = auto()
    """Neither the operation nor its result has a body."""
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
    """The result has sizes of stored bodies."""
    URL = auto()
    """The result lets others read or write a stored body."""


class Kind(NamedTuple):
    """What an operation is.

    name: the store's method, such as "get_string".
    action: the `action` of calls without a context: "pull", "push", "list" or "delete".
    bodies: how it carries bodies.
    writes: whether it changes what is stored, or lets others change it.
    """

    name: str
    action: str
    bodies: Bodies
    writes: bool


class Operation(Generic[T]):
    """One call of a store's method as a value; `T` is what performing it returns.

    `name`, `action`, `bodies` and `writes` are those of its `kind`; see `Kind`. Operations are immutable: a
    layer makes a changed copy with `rename` or `replace`.

    A new operation is a subclass with `kind`, `rename` and `restore`; a class that lacks one raises
    `TypeError` when it is defined. So no operation can bypass a layer that changes keys or bodies. Each
    parameter of its `__init__` is a field: the parameters of the method in their order, then `notes`.
    """

    __slots__ = ()

    kind: ClassVar[Kind]
    name: ClassVar[str]
    action: ClassVar[str]
    bodies: ClassVar[Bodies]
    writes: ClassVar[bool]
    result_has_keys: ClassVar[bool]
    fields: ClassVar[tuple[str, ...]]
    _values: ClassVar[attrgetter[tuple[Any, ...]]]
    _positional: ClassVar[tuple[str, ...]]
    _named: ClassVar[tuple[str, ...]]

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
    metadata: Mapping[str, str] | None = None
    """The metadata to write; None for an operation that writes none."""
    if_version: IfVersion = ANY
    """The version that may be replaced; `ANY` for an operation without a condition."""

    def __init_subclass__(cls, *, abstract: bool = False, **options: Any) -> None:
        """abstract: the class only holds the fields of several operations."""
        super().__init_subclass__(**options)
        if abstract:
            return
        if missing := [name for name in ("kind", "rename", "restore") if name not in vars(cls)]:
            raise TypeError(f"the operation {cls.__name__} must define {', '.join(missing)}")
        for field, value in cls.kind._asdict().items():
            if field not in vars(cls):  # a class may work it out from its fields
                setattr(cls, field, value)
        cls.result_has_keys = cls.restore is not unchanged
        code = getattr(cls.__init__, "__code__", None)
        if code is not None:  # `slotted` adds an `__init__` and makes the class a second time
            cls.fields = code.co_varnames[1 : code.co_argcount]
            if by_keyword := code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]:
                raise TypeError(f"{cls.__name__} must not have keyword-only fields: {', '.join(by_keyword)}")
            cls._values = attrgetter(*cls.fields)
            cls._positional = tuple([name for name in cls.fields if name in _POSITIONAL])
            cls._named = tuple([name for name in cls.fields if name not in (*_POSITIONAL, "notes")])

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it touches; empty for a listing."""
        return (self.key,)  # type: ignore[return-value]  # a class without a key defines this itself

    @property
    def idempotent(self) -> bool:
        """Whether performing it twice is the same as performing it once."""
        return self.if_version is ANY

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, T]:
        """Call the store's named method; raise `StoreNotSupportedError` if it has none."""
        method = getattr(store, self.name, None)
        if method is None:
            reason = f"{type(store).__name__} has no method {self.name}"
            raise self.error(StoreNotSupportedError, reason)
        positional = [getattr(self, name) for name in self._positional]
        named = {name: getattr(self, name) for name in self._named}
        return method(*positional, **named)  # type: ignore[no-any-return]  # by its name

    def rename(self, change: Callable[[str], str]) -> Self:
        """Return the same operation with every key, prefix and `start_after` changed."""
        raise NotImplementedError

    def restore(self, result: T, change: Callable[[str], str]) -> T:
        """Return `result` with every key in it changed."""
        raise NotImplementedError

    def replace(self, **changes: Any) -> Self:
        """Return the same operation with other values for these fields."""
        changed = type(self)(*self._values(self))
        for name, value in changes.items():
            if name not in self.fields:
                raise TypeError(f"{type(self).__name__} has no {name}")
            setattr(changed, name, value)
        return changed

    def observed(self) -> Self:
        """Return the operation with notes for layers and the leaf; itself if it has notes already."""
        if self.notes is not None:
            return self
        observed: Any = type(self)(*self._values(self))
        observed.notes = {}
        return observed  # type: ignore[no-any-return]  # of the same class

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

    def __repr__(self) -> str:
        shown = [f"{name}={getattr(self, name)!r}" for name in self.fields if name not in _NOT_SHOWN]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass_transform(eq_default=False)
def slotted(cls: type[Op]) -> type[Op]:
    """Make the annotated attributes of an operation its slots and the parameters of its `__init__`.

    Takes half the time of `dataclass(slots=True)`, for which every import of the package would wait.
    """
    names = tuple(cls.__annotations__)
    body = {name: value for name, value in vars(cls).items() if name not in names}
    del body["__dict__"], body["__weakref__"]
    lines = [f"def __init__(self, {', '.join(names)}):", *(f" self.{name} = {name}" for name in names)]
    lines.append(" if context is not None and context.__class__ is not StoreContext: check_context(context)")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec("\n".join(lines), globals(), body)  # noqa: S102 - as `dataclass` does
    body["__init__"].__defaults__ = tuple(vars(cls)[name] for name in names if name in vars(cls))
    abstract = not hasattr(cls, "name")
    made: Any = type(cls.__name__, cls.__bases__, body | {"__slots__": names}, abstract=abstract)
    return made  # type: ignore[no-any-return]  # the same class with slots


def check_context(context: object) -> None:
    """Raise `TypeError` unless `context` is a `StoreContext` or None."""
    if not isinstance(context, StoreContext | None):
        raise TypeError(f"context must be a StoreContext, not {type(context).__name__}")


def unchanged(operation: Operation[Any], result: T, change: Callable[[str], str]) -> T:
    """Restore a result that holds no keys."""
    return result


def rename_key(operation: Op, change: Callable[[str], str]) -> Op:
    """Rename an operation on one key."""
    renamed = type(operation)(*operation._values(operation))  # noqa: SLF001 - `replace` takes longer
    renamed.key = change(operation.key)  # type: ignore[arg-type]  # only where there is one
    return renamed


@slotted
class KeyFields(Operation[T], abstract=True):
    """The fields of an operation that has only a key."""

    key: str
    context: StoreContext | None = None
    notes: Notes | None = None

    def rename(self, change: Callable[[str], str]) -> Self:
        return type(self)(change(self.key), self.context, self.notes)


@slotted
class RangeFields(Operation[T], abstract=True):
    """The fields of an operation on a range of an object."""

    key: str
    start: int = 0
    stop: int | None = None
    context: StoreContext | None = None
    notes: Notes | None = None

    def rename(self, change: Callable[[str], str]) -> Self:
        return type(self)(change(self.key), self.start, self.stop, self.context, self.notes)
