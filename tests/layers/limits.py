"""Limits that meet in Redis only, as those of different processes do."""

from __future__ import annotations

from typing import Any, Self

import pytest

from starfish_server import MemoryObjectStore, StoreContext, StoreOverloadedError
from starfish_server.layers import RateLimit, RedisLimits


class Fleet:
    """`fleet.limits()` is where one process counts, `fleet.rate(...)` its `RateLimit`; closes them all.

    Waits are long unless a test says otherwise, so that a slow machine makes no difference.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._made: list[RedisLimits] = []

    def limits(self, **options: Any) -> RedisLimits:
        chosen: dict[str, Any] = {"url": self._url, "namespace": "test", "timeout": 10.0}
        self._made.append(RedisLimits(**chosen | options))
        return self._made[-1]

    def rate(self, *, limits: dict[str, Any] | None = None, **options: Any) -> RateLimit:
        chosen: dict[str, Any] = {"rate": 0.001, "burst": 5}
        leaf = MemoryObjectStore(data={})
        return RateLimit(leaf, shared=self.limits(**(limits or {})), **chosen | options)

    def connected(self) -> bool:
        """Whether all of them are connected."""
        return all(limits.connected for limits in self._made)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for limits in self._made:
            await limits.close()


def caller(identity: str, **options: Any) -> StoreContext:
    return StoreContext("notes", {}, identity=identity, roles=(), action="pull", **options)


async def passed(layer: RateLimit, attempts: int, context: StoreContext | None = None) -> int:
    """How many of so many operations passed."""
    count = 0
    for _ in range(attempts):
        try:
            await layer.get_string("k", context=context)
            count += 1
        except StoreOverloadedError:
            pass
    return count


async def refused(layer: RateLimit, context: StoreContext | None = None) -> float:
    """The `retry_after` of an operation that is refused."""
    with pytest.raises(StoreOverloadedError) as caught:
        await layer.get_string("k", context=context)
    assert caught.value.retry_after is not None
    assert caught.value.undetermined is False
    return caught.value.retry_after
