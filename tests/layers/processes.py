"""Caches that meet in Redis only, as those of different processes do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from starfish_server.layers import Caching, RedisCache

if TYPE_CHECKING:
    from starfish_server import AbstractObjectStore


class Processes:
    """`process(leaf, cache={...}, **options)` makes a cache with these options of `RedisCache` and `Caching`.

    Waits are long unless a test says otherwise, so that a slow machine makes no difference.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._made: list[Caching] = []

    def __call__(
        self, leaf: AbstractObjectStore, *, cache: dict[str, Any] | None = None, **options: Any
    ) -> Caching:
        chosen: dict[str, Any] = {"url": self._url, "namespace": "test", "timeout": 10.0, "max_delay": 60.0}
        self._made.append(Caching(leaf, shared=RedisCache(**chosen | (cache or {})), **options))
        return self._made[-1]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for store in self._made:
            await store.close()


async def settled(store: Caching) -> None:
    """Wait until Redis has all that a process sent, and the process all that was published before."""
    await store.stat("no/such/key")
