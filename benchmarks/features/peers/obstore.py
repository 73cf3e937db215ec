"""Probes of obstore: Rust's object_store, with stores and functions over them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import LocalStore, MemoryStore, S3Store

from features.lab import BODY, LARGE, MIB, Lab, No, Place, no_if

PACKAGES = ("obstore",)
DISTRIBUTIONS = PACKAGES
OTHER_NAMES = (
    "imdsv1_fallback|max_concurrency"  # of credentials; the parts of one upload
    "|max_cache_size|cache_options|.*server_side_encryption|S3EncryptionAlgorithm|encryption_key"
)
RETRY: Any = {"backoff": {"init_backoff": timedelta(milliseconds=10)}}


def s3(place: Place, **options: Any) -> S3Store:
    client = {"allow_http": True} | options.pop("client_options", {})
    return S3Store(
        place.bucket,
        endpoint=place.endpoint,
        region="us-east-1",
        access_key_id=place.access_key_id,
        secret_access_key=place.secret_access_key,
        client_options=client,
        retry_config=RETRY,
        **options,
    )


async def put(store: Any, key: str, body: Any, **options: Any) -> Any:
    """Store an object and return its version."""
    return (await obstore.put_async(store, key, body, **options))["e_tag"]


async def get(store: Any, key: str) -> bytes:
    return bytes(await (await obstore.get_async(store, key)).bytes_async())


async def retries(lab: Lab) -> None:
    store = s3(lab.faulty)
    await put(store, "k", BODY)
    lab.next_replies(lab.unavailable, lab.unavailable)
    assert await get(store, "k") == BODY


async def resume(lab: Lab) -> str | None:
    store = s3(lab.faulty)
    await put(store, "large", LARGE)
    lab.next_replies(lab.broken)
    assert await get(store, "large") == LARGE
    return lab.went_on()


async def timeout(lab: Lab) -> None:
    store = s3(lab.faulty, client_options={"timeout": timedelta(seconds=0.3)})
    await put(store, "k", BODY)
    lab.next_replies(lab.no_reply)
    assert await get(store, "k") == BODY


async def tenants(lab: Lab) -> str:
    await put(s3(lab.s3, prefix="t1"), "k", BODY)
    assert await get(s3(lab.s3), "t1/k") == BODY
    return "one fixed per store"


async def ranges(lab: Lab) -> None:
    store = s3(lab.faulty)
    await put(store, "large", LARGE)
    assert bytes(await obstore.get_range_async(store, "large", start=100, length=64)) == LARGE[100:164]
    assert lab.last_range() == "bytes=100-163"


async def streams(lab: Lab) -> None:
    store = s3(lab.s3)
    with lab.bounded_memory():
        await put(store, "stream", lab.chunks())
        async for _chunk in (await obstore.get_async(store, "stream")).stream(MIB):
            pass


async def create(lab: Lab) -> None:
    store = s3(lab.s3)
    await lab.one_wins(lambda body: put(store, "new", body, mode="create"), AlreadyExistsError)


async def update(lab: Lab) -> None:
    store = s3(lab.s3)
    version: Any = {"e_tag": await put(store, "k", BODY)}
    await lab.one_wins(lambda body: put(store, "k", body, mode=version), PreconditionError)


async def listing(lab: Lab) -> str | None:
    async def after(store: Any, keys: list[str]) -> list[str]:
        for key in keys:
            await put(store, key, BODY)
        return [each["path"] for each in await obstore.list(store, offset=keys[0]).collect_async()]

    assert await after(s3(lab.s3, prefix="listing"), lab.keys_on_s3) == lab.keys_on_s3[1:]
    return lab.listed(await after(LocalStore(lab.folder), lab.keys))


async def signed_url(lab: Lab) -> None:
    store = s3(lab.s3)
    await put(store, "k", BODY)
    assert await lab.fetch(await obstore.sign_async(store, "GET", "k", timedelta(minutes=1))) == BODY


class OwnLeaf:
    """As much of a store as a get needs."""

    async def get_async(self, path: str) -> bytes:
        return path.encode()


async def own_leaf(_lab: Lab) -> None:
    with no_if(TypeError, ValueError):
        await get(OwnLeaf(), "k")


async def interface(_lab: Lab) -> str:
    store = MemoryStore()
    obstore.put(store, "k", BODY)
    assert bytes(obstore.get(store, "k").bytes()) == await get(store, "k") == BODY
    return "async and sync"


async def backends(_lab: Lab) -> str:
    stores = {name for name in obstore.store.__all__ if name.endswith("Store") and name != "ObjectStore"}
    if not stores:
        raise No
    return str(len(stores))
