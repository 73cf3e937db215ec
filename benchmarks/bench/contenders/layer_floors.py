"""The floors of layers: the one call of a library that a layer cannot do without."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from bench.contenders.layers import get, leaf
from bench.layered import adds, quiet_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.plan import Plan
    from bench.sample import Sample


def timeout(inner: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    async def call() -> Any:
        async with asyncio.timeout(5.0):
            return await inner()

    return call


def span(inner: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    tracer = trace.get_tracer("bench")

    async def call() -> Any:
        with tracer.start_as_current_span("get"):
            return await inner()

    return call


def log_record(inner: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    logger = quiet_logger("bench.floor")

    async def call() -> Any:
        found = await inner()
        logger.info("get %s", "k")
        return found

    return call


FLOORS = {"asyncio.timeout": timeout, "span": span, "log record": log_record}


async def open_floor(plan: Plan) -> Callable[[int], Awaitable[Sample]]:
    bare = get(leaf())
    return adds(FLOORS[plan.layer](bare), bare, plan.objects)
