"""`RedisCache`: where `Caching` shares what it has cached, and how an entry is written there.

An entry is a JSON header and the body, sealed if there is a secret.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starfish_server.checks import header_or_none, positive_int, secret_bytes
from starfish_server.layers.caching.entries import BODY, TEXT, WHOLE
from starfish_server.layers.caching.protocol import key_bytes
from starfish_server.objects import ObjectInfo, StoredObject
from starfish_server.redis.server import RedisServer, finite_number

_MIN_SECRET_BYTES = 32
_MAGIC = b"\x00SC1"
_SEALED = b"\x00SX1"
_SALT = 16
_LENGTH = 4  # bytes of the header's length
_MAX_HEADER_BYTES = 64 * 2**10
_MAX_OVERHEAD = 100  # bytes of an entry besides header and body


@dataclass(slots=True)
class Shared:
    """An entry: what a read returned, how much it knows, and when and in which generation it was read."""

    value: Any
    knows: int
    read: float
    generation: int


class RedisCache(RedisServer):
    """A second level for `Caching` in Redis 6 or newer, or Valkey, that many processes share.

    It also keeps their first levels coherent: a write in one process drops the object from all others.
    No operation fails because Redis is slow or unreachable; see `docs/shared-cache.md` for what is promised.

    url: as in "redis://user:password@host:6379/0", "rediss://..." for TLS or "unix:///path"; one server or
        its proxy, not a Redis Cluster.
    namespace: names what is shared, 1 to 100 of `A-Za-z0-9._-`. Processes over the same objects use the
        same namespace. Stores with other objects, such as another bucket, must use another one.
    secret: at least 32 bytes or characters; entries are then sealed with AES-256-GCM under their key, and
        what Redis returns is authenticated. Required over an `Encryption`; None by default.
    timeout: seconds that an operation waits for Redis in all, 0.05. After a timeout Redis is not used until
        it replies within that time again.
    max_delay: seconds for which a hit in the first level may miss a write of another process, 1.0. The first
        level is used only if Redis has confirmed within this time that no message is missing.
    max_value_bytes: a larger body is not cached in Redis, 1 MiB.

    Raises `ValueError` or `TypeError`, which never show a password or a secret. One object may be given to
    several `Caching` layers; each has its own connections, one per event loop, until its `close()`.
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


class Seal:
    """Seals entries with AES-256-GCM, each with its own key, derived from the secret and a random salt."""

    def __init__(self, secret: bytes, namespace: str) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            from cryptography.hazmat.primitives.hashes import SHA256
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        except ImportError as error:
            raise ImportError(
                "RedisCache(secret=...) needs cryptography: pip install 'starfish-server[encryption]'"
            ) from error
        self._invalid = InvalidTag
        self._place = place = f"starfish shared cache 1 {namespace} ".encode()

        def cipher(salt: bytes) -> AESGCM:
            return AESGCM(HKDF(SHA256(), 32, salt, place).derive(secret))

        self._cipher = cipher

    def seal(self, plain: bytes, key: bytes) -> bytes:
        salt = os.urandom(_SALT)
        # Each key seals once, so its nonce may be constant.
        return _SEALED + salt + self._cipher(salt).encrypt(bytes(12), plain, self._place + key)

    def open(self, sealed: bytes, key: bytes) -> bytes:
        """Return what was sealed for this key; `ValueError` for anything else."""
        start = len(_SEALED) + _SALT
        if not sealed.startswith(_SEALED) or len(sealed) < start:
            raise ValueError("not sealed")
        try:
            cipher = self._cipher(sealed[len(_SEALED) : start])
            return cipher.decrypt(bytes(12), sealed[start:], self._place + key)
        except self._invalid:
            raise ValueError("not sealed with this secret for this key") from None


class Codec:
    """Writes and reads entries.

    max_value_bytes: larger bodies are not written. max_entry_bytes: nothing longer is an entry.
    """

    def __init__(self, seal: Seal | None, max_value_bytes: int) -> None:
        self._seal = seal
        self.max_value_bytes = max_value_bytes
        self.max_entry_bytes = max_value_bytes + _MAX_HEADER_BYTES + _MAX_OVERHEAD

    def encode(self, key: str, value: object, *, read: float, generation: int) -> bytes | None:
        """Return the entry for what a read returned; None for what is not shared."""
        header: dict[str, object] = {"key": key, "read": read, "generation": generation}
        if isinstance(value, str):
            try:
                body = value.encode()
            except UnicodeEncodeError:
                return None
            header["knows"] = TEXT
        elif isinstance(value, tuple):
            body, content_type = value
            header |= {"knows": BODY, "content_type": content_type}
        elif isinstance(value, StoredObject) and value.info.size in (None, len(value.body)):
            info, body = value.info, value.body
            header |= {
                "knows": WHOLE,
                "size": info.size,
                "content_type": info.content_type,
                "cache_control": info.cache_control,
                "metadata": dict(info.metadata),
                "version": info.version,
                "modified": None if info.modified is None else info.modified.isoformat(),
            }
        else:
            return None
        if len(body) > self.max_value_bytes:
            return None
        header["length"] = len(body)
        head = json.dumps(header, separators=(",", ":")).encode()
        if len(head) > _MAX_HEADER_BYTES:
            return None
        plain = b"".join([_MAGIC, len(head).to_bytes(_LENGTH, "big"), head, body])
        return plain if self._seal is None else self._seal.seal(plain, key_bytes(key))

    def decode(self, key: str, raw: bytes) -> Shared | None:
        """Return an entry; None if it is damaged or was written for another key.

        A plain entry names its key, too, so that no fault can return one tenant's object as another's.
        """
        try:
            plain = raw if self._seal is None else self._seal.open(raw, key_bytes(key))
            start = len(_MAGIC) + _LENGTH
            end = start + int.from_bytes(plain[len(_MAGIC) : start], "big")
            if not plain.startswith(_MAGIC) or end > len(plain):
                return None
            header = json.loads(plain[start:end])
            if header["key"] != key or header["length"] != len(plain) - end:
                return None
            value = _value(key, header, plain[end:])
            read, generation = header["read"], header["generation"]
            if not isinstance(read, float) or not isinstance(generation, int):
                return None
            return Shared(value, header["knows"], read, generation)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None


def _value(key: str, header: Any, body: bytes) -> Any:
    if header["knows"] == TEXT:
        return body.decode()
    if header["knows"] == BODY:
        return body, _text(header["content_type"])
    if header["knows"] != WHOLE or header["size"] not in (None, len(body)):
        raise ValueError("unknown entry")
    metadata = {_text(name): _text(text) for name, text in header["metadata"].items()}
    modified = None if header["modified"] is None else datetime.fromisoformat(header["modified"])
    version = None if header["version"] is None else _text(header["version"])
    info = ObjectInfo(
        key,
        header["size"],
        header_or_none(header["content_type"]),
        header_or_none(header["cache_control"]),
        metadata,
        version,
        modified,
    )
    return StoredObject(info, body)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a str")
    return value
