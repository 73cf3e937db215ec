"""`ObstoreObjectStore` beyond the contract: its errors, streams, uploads, conditions and making."""

from __future__ import annotations

import asyncio
import gc
import pickle
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
import pytest
from obstore import exceptions
from obstore.store import GCSStore, HTTPStore, LocalStore, MemoryStore, S3Store

from bare_server import read_request, server
from contract.leaves import obstore_s3
from starfish_server import (
    BucketNotFoundError,
    DeleteManyError,
    InvalidKeyError,
    KeyConflictError,
    ObjectNotFoundError,
    StackError,
    StoreAccessDeniedError,
    StoreError,
    StoreNotSupportedError,
    StoreOverloadedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
    load_stack,
    open_store,
)
from starfish_server.context import retries_outside
from starfish_server.errors import is_undetermined
from starfish_server.storage.obstore import ObstoreObjectStore
from starfish_server.storage.obstore.errors import BY_TYPE, store_error

if TYPE_CHECKING:
    import socket
    from contextlib import AbstractContextManager
    from pathlib import Path

    from servers import AzureServer, S3Server

PART = 9 * 2**20


def test_every_error_of_obstore_is_mapped() -> None:
    named = [value for value in vars(exceptions).values() if isinstance(value, type)]
    assert len(named) > 10
    # Never raised any more: FileNotFoundError is.
    assert set(named) - set(BY_TYPE) == {exceptions.NotFoundError}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Server returned non-2xx status code: 503 Service Unavailable: ", StoreOverloadedError),
        ("Server returned non-2xx status code: 429 Too Many Requests: ", StoreOverloadedError),
        ("Server returned non-2xx status code: 500 Internal Server Error: ", StoreUnavailableError),
        (
            "Server returned non-2xx status code: 404 Not Found: <Code>NoSuchBucket</Code>",
            BucketNotFoundError,
        ),
        ("Server returned non-2xx status code: 400 Bad Request: <Code>InvalidArgument</Code>", StoreError),
        ("HTTP error\n\nDebug source:\nHttpError { kind: Connect }", StoreUnavailableError),
        ("HTTP error\n\nDebug source:\nHttpError { kind: Timeout }", StoreTimeoutError),
        ("HTTP error\n\nDebug source:\nConnect: invalid peer certificate", StoreError),
        ("anything else", StoreError),
    ],
)
def test_failures_without_a_type_are_told_apart(text: str, expected: type[StoreError]) -> None:
    assert type(store_error(exceptions.GenericError(text), "k")) is expected


def test_a_key_that_looks_like_an_error_is_not_one() -> None:
    key = "<Code>NoSuchBucket</Code>"
    error = FileNotFoundError(f"Object at location {key} not found: ")
    assert not isinstance(store_error(error, key), BucketNotFoundError)


async def test_errors_and_repr_hold_no_secret() -> None:
    client = HTTPStore(
        "http://user:secret@127.0.0.1:1/a?sig=secret",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    async with ObstoreObjectStore(client) as store:
        assert "secret" not in repr(store)
        with pytest.raises(StoreUnavailableError) as caught:
            await store.get_string("k")
    error: BaseException | None = caught.value
    seen = 0
    while error is not None:
        assert "secret" not in f"{error} {error!r}"
        error, seen = error.__cause__ or error.__context__, seen + 1
    assert seen == 2  # with its cause


async def test_a_missing_bucket_is_an_error_in_every_operation(seaweedfs: S3Server) -> None:
    async with ObstoreObjectStore(obstore_s3(seaweedfs, bucket="no-such-bucket")) as store:
        for operation in (
            store.get_string("k"),
            store.stat("k"),
            store.open("k"),
            store.put("k", "v"),
            store.write("k", "v", if_version=None),
            store.upload("k", [bytes(PART)]),
            store.list_keys(""),
            store.list_objects("", delimiter="/"),
            store.delete("k"),
        ):
            with pytest.raises(BucketNotFoundError):
                await operation
        with pytest.raises(DeleteManyError):
            await store.delete_many(["k", "l"])


async def test_a_missing_container_is_an_error(azurite: AzureServer) -> None:
    async with ObstoreObjectStore(azurite.store("no-such-container")) as store:
        for operation in (store.get_string("a"), store.put("a", "v"), store.list_keys(""), store.delete("a")):
            with pytest.raises(BucketNotFoundError):
                await operation


async def test_refused_credentials_are_access_denied(seaweedfs: S3Server) -> None:
    async with ObstoreObjectStore(obstore_s3(seaweedfs, secret_access_key="wrong")) as store:
        with pytest.raises(StoreAccessDeniedError):
            await store.get_string("k")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (
            (
                b'HTTP/1.1 200 OK\r\nContent-Length: 9000\r\nETag: "a"\r\n'
                b"Last-Modified: Sat, 28 Nov 2026 01:00:00 GMT\r\n\r\ncut"
            ),
            StoreUnavailableError,
        ),
        (b"", StoreUnavailableError),
        (None, StoreTimeoutError),
    ],
    ids=["a reply cut short", "no reply", "silence"],
)
async def test_a_broken_connection_is_a_transient_failure(
    reply: bytes | None, expected: type[StoreError]
) -> None:
    def answer(connection: socket.socket) -> None:
        read_request(connection)
        if reply is None:
            connection.recv(1)  # until the client gives up
        else:
            connection.sendall(reply)

    with server(answer) as endpoint:
        client = HTTPStore(
            endpoint,
            client_options={"allow_http": True, "timeout": timedelta(seconds=1 if reply is None else 60)},
            retry_config={"max_retries": 0},
        )
        async with ObstoreObjectStore(client) as store:
            with pytest.raises(StoreUnavailableError) as caught:
                await store.get_string("k")
    assert type(caught.value) is expected


