"""`Authorize`: a guard that asks a function of yours before every operation."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starfish_server.context import StoreContext
from starfish_server.errors import StoreAccessDeniedError
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.printable import name_of

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore

Allow = Callable[[Operation[Any], tuple[str, ...], StoreContext | None], bool | Awaitable[bool]]


class Authorize(Layer):
    """Performs an operation only if `allow` returns True, and raises `StoreAccessDeniedError` otherwise.

    A guard: stands outside `Namespace`, so that `allow` sees the keys as the caller wrote them, and outside
    `Caching`, so that hits are checked too.

    allow: `allow(operation, keys, context)`, plain or async. `operation.name` and `operation.writes` describe
        the operation; `keys` has the key, the keys of `delete_many` or the prefix of a listing. Any result
        but True denies access. So does an exception, which becomes the `__cause__`.

    Raises `TypeError` if `allow` does not take these parameters.
    """

    slot = Slot.GUARD
    context_dependent = True

    def __init__(self, inner: AbstractObjectStore, *, allow: Allow) -> None:
        super().__init__(inner)
        # Builtins may have no signature; from Python 3.14 on, annotations may name what does not exist.
        with contextlib.suppress(ValueError, NameError):
            try:
                inspect.signature(allow).bind(None, None, None)
            except TypeError as error:
                raise TypeError(f"allow takes (operation, keys, context): {error}") from None
        self._allow = allow

    def settings(self) -> dict[str, object]:
        return {"allow": name_of(self._allow)}

    async def perform(self, operation: Operation[T]) -> T:
        keys = tuple(operation.keys) if operation.prefix is None else (operation.prefix,)
        try:
            verdict = self._allow(operation, keys, operation.context)
            if inspect.isawaitable(verdict):
                verdict = await verdict
        except Exception as error:
            reason = f"denied: allow raised {type(error).__name__}"
            raise operation.error(StoreAccessDeniedError, reason) from error
        if verdict is not True:
            shown = "False" if verdict is False else f"a {type(verdict).__name__}"
            raise operation.error(StoreAccessDeniedError, f"denied: allow returned {shown}")
        return await self._inner.perform(operation)
