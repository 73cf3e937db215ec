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
    """Call `work` with each item, at most `at_once` calls at a time. The first to fail ends the others.

    Not an `asyncio.TaskGroup`: before Python 3.13 one that is ending drops a cancellation of its caller.
    """
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)

    workers = [asyncio.create_task(worker()) for _ in range(at_once)]
    try:
        done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for each in workers:
            each.cancel()
        # Cancelled meanwhile, this still waits for all of them, and is then cancelled.
        await asyncio.gather(*workers, return_exceptions=True)
    for each in done:
        each.result()
