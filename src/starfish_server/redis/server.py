"""`RedisServer`: the address of a Redis server, checked, and shown without its password."""

from __future__ import annotations

import math
import re
from typing import Any, NoReturn

try:
    from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
    from redis.exceptions import NoScriptError, ResponseError
except ImportError as error:
    raise ImportError(
        "RedisCache and RedisLimits need redis: pip install 'starfish-server[redis]'"
    ) from error

from starfish_server.checks import positive_number

__all__ = ["NoScriptError", "RedisServer", "ResponseError", "finite_number"]

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,100}").fullmatch
# Replies are awaited by `Session`, which has its own limits of time and needs the bytes as they came.
_FIXED = {"protocol": 3, "decode_responses": False, "socket_timeout": None, "health_check_interval": 0}


class RedisServer:
    """Where Redis is, the namespace of the keys in it, and how long an operation waits for it.

    Raises `ValueError` or `TypeError`, which never show a password.
    """

    def __init__(self, url: str, namespace: str, timeout: float) -> None:
        if not isinstance(namespace, str) or not _NAMESPACE(namespace):
            raise ValueError(f"namespace must be 1 to 100 of A-Za-z0-9._-, not {namespace!r}")
        if not isinstance(url, str):
            raise TypeError(f"url must be a str, not {type(url).__name__}")
        self.namespace = namespace
        self.timeout = finite_number("timeout", timeout)
        # Errors of the package may be of any type, and are not the cause: they may show the password.
        try:
            options: dict[str, Any] = dict(parse_url(url))
        except Exception as error:  # noqa: BLE001 - see above
            raise ValueError(
                "url must be as in redis://user:password@host:6379/0, rediss://... or unix:///path"
                f" ({type(error).__name__})"
            ) from None
        self._kind: type[AbstractConnection] = options.pop("connection_class", Connection)
        self._options = options | _FIXED
        try:
            self.connection()
        except Exception as error:  # noqa: BLE001 - see above
            raise ValueError(f"url has an option that redis cannot use ({type(error).__name__})") from None

    def connection(self) -> AbstractConnection:
        """Return a new connection, not connected yet."""
        return self._kind(**self._options)

    @property
    def address(self) -> str:
        """Where Redis is, without user and password."""
        options = self._options
        if "path" in options:
            return f"unix://{options['path']}"
        scheme = "rediss" if issubclass(self._kind, SSLConnection) else "redis"
        host, port, db = options.get("host", "localhost"), options.get("port", 6379), options.get("db", 0)
        return f"{scheme}://{host}:{port}/{db}"

    def settings(self) -> dict[str, object]:
        """Return the options to show."""
        return {"namespace": self.namespace, "timeout": self.timeout}

    def __repr__(self) -> str:
        shown = [repr(self.address), *(f"{name}={value!r}" for name, value in self.settings().items())]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} may hold secrets and is not pickled or copied")


def finite_number(name: str, value: float) -> float:
    """Return a positive number, or raise `ValueError`."""
    if positive_number(name, value) == math.inf:
        raise ValueError(f"{name} must not be infinite")
    return float(value)
