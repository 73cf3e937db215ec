"""The leaf over a store of obstore: checks of arguments, then one call into obstore each."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, Self
from weakref import WeakSet

import obstore
from obstore import store as obstore_stores

from starfish_server.checks import (
    DEFAULT_BYTES_TYPE,
    check_chunks,
    check_delimiter,
    check_header,
    check_headers,
    check_if_version,
    check_keys,
    check_page,
    check_range,
    check_url,
    copy_bytes,
    decode_text,
    encode_body,
    encode_text,
    is_any_key,
    is_key,
    key_checks,
    type_or_default,
)
from starfish_server.errors import ObjectNotFoundError, StoreClosedError, StoreNotSupportedError
from starfish_server.objects import ANY, ObjectInfo, ObjectList, ObjectReader, StoredObject
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.obstore.attributes import attributes_of, listed_info, stored_info
from starfish_server.storage.obstore.clients import Clients, check_client, client_from_url, named
from starfish_server.storage.obstore.conditions import Conditions
from starfish_server.storage.obstore.errors import ask
from starfish_server.storage.obstore.listing import list_all, list_level
from starfish_server.storage.obstore.requests import change, delete_many, delete_one, get_info, get_range, put
from starfish_server.storage.obstore.streams import Download, grouped, make_reader, send_parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping

    from obstore import ObjectMeta
    from obstore.store import ObjectStore

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion

_SIGNERS = (obstore_stores.AzureStore, obstore_stores.GCSStore, obstore_stores.S3Store)
_ORDERED = (obstore_stores.GCSStore, obstore_stores.MemoryStore, obstore_stores.S3Store)
_UNCONDITIONAL = (obstore_stores.HTTPStore, obstore_stores.LocalStore)


class ObstoreObjectStore(AbstractObjectStore):
    """A leaf over a store of obstore, as in `ObstoreObjectStore(obstore.store.GCSStore("bucket"))`.

    obstore provides the backends; keys, order, errors, conditional writes and streams behave as in every
    leaf. obstore retries by itself, as its `retry_config` says, except under a `Retry` layer.
    `docs/leaves.md` lists what each backend lacks.

    store: an obstore store without a prefix of its own; `ValueError` otherwise.
    portable_keys: allow portable keys only, True by default; see `docs/leaves.md`.
    listed_in_order: whether the backend lists keys in byte order, so that a `limit` may end a list early. By
        default True for S3, GCS and memory. A service that breaks this order needs False; an account of
        Azure without hierarchical namespace may have True.
    """

    context_dependent = False

    def __init__(
        self, store: ObjectStore, *, portable_keys: bool = True, listed_in_order: bool | None = None
    ) -> None:
        check_client(store)
        self._check_key, self._check_prefix = key_checks(portable_keys)
        self._is_key = is_key if portable_keys else is_any_key
        self._any_text = not portable_keys
        self._ordered = isinstance(store, _ORDERED) if listed_in_order is None else listed_in_order
        self._store = store
        self._clients = Clients(store)
        self._conditions = Conditions(store)
        self._downloads: WeakSet[Download] = WeakSet()
        self._closed = False

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        client_options: Mapping[str, Any] | None = None,
        max_retries: int | None = None,
        portable_keys: bool = True,
        listed_in_order: bool | None = None,
    ) -> Self:
        """Open "gs://bucket", "az://container" or another URL of obstore, with credentials found by obstore.

        options: of obstore's store, such as `account_name` for Azure.
        client_options: of its HTTP client, such as `timeout` or `allow_http`.
        max_retries: of obstore, 10 by default.

        Raises `StackError` for a URL with a prefix, credentials or a query.
        """
        store = client_from_url(url, options, client_options, max_retries)
        return cls(store, portable_keys=portable_keys, listed_in_order=listed_in_order)

    def __repr__(self) -> str:
        return f"ObstoreObjectStore({named(self._store)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an ObstoreObjectStore is not pickled or copied: make one where it is needed")

    def supports(self, operation: str) -> bool:
        if operation == "signed_url":
            return isinstance(self._store, _SIGNERS)
        if operation == "conditional_write":
            return not isinstance(self._store, _UNCONDITIONAL)
        return super().supports(operation)

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        found = await self._read("get_string", key)
        return None if found is None else decode_text(found.body, "get_string", key)

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        found = await self._read("get_bytes", key)
        return None if found is None else (found.body, found.info.content_type or DEFAULT_BYTES_TYPE)

    async def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        encode_text(body, "put", key)
        await self._write("put", key, body, content_type, cache_control)

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
        await self._write("put_bytes", key, copy_bytes(body, "put_bytes"), content_type, cache_control)

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        found = await self._list("list_keys", prefix, start_after, limit)
        return [meta["path"] for meta in found]

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        await delete_one(self._enter("delete", key), "delete", key)

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        client = self._open_client("delete_many", None)
        await delete_many(client, check_keys(keys, self._check_key))

    async def stat(self, key: str, *, context: StoreContext | None = None) -> ObjectInfo | None:
        return await get_info(self._enter("stat", key), "stat", key)

    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> StoredObject | None:
        check_range(start, stop)
        return await self._read("read", key, start, stop)

    async def open(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> ObjectReader | None:
        check_range(start, stop)
        found = await get_range(self._enter("open", key), "open", key, start, stop)
        return None if found is None else make_reader(*found, self._downloads)

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
        return await self._write("write", key, body, content_type, cache_control, metadata, if_version)

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
        """Store the chunks in parts of 8 MiB, four in flight. A conditional upload is gathered in memory."""
        client = self._enter("upload", key)
        check_headers(content_type, cache_control)
        kind = type_or_default(content_type, b"")
        attributes = attributes_of(client, kind, cache_control, metadata, "upload", key)
        if if_version is not ANY:
            options: dict[str, Any] = {"content_type": kind, "cache_control": cache_control}
            options |= {"metadata": metadata, "if_version": if_version}
            return await super().upload(key, chunks, **options)
        check_chunks(chunks, "upload")
        parts = grouped(chunks, "upload")
        try:
            result, size = await send_parts(client, "upload", key, parts, attributes)
        finally:
            await parts.aclose()
        return stored_info(client, key, size, attributes, result)

    async def copy(
        self, source: str, target: str, *, if_version: IfVersion = ANY, context: StoreContext | None = None
    ) -> ObjectInfo:
        """Copy by the backend; a conditional copy reads and writes."""
        client = self._enter("copy", source)
        self._check_key(target, "copy")
        check_if_version(if_version)
        if if_version is not ANY:
            return await super().copy(source, target, if_version=if_version)
        missing = ObjectNotFoundError("there is no object to copy", operation="copy", key=source)
        if source != target:
            try:
                await change("copy", source, obstore.copy_async, client, source, target)
            except ObjectNotFoundError:
                raise missing from None
        info = await get_info(client, "copy", target)
        if info is None:
            raise missing
        return info

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
        prefixes: list[str] = []
        if delimiter is None:
            found = await self._list("list_objects", prefix, start_after, limit)
        else:
            client = self._check_list("list_objects", prefix, start_after, limit)
            found, prefixes = await list_level(client, prefix, start_after, limit, self._is_key)
        infos = [listed_info(self._store, meta) for meta in found]
        return ObjectList(infos, prefixes)

    async def signed_url(
        self,
        key: str,
        *,
        method: str = "GET",
        expires: float = 900.0,
        content_type: str | None = None,
        context: StoreContext | None = None,
    ) -> str:
        """Return a URL signed by obstore: of S3, GCS and Azure; it cannot demand a content type."""
        client = self._enter("signed_url", key)
        check_url(method, expires)
        if not self.supports("signed_url") or content_type is not None:
            what = "sign a content type" if content_type is not None else f"sign URLs of {named(self._store)}"
            raise StoreNotSupportedError(f"obstore cannot {what}", operation="signed_url", key=key)
        lifetime = timedelta(seconds=expires)
        return await ask("signed_url", key, obstore.sign_async, client, method, key, lifetime)

    async def close(self) -> None:
        """Refuse further operations and end open readers. obstore closes connections once they are idle."""
        self._closed = True
        for download in list(self._downloads):
            download.close_store()

    async def _read(
        self, operation: str, key: str, start: int = 0, stop: int | None = None
    ) -> StoredObject | None:
        found = await get_range(self._enter(operation, key), operation, key, start, stop)
        if found is None:
            return None
        info, result = found
        body = b"" if result is None else bytes(await ask(operation, key, result.bytes_async))
        return StoredObject(info, body)

    async def _write(
        self,
        operation: str,
        key: str,
        body: str | bytes,
        content_type: str | None,
        cache_control: str | None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
    ) -> ObjectInfo:
        client = self._enter(operation, key)
        check_headers(content_type, cache_control)
        check_if_version(if_version)
        content = encode_body(body, operation, key)
        kind = type_or_default(content_type, body)
        attributes = attributes_of(client, kind, cache_control, metadata, operation, key)
        if if_version is ANY:
            result = await put(client, operation, key, content, attributes)
        else:
            result = await self._conditions.put(client, operation, key, content, if_version, attributes)
        return stored_info(client, key, len(content), attributes, result)

    async def _list(
        self, operation: str, prefix: str, start_after: str | None, limit: int | None
    ) -> list[ObjectMeta]:
        client = self._check_list(operation, prefix, start_after, limit)
        return await list_all(
            client, operation, prefix, start_after, limit, ordered=self._ordered, is_key=self._is_key
        )

    def _check_list(self, operation: str, prefix: str, start_after: str | None, limit: int | None) -> Any:
        client = self._open_client(operation, prefix)
        self._check_prefix(prefix, operation)
        check_page(start_after, limit, operation, any_text=self._any_text)
        return client

    def _enter(self, operation: str, key: str) -> Any:
        """Check the key, and return the client to use now."""
        client = self._open_client(operation, key)
        self._check_key(key, operation)
        return client

    def _open_client(self, operation: str, key: str | None) -> Any:
        if self._closed:
            raise StoreClosedError("this ObstoreObjectStore was closed", operation=operation, key=key)
        return self._clients.current()
