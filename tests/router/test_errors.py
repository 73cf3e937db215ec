"""Errors of stores as answers: the right status, a short code, and nothing else."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import pytest

import starfish_server.errors
from router.application import client_of, make_app, pushed
from starfish_server import (
    AbstractObjectStore,
    BucketNotFoundError,
    ContextRequiredError,
    DeleteManyError,
    InvalidKeyError,
    KeyConflictError,
    MemoryObjectStore,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StackError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreDecodeError,
    StoreError,
    StoreNotSupportedError,
    StoreOverloadedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers import ReadOnly
from starfish_server.testing import Fault, FaultyStore

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRET = "s3cret-internal-bucket"

# For a pull and for a push of a blob: writes may also be refused in ways that reads are not.
ANSWERS: dict[type[Exception], tuple[int, int]] = {
    InvalidKeyError: (400, 400),
    KeyConflictError: (500, 409),
    StoreDecodeError: (500, 500),
    StoreAccessDeniedError: (403, 403),
    BucketNotFoundError: (500, 500),
    ObjectTooLargeError: (500, 413),
    VersionConflictError: (500, 409),
    StoreUnavailableError: (503, 503),
    StoreTimeoutError: (504, 504),
    StoreOverloadedError: (503, 503),
    ContextRequiredError: (500, 500),
    StoreClosedError: (503, 503),
    StoreNotSupportedError: (500, 500),
    ReadOnlyStoreError: (403, 403),
    StackError: (500, 500),
    StoreError: (500, 500),
    TimeoutError: (504, 504),
    ConnectionResetError: (503, 503),
    RuntimeError: (500, 500),
    ZeroDivisionError: (500, 500),
    RecursionError: (500, 500),
}


def raising(error: Exception, *operations: str) -> AbstractObjectStore:
    script: Mapping[str, list[Fault]] = {name: [Fault(lambda _: error)] for name in operations}
    return FaultyStore(MemoryObjectStore(data={}), script)


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
async def test_every_error_has_its_answer(kind: type[Exception]) -> None:
    store = raising(kind(SECRET), "get_string", "put_bytes", "list_keys")
    async with client_of(make_app(store)) as client:
        read = await client.get("/pull/notes/a")
        written = await client.post("/push/pictures/p", content=b"x", headers={"Content-Type": "image/png"})
        listed = await client.get("/list/notes")
    assert (read.status_code, written.status_code) == ANSWERS[kind]
    assert listed.status_code == read.status_code
    for response in (read, written, listed):
        assert list(response.json()) == ["error"]
        assert SECRET not in response.text + str(response.headers)
        assert ("retry-after" in response.headers) == (response.status_code == 503)


def test_every_error_of_the_library_is_in_the_table() -> None:
    classes = {
        value
        for _, value in inspect.getmembers(starfish_server.errors, inspect.isclass)
        if issubclass(value, StoreError)
    }
    assert classes - set(ANSWERS) == {DeleteManyError}, "which no route can meet: none deletes"


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        *[(None, "1"), (0.2, "1"), (7.5, "8"), (1e9, "86400")],
        *[(0.0, "1"), (-5.0, "1"), (math.inf, "1"), (math.nan, "1"), ("soon", "1")],
    ],
)
async def test_the_time_to_wait_is_the_stores_if_it_makes_sense(retry_after: Any, expected: str) -> None:
    store = raising(StoreOverloadedError("busy", retry_after=retry_after), "get_string")
    async with client_of(make_app(store)) as client:
        response = await client.get("/pull/notes/a")
    assert (response.status_code, response.headers["retry-after"]) == (503, expected)


@pytest.mark.parametrize("operation", ["get_versioned", "put_if"])
async def test_a_push_that_fails_says_so(operation: str) -> None:
    async with client_of(make_app(raising(StoreTimeoutError(SECRET), operation))) as client:
        response = await client.post("/push/notes/a", json=pushed({"n": 1}))
    assert (response.status_code, response.json()) == (504, {"error": "store_timeout"})


async def test_a_read_only_store_refuses_pushes() -> None:
    async with client_of(make_app(ReadOnly(MemoryObjectStore(data={})))) as client:
        response = await client.post("/push/notes/a", json=pushed({"n": 1}))
    assert (response.status_code, response.json()) == (403, {"error": "read_only"})


async def test_the_log_has_what_the_answer_keeps_back(caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(make_app(raising(RuntimeError(SECRET), "get_string"))) as client:
        response = await client.get("/pull/notes/a")
    assert response.json() == {"error": "internal_error"}
    [record] = [record for record in caplog.records if record.name.startswith("starfish_server")]
    assert record.getMessage() == "GET '/v1/pull/notes/a' answered with 500"
    assert SECRET in caplog.text


async def test_refusals_of_the_caller_are_not_logged_as_failures(caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(make_app(MemoryObjectStore(data={}))) as client:
        await client.get("/pull/notes/..%2f")
        await client.get("/pull/users/alice/profile")
    assert [record for record in caplog.records if record.name.startswith("starfish_server")] == []
