"""`list_keys` of the S3 leaf: every page, exactly, whatever the server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from faulty_proxy import FaultyProxy, reply, stalled
from starfish_server.errors import StoreClosedError, StoreError, StoreTimeoutError
from starfish_server.layers import Timeout
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from servers import S3Server

MakeS3 = Callable[..., S3ObjectStore]

pytestmark = pytest.mark.timeout(600)  # of which moto takes a minute for 2,300 objects on a busy machine

KEYS = sorted(f"{folder}{n:04}" for folder in ("a-", "a.", "a/", "a/b/", "b") for n in range(460))


def page(*keys: str, token: str | None = None, truncated: bool | None = None) -> str:
    entries = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys)
    more = "true" if (token is not None if truncated is None else truncated) else "false"
    following = "" if token is None else f"<NextContinuationToken>{token}</NextContinuationToken>"
    return (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EncodingType>url</EncodingType>'
        f"<IsTruncated>{more}</IsTruncated>{following}{entries}</ListBucketResult>"
    )


@pytest.fixture(scope="module")
def bucket_of_2300(moto: S3Server) -> str:
    bucket = moto.make_bucket()

    async def fill() -> None:
        options = S3StorageOptions(
            access_key_id="k",
            secret_access_key="s",
            endpoint=moto.endpoint,
            bucket=bucket,
            max_connections=16,
        )
        async with S3ObjectStore(options) as store:
            await asyncio.gather(*(store.put(key, "") for key in KEYS))

    asyncio.run(fill())
    return bucket


@pytest.fixture
async def capped(moto: S3Server, bucket_of_2300: str, make_s3: MakeS3) -> AsyncIterator[S3ObjectStore]:
    async with FaultyProxy(moto.endpoint) as proxy:
        yield make_s3(moto, bucket=bucket_of_2300, endpoint=proxy.endpoint)


@pytest.mark.parametrize("limit", [None, 0, 1, 999, 1000, 1001, 2000, 2299, 2300, 2301, 5000])
async def test_a_limit_is_exact_however_many_pages_it_takes(capped: S3ObjectStore, limit: int | None) -> None:
    assert await capped.list_keys("", limit=limit) == KEYS[:limit]


@pytest.mark.parametrize(
    "start_after",
    [
        "",
        KEYS[0],
        KEYS[998],
        KEYS[999],
        KEYS[1000],
        KEYS[2298],
        KEYS[2299],
        "a",
        "a-",
        "a/",
        "a/0459/",
        "a~",
        "zzz",
    ],
)
async def test_keys_begin_after_any_place_in_the_order(capped: S3ObjectStore, start_after: str) -> None:
    after = [key for key in KEYS if key > start_after]
    assert await capped.list_keys("", start_after=start_after) == after
    assert await capped.list_keys("", start_after=start_after, limit=1001) == after[:1001]


@pytest.mark.parametrize("prefix", ["a", "a-", "a/", "a/0", "a/b/00", "b045", "c"])
async def test_a_prefix_is_a_string_prefix(capped: S3ObjectStore, prefix: str) -> None:
    assert await capped.list_keys(prefix) == [key for key in KEYS if key.startswith(prefix)]


async def test_no_request_is_made_for_a_limit_of_0(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, bucket="none", endpoint=proxy.endpoint)
    assert await store.list_keys("", limit=0) == []
    assert proxy.seen == []


async def test_the_first_page_is_no_longer_than_the_limit_and_begins_after_the_first_key(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint)
    proxy.next_faults += [
        reply(200, page("a", "b", token="t")),
        reply(200, page("c")),
    ]
    assert await store.list_keys("", start_after="0", limit=3) == ["a", "b", "c"]
    asked = [parse_qs(urlsplit(seen.target).query) for seen in proxy.seen]
    assert [query["max-keys"] for query in asked] == [["3"], ["1000"]]
    assert asked[0]["start-after"] == ["0"]
    assert asked[1]["continuation-token"] == ["t"]


async def test_keys_that_break_the_rules_are_left_out_and_do_not_count(
    moto: S3Server, make_s3: MakeS3
) -> None:
    bucket = moto.make_bucket()
    anything = make_s3(moto, bucket=bucket, portable_keys=False)
    odd = ["a b", "a+b", "a%2Fb", "ä", "\N{GRINNING FACE}/x", "<&>'\""]
    for key in ("a//b", "/a", "a/", "a/../b"):
        moto.ask("put_object", Bucket=bucket, Key=key)
    for key in [*odd, "a", "b", "z"]:
        await anything.put(key, key)
    assert await anything.list_keys("") == sorted([*odd, "a", "b", "z"])
    assert [await anything.get_string(key) for key in odd] == odd
    portable = make_s3(moto, bucket=bucket)
    assert await portable.list_keys("", limit=2) == ["a", "b"]
    await anything.delete_many(odd)
    assert await anything.list_keys("") == ["a", "b", "z"]


async def test_keys_that_are_left_out_cost_no_request_each(moto: S3Server, make_s3: MakeS3) -> None:
    bucket = moto.make_bucket()
    anything = make_s3(moto, bucket=bucket, portable_keys=False)
    await asyncio.gather(*(anything.put(f"a photo {number:02}.jpg", "") for number in range(20)))
    for key in ("b", "c", "d"):
        await anything.put(key, "")
    async with FaultyProxy(moto.endpoint) as proxy:
        store = make_s3(moto, bucket=bucket, endpoint=proxy.endpoint)
        assert await store.list_keys("", limit=2) == ["b", "c"]
    assert len(proxy.seen) == 2


async def test_pages_go_on_after_keys_that_break_the_rules(moto: S3Server, make_s3: MakeS3) -> None:
    store = make_s3(moto, portable_keys=False)
    keys = sorted(["a\u00a0b", "\N{WOMAN}\u200d\N{ROCKET}", "a\u00adb", "z"])
    for key in keys:
        await store.put(key, "")
    pages: list[str] = []
    while page := await store.list_keys("", start_after=pages[-1] if pages else None, limit=1):
        pages += page
    assert pages == keys


async def test_keys_are_decoded_as_s3_encodes_them(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, portable_keys=False)
    proxy.next_faults += [reply(200, page("a+b%2Bc%20d%C3%A4"))]
    assert await store.list_keys("") == ["a b+c d\u00e4"]


async def test_a_server_that_lists_folder_by_folder_is_put_in_order(
    seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs)
    for key in ("a/b", "a-b", "a.b", "a0"):
        await store.put(key, "")
    assert await store.list_keys("") == ["a-b", "a.b", "a/b", "a0"]


@pytest.mark.parametrize(
    "pages",
    [
        [page("a", token="same")] * 3,
        [page("a", token="this"), page("b", token="that")] * 2,
        [page(token=f"t{n}") for n in range(1000)],
        [page("outside")],
    ],
    ids=["same token", "tokens in a circle", "empty pages", "key outside the prefix"],
)
async def test_pages_that_lead_nowhere_are_an_error(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, pages: list[str]
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint)
    proxy.next_faults += [reply(200, body) for body in pages]
    with pytest.raises(StoreError, match=r"do not end|outside the prefix"):
        await store.list_keys("a")


async def test_a_key_that_is_listed_twice_counts_once(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint)
    pages = [page("a", "b", token="t"), page("b", token="u"), page("c")]
    proxy.next_faults += [reply(200, body) for body in pages]
    assert await store.list_keys("", limit=3) == ["a", "b", "c"]


@pytest.mark.parametrize("pages", [0, 1])
@pytest.mark.parametrize("end", ["cancelled", "closed"])
async def test_a_list_that_ends_early_ends_the_request_for_its_page(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, pages: int, end: str
) -> None:
    """A coroutine is closed where it becomes garbage, as after the end of an event loop."""
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, max_connections=1)
    proxy.next_faults += [reply(200, page("a", token="t"))] * pages
    proxy.next_faults.append(stalled)
    operation = store.list_keys("a")
    listing = asyncio.create_task(operation)
    await proxy.arrived(pages + 1)
    if end == "closed":
        operation.close()
    listing.cancel()
    await asyncio.gather(listing, return_exceptions=True)
    proxy.fault = reply(200, page())
    async with asyncio.timeout(100.0):  # the only connection is free
        assert await store.list_keys("a") == []


async def test_closing_the_store_ends_a_list_that_waits_for_its_next_page(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starfish_server.storage.s3.sessions.CLOSE_GRACE_SECONDS", 0.01)
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint)
    proxy.next_faults += [reply(200, page("a", token="t")), stalled]
    listing = asyncio.create_task(store.list_keys("a"))
    await proxy.arrived(2)
    await store.close()
    with pytest.raises(StoreClosedError):
        await listing


async def test_a_time_limit_ends_the_request_for_the_next_page(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, max_connections=1)
    proxy.next_faults += [reply(200, page("a", token="t")), stalled]
    with pytest.raises(StoreTimeoutError, match=r"longer than 0.2 s"):
        await Timeout(store, seconds=0.2).list_keys("a")
    proxy.next_faults.clear()
    proxy.fault = reply(200, page())
    async with asyncio.timeout(10.0):  # the only connection is free
        assert await store.list_keys("a") == []


@pytest.mark.parametrize(
    "body",
    [
        "",
        "   ",
        "<html><body>Sign in</body></html>",
        "not xml <",
        "<ListBucketResult/>",
        page("a")[:-20],
        page("a", truncated=True),
        page(""),
        '<!DOCTYPE a [<!ENTITY b "c">]>' + page("&b;"),
        b"\xff\xfe<",
    ],
)
async def test_a_200_that_is_no_list_is_an_error(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, body: str | bytes
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, max_attempts=1)
    proxy.fault = reply(200, body)
    with pytest.raises(StoreError) as caught:
        await store.list_keys("")
    assert type(caught.value) is StoreError
    assert (caught.value.operation, caught.value.key) == ("list_keys", "")
