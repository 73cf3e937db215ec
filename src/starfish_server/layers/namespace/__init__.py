"""`Namespace`: a prefix of its own for each tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starfish_server.checks import check_any_key, check_any_prefix, check_page
from starfish_server.errors import ContextRequiredError, DeleteManyError, InvalidKeyError, StoreError
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.copy_error import copy_error
from starfish_server.layers.namespace.prefix import (
    FunctionPrefix,
    Prefix,
    TemplatePrefix,
    check_prefix_option,
)
from starfish_server.layers.streams import around_chunks
from starfish_server.operations.base import check_context
from starfish_server.printable import name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.context import StoreContext
    from starfish_server.layers.namespace.prefix import PrefixOf
    from starfish_server.objects import Fetch
    from starfish_server.storage.base import AbstractObjectStore

_ONLY_KEY = Operation.keys  # of the operations on one key
_SHORT = 256  # characters, which in UTF-8 are never longer than a key may be


class Namespace(Layer):
    """Keeps each tenant's objects under a prefix of its own, which callers neither write nor see.

    Stands outside `Caching`, so that everything inside works on full keys and cannot mix tenants. Audit,
    tracing and guards stand outside it and see the caller's keys.

    prefix: ends with "/". A template such as "tenants/{namespace}/", with at most one of the fields
        `{namespace}`, `{identity}`, `{collection}` and `{params.<name>}` in a segment; or a plain prefix; or
        a function of the context, called for every operation. No tenant's prefix may begin with another's.
    without_context: prefix of operations without a context, such as "system/"; it must not overlap any
        tenant's. By default these operations raise `ContextRequiredError`, unless the prefix is plain.

    A key may have any segments that the store inside allows, except "", "." and "..". Prefix and key together
    are limited to the length of one key. Before the store inside is called, a context without a field of the
    prefix raises `ContextRequiredError`, and a value that is not one portable key segment `InvalidKeyError`.
    If the store inside returns a key outside the prefix, that is a `StoreError`. Errors carry the caller's
    own keys; only the `__cause__`, which is the backend's, may name full keys.

    Raises `ValueError` or `TypeError` for an invalid prefix.
    """

    slot = Slot.NAMESPACE
    context_dependent = False  # for a plain prefix; `__init__` sets True for others

    def __init__(
        self, inner: AbstractObjectStore, prefix: str | PrefixOf, *, without_context: str | None = None
    ) -> None:
        super().__init__(inner)
        if without_context is not None:
            check_prefix_option(without_context, without_context)
        self._prefix_of: Callable[[StoreContext | None], Prefix]
        if isinstance(prefix, str) and "{" not in prefix and without_context is None:
            check_prefix_option(prefix, prefix)
            plain = Prefix(prefix)
            self._prefix_of = lambda _: plain
        elif isinstance(prefix, str):
            self._prefix_of = TemplatePrefix(prefix, without_context).of
            self.context_dependent = True
        elif callable(prefix):
            self._prefix_of = FunctionPrefix(prefix, without_context).of
            self.context_dependent = True
        else:
            raise TypeError(f"prefix must be a str or a function, not {type(prefix).__name__}")
        self._settings: dict[str, object] = {"prefix": prefix if isinstance(prefix, str) else name_of(prefix)}
        if without_context is not None:
            self._settings["without_context"] = without_context

    def settings(self) -> dict[str, object]:
        return dict(self._settings)

    def prefix_of(self, context: StoreContext | None) -> str:
        """Return the prefix of the keys of operations with this context."""
        check_context(context)
        return self._prefix_of(context).text

    async def perform(self, operation: Operation[T]) -> T:
        key = operation.key
        # Fast path for nearly every key: short, printable, no segment empty or beginning with a dot.
        if (
            type(operation).keys is not _ONLY_KEY
            or type(key) is not str
            or "//" in (path := f"/{key}/")
            or "/." in path
            or not (len(path) < _SHORT and path.isprintable())
        ):
            _check(operation)
        try:
            prefix = self._prefix_of(operation.context)
        except (ContextRequiredError, InvalidKeyError) as error:
            raise operation.error(type(error), error.reason) from error.__cause__
        try:
            result = await self._inner.perform(operation.rename(prefix.add))
        except StoreError as error:
            raise _restored(error, prefix) from error.__cause__
        return _restored_result(operation, result, prefix) if operation.result_has_keys else result


def _restored_result(operation: Operation[T], result: T, prefix: Prefix) -> T:
    """Return the result with the caller's keys, for a reader with those in its errors, too."""

    async def restoring(fetch: Fetch) -> bytes:
        try:
            return await fetch()
        except StoreError as error:
            raise _restored(error, prefix) from error.__cause__

    return around_chunks(operation.restore(result, prefix.remove), restoring)


def _check(operation: Operation[Any]) -> None:
    """Refuse a key or prefix that could lead out of the namespace; the store inside checks the rest."""
    for key in operation.keys:
        check_any_key(key, operation.name)
    if operation.action == "list" or operation.prefix is not None:
        check_any_prefix(operation.prefix, operation.name)
        check_page(operation.start_after, None, operation.name, any_text=True)


def _restored(error: StoreError, prefix: Prefix) -> StoreError:
    """Return the error with the caller's keys: a copy, since another operation may hold the original."""
    restored = copy_error(error)
    if error.key is not None:
        restored.key = error.key.removeprefix(prefix.text)
        if error.key and error.key in error.reason:
            restored.reason = error.reason.replace(error.key, restored.key)
            restored.args = (restored.reason,)
    if isinstance(error, InvalidKeyError):
        restored.add_note(f"the namespace puts {len(prefix.text)} characters in front of the key")
    if isinstance(restored, DeleteManyError):
        restored.failures = {
            prefix.remove(key): _restored(failure, prefix) if isinstance(failure, StoreError) else failure
            for key, failure in restored.failures.items()
        }
    return restored
