"""`AccessRecord`, what `AccessLog` says of one operation, and `Sink`, what it says it to."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, Literal

from starfish_server.context import StoreContext
from starfish_server.layers.printable import name_of

if TYPE_CHECKING:
    from starfish_server.layers.outcome import Outcome
    from starfish_server.operations import Operation

__all__ = ["AccessRecord", "Sink", "record_of", "shown_sink"]

_NO_PARAMS = StoreContext(collection="", params={}, identity=None, roles=(), action="system").params


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """One operation as the caller asked for it, with its final outcome.

    timestamp: when the operation began, in seconds since 1970 (UTC).
    operation: the method's name, as in "put".
    action: the context's action; "system" for a call without a context, behind which stands no caller.
    keys: the key, or all keys of a `delete_many`, however many; empty for a list.
    prefix: the prefix of a `list_keys`, otherwise None.
    collection, namespace: from the context; None without one.
    identity: the authenticated caller; None on a public route and without a context.
    roles: the caller's roles; empty without a context.
    params: the path parameters; hashable and read-only, as in `StoreContext`.
    outcome: "ok", "miss", "error", "denied" or "cancelled"; "started" is written ahead of a write under
        `on_sink_failure="fail"`.
    error_type: the class name of the error, never its message; otherwise None.
    duration: seconds until the outcome was known.
    bytes: size of the body that was read, or that was to be written; None where there is none.
    attempts: tries that a `Retry` layer made; 0 where none was reached.
    cache: "hit", "miss" or "shared" (with a read under way); None where no cache was asked.

    The texts are as they came and may hold anything; `to_json` and the sinks of this package escape them.
    """

    timestamp: float
    operation: str
    action: str
    keys: tuple[str, ...]
    prefix: str | None
    collection: str | None
    namespace: str | None
    identity: str | None
    roles: tuple[str, ...]
    params: Mapping[str, str]
    outcome: Outcome | Literal["started"]
    error_type: str | None
    duration: float
    bytes: int | None
    attempts: int
    cache: str | None

    def to_json(self) -> str:
        """A JSON object with the fields in their order, on one line of printable ASCII.

        `timestamp` is RFC 3339 in UTC. Every other character is escaped, so that no text can forge a line.
        A key, an identity or the like that is no text, as only a mistaken caller hands in, shows as its type.
        """
        began = datetime.fromtimestamp(self.timestamp, UTC).isoformat(timespec="microseconds")
        return _encode(
            {
                "timestamp": began.replace("+00:00", "Z"),
                "operation": self.operation,
                "action": _text(self.action),
                "keys": _texts(self.keys),
                "prefix": _text(self.prefix),
                "collection": _text(self.collection),
                "namespace": _text(self.namespace),
                "identity": _text(self.identity),
                "roles": _texts(self.roles),
                "params": dict(self.params),
                "outcome": self.outcome,
                "error_type": self.error_type,
                "duration": round(self.duration, 6),
                "bytes": self.bytes,
                "attempts": self.attempts,
                "cache": self.cache,
            }
        )


Sink = Callable[[AccessRecord], Awaitable[object] | object]
"""Takes each record, plain or async; `AccessLog` says what else it may have."""


def shown_sink(sink: Sink) -> object:
    """What a `repr` shows of a sink: the `repr` of one of this package, the name of any other."""
    return sink if type(sink).__module__.startswith(__package__) else name_of(sink)


def record_of(operation: Operation[Any]) -> partial[AccessRecord]:
    """An `AccessRecord` that lacks only what became of the operation."""
    keys, prefix, context = tuple(operation.keys), operation.prefix, operation.context
    if context is None:
        return partial(
            AccessRecord, time(), operation.name, "system", keys, prefix, None, None, None, (), _NO_PARAMS
        )
    return partial(
        AccessRecord,
        time(),
        operation.name,
        context.action,
        keys,
        prefix,
        context.collection,
        context.namespace,
        context.identity,
        context.roles,
        context.params,
    )


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else _name_of_type(value)


def _texts(values: tuple[object, ...]) -> list[str]:
    return [value if isinstance(value, str) else _name_of_type(value) for value in values]


def _name_of_type(value: object) -> str:
    return f"<{type(value).__name__}>"


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
