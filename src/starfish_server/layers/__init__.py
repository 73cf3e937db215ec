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
    from starfish_server.layers.caching import Caching as Caching
    from starfish_server.layers.caching.cache import CacheStats as CacheStats
    from starfish_server.layers.caching.redis import RedisCache as RedisCache
    from starfish_server.layers.circuit_breaker import CircuitBreaker as CircuitBreaker
    from starfish_server.layers.compression import Compression as Compression
    from starfish_server.layers.concurrency_limit import ConcurrencyLimit as ConcurrencyLimit
    from starfish_server.layers.encryption import Encryption as Encryption
    from starfish_server.layers.encryption.key_ring import DataKey as DataKey
    from starfish_server.layers.encryption.key_ring import KeyProvider as KeyProvider
    from starfish_server.layers.encryption.key_ring import KeyRing as KeyRing
    from starfish_server.layers.encryption.key_ring import LegacyKey as LegacyKey
    from starfish_server.layers.encryption.key_ring import UnknownKeyError as UnknownKeyError
    from starfish_server.layers.encryption.rotation import RotationReport as RotationReport
    from starfish_server.layers.fallback import Fallback as Fallback
    from starfish_server.layers.hedge import Hedge as Hedge
    from starfish_server.layers.metrics import Metrics as Metrics
    from starfish_server.layers.mirror import Mirror as Mirror
    from starfish_server.layers.mirror.repair import RepairReport as RepairReport
    from starfish_server.layers.namespace import Namespace as Namespace
    from starfish_server.layers.rate_limit import RateLimit as RateLimit
    from starfish_server.layers.read_only import ReadOnly as ReadOnly
    from starfish_server.layers.retry import Retry as Retry
    from starfish_server.layers.retry.policy import RetryBudget as RetryBudget
    from starfish_server.layers.retry.policy import RetryEvent as RetryEvent
    from starfish_server.layers.size_limit import SizeLimit as SizeLimit
    from starfish_server.layers.timeout import Timeout as Timeout
    from starfish_server.layers.tracing import Tracing as Tracing
    from starfish_server.layers.transform import Transform as Transform
    from starfish_server.redis.limits import RedisLimits as RedisLimits

_NAMES = {
    ".audit.chain": ("AuditProblem", "AuditVerification", "verify_audit_log"),
    ".audit.json_lines": ("JsonLinesSink",),
    ".audit.queued": ("QueuedSink",),
    ".audit.records": ("AccessRecord", "Sink"),
    ".audit.sinks": ("LoggingSink",),
    ".redis.limits": ("RedisLimits",),
    "access_log": ("AccessLog",),
    "authorize": ("Authorize",),
    "base": ("Layer", "Operation", "Slot"),
    "caching": ("Caching",),
    "caching.cache": ("CacheStats",),
    "caching.redis": ("RedisCache",),
    "circuit_breaker": ("CircuitBreaker",),
    "compression": ("Compression",),
    "concurrency_limit": ("ConcurrencyLimit",),
    "encryption": ("Encryption",),
    "encryption.key_ring": ("DataKey", "KeyProvider", "KeyRing", "LegacyKey", "UnknownKeyError"),
    "encryption.rotation": ("RotationReport",),
    "fallback": ("Fallback",),
    "hedge": ("Hedge",),
    "metrics": ("Metrics",),
    "mirror": ("Mirror",),
    "mirror.repair": ("RepairReport",),
    "namespace": ("Namespace",),
    "rate_limit": ("RateLimit",),
    "read_only": ("ReadOnly",),
    "retry": ("Retry",),
    "retry.policy": ("RetryBudget", "RetryEvent"),
    "size_limit": ("SizeLimit",),
    "timeout": ("Timeout",),
    "tracing": ("Tracing",),
    "transform": ("Transform",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


if not TYPE_CHECKING:  # to a type checker it would mean that the module has every name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
