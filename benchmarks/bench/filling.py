"""Objects and files that are there before the time begins."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.objects import Objects

AT_ONCE = 32
LARGE = 2**20


async def write_all(objects: Objects, keys: list[str], size: int) -> None:
    """One object at each key, through a contender."""
    large = size >= LARGE
    body = bytes(size) if large else objects.body(size)
    put: Callable[[str, Any], Awaitable[object]] = objects.put_bytes if large else objects.put
    remaining = iter(keys)

    async def work() -> None:
        for key in remaining:
            await put(key, body)

    await asyncio.gather(*(work() for _ in range(min(AT_ONCE, len(keys)))))


def make_tree(folder: str, keys: int, per_folder: int) -> None:
    """Empty files: to every contender a store with as many objects."""
    for number in range(0, keys, per_folder):
        below = f"{folder}/{number // per_folder:04}"
        os.makedirs(below)
        for each in range(number, min(keys, number + per_folder)):
            os.close(os.open(f"{below}/{each:06}", os.O_CREAT | os.O_WRONLY, 0o644))
