"""Probes of OpenDAL's Python binding: operators and its layers, in Rust."""

from __future__ import annotations

from typing import Any

import opendal
from opendal import AsyncOperator, Operator
from opendal.exceptions import ConditionNotMatch, ConfigInvalid, Unsupported
from opendal.layers import ConcurrentLimitLayer, Layer, RetryLayer, TimeoutLayer

from features.lab import BODY, LARGE, MIB, Lab, No, Place, no_if

PACKAGES = ("opendal",)
DISTRIBUTIONS = PACKAGES
OTHER_NAMES = (
    "RateLimited|Cacache.*|Memcached.*|enable_resolve_cache|.*cache_control"  # an error, and services
    "|server_side_encryption.*|encryption_(key|algorithm).*"  # by the server
)


def s3(place: Place, **options: str) -> AsyncOperator:
    return AsyncOperator(
        "s3",
        endpoint=place.endpoint,
        bucket=place.bucket,
        region="us-east-1",
        access_key_id=place.access_key_id,
        secret_access_key=place.secret_access_key,
        **options,
    )


def retry() -> RetryLayer:
    return RetryLayer(min_delay=0.01)


async def retries(lab: Lab) -> None:
    store = s3(lab.faulty).layer(retry())
    await store.write("k", BODY)
    lab.next_replies(lab.unavailable, lab.unavailable)
    assert await store.read("k") == BODY


async def resume(lab: Lab) -> str | None:
    store = s3(lab.faulty).layer(retry())
    await store.write("large", LARGE)
    lab.next_replies(lab.broken)
    async with await store.open("large", "rb") as reader:
        assert await reader.read() == LARGE
    return lab.went_on()


async def timeout(lab: Lab) -> None:
    store = s3(lab.faulty).layer(TimeoutLayer(timeout=0.3, io_timeout=0.3)).layer(retry())
    await store.write("k", BODY)
    lab.next_replies(lab.no_reply)
    assert await store.read("k") == BODY


async def concurrency(lab: Lab) -> None:
    store = s3(lab.faulty).layer(ConcurrentLimitLayer(2))
    await store.write("k", BODY)
    assert await lab.most_in_flight(lambda: store.read("k")) == 2


async def tenants(lab: Lab) -> str:
    await s3(lab.s3, root="/t1").write("k", BODY)
    assert await s3(lab.s3).read("t1/k") == BODY
    return "one fixed per store"


async def ranges(lab: Lab) -> None:
    store = s3(lab.faulty)
    await store.write("large", LARGE)
    assert await store.read("large", offset=100, size=64) == LARGE[100:164]
    assert lab.last_range() == "bytes=100-163"


async def streams(lab: Lab) -> None:
    store = s3(lab.s3)
    with lab.bounded_memory():
        async with await store.open("stream", "wb", chunk=8 * MIB) as writer:
            async for chunk in lab.chunks():
                await writer.write(chunk)
        async with await store.open("stream", "rb") as reader:
            while await reader.read(MIB):
                pass


async def create(lab: Lab) -> None:
    store = s3(lab.s3)
    await lab.one_wins(lambda body: store.write("new", body, if_not_exists=True), ConditionNotMatch)


async def update(lab: Lab) -> None:
    store = s3(lab.s3)
    await store.write("k", BODY)
    version: Any = (await store.stat("k")).etag
    await lab.one_wins(lambda body: store.write("k", body, if_match=version), ConditionNotMatch)


async def listing(lab: Lab) -> str | None:
    async def after(store: AsyncOperator, keys: list[str]) -> list[str]:
        for key in keys:
            await store.write(key, BODY)
        entries = await store.list("", recursive=True, start_after=keys[0])
        return [entry.path async for entry in entries if not entry.path.endswith("/")]

    assert await after(s3(lab.s3, root="/listing"), lab.keys_on_s3) == lab.keys_on_s3[1:]
    return lab.listed(await after(AsyncOperator("fs", root=str(lab.folder)), lab.keys))


async def signed_url(lab: Lab) -> None:
    store = s3(lab.s3)
    await store.write("k", BODY)
    assert await lab.fetch((await store.presign_read("k", 60)).url) == BODY


async def wrapping(lab: Lab) -> None:
    store = s3(lab.s3, root="/wrapped").layer(TimeoutLayer()).layer(retry())
    await store.write("k", BODY)
    assert [entry.path async for entry in await store.list("k")] == ["k"]
    assert await store.read("k", offset=2, size=5) == BODY[2:7]
    await lab.one_wins(lambda body: store.write("new", body, if_not_exists=True), ConditionNotMatch)


async def order(_lab: Lab) -> None:
    Operator("memory").layer(RetryLayer()).layer(TimeoutLayer())  # limits all attempts together
    raise No("a timeout around all attempts is accepted")


async def own_leaf(_lab: Lab) -> None:
    with no_if(ConfigInvalid, Unsupported):
        Operator("a-backend-in-python")
    assert Layer


async def interface(lab: Lab) -> str:
    Operator("fs", root=str(lab.folder)).write("k", BODY)
    assert Operator("fs", root=str(lab.folder)).read("k") == BODY
    assert await AsyncOperator("fs", root=str(lab.folder)).read("k") == BODY
    return "async and sync"


async def backends(_lab: Lab) -> str:
    schemes = opendal.services.Scheme
    return str(sum(isinstance(value, schemes) for value in vars(schemes).values()))
