"""`S3StorageOptions`: where the bucket is, the credentials, and how long to wait."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass, field
from math import inf
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from starfish_server.checks import flag, positive_int, positive_number

AddressingStyle = Literal["auto", "path", "virtual"]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)
REGION = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_HOST = re.compile(r"(?:[a-z0-9_-]{1,63}(?:\.|\Z))+|[0-9a-f.]*:[0-9a-f:.]*")
# What can stand in a header or a URL without being escaped.
TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class S3StorageOptions:
    """Options of `S3ObjectStore`. The first five can be positional, as in 2.x; `bucket` is required.

    access_key_id, secret_access_key: static credentials. Neither given: the standard credential chain of
        botocore (environment, profiles, SSO, container and instance roles), refreshed when due.
    session_token: goes with temporary static credentials.
    anonymous: send unsigned requests, for public buckets.
    endpoint: base URL of the service, as in "http://localhost:9000"; None for AWS in `region`.
    bucket: name of a bucket that exists.
    region: region that requests are signed for; "auto" for Cloudflare R2.
    addressing_style: "path" (`endpoint/bucket/key`), "virtual" (`bucket.endpoint/key`) or "auto": virtual for
        AWS and Tigris where the bucket's name allows it, path elsewhere.
    max_connections: open connections at most, for each event loop.
    connect_timeout: seconds for a new connection, TLS included, name resolution not.
    read_timeout: seconds without progress in either direction. Waiting for one of `max_connections` does not
        count. The request may end up to a quarter of the limit late, at most 2 s. Each of these counts as
        one step: the headers of a reply; the end of a sent body, which is in the system's buffer, with the
        reply to it; and opening a tunnel through a proxy, for which `connect_timeout` is added.
    max_attempts: attempts in all for transient failures; one under a `Retry` layer.
    portable_keys: allow portable keys only; False allows keys of any text.
    verify_bodies: over plain HTTP, detect damage in transit to bodies of at most 16 MiB: if the ETag looks
        like an MD5 but does not match the body, read the object again. The same body twice is returned.
    verify: check TLS certificates (True), do not (False), or check them against the certificate authorities
        in this file or folder.

    Raises `ValueError` or `TypeError` for options that cannot work. Options with a secret in them refuse to
    be pickled.
    """

    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    endpoint: str | None = None
    bucket: str = ""  # after fields with defaults, so it cannot be without one; it is checked below
    region: str = "us-east-1"
    _: KW_ONLY
    session_token: str | None = field(default=None, repr=False)
    anonymous: bool = False
    addressing_style: AddressingStyle = "auto"
    max_connections: int = 64
    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    max_attempts: int = 3
    portable_keys: bool = True
    verify_bodies: bool = True
    verify: bool | str = True

    def __post_init__(self) -> None:
        _check_pattern("bucket", self.bucket, _BUCKET, "letters, digits, '.', '_' and '-'")
        _check_pattern("region", self.region, REGION, "letters, digits and '-'")
        _check_endpoint(self.endpoint, self.region)
        self._check_credentials()
        if self.addressing_style not in get_args(AddressingStyle):
            raise ValueError(f"addressing_style must be one of {', '.join(get_args(AddressingStyle))}")
        for name in ("max_connections", "max_attempts"):
            positive_int(name, getattr(self, name))
        for name in ("connect_timeout", "read_timeout"):
            if positive_number(name, getattr(self, name)) == inf:
                raise ValueError(f"{name} must be finite")
        for name in ("anonymous", "portable_keys", "verify_bodies"):
            flag(name, getattr(self, name))
        if not isinstance(self.verify, bool | str):
            raise TypeError("verify must be True, False or the path of a file or folder of certificates")

    def __getstate__(self) -> dict[str, Any]:
        if self.secret_access_key is not None:
            raise TypeError(
                "S3StorageOptions with a secret_access_key are not pickled or copied: make them anew where "
                "they are needed, or leave the credentials to the standard credential chain"
            )
        return self.__dict__

    def _check_credentials(self) -> None:
        secrets = (self.access_key_id, self.secret_access_key, self.session_token)
        for name, value in zip(("access_key_id", "secret_access_key", "session_token"), secrets, strict=True):
            if value is not None and not (isinstance(value, str) and TOKEN.fullmatch(value)):
                raise ValueError(f"{name} must be text without spaces or line ends, or None")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together: give both or neither")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token needs access_key_id and secret_access_key")
        if self.anonymous and self.access_key_id is not None:
            raise ValueError("anonymous=True goes without access_key_id and secret_access_key")


def _check_pattern(name: str, value: object, pattern: re.Pattern[str], rule: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        # The value is not shown: with positional arguments in a wrong order it is a secret.
        raise ValueError(f"{name} must be a name of {rule}")


def _check_endpoint(endpoint: str | None, region: str) -> None:
    if endpoint is None:
        if region == "auto":
            raise ValueError("region='auto' needs an endpoint; for AWS name the region")
        return
    message = "endpoint must be a URL such as 'https://s3.example.com'"
    try:
        parts = urlsplit(endpoint)
        port_is_valid = parts.port != 0
    except (ValueError, AttributeError, TypeError):
        raise ValueError(message) from None  # its text may hold a part of a password
    # The URL itself is not shown: people put passwords into it.
    if "@" in parts.netloc:
        raise ValueError("endpoint must not hold credentials; use access_key_id and secret_access_key")
    host_is_valid = _HOST.fullmatch(parts.hostname or "") is not None
    if parts.scheme not in ("http", "https") or not host_is_valid or not port_is_valid:
        raise ValueError(f"{message}, beginning with http:// or https://")
    if parts.query or parts.fragment or not TOKEN.fullmatch(endpoint):
        raise ValueError(f"{message}, without query, fragment or spaces")
