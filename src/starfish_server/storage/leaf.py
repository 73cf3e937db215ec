"""`Leaf`: a base for leaves, with all arguments checked before an operation is performed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

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
from starfish_server.chunks import check_chunks
from starfish_server.errors import StoreClosedError, StoreError
from starfish_server.operations import OPERATIONS, ListObjects, PutBytes, Upload
from starfish_server.storage.base import perform_noted
from starfish_server.storage.named_methods import NamedMethods

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.operations import Copy, ListKeys, Open, Operation, Put, Read, SignedUrl, Write
    from starfish_server.storage.base import Result

T = TypeVar("T")
_ONE_KEY = frozenset(name for name, operation in OPERATIONS.items() if operation.key is not None)
_NAMED = {kind: (name, getattr(NamedMethods, name)) for name, kind in OPERATIONS.items()}
Method = Callable[[Any, Any], Awaitable[Any]]


class Leaf(NamedMethods):
    """A leaf whose operations are performed as checked values.

    A subclass defines a method for each operation that it supports, such as `_write(call: Write)` for
    `write`. The others are derived, as in every store. Its errors need not name the operation or the key.
    """

    _methods: Mapping[str, Method]
    """What performs each operation that the leaf has itself."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._methods = {name: getattr(cls, f"_{name}") for name in OPERATIONS if hasattr(cls, f"_{name}")}

    def __init__(self, *, portable_keys: bool) -> None:
        self._check_key, self._check_prefix = key_checks(portable_keys)
        self._any_text = not portable_keys
        self._closed = False

    def perform(self, operation: Operation[T]) -> Result[T]:
        # What a subclass overrides is called, and what was put in its place later, as tests do.
        try:
            name, named = _NAMED[type(operation)]
            replaced = getattr(self, name).__func__ is not named
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
            method = self._methods.get(operation.name)
            if method is None:
                return await self._derive(operation)
            return await method(self, operation)  # type: ignore[no-any-return]  # a T
        except StoreError as error:
            if error.operation is None:
                error.operation, error.key = operation.name, operation.error_key
            raise

    def native(self, operation: str) -> bool:
        overridden = getattr(type(self), operation) is not getattr(NamedMethods, operation)
        return operation in self._methods or overridden

    def _check(self, call: Operation[Any]) -> None:
        """Raise if the store is closed or an argument invalid; the leaf checks the keys of `delete_many`."""
        if self._closed:
            raise StoreClosedError(f"this {type(self).__name__} was closed")
        name = call.name
        if name in _ONE_KEY:
            self._check_key(call.key, name)  # type: ignore[arg-type]  # whatever the caller gave
        if name in self._checks:
            self._checks[name](self, call)

    def _check_put(self, call: Put | PutBytes) -> None:
        if isinstance(call, PutBytes):
            check_header("content_type", call.content_type)
        check_headers(call.content_type, call.cache_control)

    def _check_write(self, call: Write | Upload) -> None:
        check_if_version(call.if_version)
        check_headers(call.content_type, call.cache_control)
        check_metadata(call.metadata)
        if isinstance(call, Upload):
            check_chunks(call.chunks, "upload")

    def _check_copy(self, call: Copy) -> None:
        for key in call.keys:
            self._check_key(key, call.name)
        check_if_version(call.if_version)

    def _check_list(self, call: ListKeys | ListObjects) -> None:
        self._check_prefix(call.prefix, call.name)
        check_page(call.start_after, call.limit, call.name, any_text=self._any_text)
        check_delimiter(call.delimiter if isinstance(call, ListObjects) else None)

    def _check_range(self, call: Read | Open) -> None:
        check_range(call.start, call.stop)

    def _check_url(self, call: SignedUrl) -> None:
        check_url(call.method, call.expires)
        check_headers(call.content_type, None)

    _checks: ClassVar[dict[str, Callable[[Any, Any], None]]] = {
        "put": _check_put,
        "put_bytes": _check_put,
        "write": _check_write,
        "upload": _check_write,
        "copy": _check_copy,
        "list_keys": _check_list,
        "list_objects": _check_list,
        "read": _check_range,
        "open": _check_range,
        "signed_url": _check_url,
    }
    """How the other arguments of an operation are checked."""
