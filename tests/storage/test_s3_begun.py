"""`begun` changes when a coroutine starts, and nothing else about it."""

from __future__ import annotations

import asyncio

import pytest

from starfish_server.storage.s3.begun import begun


async def test_it_runs_at_once_up_to_its_first_wait() -> None:
    seen = []
    gate = asyncio.get_running_loop().create_future()

    async def work() -> str:
        seen.append("begun")
        seen.append(await gate)
        await asyncio.sleep(0)
        return "result"

    task = asyncio.create_task(begun(work()))
    assert seen == ["begun"]
    await asyncio.sleep(0)
    gate.set_result("went on")
    assert await task == "result"
    assert seen == ["begun", "went on"]


async def test_one_that_never_waits_has_its_result() -> None:
    async def work() -> int:
        return 7

    assert await begun(work()) == 7


async def test_errors_before_and_after_the_first_wait_are_its_own() -> None:
    async def fails(waits: bool) -> None:
        if waits:
            await asyncio.sleep(0)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        _ = begun(fails(waits=False))
    left = begun(fails(waits=True))
    with pytest.raises(ValueError, match="wrong"):
        await left


async def test_a_failed_wait_and_a_cancellation_reach_it() -> None:
    seen: list[type[BaseException]] = []

    async def work(gate: asyncio.Future[None]) -> str:
        try:
            await gate
        except BaseException as error:
            seen.append(type(error))
            if isinstance(error, asyncio.CancelledError):
                raise
        return "mended"

    loop = asyncio.get_running_loop()
    gate = loop.create_future()
    task = asyncio.create_task(begun(work(gate)))
    gate.set_exception(OSError())
    assert await task == "mended"

    task = asyncio.create_task(begun(work(loop.create_future())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [OSError, asyncio.CancelledError]


async def test_a_cancellation_before_it_is_awaited_reaches_it_before_anybody_hears_of_its_end() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = asyncio.create_task(begun(work()))
    task.add_done_callback(lambda _: seen.append("ended"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert seen == ["cancelled", "ended"]


async def test_it_can_be_awaited_without_a_task() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return "result"

    assert await begun(work()) == "result"
