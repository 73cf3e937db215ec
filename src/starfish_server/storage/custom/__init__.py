"""`CustomObjectStore`: a leaf made of callbacks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, cast

from starfish_server.checks import (
    check_header,
    check_headers,
    check_key,
    check_keys,
    check_page,
    check_prefix,
    check_text,
    check_version,
    copy_bytes,
    encode_text,
    flag,
    header_or_none,
)
from starfish_server.errors import (
    DeleteManyError,
    StoreClosedError,
    StoreError,
    StoreNotSupportedError,
    shown_text,
)
from starfish_server.operations import OPERATIONS
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.custom.callback import Callback, Shape

if TYPE_CHECKING:
    from starfish_server.context import StoreContext

__all__ = ["CustomObjectStore"]

_HEADERS = ("content_type", "cache_control")


class CustomObjectStore(AbstractObjectStore):
    """A leaf made of callbacks, plain or async. An operation without its callback is not supported.

    on_get(key) -> str | None
    on_put(key, body)
    on_list(prefix, start_after, limit) -> an iterable of keys, in any order
    on_delete(key)
    on_delete_many(keys): if left out, `on_delete` is called for each key
    on_get_bytes(key) -> tuple[bytes, str] | None: body and content type
    on_put_bytes(key, body)
    on_get_versioned(key) -> tuple[str, str] | None: text and version
    on_put_if(key, body, version) -> str: the new version. Raises `VersionConflictError` if `version` does not
        hold.
    on_close(): called once
    portable_keys: refuse keys outside the key rules. By default any text of 1 to 1,024 UTF-8 bytes passes.

    The `StoreContext` goes to one further positional parameter that is required or, in a Python function, has
    the default None; to a parameter that is named `ctx`, `_ctx` or `context` or annotated `StoreContext`; and
    to `*args`. `content_type` and `cache_control` go to parameters of these names and to `**kwargs`. Raises
    `TypeError` for a callback that cannot be called this way.

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
        on_get_versioned: Callable[..., tuple[str, str] | Awaitable[tuple[str, str] | None] | None]
        | None = None,
        on_put_if: Callable[..., str | Awaitable[str]] | None = None,
        on_close: Callable[[], object] | None = None,
        portable_keys: bool = False,
    ) -> None:
        shapes: dict[str, tuple[Callable[..., object] | None, Shape]] = {
            "get_string": (on_get, Shape("on_get", ("key",))),
            "put": (on_put, Shape("on_put", ("key", "body"), named=_HEADERS)),
            "list_keys": (on_list, Shape("on_list", ("prefix",), ("start_after", "limit", "context"))),
            "delete": (on_delete, Shape("on_delete", ("key",))),
            "delete_many": (on_delete_many, Shape("on_delete_many", ("keys",))),
            "get_bytes": (on_get_bytes, Shape("on_get_bytes", ("key",))),
            "put_bytes": (on_put_bytes, Shape("on_put_bytes", ("key", "body"), named=_HEADERS)),
            "get_versioned": (on_get_versioned, Shape("on_get_versioned", ("key",))),
            "put_if": (on_put_if, Shape("on_put_if", ("key", "body", "version"), named=_HEADERS)),
            "close": (on_close, Shape("on_close", (), ())),
        }
        self._callbacks = {
            operation: Callback(function, shape)
            for operation, (function, shape) in shapes.items()
            if function is not None
        }
        if "delete" in self._callbacks:
            self._callbacks.setdefault("delete_many", self._callbacks["delete"])
        self.context_dependent = any(
            "context" in callback.takes and not OPERATIONS[operation].writes
            for operation, callback in self._callbacks.items()
        )
        self._portable = flag("portable_keys", portable_keys)
        self._check_key = check_key if portable_keys else partial(check_text, "key")
        self._check_prefix = check_prefix if portable_keys else partial(check_text, "prefix")
        self._closed = False

    def supports(self, operation: str) -> bool:
        return operation in self._callbacks

    def __repr__(self) -> str:
        names = dict.fromkeys(callback.name for callback in self._callbacks.values())
        return f"CustomObjectStore({', '.join(names)})"

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        callback = self._ready("get_string", key)
        body = await callback(key=key, context=context)
        if body is None or isinstance(body, str):
            return body
        raise _unexpected(callback, "a str or None", body, "get_string", key)

    async def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        callback = self._ready("put", key)
        check_headers(content_type, cache_control)
        encode_text(body, "put", key)
        headers = {"content_type": content_type, "cache_control": cache_control}
        await callback(key=key, body=body, context=context, **headers)

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        callback = self._ready("list_keys", prefix)
        check_page(start_after, limit, any_text=not self._portable)
        if limit == 0:
            return []
        values = {"prefix": prefix, "start_after": start_after, "context": context}
        keys = _checked_keys(callback, await callback(**values, limit=limit), prefix)
        after = start_after or ""
        if limit is not None and len(keys) <= limit and any(key <= after for key in keys):
            # The callback counted keys up to `start_after` towards the limit, so it may have left others out.
            keys = _checked_keys(callback, await callback(**values, limit=None), prefix)
        return sorted(key for key in keys if key > after)[:limit]

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        callback = self._ready("delete", key)
        await callback(key=key, context=context)

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        callback = self._ready("delete_many", None)
        keys = check_keys(keys, self._check_key)
        if callback is not self._callbacks.get("delete"):
            await callback(keys=keys, context=context)
            return
        failures: dict[str, Exception] = {}
        for key in keys:
            try:
                await callback(key=key, context=context)
            except Exception as error:  # noqa: BLE001 - a callback may raise anything
                failures[key] = error
        if failures:
            raise DeleteManyError(failures)

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        callback = self._ready("get_bytes", key)
        found = await callback(key=key, context=context)
        match found:
            case None:
                return None
            case (bytes() | bytearray() | memoryview() as body, content_type) if header_or_none(content_type):
                return bytes(body), content_type
        promised = "a tuple of bytes and a content type in printable ASCII, or None"
        raise _unexpected(callback, promised, found, "get_bytes", key)

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        callback = self._ready("put_bytes", key)
        check_header("content_type", content_type)
        check_headers(None, cache_control)
        body = copy_bytes(body, "put_bytes")
        headers = {"content_type": content_type, "cache_control": cache_control}
        await callback(key=key, body=body, context=context, **headers)

    async def get_versioned(self, key: str, *, context: StoreContext | None = None) -> tuple[str, str] | None:
        callback = self._ready("get_versioned", key)
        found = await callback(key=key, context=context)
        match found:
            case None:
                return None
            case (str() as body, str() as version):
                return body, version
        raise _unexpected(callback, "a tuple of text and version, or None", found, "get_versioned", key)

    async def put_if(
        self,
        key: str,
        body: str,
        *,
        version: str | None,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> str:
        callback = self._ready("put_if", key)
        check_version(version)
        check_headers(content_type, cache_control)
        encode_text(body, "put_if", key)
        headers = {"content_type": content_type, "cache_control": cache_control}
        written = await callback(key=key, body=body, version=version, context=context, **headers)
        if isinstance(written, str):
            return written
        raise _unexpected(callback, "the new version, a str", written, "put_if", key)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            if callback := self._callbacks.get("close"):
                await callback()

    def _ready(self, operation: str, key: str | None) -> Callback:
        """Return the callback of an operation, with its key or prefix checked (`delete_many` has none)."""
        if self._closed:
            raise StoreClosedError("this CustomObjectStore is closed", operation=operation, key=key)
        if operation not in self._callbacks:
            raise StoreNotSupportedError("there is no callback for it", operation=operation, key=key)
        if operation == "list_keys":
            self._check_prefix(cast("str", key), operation)
        elif operation != "delete_many":
            self._check_key(cast("str", key), operation)
        return self._callbacks[operation]


def _checked_keys(callback: Callback, keys: object, prefix: str) -> set[str]:
    if not isinstance(keys, Iterable) or isinstance(keys, str | bytes):
        raise _unexpected(callback, "an iterable of str", keys, "list_keys", prefix)
    checked = set()
    for key in keys:
        if not isinstance(key, str):
            raise _unexpected(callback, "keys that are str", key, "list_keys", prefix)
        if not key.startswith(prefix):
            # Not filtered out: keys relative to the prefix would all vanish, and the list would look empty.
            reason = f"on_list returned {shown_text(key)}, which is outside the prefix"
            raise StoreError(reason, operation="list_keys", key=prefix)
        checked.add(key)
    return checked


def _unexpected(callback: Callback, promised: str, result: object, operation: str, key: str) -> StoreError:
    reason = f"{callback.name} must return {promised}, not {type(result).__name__}"
    return StoreError(reason, operation=operation, key=key)
