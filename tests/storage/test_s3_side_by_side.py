"""Requests side by side: what a failure and a cancellation at the same time come to."""

from __future__ import annotations

import asyncio

import pytest

from starfish_server.errors import StoreUnavailableError
from starfish_server.storage.s3.side_by_side import side_by_side


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancellation_just_after_a_failure_is_not_lost(turns: int) -> None:
    failing = asyncio.Event()
    outcome: list[type[BaseException]] = []

    async def work(number: int) -> None:
        if number == 0:
            await failing.wait()
            raise StoreUnavailableError("503")
        await asyncio.sleep(60)

    async def caller() -> None:
        try:
            await side_by_side(work, range(3), at_once=3)
        except BaseException as error:
            await asyncio.sleep(0)  # what clears up is not cancelled a second time
            outcome.append(type(error))
            raise

    task = asyncio.create_task(caller())
    for _ in range(3):
        await asyncio.sleep(0)
    failing.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    before = list(outcome)
    cancelled = task.cancel() and not before
    with pytest.raises((asyncio.CancelledError, StoreUnavailableError)):
        await task
    if cancelled and outcome:
        assert outcome == [asyncio.CancelledError]
