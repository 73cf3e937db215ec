"""Signatures are those that botocore itself would make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

import pytest
from botocore.auth import SIGV4_TIMESTAMP, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from hypothesis import given
from hypothesis import strategies as st

from starfish_server.storage.s3.credentials import Credentials
from starfish_server.storage.s3.signing import Signer

HASH = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
STATIC = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None)
TEMPORARY = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "token/with+signs==")
VALUES = st.text('aZ09 ~/%+=,;"', min_size=1, max_size=30)


def botocore_authorization(
    credentials: Credentials, method: str, target: str, headers: dict[str, str], now: datetime
) -> str:
    auth = S3SigV4Auth(credentials, "s3", "eu-central-1")
    request = AWSRequest(method=method, url=f"https://{headers['Host']}{target}", headers=headers)
    request.context["timestamp"] = now.strftime(SIGV4_TIMESTAMP)
    request.headers["X-Amz-Content-SHA256"] = HASH
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    if credentials.token is not None:
        request.headers["X-Amz-Security-Token"] = credentials.token
    text = auth.string_to_sign(request, auth.canonical_request(request))
    auth._inject_signature_to_request(request, auth.signature(text, request))
    return str(request.headers["Authorization"])


@given(
    credentials=st.sampled_from([STATIC, TEMPORARY]),
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    key=st.text(min_size=1, max_size=30),
    query=st.dictionaries(st.sampled_from(["prefix", "pre", "pre-fix", "uploads", "delete", "a"]), VALUES),
    headers=st.dictionaries(
        st.sampled_from(["Content-Type", "Cache-Control", "If-Match", "x-amz-meta-a", "X-Amz-Meta-B"]), VALUES
    ),
    now=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001 - UTC is put on below
)
def test_a_signature_is_the_one_that_botocore_makes(
    credentials: Credentials,
    method: str,
    key: str,
    query: dict[str, str],
    headers: dict[str, str],
    now: datetime,
) -> None:
    path = f"/bucket/{quote(key.encode(errors='replace'), safe='/~')}"
    arguments = urlencode(query, quote_via=quote, safe="~")
    target = f"{path}?{arguments}" if arguments else path
    headers = {"Host": "s3.example.com:9000", **headers}
    moment = now.replace(tzinfo=UTC)
    expected = botocore_authorization(credentials, method, target, headers, moment)
    signer = Signer(credentials, "eu-central-1")
    for _ in range(2):  # with the signing key made, and with it cached
        signed = dict(headers)
        signer.sign(method, target, signed, HASH, moment.timestamp())
        assert signed["Authorization"] == expected
        assert signed.get("X-Amz-Security-Token") == credentials.token


@pytest.mark.parametrize("later", [timedelta(0), timedelta(seconds=1), timedelta(days=1)])
def test_the_time_and_the_signing_key_that_are_cached_are_those_of_the_moment(later: timedelta) -> None:
    signer, headers = Signer(STATIC, "eu-central-1"), {"Host": "s3.example.com"}
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for moment in (start, start + later):
        signed = dict(headers)
        signer.sign("GET", "/b/k", signed, HASH, moment.timestamp())
        assert signed["Authorization"] == botocore_authorization(STATIC, "GET", "/b/k", headers, moment)
