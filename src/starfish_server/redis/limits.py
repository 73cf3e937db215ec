"""`RedisLimits`: what `RateLimit` and `RetryBudget` count in Redis, for all processes together.

Keys in Redis, under `{namespace}:1:`, where 1 is the version of this format:

    rate:{hash}    when the burst of one caller is full again, in microseconds; expires then
    budget         the tokens left of a retry budget; expires after an hour without a retry

Times are read from the clock of Redis, because the clocks of processes differ and may be set.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from starfish_server.redis.link import Link, PerLoop
from starfish_server.redis.server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

Turn = tuple[float, "Callable[[], None] | None"]
"""Seconds until the turn, and what gives it back if it is not used; None if it was not taken."""

_FORMAT = 1
_TICK_SECONDS = 1.0
# GCRA, as in `RateLimit`. KEYS: rate. ARGV: microseconds between operations, burst, longest wait in
# microseconds. Returns the wait, and the new value if the turn is taken. A value can be later than `latest`
# only if the clock of Redis was set back or another program wrote it, and the burst then is full.
_TURN = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, longest = tonumber(ARGV[1]), tonumber(ARGV[3])
local slack = (ARGV[2] - 1) * interval
local latest = now + slack + longest + interval + 2
local whole_at = tonumber(redis.pcall('GET', KEYS[1]))
if not (whole_at and whole_at > now and whole_at <= latest) then
  whole_at = now
end
local wait = whole_at - now - slack
if wait > longest + 1 then
  return {math.ceil(wait)}
end
whole_at = whole_at + interval
local value = string.format('%.17g', whole_at)
redis.call('SET', KEYS[1], value, 'PX', math.ceil((whole_at - now) / 1000))
return {math.ceil(wait), value}
"""
# Gives a turn back, unless others wait behind it. KEYS: rate. ARGV: its value, microseconds of a turn.
_RETURN_TURN = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('SET', KEYS[1], string.format('%.17g', ARGV[1] - ARGV[2]), 'KEEPTTL')
end
return 1
"""
# KEYS: budget. ARGV: capacity, tokens wanted, and the tokens that the process added since its last report,
# minus those that it took without Redis. Returns the tokens taken and those left.
_TOKENS = """
local capacity, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])
local tokens = tonumber(redis.pcall('GET', KEYS[1])) or capacity
tokens = math.max(0, math.min(capacity, tokens + ARGV[3]))
local taken = 0
if tokens >= wanted then
  taken = wanted
  tokens = tokens - wanted
end
redis.call('SET', KEYS[1], tokens, 'PX', 3600000)
return {taken, tokens}
"""
_SCRIPTS = {"turn": _TURN, "return turn": _RETURN_TURN, "tokens": _TOKENS}


class RedisLimits(RedisServer):
    """Counts for `RateLimit` and `RetryBudget` in Redis 6 or newer, or Valkey, that many processes share.

    While Redis is slow or unreachable, no operation fails: each process then counts for itself. See
    `docs/fair-shares.md`.

    url: as in "redis://user:password@host:6379/0", "rediss://..." for TLS or "unix:///path"; one server or
        its proxy, not a Redis Cluster.
    namespace: names what is counted together, 1 to 100 of `A-Za-z0-9._-`. Rate limits with the same
        namespace and the same options are one limit, and all budgets of a namespace are one budget.
    timeout: seconds that an operation waits for a reply, 0.05. After a timeout Redis is not used until it
        replies within that time again.

    Raises `ValueError` or `TypeError`, which never show a password. Each event loop has a connection of its
    own. Closing a layer ends the connections; another layer that still needs one opens it again.
    """

    def __init__(self, url: str, *, namespace: str, timeout: float = 0.05) -> None:
        super().__init__(url, namespace, timeout)
        self._prefix = f"{namespace}:{_FORMAT}:".encode()
        self._links = PerLoop(lambda: Link(self, "shared limit", _SCRIPTS, _TICK_SECONDS))

    @property
    def connected(self) -> bool:
        """Whether there is a connection to Redis now."""
        return any(link.session is not None for link in self._links)

    async def close(self) -> None:
        """End the connections."""
        await self._links.close()

    async def take_turn(
        self, caller: object, rate: float, burst: int, by: str, max_wait: float
    ) -> Turn | None:
        """Take the caller's next turn, unless its wait is too long; return None if Redis does not reply.

        All `RateLimit` layers with the same `rate`, `burst`, `by` and `max_wait` share one limit.
        """
        # Hashed: a name may be long, contain anything, and identify a person.
        name = f"{(rate, burst, by, max_wait)!r}{caller!r}".encode("utf-8", "surrogatepass")
        key = b"rate:" + hashlib.blake2b(name, digest_size=16).hexdigest().encode()
        interval = 1e6 / rate
        match await self.run("turn", key, interval, burst, max_wait * 1e6):
            case [int(wait)]:
                return wait / 1e6, None
            case [int(wait), bytes(value)]:
                return wait / 1e6, lambda: self.send("return turn", key, value, interval)
        return None

    async def take_tokens(self, capacity: int, wanted: int, added: int) -> tuple[int, int] | None:
        """Take all tokens wanted, or none. Return those taken and those left; None without a reply."""
        match await self.run("tokens", b"budget", capacity, wanted, added):
            case [int(taken), int(left)]:
                return taken, left
        return None

    async def run(self, script: str, name: bytes, *arguments: bytes | float) -> Any:
        """Run a script and return its reply, or None if there is none in time."""
        link = self._links.get_or_make()
        deadline = link.deadline()
        session = await link.usable(deadline)
        if session is None:
            return None
        reply = await session.reply(session.run(script, [self._prefix + name], *arguments), deadline)
        return None if isinstance(reply, Exception) else reply

    def send(self, script: str, name: bytes, *arguments: bytes | float) -> None:
        """Run a script without waiting, if there is a connection."""
        link = self._links.get()
        if link is not None and link.session is not None:
            link.session.run(script, [self._prefix + name], *arguments)
