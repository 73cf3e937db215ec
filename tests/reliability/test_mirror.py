"""1,000 writes of 8 writers through a mirror, one of whose replicas is down, slow or lying."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from layers.switched import contents, memory
from layers.virtual_time import run
from starfish_server.errors import StoreUnavailableError, VersionConflictError
from starfish_server.layers import Mirror, Timeout
from starfish_server.layers.base import Layer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from starfish_server import AbstractObjectStore
    from starfish_server.layers.base import T
    from starfish_server.operations import Operation

KEYS = [f"k{number}" for number in range(12)]
WRITERS, WRITES = 8, 125
TIMEOUT = 1.0  # virtual seconds


class Bad(Layer):
    """A replica that is down for a while, slower than its time limit, or fails after it did the work.

    fails: whether it does so now. missed: the keys of which a write failed, in any way.
    """

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore, how: str, seed: int) -> None:
        super().__init__(inner)
        self.fails = True
        self.missed: set[str] = set()
        self._how = how
        self._random = random.Random(seed)
        self._calls = 0

    async def perform(self, operation: Operation[T]) -> T:
        keys = set(operation.keys) - self.missed if operation.writes else set()
        self.missed |= keys
        await asyncio.sleep(self._random.uniform(0, TIMEOUT / 100))
        if not self.fails:
            result = await self._inner.perform(operation)
        else:
            result = await self._fail(operation)
        self.missed -= keys
        return result

    async def _fail(self, operation: Operation[T]) -> T:
        self._calls += 1
        if self._how == "down" and self._calls // 40 % 2:
            raise StoreUnavailableError("connection refused")
        if self._how == "slow":
            await asyncio.sleep(self._random.choice([0.1, 0.5, 2.0]) * TIMEOUT)
        result = await self._inner.perform(operation)
        if self._how == "slow":
            await asyncio.sleep(self._random.choice([0.1, 0.5]) * TIMEOUT)
        if self._how == "lying" and self._random.random() < 0.3:
            raise StoreUnavailableError("failed, though the work is done")
        return result


async def write(store: Mirror, writer: int, choose: random.Random) -> None:
    for number in range(WRITES):
        key, body = choose.choice(KEYS), f"{writer} {number} " * choose.randrange(1, 20)
        try:
            match choose.randrange(8):
                case 0:
                    await store.delete(key)
                case 1:
                    await store.delete_many(choose.sample(KEYS, 3))
                case 2:
                    await store.upload(key, [body.encode(), b"end"], metadata={"writer": str(writer)})
                case 3:
                    await store.copy(choose.choice(KEYS), key)
                case 4:
                    info = await store.stat(key)
                    await store.write(key, body, if_version=info.version if info else None)
                case _:
                    await store.put(key, body, cache_control=choose.choice([None, "no-store"]))
        except (StoreUnavailableError, VersionConflictError, LookupError):
            pass


async def infos(store: AbstractObjectStore) -> Sequence[object]:
    found = [await store.stat(key) for key in KEYS]
    return [info and (info.cache_control, dict(info.metadata)) for info in found]


@pytest.mark.parametrize("require", ["all", "first"])
@pytest.mark.parametrize("how", ["down", "slow", "lying"])
def test_what_a_bad_replica_missed_is_known_exactly_and_repaired(
    tmp_path: Path, how: str, require: str, full: bool
) -> None:
    async def trial(seed: int) -> int:
        log = tmp_path / f"{seed}.jsonl"
        first, healthy, inner = memory(), memory(), memory()
        bad = Bad(inner, how, seed)
        store = Mirror(first, healthy, Timeout(bad, seconds=TIMEOUT), require=require, pending_log=log)  # type: ignore[arg-type]  # of the parameters
        choose = random.Random(seed)
        await asyncio.gather(*(write(store, writer, choose) for writer in range(WRITERS)))

        assert store.pending() == {(2, key) for key in bad.missed}
        assert Mirror(memory(), memory(), pending_log=log).pending() == store.pending()
        assert await contents(healthy) == await contents(first)
        differ = {key for key in KEYS if await first.get_bytes(key) != await inner.get_bytes(key)}
        assert differ <= bad.missed

        missed = len(bad.missed)
        bad.fails = False
        report = await store.repair()
        assert (report.failed, report.ahead, store.pending()) == ({}, set(), set())
        for replica in (healthy, inner):
            assert await contents(replica) == await contents(first)
            assert await infos(replica) == await infos(first)
        return missed

    assert sum(run(trial(seed))[0] for seed in range(20 if full else 2))


@pytest.mark.parametrize("how", ["down", "slow", "lying"])
def test_the_first_store_is_never_behind_a_replica(how: str) -> None:
    """What a replica has just written is what the first store has."""
    first = memory()
    behind: list[object] = []

    class Compares(Layer):
        async def perform(self, operation: Operation[T]) -> T:
            result = await self._inner.perform(operation)
            keys = operation.keys if operation.writes else ()
            pairs = [(await self._inner.get_bytes(key), await first.get_bytes(key)) for key in keys]
            behind.extend(pair for pair in pairs if pair[0] != pair[1])
            return result

    async def trial() -> None:
        replica = Timeout(Bad(Compares(memory()), how, seed=3), seconds=TIMEOUT)
        store, choose = Mirror(first, replica, require="first"), random.Random(3)
        await asyncio.gather(*(write(store, writer, choose) for writer in range(WRITERS)))

    run(trial())
    assert behind == []
