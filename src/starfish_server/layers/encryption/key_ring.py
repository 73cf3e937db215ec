"""Where `Encryption` gets its keys: a `KeyRing` of secrets, or a `KeyProvider` such as a KMS."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, Protocol, runtime_checkable

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as error:
    raise ImportError("Encryption needs cryptography: pip install 'starfish-server[encryption]'") from error

from starfish_server.checks import secret_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_SECRET_BYTES = 32
_SHA256 = SHA256()


class UnknownKeyError(Exception):
    """Raised by a `KeyProvider` that does not know the key of this id."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key to encrypt one object with.

    key_id: text that names the key to decrypt with, 1 to 255 bytes of UTF-8; stored in the object.
    secret: at least 32 bytes, else `ValueError`; never stored.
    wrapped: what `unwrap` needs to find the secret, at most 2,048 bytes; stored in the object.
    """

    key_id: str
    secret: bytes = field(repr=False)
    wrapped: bytes = b""

    def __post_init__(self) -> None:
        if len(self.secret) < MIN_SECRET_BYTES:
            raise ValueError(f"the secret of {self.key_id!r} is shorter than {MIN_SECRET_BYTES} bytes")


@runtime_checkable
class KeyProvider(Protocol):
    """Gives `Encryption` a data key for each object, as a key management service does."""

    async def wrap(self) -> DataKey:
        """Return a data key for a new object."""
        ...

    async def unwrap(self, key_id: str, wrapped: bytes) -> bytes:
        """Return the secret of a `DataKey` with this id and wrapped key. Raises `UnknownKeyError`."""
        ...


class KeyRing:
    """Secrets by id: the active one encrypts, all of them decrypt.

    To rotate, add a new secret, make it active, and keep the old one until no object needs it.

    secrets: ids, as in "2026", to secrets of at least 32 bytes, such as `secrets.token_bytes(32)`; a str is
        taken as its UTF-8.
    active: the id to encrypt with.

    Raises `ValueError` or `TypeError`, which never show a secret.
    """

    def __init__(self, secrets: Mapping[str, bytes | str], *, active: str) -> None:
        self._secrets = {key_id: secret_bytes("secrets", secret) for key_id, secret in secrets.items()}
        for key_id, secret in self._secrets.items():
            if not isinstance(key_id, str) or not 1 <= len(key_id.encode()) <= 255:
                raise ValueError("the id of a secret is text of 1 to 255 UTF-8 bytes")
            DataKey(key_id, secret)  # checks its length
        if active not in self._secrets:
            raise ValueError(f"active is {active!r}, which is not among {', '.join(map(repr, secrets))}")
        self._active = active
        self._data_key = DataKey(active, self._secrets[active])

    async def wrap(self) -> DataKey:
        """Return the active secret."""
        return self._data_key

    async def unwrap(self, key_id: str, wrapped: bytes) -> bytes:
        """Return the secret of this id. Raises `UnknownKeyError`."""
        if key_id not in self._secrets:
            raise UnknownKeyError(key_id)
        return self._secrets[key_id]

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(map(repr, self._secrets))}, active={self._active!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a KeyRing holds secrets and is not pickled or copied")


class LegacyKey:
    """The key of objects that the `EncryptedObjectStore` of starfish-server 2.x encrypted.

    2.x did not bind an object to its key, so swapped objects are not detected: encrypt them again.

    secret, salt, info: as given to that store.
    """

    def __init__(self, secret: str, salt: str, info: str = "starfish-data") -> None:
        self._aead = AESGCM(hkdf(secret.encode(), salt.encode(), info.encode()))

    def decrypt(self, body: bytes) -> bytes | None:
        """Return the plain body, or None if it is damaged or was encrypted with another key."""
        sealed = _legacy(body)
        try:
            return sealed and self._aead.decrypt(sealed[:12], sealed[12:], None)
        except InvalidTag:
            return None

    def may_be_sealed(self, body: bytes) -> bool:
        """Return whether a body looks like one that 2.x encrypted, with any secret."""
        return _legacy(body) is not None

    def __repr__(self) -> str:
        return "LegacyKey(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a LegacyKey holds a secret and is not pickled or copied")


def _legacy(body: bytes) -> bytes | None:
    """Decode a body of 2.x: a nonce of 12 bytes, ciphertext, a tag of 16. Return None for anything else."""
    try:
        sealed = base64.b64decode(body, validate=True)
    except ValueError:
        return None
    return sealed if len(sealed) >= 28 else None


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Derive 32 bytes by HKDF with SHA-256 (RFC 5869)."""
    return HKDF(_SHA256, 32, salt, info).derive(secret)
