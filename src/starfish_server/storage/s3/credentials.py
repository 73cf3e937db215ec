"""Who asks: keys, where they come from, and the signature that is made with them."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from aiobotocore.session import AioSession
from botocore.auth import SIGV4_TIMESTAMP, S3SigV4Auth
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from starfish_server.errors import StoreAccessDeniedError, StoreError, StoreUnavailableError
from starfish_server.storage.s3.options import TOKEN

if TYPE_CHECKING:
    from datetime import datetime

    from starfish_server.storage.s3.options import S3StorageOptions


@dataclass(frozen=True, slots=True)
class Keys:
    """One set of keys, named as botocore's signers expect them."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)


class KeySource(Protocol):
    """Where keys come from."""

    async def keys(self) -> Keys | None:
        """Keys to sign the next request with; None to leave it unsigned."""

    def drop(self, expired: Keys) -> bool:
        """Give these keys no more: the service says they have expired. Whether there may be others."""


class FixedKeys:
    """The keys of the options, or none for anonymous requests."""

    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys

    async def keys(self) -> Keys | None:
        return self._keys

    def drop(self, expired: Keys) -> bool:
        return False


class KeyChain:
    """The standard credential chain. Refreshing credentials hold locks, so each event loop has its own."""

    def __init__(self) -> None:
        self._session = AioSession()
        self._loading = asyncio.Lock()
        self._credentials: Any = None
        self._keys: Keys | None = None

    async def keys(self) -> Keys:
        """Keys that are valid now.

        Raises `StoreAccessDeniedError` if the chain has none, `StoreUnavailableError` if the service that
        hands them out does not answer.
        """
        failure: StoreError
        try:
            keys = await self._find()
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - botocore lets through what broken programs and files raise
            failure = _failure(error)
            cause = error if _is_safe_to_show(error) else None
        else:
            # The same object as long as they are the same keys, so that their signer can be kept.
            if self._keys is None or keys != self._keys:
                self._keys = keys
            return self._keys
        raise failure from cause

    def drop(self, expired: Keys) -> bool:
        if expired is self._keys:  # and not dropped yet because of another request
            # A session keeps credentials, those of roles even apart, until this machine's clock says so.
            self._session, self._credentials, self._keys = AioSession(), None, None
        return True

    async def _find(self) -> Keys:
        if self._credentials is None:
            async with self._loading:
                self._credentials = await self._session.get_credentials()
        if self._credentials is None:
            raise StoreAccessDeniedError(
                "no credentials: the standard chain (environment, profiles, roles) has none; "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or anonymous=True "
                "(in a URL, ?anonymous=true)"
            )
        found = await self._credentials.get_frozen_credentials()
        for value in (found.access_key, found.secret_key, found.token or "none"):
            if not isinstance(value, str) or not TOKEN.fullmatch(value):
                raise StoreAccessDeniedError(
                    "the standard credential chain gave a key or token that is not text without spaces and "
                    "line ends"
                )
        return Keys(found.access_key, found.secret_key, found.token)


def _failure(error: Exception) -> StoreError:
    unanswered = isinstance(error, (BotoConnectionError, HTTPClientError))
    if unanswered or isinstance(error.__context__, MetadataRetrievalError):
        return StoreUnavailableError("the service that hands out credentials does not answer")
    return StoreAccessDeniedError(f"the standard credential chain failed ({type(error).__name__})")


def _is_safe_to_show(error: Exception) -> bool:
    """Not what holds the output of a credential process, in its text or beside it."""
    return isinstance(error, (BotoCoreError, ClientError)) and not isinstance(error, CredentialRetrievalError)


def key_source(options: S3StorageOptions) -> KeySource:
    """Where the keys for these options come from, made once for each event loop."""
    if options.anonymous:
        return FixedKeys(None)
    if options.access_key_id is None or options.secret_access_key is None:
        return KeyChain()
    return FixedKeys(Keys(options.access_key_id, options.secret_access_key, options.session_token))


class Signer(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """botocore's signature for S3, made from plain parts, with the key of the day kept.

    It logs nothing: botocore's own `add_auth` writes the session token to the log at DEBUG.
    """

    def __init__(self, keys: Keys, region: str) -> None:
        super().__init__(keys, "s3", region)
        # One attribute, so that threads never see one day with the key of another.
        self._key_of_day = ("", b"")

    def sign(
        self, method: str, target: str, headers: dict[str, str], payload_hash: str, now: datetime
    ) -> None:
        """Add to `headers` those of the signature. All of them, Host included, must be sent as they are.

        target: path and query as they are sent. Canonical form:
        https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
        """
        path, _, query = target.partition("?")
        stamp = now.strftime(SIGV4_TIMESTAMP)
        headers["X-Amz-Date"] = stamp
        headers["X-Amz-Content-SHA256"] = payload_hash
        if self.credentials.token:
            headers["X-Amz-Security-Token"] = self.credentials.token
        canonical = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
        names = ";".join(name for name, _ in canonical)
        lines = "".join(f"{name}:{value}\n" for name, value in canonical)
        arguments = "&".join(sorted(query.split("&"), key=_argument)) if query else ""
        request = SimpleNamespace(context={"timestamp": stamp})
        text = self.string_to_sign(
            request, f"{method}\n{path}\n{arguments}\n{lines}\n{names}\n{payload_hash}"
        )
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.scope(request)}, SignedHeaders={names}, "
            f"Signature={self.signature(text, request)}"
        )

    def signature(self, string_to_sign: str, request: Any) -> str:
        day = request.context["timestamp"][:8]
        key_day, key = self._key_of_day
        if day != key_day:
            key = f"AWS4{self.credentials.secret_key}".encode()
            for part in (day, self._region_name, self._service_name, "aws4_request"):
                key = self._sign(key, part)
            self._key_of_day = (day, key)
        return hmac.digest(key, string_to_sign.encode(), "sha256").hex()


def _argument(pair: str) -> list[str]:
    return pair.split("=", 1)
