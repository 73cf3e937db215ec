"""Three faults in ten requests, under `Retry` and `Timeout`, on a virtual clock."""

from __future__ import annotations

import asyncio
import random

import pytest

from layers.virtual_time import run
from starfish_server.errors import StoreError, StoreOverloadedError, StoreUnavailableError
from starfish_server.layers.base import Layer, Operation, T
from starfish_server.layers.retry import Retry
from starfish_server.layers.timeout import Timeout
from starfish_server.storage.memory import MemoryObjectStore


class Faulty(Layer):
    """Fails three calls in ten; some of them after the work was done."""

    def __init__(self, seed: int) -> None:
        super().__init__(MemoryObjectStore(data={}))
        self._random = random.Random(seed)

    async def perform(self, operation: Operation[T]) -> T:
        await asyncio.sleep(self._random.uniform(0.001, 0.2))
        if self._random.random() > 0.3:
            return await self._inner.perform(operation)
        match self._random.choice(["reset", "503", "stall", "stalled answer", "lost answer"]):
            case "reset":
                raise StoreUnavailableError("reset") from ConnectionResetError()
            case "503":
                raise StoreOverloadedError("slow down", retry_after=self._random.choice([None, 1.0, 60.0]))
            case "stall":
                await asyncio.sleep(3600)
                return await self._inner.perform(operation)
            case "stalled answer":
                result = await self._inner.perform(operation)
                await asyncio.sleep(3600)
                return result
        await self._inner.perform(operation)
        raise StoreUnavailableError("answer lost")


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_wrong_late_or_untyped(seed: int, full: bool) -> None:
    deadline, operations = 6.0, 4000 if full else 400
    store = Retry(Timeout(Faulty(seed), seconds=2.0), attempts=4, deadline=deadline)
    chance = random.Random(seed)

    async def main() -> tuple[int, int, int]:
        possible: dict[str, set[str | None]] = {key: {None} for key in "abcdef"}
        wrong = failed = untyped = 0
        for n in range(operations):
            key = chance.choice("abcdef")
            body = chance.choice([None, f"body {n}"])
            started = asyncio.get_running_loop().time()
            try:
                if chance.random() < 0.5:
                    body = await store.get_string(key)
                    wrong += body not in possible[key]
                elif body is None:
                    await store.delete(key)
                else:
                    await store.put(key, body)
                possible[key] = {body}
            except StoreError as error:
                failed += 1
                untyped += not isinstance(error, StoreUnavailableError)
                possible[key].add(body)  # a write that failed may have been done
            assert asyncio.get_running_loop().time() - started <= deadline + 1e-6
        return wrong, failed, untyped

    (wrong, failed, untyped), _ = run(main())
    assert (wrong, untyped) == (0, 0)
    assert failed < operations / 10
