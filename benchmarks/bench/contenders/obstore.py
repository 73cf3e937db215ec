"""obstore: Rust behind Python, signs payloads, keeps as many idle connections as were used."""

from __future__ import annotations

from typing import Any

import obstore
from obstore.store import LocalStore, S3Store

from bench.objects import REGION, Bucket, Folder, Objects


async def open_objects(place: Bucket | Folder) -> Objects:
    store = _s3(place) if isinstance(place, Bucket) else LocalStore(place.path, mkdir=True)

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
        close=close,
    )


def _s3(bucket: Bucket) -> S3Store:
    return S3Store(
        bucket.name,
        endpoint=bucket.endpoint,
        access_key_id=bucket.access_key_id,
        secret_access_key=bucket.secret_access_key,
        region=REGION,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
