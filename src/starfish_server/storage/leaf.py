"""`Leaf`: a base for leaves, with all arguments checked before an operation is performed."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar, cast

from starfish_server.checks import (
    check_chunks,
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
from starfish_server.operations import (
    OPERATIONS,
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
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.derived import DERIVED

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def _checked(method: F) -> F:
    """Return a method that makes the operation's value and checks it before the leaf performs it."""
    name = method.__name__
    signature = inspect.signature(method)
    derived = name in DERIVED
    positional = sum(each.kind is each.POSITIONAL_OR_KEYWORD for each in signature.parameters.values()) - 1

    @functools.wraps(method, updated=())  # without the mark of an abstract method
    async def operation(self: Leaf, *args: object, **options: object) -> object:
        if len(args) > positional:
            signature.bind(self, *args, **options)  # raises a TypeError that names the argument
        call = OPERATIONS[name](*args, **options)
        try:
            self._check(call)
            if derived and not self.native(name):
                return await method(self, *args, **options)
            return await self._perform(call)
        except StoreError as error:
            if error.operation is None:
                error.operation, error.key = name, call.error_key
            raise

    return cast("F", operation)


class Leaf(AbstractObjectStore):
    """A leaf whose operations are performed as checked values.

    A subclass defines a method for each operation that it supports, such as `_write(call: Write)` for
    `write`. The others are derived, as in every store. Its errors need not name the operation or the key.
    """

    context_dependent = False

    def __init__(self, *, portable_keys: bool) -> None:
        self._check_key, self._check_prefix = key_checks(portable_keys)
        self._any_text = not portable_keys
        self._closed = False

    get_string = _checked(AbstractObjectStore.get_string)
    put = _checked(AbstractObjectStore.put)
    list_keys = _checked(AbstractObjectStore.list_keys)
    delete = _checked(AbstractObjectStore.delete)
    delete_many = _checked(AbstractObjectStore.delete_many)
    get_bytes = _checked(AbstractObjectStore.get_bytes)
    put_bytes = _checked(AbstractObjectStore.put_bytes)
    stat = _checked(AbstractObjectStore.stat)
    read = _checked(AbstractObjectStore.read)
    open = _checked(AbstractObjectStore.open)
    write = _checked(AbstractObjectStore.write)
    upload = _checked(AbstractObjectStore.upload)
    copy = _checked(AbstractObjectStore.copy)
    list_objects = _checked(AbstractObjectStore.list_objects)
    signed_url = _checked(AbstractObjectStore.signed_url)

    def native(self, operation: str) -> bool:
        return hasattr(self, f"_{operation}")

    async def _perform(self, call: Operation[Any]) -> object:
        return await getattr(self, f"_{call.name}")(call)

    def _check(self, call: Operation[Any]) -> None:
        """Raise if the store is closed or an argument invalid; the leaf checks the keys of `delete_many`."""
        if self._closed:
            raise StoreClosedError(f"this {type(self).__name__} was closed")
        if not isinstance(call, DeleteMany):
            for key in call.keys:
                self._check_key(key, call.name)
        match call:
            case GetString() | GetBytes() | Stat() | Delete() | DeleteMany():
                return
            case Put():
                check_headers(call.content_type, call.cache_control)
            case PutBytes():
                check_header("content_type", call.content_type)
                check_headers(None, call.cache_control)
            case ListKeys() | ListObjects():
                self._check_prefix(call.prefix, call.name)
                check_page(call.start_after, call.limit, call.name, any_text=self._any_text)
                check_delimiter(call.delimiter if isinstance(call, ListObjects) else None)
            case Read() | Open():
                check_range(call.start, call.stop)
            case Write() | Upload():
                check_if_version(call.if_version)
                check_headers(call.content_type, call.cache_control)
                check_metadata(call.metadata)
            case Copy():
                check_if_version(call.if_version)
            case SignedUrl():
                check_url(call.method, call.expires)
                check_headers(call.content_type, None)
        if isinstance(call, Upload):
            check_chunks(call.chunks, "upload")
