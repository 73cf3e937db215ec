"""What goes wrong on the way to S3, as errors of this library: by code, by status, by exception."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import TYPE_CHECKING, TypeVar

import aiohttp

from starfish_server.errors import (
    BucketNotFoundError,
    InvalidKeyError,
    StoreAccessDeniedError,
    StoreError,
    StoreNotSupportedError,
    StoreOverloadedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

E = TypeVar("E", bound=StoreError)


class NoSuchKeyError(StoreError):
    """The object is missing; reads turn it into None."""


class NoSuchUploadError(StoreError):
    """The multipart upload has ended, one way or the other."""


_DENIED = """
AccessDenied AccessPointNotOwnedByYou AccountProblem AllAccessDisabled AuthorizationHeaderMalformed
CredentialsNotSupported ExpiredToken ExpiredTokenException InvalidAccessKeyId InvalidPayer InvalidSecurity
InvalidToken MissingSecurityHeader NotSignedUp RequestTimeTooSkewed SignatureDoesNotMatch
TokenRefreshRequired Unauthorized UnauthorizedAccess XMinioInvalidAccessKeyId
"""
_OVERLOADED = """
BandwidthLimitExceeded Busy RequestLimitExceeded RequestThrottled ServiceUnavailable SlowDown Throttling
ThrottlingException TooManyRequests XMinioServerNotInitialized
"""
# The body was damaged or cut on its way, another write of the key is under way, or the service failed.
_PASSING = """
BadDigest IncompleteBody InternalError OperationAborted RequestTimeout
RequestTimeoutException ServiceFailure XAmzContentSHA256Mismatch
"""
_LASTING = """
BucketAlreadyExists BucketAlreadyOwnedByYou EncryptionTypeMismatch EntityTooLarge EntityTooSmall
IdempotencyParameterMismatch IllegalLocationConstraintException InvalidArgument InvalidBucketName
InvalidBucketState InvalidDigest InvalidEncryptionAlgorithmError InvalidObjectState InvalidRange
InvalidRequest InvalidStorageClass InvalidURI InvalidWriteOffset KMS.DisabledException
KMS.InvalidKeyUsageException KMS.KMSInvalidStateException KMS.NotFoundException MalformedXML
MaxMessageLengthExceeded MetadataTooLarge MethodNotAllowed MissingContentLength MissingRequestBodyError
ObjectAlreadyInActiveTierError ObjectNotInActiveTierError PermanentRedirect Redirect
TemporaryRedirect TooManyParts UnexpectedContent UnsupportedMediaType UserKeyMustBeSpecified
"""

# By the code in the reply's body. https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
BY_CODE: Mapping[str, type[StoreError]] = {
    # Another conditional write of the key got in between.
    "ConditionalRequestConflict": VersionConflictError,
    "KeyTooLongError": InvalidKeyError,
    "NoSuchBucket": BucketNotFoundError,
    "NoSuchKey": NoSuchKeyError,
    "NoSuchUpload": NoSuchUploadError,
    "NoSuchVersion": NoSuchKeyError,
    "NotImplemented": StoreNotSupportedError,
    "PreconditionFailed": VersionConflictError,
    "XMinioInvalidObjectName": InvalidKeyError,
    **dict.fromkeys(_DENIED.split(), StoreAccessDeniedError),
    **dict.fromkeys(_OVERLOADED.split(), StoreOverloadedError),
    **dict.fromkeys(_PASSING.split(), StoreUnavailableError),
    **dict.fromkeys(_LASTING.split(), StoreError),
}

# Where there is no code, or none that is known. 404 is not here: it need not mean that the object is missing.
BY_STATUS: Mapping[int, type[StoreError]] = {
    401: StoreAccessDeniedError,
    403: StoreAccessDeniedError,
    407: StoreAccessDeniedError,
    408: StoreTimeoutError,
    412: VersionConflictError,
    429: StoreOverloadedError,
    501: StoreNotSupportedError,
    503: StoreOverloadedError,
    504: StoreUnavailableError,
}

# The first that fits. A certificate that is refused now is refused again, so it is not worth another try.
BY_EXCEPTION: tuple[tuple[type[BaseException], type[StoreError], str], ...] = (
    (TimeoutError, StoreTimeoutError, "no answer in time"),
    (aiohttp.ClientPayloadError, StoreUnavailableError, "the reply was cut short"),
    (aiohttp.ClientConnectorCertificateError, StoreError, "the server's certificate was refused"),
    (aiohttp.ClientSSLError, StoreError, "no TLS connection could be made"),
    (ssl.SSLError, StoreError, "the TLS connection failed"),
    (aiohttp.ClientConnectorError, StoreUnavailableError, "no connection could be made"),
    (aiohttp.ClientResponseError, StoreUnavailableError, "the reply was not HTTP"),
    (aiohttp.ClientError, StoreUnavailableError, "the connection broke"),
    (OSError, StoreUnavailableError, "the connection broke"),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What a reply says went wrong. Empty text where it does not say."""

    status: int
    code: str = ""
    message: str = ""
    region: str = ""
    request_id: str = ""
    retry_after: float | None = None


def error_for(fault: Fault, operation: str, key: str | None, bucket: str) -> StoreError:
    """The error that `fault` means."""
    kind = BY_CODE.get(fault.code) or BY_STATUS.get(fault.status)
    if kind is None:
        kind = StoreUnavailableError if fault.status >= 500 else StoreError
    facts = [fact for fact in (shown(fault.code), f"HTTP {fault.status}") if fact]
    if fault.request_id:
        facts.append(f"request {shown(fault.request_id)}")
    text = ", ".join(facts)
    if fault.message:
        text = f"{text}: {shown(fault.message)}"
    error = failure(kind, text, operation, key, bucket)
    if isinstance(error, StoreUnavailableError):
        error.retry_after = fault.retry_after
    return error


def error_from(error: Exception, operation: str, key: str | None, bucket: str) -> StoreError:
    """The error that an exception of the HTTP client or the operating system means."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return error_for(Fault(error.status, message="the proxy opened no tunnel"), operation, key, bucket)
    for kind, meaning, text in BY_EXCEPTION:
        if isinstance(error, kind):
            detail = "" if holds_headers(error) else shown(str(error))
            return failure(meaning, f"{text}: {detail}" if detail else text, operation, key, bucket)
    raise error


def holds_headers(error: Exception) -> bool:
    """Whether an exception shows headers of the request or the reply, where the session token may be."""
    return isinstance(error, aiohttp.ClientResponseError) or (
        isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)
    )


def failure(kind: type[E], what: str, operation: str, key: str | None, bucket: str) -> E:
    """An error that begins as every message does: what was done, to which key, in which bucket."""
    place = f"{operation} of {key!r} in bucket {bucket!r}" if key else f"{operation} in bucket {bucket!r}"
    return kind(f"{place}: {what}", operation=operation, key=key)


def shown(text: str) -> str:
    """Text of a server as part of one line: no control characters, not too long."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:300])


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None if it is neither."""
    if not value:
        return None
    if value.strip().isdecimal():
        seconds = float(value)
        return seconds if isfinite(seconds) else None
    date = http_date(value)
    return None if date is None else max(0.0, (date - datetime.now(UTC)).total_seconds())


def http_date(value: str) -> datetime | None:
    """The date of a header; None if it is none, or so far off that no time can be reckoned from it."""
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if date.year == MAXYEAR:
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
