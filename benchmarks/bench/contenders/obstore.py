"""obstore: Rust behind Python, signs payloads, keeps as many idle connections as were used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.store import LocalStore, S3Store

from bench.objects import REGION, Bucket, Folder, Objects

if TYPE_CHECKING:
    from collections.abc import Iterable


async def open_objects(place: Bucket | Folder) -> Objects:
    store = _store(place)

    async def get(key: str) -> Any:
        return await (await obstore.get_async(store, key)).bytes_async()

    async def put(key: str, body: bytes) -> None:
        await obstore.put_async(store, key, body)

    async def list_all(prefix: str) -> int:
        return len([each["path"] for each in await obstore.list(store, prefix).collect_async()])

    async def list_first(prefix: str, count: int) -> int:
        async for chunk in obstore.list(store, prefix, chunk_size=count):
            return len([each["path"] for each in chunk])
        return 0

    async def list_objects(prefix: str) -> int:
        found = await obstore.list(store, prefix).collect_async()
        return len([(each["path"], each["size"]) for each in found])

    async def read(key: str, start: int, stop: int) -> Any:
        return await obstore.get_range_async(store, key, start=start, end=stop)

    async def stat(key: str) -> int:
        return (await obstore.head_async(store, key))["size"]

    async def stream(key: str) -> int:
        size = 0
        async for chunk in (await obstore.get_async(store, key)).stream():
            size += len(chunk)
        return size

    async def upload(key: str, chunks: Iterable[bytes]) -> None:
        await obstore.put_async(store, key, iter(chunks))

    async def copy_out(key: str, path: str) -> None:
        with open(path, "wb") as file:  # noqa: ASYNC230 - as in the loop that a user would write
            async for chunk in (await obstore.get_async(store, key)).stream():
                file.write(chunk)

    async def copy_in(key: str, path: str) -> None:
        await obstore.put_async(store, key, Path(path))

    async def delete_many(keys: list[str]) -> None:
        await obstore.delete_async(store, keys)

    async def close() -> None:
        """Connections end with the process."""

    return Objects(
        get=get,
        put=put,
        get_bytes=get,
        put_bytes=put,
        list_all=list_all,
        list_first=list_first,
        delete_many=delete_many,
        list_objects=list_objects,
        read=read,
        stat=stat,
        stream=stream,
        upload=upload,
        copy_out=copy_out,
        copy_in=copy_in,
        close=close,
    )


def s3_options(bucket: Bucket) -> dict[str, Any]:
    """Return what makes a store of obstore's one of this server; the bucket's name is left to the caller."""
    return {
        "endpoint": bucket.endpoint,
        "access_key_id": bucket.access_key_id,
        "secret_access_key": bucket.secret_access_key,
        "region": REGION,
        "virtual_hosted_style_request": False,
        "client_options": {"allow_http": True},
    }


def _store(place: Bucket | Folder) -> S3Store | LocalStore:
    if isinstance(place, Bucket):
        return S3Store(place.name, **s3_options(place))
    return LocalStore(place.path, mkdir=True)
