"""`MemoryObjectStore`: objects in a dict of this process."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, cast

from starfish_server.checks import (
    DEFAULT_BYTES_TYPE,
    DEFAULT_TEXT_TYPE,
    check_header,
    check_headers,
    check_key,
    check_keys,
    check_page,
    check_prefix,
    check_version,
    conflict,
    copy_bytes,
    decode_text,
    encode_text,
    version_of,
)
from starfish_server.errors import StoreClosedError
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.custom import CustomObjectStore

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from starfish_server.context import StoreContext

__all__ = ["CustomObjectStore", "MemoryObjectStore"]


class _Text(str):
    """Text with its content type; equal to the plain str."""

    __slots__ = ("content_type",)
    content_type: str


class _Bytes(bytes):
    """Bytes with their content type; equal to the plain bytes."""

    content_type: str


_shared: dict[str, str | bytes] = {}
# Held around each change, so that no other thread writes between the comparison and the write of `put_if`.
_writing = threading.Lock()


def _renew_lock() -> None:
    """Replace the lock in a forked child: a thread of the parent may have held it during the fork."""
    global _writing  # noqa: PLW0603 - a lock that another thread holds cannot be released
    _writing = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class MemoryObjectStore(AbstractObjectStore):
    """A leaf that keeps objects in a dict; they are gone when the process ends.

    data: the dict that backs the store. Writes appear in it as str or bytes, and values added to it are
        objects. Without it, all stores of the process share one dict; `data={}` gives a separate store.
    """

    context_dependent = False

    def __init__(
        self, data: MutableMapping[str, str] | MutableMapping[str, str | bytes] | None = None
    ) -> None:
        self._data = cast("MutableMapping[str, str | bytes]", _shared if data is None else data)
        self._closed = False

    def __repr__(self) -> str:
        return f"MemoryObjectStore({'shared' if self._data is _shared else f'{len(self._data)} objects'})"

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        self._check_open("get_string", key)
        check_key(key, "get_string")
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
        self._check_open("put", key)
        check_key(key, "put")
        check_headers(content_type, cache_control)
        text = _Text(encode_text(body, "put", key), "utf-8")
        text.content_type = content_type or DEFAULT_TEXT_TYPE
        with _writing:
            self._data[key] = text

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        self._check_open("list_keys", prefix)
        check_prefix(prefix, "list_keys")
        check_page(start_after, limit)
        after = start_after or ""
        return sorted(key for key in list(self._data) if key.startswith(prefix) and key > after)[:limit]

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        self._check_open("delete", key)
        check_key(key, "delete")
        with _writing:
            self._data.pop(key, None)

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        self._check_open("delete_many", None)
        for key in check_keys(keys):
            with _writing:
                self._data.pop(key, None)

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        self._check_open("get_bytes", key)
        check_key(key, "get_bytes")
        body = self._data.get(key)
        if body is None:
            return None
        if isinstance(body, bytes):
            return bytes(body), getattr(body, "content_type", DEFAULT_BYTES_TYPE)
        return body.encode(), getattr(body, "content_type", DEFAULT_TEXT_TYPE)

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        self._check_open("put_bytes", key)
        check_key(key, "put_bytes")
        check_header("content_type", content_type)
        check_headers(None, cache_control)
        stored = _Bytes(copy_bytes(body, "put_bytes"))
        stored.content_type = content_type
        with _writing:
            self._data[key] = stored

    async def get_versioned(self, key: str, *, context: StoreContext | None = None) -> tuple[str, str] | None:
        self._check_open("get_versioned", key)
        check_key(key, "get_versioned")
        found = _body_of(self._data.get(key))
        return None if found is None else (decode_text(found, "get_versioned", key), version_of(found))

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
        self._check_open("put_if", key)
        check_key(key, "put_if")
        check_version(version)
        check_headers(content_type, cache_control)
        content = encode_text(body, "put_if", key)
        text = _Text(content, "utf-8")
        text.content_type = content_type or DEFAULT_TEXT_TYPE
        with _writing:
            found = _body_of(self._data.get(key))
            if (None if found is None else version_of(found)) != version:
                raise conflict(key, version, found is not None)
            self._data[key] = text
        return version_of(content)

    async def close(self) -> None:
        """Refuse further operations; the dict stays as it is."""
        self._closed = True

    def _check_open(self, operation: str, key: str | None) -> None:
        if self._closed:
            raise StoreClosedError("this MemoryObjectStore was closed", operation=operation, key=key)


def _body_of(stored: str | bytes | None) -> bytes | None:
    return stored.encode() if isinstance(stored, str) else stored