async def test_an_unreachable_backend_is_unavailable() -> None:
    client = S3Store(
        "bucket",
        endpoint="http://127.0.0.1:1",
        access_key_id="a",
        secret_access_key="s",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    async with ObstoreObjectStore(client) as store:
        for operation in (store.get_string("k"), store.put("k", "v"), store.list_keys(""), store.delete("k")):
            with pytest.raises(StoreUnavailableError):
                await operation
        with pytest.raises(DeleteManyError) as caught:
            await store.delete_many(["a", "b"])
        assert set(caught.value.failures) == {"a", "b"}
        failures = caught.value.failures.values()
        assert {getattr(failure, "operation", None) for failure in failures} == {"delete_many"}


async def test_obstore_makes_one_attempt_under_a_retry_layer(seaweedfs: S3Server) -> None:
    client = obstore_s3(seaweedfs, endpoint="http://127.0.0.1:1", bucket="b", retry_config=None)
    token = retries_outside.set([None])
    try:
        async with ObstoreObjectStore(client) as store:
            with pytest.raises(StoreUnavailableError) as caught:
                await store.get_string("k")
    finally:
        retries_outside.reset(token)
    assert "after" not in str(caught.value.__cause__)  # obstore says so after retries


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("412 Precondition Failed", VersionConflictError),
        ("403 Forbidden", StoreAccessDeniedError),
        ("404 Not Found", StoreError),
    ],
)
@pytest.mark.parametrize("lost", [True, False])
async def test_a_refusal_of_obstores_second_attempt_says_that_the_first_may_have_written(
    reply: str, expected: type[StoreError], lost: bool
) -> None:
    with refusing(reply, lost=lost) as endpoint:
        async with ObstoreObjectStore(s3_at(endpoint, retries=1)) as store:
            with pytest.raises(expected) as caught:
                await store.put("k", "v")
    assert caught.value.undetermined is lost


def refusing(reply: str, *, lost: bool) -> AbstractContextManager[str]:
    """A server that answers `reply`; if `lost`, it breaks the first connection without an answer."""
    replies = [b""] * lost + [f"HTTP/1.1 {reply}\r\nContent-Length: 0\r\n\r\n".encode()]

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(replies.pop(0))

    return server(answer)


def s3_at(endpoint: str, *, retries: int = 0) -> S3Store:
    return S3Store(
        "bucket",
        endpoint=endpoint,
        access_key_id="a",
        secret_access_key="s",
        client_options={"allow_http": True},
        retry_config={"max_retries": retries},
    )


@pytest.mark.parametrize("lost", [True, False])
async def test_a_source_missing_at_the_second_attempt_says_that_the_first_may_have_copied(lost: bool) -> None:
    with refusing("404 Not Found", lost=lost) as endpoint:
        async with ObstoreObjectStore(s3_at(endpoint, retries=1)) as store:
            with pytest.raises(ObjectNotFoundError) as caught:
                await store.copy("k", "copy")
    assert (caught.value.key, caught.value.undetermined) == ("k", lost)


