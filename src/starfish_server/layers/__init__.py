"""Layers: stores that wrap another store and add one concern, one layer per file.

Each is imported on first use, so that a stack imports only the packages that its own layers need.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starfish_server.audit.chain import AuditProblem as AuditProblem
    from starfish_server.audit.chain import AuditVerification as AuditVerification
    from starfish_server.audit.chain import verify_audit_log as verify_audit_log
    from starfish_server.audit.json_lines import JsonLinesSink as JsonLinesSink
    from starfish_server.audit.queued import QueuedSink as QueuedSink
    from starfish_server.audit.records import AccessRecord as AccessRecord
    from starfish_server.audit.records import Sink as Sink
    from starfish_server.audit.sinks import LoggingSink as LoggingSink
    from starfish_server.layers.access_log import AccessLog as AccessLog
    from starfish_server.layers.authorize import Authorize as Authorize
    from starfish_server.layers.base import Layer as Layer
    from starfish_server.layers.base import Operation as Operation
    from starfish_server.layers.base import Slot as Slot
    from starfish_server.layers.caching import CacheStats as CacheStats
    from starfish_server.layers.caching import Caching as Caching
    from starfish_server.layers.caching.redis import RedisCache as RedisCache
    from starfish_server.layers.circuit_breaker import CircuitBreaker as CircuitBreaker
    from starfish_server.layers.compression import Compression as Compression
    from starfish_server.layers.concurrency_limit import ConcurrencyLimit as ConcurrencyLimit
    from starfish_server.layers.encryption import DataKey as DataKey
    from starfish_server.layers.encryption import Encryption as Encryption
    from starfish_server.layers.encryption import KeyProvider as KeyProvider
    from starfish_server.layers.encryption import KeyRing as KeyRing
    from starfish_server.layers.encryption import LegacyKey as LegacyKey
    from starfish_server.layers.encryption import RotationReport as RotationReport
    from starfish_server.layers.encryption import UnknownKeyError as UnknownKeyError
    from starfish_server.layers.fallback import Fallback as Fallback
    from starfish_server.layers.hedge import Hedge as Hedge
    from starfish_server.layers.metrics import Metrics as Metrics
    from starfish_server.layers.mirror import Mirror as Mirror
    from starfish_server.layers.mirror import RepairReport as RepairReport
    from starfish_server.layers.namespace import Namespace as Namespace
    from starfish_server.layers.rate_limit import RateLimit as RateLimit
    from starfish_server.layers.read_only import ReadOnly as ReadOnly
    from starfish_server.layers.retry import Retry as Retry
    from starfish_server.layers.retry import RetryBudget as RetryBudget
    from starfish_server.layers.retry import RetryEvent as RetryEvent
    from starfish_server.layers.size_limit import SizeLimit as SizeLimit
    from starfish_server.layers.timeout import Timeout as Timeout
    from starfish_server.layers.tracing import Tracing as Tracing
    from starfish_server.layers.transform import Transform as Transform
    from starfish_server.redis.limits import RedisLimits as RedisLimits

_HOMES = {
    "AccessLog": "access_log",
    "AccessRecord": ".audit.records",
    "AuditProblem": ".audit.chain",
    "AuditVerification": ".audit.chain",
    "Authorize": "authorize",
    "CacheStats": "caching",
    "Caching": "caching",
    "CircuitBreaker": "circuit_breaker",
    "Compression": "compression",
    "ConcurrencyLimit": "concurrency_limit",
    "DataKey": "encryption",
    "Encryption": "encryption",
    "Fallback": "fallback",
    "Hedge": "hedge",
    "JsonLinesSink": ".audit.json_lines",
    "KeyProvider": "encryption",
    "KeyRing": "encryption",
    "Layer": "base",
    "LegacyKey": "encryption",
    "LoggingSink": ".audit.sinks",
    "Metrics": "metrics",
    "Mirror": "mirror",
    "Namespace": "namespace",
    "Operation": "base",
    "QueuedSink": ".audit.queued",
    "RateLimit": "rate_limit",
    "ReadOnly": "read_only",
    "RedisCache": "caching.redis",
    "RedisLimits": ".redis.limits",
    "RepairReport": "mirror",
    "Retry": "retry",
    "RetryBudget": "retry",
    "RetryEvent": "retry",
    "RotationReport": "encryption",
    "Sink": ".audit.records",
    "SizeLimit": "size_limit",
    "Slot": "base",
    "Timeout": "timeout",
    "Tracing": "tracing",
    "Transform": "transform",
    "UnknownKeyError": "encryption",
    "verify_audit_log": ".audit.chain",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
