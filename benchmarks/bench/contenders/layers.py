"""This library's layers over a memory leaf: what one adds to a get, or what a whole stack takes."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from bench.contenders.starfish import objects_of, open_store
from bench.layered import adds, quiet_logger
from starfish_server import AbstractObjectStore, MemoryObjectStore, StoreBuilder, StoreContext
from starfish_server.layers import (
    AccessLog,
    AccessRecord,
    Authorize,
    Caching,
    CircuitBreaker,
    Compression,
    ConcurrencyLimit,
    Encryption,
    Fallback,
    Hedge,
    KeyRing,
    Layer,
    LoggingSink,
    Metrics,
    Mirror,
    Namespace,
    RateLimit,
    ReadOnly,
    Retry,
    SizeLimit,
    Timeout,
    Tracing,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from bench.objects import Bucket, Folder, Objects
    from bench.plan import Plan
    from bench.sample import Sample
    from starfish_server.operations import Operation

T = TypeVar("T")

CONTEXT = StoreContext("notes", {"identity": "alice"}, "alice", ("self",), "pull", namespace="t1")
IN_ALL = {"cache hit", "canonical stack"}


def leaf() -> MemoryObjectStore:
    return MemoryObjectStore(data={"k": "v", "t1/k": "v"})


class OneHook(Layer):
    """A layer that could do something before and after each operation."""

    context_dependent = False

    async def perform(self, operation: Operation[T]) -> T:
        return await self.inner.perform(operation)


def keep(record: AccessRecord) -> None:
    """A sink that does nothing."""


class AsCaller(Layer):
    """Gives every operation the same context."""

    context_dependent = False

    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        return self.inner.perform(operation.replace(context=CONTEXT))


def canonical(inner: AbstractObjectStore, *, seconds: float = 10.0, **caching: Any) -> AbstractObjectStore:
    return (
        StoreBuilder()
        .layer(AccessLog, sink=keep, actions={"push"})
        .layer(Tracing)
        .layer(Namespace, "{namespace}/")
        .layer(Caching, **caching)
        .layer(Retry, deadline=3 * seconds)
        .layer(Timeout, seconds=seconds)
        .over(inner)
    )


async def open_canonical(place: Bucket | Folder) -> Objects:
    """The canonical stack over a leaf, with bodies that are too large for its cache: each get is a miss.

    Its time limits leave room for thousands of operations that wait for a connection.
    """
    store = canonical(open_store(place), seconds=600.0, max_object_bytes=1)
    return objects_of(place, AsCaller(store))


LAYERS: dict[str, Callable[[AbstractObjectStore], AbstractObjectStore]] = {
    "pass-through": Layer,
    "one hook": OneHook,
    "namespace": lambda inner: Namespace(inner, "{namespace}/"),
    "retry": Retry,
    "timeout": Timeout,
    "concurrency limit": ConcurrencyLimit,
    "read only": ReadOnly,
    "size limit": lambda inner: SizeLimit(inner, max_bytes=2**20),
    "authorize": lambda inner: Authorize(inner, allow=lambda *_: True),
    "metrics": Metrics,
    "tracing": Tracing,
    "access log, filtered out": lambda inner: AccessLog(inner, sink=keep, actions={"push"}),
    "access log, to a function": lambda inner: AccessLog(inner, sink=keep),
    "access log, to logging": lambda inner: AccessLog(
        inner, sink=LoggingSink(quiet_logger("starfish_server.benchmark"))
    ),
    "circuit breaker": CircuitBreaker,
    "fallback": lambda inner: Fallback(inner, leaf()),
    "hedge": Hedge,
    "rate limit": lambda inner: RateLimit(inner, rate=1e9, burst=1_000_000),
    "mirror": lambda inner: Mirror(inner, leaf()),
    "cache hit": Caching,
    "canonical stack": canonical,
}

BODY_LAYERS: dict[str, Callable[[AbstractObjectStore], AbstractObjectStore]] = {
    "compression": Compression,
    "encryption": lambda inner: Encryption(inner, KeyRing({"2026": os.urandom(32)}, active="2026")),
    "mirror": lambda inner: Mirror(inner, leaf()),
}


def json_of(size: int) -> bytes:
    """A JSON document of about this many bytes, as an application would store."""
    numbers = range(size // 50)
    users = [
        {"id": each, "name": f"user {each * 7919 % 10_007}", "active": each % 3 == 0} for each in numbers
    ]
    return json.dumps(users).encode()


def body_for(layer: str, size: int) -> bytes:
    return json_of(size) if layer.startswith("compression") else os.urandom(size)


def stack(layer: str, depth: int = 1) -> AbstractObjectStore:
    """A memory leaf under this many of the same layer."""
    store: AbstractObjectStore = leaf()
    for _ in range(depth):
        store = LAYERS[layer](store)
    return store


def get(store: AbstractObjectStore) -> Callable[[], Awaitable[Any]]:
    return partial(store.get_string, "k", context=CONTEXT)


async def open_layer(plan: Plan) -> Callable[[int], Awaitable[Sample]]:
    bare = None if plan.layer in IN_ALL else get(leaf())
    return adds(get(stack(plan.layer)), bare, plan.objects)


async def open_body_layer(plan: Plan) -> Callable[[int], Awaitable[Sample]]:
    """What a layer adds to the writes or reads of a body of `plan.size`: "encryption, write"."""
    layer, _, verb = plan.layer.partition(", ")
    body = body_for(layer, plan.size)
    layered, bare = BODY_LAYERS[layer](leaf()), leaf()
    for store in (layered, bare):
        await store.write("k", body)
    if verb == "read":
        return adds(partial(layered.get_bytes, "k"), partial(bare.get_bytes, "k"), plan.objects)
    return adds(_write(layered, body), _write(bare, body), plan.objects)


def _write(store: AbstractObjectStore, body: bytes) -> Callable[[], Awaitable[bool]]:
    """Return a `put_bytes`, after which a memory leaf need not hash the body for its version."""

    async def write() -> bool:
        await store.put_bytes("k", body, content_type="application/octet-stream")
        return True

    return write


async def open_stack(plan: Plan) -> Callable[[int], Awaitable[Sample]]:
    """What a get takes in all through `plan.depth` layers of one kind."""
    return adds(get(stack(plan.layer, plan.depth)), None, plan.objects)
