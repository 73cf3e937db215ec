"""The general operations of `CustomObjectStore`: by their own callbacks, otherwise derived."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar, cast

from starfish_server.checks import (
    check_chunks,
    check_delimiter,
    check_headers,
    check_if_version,
    check_metadata,
    check_page,
    check_range,
    check_url,
    checked_chunks,
    encode_body,
)
from starfish_server.errors import StoreError, StoreNotSupportedError
from starfish_server.objects import ANY, ObjectInfo, ObjectList, ObjectReader, StoredObject
from starfish_server.operations import OPERATIONS, Operation
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.custom.callback import Shape
from starfish_server.storage.derived import DERIVED

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.storage.custom.callback import Callback

F = TypeVar("F", bound="Callable[..., Any]")
_OPTIONS = ("content_type", "cache_control", "metadata", "if_version")
SHAPES = {
    "stat": Shape("on_stat", ("key",)),
    "read": Shape("on_read", ("key",), ("start", "stop", "context")),
    "open": Shape("on_open", ("key",), ("start", "stop", "context")),
    "write": Shape("on_write", ("key", "body"), named=_OPTIONS),
    "upload": Shape("on_upload", ("key", "chunks"), named=_OPTIONS),
    "copy": Shape("on_copy", ("source", "target"), named=("if_version",)),
    "list_objects": Shape(
        "on_list_objects", ("prefix",), ("start_after", "limit", "context"), named=("delimiter",)
    ),
    "signed_url": Shape("on_signed_url", ("key",), named=("method", "expires", "content_type")),
}
# What each derived operation is made of: all of one of these groups.
_PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "read": (("get_bytes",), ("get_string",)),
    "stat": (("read",),),
    "open": (("read",),),
    "write": (("put", "put_bytes"),),
    "upload": (("write",),),
    "copy": (("read", "write"),),
    "list_objects": (("list_keys",),),
}


def _by_callback(method: F, *results: type) -> F:
    """Return an operation with the signature of `method`, which derives it where there is no callback.

    results: the types that the callback may return.
    """
    name = method.__name__
    signature = inspect.signature(method)
    positional = sum(each.kind is each.POSITIONAL_OR_KEYWORD for each in signature.parameters.values()) - 1

    @functools.wraps(method)
    async def operation(self: GeneralCallbacks, *args: object, **options: object) -> object:
        if len(args) > positional:
            signature.bind(self, *args, **options)  # raises the TypeError that says so
        if name in DERIVED and not self.native(name):
            return await method(self, *args, **options)
        call = OPERATIONS[name](*args, **options)
        for key in call.keys or (call.prefix,):
            self._ready(name, key)
        callback = self._callbacks[name]
        fields: tuple[str, ...] = type(call).__slots__
        values = {field: getattr(call, field) for field in fields if field != "notes"}
        _check(values, call, callback)
        result = await callback(**values)
        if isinstance(result, results):
            return result
        expected = results[0].__name__
        raise call.error(StoreError, f"{callback.name} must return {expected}, not {type(result).__name__}")

    return cast("F", operation)


class GeneralCallbacks(AbstractObjectStore):
    """The part of `CustomObjectStore` that performs the general operations."""

    _callbacks: dict[str, Callback]

    def _ready(self, operation: str, key: str | None) -> Callback:
        raise NotImplementedError

    def native(self, operation: str) -> bool:
        return operation in self._callbacks

    def supports(self, operation: str) -> bool:
        if operation == "conditional_write":
            return "write" in self._callbacks and "if_version" in self._callbacks["write"].takes
        if operation in self._callbacks:
            return True
        return any(all(map(self.supports, parts)) for parts in _PARTS.get(operation, ()))

    stat = _by_callback(AbstractObjectStore.stat, ObjectInfo, type(None))
    read = _by_callback(AbstractObjectStore.read, StoredObject, type(None))
    open = _by_callback(AbstractObjectStore.open, ObjectReader, type(None))
    write = _by_callback(AbstractObjectStore.write, ObjectInfo)
    upload = _by_callback(AbstractObjectStore.upload, ObjectInfo)
    copy = _by_callback(AbstractObjectStore.copy, ObjectInfo)
    list_objects = _by_callback(AbstractObjectStore.list_objects, ObjectList)
    signed_url = _by_callback(AbstractObjectStore.signed_url, str)


def _check(values: dict[str, Any], call: Operation[Any], callback: Callback) -> None:
    """Check the arguments of a call, and put copies in the place of those that may change.

    A callback that does not take a condition or metadata cannot do the write.
    """
    if "stop" in values:
        check_range(values["start"], values["stop"])
    if "delimiter" in values:
        check_delimiter(values["delimiter"])
        check_page(values["start_after"], values["limit"], call.name, any_text=True)
    if "method" in values:
        check_url(values["method"], values["expires"])
    check_headers(values.get("content_type"), values.get("cache_control"))
    if "metadata" in values:
        values["metadata"] = check_metadata(values["metadata"])
    if "if_version" in values:
        check_if_version(values["if_version"])
    for option, default in (("if_version", ANY), ("metadata", {})):
        if values.get(option, default) != default and option not in callback.takes:
            raise call.error(StoreNotSupportedError, f"{callback.name} takes no {option}")
    if "chunks" in values:
        check_chunks(values["chunks"], call.name)
        values["chunks"] = checked_chunks(values["chunks"], call.name)
    if "body" in values:
        content = encode_body(values["body"], call.name, values["key"])
        values["body"] = values["body"] if isinstance(values["body"], str) else content
