"""Writes or reads a store with the public package. Runs in its environment: what to do, and which store."""

import asyncio
import json
import sys
from typing import Any

from starfish_server.config.loader import save_config
from starfish_server.protocol import pull, push

from starfish_server import CollectionConfig, FilesystemObjectStore, FilesystemStorageOptions, SyncConfig
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

SHARED = {"read_roles": ["public"], "write_roles": ["public"], "encryption": "none", "max_body_bytes": 1000}
CONFIG = SyncConfig(
    version=1,
    collections=[
        CollectionConfig(name="notes", storage_path="notes/{id}", listable=True, **SHARED),
        CollectionConfig(name="pictures", storage_path="p/{id}", allowed_mime_types=["image/*"], **SHARED),
    ],
    namespaces={"acme": {"collections": [CollectionConfig(name="notes", storage_path="n/{id}", **SHARED)]}},
)


async def write(store: Any) -> dict[str, object]:
    await save_config(store, CONFIG)
    first = await push(store, "notes/a", {"n": 1, "in": {"ü": [1.5, None]}}, None)
    second = await push(store, "notes/a", {"n": 2, "in": {"ü": [1.5, None]}}, first.hash)
    await store.put_bytes("p/a", b"\x89PNG\x00", content_type="image/png")
    return {"hash": second.hash, "first": first.timestamp, "second": second.timestamp}


async def read(store: Any) -> dict[str, object]:
    pulled = await pull(store, "notes/a")
    changed = await push(store, "notes/b", {"n": 2}, (await pull(store, "notes/b")).hash)
    blob = await store.get_bytes("p/a")
    return {
        "data": pulled.data,
        "hash": pulled.hash,
        "author": [pulled.author_pubkey, pulled.author_signature],
        "pushed": changed.hash,
        "blob": [blob[0].hex(), blob[1]],
        "keys": sorted([*await store.list_keys("notes"), *await store.list_keys("p")]),
    }


async def main(task: str, kind: str, *options: str) -> dict[str, object]:
    run = {"write": write, "read": read}[task]
    if kind == "files":
        return await run(FilesystemObjectStore(FilesystemStorageOptions(*options)))
    store = S3ObjectStore(S3StorageOptions(*options))
    try:
        return await run(store)
    finally:
        await store.close()


sys.stdout.write(json.dumps(asyncio.run(main(*sys.argv[1:]))))
