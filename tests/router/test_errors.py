"""Errors of stores as responses: the right status, a short code, and nothing else."""

from __future__ import annotations

import inspect
import logging
import math
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException

import starfish_server.errors
from router.application import CONFIG, client_of, make_app, pushed, resolve
from starfish_server import (
    AbstractObjectStore,
    BucketNotFoundError,
    CircuitOpenError,
    ContextRequiredError,
    DeleteManyError,
    InvalidKeyError,
    KeyConflictError,
    MemoryObjectStore,
    ObjectNotFoundError,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StackError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreDecodeError,
    StoreError,
    StoreIntegrityError,
    StoreNotSupportedError,
    StoreOverloadedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers import ReadOnly
from starfish_server.router import SyncRouterOptions, create_sync_router
from starfish_server.testing import Fault, FaultyStore

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRET = "s3cret-internal-bucket"

STATUSES: dict[type[Exception], int] = {
    InvalidKeyError: 400,
    KeyConflictError: 409,
    StoreDecodeError: 500,
    StoreAccessDeniedError: 403,
    BucketNotFoundError: 500,
    ObjectNotFoundError: 500,
    StoreIntegrityError: 500,
    ObjectTooLargeError: 413,
    VersionConflictError: 409,
    StoreUnavailableError: 503,
    StoreTimeoutError: 504,
    StoreOverloadedError: 503,
    CircuitOpenError: 503,
    ContextRequiredError: 500,
    StoreClosedError: 503,
    StoreNotSupportedError: 500,
    ReadOnlyStoreError: 403,
    StackError: 500,
    StoreError: 500,
    TimeoutError: 504,
    ConnectionResetError: 503,
    RuntimeError: 500,
    ZeroDivisionError: 500,
    RecursionError: 500,
}


def raising(error: Exception, *operations: str) -> AbstractObjectStore:
    script: Mapping[str, list[Fault]] = {name: [Fault(lambda _: error)] for name in operations}
    return FaultyStore(MemoryObjectStore(data={}), script)


@pytest.mark.parametrize("kind", STATUSES, ids=lambda kind: kind.__name__)
async def test_every_store_error_has_its_status(kind: type[Exception]) -> None:
    store = raising(kind(SECRET), "get_string", "write", "list_keys")
    async with client_of(make_app(store)) as client:
        read = await client.get("/pull/notes/a")
        written = await client.post("/push/pictures/p", content=b"x", headers={"Content-Type": "image/png"})
        listed = await client.get("/list/notes")
    for response in (read, written, listed):
        assert response.status_code == STATUSES[kind]
        assert list(response.json()) == ["error"]
        assert SECRET not in response.text + str(response.headers)
        assert ("retry-after" in response.headers) == (response.status_code == 503)


def test_every_error_of_the_library_is_in_the_table() -> None:
    classes = {
        value
        for _, value in inspect.getmembers(starfish_server.errors, inspect.isclass)
        if issubclass(value, StoreError)
    }
    assert classes - set(STATUSES) == {DeleteManyError}, "which no route can meet: none deletes"


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [(None, "1"), (0.0, "1"), (0.2, "1"), (7.5, "8"), (1e9, "86400"), (math.inf, "86400")],
)
async def test_retry_after_is_that_of_the_store_in_whole_seconds(
    retry_after: float | None, expected: str
) -> None:
    store = raising(StoreOverloadedError("busy", retry_after=retry_after), "get_string")
    async with client_of(make_app(store)) as client:
        response = await client.get("/pull/notes/a")
    assert (response.status_code, response.headers["retry-after"]) == (503, expected)


@pytest.mark.parametrize("operation", ["read", "write"])
async def test_a_push_whose_store_fails_gets_the_status_of_the_failure(operation: str) -> None:
    async with client_of(make_app(raising(StoreTimeoutError(SECRET), operation))) as client:
        response = await client.post("/push/notes/a", json=pushed({"n": 1}))
    assert (response.status_code, response.json()) == (504, {"error": "store_timeout"})


async def test_a_read_only_store_refuses_pushes() -> None:
    async with client_of(make_app(ReadOnly(MemoryObjectStore(data={})))) as client:
        response = await client.post("/push/notes/a", json=pushed({"n": 1}))
    assert (response.status_code, response.json()) == (403, {"error": "read_only"})


