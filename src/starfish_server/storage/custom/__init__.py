"""`CustomObjectStore`: a leaf made of callbacks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any

from starfish_server.checks import (
    check_keys,
    check_metadata,
    check_text,
    encode_body,
    header_or_none,
)
from starfish_server.chunks import checked_chunks
from starfish_server.errors import DeleteManyError, StoreError, StoreNotSupportedError, shown_text
from starfish_server.objects import ANY, ObjectInfo, ObjectList, ObjectReader, StoredObject
from starfish_server.operations import (
    OPERATIONS,
    DeleteMany,
    GetBytes,
    ListKeys,
    Put,
    PutBytes,
    Upload,
    Write,
)
from starfish_server.storage.custom.callback import Callback, Shape
from starfish_server.storage.derived import DERIVED
from starfish_server.storage.leaf import Leaf

if TYPE_CHECKING:
    from starfish_server.operations import Operation

__all__ = ["CustomObjectStore"]

_HEADERS = ("content_type", "cache_control")
_OPTIONS = (*_HEADERS, "metadata", "if_version")
_RANGE = ("start", "stop", "context")
_PAGE = ("start_after", "limit", "context")
_SHAPES = {
    "get_string": Shape("on_get", ("key",), returns=(str, NoneType)),
    "put": Shape("on_put", ("key", "body"), named=_HEADERS),
    "list_keys": Shape("on_list", ("prefix",), _PAGE),
    "delete": Shape("on_delete", ("key",)),
    "delete_many": Shape("on_delete_many", ("keys",)),
    "get_bytes": Shape("on_get_bytes", ("key",)),
    "put_bytes": Shape("on_put_bytes", ("key", "body"), named=_HEADERS),
    "stat": Shape("on_stat", ("key",), returns=(ObjectInfo, NoneType)),
    "read": Shape("on_read", ("key",), _RANGE, returns=(StoredObject, NoneType)),
    "open": Shape("on_open", ("key",), _RANGE, returns=(ObjectReader, NoneType)),
    "write": Shape("on_write", ("key", "body"), named=_OPTIONS, returns=(ObjectInfo,)),
    "upload": Shape("on_upload", ("key", "chunks"), named=_OPTIONS, returns=(ObjectInfo,)),
    "copy": Shape("on_copy", ("source", "target"), named=("if_version",), returns=(ObjectInfo,)),
    "list_objects": Shape("on_list_objects", ("prefix",), _PAGE, named=("delimiter",), returns=(ObjectList,)),
    "signed_url": Shape(
        "on_signed_url", ("key",), named=("method", "expires", "content_type"), returns=(str,)
    ),
    "close": Shape("on_close", (), ()),
}


class CustomObjectStore(Leaf):
    """A leaf made of callbacks, plain or async.

    on_get: `(key)` returns a str, or None for a missing object.
    on_put: `(key, body)`.
    on_list: `(prefix, start_after, limit)` returns an iterable of keys, in any order.
    on_delete: `(key)`.
    on_delete_many: `(keys)`; if left out, `on_delete` is called for each key.
    on_get_bytes: `(key)` returns a tuple of body and content type, or None.
    on_put_bytes: `(key, body)`.
    on_stat: `(key)` returns an `ObjectInfo` or None.
    on_read: `(key, start, stop)` returns a `StoredObject` with the range and the info of the whole object, or
        None.
    on_open: `(key, start, stop)` returns an `ObjectReader` or None.
    on_write: `(key, body)` returns an `ObjectInfo`; `body` is a str or bytes.
    on_upload: `(key, chunks)` returns an `ObjectInfo`; `chunks` is an asynchronous iterator of bytes.
    on_copy: `(source, target)` returns the `ObjectInfo` of the target.
    on_list_objects: `(prefix, start_after, limit)` returns an `ObjectList` in byte order.
    on_signed_url: `(key)` returns a str.
    on_close: `()`; called once.
    portable_keys: refuse keys outside the key rules. By default any text of 1 to 1,024 UTF-8 bytes passes.

    The `StoreContext` goes to one further positional parameter that is required or, in a Python function, has
    the default None; to a parameter that is named `ctx`, `_ctx` or `context` or annotated `StoreContext`; and
    to `*args`. `content_type`, `cache_control`, `metadata`, `if_version`, `delimiter`, `method` and `expires`
    go to parameters of these names and to `**kwargs`; a conditional write or metadata that the callback does
    not take is a `StoreNotSupportedError`. Raises `TypeError` for a callback that cannot be called this way.

    A general operation without a callback is derived from those that have one, as in every store.

    `on_list` may leave out or ignore `start_after` and `limit` (None for all keys): the store sorts and cuts
    its result. If it applies `limit`, it must return the first keys in byte order. A key outside the prefix
    is a `StoreError`, and so is a result of the wrong type. Exceptions of a callback are passed on unchanged.
    Plain callbacks run on the event loop and must not block.
    """

    def __init__(
        self,
        *,
        on_get: Callable[..., str | Awaitable[str | None] | None] | None = None,
        on_put: Callable[..., object] | None = None,
        on_list: Callable[..., Iterable[str] | Awaitable[Iterable[str]]] | None = None,
        on_delete: Callable[..., object] | None = None,
        on_get_bytes: Callable[..., tuple[bytes, str] | Awaitable[tuple[bytes, str] | None] | None]
        | None = None,
        on_put_bytes: Callable[..., object] | None = None,
        on_delete_many: Callable[..., object] | None = None,
        on_stat: Callable[..., object] | None = None,
        on_read: Callable[..., object] | None = None,
        on_open: Callable[..., object] | None = None,
        on_write: Callable[..., object] | None = None,
        on_upload: Callable[..., object] | None = None,
        on_copy: Callable[..., object] | None = None,
        on_list_objects: Callable[..., object] | None = None,
        on_signed_url: Callable[..., object] | None = None,
        on_close: Callable[[], object] | None = None,
        portable_keys: bool = False,
    ) -> None:
        super().__init__(portable_keys=portable_keys)
        given = {
            "get_string": on_get,
            "put": on_put,
            "list_keys": on_list,
            "delete": on_delete,
            "delete_many": on_delete_many,
            "get_bytes": on_get_bytes,
            "put_bytes": on_put_bytes,
            "stat": on_stat,
            "read": on_read,
            "open": on_open,
            "write": on_write,
            "upload": on_upload,
            "copy": on_copy,
            "list_objects": on_list_objects,
            "signed_url": on_signed_url,
            "close": on_close,
        }
        self._callbacks = {
            operation: Callback(function, _SHAPES[operation])
            for operation, function in given.items()
            if function is not None
        }
        if "delete" in self._callbacks:
            self._callbacks.setdefault("delete_many", self._callbacks["delete"])
        given_kinds = [OPERATIONS[name] for name in self._callbacks if name != "close"]
        self._methods = dict.fromkeys(given_kinds, CustomObjectStore._call)
        self.context_dependent = any(
            "context" in callback.takes and not OPERATIONS[operation].writes
            for operation, callback in self._callbacks.items()
        )
        if not portable_keys:
            self._check_key, self._check_prefix = partial(check_text, "key"), partial(check_text, "prefix")

    def __repr__(self) -> str:
        names = dict.fromkeys(callback.name for callback in self._callbacks.values())
        return f"CustomObjectStore({', '.join(names)})"

    def supports(self, operation: str) -> bool:
        if operation == "conditional_write":
            return "write" in self._callbacks and "if_version" in self._callbacks["write"].takes
        if operation in self._callbacks:
            return True
        derivation = DERIVED.get(operation)
        return derivation is not None and any(all(map(self.supports, group)) for group in derivation.parts)

    async def _call(self, call: Operation[Any]) -> object:
        callback = self._callbacks[call.name]
        if isinstance(call, ListKeys):
            return await _list_keys(callback, call)
        if isinstance(call, DeleteMany):
            await self._delete_many(callback, call)
            return None
        result = await callback(**_values(callback, call))
        if isinstance(call, GetBytes):
            return _checked_body(callback, result)
        kinds = _SHAPES[call.name].returns
        if not kinds:
            return None
        if isinstance(result, kinds):
            return result
        promised = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
        raise _unexpected(callback, promised, result)

    async def _unsupported(self, operation: Operation[Any]) -> Any:
        raise operation.error(StoreNotSupportedError, "there is no callback for it")

    async def _delete_many(self, callback: Callback, call: DeleteMany) -> None:
        keys = check_keys(call.keys, self._check_key)
        if callback is not self._callbacks.get("delete"):
            await callback(keys=keys, context=call.context)
            return
        failures: dict[str, Exception] = {}
        for key in keys:
            try:
                await callback(key=key, context=call.context)
            except Exception as error:  # noqa: BLE001 - a callback may raise anything
                failures[key] = error
        if failures:
            raise DeleteManyError(failures)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            if callback := self._callbacks.get("close"):
                await callback()


def _values(callback: Callback, call: Operation[Any]) -> dict[str, Any]:
    """Return the arguments for a callback, with copies of those that may change.

    A callback that does not take a condition or metadata cannot perform the write.
    """
    values: dict[str, Any] = {name: getattr(call, name) for name in callback.takes}
    if call.if_version is not ANY and "if_version" not in values:
        raise StoreNotSupportedError(f"{callback.name} takes no if_version")
    metadata = check_metadata(call.metadata)
    if "metadata" in values:
        values["metadata"] = metadata
    elif metadata:
        raise StoreNotSupportedError(f"{callback.name} takes no metadata")
    if isinstance(call, Upload):
        values["chunks"] = checked_chunks(call.chunks)
    elif isinstance(call, Put | PutBytes | Write):
        content = encode_body(call.body, call.name, call.key)
        values["body"] = call.body if isinstance(call.body, str) else content
    return values


async def _list_keys(callback: Callback, call: ListKeys) -> list[str]:
    limit, after = call.limit, call.start_after or ""
    if limit == 0:
        return []
    values = {"prefix": call.prefix, "start_after": call.start_after, "context": call.context}
    keys = _checked_keys(callback, await callback(**values, limit=limit), call.prefix)
    if limit is not None and len(keys) <= limit and any(key <= after for key in keys):
        # The callback counted keys up to `start_after` towards the limit, so it may have left others out.
        keys = _checked_keys(callback, await callback(**values, limit=None), call.prefix)
    return sorted(key for key in keys if key > after)[:limit]


def _checked_body(callback: Callback, found: object) -> tuple[bytes, str] | None:
    match found:
        case None:
            return None
        case (bytes() | bytearray() | memoryview() as body, str() as content_type) if header_or_none(
            content_type
        ):
            return bytes(body), content_type
    promised = "a tuple of bytes and a content type in printable ASCII, or None"
    raise _unexpected(callback, promised, found)


def _checked_keys(callback: Callback, keys: object, prefix: str) -> set[str]:
    if not isinstance(keys, Iterable) or isinstance(keys, str | bytes):
        raise _unexpected(callback, "an iterable of str", keys)
    checked = set()
    for key in keys:
        if not isinstance(key, str):
            raise _unexpected(callback, "keys that are str", key)
        if not key.startswith(prefix):
            # Not filtered out: keys relative to the prefix would all vanish, and the list would look empty.
            # The key may be another tenant's, so only the cause, which no caller is shown, names it.
            raise StoreError("on_list returned a key outside the prefix") from ValueError(shown_text(key))
        checked.add(key)
    return checked


def _unexpected(callback: Callback, promised: str, result: object) -> StoreError:
    return StoreError(f"{callback.name} must return {promised}, not {type(result).__name__}")
