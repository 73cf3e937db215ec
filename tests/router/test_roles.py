"""Roles, and resolvers that fail, hang or return the wrong type."""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import HTTPException, Request

from router.application import as_caller, client_of, make_app, one_collection, push, pushed, resolve
from starfish_server import FilesystemObjectStore, FilesystemStorageOptions, StoreUnavailableError
from starfish_server.router import AuthResult

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from starfish_server.testing import RecordingStore

UNAUTHORIZED = (401, {"error": "unauthorized"})
FORBIDDEN = (403, {"error": "forbidden"})
UNAVAILABLE = (503, {"error": "resolver_unavailable"})
MEMBERS = one_collection(readRoles=["member", "reader"], writeRoles=["member"])


async def answer_of(resolver: Any, store: RecordingStore, **options: Any) -> tuple[int, object]:
    """Return the status and body of a pull for members with this resolver."""
    app = make_app(store, MEMBERS, role_resolver=resolver, **options)
    async with client_of(app) as client:
        response = await client.get("/pull/notes/a")
    return response.status_code, response.json() if response.status_code != 200 else None


async def test_a_public_route_does_not_ask_the_resolver(store: RecordingStore) -> None:
    def unexpected(request: Request) -> None:
        raise AssertionError("asked")

    async with client_of(make_app(store, role_resolver=unexpected)) as client:
        assert (await client.get("/pull/notes/a")).status_code == 200


@pytest.mark.parametrize("action", ["pull", "push"])
async def test_an_unknown_caller_is_unauthorized(
    client: httpx.AsyncClient, store: RecordingStore, action: str
) -> None:
    call = client.get if action == "pull" else client.post
    response = await call(f"/{action}/users/alice/profile")
    assert (response.status_code, response.json()) == UNAUTHORIZED
    assert response.headers["www-authenticate"] == "Bearer"
    assert store.calls == []


@pytest.mark.parametrize("caller", ["bob", "bob self", "bob public", "Alice", "alic", "bob member"])
async def test_a_document_of_another_caller_is_forbidden(
    client: httpx.AsyncClient, store: RecordingStore, caller: str
) -> None:
    for response in (
        await client.get("/pull/users/alice/profile", headers=as_caller(caller)),
        await client.get("/list/users/alice/diary", headers=as_caller(caller)),
        await client.post("/push/users/alice/profile", json=pushed({}), headers=as_caller(caller)),
    ):
        assert (response.status_code, response.json()) == FORBIDDEN
    assert store.calls == []


async def test_a_role_may_read_but_not_write(client: httpx.AsyncClient) -> None:
    path, admin = "users/alice/profile", as_caller("bob admin")
    assert (await client.get(f"/pull/{path}", headers=admin)).status_code == 200
    assert (await client.post(f"/push/{path}", json=pushed({}), headers=admin)).status_code == 403


async def test_no_caller_is_self_on_a_path_without_identity(store: RecordingStore) -> None:
    app = make_app(store, one_collection(storagePath="notes/{identity}", readRoles=["self"]))
    async with client_of(app) as client:
        assert (await client.get("/list/notes", headers=as_caller("alice"))).status_code == 403


async def test_a_collection_without_roles_admits_no_caller(store: RecordingStore) -> None:
    async with client_of(make_app(store, one_collection(readRoles=[]))) as client:
        assert (await client.get("/pull/notes/a", headers=as_caller("alice admin"))).status_code == 403


def sync_resolver(request: Request) -> AuthResult:
    assert threading.current_thread() is not threading.main_thread()
    return AuthResult("alice", ["reader"])


class CallableResolver:
    async def __call__(self, request: Request) -> AuthResult:
        return AuthResult("alice", {"member": 1})


async def with_default(request: Request, roles: list[str]) -> AuthResult:
    return AuthResult("alice", roles)