async def test_the_log_has_the_details_that_the_response_omits(caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(make_app(raising(RuntimeError(SECRET), "get_string"))) as client:
        response = await client.get("/pull/notes/a")
    assert response.json() == {"error": "internal_error"}
    [record] = [record for record in caplog.records if record.name.startswith("starfish_server")]
    assert record.getMessage() == "GET '/v1/pull/notes/a' answered with 500 internal_error: RuntimeError"
    assert SECRET in caplog.text


async def test_an_http_exception_of_a_dependency_of_the_application_stays_its_own() -> None:
    def refuse() -> None:
        raise HTTPException(418, "a teapot")

    app = FastAPI()
    options = SyncRouterOptions(store=MemoryObjectStore(data={}), config=CONFIG, role_resolver=resolve)
    app.include_router(create_sync_router(options), prefix="/v1", dependencies=[Depends(refuse)])
    async with client_of(app) as client:
        response = await client.get("/pull/notes/a")
    assert (response.status_code, response.json()) == (418, {"detail": "a teapot"})


async def log_of(
    caplog: pytest.LogCaptureFixture, method: str, path: str, **request: Any
) -> logging.LogRecord:
    """Return the one record that a request leaves in the log of the router."""
    caplog.set_level(logging.INFO, "starfish_server.router")
    async with client_of(make_app(raising(StoreAccessDeniedError("line\nbreak"), "open"))) as client:
        await client.request(method, path, **request)
    [record] = [record for record in caplog.records if record.name.startswith("starfish_server.router")]
    return record


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "request_", "expected"),
    [
        ("PUT", "/pull/notes/a", {}, "405 method_not_allowed: allowed: GET, HEAD"),
        ("GET", "/pull/notes/a?checkpoint=x", {}, "400 invalid_checkpoint: Input should be a valid integer"),
        (
            "GET",
            "/pull/notes/a?limit=2",
            {},
            "400 unsupported_limit: this server does not do what it asks for",
        ),
        ("GET", "/pull/users/alice/profile", {}, "401 unauthorized: the role resolver knows no such caller"),
        (
            "GET",
            "/pull/users/alice/profile",
            {"headers": {"Authorization": "bob"}},
            "403 forbidden: bob has none of the roles of this collection",
        ),
        ("POST", "/push/notes/a", {"headers": JSON, "content": b"{"}, "400 invalid_json: Expecting property"),
        (
            "POST",
            "/push/notes/a",
            {"json": {"data": {}, "base\nhash": SECRET}},
            "400 invalid_body: 'baseHash': Field required",
        ),
        (
            "POST",
            "/push/notes/a",
            {"json": pushed({}, None, **{"base\n\u202ehash": SECRET})},
            "400 invalid_body: 'base\\n\\u202ehash': Extra inputs are not permitted",
        ),
        (
            "POST",
            "/push/notes/a",
            {"json": pushed({}, "0" * 64)},
            "409 hash_mismatch: baseHash is not the hash of the stored document",
        ),
        (
            "POST",
            "/push/pictures/p",
            {"headers": {"Content-Type": "text/\t\x1b[1mhtml"}, "content": b"x"},
            "415 unsupported_media_type: Content-Type ['text/\\t\\x1b[1mhtml']",
        ),
        ("POST", "/push/pictures/p", {"content": b"x"}, "415 unsupported_media_type: Content-Type []"),
        (
            "POST",
            "/push/notes/a",
            {"headers": JSON, "content": b" " * 10_001},
            "413 too_large: the limit is 10000 bytes",
        ),
        ("GET", "/pull/pictures/p", {}, "403 store_access_denied: 'StoreAccessDeniedError: line\\nbreak'"),
    ],
)
async def test_a_refusal_is_one_line_with_its_reason_and_no_secret(
    caplog: pytest.LogCaptureFixture, method: str, path: str, request_: dict[str, Any], expected: str
) -> None:
    record = await log_of(caplog, method, path, **request_)
    message = record.getMessage()
    shown = path.partition("?")[0]
    assert message.startswith(f"{method} '/v1{shown}' answered with {expected}")
    assert message.isprintable()
    assert SECRET not in message
    assert (record.levelname, record.exc_info) == ("INFO", None)


async def test_a_refusal_is_logged_with_fields(caplog: pytest.LogCaptureFixture) -> None:
    record = await log_of(caplog, "GET", "/pull/notes/no%0Athing%1b%E2%80%AE")
    fields = {name: getattr(record, name) for name in ("method", "path", "status", "error", "reason")}
    assert fields == {
        "method": "GET",
        "path": "'/v1/pull/notes/no\\nthing\\x1b\\u202e'",
        "status": 400,
        "error": "invalid_path",
        "reason": "a field of the path is missing, unknown or not a key segment",
    }
