"""Each layer with options under which it changes nothing, and the canonical stack of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from starfish_server import MemoryObjectStore, StoreBuilder
from starfish_server.layers import (
    AccessLog,
    Authorize,
    Caching,
    CircuitBreaker,
    ConcurrencyLimit,
    Fallback,
    Hedge,
    LoggingSink,
    Metrics,
    Namespace,
    RateLimit,
    Retry,
    SizeLimit,
    Timeout,
    Tracing,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server import AbstractObjectStore

TRACES = TracerProvider()
METERS = MeterProvider()
NAMESPACES = "tenants/{namespace}/"


def with_backup(inner: AbstractObjectStore) -> Fallback:
    return Fallback(inner, MemoryObjectStore(data={}))


# In canonical order.
LAYERS: dict[str, tuple[Callable[..., AbstractObjectStore], dict[str, Any]]] = {
    "AccessLog": (AccessLog, {"sink": LoggingSink()}),
    "Tracing": (Tracing, {"tracer_provider": TRACES}),
    "Metrics": (Metrics, {"meter_provider": METERS}),
    "SizeLimit": (SizeLimit, {"max_bytes": 2**24}),
    "Authorize": (Authorize, {"allow": lambda operation, keys, context: True}),
    "RateLimit": (RateLimit, {"rate": 1e6, "burst": 10**6}),
    "Namespace": (Namespace, {"prefix": NAMESPACES, "without_context": "system/"}),
    "Caching": (Caching, {"negative_ttl": 30.0, "list_ttl": 30.0}),
    "Fallback": (with_backup, {}),
    "Hedge": (Hedge, {"delay": 5.0}),
    "CircuitBreaker": (CircuitBreaker, {}),
    "Retry": (Retry, {"initial": 0.001}),
    "ConcurrencyLimit": (ConcurrencyLimit, {}),
    "Timeout": (Timeout, {}),
    "Tracing(per_attempt)": (Tracing, {"tracer_provider": TRACES, "per_attempt": True}),
}


def canonical_stack(leaf: AbstractObjectStore) -> AbstractObjectStore:
    builder = StoreBuilder()
    for layer, options in LAYERS.values():
        builder = builder.layer(layer, **options)
    return builder.over(leaf)
