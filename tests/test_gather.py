"""`bounded_gather`: what failures and cancellations come to, alone and at the same time."""

from __future__ import annotations

import asyncio

import pytest

from starfish_server.errors import StoreUnavailableError
from starfish_server.gather import bounded_gather


async def test_each_item_is_worked_on_once_and_no_more_than_the_limit_concurrently() -> None:
    in_flight = most = 0
    worked: list[int] = []

    async def work(number: int) -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0)
        in_flight -= 1
        worked.append(number)

    await bounded_gather(work, range(10), limit=3)
    assert sorted(worked) == list(range(10))
    assert most == 3


async def test_the_first_failure_ends_the_others_and_comes_out_as_it_is() -> None:
    cause = OSError("reset")
    ended: list[int] = []

    async def work(number: int) -> None:
        if number == 1:
            raise StoreUnavailableError("503") from cause
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    with pytest.raises(StoreUnavailableError) as raised:
        await bounded_gather(work, range(10), limit=3)
    assert raised.value.__cause__ is cause
    assert sorted(ended) == [0, 2]
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]  # a test runs in a task


async def test_work_that_is_cancelled_is_not_taken_for_done() -> None:
    async def work(number: int) -> None:
        if number == 1:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await bounded_gather(work, range(3), limit=3)


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancellation_just_after_a_failure_is_not_lost(turns: int) -> None:
    failing = asyncio.Event()
    running = 0
    outcome: list[type[BaseException]] = []

    async def work(number: int) -> None:
        nonlocal running
        running += 1
        try:
            if number == 0:
                await failing.wait()
                raise StoreUnavailableError("503")
            await asyncio.sleep(60)
        finally:
            running -= 1

    async def caller() -> None:
        try:
            await bounded_gather(work, range(3), limit=3)
        except BaseException as error:
            assert running == 0
            outcome.append(type(error))
            await asyncio.sleep(0)  # what clears up is not cancelled a second time
            outcome.append(type(error))
            raise

    task = asyncio.create_task(caller())
    for _ in range(3):
        await asyncio.sleep(0)
    failing.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    over = bool(outcome)
    task.cancel()
    with pytest.raises((asyncio.CancelledError, StoreUnavailableError)):
        await task
    if not over:
        assert outcome == [asyncio.CancelledError] * 2
