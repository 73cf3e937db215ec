"""`RedisCache`: where `Caching` shares what it has cached."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

try:
    from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
except ImportError as error:
    raise ImportError("RedisCache needs redis: pip install 'starfish-server[redis]'") from error

from starfish_server.checks import positive_int, positive_number, secret_bytes
from starfish_server.layers.caching.link import Link
from starfish_server.layers.caching.wire import Codec, Seal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.layers.caching.link import LinkUser

__all__ = ["RedisCache"]

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,100}").fullmatch
_MIN_SECRET_BYTES = 32


class RedisCache:
    """A second level for `Caching` in Redis 6 or newer, or Valkey, that many processes share.

    It also keeps their first levels coherent: a write in one process drops what the others have cached of it.
    Redis being slow or away makes no operation fail; see `docs/shared-cache.md` for what is promised.

    url: as in "redis://user:password@host:6379/0", "rediss://..." for TLS or "unix:///path"; one server or
        its proxy, not a Redis Cluster.
    namespace: names what is shared, 1 to 100 of `A-Za-z0-9._-`. Processes over the same objects give the same
        one, and stores that hold other objects, another bucket for one, must give another.
    secret: at least 32 bytes or characters; entries are then sealed with AES-256-GCM under their key, and
        what Redis returns is authenticated. Required over an `Encryption`; None by default.
    timeout: seconds that an operation waits for a reply, 0.05. After that Redis is left alone until it
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
        if not isinstance(namespace, str) or not _NAMESPACE(namespace):
            raise ValueError(f"namespace must be 1 to 100 of A-Za-z0-9._-, not {namespace!r}")
        self._kind, self._options = _options(url)
        self.namespace = namespace
        self.timeout = positive_number("timeout", timeout)
        self.max_delay = positive_number("max_delay", max_delay)
        if math.inf in (self.timeout, self.max_delay):
            raise ValueError("timeout and max_delay must not be infinite")
        seal = None
        if secret is not None:
            secret = secret_bytes("secret", secret)
            if len(secret) < _MIN_SECRET_BYTES:
                raise ValueError(f"secret must be at least {_MIN_SECRET_BYTES} bytes")
            seal = Seal(secret, namespace)
        self.sealed = seal is not None
        self.codec = Codec(seal, positive_int("max_value_bytes", max_value_bytes))
        try:
            self.connection()
        except Exception as error:  # noqa: BLE001 - of any type, and not as the cause: it may show the password
            raise ValueError(f"url has an option that redis cannot use ({type(error).__name__})") from None

    def connection(self) -> AbstractConnection:
        """Return a new connection, not connected yet."""
        return self._kind(**self._options)

    def link(self, user: LinkUser, channel: str, scripts: Mapping[str, str]) -> Link:
        """Return a link of the running event loop."""
        return Link(self, user, channel, scripts)

    @property
    def address(self) -> str:
        """Where Redis is, without user and password."""
        options = self._options
        if "path" in options:
            return f"unix://{options['path']}"
        scheme = "rediss" if issubclass(self._kind, SSLConnection) else "redis"
        host, port, db = options.get("host", "localhost"), options.get("port", 6379), options.get("db", 0)
        return f"{scheme}://{host}:{port}/{db}"

    def __repr__(self) -> str:
        shown = {"namespace": self.namespace, "sealed": self.sealed, "timeout": self.timeout}
        shown |= {"max_delay": self.max_delay, "max_value_bytes": self.codec.max_value_bytes}
        return f"RedisCache({', '.join([repr(self.address), *(f'{k}={v!r}' for k, v in shown.items())])})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a RedisCache may hold secrets and is not pickled or copied")


def _options(url: str) -> tuple[type[AbstractConnection], dict[str, Any]]:
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except Exception as error:  # noqa: BLE001 - of any type, and not as the cause: it may show the password
        raise ValueError(
            "url must be as in redis://user:password@host:6379/0, rediss://... or unix:///path"
            f" ({type(error).__name__})"
        ) from None
    kind = options.pop("connection_class", Connection)
    fixed = {"protocol": 3, "decode_responses": False, "socket_timeout": None, "health_check_interval": 0}
    return kind, options | fixed
