"""py-key-value-aio: wrappers over its memory store, as its documentation builds them."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.logging import LoggingWrapper
from key_value.aio.wrappers.passthrough_cache import PassthroughCacheWrapper
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper
from key_value.aio.wrappers.retry import RetryWrapper
from key_value.aio.wrappers.timeout import TimeoutWrapper

from bench.layered import adds, quiet_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.plan import Plan
    from bench.sample import Sample

IN_ALL = {"cache hit", "five wrappers"}
VALUE = {"v": "v"}


def cached(inner: Any) -> Any:
    return PassthroughCacheWrapper(primary_key_value=inner, cache_key_value=MemoryStore())


def five(inner: Any) -> Any:
    """The peer's nearest to the canonical stack; its log is written off."""
    through = TimeoutWrapper(inner)
    through = RetryWrapper(through)
    through = cached(through)
    through = PrefixKeysWrapper(through, prefix="t1")
    return LoggingWrapper(through, logger=quiet_logger("bench.off", logging.WARNING))


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "prefix": lambda inner: PrefixKeysWrapper(inner, prefix="t1"),
    "retry": RetryWrapper,
    "timeout": TimeoutWrapper,
    "log off": lambda inner: LoggingWrapper(inner, logger=quiet_logger("bench.off", logging.WARNING)),
    "log to nowhere": lambda inner: LoggingWrapper(inner, logger=quiet_logger("bench.on")),
    "cache hit": cached,
    "five wrappers": five,
}


async def filled(wrap: Callable[[Any], Any], depth: int = 1) -> Callable[[], Awaitable[Any]]:
    """A get through this many wrappers of an object that was put through them."""
    store: Any = MemoryStore()
    for _ in range(depth):
        store = wrap(store)
    await store.put("k", VALUE, collection="c")
    return partial(store.get, "k", collection="c")


async def open_layer(plan: Plan) -> Callable[[int], Awaitable[Sample]]:
    bare = None if plan.layer in IN_ALL else await filled(lambda inner: inner)
    return adds(await filled(WRAPPERS[plan.layer]), bare, plan.objects)


async def open_stack(plan: Plan) -> Callable[[int], Awaitable[Sample]]:
    """What a get takes in all through `plan.depth` wrappers of one kind."""
    return adds(await filled(WRAPPERS[plan.layer], plan.depth), None, plan.objects)
