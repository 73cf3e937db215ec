"""The floors of layers: the one call of a library that a layer cannot do without."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from opentelemetry import trace

from bench.contenders.layers import CONTEXT, body_for, get, leaf
from bench.layered import adds, quiet_logger
from starfish_server.operations import GetString

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.plan import Plan
    from bench.sample import Sample


def coroutine(inner: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    async def call() -> Any:
        return await inner()

    return call


def operation(inner: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    def call() -> Awaitable[Any]:
        GetString("k", CONTEXT)
        return inner()

    return call


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


FLOORS = {
    "a coroutine": coroutine,
    "an operation": operation,
    "asyncio.timeout": timeout,
    "span": span,
    "log record": log_record,
}


def codec_call(layer: str, size: int) -> Callable[[], bytes]:
    """The bare codec on one buffer, as in "AESGCM, write"."""
    name, _, verb = layer.partition(", ")
    if name == "AESGCM":
        cipher, nonce, plain = AESGCM(os.urandom(32)), os.urandom(12), os.urandom(size)
        sealed = cipher.encrypt(nonce, plain, None)
        return (
            (lambda: cipher.decrypt(nonce, sealed, None))
            if verb == "read"
            else (lambda: cipher.encrypt(nonce, plain, None))
        )
    body = body_for("compression", size)
    packed = zstd.compress(body, 3)
    return (lambda: zstd.decompress(packed)) if verb == "read" else (lambda: zstd.compress(body, 3))


async def open_codec(plan: Plan) -> Callable[[int], Awaitable[Sample]]:
    """What the codec of a layer takes in all."""
    codec = codec_call(plan.layer, plan.size)

    async def call() -> bytes:
        return codec()

    return adds(call, None, plan.objects)


async def open_floor(plan: Plan) -> Callable[[int], Awaitable[Sample]]:
    bare = get(leaf())
    return adds(FLOORS[plan.layer](bare), bare, plan.objects)
