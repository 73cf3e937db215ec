"""The general operations of `CustomObjectStore`: by their own callbacks, otherwise derived."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

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
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.custom.callback import Shape

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion
    from starfish_server.storage.custom.callback import Callback

T = TypeVar("T")
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

    async def stat(self, key: str, *, context: StoreContext | None = None) -> ObjectInfo | None:
        if not self.native("stat"):
            return await super().stat(key, context=context)
        found = await self._ready("stat", key)(key=key, context=context)
        return None if found is None else self._checked("stat", key, found, ObjectInfo)

    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> StoredObject | None:
        if not self.native("read"):
            return await super().read(key, start=start, stop=stop, context=context)
        check_range(start, stop)
        found = await self._ready("read", key)(key=key, start=start, stop=stop, context=context)
        return None if found is None else self._checked("read", key, found, StoredObject)

    async def open(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> ObjectReader | None:
        if not self.native("open"):
            return await super().open(key, start=start, stop=stop, context=context)
        check_range(start, stop)
        found = await self._ready("open", key)(key=key, start=start, stop=stop, context=context)
        return None if found is None else self._checked("open", key, found, ObjectReader)

    async def write(
        self,
        key: str,
        body: str | bytes,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> ObjectInfo:
        if not self.native("write"):
            return await super().write(
                key,
                body,
                content_type=content_type,
                cache_control=cache_control,
                metadata=metadata,
                if_version=if_version,
                context=context,
            )
        callback = self._ready("write", key)
        options = self._options("write", key, content_type, cache_control, metadata, if_version)
        encode_body(body, "write", key)  # for its checks
        given = body if isinstance(body, str) else bytes(body)
        info = await callback(key=key, body=given, context=context, **options)
        return self._checked("write", key, info, ObjectInfo)

    async def upload(
        self,
        key: str,
        chunks: Iterable[bytes] | AsyncIterable[bytes],
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> ObjectInfo:
        if not self.native("upload"):
            return await super().upload(
                key,
                chunks,
                content_type=content_type,
                cache_control=cache_control,
                metadata=metadata,
                if_version=if_version,
                context=context,
            )
        callback = self._ready("upload", key)
        options = self._options("upload", key, content_type, cache_control, metadata, if_version)
        check_chunks(chunks, "upload")
        given = checked_chunks(chunks, "upload")
        info = await callback(key=key, chunks=given, context=context, **options)
        return self._checked("upload", key, info, ObjectInfo)

    async def copy(
        self,
        source: str,
        target: str,
        *,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> ObjectInfo:
        if not self.native("copy"):
            return await super().copy(source, target, if_version=if_version, context=context)
        self._ready("copy", source)
        callback = self._ready("copy", target)
        self._check_condition("copy", target, if_version)
        info = await callback(source=source, target=target, if_version=if_version, context=context)
        return self._checked("copy", target, info, ObjectInfo)

    async def list_objects(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        delimiter: str | None = None,
        context: StoreContext | None = None,
    ) -> ObjectList:
        if not self.native("list_objects"):
            return await super().list_objects(
                prefix, start_after=start_after, limit=limit, delimiter=delimiter, context=context
            )
        callback = self._ready("list_objects", prefix)
        check_delimiter(delimiter)
        check_page(start_after, limit, "list_objects", any_text=True)
        found = await callback(
            prefix=prefix, start_after=start_after, limit=limit, delimiter=delimiter, context=context
        )
        return self._checked("list_objects", prefix, found, ObjectList)

    async def signed_url(
        self,
        key: str,
        *,
        method: str = "GET",
        expires: float = 900.0,
        content_type: str | None = None,
        context: StoreContext | None = None,
    ) -> str:
        callback = self._ready("signed_url", key)
        check_url(method, expires)
        check_headers(content_type, None)
        url = await callback(
            key=key, method=method, expires=expires, content_type=content_type, context=context
        )
        return self._checked("signed_url", key, url, str)

    def _options(
        self,
        operation: str,
        key: str,
        content_type: str | None,
        cache_control: str | None,
        metadata: Mapping[str, str] | None,
        if_version: IfVersion,
    ) -> dict[str, object]:
        """Return the checked options of a write; a callback that takes too few of them cannot do it."""
        check_headers(content_type, cache_control)
        kept = check_metadata(metadata)
        self._check_condition(operation, key, if_version)
        if kept and "metadata" not in self._callbacks[operation].takes:
            raise self._lacks(operation, key, "metadata")
        return {
            "content_type": content_type,
            "cache_control": cache_control,
            "metadata": kept,
            "if_version": if_version,
        }

    def _check_condition(self, operation: str, key: str, if_version: IfVersion) -> None:
        check_if_version(if_version)
        if if_version is not ANY and "if_version" not in self._callbacks[operation].takes:
            raise self._lacks(operation, key, "if_version")

    def _lacks(self, operation: str, key: str, option: str) -> StoreNotSupportedError:
        reason = f"{self._callbacks[operation].name} takes no {option}"
        return StoreNotSupportedError(reason, operation=operation, key=key)

    def _checked(self, operation: str, key: str, result: object, kind: type[T]) -> T:
        if isinstance(result, kind):
            return result
        name = self._callbacks[operation].name
        reason = f"{name} must return {kind.__name__}, not {type(result).__name__}"
        raise StoreError(reason, operation=operation, key=key)
