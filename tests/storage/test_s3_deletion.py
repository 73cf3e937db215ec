"""`delete` and `delete_many` of the S3 leaf: batches, errors of single keys, and what they cost."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from faulty_proxy import FaultyProxy, lost_reply, passed_on, reply, reset, s3_error
from starfish_server.checks import check_key
from starfish_server.errors import (
    BucketNotFoundError,
    DeleteManyError,
    InvalidKeyError,
    StoreAccessDeniedError,
    StoreError,
    StoreOverloadedError,
    StoreUnavailableError,
)
from starfish_server.storage.s3 import S3ObjectStore, deletion

if TYPE_CHECKING:
    from servers import S3Server
    from starfish_server.storage.s3.transport import Request

MakeS3 = Callable[..., S3ObjectStore]

DONE = "<DeleteResult/>"


def not_deleted(**codes: str) -> str:
    errors = "".join(f"<Error><Key>{key}</Key><Code>{code}</Code></Error>" for key, code in codes.items())
    return f'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{errors}</DeleteResult>'


def keys_in(body: bytes) -> list[str]:
    return [element.text or "" for element in ET.fromstring(body).iter() if element.tag.endswith("}Key")]


def failures_of(error: DeleteManyError) -> list[tuple[str, StoreError]]:
    return [(key, failure) for key, failure in error.failures.items() if isinstance(failure, StoreError)]


@pytest.fixture
def store(proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, no_waiting: None) -> S3ObjectStore:
    return make_s3(seaweedfs, endpoint=proxy.endpoint)


async def test_any_number_of_keys_goes_out_in_batches_of_a_thousand(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    """SeaweedFS refuses a batch that is longer."""
    kept = [f"kept/{n}" for n in range(3)]
    gone = [f"gone/{n}" for n in range(2500)]
    await asyncio.gather(*(store.put(key, "") for key in kept + gone[::50]))
    proxy.seen.clear()
    await store.delete_many(gone + gone[:100])
    assert sorted(len(keys_in(seen.body)) for seen in proxy.seen) == [500, 1000, 1000]
    assert await store.list_keys("") == kept


async def test_no_keys_are_no_request(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    await store.delete_many([])
    assert proxy.seen == []


async def test_one_bad_key_refuses_all_before_any_request(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    with pytest.raises(InvalidKeyError):
        await store.delete_many([*(f"k{n}" for n in range(2500)), "../x"])
    with pytest.raises(TypeError):
        await store.delete_many("key")  # type: ignore[arg-type]  # what the test is about
    assert proxy.seen == []


async def test_errors_of_single_keys_are_raised_for_those_keys(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    proxy.next_faults.append(reply(200, not_deleted(c="AccessDenied", a="NoSuchBucket", b="NoSuchKey")))
    with pytest.raises(DeleteManyError) as caught:
        await store.delete_many(["a", "b", "c", "d"])
    failures = caught.value.failures
    assert {key: type(error) for key, error in failures.items()} == {
        "a": BucketNotFoundError,
        "c": StoreAccessDeniedError,
    }
    assert list(failures) == ["a", "c"]
    assert str(failures["c"]).startswith("delete_many 'c': AccessDenied")


async def test_keys_with_transient_failures_are_retried_alone(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    proxy.next_faults += [
        reply(200, not_deleted(a="AccessDenied", b="InternalError", c="SlowDown")),
        reply(200, not_deleted(c="SlowDown")),
        reply(200, not_deleted(c="SlowDown")),
    ]
    with pytest.raises(DeleteManyError) as caught:
        await store.delete_many(["a", "b", "c", "d"])
    assert [keys_in(seen.body) for seen in proxy.seen] == [["a", "b", "c", "d"], ["b", "c"], ["c"]]
    assert {key: type(error) for key, error in caught.value.failures.items()} == {
        "a": StoreAccessDeniedError,
        "c": StoreOverloadedError,
    }


async def test_a_retry_that_fails_permanently_is_no_failure_of_keys_that_are_gone(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    proxy.next_faults += [
        reply(200, not_deleted(a="NoSuchBucket", b="SlowDown")),
        s3_error(403, "ExpiredToken"),
    ]
    with pytest.raises(DeleteManyError) as caught:
        await store.delete_many(["a", "b", "c", "d"])
    assert {key: type(error) for key, error in caught.value.failures.items()} == {
        "a": BucketNotFoundError,
        "b": StoreAccessDeniedError,
    }


@pytest.mark.parametrize("max_attempts", [1, 2])
async def test_a_key_refused_after_a_lost_reply_may_have_been_deleted(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, max_attempts: int
) -> None:
    """A reused connection that broke costs no attempt, a new one does."""
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=max_attempts)
    proxy.next_faults += [passed_on] * (max_attempts == 1) + [lost_reply]
    proxy.next_faults.append(reply(200, not_deleted(a="AccessDenied")))
    if max_attempts == 1:
        await store.put("a", "v")
    with pytest.raises(DeleteManyError) as caught:
        await store.delete_many(["a", "b"])
    assert {key: error.undetermined for key, error in failures_of(caught.value)} == {"a": True}


async def test_a_key_refused_by_its_first_reply_was_not_deleted(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    proxy.next_faults += [reply(200, not_deleted(a="AccessDenied", b="InternalError"))]
    proxy.next_faults += [reply(200, not_deleted(b="AccessDenied"))]
    with pytest.raises(DeleteManyError) as caught:
        await store.delete_many(["a", "b"])
    undetermined = {key: bool(error.undetermined) for key, error in failures_of(caught.value)}
    assert undetermined == {"a": False, "b": True}


async def test_a_key_that_was_not_given_is_not_deleted(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    """Whatever the reply names as worth another try; that key is an error all the same."""
    proxy.next_faults.append(reply(200, not_deleted(other="InternalError", a="InternalError")))
    proxy.seen.clear()
    with pytest.raises(DeleteManyError) as caught:
        await store.delete_many(["a"])
    assert [keys_in(seen.body) for seen in proxy.seen] == [["a"], ["a"]]
    assert {key: type(error) for key, error in caught.value.failures.items()} == {
        "other": StoreUnavailableError
    }


async def test_a_batch_that_fails_does_not_stop_the_others(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=1)
    proxy.next_faults.append(reset)
    proxy.fault = reply(200, DONE)
    with pytest.raises(DeleteManyError) as caught:
        await store.delete_many([f"k{n}" for n in range(3000)])
    assert len(caught.value.failures) == 1000
    assert {type(error) for error in caught.value.failures.values()} == {StoreUnavailableError}
    assert len(proxy.seen) == 3


@pytest.mark.parametrize("body", ["", "<html></html>", "<ListBucketResult/>"])
async def test_a_200_that_is_no_result_is_an_error_for_every_key(
    proxy: FaultyProxy, store: S3ObjectStore, body: str
) -> None:
    proxy.fault = reply(200, body)
    with pytest.raises(DeleteManyError) as caught:
        await store.delete_many(["a", "b"])
    assert [type(error) for error in caught.value.failures.values()] == [StoreError] * 2


async def test_a_service_without_delete_objects_is_asked_for_one_key_at_a_time(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    await store.put("b", "v")
    proxy.seen.clear()
    proxy.next_faults.append(s3_error(501, "NotImplemented"))
    await store.delete_many(["a", "b", "c"])
    assert [seen.method for seen in proxy.seen] == ["POST", "DELETE", "DELETE", "DELETE"]
    assert await store.list_keys("") == []


async def test_a_key_refused_by_itself_after_a_lost_batch_may_have_been_deleted(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    proxy.next_faults += [lost_reply, s3_error(501, "NotImplemented"), s3_error(403, "AccessDenied")]
    with pytest.raises(DeleteManyError) as lost:
        await store.delete_many(["a"])
    proxy.next_faults += [s3_error(501, "NotImplemented"), s3_error(403, "AccessDenied")]
    with pytest.raises(DeleteManyError) as refused:
        await store.delete_many(["a"])
    caught = [failures_of(lost.value)[0][1], failures_of(refused.value)[0][1]]
    assert [type(error) for error in caught] == [StoreAccessDeniedError] * 2
    assert [error.undetermined for error in caught] == [True, False]


async def test_a_batch_with_keys_that_xml_cannot_hold_is_deleted_key_by_key(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, portable_keys=False)
    keys = ["\ufffe", "<&>\"'", "a\uffffb", "plain"]
    for key in keys:
        await store.put(key, "v")
    proxy.seen.clear()
    await store.delete_many(keys)
    assert sorted(seen.method for seen in proxy.seen) == ["DELETE"] * 4
    assert await store.list_keys("") == []


async def test_cancelling_stops_every_batch(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    release, begun = asyncio.Event(), asyncio.Event()

    async def held(*_: object) -> object:
        begun.set()
        await release.wait()
        raise AssertionError

    proxy.fault = held  # type: ignore[assignment]  # it never answers
    before = asyncio.all_tasks()
    deleting = asyncio.create_task(store.delete_many([f"k{n}" for n in range(20_000)]))
    await begun.wait()
    deleting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deleting
    arrived = len(proxy.seen)
    assert arrived <= 16
    proxy.fault = None
    assert await store.get_string("k") is None
    assert not {task for task in asyncio.all_tasks() - before if "_s3_deletion" in repr(task)}


async def test_a_hundred_thousand_keys_cost_little_memory_and_are_handled_a_few_batches_a_turn(
    seaweedfs: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is a stub in this loop that reads a batch and answers: its memory is part of the figure."""
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(DONE)}\r\n\r\n{DONE}".encode()
    batches = 0
    serving = list[asyncio.Task[None] | None]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal batches
        serving.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError):
            while header := await reader.readuntil(b"\r\n\r\n"):
                length = int(header.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                batches += 1
                writer.write(answer)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    store = make_s3(seaweedfs, bucket="b", endpoint=f"http://127.0.0.1:{port}")
    keys = [f"{'folder/' * 30}{number:08}" for number in range(100_000)]
    longest_turn = await _keys_handled_in_the_longest_turn(store, keys, monkeypatch)
    tracemalloc.start()
    try:
        await store.delete_many(keys)
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    await store.close()
    listener.close()
    await asyncio.gather(*(task for task in serving if task))  # or what serves would be left open
    await listener.wait_closed()
    assert batches == 200
    assert longest_turn <= 16_000  # as many as are in flight
    assert memory < 20 * 2**20


async def _keys_handled_in_the_longest_turn(
    store: S3ObjectStore, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> int:
    """How many keys are checked or written, or else hashed, before the loop turns to other tasks."""
    handled = hashed = longest = 0

    class Key(str):
        __slots__ = ()

        def __hash__(self) -> int:
            nonlocal hashed
            hashed += 1
            return super().__hash__()

    def check_counted(key: str, operation: str) -> None:
        nonlocal handled
        handled += 1
        check_key(key, operation)

    def request_counted(batch: list[str]) -> Request:
        nonlocal handled
        handled += len(batch)
        return make_request(batch)

    async def watch() -> None:
        nonlocal handled, hashed, longest
        while True:
            await asyncio.sleep(0)
            longest = max(longest, handled, hashed)
            handled = hashed = 0

    make_request = deletion._delete_objects
    with monkeypatch.context() as patched:
        patched.setattr(store, "_check_key", check_counted)
        patched.setattr(deletion, "_delete_objects", request_counted)
        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        await store.delete_many([Key(key) for key in keys])
        watching.cancel()
    return longest
