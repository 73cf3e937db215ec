"""`Signer`: signatures of requests and URLs for S3, by AWS Signature Version 4."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.storage.s3.credentials import Credentials

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class _Second:
    """What all signatures of one second share. `scope` is the credential scope, `key` the signing key."""

    number: int
    stamp: str
    scope: str
    key: bytes = field(repr=False)


class Signer:
    """Signs for one set of credentials and one region. Times are in seconds since the epoch."""

    def __init__(self, credentials: Credentials, region: str) -> None:
        self.credentials = credentials
        self.region = region
        self._cached = self._second(0)  # replaced as a whole, so that threads never see parts of two

    def sign(self, method: str, target: str, headers: dict[str, str], payload_hash: str, now: float) -> None:
        """Add the signature's headers to `headers`, all of which, Host included, must be sent unchanged.

        target: path and query as they are sent.
        """
        second = self._second_of(now)
        headers["X-Amz-Date"] = second.stamp
        headers["X-Amz-Content-SHA256"] = payload_hash
        if self.credentials.token:
            headers["X-Amz-Security-Token"] = self.credentials.token
        path, _, query = target.partition("?")
        if query:
            query = "&".join(sorted(query.split("&"), key=lambda pair: pair.split("=", 1)))
        names, signature = _signature(second, method, path, query, headers, payload_hash)
        headers["Authorization"] = (
            f"{_ALGORITHM} Credential={self.credentials.access_key}/{second.scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )

    def signed_query(
        self, method: str, target: str, headers: Mapping[str, str], expires: int, now: float
    ) -> str:
        """Return the query that signs a request with these headers for `expires` seconds from `now`.

        https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
        """
        second = self._second_of(now)
        arguments = {
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": f"{self.credentials.access_key}/{second.scope}",
            "X-Amz-Date": second.stamp,
            "X-Amz-Expires": str(expires),
            "X-Amz-SignedHeaders": ";".join(sorted(map(str.lower, headers))),
        }
        if self.credentials.token:
            arguments["X-Amz-Security-Token"] = self.credentials.token
        query = urlencode(sorted(arguments.items()), quote_via=quote, safe="~")
        _, signature = _signature(second, method, target, query, headers, "UNSIGNED-PAYLOAD")
        return f"{query}&X-Amz-Signature={signature}"

    def _second_of(self, now: float) -> _Second:
        if self._cached.number != int(now):
            self._cached = self._second(int(now))
        return self._cached

    def _second(self, number: int) -> _Second:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(number))
        scope = f"{stamp[:8]}/{self.region}/s3/aws4_request"
        key = f"AWS4{self.credentials.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return _Second(number, stamp, scope, key)


def _signature(
    second: _Second, method: str, path: str, query: str, headers: Mapping[str, str], payload_hash: str
) -> tuple[str, str]:
    """Return the names of the signed headers, and the signature of the canonical form.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    canonical = sorted([(name.lower(), " ".join(value.split())) for name, value in headers.items()])
    names = ";".join([name for name, _ in canonical])
    lines = "".join([f"{name}:{value}\n" for name, value in canonical])
    form = sha256(f"{method}\n{path}\n{query}\n{lines}\n{names}\n{payload_hash}".encode()).hexdigest()
    text = f"{_ALGORITHM}\n{second.stamp}\n{second.scope}\n{form}".encode()
    return names, hmac.digest(second.key, text, "sha256").hex()
