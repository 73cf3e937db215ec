"""`Authorize`: a guard that asks a predicate before every operation."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starfish_server.context import StoreContext
from starfish_server.errors import StoreAccessDeniedError
from starfish_server.layers.base import Around, Operation, Proceed, Slot, T, Target
from starfish_server.layers.operations import describe, key_of
from starfish_server.printable import name_of

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["Authorize"]

Allow = Callable[[Operation, tuple[str, ...], StoreContext | None], bool | Awaitable[bool]]


class Authorize(Around):
    """Lets an operation through only if `allow` answers True, and raises `StoreAccessDeniedError` otherwise.

    A guard: outside namespaces, so that it sees the keys as the caller wrote them, and outside the cache, so
    that a hit is asked for too.

    allow: `allow(operation, keys, context)`, sync or async. `operation.name` and `operation.writes` say what
        is asked; `keys` is the key, the keys of `delete_many` or the prefix of `list_keys`. Anything but
        exactly True denies, and so does an exception, which is kept as `__cause__`. A function of other
        parameters is a `TypeError` at once.
    """

    slot = Slot.GUARD

    def __init__(self, inner: AbstractObjectStore, *, allow: Allow) -> None:
        super().__init__(inner)
        # Builtins may have no signature; from Python 3.14 on, annotations may name what is not there.
        with contextlib.suppress(ValueError, NameError):
            try:
                inspect.signature(allow).bind(None, None, None)
            except TypeError as error:
                raise TypeError(f"allow takes (operation, keys, context): {error}") from None
        self._allow = allow

    def settings(self) -> dict[str, object]:
        return {"allow": name_of(self._allow)}

    async def around(
        self, operation: Operation, target: Target, context: StoreContext | None, proceed: Proceed[T]
    ) -> T:
        keys = tuple(target) if isinstance(target, list) else (target,)
        try:
            verdict = self._allow(operation, keys, context)
            if inspect.isawaitable(verdict):
                verdict = await verdict
        except Exception as error:
            raise _denied(operation, target, f"allow raised {type(error).__name__}") from error
        if verdict is not True:
            answer = "False" if verdict is False else f"a {type(verdict).__name__}"
            raise _denied(operation, target, f"allow answered {answer}")
        return await proceed()


def _denied(operation: Operation, target: Target, why: str) -> StoreAccessDeniedError:
    return StoreAccessDeniedError(
        f"{describe(operation, target)} denied: {why}", operation=operation.name, key=key_of(target)
    )
