"""A bounded number of requests at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

T = TypeVar("T")


async def side_by_side(
    work: Callable[[T], Coroutine[None, None, None]], items: Iterable[T], *, at_once: int
) -> None:
    """Call `work` with each item, at most `at_once` calls at a time. The first to fail ends the others."""
    left = iter(items)
    cancellations = _cancellations()

    async def worker() -> None:
        for item in left:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
    except BaseExceptionGroup as failed:
        if _cancellations() > cancellations:
            # A group that is ending already lets a failure take a cancellation's place; from 3.13 on it also
            # cancels anew, which the next wait meets.
            await asyncio.sleep(0)
            raise asyncio.CancelledError from None
        first = failed.exceptions[0]
        raise first from first.__cause__


def _cancellations() -> int:
    """How often the running task was asked to end."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
