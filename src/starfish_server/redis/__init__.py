"""Redis for layers that work across processes: its address, connections, and the limits of a fleet.

The only part that imports redis. `server` is the address, `session` one connection, `link` keeps one up in
each event loop, and `limits` has what `RateLimit` and `RetryBudget` share.
"""

from __future__ import annotations


def check_limits(shared: object) -> None:
    """Raise `TypeError` unless `shared`, an option, is a `RedisLimits`."""
    from starfish_server.redis.limits import RedisLimits

    if not isinstance(shared, RedisLimits):
        raise TypeError(f"shared must be a RedisLimits, not {type(shared).__name__}")
