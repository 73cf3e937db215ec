"""`read_timeout` is time without progress of a request that has a connection, not time in all."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from faulty_proxy import FaultyProxy, paced, passed_on, stalled, trickled
from starfish_server import StoreTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import S3Server
    from starfish_server.storage.s3 import S3ObjectStore

    MakeS3 = Callable[..., S3ObjectStore]

BODY = "0123456789" * 100
HOUR = 3600.0


@pytest.fixture
async def make_store(proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3) -> MakeS3:
    """Stores in front of which the proxy is; the object `k` is there already."""
    bucket = seaweedfs.make_bucket()
    await make_s3(seaweedfs, bucket=bucket).put("k", BODY)
    return partial(make_s3, seaweedfs, bucket=bucket, endpoint=proxy.endpoint, max_attempts=1)


async def test_a_slow_body_is_read_whole_as_long_as_it_comes(
    proxy: FaultyProxy, make_store: MakeS3, set_forward: Callable[[float], None]
) -> None:
    store = make_store(read_timeout=HOUR)
    proxy.fault = paced(lambda: set_forward(0.8 * HOUR))
    assert await store.get_string("k") == BODY


async def test_a_body_that_stops_is_a_timeout(proxy: FaultyProxy, make_store: MakeS3) -> None:
    store = make_store(read_timeout=0.2)
    proxy.fault = trickled(10)
    with pytest.raises(StoreTimeoutError):
        await store.get_string("k")


async def test_waiting_for_a_connection_is_not_part_of_it(
    proxy: FaultyProxy, make_store: MakeS3, set_forward: Callable[[float], None]
) -> None:
    store = make_store(read_timeout=HOUR, max_connections=1)
    proxy.fault = paced(lambda: set_forward(0.8 * HOUR))
    first, second = await asyncio.gather(store.get_string("k"), store.get_string("k"))
    assert first == second == BODY


async def test_each_of_many_requests_has_its_own(
    proxy: FaultyProxy, make_store: MakeS3, set_forward: Callable[[float], None]
) -> None:
    """One timer serves them all: it must not end with the request that it was first set for."""
    store = make_store(read_timeout=HOUR)
    for trickles in (1, 2):
        proxy.next_faults += [passed_on, stalled, trickled(10), stalled, passed_on]
        gets = []
        for _ in range(5):
            gets.append(asyncio.create_task(store.get_string("k")))
            await proxy.arrived(len(proxy.seen) + 1)
        first, *late, last = gets
        assert [await first, await last] == [BODY, BODY]
        await proxy.in_mid_body(trickles)  # what comes later would restart the limit
        set_forward(HOUR)
        results = await asyncio.gather(*late, return_exceptions=True)
        assert [type(result) for result in results] == [StoreTimeoutError] * 3


async def test_requests_that_begin_meanwhile_put_off_no_limit(
    proxy: FaultyProxy, make_store: MakeS3, set_forward: Callable[[float], None]
) -> None:
    store = make_store(read_timeout=HOUR)
    proxy.next_faults.append(stalled)
    still = asyncio.create_task(store.get_string("k"))
    await proxy.arrived(1)
    set_forward(0.8 * HOUR)
    assert await store.get_string("k") == BODY
    set_forward(0.8 * HOUR)
    with pytest.raises(StoreTimeoutError):
        await still
