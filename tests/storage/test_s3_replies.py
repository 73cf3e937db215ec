"""A reply counts only if it says what S3 says; everything else is a typed error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest

from faulty_proxy import FaultyProxy, Forward, cut_short, flipped, passed_on, reply, s3_error
from starfish_server.errors import (
    BucketNotFoundError,
    StoreAccessDeniedError,
    StoreDecodeError,
    StoreError,
    StoreUnavailableError,
)
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from aiohttp import web

    from servers import S3Server

MakeS3 = Callable[..., S3ObjectStore]

HTML = "<html><body>Sign in to the network</body></html>"


@pytest.fixture
def store(proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3) -> S3ObjectStore:
    """One attempt an operation, through the proxy."""
    return make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=1)


@pytest.mark.parametrize(
    "fault",
    [reply(200), reply(200, HTML, ETag='"e"'), reply(204), reply(206, ETag='"e"'), reply(202, HTML)],
)
async def test_a_put_without_an_etag_or_with_a_body_is_not_taken_for_done(
    proxy: FaultyProxy, store: S3ObjectStore, fault: object
) -> None:
    proxy.fault = fault  # type: ignore[assignment]  # one of the faults above
    with pytest.raises(StoreError, match="does not confirm the write") as caught:
        await store.put("k", "v")
    assert type(caught.value) is StoreError


@pytest.mark.parametrize("fault", [reply(200, HTML), reply(202), reply(206)])
async def test_a_delete_that_is_not_confirmed_is_an_error(
    proxy: FaultyProxy, store: S3ObjectStore, fault: object
) -> None:
    proxy.fault = fault  # type: ignore[assignment]  # one of the faults above
    with pytest.raises(StoreError, match="does not confirm the delete") as caught:
        await store.delete("k")
    assert type(caught.value) is StoreError


@pytest.mark.parametrize(
    "fault", [reply(200, HTML), reply(204), reply(206, "v", ETag='"e"'), reply(203, "v")]
)
async def test_a_get_takes_nothing_for_an_object_that_is_not_one(
    proxy: FaultyProxy, store: S3ObjectStore, fault: object
) -> None:
    proxy.fault = fault  # type: ignore[assignment]  # one of the faults above
    with pytest.raises(StoreError, match="is not an object") as caught:
        await store.get_string("k")
    assert type(caught.value) is StoreError


async def test_a_reply_that_is_not_one_of_s3_is_not_asked_for_again(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=3)
    proxy.fault = reply(200, HTML, ETag='"e"')
    for operation in (store.put("k", "v"), store.list_keys(""), store.delete("k")):
        proxy.seen.clear()
        with pytest.raises(StoreError):
            await operation
        assert len(proxy.seen) == 1


async def test_an_error_inside_a_200_is_that_error(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    proxy.fault = s3_error(200, "AccessDenied")
    for operation in (store.put("k", "v"), store.list_keys(""), store.delete("k")):
        with pytest.raises(StoreAccessDeniedError):
            await operation


@pytest.mark.parametrize("size", [1000, 3_000_000])
async def test_a_body_cut_short_says_how_much_of_it_came(
    proxy: FaultyProxy, store: S3ObjectStore, size: int
) -> None:
    await store.put_bytes("k", bytes(size), content_type="a/b")
    proxy.fault = cut_short(500)
    with pytest.raises(StoreUnavailableError, match=f"cut short after 500 of {size} bytes") as caught:
        await store.get_bytes("k")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("size", [1000, 3_000_000])
async def test_a_body_damaged_on_an_unencrypted_connection_is_an_error(
    proxy: FaultyProxy, store: S3ObjectStore, size: int
) -> None:
    await store.put_bytes("k", bytes(size), content_type="a/b")
    proxy.fault = flipped
    with pytest.raises(StoreUnavailableError, match="damaged"):
        await store.get_bytes("k")


async def test_a_body_damaged_once_is_read_again(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    await store.put("k", "v")
    proxy.next_faults += [flipped, passed_on]
    assert await store.get_string("k") == "v"


async def test_an_etag_that_is_no_md5_is_not_compared(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    encrypted = {"x_amz_server_side_encryption": "aws:kms"}
    proxy.next_faults += [
        reply(200, "v", ETag='"0123-2"'),
        reply(200, "v", ETag=f'"{"0" * 32}"', **encrypted),
    ]
    assert [await store.get_string("k"), await store.get_string("k")] == ["v", "v"]
    assert len(proxy.seen) == 2


async def test_an_object_whose_etag_only_looks_like_an_md5_is_read(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    """ETags are opaque: restored objects and some servers have others of 32 hex digits."""
    proxy.fault = reply(200, "v", ETag=f'"{"0" * 32}"')
    assert await store.get_string("k") == "v"
    assert await store.get_bytes("k") == (b"v", "application/octet-stream")
    found = await store.read("k")
    assert found and (found.body, found.info.version) == (b"v", f'"{"0" * 32}"')


async def test_a_body_over_16_mib_is_not_compared_with_its_etag(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    for size, requests in ((16 * 2**20, 2), (16 * 2**20 + 1, 3)):
        proxy.fault = reply(200, "v" * size, ETag=f'"{"0" * 32}"')
        assert len(await store.get_string("k") or "") == size
        assert len(proxy.seen) == requests


async def test_metadata_of_the_object_is_no_proof_against_its_body(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    """Tools carry metadata over to objects that they replace."""
    proxy.fault = reply(200, "v", ETag='"0-2"', x_amz_meta_starfish_parts_sha256=f"{8 * 2**20} {'0' * 64}")
    assert await store.get_string("k") == "v"


async def test_bodies_are_read_once_where_they_are_not_verified(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, verify_bodies=False)
    proxy.fault = reply(200, "v", ETag=f'"{"0" * 32}"')
    assert await store.get_string("k") == "v"
    assert len(proxy.seen) == 1


@pytest.mark.parametrize(
    "error",
    [
        b"<Error><Code>NoSuchKey</Code><Key>&uuml;</Key></Error>",
        b"<Error><Code>NoSuchKey</Code><Key>a&#x1;b</Key></Error>",
        b"<Error><Code>NoSuchKey</Code><Key>\xe9</Key></Error>",
        b"<Error>\n<Code>\nNoSuchKey\n</Code></Error>",
        b'<s:Error xmlns:s="http://s3.amazonaws.com/doc/2006-03-01/"><s:Code>NoSuchKey</s:Code></s:Error>',
        b"\xef\xbb\xbf<?xml version='1.0'?>\n<Error><Code>NoSuchKey</Code></Error>",
        b"<Error><Code>NoSuchKey</Code><Message>cut sho",
    ],
    ids=[
        "entity",
        "control character",
        "latin-1",
        "white space",
        "namespace",
        "byte order mark",
        "cut short",
    ],
)
async def test_a_code_is_read_whatever_the_form_of_the_error(
    proxy: FaultyProxy, store: S3ObjectStore, error: bytes
) -> None:
    proxy.fault = reply(404, error)
    assert await store.get_string("k") is None


async def test_many_headers_and_long_ones_are_read(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    metadata = {f"x_amz_meta_{number}": "v" for number in range(200)}
    proxy.fault = reply(200, "v", ETag='"e"', x_policy="p" * 9000, **metadata)
    assert await store.get_string("k") == "v"


async def test_a_bucket_that_demands_checksums_gets_them_from_then_on(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    """As buckets with Object Lock do."""

    async def locked(request: web.Request, forward: Forward) -> web.StreamResponse:
        if request.method != "PUT" or "Content-MD5" in request.headers:
            return await passed_on(request, forward)
        message = (
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests "
            "with Object Lock parameters"
        )
        return await s3_error(400, "InvalidRequest", message)(request, forward)

    proxy.fault = locked
    await store.put("k", "v")
    assert [seen.headers.get("Content-MD5") for seen in proxy.seen] == [None, "njZp0ZtnW9VwWP1GZCBdKg=="]
    proxy.seen.clear()
    await store.put_bytes("k", b"v", content_type="a/b")
    await store.write("new", "v", if_version=None)
    large = bytes(17 * 2**20)
    await store.put_bytes("large", large, content_type="a/b")
    assert await store.get_bytes("large") == (large, "a/b")
    assert all("Content-MD5" in seen.headers for seen in proxy.seen if seen.method == "PUT")


async def test_a_checksum_that_is_refused_is_an_error(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    proxy.fault = s3_error(400, "InvalidDigest", "The Content-MD5 you specified is not valid.")
    with pytest.raises(StoreError, match="InvalidDigest"):
        await store.put("k", "v")
    assert len(proxy.seen) == 2


async def test_a_missing_object_is_none_and_a_missing_bucket_an_error(
    seaweedfs: S3Server, moto: S3Server, make_s3: MakeS3
) -> None:
    for server in (seaweedfs, moto):
        assert await make_s3(server).get_string("k") is None
        nowhere = make_s3(server, bucket="no-such-bucket")
        for operation in (
            nowhere.get_string("k"),
            nowhere.put("k", "v"),
            nowhere.list_keys(""),
            nowhere.delete("k"),
        ):
            with pytest.raises(BucketNotFoundError, match="'no-such-bucket'"):
                await operation


@pytest.mark.parametrize("body", ["", HTML, "<Error></Error>"])
async def test_a_404_that_does_not_say_what_is_missing_is_an_error(
    proxy: FaultyProxy, store: S3ObjectStore, body: str
) -> None:
    proxy.fault = reply(404, body)
    for operation in (store.get_string("k"), store.delete("k")):
        with pytest.raises(StoreError, match="HTTP 404"):
            await operation


async def test_an_error_reply_gives_its_connection_back(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=1, max_connections=1)
    proxy.next_faults += [s3_error(500, "InternalError", "x" * 200_000)] * 20
    for _ in range(20):
        with pytest.raises(StoreUnavailableError):
            await store.get_string("k")
    assert await store.get_string("k") is None


async def test_a_redirect_is_not_followed(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    proxy.fault = reply(307, Location="http://elsewhere.example/k", x_amz_bucket_region="eu-west-1")
    with pytest.raises(StoreError, match=r"redirect to http://elsewhere\.example/k, which is not followed"):
        await store.get_string("k")
    assert len(proxy.seen) == 1


@pytest.fixture
async def aws(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3ObjectStore]:
    """A store on AWS, as far as it knows: the proxy of the environment answers in its place."""
    monkeypatch.setenv("http_proxy", proxy.endpoint)
    monkeypatch.delenv("no_proxy", raising=False)
    options = S3StorageOptions(
        access_key_id="k", secret_access_key="s", endpoint="http://s3.us-east-1.amazonaws.com", bucket="buck"
    )
    async with S3ObjectStore(options) as store:
        yield store


@pytest.mark.parametrize(
    "redirect",
    [
        reply(301, x_amz_bucket_region="eu-west-1"),
        reply(307, x_amz_bucket_region="eu-west-1"),
        reply(400, "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"),
    ],
    ids=["301", "307", "400"],
)
async def test_the_region_that_aws_names_is_used_from_then_on(
    proxy: FaultyProxy, aws: S3ObjectStore, redirect: object
) -> None:
    found = reply(200, "v", ETag='"e"')
    proxy.next_faults += [redirect, found, found]  # type: ignore[list-item]  # one of the faults above
    assert [await aws.get_string("k"), await aws.get_string("k")] == ["v", "v"]
    assert [seen.headers["Host"] for seen in proxy.seen] == [
        "buck.s3.us-east-1.amazonaws.com",
        "buck.s3.eu-west-1.amazonaws.com",
        "buck.s3.eu-west-1.amazonaws.com",
    ]
    assert "/eu-west-1/s3/aws4_request" in proxy.seen[1].headers["Authorization"]


async def test_a_bucket_whose_region_never_settles_is_an_error(
    proxy: FaultyProxy, aws: S3ObjectStore
) -> None:
    proxy.next_faults += [reply(301, x_amz_bucket_region=f"eu-west-{n}") for n in range(10)]
    with pytest.raises(StoreError, match="HTTP 301"):
        await aws.get_string("k")
    assert len(proxy.seen) == 3


async def test_a_region_that_is_no_name_is_not_adopted(proxy: FaultyProxy, aws: S3ObjectStore) -> None:
    proxy.fault = reply(301, x_amz_bucket_region="x.evil.example/")
    with pytest.raises(StoreError, match="HTTP 301"):
        await aws.get_string("k")
    assert len(proxy.seen) == 1


async def test_a_wrong_clock_is_set_right_by_the_server(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    proxy.next_faults += [
        s3_error(403, "RequestTimeTooSkewed", Date=format_datetime(tomorrow, usegmt=True)),
        reply(200, "v", ETag='"e"'),
    ]
    assert await store.get_string("k") == "v"
    signed = [
        datetime.strptime(seen.headers["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z") for seen in proxy.seen
    ]
    assert signed[1] - signed[0] == pytest.approx(timedelta(days=1), abs=timedelta(minutes=1))


async def test_a_wrong_clock_is_set_right_for_stat_too(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    """The reply to its HEAD has no body, which would say why it was refused."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if request.headers["X-Amz-Date"] < tomorrow.strftime("%Y%m%d"):
            skewed = s3_error(403, "RequestTimeTooSkewed", Date=format_datetime(tomorrow, usegmt=True))
            return await skewed(request, forward)
        return await reply(200, "v", ETag='"e"')(request, forward)

    proxy.fault = fault
    info = await store.stat("k")
    assert info and info.version == '"e"'


