"""`Transform`: the base of layers that change bodies, such as compression and encryption."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from starfish_server.checks import (
    DEFAULT_TEXT_TYPE,
    check_range,
    copy_bytes,
    decode_text,
    encode_body,
    encode_text,
    type_or_default,
)
from starfish_server.errors import StoreError, StoreNotSupportedError
from starfish_server.layers.base import Layer, T
from starfish_server.layers.copy_error import copy_error
from starfish_server.objects import ObjectList, StoredObject
from starfish_server.operations import (
    OPERATIONS,
    Bodies,
    Copy,
    GetBytes,
    GetString,
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

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starfish_server.objects import ObjectInfo

__all__ = ["Transform"]


class Transform(Layer):
    """Changes each body on its way to the store inside and back: a subclass defines `encode` and `decode`.

    Operations without bodies pass unchanged. An operation with bodies that this class does not know raises
    `StoreNotSupportedError`, so that no operation stores or returns a body unchanged by mistake: `signed_url`
    is one, since its URL leads to what is stored. Text is stored inside as bytes, with its content type.

    Ranges and streams read the whole object, and `stat` reads it for its size; lists have no sizes. An upload
    is gathered, up to 64 MiB. `copy` decodes and encodes the body, for the target's key.
    """

    context_dependent = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "perform" in vars(cls):
            raise TypeError(f"{cls.__name__} overrides perform: a Transform defines encode and decode")

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
        return (kind.bodies is Bodies.NONE or kind in _HANDLED) and super().supports(operation)

    async def perform(self, operation: Operation[T]) -> T:
        if operation.bodies is Bodies.NONE:
            return await self._inner.perform(operation)
        handle = _HANDLED.get(type(operation))
        if handle is None:
            raise operation.error(StoreNotSupportedError, f"{type(self).__name__} cannot change its bodies")
        try:
            return cast("T", await handle(self, operation))
        except StoreError as error:
            if error.operation == operation.name:
                raise
            own = copy_error(error)  # of the operation that was asked for, not of one that it is made of
            own.operation = operation.name
            raise own from error.__cause__


async def _read(layer: Transform, operation: Read) -> StoredObject | None:
    check_range(operation.start, operation.stop)
    found = await layer.inner.perform(operation.replace(start=0, stop=None))
    if found is None:
        return None
    body = await layer.decode(found.body, operation.key)
    info = replace(found.info, size=len(body))
    return StoredObject(info, body[operation.start : operation.stop])


async def _write(layer: Transform, operation: Write) -> ObjectInfo:
    plain = encode_body(operation.body, "write", operation.key)
    content_type = type_or_default(operation.content_type, operation.body)
    body = await layer.encode(plain, operation.key)
    info = await layer.inner.perform(operation.replace(body=body, content_type=content_type))
    return replace(info, size=len(plain))


async def _get_string(layer: Transform, operation: GetString) -> str | None:
    found = await _get_bytes(layer, operation)
    return None if found is None else decode_text(found[0], "get_string", operation.key)


async def _get_bytes(layer: Transform, operation: GetBytes | GetString) -> tuple[bytes, str] | None:
    found = await layer.inner.perform(GetBytes(operation.key, operation.context, operation.notes))
    return None if found is None else (await layer.decode(found[0], operation.key), found[1])


async def _put(layer: Transform, operation: Put | PutBytes) -> None:
    if isinstance(operation, Put):
        plain = encode_text(operation.body, "put", operation.key)
    else:
        plain = copy_bytes(operation.body, "put_bytes")
    body = await layer.encode(plain, operation.key)
    content_type = operation.content_type
    if content_type is None and isinstance(operation, Put):
        content_type = DEFAULT_TEXT_TYPE
    context, notes = operation.context, operation.notes
    await layer.inner.perform(
        PutBytes(operation.key, body, content_type, operation.cache_control, context, notes)  # type: ignore[arg-type]  # the leaf refuses None
    )


async def _list_objects(layer: Transform, operation: ListObjects) -> ObjectList:
    """List without sizes: those of what is stored would mislead."""
    found = await layer.inner.perform(operation)
    return ObjectList([replace(info, size=None) for info in found.objects], found.prefixes)


async def _derive(layer: Transform, operation: Operation[T]) -> T:
    """Perform an operation by others, which this layer handles: as a store does that lacks it."""
    return await operation.send(super(Layer, layer))  # type: ignore[arg-type]  # the layer as a plain store


_HANDLED: dict[type[Operation[Any]], Callable[..., Awaitable[object]]] = {
    GetBytes: _get_bytes,
    GetString: _get_string,
    Put: _put,
    PutBytes: _put,
    Read: _read,
    Write: _write,
    Stat: _derive,
    Open: _derive,
    Upload: _derive,
    Copy: _derive,
    ListObjects: _list_objects,
}
