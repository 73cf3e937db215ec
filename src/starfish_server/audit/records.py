"""`AccessRecord`, what `AccessLog` records of one operation, and `Sink`, which takes it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from time import time
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from starfish_server.context import StoreContext

if TYPE_CHECKING:
    from collections.abc import Iterable

# Stands for the context of an operation without one; only there is the collection None.
_SYSTEM = StoreContext(cast("str", None), params={}, identity=None, roles=(), action="system")


class AccessRecord(NamedTuple):
    """One operation as the caller asked for it, with its final outcome.

    timestamp: when the operation began, in seconds since 1970 (UTC).
    operation: the method's name, as in "put".
    action: the context's action; "system" for an operation without a context, which no caller asked for.
    keys: the key, both keys of a `copy`, or all keys of a `delete_many`, however many; empty for a list.
    prefix: the prefix of a list, otherwise None.
    collection, namespace: from the context; None without one.
    identity: the authenticated caller; None on a public route and without a context.
    roles: the caller's roles; empty without a context.
    params: the path parameters; hashable and read-only, as in `StoreContext`.
    outcome: "ok", "miss", "error", "denied" or "cancelled"; "started" is recorded before a write under
        `on_sink_failure="fail"`.
    error_type: the class name of the error, never its message; otherwise None.
    duration: seconds until the outcome was known.
    bytes: size of the body that was read, or that was to be written; None where there is none.
    attempts: attempts that a `Retry` layer made; 0 if the operation reached none.
    cache: "hit", "miss", "shared" (an in-flight read was shared), "stale" (the backend was unavailable and
        an expired result was returned) or "remote-hit" (found in Redis); None if no cache was used.
    source: "primary" or "backup", the store that a `Fallback` used; None if the operation reached none.

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
    outcome: Literal["ok", "miss", "error", "denied", "cancelled", "started"]
    error_type: str | None
    duration: float
    bytes: int | None
    attempts: int
    cache: Literal["hit", "miss", "shared", "stale", "remote-hit"] | None
    source: Literal["primary", "backup"] | None = None

    def to_json(self) -> str:
        """Return a JSON object with the fields in their order, on one line of printable ASCII.

        `timestamp` is RFC 3339 in UTC. Every other character is escaped, so that no text can forge a line.
        A key, an identity or the like that is not a str, which only a mistaken caller passes, is shown as its
        type.
        """
        fields = self._asdict()
        began = datetime.fromtimestamp(self.timestamp, UTC).isoformat(timespec="microseconds")
        fields["timestamp"] = began.replace("+00:00", "Z")
        for name in ("action", "prefix", "collection", "namespace", "identity"):
            fields[name] = None if fields[name] is None else _text(fields[name])
        fields["keys"] = [_text(key) for key in self.keys]
        fields["roles"] = [_text(role) for role in self.roles]
        fields["params"] = dict(self.params)
        fields["duration"] = round(self.duration, 6)
        return _encode(fields)


Sink = Callable[[AccessRecord], Awaitable[object] | object]
"""A function of a record, plain or async; `AccessLog` describes the methods that it may have."""


def make_record(
    operation: str, keys: Iterable[str], prefix: str | None, context: StoreContext | None
) -> partial[AccessRecord]:
    """Return an `AccessRecord` of an operation that begins now; it lacks only the fields of the outcome."""
    by = _SYSTEM if context is None else context
    return partial(
        AccessRecord,
        time(),
        operation,
        by.action,
        tuple(keys),
        prefix,
        by.collection,
        by.namespace,
        by.identity,
        by.roles,
        by.params,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else f"<{type(value).__name__}>"


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
