"""`Transform`: the base of layers that change bodies, such as compression and encryption."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, cast

from starfish_server.checks import (
    DEFAULT_BYTES_TYPE,
    check_header,
    check_range,
    decode_text,
    encode_body,
    type_or_default,
)
from starfish_server.errors import StoreError, StoreNotSupportedError, VersionConflictError
from starfish_server.layers.base import Layer, T
from starfish_server.layers.copy_error import copy_error
from starfish_server.objects import ObjectList, ObjectReader, StoredObject
from starfish_server.operations import (
    OPERATIONS,
    Bodies,
    Copy,
    GetBytes,
    GetString,
    ListKeys,
    ListObjects,
    Open,
    Operation,
    Put,
    PutBytes,
    Read,
    Stat,
    Upload,
    Write,
)
from starfish_server.threads import start_in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starfish_server.objects import ObjectInfo

R = TypeVar("R", bound="ObjectReader | StoredObject")
_IN_A_THREAD = 256 * 1024  # bytes from which work on a body would hold the event loop
_NONE = Bodies.NONE  # a look-up in an Enum takes long on 3.11
_CONTEXT_READS = frozenset({"stat_plain", "read_plain", "open_plain"})  # reads that are given the context


async def work_on(size: int, work: Callable[[], T], key: str) -> T:
    """Return the result of `work` on `size` bytes of the object, done in a thread if there are many."""
    return work() if size < _IN_A_THREAD else await start_in_thread(work, key=key)


async def same_object(operation: Operation[Any], info: ObjectInfo, stored: int, later: R | None) -> R:
    """Return the result of a later read of an object; raise `VersionConflictError` if it was replaced.

    info, stored: what an earlier read told of it, and its size in the store inside.
    """
    if later is not None and later.info.version == info.version and later.info.size in (None, stored):
        return later
    if isinstance(later, ObjectReader):
        await later.aclose()
    raise operation.error(VersionConflictError, "the object was replaced while it was read")


class Transform(Layer):
    """Changes each body on its way to the store inside and back: a subclass defines `encode` and `decode`.

    Operations without bodies pass unchanged. An unknown operation with a body raises
    `StoreNotSupportedError`, so that no body is stored or returned unchanged by mistake. So does
    `signed_url`, whose URL would expose the encoded body. Text is stored inside as bytes, with its content
    type.

    Ranges and streams read the whole object, and `stat` reads it for its size; lists have no sizes. An upload
    is gathered in memory, up to 64 MiB. `copy` decodes the body and encodes it for the target's key. A
    subclass can do better by overriding `stat_plain`, `read_plain`, `open_plain`, `write_plain`,
    `upload_plain` or `copy_plain`; every operation is made of these. One that overrides a read may return
    different results to different callers, as with `perform` of a `Layer`.
    """

    context_dependent = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "perform" in vars(cls):
            raise TypeError(f"{cls.__name__} overrides perform: a Transform defines encode and decode")
        if "context_dependent" not in vars(cls) and not _CONTEXT_READS.isdisjoint(vars(cls)):
            cls.context_dependent = True  # as for a layer with a perform of its own

    @abstractmethod
    async def encode(self, body: bytes, key: str) -> bytes:
        """Return what is stored inside for `body`."""

    @abstractmethod
    async def decode(self, body: bytes, key: str) -> bytes:
        """Return the body that `encode` was given, or raise `StoreIntegrityError`."""

    def supports(self, operation: str) -> bool:
        if operation == "conditional_write":
            return super().supports(operation)
        kind = OPERATIONS[operation]
        return (_passes(kind) or kind in _HANDLED) and super().supports(operation)

    async def perform(self, operation: Operation[T]) -> T:
        if _passes(type(operation)):
            return await self._inner.perform(operation)
        handle = _HANDLED.get(type(operation))
        if handle is None:
            raise operation.error(StoreNotSupportedError, f"{type(self).__name__} cannot change its bodies")
        if isinstance(operation, Read | Open):
            check_range(operation.start, operation.stop)
        try:
            return cast("T", await handle(self, operation))
        except StoreError as error:
            if error.operation == operation.name:
                raise
            own = copy_error(error)  # names the caller's operation, not the one it is made of
            own.operation = operation.name
            raise own from error.__cause__

    async def stat_plain(self, operation: Stat) -> ObjectInfo | None:
        """Perform `stat`, with the size of the plain body."""
        return await self._derive(operation)

    async def read_plain(self, operation: Read) -> StoredObject | None:
        """Perform `read`; the range has been checked."""
        found = await self._inner.perform(operation.replace(start=0, stop=None))
        if found is None:
            return None
        body = await self.decode(found.body, operation.key)
        return StoredObject(found.info.resized(len(body)), body[operation.start : operation.stop])

    async def open_plain(self, operation: Open) -> ObjectReader | None:
        """Perform `open`; the range has been checked."""
        return await self._derive(operation)

    async def write_plain(self, operation: Write) -> ObjectInfo:
        """Perform `write` of a body of bytes with its content type."""
        body = await self.encode(cast("bytes", operation.body), operation.key)
        info = await self._inner.perform(operation.replace(body=body))
        return info.resized(len(operation.body))

    async def copy_plain(self, operation: Copy) -> ObjectInfo:
        """Perform `copy` by reading and writing, so that the body is encoded for the target's key."""
        return await self._derive(operation)

    async def upload_plain(self, operation: Upload) -> ObjectInfo:
        """Perform `upload`."""
        return await self._derive(operation)


