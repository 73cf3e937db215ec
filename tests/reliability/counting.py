"""A process that counts in one shared document: `counting.py WRITERS UPDATES LEAF OPTIONS`; these in JSON."""

from __future__ import annotations

import asyncio
import json
import random
import sys

from starfish_server import (
    AbstractObjectStore,
    FilesystemObjectStore,
    FilesystemStorageOptions,
    StoreBuilder,
    VersionConflictError,
)
from starfish_server.layers import Caching, Retry, Timeout
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

KEY = "shared/counter"


async def count(store: AbstractObjectStore, updates: int) -> None:
    for _ in range(updates):
        while True:
            found = await store.read(KEY)
            number, version = (found.body, found.info.version) if found else (b"0", None)
            try:
                await store.write(KEY, str(int(number) + 1), if_version=version)
                break
            except VersionConflictError:
                await asyncio.sleep(random.uniform(0, 0.02))


async def main(writers: int, updates: int, leaf: AbstractObjectStore) -> None:
    store = StoreBuilder().layer(Caching).layer(Retry).layer(Timeout, seconds=30.0).over(leaf)
    async with store:
        await asyncio.gather(*(count(store, updates) for _ in range(writers)))


if __name__ == "__main__":
    options = json.loads(sys.argv[4])
    made: AbstractObjectStore = (
        FilesystemObjectStore(FilesystemStorageOptions(**options))
        if sys.argv[3] == "filesystem"
        else S3ObjectStore(S3StorageOptions(**options))
    )
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), made))
