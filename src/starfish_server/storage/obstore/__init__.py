"""`ObstoreObjectStore`: any store of the obstore package: GCS, Azure Blob Storage, HTTP, S3 and others."""

from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, Self
from weakref import WeakSet

try:
    import obstore
    from obstore import store as obstore_stores
except ImportError as error:
    raise ImportError("ObstoreObjectStore needs obstore: pip install 'starfish-server[obstore]'") from error

import starfish_server.storage.derived as derived
from starfish_server.checks import (
    DEFAULT_BYTES_TYPE,
    check_keys,
    decode_text,
    encode_body,
    flag,
    is_any_key,
    is_key,
)
from starfish_server.chunks import grouped
from starfish_server.context import retries_outside
from starfish_server.errors import ObjectNotFoundError, StoreError, StoreNotSupportedError
from starfish_server.objects import ANY, ObjectInfo, ObjectList, ObjectReader, StoredObject
from starfish_server.operations import Read, Write
from starfish_server.storage.leaf import Leaf
from starfish_server.storage.obstore.clients import check_client, client_from_url, named, without_retries
from starfish_server.storage.obstore.conditions import Conditions
from starfish_server.storage.obstore.errors import ask
from starfish_server.storage.obstore.listing import list_all, list_level
from starfish_server.storage.obstore.requests import (
    attributes_of,
    change,
    delete_many,
    delete_one,
    get_info,
    get_range,
    listed_info,
    put,
    stored_info,
)
from starfish_server.storage.obstore.streams import PART_BYTES, Download, make_reader, send_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore import ObjectMeta
    from obstore.store import ObjectStore

    from starfish_server.operations import (
        Copy,
        Delete,
        DeleteMany,
        GetBytes,
        GetString,
        ListKeys,
        ListObjects,
        Open,
        Put,
        PutBytes,
        SignedUrl,
        Stat,
        Upload,
    )

__all__ = ["ObstoreObjectStore"]

_SIGNERS = (obstore_stores.AzureStore, obstore_stores.GCSStore, obstore_stores.S3Store)
_ORDERED = (obstore_stores.GCSStore, obstore_stores.MemoryStore, obstore_stores.S3Store)
_UNCONDITIONAL = (obstore_stores.HTTPStore, obstore_stores.LocalStore)


class ObstoreObjectStore(Leaf):
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

    def __init__(
        self, store: ObjectStore, *, portable_keys: bool = True, listed_in_order: bool | None = None
    ) -> None:
        check_client(store)
        super().__init__(portable_keys=portable_keys)
        self._is_key = is_key if portable_keys else is_any_key
        if listed_in_order is None:
            self._ordered = isinstance(store, _ORDERED)
        else:
            self._ordered = flag("listed_in_order", listed_in_order)
        self._store = store
        self._conditions = Conditions(store)
        self._downloads: WeakSet[Download] = WeakSet()

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

    def _client(self) -> Any:
        """Return the store to use now: the one without retries if a layer outside retries."""
        return self._single if retries_outside.get() else self._store

    @cached_property
    def _single(self) -> Any:
        return without_retries(self._store)

    def supports(self, operation: str) -> bool:
        if operation == "signed_url":
            return isinstance(self._store, _SIGNERS)
        if operation == "conditional_write":
            return not isinstance(self._store, _UNCONDITIONAL)
        return super().supports(operation)

    async def _get_string(self, call: GetString) -> str | None:
        found = await self._read(Read(call.key))
        return None if found is None else decode_text(found.body, "get_string", call.key)

    async def _get_bytes(self, call: GetBytes) -> tuple[bytes, str] | None:
        found = await self._read(Read(call.key))
        return None if found is None else (found.body, found.info.content_type or DEFAULT_BYTES_TYPE)

    async def _put(self, call: Put | PutBytes) -> None:
        await self._write(call)

    _put_bytes = _put

    async def _list_keys(self, call: ListKeys) -> list[str]:
        return [meta["path"] for meta in await self._list(call)]

    async def _delete(self, call: Delete) -> None:
        await delete_one(self._client(), call.key)

    async def _delete_many(self, call: DeleteMany) -> None:
        await delete_many(self._client(), check_keys(call.keys, self._check_key))

    async def _stat(self, call: Stat) -> ObjectInfo | None:
        return await get_info(self._client(), call.key)

    async def _read(self, call: Read) -> StoredObject | None:
        found = await get_range(self._client(), call.key, call.start, call.stop)
        if found is None:
            return None
        info, result = found
        body = b"" if result is None else bytes(await ask(call.key, result.bytes_async))
        return StoredObject(info, body)

    async def _open(self, call: Open) -> ObjectReader | None:
        found = await get_range(self._client(), call.key, call.start, call.stop)
        return None if found is None else make_reader(*found, self._downloads)

    async def _write(self, call: Put | PutBytes | Write) -> ObjectInfo:
        client, key = self._client(), call.key
        content = encode_body(call.body, call.name, key)
        attributes = attributes_of(client, call)
        if call.if_version is ANY:
            result = await put(client, key, content, attributes)
        else:
            result = await self._conditions.put(client, key, content, call.if_version, attributes)
        return stored_info(client, key, len(content), attributes, result)

    async def _upload(self, call: Upload) -> ObjectInfo:
        """Store the chunks in parts of 8 MiB, four in flight. A conditional upload is gathered in memory."""
        client, key = self._client(), call.key
        attributes = attributes_of(client, call)
        if call.if_version is not ANY:
            return await derived.upload(self, call)
        async with aclosing(grouped(call.chunks, PART_BYTES)) as parts:
            result, size = await send_parts(client, key, parts, attributes)
        return stored_info(client, key, size, attributes, result)

    async def _copy(self, call: Copy) -> ObjectInfo:
        """Copy by the backend; a conditional copy reads and writes."""
        source, target = call.source, call.target
        if call.if_version is not ANY:
            return await derived.copy(self, call)
        client = self._client()
        missing = ObjectNotFoundError("there is no object to copy", operation="copy", key=source)
        if source != target:
            try:
                await change(source, obstore.copy_async, client, source, target)
            except ObjectNotFoundError as error:
                missing.undetermined = error.undetermined
                raise missing from None
        try:
            info = await get_info(client, target)
            if info is None:
                raise missing
        except StoreError as error:
            if source != target:
                error.undetermined = True  # the copy was done
            raise
        return info

    async def _list_objects(self, call: ListObjects) -> ObjectList:
        prefixes: list[str] = []
        if call.delimiter is None:
            found = await self._list(call)
        else:
            found, prefixes = await list_level(self._client(), call, is_key=self._is_key)
        infos = [listed_info(self._store, meta) for meta in found]
        return ObjectList(infos, prefixes)

    async def _signed_url(self, call: SignedUrl) -> str:
        """Return a URL signed by obstore: of S3, GCS and Azure; it cannot demand a content type."""
        if not self.supports("signed_url") or call.content_type is not None:
            what = (
                f"sign URLs of {named(self._store)}" if call.content_type is None else "sign a content type"
            )
            raise StoreNotSupportedError(f"obstore cannot {what}")
        client, lifetime = self._client(), timedelta(seconds=call.expires)
        return await ask(call.key, obstore.sign_async, client, call.method, call.key, lifetime)

    async def close(self) -> None:
        """Refuse further operations and end open readers. obstore closes connections once they are idle."""
        self._closed = True
        for download in list(self._downloads):
            download.close_store()

    async def _list(self, call: ListKeys | ListObjects) -> list[ObjectMeta]:
        return await list_all(self._client(), call, ordered=self._ordered, is_key=self._is_key)
