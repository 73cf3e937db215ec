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

    async def worker() -> None:
        for item in left:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
    except BaseExceptionGroup as failed:
        first = failed.exceptions[0]
        raise first from first.__cause__
