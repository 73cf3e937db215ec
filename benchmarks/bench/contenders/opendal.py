"""opendal: Rust behind Python. Payloads are not signed; it has no batch delete of given keys."""

from __future__ import annotations

from typing import Any

import opendal

from bench.objects import REGION, Bucket, Folder, Objects

PART_BYTES = 8 * 2**20
PARTS_AT_ONCE = 8


async def open_objects(place: Bucket | Folder) -> Objects:
    operator = _s3(place) if isinstance(place, Bucket) else _files(place)

    async def put(key: str, body: bytes) -> None:
        await operator.write(key, body)

    async def put_bytes(key: str, body: bytes) -> None:
        await operator.write(key, body, chunk=PART_BYTES, concurrent=PARTS_AT_ONCE)

    async def get_bytes(key: str) -> Any:
        return await operator.read(key, chunk=PART_BYTES, concurrent=PARTS_AT_ONCE)

    async def list_all(prefix: str) -> int:
        entries = await operator.list(prefix, recursive=True)
        return len([entry.path async for entry in entries if not entry.path.endswith("/")])

    async def list_first(prefix: str, count: int) -> int:
        found = 0
        async for entry in await operator.list(prefix, recursive=True):
            found += not entry.path.endswith("/")
            if found == count:
                break
        return found

    async def close() -> None:
        """Connections end with the process."""

    return Objects(
        get=operator.read,
        put=put,
        get_bytes=get_bytes,
        put_bytes=put_bytes,
        list_all=list_all,
        list_first=list_first,
        close=close,
    )


def _s3(bucket: Bucket) -> opendal.AsyncOperator:
    return opendal.AsyncOperator(
        "s3",
        endpoint=bucket.endpoint,
        bucket=bucket.name,
        region=REGION,
        access_key_id=bucket.access_key_id,
        secret_access_key=bucket.secret_access_key,
    )


def _files(folder: Folder) -> opendal.AsyncOperator:
    """Writes through a temporary file and a rename, as all contenders do."""
    return opendal.AsyncOperator("fs", root=folder.path, atomic_write_dir=f"{folder.path}-temporary")
