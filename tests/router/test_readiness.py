"""`GET /ready`: what is wrong, at the price of one cheap call a second."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from router.application import CONFIG, client_of, make_app, resolve
from starfish_server import (
    CustomObjectStore,
    MemoryObjectStore,
    StoreAccessDeniedError,
    StoreBuilder,
    StoreTimeoutError,
    StoreUnavailableError,
)
from starfish_server.layers import AccessLog, Authorize, Caching, Fallback, Namespace
from starfish_server.router import SyncRouterOptions, sync_application

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server import AbstractObjectStore, ObjectInfo, StoreContext


class Leaf(MemoryObjectStore):
    """Counts its `stat` operations, and lets them fail or hang."""

    context_dependent = False

    def __init__(self, error: type[Exception] | None = None, *, hangs: bool = False) -> None:
        super().__init__(data={})
        self.error, self.hangs, self.asked = error, hangs, 0

    async def stat(self, key: str, *, context: StoreContext | None = None) -> ObjectInfo | None:
        self.asked += 1
        if self.error is not None:
            raise self.error("secret details")
        if self.hangs:
            await asyncio.Event().wait()
        return await super().stat(key, context=context)


async def ask(store: AbstractObjectStore) -> tuple[int, dict[str, object]]:
    async with client_of(make_app(store)) as client:
        response = await client.get("/ready")
    return response.status_code, response.json()


async def test_a_store_that_answers_is_ready_below_all_that_needs_a_caller() -> None:
    records: list[object] = []
    leaf = Leaf()
    stack = (
        StoreBuilder()
        .layer(AccessLog, sink=records.append)
        .layer(Authorize, allow=lambda operation, keys, context: False)
        .layer(Namespace, "tenants/{namespace}/")
        .layer(Caching)
        .over(leaf)
    )
    assert await ask(stack) == (200, {"ready": True, "checks": {"store": "ok"}})
    assert (records, leaf.asked) == ([], 1)


async def test_a_leaf_of_callbacks_is_asked_with_a_context() -> None:
    def get(key: str, context: StoreContext) -> None:
        assert context.identity is None

    store = CustomObjectStore(on_get=get, on_get_bytes=get)
    assert await ask(store) == (200, {"ready": True, "checks": {"store": "ok"}})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreUnavailableError, "store_unavailable"),
        (StoreAccessDeniedError, "store_access_denied"),
        (StoreTimeoutError, "store_timeout"),
        (RuntimeError, "internal_error"),
    ],
)
async def test_the_code_says_what_is_wrong_and_nothing_else(error: type[Exception], code: str) -> None:
    assert await ask(Leaf(error)) == (503, {"ready": False, "checks": {"store": code}})


async def test_a_fallback_is_ready_while_one_leaf_is_and_says_which_is_not() -> None:
    stack = Fallback(Leaf(StoreUnavailableError), Leaf())
    checks = {"store": "ok", "leaf 1": "store_unavailable", "leaf 2": "ok"}
    assert await ask(stack) == (200, {"ready": True, "checks": checks})


@pytest.mark.parametrize(
    ("prefix", "without_context"),
    [
        ("tenants/", None),
        ("tenants/{namespace}/", None),
        ("tenants/{identity}/", None),
        ("tenants/{namespace}/", "system/"),
        ("tenants/{params.tenant}/", "system/"),
        (lambda context: {"alice": "tenants/alice/"}[context.identity], "system/"),
    ],
)
async def test_a_fallback_of_namespaces_is_ready(
    prefix: str | Callable[[StoreContext], str], without_context: str | None
) -> None:
    parts = [Namespace(Leaf(), prefix, without_context=without_context) for _ in range(2)]
    checks = {"store": "ok", "leaf 1": "ok", "leaf 2": "ok"}
    assert await ask(Fallback(*parts)) == (200, {"ready": True, "checks": checks})


async def test_callbacks_below_a_fallback_of_namespaces_are_asked_with_a_context() -> None:
    def get(key: str, context: StoreContext) -> None:
        assert context.roles == ()

    leaves = [CustomObjectStore(on_get=get, on_get_bytes=get) for _ in range(2)]
    parts = [Namespace(leaf, "tenants/{namespace}/", without_context="system/") for leaf in leaves]
    checks = {"store": "ok", "leaf 1": "ok", "leaf 2": "ok"}
    assert await ask(Fallback(*parts)) == (200, {"ready": True, "checks": checks})


async def test_a_fallback_of_callbacks_is_asked_with_a_context() -> None:
    def get(key: str, context: StoreContext) -> None:
        assert context.identity is None

    parts = [CustomObjectStore(on_get=get, on_get_bytes=get) for _ in range(2)]
    checks = {"store": "ok", "leaf 1": "ok", "leaf 2": "ok"}
    assert await ask(Fallback(*parts)) == (200, {"ready": True, "checks": checks})


async def test_a_backend_that_hangs_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starfish_server.router.probes._SECONDS", 0.01)
    assert await ask(Leaf(hangs=True)) == (503, {"ready": False, "checks": {"store": "store_timeout"}})


class Deaf(Leaf):
    """Ignores a cancellation, as a store must that waits for a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = asyncio.Event()

    async def stat(self, key: str, *, context: StoreContext | None = None) -> ObjectInfo | None:
        self.asked += 1
        while not self.opened.is_set():
            with suppress(asyncio.CancelledError):
                await self.opened.wait()
        return None


async def test_a_backend_that_cannot_be_cancelled_keeps_no_probe_waiting_and_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("starfish_server.router.probes._SECONDS", 0.01)
    monkeypatch.setattr("starfish_server.router.probes._CACHED_SECONDS", 0.0)
    leaf = Deaf()
    async with client_of(make_app(leaf)) as client:
        for _ in range(2):
            responses = await asyncio.gather(*(client.get("/ready") for _ in range(10)))
            assert {response.json()["checks"]["store"] for response in responses} == {"store_timeout"}
        assert leaf.asked == 1
        monkeypatch.setattr("starfish_server.router.probes._SECONDS", 3600.0)
        leaf.opened.set()
        assert (await client.get("/ready")).status_code == 200


async def test_many_probes_make_one_call(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "starfish_server.router")
    monkeypatch.setattr("starfish_server.router.probes._CACHED_SECONDS", 3600.0)
    leaf = Leaf(StoreUnavailableError)
    async with client_of(make_app(leaf)) as client:
        responses = await asyncio.gather(*(client.get("/ready") for _ in range(50)))
    assert {response.status_code for response in responses} == {503}
    assert leaf.asked == 1
    assert caplog.messages == ["not ready: store: StoreUnavailableError: secret details"]


async def test_a_server_that_ends_is_not_ready() -> None:
    store = MemoryObjectStore(data={})
    app = sync_application(SyncRouterOptions(store=store, config=CONFIG, role_resolver=resolve))
    app.state.draining = True
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.get("/v1/ready")
        assert (response.status_code, response.json()["checks"]) == (503, {"server": "shutting_down"})
        assert (await client.get("/health")).status_code == 200


def test_a_fresh_check_serves_another_event_loop() -> None:
    app = make_app(store := Leaf())

    async def ask_again() -> int:
        async with client_of(app) as client:
            return (await client.get("/ready")).status_code

    assert [asyncio.run(ask_again()), asyncio.run(ask_again())] == [200, 200]
    assert store.asked == 1
