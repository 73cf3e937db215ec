"""`Transform`: the base of layers that change bodies, such as compression and encryption."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, cast

from starfish_server.checks import DEFAULT_TEXT_TYPE, copy_bytes, decode_text, encode_text
from starfish_server.errors import StoreNotSupportedError
from starfish_server.layers.base import Layer, Operation, T
from starfish_server.operations import OPERATIONS, Bodies, GetBytes, GetString, Put, PutBytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Transform"]


class Transform(Layer):
    """Changes each body on its way to the store inside and back: a subclass defines `encode` and `decode`.

    Operations without bodies pass unchanged. An operation with bodies that this class does not know raises
    `StoreNotSupportedError`, so that no operation stores or returns a body unchanged by mistake. Text is
    stored inside as bytes, with its content type.
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
        kind = OPERATIONS[operation]
        if kind.bodies is Bodies.NONE:
            return super().supports(operation)
        return kind in _HANDLED and super().supports("put_bytes" if kind.writes else "get_bytes")

    async def perform(self, operation: Operation[T]) -> T:
        if operation.bodies is Bodies.NONE:
            return await self._inner.perform(operation)
        handle = _HANDLED.get(type(operation))
        if handle is None:
            reason = f"{type(self).__name__} cannot change its bodies"
            raise operation.error(StoreNotSupportedError, reason)
        return cast("T", await handle(self, operation))


async def _get_bytes(layer: Transform, operation: Any) -> tuple[bytes, str] | None:
    found = await layer.inner.perform(GetBytes(operation.key, operation.context, operation.notes))
    return None if found is None else (await layer.decode(found[0], operation.key), found[1])


async def _get_string(layer: Transform, operation: Any) -> str | None:
    found = await _get_bytes(layer, operation)
    return None if found is None else decode_text(found[0], "get_string", operation.key)


async def _put_bytes(layer: Transform, operation: PutBytes) -> None:
    body = await layer.encode(copy_bytes(operation.body, "put_bytes"), operation.key)
    await layer.inner.perform(operation.replace(body=body))


async def _put(layer: Transform, operation: Put) -> None:
    body = await layer.encode(encode_text(operation.body, "put", operation.key), operation.key)
    content_type = operation.content_type or DEFAULT_TEXT_TYPE
    context, notes = operation.context, operation.notes
    await layer.inner.perform(
        PutBytes(operation.key, body, content_type, operation.cache_control, context, notes)
    )


_HANDLED: dict[type[Operation[Any]], Callable[..., Awaitable[object]]] = {
    GetBytes: _get_bytes,
    GetString: _get_string,
    PutBytes: _put_bytes,
    Put: _put,
}