@pytest.mark.parametrize("end", ["denied", "deleted"])
async def test_a_copy_whose_info_cannot_be_read_says_that_it_was_done(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    async def denied(*_: Any, **__: Any) -> Any:
        raise exceptions.PermissionDeniedError("HEAD is not allowed")

    async def deleted(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    async with ObstoreObjectStore(MemoryStore()) as store:
        await store.put("k", "v")
        with monkeypatch.context() as patch:
            patch.setattr(obstore, "get_async", denied if end == "denied" else deleted)
            with pytest.raises(StoreError) as caught:
                await store.copy("k", "copy")
        assert (await store.get_string("copy"), caught.value.undetermined) == ("v", True)


@pytest.mark.parametrize("done", [True, False])
async def test_a_refused_deletion_says_whether_the_request_for_many_may_have_done_it(done: bool) -> None:
    denied = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    unread = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nwhat"
    first = unread if done else denied
    replies = [first, denied, denied]

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(replies.pop(0))

    with server(answer) as endpoint:
        async with ObstoreObjectStore(s3_at(endpoint)) as store:
            with pytest.raises(DeleteManyError) as caught:
                await store.delete_many(["a", "b"])
    assert [(type(error), bool(is_undetermined(error))) for error in caught.value.failures.values()] == [
        (StoreAccessDeniedError, done)
    ] * 2


async def test_a_backend_that_ignores_conditions_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    put = obstore.put_async

    async def deaf(*args: Any, mode: object = None, **options: Any) -> Any:
        return await put(*args, **options)

    monkeypatch.setattr(obstore, "put_async", deaf)
    monkeypatch.setattr("starfish_server.storage.obstore.conditions.MemoryStore", LocalStore)
    async with ObstoreObjectStore(MemoryStore()) as store:
        for done in (True, False):
            with pytest.raises(StoreNotSupportedError) as caught:
                await store.write("new", "v", if_version=None)
            assert (await store.stat("new") is not None, bool(caught.value.undetermined)) == (done, done)
            await store.delete("new")
        await store.put("k", "theirs")
        with pytest.raises(VersionConflictError):
            await store.write("k", "ours", if_version='"0x"')
        assert await store.get_string("k") == "theirs"


async def test_a_delete_before_the_trial_does_not_turn_conditional_writes_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put, backend = obstore.put_async, MemoryStore()
    writes = 0

    async def deleted(*args: Any, **options: Any) -> Any:
        nonlocal writes
        result = await put(*args, **options)
        writes += 1
        if writes == 1:
            await obstore.delete_async(backend, "k")
        return result

    monkeypatch.setattr(obstore, "put_async", deleted)
    monkeypatch.setattr("starfish_server.storage.obstore.conditions.MemoryStore", LocalStore)
    async with ObstoreObjectStore(backend) as store:
        await store.write("k", "v", if_version=None)
        await store.write("other", "v", if_version=None)


async def test_a_trial_that_fails_does_not_fail_the_write_and_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put, writes = obstore.put_async, 0

    async def fails(*args: Any, **options: Any) -> Any:
        nonlocal writes
        writes += 1
        if writes == 2:
            raise exceptions.PermissionDeniedError("the token has expired")
        return await put(*args, **options)

    monkeypatch.setattr(obstore, "put_async", fails)
    monkeypatch.setattr("starfish_server.storage.obstore.conditions.MemoryStore", LocalStore)
    async with ObstoreObjectStore(MemoryStore()) as store:
        await store.write("k", "v", if_version=None)
        await store.write("other", "v", if_version=None)
    assert writes == 4


async def test_a_local_store_holds_bodies_only(tmp_path: Path) -> None:
    async with ObstoreObjectStore(LocalStore(tmp_path)) as store:
        await store.put_bytes("k", b"v", content_type="image/png")
        assert await store.get_bytes("k") == (b"v", "application/octet-stream")
        assert not store.supports("conditional_write")
        for options in ({"metadata": {"a": "b"}}, {"cache_control": "no-store"}):
            with pytest.raises(StoreNotSupportedError):
                await store.write("k", b"v", **options)
        with pytest.raises(VersionConflictError):
            await store.write("k", b"v", if_version=None)
        with pytest.raises(StoreNotSupportedError):
            await store.write("k", b"v", if_version='"1"')
        with pytest.raises(KeyConflictError):
            await store.put("k/below", "v")


@pytest.mark.parametrize("end", ["written", "failed"])
@pytest.mark.parametrize("operation", ["put", "upload"])
async def test_a_write_to_a_local_store_is_awaited_however_often_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, end: str
) -> None:
    """What obstore has begun there goes on in a thread of its own."""
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reported.append(report))
    begun, go_on = asyncio.Event(), asyncio.Event()
    put_async = obstore.put_async

    async def put_later(*args: Any, **options: Any) -> object:
        begun.set()
        await go_on.wait()
        if end == "failed":
            raise OSError
        return await put_async(*args, **options)

    monkeypatch.setattr(obstore, "put_async", put_later)
    async with ObstoreObjectStore(LocalStore(tmp_path)) as store:
        tasks = asyncio.all_tasks()
        call = store.put("k", "v") if operation == "put" else store.upload("k", [b"v"])
        writing = asyncio.ensure_future(call)
        await begun.wait()
        for _ in range(3):
            writing.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not writing.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert await store.get_string("k") == ("v" if end == "written" else None)
        assert asyncio.all_tasks() == tasks
    del writing, call
    gc.collect()
    assert reported == []


