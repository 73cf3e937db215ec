"""Each layer with options under which a caller notices nothing, and the canonical stack of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from starfish_server import AbstractObjectStore, MemoryObjectStore, StoreBuilder
from starfish_server.layers import (
    AccessLog,
    Authorize,
    Caching,
    CircuitBreaker,
    Compression,
    ConcurrencyLimit,
    Encryption,
    Fallback,
    Hedge,
    KeyRing,
    LoggingSink,
    Metrics,
    Mirror,
    Namespace,
    RateLimit,
    Retry,
    SizeLimit,
    Timeout,
    Tracing,
)

TRACES = TracerProvider()
METERS = MeterProvider()
NAMESPACES = "tenants/{namespace}/"


def with_backup(inner: AbstractObjectStore) -> Fallback:
    return Fallback(inner, MemoryObjectStore(data={}))


def with_replica(inner: AbstractObjectStore) -> Mirror:
    return Mirror(inner, MemoryObjectStore(data={}))


Makers = dict[str, tuple[Callable[..., AbstractObjectStore], dict[str, Any]]]
TRANSFORMS: Makers = {
    "Compression": (Compression, {"min_bytes": 1}),
    "Encryption": (Encryption, {"keys": KeyRing({"2026": bytes(range(32))}, active="2026")}),
}
# In canonical order. The transforms change what the store inside sees, which the others leave as it is.
LAYERS: Makers = {
    "AccessLog": (AccessLog, {"sink": LoggingSink()}),
    "Tracing": (Tracing, {"tracer_provider": TRACES}),
    "Metrics": (Metrics, {"meter_provider": METERS}),
    "SizeLimit": (SizeLimit, {"max_bytes": 2**24}),
    "Authorize": (Authorize, {"allow": lambda operation, keys, context: True}),
    "RateLimit": (RateLimit, {"rate": 1e6, "burst": 10**6}),
    "Namespace": (Namespace, {"prefix": NAMESPACES, "without_context": "system/"}),
    "Caching": (Caching, {"negative_ttl": 30.0, "list_ttl": 30.0}),
    **TRANSFORMS,
    "Mirror": (with_replica, {}),
    "Fallback": (with_backup, {}),
    "Hedge": (Hedge, {"delay": 5.0}),
    "CircuitBreaker": (CircuitBreaker, {}),
    "Retry": (Retry, {"initial": 0.001, "deadline": 100.0}),
    "ConcurrencyLimit": (ConcurrencyLimit, {}),
    "Timeout": (Timeout, {"seconds": 60.0}),  # so that a slow machine makes no difference
    "Tracing(per_attempt)": (Tracing, {"tracer_provider": TRACES, "per_attempt": True}),
}


def canonical_stack(leaf: AbstractObjectStore) -> AbstractObjectStore:
    builder = StoreBuilder()
    for layer, options in LAYERS.values():
        builder = builder.layer(layer, **options)
    return builder.over(leaf)
