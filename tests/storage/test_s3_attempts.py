"""How many attempts the S3 leaf makes: counted on the wire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from faulty_proxy import Fault, FaultyProxy, cut_short, lost_reply, passed_on, reset, s3_error, stalled
from starfish_server.context import retries_outside
from starfish_server.errors import (
    DeleteManyError,
    StoreAccessDeniedError,
    StoreError,
    StoreOverloadedError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from starfish_server.storage.s3 import S3ObjectStore, transport

if TYPE_CHECKING:
    from servers import S3Server

MakeS3 = Callable[..., S3ObjectStore]

pytestmark = pytest.mark.usefixtures("no_waiting")

OUTAGES: dict[str, Fault] = {
    "reset": reset,
    "503": s3_error(503, "SlowDown"),
    "500": s3_error(500, "InternalError"),
}
OPERATIONS: dict[str, Callable[[S3ObjectStore], object]] = {
    "get": lambda store: store.get_string("k"),
    "put": lambda store: store.put("k", "v"),
    "list": lambda store: store.list_keys(""),
    "delete_many": lambda store: store.delete_many(["k"]),
}


@pytest.mark.parametrize("maximum", [1, 3, 5])
@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_in_an_outage_the_attempts_on_the_wire_are_max_attempts(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, operation: str, outage: str, maximum: int
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, max_attempts=maximum)
    proxy.fault = OUTAGES[outage]
    with pytest.raises((StoreUnavailableError, DeleteManyError)):
        await OPERATIONS[operation](store)  # type: ignore[misc]  # each gives a coroutine
    assert len(proxy.seen) == maximum


async def test_a_transient_failure_is_retried(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint)
    proxy.next_faults += [lost_reply, reset, passed_on]
    await store.put("k", "v" * 1000)
    proxy.next_faults += [cut_short(10), s3_error(500, "InternalError"), passed_on]
    assert await store.get_string("k") == "v" * 1000


async def test_each_retry_is_logged_at_debug_and_giving_up_at_warning(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, max_attempts=2)
    proxy.fault = s3_error(503, "SlowDown")
    caplog.set_level(logging.DEBUG, "starfish_server")
    with pytest.raises(StoreOverloadedError) as caught:
        await store.get_string("the-key")
    retried, gave_up = caplog.records
    assert {retried.name, gave_up.name} == {"starfish_server.storage.s3"}
    assert (retried.levelname, gave_up.levelname) == ("DEBUG", "WARNING")
    assert retried.getMessage() == (
        f"attempt 1 failed, the next one follows in 0.000 s: StoreOverloadedError: {caught.value.reason}"
    )
    assert gave_up.getMessage() == f"gave up after 2 attempts: StoreOverloadedError: {caught.value.reason}"
    assert vars(gave_up)["attempts"] == 2
    assert "the-key" not in caplog.text


async def test_a_permanent_failure_is_not_retried(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint)
    proxy.fault = s3_error(400, "InvalidBucketName")
    with pytest.raises(StoreError):
        await store.put("k", "v")
    assert len(proxy.seen) == 1


async def test_a_refusal_after_a_lost_reply_says_that_the_write_may_have_been_done(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint)
    proxy.next_faults += [lost_reply, s3_error(403, "AccessDenied"), passed_on, s3_error(403, "AccessDenied")]
    with pytest.raises(StoreAccessDeniedError) as caught:
        await store.put("k", "v")
    assert (await store.get_string("k"), caught.value.undetermined) == ("v", True)
    with pytest.raises(StoreAccessDeniedError) as refused:
        await store.put("k", "v")
    assert not refused.value.undetermined


async def test_a_refusal_after_a_reply_lost_on_a_reused_connection_says_so_too(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=1)
    await store.put("k", "old")
    proxy.next_faults += [lost_reply, s3_error(403, "AccessDenied"), passed_on]
    with pytest.raises(StoreAccessDeniedError) as caught:
        await store.put("k", "v")
    assert (await store.get_string("k"), caught.value.undetermined) == ("v", True)


async def test_a_refusal_after_a_lost_reply_and_a_correction_says_so_too(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=1)
    await store.put("k", "old")
    proxy.next_faults += [
        lost_reply,
        s3_error(403, "RequestTimeTooSkewed"),
        s3_error(403, "AccessDenied"),
        passed_on,
    ]
    with pytest.raises(StoreAccessDeniedError) as caught:
        await store.put("k", "v")
    assert (await store.get_string("k"), caught.value.undetermined) == ("v", True)


async def test_a_retry_layer_leaves_one_attempt(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, max_attempts=5)
    proxy.fault = reset
    retries_outside.set([None])
    with pytest.raises(StoreUnavailableError):
        await store.get_string("k")
    assert len(proxy.seen) == 1


async def test_a_store_in_two_stacks_makes_its_own_attempts_where_no_layer_does(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, max_attempts=3)
    proxy.fault = s3_error(503, "SlowDown")

    async def retried_outside() -> None:
        retries_outside.set([None])
        await store.get_string("outside")

    outcomes = await asyncio.gather(retried_outside(), store.get_string("k"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreOverloadedError] * 2
    assert sorted(seen.target for seen in proxy.seen) == ["/b/k"] * 3 + ["/b/outside"]


async def test_the_server_says_how_long_to_wait(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(transport, "sleep", sleep)
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint)
    proxy.fault = s3_error(503, "SlowDown", Retry_After="7")
    with pytest.raises(StoreOverloadedError) as caught:
        await store.get_string("k")
    assert waits == [7.0, 7.0]
    assert caught.value.retry_after == 7.0


async def test_a_wait_too_long_is_left_to_the_caller(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint)
    proxy.fault = s3_error(503, "SlowDown", Retry_After="3600")
    with pytest.raises(StoreOverloadedError) as caught:
        await store.get_string("k")
    assert caught.value.retry_after == 3600.0
    assert len(proxy.seen) == 1


async def test_a_server_that_does_not_answer_is_a_timeout(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, set_forward: Callable[[float], None]
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, read_timeout=3600.0, max_attempts=2)
    proxy.fault = stalled
    get = asyncio.create_task(store.get_string("k"))
    for attempt in (1, 2):
        await proxy.arrived(attempt)
        set_forward(3600.0)
    with pytest.raises(StoreTimeoutError):
        await get
    assert len(proxy.seen) == 2


async def test_an_upload_that_stalls_is_a_timeout(seaweedfs: S3Server, make_s3: MakeS3) -> None:
    """The server takes the connection and reads nothing."""
    done = asyncio.Event()

    async def ignore(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.transport.abort()

    listener = await asyncio.start_server(ignore, "127.0.0.1", 0, limit=1024)
    endpoint = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    store = make_s3(seaweedfs, bucket="b", endpoint=endpoint, read_timeout=0.3, max_attempts=1)
    with pytest.raises(StoreTimeoutError):
        await store.put_bytes("k", bytes(16 * 2**20), content_type="a/b")  # as large as one request may be
    done.set()
    listener.close()
    await listener.wait_closed()


async def test_a_host_that_refuses_or_is_unknown_is_unavailable(seaweedfs: S3Server, make_s3: MakeS3) -> None:
    for endpoint in ("http://127.0.0.1:1", "http://no-such-host.invalid"):
        store = make_s3(seaweedfs, bucket="b", endpoint=endpoint, max_attempts=1)
        with pytest.raises(StoreUnavailableError, match="no connection could be made") as caught:
            await store.get_string("k")
        assert caught.value.__cause__ is not None


async def test_a_write_for_which_no_connection_is_made_was_not_done(
    seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint="http://127.0.0.1:1", max_attempts=2)
    with pytest.raises(StoreUnavailableError) as caught:
        await store.put("k", "v")
    assert caught.value.undetermined is False


async def test_a_host_that_refuses_is_named_with_its_reason_and_without_talk_of_tls(
    seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint="http://127.0.0.1:1", max_attempts=1)
    with pytest.raises(StoreUnavailableError) as caught:
        await store.get_string("k")
    assert caught.value.reason == "no connection could be made, bucket 'b': 127.0.0.1:1: Connection refused"