async def test_a_key_that_the_backend_cannot_hold_is_invalid(tmp_path: Path) -> None:
    async with ObstoreObjectStore(LocalStore(tmp_path), portable_keys=False) as store:
        with pytest.raises(InvalidKeyError):
            await store.put("a#1", "v")


async def test_keys_of_any_text_are_kept_apart() -> None:
    keys = ["%2e", "a b", "a%20b", "a?b", "a\\b", "é", "😀"]
    async with ObstoreObjectStore(MemoryStore(), portable_keys=False) as store:
        for key in keys:
            await store.put(key, key)
        assert await store.list_keys("") == sorted(keys)
        assert [await store.get_string(key) for key in keys] == keys


@pytest.mark.parametrize("start_after", ["/", "a/", "a//b", "a/../b", "0", "a~"])
async def test_start_after_may_be_any_text(start_after: str) -> None:
    keys = ["a", "a-b", "a/b", "a/b/c", "a0", "b/c"]
    async with ObstoreObjectStore(MemoryStore()) as store:
        for key in keys:
            await store.put(key, "v")
        for prefix in ("", "a", "a/", "a/b", "b"):
            wanted = [key for key in keys if key.startswith(prefix) and key > start_after]
            assert await store.list_keys(prefix, start_after=start_after) == wanted
            assert await store.list_keys(prefix, start_after=start_after, limit=1) == wanted[:1]


def test_metadata_named_like_a_header_is_refused() -> None:
    store = ObstoreObjectStore(MemoryStore())
    with pytest.raises(ValueError, match="content-type"):
        asyncio.run(store.write("k", b"v", metadata={"Content-Type": "a/b"}))


async def test_urls_are_signed_without_a_content_type(seaweedfs: S3Server) -> None:
    async with ObstoreObjectStore(obstore_s3(seaweedfs)) as store:
        assert "X-Amz-Signature" in await store.signed_url("k", method="PUT")
        with pytest.raises(StoreNotSupportedError):
            await store.signed_url("k", method="PUT", content_type="a/b")


def test_a_store_with_a_prefix_or_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="Namespace"):
        ObstoreObjectStore(S3Store("bucket", prefix="p", region="r"))
    with pytest.raises(ValueError, match="folder"):
        ObstoreObjectStore(LocalStore())
    with pytest.raises(TypeError, match="obstore"):
        ObstoreObjectStore("gs://bucket")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(ObstoreObjectStore(MemoryStore()))


def test_open_store_opens_google_and_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    assert repr(open_store("az://container")) == "ObstoreObjectStore(AzureStore('container'))"
    assert repr(open_store("gs://bucket")) == "ObstoreObjectStore(GCSStore('bucket'))"
    for url in (
        "gs://bucket/prefix",
        "az://container/a/b",
        "gs://bucket?token=secret",
        "gs://u:secret@bucket",
    ):
        with pytest.raises(StackError) as caught:
            open_store(url)
        assert "secret" not in str(caught.value)


async def test_a_stack_file_names_an_obstore_leaf() -> None:
    leaf = {"type": "obstore", "url": "gs://bucket", "options": {"skip_signature": "true"}, "max_retries": 2}
    async with load_stack({"leaf": leaf}) as store:
        assert repr(store) == "ObstoreObjectStore(GCSStore('bucket'))"
    with pytest.raises(StackError) as caught:
        load_stack({"leaf": leaf | {"options": {"no_such_option": "secret"}}})
    assert "secret" not in str(caught.value)


def test_generations_are_the_versions_of_google() -> None:
    store = ObstoreObjectStore(GCSStore("bucket", skip_signature=True))
    for version in ("0", "00", '"etag"', "*"):
        with pytest.raises(VersionConflictError):
            asyncio.run(store.write("k", "v", if_version=version))
