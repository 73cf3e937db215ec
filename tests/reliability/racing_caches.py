"""A process that reads and writes through a shared cache: `racing_caches.py URL FOLDER NUMBER LOG`.

It prints "connected" and "lost" as its connection to Redis comes and goes, and how many operations it has
done, until its input ends; then it writes what it did and when into LOG. Times are of the system's monotonic
clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

from starfish_server import FilesystemObjectStore, FilesystemStorageOptions
from starfish_server.layers import Caching, RedisCache

KEYS = [f"k{number}" for number in range(20)]
TASKS = 8
MAX_DELAY = 1.0
TTL = 8.0


async def main(url: str, folder: str, number: str, log: str) -> None:
    leaf = FilesystemObjectStore(FilesystemStorageOptions(base_dir=folder, fsync=False))
    store = Caching(leaf, ttl=TTL, shared=RedisCache(url, namespace="racing", max_delay=MAX_DELAY))
    chance = random.Random(number)
    reads: list[tuple[str, str | None, float]] = []
    writes: list[tuple[str, str, float, float]] = []
    own: list[tuple[str | None, str]] = []  # what was read after a write, and what was written
    failures: list[str] = []
    ended = asyncio.Event()

    async def write(key: str) -> None:
        value = f"{number}-{len(writes)}-{chance.random()}"
        began = time.monotonic()
        await store.put(key, value)
        writes.append((key, value, began, time.monotonic()))
        own.append((await store.get_string(key), value))

    async def race() -> None:
        while not ended.is_set():
            key = chance.choice(KEYS)
            try:
                if chance.random() < 0.1:
                    await write(key)
                else:
                    began = time.monotonic()
                    reads.append((key, await store.get_string(key), began))
            except Exception as error:
                failures.append(repr(error))
            await asyncio.sleep(0.001)

    async def tell() -> None:
        connected = False
        while not ended.is_set():
            if store.stats().connected is not connected:
                connected = not connected
                print("connected" if connected else "lost", flush=True)  # noqa: T201
            print(len(reads) + len(writes), flush=True)  # noqa: T201
            await asyncio.sleep(0.02)

    async def wait() -> None:
        await asyncio.to_thread(sys.stdin.read)
        ended.set()

    await asyncio.gather(tell(), wait(), *(race() for _ in range(TASKS)))
    stats = store.stats()
    await store.close()
    with open(log, "w") as file:  # noqa: ASYNC230 - at the end
        hits = {"hits": stats.hits, "remote_hits": stats.remote_hits}
        json.dump({"reads": reads, "writes": writes, "own": own, "failures": failures, **hits}, file)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
