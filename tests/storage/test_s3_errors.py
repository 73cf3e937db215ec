"""Every way that S3 refuses has its error."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import botocore.session
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from starfish_server.errors import (
    BucketNotFoundError,
    StoreAccessDeniedError,
    StoreError,
    StoreNotSupportedError,
    StoreOverloadedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.storage.s3.errors import (
    BY_CODE,
    BY_EXCEPTION,
    Fault,
    InvalidRangeError,
    NoSuchKeyError,
    WriteRaceError,
    error_for,
    http_date,
    retry_after_seconds,
    store_error,
)

# Of Amazon's "List of error codes", those that the operations of a store can meet.
DOCUMENTED = {
    NoSuchKeyError: "NoSuchKey NoSuchVersion",
    BucketNotFoundError: "NoSuchBucket",
    VersionConflictError: "PreconditionFailed",
    InvalidRangeError: "InvalidRange",
    WriteRaceError: "ConditionalRequestConflict",
    StoreNotSupportedError: "NotImplemented",
    StoreAccessDeniedError: """AccessDenied AccountProblem AllAccessDisabled AuthorizationHeaderMalformed
        CredentialsNotSupported ExpiredToken InvalidAccessKeyId InvalidPayer InvalidSecurity InvalidToken
        MissingSecurityHeader NotSignedUp RequestTimeTooSkewed SignatureDoesNotMatch TokenRefreshRequired
        UnauthorizedAccess""",
    StoreOverloadedError: "BandwidthLimitExceeded Busy RequestLimitExceeded ServiceUnavailable SlowDown",
    StoreUnavailableError: """BadDigest IncompleteBody InternalError
        OperationAborted RequestTimeout XAmzContentSHA256Mismatch""",
    StoreError: """EntityTooLarge EntityTooSmall IllegalLocationConstraintException InvalidArgument
        InvalidBucketName InvalidBucketState InvalidDigest InvalidEncryptionAlgorithmError InvalidObjectState
        InvalidRequest InvalidStorageClass InvalidURI MalformedXML MaxMessageLengthExceeded
        MetadataTooLarge MethodNotAllowed MissingContentLength MissingRequestBodyError PermanentRedirect
        Redirect TemporaryRedirect UnexpectedContent UserKeyMustBeSpecified""",
}
REQUEST = aiohttp.RequestInfo(URL("http://x"), "CONNECT", CIMultiDictProxy(CIMultiDict()), URL("http://x"))
# Of redirects and trackers, which this library does not use.
NOT_RAISED = {
    "NonHttpUrlClientError",
    "NonHttpUrlRedirectClientError",
    "RedirectClientError",
    "UploadAbortedError",
}


@pytest.mark.parametrize(
    ("code", "kind"), [(code, kind) for kind, codes in DOCUMENTED.items() for code in codes.split()]
)
def test_every_documented_code_has_its_error(code: str, kind: type[StoreError]) -> None:
    status = 403 if code == "InvalidObjectState" else 400
    assert type(error_for(Fault(status, code), "b")) is kind


def test_every_code_in_botocores_model_of_s3_has_the_error_of_its_status_or_its_own() -> None:
    model = botocore.session.Session().get_service_model("s3")
    errors = [shape.metadata.get("error", {}) | {"name": shape.name} for shape in model.error_shapes]
    denied = {error.get("code", error["name"]) for error in errors if error.get("httpStatusCode") == 403}
    assert denied - set(BY_CODE) == set()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, StoreError),
        (401, StoreAccessDeniedError),
        (403, StoreAccessDeniedError),
        (404, StoreError),
        (408, StoreTimeoutError),
        (412, VersionConflictError),
        (418, StoreError),
        (429, StoreOverloadedError),
        (500, StoreUnavailableError),
        (501, StoreNotSupportedError),
        (502, StoreUnavailableError),
        (503, StoreOverloadedError),
        (504, StoreUnavailableError),
        (599, StoreUnavailableError),
    ],
)
def test_a_reply_without_a_code_is_judged_by_its_status(status: int, kind: type[StoreError]) -> None:
    assert type(error_for(Fault(status), "b")) is kind


def test_an_error_says_what_was_done_where_and_what_the_server_said() -> None:
    fault = Fault(503, "SlowDown", "Please\nslow \x1b[31mdown", request_id="R1", retry_after=2.0)
    error = error_for(fault, "bucket")
    assert str(error) == ("SlowDown, HTTP 503, request R1, bucket 'bucket': Please\ufffdslow \ufffd[31mdown")
    assert isinstance(error, StoreOverloadedError)
    assert error.retry_after == 2.0


@pytest.mark.parametrize(
    ("exception", "kind"),
    [
        (TimeoutError(), StoreTimeoutError),
        (aiohttp.ServerTimeoutError(), StoreTimeoutError),
        (aiohttp.ServerDisconnectedError(), StoreUnavailableError),
        (aiohttp.ClientPayloadError(), StoreUnavailableError),
        (ConnectionResetError(), StoreUnavailableError),
        (ConnectionRefusedError(), StoreUnavailableError),
        (ssl.SSLCertVerificationError(), StoreError),
        (aiohttp.ClientHttpProxyError(REQUEST, (), status=407), StoreAccessDeniedError),
        (aiohttp.ClientHttpProxyError(REQUEST, (), status=502), StoreUnavailableError),
    ],
)
def test_exceptions_of_the_network_have_their_error(exception: Exception, kind: type[StoreError]) -> None:
    assert type(mapped(exception)) is kind


def test_every_exception_of_aiohttp_has_its_error() -> None:
    """Not by the last line of the table, which is for those that a later aiohttp may add."""
    known = {value for value in vars(aiohttp).values() if isinstance(value, type)}
    errors = {kind for kind in known if issubclass(kind, aiohttp.ClientError)} - {aiohttp.ClientError}
    unmapped = {
        kind.__name__
        for kind in errors
        if not any(issubclass(kind, each) for each, _, _ in BY_EXCEPTION if each is not aiohttp.ClientError)
    }
    assert unmapped - NOT_RAISED == set()


def mapped(exception: Exception) -> StoreError:
    error = store_error(exception, "b")
    assert error is not None
    return error


def test_an_error_that_is_not_of_the_network_passes() -> None:
    assert store_error(ZeroDivisionError(), "b") is None


def test_a_proxy_that_opens_no_tunnel_is_named() -> None:
    error = aiohttp.ClientHttpProxyError(REQUEST, (), status=502, message="hunter2")
    assert str(mapped(error)) == "HTTP 502, bucket 'b': the proxy opened no tunnel"


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    assert retry_after_seconds("7") == 7.0
    assert retry_after_seconds(format_datetime(later, usegmt=True)) == pytest.approx(86_400, abs=60)
    assert retry_after_seconds("Mon, 01 Jan 2001 00:00:00 GMT") == 0.0
    assert [retry_after_seconds(value) for value in (None, "", "soon", "-1", "nan")] == [None] * 5


@pytest.mark.parametrize(
    "value",
    [
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "9" * 400,
    ],
)
def test_a_retry_after_beyond_all_times_is_none(value: str) -> None:
    assert retry_after_seconds(value) is None


def test_a_date_without_a_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third form of a date in HTTP, that of asctime."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        later = datetime.now(UTC) + timedelta(days=1)
        assert retry_after_seconds(later.strftime("%a %b %d %H:%M:%S %Y")) == pytest.approx(86_400, abs=60)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Wed, 31 Dec 2025 23:59:59 GMT", datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("Thu, 01 Jan 2026 00:00:00 GMT", datetime(2026, 1, 1, tzinfo=UTC)),
        ("Sunday, 06-Nov-94 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Sun, 6 Nov 1994 10:49:37 +0200", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Thu, 31 Feb 2026 00:00:00 GMT", None),
        ("Thu, 01 Jan 2026 25:00:00 GMT", None),
        ("Thu, 01 Foo 2026 00:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),
        ("tomorrow", None),
        ("", None),
    ],
)
def test_a_date_in_a_header_is_read_in_every_form_that_http_allows(
    text: str, expected: datetime | None
) -> None:
    assert http_date(text) == expected