def _passes(kind: type[Operation[Any]]) -> bool:
    """Return whether operations of this kind pass unchanged: no bodies, and no infos in their results."""
    return kind.bodies is _NONE and (kind is ListKeys or not kind.result_has_keys)


async def _get_bytes(layer: Transform, operation: GetBytes | GetString) -> tuple[bytes, str] | None:
    whole = Read(operation.key, 0, None, operation.context, operation.notes)
    found = await layer.read_plain(whole)
    return None if found is None else (found.body, found.info.content_type or DEFAULT_BYTES_TYPE)


async def _get_string(layer: Transform, operation: GetString) -> str | None:
    found = await _get_bytes(layer, operation)
    return None if found is None else decode_text(found[0], "get_string", operation.key)


async def _write(layer: Transform, operation: Write) -> ObjectInfo:
    plain = encode_body(operation.body, "write", operation.key)
    content_type = type_or_default(operation.content_type, operation.body)
    return await layer.write_plain(operation.replace(body=plain, content_type=content_type))


async def _put(layer: Transform, operation: Put | PutBytes) -> None:
    plain = encode_body(operation.body, operation.name, operation.key)
    if isinstance(operation, PutBytes):
        check_header("content_type", operation.content_type)
    content_type = type_or_default(operation.content_type, operation.body)
    given = (operation.key, plain, content_type, operation.cache_control)
    await layer.write_plain(Write(*given, context=operation.context, notes=operation.notes))


async def _list_objects(layer: Transform, operation: ListObjects) -> ObjectList:
    """List without sizes: the sizes of encoded bodies would mislead."""
    found = await layer.inner.perform(operation)
    return ObjectList([info.resized(None) for info in found.objects], found.prefixes)


_HANDLED: dict[type[Operation[Any]], Callable[..., Awaitable[object]]] = {
    Stat: lambda layer, operation: layer.stat_plain(operation),
    GetBytes: _get_bytes,
    GetString: _get_string,
    Read: lambda layer, operation: layer.read_plain(operation),
    Open: lambda layer, operation: layer.open_plain(operation),
    Put: _put,
    PutBytes: _put,
    Write: _write,
    Upload: lambda layer, operation: layer.upload_plain(operation),
    Copy: lambda layer, operation: layer.copy_plain(operation),
    ListObjects: _list_objects,
}
