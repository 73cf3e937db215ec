"""The leaves that the contract is checked on, each as a maker of new, empty stores."""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from obstore.store import LocalStore, MemoryStore, S3Store

from starfish_server import CustomObjectStore, MemoryObjectStore
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions
from starfish_server.storage.obstore import ObstoreObjectStore
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from servers import S3Server
    from starfish_server import AbstractObjectStore
    from starfish_server.testing import Capability

LEAVES: dict[str, frozenset[Capability]] = {
    "memory": frozenset(),
    "custom": frozenset(),
    "filesystem": frozenset({"nested_keys"}),
    "moto": frozenset(),
    # It lists folder by folder, and its StartAfter skips keys under a key that is a folder as well.
    "seaweedfs": frozenset({"order"}),
    "obstore-memory": frozenset(),
    "obstore-local": frozenset({"bytes", "conditional_writes", "metadata", "nested_keys"}),
    "obstore-s3": frozenset(),
    "obstore-azure": frozenset({"metadata"}),  # of names with "-", which Azure refuses
}

FAILS = {("obstore-local", "ordinary_keys_are_stored")}  # one has a name of 255 bytes, and 253 is the most
"""Behaviours that a leaf is known not to have."""


def over_callbacks() -> CustomObjectStore:
    """A custom leaf that is complete: its callbacks keep objects in a memory leaf."""
    inner = MemoryObjectStore(data={})
    return CustomObjectStore(
        on_get=lambda key: inner.get_string(key),
        on_put=inner.put,
        on_list=lambda prefix, start_after, limit: inner.list_keys(
            prefix, start_after=start_after, limit=limit
        ),
        on_delete=inner.delete,
        on_get_bytes=lambda key: inner.get_bytes(key),
        on_put_bytes=inner.put_bytes,
        on_delete_many=inner.delete_many,
        on_stat=lambda key: inner.stat(key),
        on_read=lambda key, start, stop: inner.read(key, start=start, stop=stop),
        on_write=inner.write,
        on_upload=inner.upload,
        on_copy=inner.copy,
        on_list_objects=lambda prefix, start_after, limit, delimiter: inner.list_objects(
            prefix, start_after=start_after, limit=limit, delimiter=delimiter
        ),
        on_close=inner.close,
        portable_keys=True,
    )


def over_s3(server: S3Server) -> S3ObjectStore:
    """An S3 leaf over a new bucket."""
    return S3ObjectStore(
        S3StorageOptions(
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
            endpoint=server.endpoint,
            bucket=server.make_bucket(),
        )
    )


def obstore_s3(server: S3Server, **changes: Any) -> S3Store:
    """Return obstore's own store over a new bucket, or the one that is named."""
    options: dict[str, Any] = {
        "access_key_id": server.access_key_id,
        "secret_access_key": server.secret_access_key,
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "client_options": {"allow_http": True},
        "retry_config": {"max_retries": 0},
    } | changes
    return S3Store(options.pop("bucket", None) or server.make_bucket(), **options)


@asynccontextmanager
async def new_store(leaf: str, request: pytest.FixtureRequest) -> AsyncIterator[AbstractObjectStore]:
    """A store of that leaf over a backend of its own; what it needs are fixtures of the test."""
    match leaf:
        case "memory":
            store: AbstractObjectStore = MemoryObjectStore(data={})
        case "custom":
            store = over_callbacks()
        case "filesystem":
            folder = tempfile.mkdtemp(dir=request.getfixturevalue("tmp_path"))
            store = FilesystemObjectStore(FilesystemStorageOptions(base_dir=folder))
        case "obstore-memory":
            store = ObstoreObjectStore(MemoryStore())
        case "obstore-local":
            folder = request.getfixturevalue("tmp_path") / "store"
            store = ObstoreObjectStore(LocalStore(folder, mkdir=True, automatic_cleanup=True))
        case "obstore-s3":
            # SeaweedFS does not list in byte order, so its lists are read whole.
            store = ObstoreObjectStore(
                obstore_s3(request.getfixturevalue("seaweedfs")), listed_in_order=False
            )
        case "obstore-azure":
            store = ObstoreObjectStore(request.getfixturevalue("azurite").make_container())
        case _:
            store = over_s3(request.getfixturevalue(leaf))
    async with store:
        yield store
