"""The errors of S3 and of the HTTP client as errors of this library: by code, by status, by exception."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import TYPE_CHECKING

import aiohttp

from starfish_server.errors import (
    BucketNotFoundError,
    InvalidKeyError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreError,
    StoreNotSupportedError,
    StoreOverloadedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
    error_of_status,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


class NoSuchKeyError(StoreError):
    """The object is missing; reads turn it into None."""


class InvalidRangeError(StoreError):
    """The object has no bytes in the range; reads turn it into an empty body."""


class NoSuchUploadError(StoreError):
    """The multipart upload has ended, one way or the other."""


class InvalidPartError(StoreError):
    """The completion of a multipart upload names a part that was not sent. Nothing was written."""


class WriteRaceError(StoreUnavailableError):
    """A conditional write met another write of the key in progress. Nothing was written."""

    undetermined = False


class MalformedReplyError(Exception):
    """Raised when a reply is not one that S3 sends for the request; the text describes it."""


class IncompleteReplyError(MalformedReplyError):
    """The reply was cut short or damaged in transit."""


class FaultInReplyError(Exception):
    """An `<Error>` in place of a result: S3 may find out after it sent the 200."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.code)
        self.fault = fault


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
# The body was damaged or cut in transit, another write of the key is in progress, or the service failed.
_TRANSIENT = """
BadDigest IncompleteBody InternalError OperationAborted RequestTimeout
RequestTimeoutException ServiceFailure XAmzContentSHA256Mismatch
"""
# A 403 that is not a denial: the object is archived.
_ARCHIVED = ("InvalidObjectState", "ObjectAlreadyInActiveTierError", "ObjectNotInActiveTierError")

# The form that HTTP prescribes for new dates: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7
_USUAL_DATE = re.compile(r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9:]{8}) GMT")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# By the code in the reply's body, which says more than the status. https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
BY_CODE: Mapping[str, type[StoreError]] = {
    "ConditionalRequestConflict": WriteRaceError,
    "InvalidPart": InvalidPartError,
    "InvalidRange": InvalidRangeError,
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
    **dict.fromkeys(_TRANSIENT.split(), StoreUnavailableError),
    **dict.fromkeys(_ARCHIVED, StoreError),
}

# The first that fits. A certificate that is refused now is refused again, so it is not worth a retry.
BY_EXCEPTION: tuple[tuple[type[Exception], type[StoreError], str], ...] = (
    (IncompleteReplyError, StoreUnavailableError, ""),
    (MalformedReplyError, StoreError, ""),
    (TimeoutError, StoreTimeoutError, "no reply in time"),
    (aiohttp.ClientPayloadError, StoreUnavailableError, "the reply was cut short"),
    (aiohttp.ClientConnectorCertificateError, StoreError, "the server's certificate was refused"),
    (aiohttp.ServerFingerprintMismatch, StoreError, "the server's certificate was refused"),
    (aiohttp.ClientSSLError, StoreError, "no TLS connection could be made"),
    (ssl.SSLError, StoreError, "the TLS connection failed"),
    (aiohttp.ClientConnectorError, StoreUnavailableError, "no connection could be made"),
    (aiohttp.ClientResponseError, StoreError, "the reply was not HTTP"),
    (aiohttp.InvalidURL, StoreError, "the URL of the request is not valid"),
    (aiohttp.ClientConnectionError, StoreUnavailableError, "the connection broke"),
    (OSError, StoreUnavailableError, "the connection broke"),
    (aiohttp.ClientError, StoreError, "the HTTP client failed"),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """The contents of an error reply; missing texts are empty.

    resent: whether the request had been sent before, so that it may have been done.
    """

    status: int
    code: str = ""
    message: str = ""
    region: str = ""
    request_id: str = ""
    retry_after: float | None = None
    resent: bool = False


def error_for(fault: Fault, bucket: str) -> StoreError:
    """Return the error that `fault` means."""
    kind = BY_CODE.get(fault.code) or (
        InvalidRangeError if fault.status == 416 else error_of_status(fault.status)
    )
    facts = [fact for fact in (shown(fault.code), f"HTTP {fault.status}") if fact]
    if fault.request_id:
        facts.append(f"request {shown(fault.request_id)}")
    reason = ", ".join([*facts, f"bucket {bucket!r}"])
    if fault.message:
        reason = f"{reason}: {shown(fault.message)}"
    error = kind(reason)
    error.undetermined = fault.resent or error.undetermined
    if isinstance(error, StoreUnavailableError):
        error.retry_after = fault.retry_after
    return error


def store_error(error: Exception, bucket: str) -> StoreError | None:
    """Return the store error for an error of the HTTP client; None for other errors."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, FaultInReplyError):
        return error_for(error.fault, bucket)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return error_for(Fault(error.status, message="the proxy opened no tunnel"), bucket)
    for kind, meaning, text in BY_EXCEPTION:
        if isinstance(error, kind):
            reason = ", ".join(filter(None, [text, f"bucket {bucket!r}"]))
            if detail := _detail(error):
                reason = f"{reason}: {detail}"
            failure = meaning(reason)
            failure.__cause__ = None if shows_reply(error) else error
            nothing_sent = isinstance(error, aiohttp.ClientConnectorError)
            failure.undetermined = getattr(error, "undetermined", not nothing_sent)
            return failure
    return None


def closed_error(cause: Exception | None = None) -> StoreClosedError:
    """Make the error for an operation on a closed store.

    cause: the failure of an operation that `close` cut off; None if nothing was sent.
    """
    error = StoreClosedError("this S3ObjectStore was closed")
    error.undetermined = getattr(cause, "undetermined", cause is not None)
    error.__cause__ = cause
    return error


def _detail(error: Exception) -> str:
    if shows_reply(error):
        return ""
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        # Its own text says "ssl:default" over plain HTTP, too.
        cause, number = error.os_error, error.os_error.errno or 0
        why = os.strerror(number) if number > 0 else cause.strerror or cause
        return shown(f"{error.host}:{error.port}: {why}")
    return shown(str(error))


def shows_reply(error: BaseException | None) -> bool:
    """Return whether an exception shows headers of a request or reply, where a session token may be."""
    return isinstance(error, (aiohttp.ClientResponseError, FaultInReplyError)) or (
        isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)
    )


def shown(text: str) -> str:
    """Return text of a server as part of one line: no control characters, not too long."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:300])


def retry_after_seconds(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for; None if it is neither a number nor a date."""
    if not value:
        return None
    if value.strip().isdecimal():
        seconds = float(value)
        return seconds if isfinite(seconds) else None
    date = http_date(value)
    return None if date is None else max(0.0, (date - datetime.now(UTC)).total_seconds())


def http_date(value: str) -> datetime | None:
    """Return the date of a header; None if it is not a date, or out of the range of `datetime`."""
    usual = _USUAL_DATE.fullmatch(value)
    try:
        if usual is None or usual[2] not in _MONTHS:
            date = parsedate_to_datetime(value)
        else:  # in a fifth of the time
            day, month, year, time = usual.groups()
            date = datetime.fromisoformat(f"{year}-{_MONTHS.index(month) + 1:02}-{day}T{time}+00:00")
    except (ValueError, OverflowError):
        return None
    if date.year == MAXYEAR:
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