async def test_a_refusal_of_stat_says_why(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    proxy.fault = s3_error(403, "InvalidAccessKeyId")
    with pytest.raises(StoreAccessDeniedError, match="InvalidAccessKeyId"):
        await store.stat("k")


async def test_a_clock_that_stays_wrong_is_an_error(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    proxy.fault = s3_error(403, "RequestTimeTooSkewed")
    with pytest.raises(StoreAccessDeniedError, match="RequestTimeTooSkewed"):
        await store.get_string("k")
    assert len(proxy.seen) == 3


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 99999999999 00:00:00 GMT"])
async def test_a_clock_beyond_all_times_is_not_believed(
    proxy: FaultyProxy, store: S3ObjectStore, date: str
) -> None:
    proxy.fault = s3_error(403, "RequestTimeTooSkewed", Date=date)
    with pytest.raises(StoreAccessDeniedError, match="RequestTimeTooSkewed"):
        await store.get_string("k")
    assert len(proxy.seen) == 1


async def test_bodies_come_back_as_they_were_stored(seaweedfs: S3Server, make_s3: MakeS3) -> None:
    store = make_s3(seaweedfs)
    large = bytes(range(256)) * 20_000
    await store.put_bytes("large", large, content_type="image/png")
    assert await store.get_bytes("large") == (large, "image/png")
    await store.put("text", "a\r\nb\rc\n\ufeff\0\u2028\N{GRINNING FACE}")
    assert await store.get_string("text") == "a\r\nb\rc\n\ufeff\0\u2028\N{GRINNING FACE}"
    await store.put("empty", "")
    assert await store.get_bytes("empty") == (b"", "text/plain; charset=utf-8")
    with pytest.raises(StoreDecodeError):
        await store.get_string("large")


async def test_headers_of_a_put_reach_the_server(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    await store.put("k", "v", content_type="application/json", cache_control="no-store")
    sent = proxy.seen[0].headers
    assert (sent["Content-Type"], sent["Cache-Control"]) == ("application/json", "no-store")
    assert "content-type" in sent["Authorization"]
    assert not {"Expect", "x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm"} & set(sent)
