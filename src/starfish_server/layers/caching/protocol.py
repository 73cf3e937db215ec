"""The protocol of the shared cache: its keys in Redis, and the scripts that change them.

Keys in Redis, under `{namespace}:1:{run of the server}:`, where 1 is the version of this format:

    e:{key}  an entry
    l:{key}  the lease of the one reader that may fill it
    w:{key}  the writers of the key, each with the time at which it counts as gone
    g        the generation; entries of another one are outdated

A reader that misses takes the lease, unless there is a writer, and its fill lands only while it still has the
lease. A writer registers and drops the entry and the lease before it writes, and does so again afterwards; so
nothing that was read before a write ended lands after it. Both times it tells the other processes, which
treat it as a write of their own. A writer that dies leaves its registration, and its key is not cached until
that expires.

`member` does this in each event loop, `shared` applies the writes of other processes to the first level, and
`redis` encodes entries.
"""

from __future__ import annotations

import hashlib

from starfish_server.layers.caching.cache import UNDETERMINED_SECONDS

FORMAT = 1
# How long a writer stays registered; a writer whose write is still in flight renews it.
WRITER_SECONDS = UNDETERMINED_SECONDS
LEASE_MILLISECONDS = 5_000
LONGEST_TTL = 24 * 3600.0  # of an entry; the generation is kept for longer than any
MAX_KEY_BYTES = 1_024  # a longer key is hashed

# KEYS: e, l and w of each key, then g. ARGV: token, milliseconds, channel, message, whether the generation
# changes, and for each key whether the token stays registered. The deletions come first: a script that has
# written is not refused later on when Redis is full. A value that another program left in place of the
# writers is dropped.
WRITE = """
local count = (#KEYS - 1) / 3
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, count do
  redis.call('UNLINK', KEYS[3 * i - 2], KEYS[3 * i - 1])
  local writers = KEYS[3 * i]
  if ARGV[5 + i] == '1' then
    if type(redis.pcall('ZREMRANGEBYSCORE', writers, '-inf', now)) == 'table' then
      redis.call('UNLINK', writers)
    end
    redis.call('ZADD', writers, now + ARGV[2], ARGV[1])
    redis.call('PEXPIRE', writers, ARGV[2])
  else
    redis.pcall('ZREM', writers, ARGV[1])
  end
end
if ARGV[5] == '1' then
  local last = tonumber(redis.call('GET', KEYS[#KEYS]) or '0')
  local generation = math.max(last + 1, time[1] * 1000000 + time[2])
  redis.call('SET', KEYS[#KEYS], generation, 'PX', 7 * 24 * 3600 * 1000)
  redis.call('PUBLISH', ARGV[3], generation)
end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""
# KEYS: l, w of the key, w of all keys, g. ARGV: token, milliseconds. Returns the generation, -1 if another
# reader has the lease, -2 if there is a writer.
LEASE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('ZCOUNT', KEYS[2], now, '+inf') + redis.call('ZCOUNT', KEYS[3], now, '+inf') > 0 then
  return -2
end
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return -1
end
redis.call('PEXPIRE', KEYS[4], 7 * 24 * 3600 * 1000)
return tonumber(redis.call('GET', KEYS[4]) or '0')
"""
# KEYS: e, l, g. ARGV: token, generation, milliseconds, entry; an empty one only gives the lease back.
FILL = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('UNLINK', KEYS[2])
if ARGV[4] == '' or (redis.call('GET', KEYS[3]) or '0') ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
return 1
"""
SCRIPTS = {"write": WRITE, "lease": LEASE, "fill": FILL}
LEASED, WRITER = -1, -2


class Run:
    """The names in Redis of one run of the server, and the generation whose entries count."""

    def __init__(self, channel: str, run_id: str) -> None:
        self._prefix = f"{channel}:{run_id}:".encode()
        self.generation = 0
        self.generation_name = self._prefix + b"g"

    def name(self, letter: bytes, key: str | None) -> bytes:
        """Return the name for a key; `*` is for all keys, `#` for the hash of a long one."""
        if key is None:
            return self._prefix + letter + b"*"
        raw = key_bytes(key)
        if len(raw) > MAX_KEY_BYTES:
            return self._prefix + letter + b"#" + hashlib.sha256(raw).hexdigest().encode()
        return self._prefix + letter + b":" + raw


def key_bytes(key: str) -> bytes:
    """Return any str as bytes, even one with lone surrogates."""
    return key.encode("utf-8", "surrogatepass")
