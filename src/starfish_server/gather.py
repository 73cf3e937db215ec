"""Work on many items, a few of them concurrently."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from starfish_server.chunks import asynchronous

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable

T = TypeVar("T")


async def bounded_gather(
    work: Callable[[T], Coroutine[None, None, None]], items: Iterable[T] | AsyncIterable[T], *, limit: int
) -> None:
    """Call `work` with each item, at most `limit` calls concurrently. The first to fail ends the others.

    Not an `asyncio.TaskGroup`: before Python 3.13 one that is ending drops a cancellation of its caller.
    """
    turn = asyncio.Lock()

    async def worker(left: AsyncIterator[T]) -> None:
        while True:
            async with turn:
                item = await anext(left, None)
            if item is None:
                return
            await work(item)
            del item  # not held while the next one is waited for

    async with aclosing(asynchronous(items)) as left:
        workers = [asyncio.create_task(worker(left)) for _ in range(limit)]
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for each in workers:
                each.cancel()
            # A cancellation here is raised only once all workers have ended.
            await asyncio.gather(*workers, return_exceptions=True)
    for each in done:
        each.result()
