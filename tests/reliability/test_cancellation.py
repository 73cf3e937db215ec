"""Cancelled operations leave nothing behind, through the whole stack."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

from contract.stacks import canonical_stack
from faulty_proxy import FaultyProxy, trickled
from starfish_server import StoreContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import S3Server
    from starfish_server.storage.s3 import S3ObjectStore

BODY = random.Random(0).randbytes(10_000).hex()  # compressed, it is still longer than what the proxy sends
CONTEXT = StoreContext("c", {}, "alice", (), "pull", namespace="t1")


async def test_gets_cancelled_in_mid_body_leave_no_task_and_no_connection(
    make_s3: Callable[..., S3ObjectStore], proxy: FaultyProxy, seaweedfs: S3Server, full: bool
) -> None:
    store = canonical_stack(make_s3(seaweedfs, endpoint=proxy.endpoint))
    keys = [f"k/{number}" for number in range(1000 if full else 100)]
    await asyncio.gather(*(store.put(key, BODY, context=CONTEXT) for key in keys))
    files_before = len(os.listdir("/proc/self/fd"))
    for start in range(0, len(keys), 50):
        proxy.begun = 0
        proxy.fault = trickled(1000)
        page = keys[start : start + 50]
        gets = [asyncio.create_task(store.get_string(key, context=CONTEXT)) for key in page]
        await proxy.in_mid_body(50)
        for get in gets:
            get.cancel()
        proxy.fault = None
        results = await asyncio.gather(*gets, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
        assert await store.get_string(keys[start], context=CONTEXT) == BODY
    others = [str(task.get_coro()) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert [task for task in others if "RequestHandler" not in task] == []  # those are the proxy's own
    assert len(os.listdir("/proc/self/fd")) <= files_before + 2


async def test_writes_cancelled_anywhere_leave_one_whole_object(
    make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server
) -> None:
    store = canonical_stack(make_s3(seaweedfs))
    bodies = [f"{number} " * 5000 for number in range(30)]
    for number, body in enumerate(bodies):
        put = asyncio.create_task(store.put("k", body, context=CONTEXT))
        await asyncio.sleep(number * 0.0002)
        put.cancel()
        await asyncio.gather(put, return_exceptions=True)
        assert await store.get_string("k", context=CONTEXT) in {None, *bodies[: number + 1]}
    await store.put("k", "last", context=CONTEXT)
    assert await store.get_string("k", context=CONTEXT) == "last"
