"""A process that tries to create the objects that it is told: `creating.py CREATORS FOLDER`.

It reads a key from each line of its input, and writes how many of its creators made that object.
"""

from __future__ import annotations

import asyncio
import sys

from starfish_server import FilesystemObjectStore, FilesystemStorageOptions, VersionConflictError


async def create(store: FilesystemObjectStore, key: str, body: bytes) -> bool:
    try:
        await store.write(key, body, if_version=None)
    except VersionConflictError:
        return False
    return True


async def main(creators: int, folder: str) -> None:
    async with FilesystemObjectStore(FilesystemStorageOptions(folder, fsync=False)) as store:
        for line in sys.stdin:
            attempts = (create(store, line.strip(), b"\xff%d" % number) for number in range(creators))
            sys.stdout.write(f"{sum(await asyncio.gather(*attempts))}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
