"""`Leaf`: a base for leaves, with all arguments checked before an operation is performed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from starfish_server.checks import (
    check_delimiter,
    check_header,
    check_headers,
    check_if_version,
    check_metadata,
    check_page,
    check_range,
    check_url,
    key_checks,
)
from starfish_server.errors import StoreClosedError, StoreError
from starfish_server.operations import OPERATIONS, PutBytes
from starfish_server.storage.base import perform_noted
from starfish_server.storage.named_methods import NamedMethods

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.operations import Operation
    from starfish_server.storage.base import Result

T = TypeVar("T")
_NAMED = {kind: (name, getattr(NamedMethods, name)) for name, kind in OPERATIONS.items()}
Method = Callable[[Any, Any], Awaitable[Any]]


class Leaf(NamedMethods):
    """A leaf whose operations are performed as checked values.

    A subclass defines a method for each operation that it supports, such as `_write(call: Write)` for
    `write`. The others are derived, as in every store. Its errors need not name the operation or the key.
    """

    _methods: Mapping[type[Operation[Any]], Method]
    """What performs each operation that the leaf has itself."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._methods = {
            kind: getattr(cls, f"_{name}") for name, kind in OPERATIONS.items() if hasattr(cls, f"_{name}")
        }

    def __init__(self, *, portable_keys: bool) -> None:
        self._check_key, self._check_prefix = key_checks(portable_keys)
        self._any_text = not portable_keys
        self._closed = False

    def perform(self, operation: Operation[T]) -> Result[T]:
        # A method that a subclass overrides, or that tests put in place of this one, is called by its name.
        try:
            name, named = _NAMED[type(operation)]
            method = getattr(self, name)
            replaced = method.__func__ is not named or method.__self__ is not self
        except (AttributeError, KeyError):
            replaced = True
        if replaced:
            return super().perform(operation)
        if operation.notes is None:
            return self._perform_named(operation)
        return perform_noted(operation, self._perform_named)

    async def _perform_named(self, operation: Operation[T]) -> T:
        """Check the operation and perform it, or derive it. Errors get its name and key."""
        try:
            self._check(operation)
            method = self._methods.get(type(operation))
            if method is None:
                return await self._derive(operation)
            return await method(self, operation)  # type: ignore[no-any-return]  # a T
        except StoreError as error:
            if error.operation is None:
                error.operation, error.key = operation.name, operation.error_key
            raise

    def _check(self, call: Operation[Any]) -> None:
        """Raise if the store is closed or an argument invalid; the leaf checks the keys of `delete_many`."""
        if self._closed:
            error = StoreClosedError(f"this {type(self).__name__} was closed")
            error.undetermined = False
            raise error
        for check in _CHECKS.get(type(call), ()):
            check(self, call)

    def native(self, operation: str) -> bool:
        overridden = getattr(type(self), operation) is not getattr(NamedMethods, operation)
        return OPERATIONS[operation] in self._methods or overridden


_CHECKS_OF_FIELDS: dict[str, Callable[[Leaf, Any], object]] = {
    "key": lambda self, call: self._check_key(call.key, call.name),
    "source": lambda self, call: self._check_key(call.source, call.name),
    "target": lambda self, call: self._check_key(call.target, call.name),
    "prefix": lambda self, call: self._check_prefix(call.prefix, call.name),
    "start_after": lambda self, call: check_page(
        call.start_after, call.limit, call.name, any_text=self._any_text
    ),
    "delimiter": lambda _, call: check_delimiter(call.delimiter),
    "start": lambda _, call: check_range(call.start, call.stop),
    "method": lambda _, call: check_url(call.method, call.expires),
    "if_version": lambda _, call: check_if_version(call.if_version),
    "content_type": lambda _, call: check_headers(call.content_type, None),
    "cache_control": lambda _, call: check_headers(None, call.cache_control),
    "metadata": lambda _, call: check_metadata(call.metadata),
}
_CHECKS = {
    kind: [check for field, check in _CHECKS_OF_FIELDS.items() if field in kind.fields]
    for kind in OPERATIONS.values()
}
_CHECKS[PutBytes].append(lambda _, call: check_header("content_type", call.content_type))  # it is required
