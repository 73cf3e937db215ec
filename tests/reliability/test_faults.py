"""Operations under `Retry` and `Timeout` over an S3 that fails in every way it can."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING

import pytest

from faulty_proxy import FaultyProxy, Forward, cut_short, flipped, lost_reply, reset, s3_error, stalled
from starfish_server import AbstractObjectStore, StoreBuilder, StoreError, StoreOverloadedError
from starfish_server.layers import Retry, RetryBudget, Timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from servers import S3Server
    from starfish_server.storage.s3 import S3ObjectStore

FAULTS = [reset, lost_reply, stalled, flipped, cut_short(100), s3_error(503, "SlowDown")]
DEADLINE = 8.0
TIMEOUT = 1.0
KEYS = [f"k/{number}" for number in range(40)]


def stack(leaf: S3ObjectStore) -> AbstractObjectStore:
    return (
        StoreBuilder()
        .layer(Retry, attempts=6, initial=0.01, maximum=0.1, deadline=DEADLINE)
        .layer(Timeout, seconds=TIMEOUT)
        .over(leaf)
    )


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_silently_wrong_endless_or_untyped_under_faults(
    make_s3: Callable[..., S3ObjectStore], proxy: FaultyProxy, seaweedfs: S3Server, full: bool, seed: int
) -> None:
    """400 operations, of whose requests 30% go wrong; it is known which bodies a reader may see.

    Without the limits, those whose reply stalls would not end.
    """
    choose = random.Random(seed)

    async def often_wrong(request: web.Request, forward: Forward) -> web.StreamResponse:
        if choose.random() < 0.3:
            return await choose.choice(FAULTS)(request, forward)
        return (await forward()).response()

    proxy.fault = often_wrong
    bucket = seaweedfs.make_bucket()
    store = stack(make_s3(seaweedfs, endpoint=proxy.endpoint, bucket=bucket))
    possible: dict[str, set[str | None]] = {key: {None} for key in KEYS}
    limit = asyncio.Semaphore(16)
    failures: list[StoreError] = []

    async def history(key: str) -> None:
        """One writer a key; after a failure, what it wrote may or may not be there."""
        for step in range(100 if full else 10):
            async with limit:
                try:
                    if step % 5 == 4:
                        possible[key].add(None)
                        await store.delete(key)
                        possible[key] = {None}
                    elif step % 2 == 0:
                        body = f"{key} {step} " * 40
                        possible[key].add(body)
                        await store.put(key, body)
                        possible[key] = {body}
                    else:
                        assert await store.get_string(key) in possible[key]
                except StoreError as error:
                    failures.append(error)
                # What timed out may still be done: not after the next step, or nothing could be known.
                await proxy.settled(f"/{bucket}/{key}")

    await asyncio.gather(*(history(key) for key in KEYS))
    proxy.fault = None
    for key in KEYS:
        assert await store.get_string(key) in possible[key]
    assert all(error.operation and error.key for error in failures)
    # About one in a thousand fails in all six attempts, and more on a machine that stalls.
    assert len(failures) < len(KEYS) * (100 if full else 10) / 4


async def test_attempts_on_the_wire_are_exactly_those_asked_for(
    make_s3: Callable[..., S3ObjectStore], proxy: FaultyProxy, seaweedfs: S3Server
) -> None:
    proxy.fault = s3_error(503, "SlowDown")
    for attempts in (1, 3, 5):
        proxy.seen.clear()
        leaf = make_s3(seaweedfs, endpoint=proxy.endpoint)
        store = StoreBuilder().layer(Retry, attempts=attempts, initial=0.001).layer(Timeout).over(leaf)
        with pytest.raises(StoreOverloadedError):
            await store.get_string("k")
        assert len(proxy.seen) == attempts


async def test_a_budget_keeps_an_outage_from_multiplying_traffic(
    make_s3: Callable[..., S3ObjectStore], proxy: FaultyProxy, seaweedfs: S3Server
) -> None:
    proxy.fault = s3_error(503, "SlowDown")
    leaf = make_s3(seaweedfs, endpoint=proxy.endpoint)
    retry = partial(Retry, initial=0.001, budget=RetryBudget(), deadline=600.0)  # a slow machine is done then
    store = StoreBuilder().layer(retry).layer(Timeout, seconds=600.0).over(leaf)
    results = await asyncio.gather(*(store.get_string("k") for _ in range(1000)), return_exceptions=True)
    assert {type(result) for result in results} == {StoreOverloadedError}
    assert 1000 <= len(proxy.seen) <= 1200
