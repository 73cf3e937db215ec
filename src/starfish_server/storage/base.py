"""`AbstractObjectStore`: the interface that every store has, leaf or layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Self, TypeVar

from starfish_server.context import notes_of_call
from starfish_server.errors import StoreNotSupportedError
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
    Operation,
    Put,
    PutBytes,
    Read,
    SignedUrl,
    Stat,
    Upload,
    Write,
)
from starfish_server.storage.context_keyword import adapt_methods

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Mapping
    from types import TracebackType

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectInfo, ObjectList, ObjectReader, StoredObject
    from starfish_server.storage.derived import Derivation

T = TypeVar("T")
Result = Coroutine[Any, Any, T]
"""What an operation returns: a coroutine of its result."""


class AbstractObjectStore(ABC):
    """An asynchronous store of objects by key: the interface of every leaf and every layer.

    A subclass implements the five abstract operations; the others are derived from them or raise
    `StoreNotSupportedError`. Any operation may be a plain function that returns a coroutine. An operation
    defined without the `context` keyword is called without it.

    Every operation takes the keyword `context`, the caller's `StoreContext`, or None by default. A key or
    prefix that breaks the rules in `docs/leaves.md` raises `InvalidKeyError` before anything is sent. Every
    operation may also raise `StoreAccessDeniedError`, `BucketNotFoundError`, `StoreUnavailableError` with its
    subclasses, `StoreClosedError` after `close()`, and `StoreNotSupportedError`; `docs/errors.md` has all.
    """

    context_dependent: bool = False
    """Whether results may depend on the caller, so that a cache must keep callers apart.

    True by default for a class whose reads or lists take the context; set it to False if they ignore it.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        adapt_methods(cls, AbstractObjectStore)

    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        """Perform `operation` by calling the method of its name."""
        if operation.notes is None:
            return operation.send(self)
        return perform_noted(operation, lambda _: operation.send(self))

    def _derive(self, operation: Operation[T]) -> Result[T]:
        """Perform an operation whose method the class does not define: by others, if that is possible."""
        derivation = _derivation(operation.name)
        return self._unsupported(operation) if derivation is None else derivation.perform(self, operation)

    _perform_named = _derive
    """Performs the operation that a named method makes, for a class that does not define the method."""

    def native(self, operation: str) -> bool:
        """Return whether this store implements the operation itself rather than deriving it."""
        return getattr(type(self), operation) is not getattr(AbstractObjectStore, operation)

    def supports(self, operation: str) -> bool:
        """Return whether the operation works; if not, it raises `StoreNotSupportedError`.

        "conditional_write" stands for `write` with an `if_version`.
        """
        if operation == "conditional_write":
            return self.native("write")
        return self.native(operation) or _derivation(operation) is not None

    @abstractmethod
    def get_string(self, key: str, *, context: StoreContext | None = None) -> Result[str | None]:
        """Return the object's text, or None if missing. Raises `StoreDecodeError` if it is not UTF-8."""
        return self._perform_named(GetString(key, context))

    @abstractmethod
    def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Result[None]:
        """Store text, whole or not at all, replacing any object with this key.

        content_type: "text/plain; charset=utf-8" by default.
        cache_control: the Cache-Control header to store; None, the default, for none.

        Raises `ValueError` unless each of them is one line of 1 to 1,024 printable ASCII characters, and
        `StoreDecodeError` for a body with a lone surrogate.
        """
        return self._perform_named(Put(key, body, content_type, cache_control, context))

    @abstractmethod
    def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> Result[list[str]]:
        """Return the keys that begin with the string `prefix`, in byte order of their UTF-8.

        start_after: return only keys after this one, which need not exist; None, the default, for all.
        limit: the most keys to return; None, the default, for all.

        Raises `ValueError` for a negative limit.
        """
        return self._perform_named(ListKeys(prefix, start_after, limit, context))

    @abstractmethod
    def delete(self, key: str, *, context: StoreContext | None = None) -> Result[None]:
        """Remove the object; a missing one is no error. Raises `InvalidKeyError` for an invalid key."""
        return self._perform_named(Delete(key, context))

    @abstractmethod
    def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> Result[None]:
        """Remove several objects. Tries every key, and raises `DeleteManyError` if some failed."""
        return self._perform_named(DeleteMany(keys, context))

    def get_bytes(self, key: str, *, context: StoreContext | None = None) -> Result[tuple[bytes, str] | None]:
        """Return body and content type, or None if the object is missing.

        The content type is "application/octet-stream" if none was stored. Raises `StoreNotSupportedError`
        in a store of text only.
        """
        return self._perform_named(GetBytes(key, context))

    def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Result[None]:
        """Store bytes, whole or not at all, replacing any object with this key.

        content_type: required; one line of 1 to 1,024 printable ASCII characters.
        cache_control: as in `put`.

        Raises `ValueError` for another text, and `StoreNotSupportedError` in a store of text only.
        """
        return self._perform_named(PutBytes(key, body, content_type, cache_control, context))

    def stat(self, key: str, *, context: StoreContext | None = None) -> Result[ObjectInfo | None]:
        """Return the object's info, or None if it is missing. Raises `InvalidKeyError` for an invalid key."""
        return self._perform_named(Stat(key, context))

    def read(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> Result[StoredObject | None]:
        """Return the bytes from `start` to before `stop`, with the info of the whole object; None if missing.

        start: the first byte, 0 by default. At or past the end of the object it gives an empty body.
        stop: the byte before which the range ends; past the end, or None, the default, for the rest.

        Raises `ValueError` for a negative `start` and for a `stop` before it.
        """
        return self._perform_named(Read(key, start, stop, context))

    def open(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> Result[ObjectReader | None]:
        """Return a reader of the bytes from `start` to before `stop`, or None if the object is missing.

        A reader of a leaf with a native `open` holds at most 16 MiB, whatever the object's size. The range is
        as in `read`: `start` 0 and `stop` None by default. Raises `ValueError` for an invalid range. The
        reader raises `VersionConflictError` if the object is replaced while it is read.
        """
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
        """Store text or bytes, whole or not at all, and return the new object's info.

        content_type: by default "text/plain; charset=utf-8" for str, "application/octet-stream" for bytes.
        cache_control: the Cache-Control header to store; None, the default, for none.
        metadata: names and values to store beside the body, ASCII text of at most 2 KiB in all; none by
            default.
        if_version: `ANY`, the default, writes unconditionally, a version replaces that version only, and None
            only creates a new object.

        Raises `VersionConflictError`, with nothing written, if the object does not have that version, and
        `ValueError` for a header or metadata that cannot be stored.
        """
        return self._perform_named(
            Write(key, body, content_type, cache_control, metadata, if_version, context)
        )

    async def upload(
        self,
        key: str,
        chunks: Iterable[bytes] | AsyncIterable[bytes],
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> ObjectInfo:
        """Store the chunks as one object, whole or not at all, and return the new object's info.

        chunks: a plain iterable runs on the event loop, so it must not block; an open file yields lines.

        `content_type`, `cache_control`, `metadata` and `if_version` are as in `write`. If the upload fails,
        is cancelled, or `chunks` raises, nothing becomes visible. A leaf without a native `upload` gathers at
        most 64 MiB in memory and raises `ObjectTooLargeError` for more.
        """
        return await self._perform_named(
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
        """Copy `source` to `target`, with content type and metadata, and return the copy's info.

        if_version: the expected version of the target, as in `write`; `ANY` by default.

        Raises `ObjectNotFoundError` if the source is missing, and `VersionConflictError` as `write` does.
        """
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
        """Return the objects whose keys begin with `prefix`, in byte order.

        Their infos have the fields that the backend's list has.

        start_after: as in `list_keys`; applies to folders, too.
        limit: the most objects and folders to return; None, the default, for all.
        delimiter: with "/", keys with a further "/" after the prefix are grouped into folders, listed as
            `prefixes` that end with "/". None, the default, lists every object.

        Raises `ValueError` for a negative limit or another delimiter.
        """
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
        """Return a URL that lets anyone read (`method="GET"`) or write ("PUT") the object until it expires.

        method: "GET", the default, or "PUT".
        expires: seconds, 1 to 604,800 (7 days), 900 by default.
        content_type: for PUT, the content type that the request must have; None, the default, for any.

        Raises `StoreNotSupportedError` if the store has no such URLs, and `ValueError` for another method or
        time.
        """
        return self._perform_named(SignedUrl(key, method, expires, content_type, context))

    async def close(self) -> None:
        """Release all resources. Safe to call twice; later operations raise `StoreClosedError`."""
        return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _unsupported(self, operation: Operation[Any]) -> Any:
        raise operation.error(StoreNotSupportedError, f"{type(self).__name__} does not support it")


def _derivation(operation: str) -> Derivation | None:
    """Return how an operation is derived, or None if it cannot be."""
    from starfish_server.storage.derived import DERIVED  # here, since most programs derive nothing

    return DERIVED.get(operation)


async def perform_noted(operation: Operation[T], perform: Callable[[Operation[T]], Result[T]]) -> T:
    """Perform an observed operation, so that the leaf's `note` reaches the observer."""
    token = notes_of_call.set(operation.notes)
    try:
        return await perform(operation)
    finally:
        try:  # noqa: SIM105 - every observed operation comes here, and suppress takes longer
            notes_of_call.reset(token)
        except ValueError:
            pass  # a coroutine may be closed in another context, where the variable was never set
