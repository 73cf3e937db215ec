"""`RedisCache`: where `Caching` shares what it has cached."""

from __future__ import annotations

from starfish_server.checks import positive_int, secret_bytes
from starfish_server.layers.caching.wire import Codec, Seal
from starfish_server.redis.server import RedisServer, finite_number

__all__ = ["RedisCache"]

_MIN_SECRET_BYTES = 32


class RedisCache(RedisServer):
    """A second level for `Caching` in Redis 6 or newer, or Valkey, that many processes share.

    It also keeps their first levels coherent: a write in one process drops what the others have cached of it.
    Redis being slow or away makes no operation fail; see `docs/shared-cache.md` for what is promised.

    url: as in "redis://user:password@host:6379/0", "rediss://..." for TLS or "unix:///path"; one server or
        its proxy, not a Redis Cluster.
    namespace: names what is shared, 1 to 100 of `A-Za-z0-9._-`. Processes over the same objects give the same
        one, and stores that hold other objects, another bucket for one, must give another.
    secret: at least 32 bytes or characters; entries are then sealed with AES-256-GCM under their key, and
        what Redis returns is authenticated. Required over an `Encryption`; None by default.
    timeout: seconds that an operation waits for Redis in all, 0.05. After that Redis is left alone until it
        replies this quickly again.
    max_delay: seconds by which a first-level hit may be behind a write in another process, 1.0. If Redis has
        proved no message to be missing for longer, the first level is not used.
    max_value_bytes: a larger body is not put into Redis, 1 MiB.

    Raises `ValueError` or `TypeError`, which never show a password or a secret. One object may be given to
    several `Caching` layers; each has its own connections, one an event loop, which end with its `close()`.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str,
        secret: bytes | str | None = None,
        timeout: float = 0.05,
        max_delay: float = 1.0,
        max_value_bytes: int = 2**20,
    ) -> None:
        super().__init__(url, namespace, timeout)
        self.max_delay = finite_number("max_delay", max_delay)
        seal = None
        if secret is not None:
            secret = secret_bytes("secret", secret)
            if len(secret) < _MIN_SECRET_BYTES:
                raise ValueError(f"secret must be at least {_MIN_SECRET_BYTES} bytes")
            seal = Seal(secret, namespace)
        self.sealed = seal is not None
        self.codec = Codec(seal, positive_int("max_value_bytes", max_value_bytes))

    def settings(self) -> dict[str, object]:
        return {
            "namespace": self.namespace,
            "sealed": self.sealed,
            "timeout": self.timeout,
            "max_delay": self.max_delay,
            "max_value_bytes": self.codec.max_value_bytes,
        }
