"""A whole application: one form of error everywhere, the SDK's prefix, and the end of a drain."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request

from router.application import CONFIG, as_caller, pushed, recorded, resolve
from starfish_server import MemoryObjectStore
from starfish_server.router import SyncRouterOptions, sync_application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Receive, Scope, Send

    from starfish_server import AbstractObjectStore, StoreContext


def application(store: AbstractObjectStore) -> FastAPI:
    return sync_application(SyncRouterOptions(store=store, config=CONFIG, role_resolver=resolve))


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(recorded()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/acme", 404, "not_found"),
        ("POST", "/openapi.json", 405, "method_not_allowed"),
        ("PUT", "/v1/push/notes/a", 405, "method_not_allowed"),
        ("GET", "/pull/nothing", 404, "not_found"),
        ("POST", "/push/notes/a/b", 404, "not_found"),
        ("GET", "/v1/pull/notes/a%2Fb", 404, "not_found"),
        ("PATCH", "/acme/push/notes/a", 405, "method_not_allowed"),
        ("GET", "/openapi.json/", 404, "not_found"),
    ],
)
async def test_every_error_has_one_form(
    client: httpx.AsyncClient, method: str, path: str, status: int, error: str
) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.json()) == (status, {"error": error})


@pytest.mark.parametrize(
    "path",
    ["/pull", "/push", "/list", "/health/", "/list/notes/", "/pull/notes/a/", "/acme/pull", "/acme/push"],
)
async def test_a_slash_more_or_less_is_never_a_redirect(client: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST"):
        response = await client.request(method, path, headers={"Host": "evil.example"})
        assert (response.status_code, response.json()) == (404, {"error": "not_found"})


async def test_the_root_and_the_prefix_of_the_sdk_serve_the_same(client: httpx.AsyncClient) -> None:
    await client.post("/acme/push/notes/a", json=pushed({"n": 1}))
    assert (await client.get("/v1/acme/pull/notes/a")).json()["data"] == {"n": 1}
    assert (await client.get("/v1/health")).status_code == 200
    response = await client.get("/v1/pull/users/alice/profile", headers=as_caller("bob"))
    assert (response.status_code, response.json()) == (403, {"error": "forbidden"})


async def test_a_parameter_is_checked_whether_or_not_there_are_others(client: httpx.AsyncClient) -> None:
    pushed_at = (await client.post("/push/notes/a", json=pushed({"n": 1}))).json()["timestamp"]
    whole = (await client.get("/pull/notes/a")).json()
    assert (await client.get("/pull/notes/a?checkpoint=0")).json() == whole
    assert (await client.get(f"/pull/notes/a?checkpoint={pushed_at}")).json() == whole | {"data": {}}
    assert (await client.get("/pull/notes/a?checkpoint=x")).json() == {"error": "invalid_checkpoint"}
    assert (await client.get("/list/notes")).json() == (await client.get("/list/notes?limit=100")).json()


async def test_dependencies_of_an_application_that_includes_the_routes_come_first() -> None:
    def refuse() -> None:
        raise HTTPException(418)

    other = FastAPI()
    other.include_router(application(recorded()).router, dependencies=[Depends(refuse)])
    transport = httpx.ASGITransport(other)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/pull/notes/a")).status_code == 418


class Counting:
    """Middleware that counts the requests that reach it."""

    requests = 0

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        Counting.requests += 1
        await self.app(scope, receive, send)


async def test_middleware_of_the_user_sees_every_request() -> None:
    app = application(recorded())
    app.add_middleware(Counting)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        paths = ("/pull/notes/a", "/pull/notes/a", "/list/notes?limit=1", "/nothing")
        for count, path in enumerate(paths, 1):
            await client.get(path)
            assert Counting.requests == count


@pytest.mark.skipif(not hasattr(FastAPI(), "max_body_size"), reason="this FastAPI has no such limit")
async def test_a_limit_that_the_user_sets_on_the_application_holds() -> None:
    app = application(recorded())
    app.max_body_size = 10
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for _ in range(2):
            assert (await client.post("/push/notes/a", json=pushed({"n": 1}))).status_code == 413


@pytest.mark.parametrize("root_path", ["", "/api"])
async def test_a_role_resolver_sees_the_application_and_its_root_path(root_path: str) -> None:
    seen: list[tuple[object, str]] = []

    async def see(request: Request) -> None:
        seen.append((request.app, request.scope.get("root_path", "")))

    app = sync_application(SyncRouterOptions(store=recorded(), config=CONFIG, role_resolver=see))
    app.root_path = root_path
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for _ in range(2):
            await client.get("/pull/users/alice/profile")
    assert seen == [(app, root_path)] * 2


async def test_what_wraps_the_stack_sees_every_request() -> None:
    """As instrumentation does, for an application with a provider of its own."""
    app = application(recorded())
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: Counting(build())  # type: ignore[method-assign]  # as it does
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        before = Counting.requests
        for count in (1, 2):
            await client.get("/pull/notes/a")
            assert Counting.requests == before + count


OBSERVED = """
import asyncio, sys, httpx
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from router.test_application import application, recorded

async def main():
    transport = httpx.ASGITransport(application(recorded()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(2):
            await client.get("/pull/notes/a")
        if sys.argv[1] == "spans":
            spans, provider = InMemorySpanExporter(), TracerProvider()
            provider.add_span_processor(SimpleSpanProcessor(spans))
            trace.set_tracer_provider(provider)
        else:
            reader = InMemoryMetricReader()
            metrics.set_meter_provider(MeterProvider([reader]))
        await client.get("/pull/notes/a")
    if sys.argv[1] == "spans":
        print(spans.get_finished_spans()[-1].name)
    else:
        print("http.server.request.duration" in reader.get_metrics_data().to_json())

asyncio.run(main())
"""


@pytest.mark.skipif(find_spec("fastapi.telemetry") is None, reason="this FastAPI has no telemetry of its own")
@pytest.mark.parametrize(("kind", "shown"), [("spans", "GET /pull/notes/{id}"), ("metrics", "True")])
def test_a_request_is_observed_from_the_moment_that_telemetry_is_set_up(kind: str, shown: str) -> None:
    tests = Path(__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", OBSERVED, kind], cwd=tests, capture_output=True, text=True)
    assert ran.stdout.strip() == shown, ran.stderr


async def test_the_document_describes_each_route_once(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert "/acme/pull/notes/{id}" in paths
    assert not [path for path in paths if path.startswith("/v1")]


class Hanging(MemoryObjectStore):
    """Never answers a read."""

    context_dependent = False

    def __init__(self) -> None:
        super().__init__(data={})
        self.asked = asyncio.Event()

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        self.asked.set()
        await asyncio.Event().wait()
        return None


@pytest.mark.parametrize("query", ["", "?checkpoint=0"])
async def test_a_request_that_the_drain_cuts_off_gets_the_form_of_every_error(query: str) -> None:
    store = Hanging()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                application(store), log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=0
            )
        )
        serving = asyncio.create_task(server.serve([listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/pull/notes/a{query}"
        async with httpx.AsyncClient(timeout=None) as http:
            request = asyncio.create_task(http.get(url))
            await store.asked.wait()
            server.should_exit = True
            response = await request
            await serving
    assert (response.status_code, response.json()) == (503, {"error": "shutting_down"})
    assert response.headers["retry-after"] == "1"
