"""`MemoryObjectStore`: objects in a dict of this process."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from starfish_server.checks import (
    DEFAULT_BYTES_TYPE,
    check_delimiter,
    check_header,
    check_headers,
    check_if_version,
    check_keys,
    check_metadata,
    check_page,
    check_range,
    check_unchanged,
    copy_bytes,
    decode_text,
    encode_body,
    key_checks,
    type_or_default,
    version_of,
)
from starfish_server.errors import StoreClosedError
from starfish_server.forks import reset_in_child
from starfish_server.objects import ANY, ObjectInfo, ObjectList, StoredObject, one_level
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.custom import CustomObjectStore

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion

__all__ = ["CustomObjectStore", "MemoryObjectStore"]


class _Text(str):
    """Text with its stored attributes; equal to the plain str."""

    __slots__ = ("info",)
    info: ObjectInfo


class _Bytes(bytes):
    """Bytes with their stored attributes; equal to the plain bytes."""

    info: ObjectInfo


_versions = itertools.count(1)
_shared: dict[str, str | bytes] = {}


class _Changes:
    """The lock held around each change, so that a conditional write is atomic, even between threads."""

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        self.lock = threading.Lock()


_changes = _Changes()


class MemoryObjectStore(AbstractObjectStore):
    """A leaf that keeps objects in a dict; they are gone when the process ends.

    data: the dict that backs the store. Writes appear in it as str or bytes, and values added to it are
        objects. Without it, all stores of the process share one dict; `data={}` gives a separate store.
    portable_keys: allow portable keys only, True by default; see `docs/leaves.md`.
    """

    context_dependent = False

    def __init__(
        self,
        data: MutableMapping[str, str] | MutableMapping[str, str | bytes] | None = None,
        *,
        portable_keys: bool = True,
    ) -> None:
        self._data = cast("MutableMapping[str, str | bytes]", _shared if data is None else data)
        self._check_key, self._check_prefix = key_checks(portable_keys)
        self._any_text = not portable_keys
        self._closed = False

    def __repr__(self) -> str:
        return f"MemoryObjectStore({'shared' if self._data is _shared else f'{len(self._data)} objects'})"

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        self._enter("get_string", key)
        body = self._data.get(key)
        if isinstance(body, bytes):
            return decode_text(body, "get_string", key)
        # Not `str(body)`: a subclass of str may define another `__str__`.
        return None if body is None else str.__str__(body)

    async def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        if not isinstance(body, str):
            raise TypeError(f"put takes a str body, not {type(body).__name__}; put_bytes takes bytes")
        self._store("put", key, body, content_type, cache_control)

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        return self._list("list_keys", prefix, start_after, limit)[:limit]

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        self._enter("delete", key)
        with _changes.lock:
            self._data.pop(key, None)

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        self._check_open("delete_many", None)
        for key in check_keys(keys, self._check_key):
            with _changes.lock:
                self._data.pop(key, None)

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        found = self._find("get_bytes", key)
        return None if found is None else (found.body, found.info.content_type or DEFAULT_BYTES_TYPE)

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        check_header("content_type", content_type)
        self._store("put_bytes", key, copy_bytes(body, "put_bytes"), content_type, cache_control)

    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> StoredObject | None:
        check_range(start, stop)
        found = self._find("read", key)
        return None if found is None else StoredObject(found.info, found.body[start:stop])

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
        check_if_version(if_version)
        return self._store("write", key, body, content_type, cache_control, metadata, if_version)

    async def copy(
        self, source: str, target: str, *, if_version: IfVersion = ANY, context: StoreContext | None = None
    ) -> ObjectInfo:
        self._enter("copy", target)
        return await super().copy(source, target, if_version=if_version, context=context)

    async def list_objects(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        delimiter: str | None = None,
        context: StoreContext | None = None,
    ) -> ObjectList:
        check_delimiter(delimiter)
        keys = self._list("list_objects", prefix, start_after, limit)
        infos = [_info(key, body) for key in keys if (body := self._data.get(key)) is not None]
        if delimiter is None:
            return ObjectList(infos[:limit])
        return one_level(infos, prefix, start_after, limit)

    async def close(self) -> None:
        """Refuse further operations; the dict is left unchanged."""
        self._closed = True

    def _list(self, operation: str, prefix: str, start_after: str | None, limit: int | None) -> list[str]:
        self._check_open(operation, prefix)
        self._check_prefix(prefix, operation)
        check_page(start_after, limit, operation, any_text=self._any_text)
        after = start_after or ""
        keys = [key for key in list(self._data) if key.startswith(prefix) and key > after]
        return sorted(keys)  # valid Unicode sorts by code point as its UTF-8 does

    def _find(self, operation: str, key: str) -> StoredObject | None:
        self._enter(operation, key)
        body = self._data.get(key)
        if body is None:
            return None
        content = body.encode() if isinstance(body, str) else bytes(body)
        return StoredObject(_info(key, body), content)

    def _store(
        self,
        operation: str,
        key: str,
        body: str | bytes,
        content_type: str | None,
        cache_control: str | None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
    ) -> ObjectInfo:
        self._enter(operation, key)
        check_headers(content_type, cache_control)
        kept = check_metadata(metadata)
        content = encode_body(body, operation, key)
        stored = _Text(content, "utf-8") if isinstance(body, str) else _Bytes(content)
        kind = type_or_default(content_type, body)
        with _changes.lock:
            before = self._data.get(key)
            found = None if before is None else _info(key, before).version
            check_unchanged(if_version, found, operation, key)
            version, now = str(next(_versions)), datetime.now(UTC)
            stored.info = ObjectInfo(key, len(content), kind, cache_control, kept, version, now)
            self._data[key] = stored
        return stored.info

    def _enter(self, operation: str, key: str) -> None:
        self._check_open(operation, key)
        self._check_key(key, operation)

    def _check_open(self, operation: str, key: str | None) -> None:
        if self._closed:
            raise StoreClosedError("this MemoryObjectStore was closed", operation=operation, key=key)


def _info(key: str, body: str | bytes) -> ObjectInfo:
    """Return the info of a stored object, or of a value added to the dict directly."""
    if isinstance(body, _Text | _Bytes):
        return body.info if body.info.key == key else replace(body.info, key=key)
    content = encode_body(body, "read", key)
    return ObjectInfo(key, len(content), type_or_default(None, body), version=version_of(content))