@pytest.mark.parametrize(
    "resolver",
    [
        sync_resolver,
        CallableResolver(),
        functools.partial(with_default, roles=["reader"]),
        lambda request: with_default(request, ["reader"]),
    ],
    ids=["function", "object", "partial", "lambda"],
)
async def test_any_callable_resolves(store: RecordingStore, resolver: Any) -> None:
    assert await answer_of(resolver, store) == (200, None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("token of alice expired"), UNAUTHORIZED),
        (PermissionError("no"), UNAUTHORIZED),
        (HTTPException(401, "secret detail"), UNAUTHORIZED),
        (HTTPException(403, "secret detail"), FORBIDDEN),
        (HTTPException(418), UNAUTHORIZED),
        (TimeoutError(), UNAVAILABLE),
        (ConnectionRefusedError("10.0.0.7"), UNAVAILABLE),
        (socket.gaierror(-3, "name resolution failed"), UNAVAILABLE),
        (OSError(errno.EMFILE, "too many open files"), UNAVAILABLE),
        (MemoryError(), UNAVAILABLE),
        (FileNotFoundError("tokens/alice"), UNAUTHORIZED),
        (StoreUnavailableError("bucket"), UNAVAILABLE),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_resolver_that_raises(store: RecordingStore, error: Exception, expected: object) -> None:
    def resolver(request: Request) -> None:
        raise error

    assert await answer_of(resolver, store) == expected
    assert store.calls == []


async def test_a_plain_resolver_sees_the_context_variables_of_the_request(store: RecordingStore) -> None:
    caller = ContextVar("caller", default="nobody")
    caller.set("alice")
    assert await answer_of(lambda request: AuthResult(caller.get(), ["member"]), store) == (200, None)


async def hanging(request: Request) -> None:
    await asyncio.Event().wait()


def test_a_request_does_not_wait_for_a_thread_that_hangs(store: RecordingStore) -> None:
    released = threading.Event()
    try:
        # In a loop of its own, that waits for its own threads before it ends.
        with asyncio.Runner() as runner:
            answer = runner.run(answer_of(lambda request: released.wait(), store, role_resolver_timeout=0.05))
        assert answer == UNAVAILABLE
    finally:
        released.set()


async def test_public_routes_work_while_every_resolver_thread_hangs(tmp_path: Path) -> None:
    released = threading.Event()
    store = FilesystemObjectStore(FilesystemStorageOptions(base_dir=tmp_path))
    app = make_app(store, role_resolver=lambda request: released.wait(), role_resolver_timeout=0.05)
    try:
        async with client_of(app) as client:
            private = await asyncio.gather(*(client.get("/pull/users/alice/profile") for _ in range(40)))
            assert {response.status_code for response in private} == {503}
            await push(client, "notes/a", {"n": 1})
    finally:
        released.set()


async def test_a_resolver_that_times_out_is_unavailable(store: RecordingStore) -> None:
    assert await answer_of(hanging, store, role_resolver_timeout=0.05) == UNAVAILABLE


@pytest.mark.parametrize("result", ["alice", {"identity": "alice"}, True])
async def test_a_resolver_that_returns_another_type_is_a_server_error(
    store: RecordingStore, result: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert await answer_of(lambda request: result, store) == (500, {"error": "internal_error"})
    assert f"role_resolver returned {type(result).__name__}, not AuthResult or None" in caplog.text


@pytest.mark.parametrize("identity", ["", "a/b", "..", "a b", "a\n", "ü", "x" * 256, None])
def test_an_identity_is_one_key_segment(identity: Any) -> None:
    with pytest.raises(ValueError, match="identity must be one key segment"):
        AuthResult(identity, [])


def test_roles_are_not_a_single_str() -> None:
    with pytest.raises(TypeError, match="roles must be several"):
        AuthResult("alice", "admin")


async def test_the_challenge_can_be_changed(store: RecordingStore) -> None:
    app = make_app(store, MEMBERS, role_resolver=resolve, challenge='Basic realm="notes"')
    async with client_of(app) as client:
        response = await client.get("/pull/notes/a")
    assert response.headers["www-authenticate"] == 'Basic realm="notes"'


async def test_a_caller_is_not_unknown_because_no_thread_could_be_started(
    store: RecordingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert await answer_of(lambda request: AuthResult("alice", ["member"]), store) == UNAVAILABLE
