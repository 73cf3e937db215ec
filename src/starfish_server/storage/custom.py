"""`CustomObjectStore`: a leaf made of callbacks."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from starfish_server.checks import (
    check_any_key,
    check_any_prefix,
    check_header,
    check_headers,
    check_key,
    check_keys,
    check_page,
    check_prefix,
    check_version,
    copy_bytes,
    encode_text,
    flag,
)
from starfish_server.errors import (
    DeleteManyError,
    StoreClosedError,
    StoreError,
    StoreNotSupportedError,
)
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.callback import Callback

if TYPE_CHECKING:
    from starfish_server.context import StoreContext

__all__ = ["CustomObjectStore"]

_HEADERS = ("content_type", "cache_control")


class CustomObjectStore(AbstractObjectStore):
    """A leaf made of callbacks, plain or async, any of them left out.

    on_get(key) -> str | None
    on_put(key, body)
    on_list(prefix, start_after, limit) -> iterable of keys, in any order
    on_delete(key)
    on_delete_many(keys); without it, `on_delete` is called for each key
    on_get_bytes(key) -> tuple[bytes, str] | None: body and content type
    on_put_bytes(key, body)
    on_get_versioned(key) -> tuple[str, str] | None: text and version
    on_put_if(key, body, version) -> str: the new version; raises `VersionConflictError` if it does not hold
    on_close(): called once
    portable_keys: refuse keys outside the key rules; False (the default) lets any text of 1 to 1,024 UTF-8
        bytes through.

    An operation without its callback raises `StoreNotSupportedError`. A callback gets the `StoreContext` in a
    further positional parameter that is required, named `ctx`, `_ctx` or `context`, or annotated
    `StoreContext`, in `*args`, or in a keyword-only parameter of such a name; an optional parameter of any
    other name keeps its default. `content_type` and `cache_control` go to the callbacks of `put`, `put_bytes`
    and `put_if` that name them or take `**kwargs`. A callback that cannot be called so is a `TypeError` here.

    `on_list` may ignore `start_after` and `limit` (None: all), or leave them out: its result is sorted, and
    cut to what was asked. If it keeps to `limit`, it returns the first keys in byte order. Plain callbacks
    run on the event loop, so they must not block. What a callback raises is passed on as it is; a result of
    the wrong type is a `StoreError`.
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
        def callback(
            function: Callable[..., Any] | None, name: str, *given: str, **more: Any
        ) -> Callback | None:
            return None if function is None else Callback(function, name, given, **more)

        self._on_get = callback(on_get, "on_get", "key")
        self._on_put = callback(on_put, "on_put", "key", "body", offered=_HEADERS)
        self._on_list = callback(on_list, "on_list", "prefix", optional=("start_after", "limit"))
        self._on_delete = callback(on_delete, "on_delete", "key")
        self._on_get_bytes = callback(on_get_bytes, "on_get_bytes", "key")
        self._on_put_bytes = callback(on_put_bytes, "on_put_bytes", "key", "body", offered=_HEADERS)
        self._on_delete_many = callback(on_delete_many, "on_delete_many", "keys")
        self._on_get_versioned = callback(on_get_versioned, "on_get_versioned", "key")
        self._on_put_if = callback(on_put_if, "on_put_if", "key", "body", "version", offered=_HEADERS)
        if on_close is not None:
            with contextlib.suppress(ValueError):  # a builtin without a signature
                try:
                    inspect.signature(on_close).bind()
                except TypeError as error:
                    raise TypeError(f"on_close must be callable without arguments: {error}") from error
        self._on_close = on_close
        self._portable = flag("portable_keys", portable_keys)
        self._check_key = check_key if portable_keys else check_any_key
        self._check_prefix = check_prefix if portable_keys else check_any_prefix
        reading = (self._on_get, self._on_get_bytes, self._on_get_versioned, self._on_list)
        self.context_dependent = any(callback is not None and callback.takes_context for callback in reading)
        self._closed = False

    def supports(self, operation: str) -> bool:
        callbacks = {
            "get_string": self._on_get,
            "put": self._on_put,
            "list_keys": self._on_list,
            "delete": self._on_delete,
            "delete_many": self._on_delete_many or self._on_delete,
            "get_bytes": self._on_get_bytes,
            "put_bytes": self._on_put_bytes,
            "get_versioned": self._on_get_versioned,
            "put_if": self._on_put_if,
        }
        return callbacks.get(operation) is not None

    def __repr__(self) -> str:
        given = [
            name[1:] for name in vars(self) if name.startswith("_on_") and getattr(self, name) is not None
        ]
        return f"CustomObjectStore({', '.join(given)})"

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        callback = self._ready(self._on_get, "get_string", key)
        self._check_key(key, "get_string")
        body = await callback({"key": key, "context": context})
        if body is None or isinstance(body, str):
            return body
        raise _broken("on_get", "a str or None", body, "get_string", key)

    async def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        callback = self._ready(self._on_put, "put", key)
        self._check_key(key, "put")
        check_headers(content_type, cache_control)
        encode_text(body, "put", key)
        headers = {"content_type": content_type, "cache_control": cache_control}
        await callback({"key": key, "body": body, "context": context, **headers})

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        callback = self._ready(self._on_list, "list_keys", prefix)
        self._check_prefix(prefix, "list_keys")
        check_page(start_after, limit, any_text=not self._portable)
        if limit == 0:
            return []
        asked = {"prefix": prefix, "start_after": start_after, "limit": limit, "context": context}
        keys = _checked_keys(await callback(asked), prefix)
        after = start_after or ""
        if limit is not None and len(keys) <= limit and any(key <= after for key in keys):
            # It counted keys that were not asked for against the limit, so others may be missing.
            keys = _checked_keys(await callback({**asked, "limit": None}), prefix)
        return sorted(key for key in keys if key > after)[:limit]

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        callback = self._ready(self._on_delete, "delete", key)
        self._check_key(key, "delete")
        await callback({"key": key, "context": context})

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        together = self._on_delete_many
        callback = self._ready(together or self._on_delete, "delete_many", None)
        keys = check_keys(keys, self._check_key)
        if together is not None:
            await callback({"keys": keys, "context": context})
            return
        failures: dict[str, Exception] = {}
        for key in keys:
            try:
                await callback({"key": key, "context": context})
            except Exception as error:  # noqa: BLE001 - whatever a callback raises is this key's failure
                failures[key] = error
        if failures:
            raise DeleteManyError(failures)

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        callback = self._ready(self._on_get_bytes, "get_bytes", key)
        self._check_key(key, "get_bytes")
        found = await callback({"key": key, "context": context})
        match found:
            case None:
                return None
            case (bytes() | bytearray() | memoryview() as body, str() as content_type):
                try:
                    check_header("content_type", content_type)
                except ValueError as error:
                    raise StoreError(f"on_get_bytes: {error}", operation="get_bytes", key=key) from error
                return bytes(body), content_type
        raise _broken("on_get_bytes", "a tuple of bytes and content type, or None", found, "get_bytes", key)

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        callback = self._ready(self._on_put_bytes, "put_bytes", key)
        self._check_key(key, "put_bytes")
        check_header("content_type", content_type)
        check_headers(None, cache_control)
        body = copy_bytes(body, "put_bytes")
        headers = {"content_type": content_type, "cache_control": cache_control}
        await callback({"key": key, "body": body, "context": context, **headers})

    async def get_versioned(self, key: str, *, context: StoreContext | None = None) -> tuple[str, str] | None:
        callback = self._ready(self._on_get_versioned, "get_versioned", key)
        self._check_key(key, "get_versioned")
        found = await callback({"key": key, "context": context})
        match found:
            case None:
                return None
            case (str() as body, str() as version):
                return body, version
        promised = "a tuple of text and version, or None"
        raise _broken("on_get_versioned", promised, found, "get_versioned", key)

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
        callback = self._ready(self._on_put_if, "put_if", key)
        self._check_key(key, "put_if")
        check_version(version)
        check_headers(content_type, cache_control)
        encode_text(body, "put_if", key)
        headers = {"content_type": content_type, "cache_control": cache_control}
        written = await callback(
            {"key": key, "body": body, "version": version, "context": context, **headers}
        )
        if isinstance(written, str):
            return written
        raise _broken("on_put_if", "the new version, a str", written, "put_if", key)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._on_close is not None:
            result = self._on_close()
            if inspect.isawaitable(result):
                await result

    def _ready(self, callback: Callback | None, operation: str, key: str | None) -> Callback:
        if self._closed:
            raise StoreClosedError("this CustomObjectStore was closed", operation=operation, key=key)
        if callback is None:
            raise StoreNotSupportedError(
                f"this CustomObjectStore has no callback for {operation}", operation=operation, key=key
            )
        return callback


def _checked_keys(keys: object, prefix: str) -> set[str]:
    if not isinstance(keys, Iterable) or isinstance(keys, str | bytes):
        raise _broken("on_list", "an iterable of str", keys, "list_keys", prefix)
    checked = set()
    for key in keys:
        if not isinstance(key, str):
            raise _broken("on_list", "keys that are str", key, "list_keys", prefix)
        if not key.startswith(prefix):
            raise StoreError(
                f"on_list returned {key!r}, which does not begin with {prefix!r}",
                operation="list_keys",
                key=prefix,
            )
        checked.add(key)
    return checked


def _broken(name: str, promised: str, result: object, operation: str, key: str) -> StoreError:
    return StoreError(
        f"{name} must return {promised}, not {type(result).__name__}", operation=operation, key=key
    )
