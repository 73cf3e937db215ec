"""`create_sync_router` makes the routes of a configuration, `sync_application` a whole application."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from starfish_server.checks import is_key
from starfish_server.router.auth import Admission, RoleResolver
from starfish_server.router.config import API_PREFIX, SyncConfig
from starfish_server.router.pushes import Pushes, now_ms
from starfish_server.router.requests import has_encoded_slash
from starfish_server.router.responses import Health, HTTPError, JSONErrorRoute, error_response
from starfish_server.router.routes import Collection, add_route
from starfish_server.storage.base import AbstractObjectStore

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True, kw_only=True)
class SyncRouterOptions:
    """What a router serves, and to whom.

    store: where documents and blobs are stored; closing it stays with the caller.
    config: the collections.
    role_resolver: a function of the `Request`, sync or async, that returns an `AuthResult`, or None for an
        unknown caller. It is not called on public routes. If it raises, the caller is unknown.
    role_resolver_timeout: seconds; a request whose resolver takes longer gets a 503.
    challenge: the authentication scheme that a 401 names.

    Raises `TypeError` or `ValueError` for anything else.
    """

    store: AbstractObjectStore
    config: SyncConfig
    role_resolver: RoleResolver
    role_resolver_timeout: float = 5.0
    challenge: str = "Bearer"

    def __post_init__(self) -> None:
        if not isinstance(self.store, AbstractObjectStore):
            raise TypeError(f"store must be an AbstractObjectStore, not {type(self.store).__name__}")
        if not isinstance(self.config, SyncConfig):
            raise TypeError(f"config must be a SyncConfig, not {type(self.config).__name__}")
        if not callable(self.role_resolver):
            raise TypeError(f"role_resolver must be callable, not {type(self.role_resolver).__name__}")
        if not self.role_resolver_timeout > 0:
            raise ValueError(f"role_resolver_timeout must be over 0 s, not {self.role_resolver_timeout}")


def create_sync_router(options: SyncRouterOptions) -> APIRouter:
    """Return the routes of every collection, of every namespace mount under its name, and `GET /health`.

    Include it in a FastAPI application, under a prefix or not. Raises `ValueError` for a collection of blobs
    over a store of text only.
    """
    store = options.store
    admission = Admission(
        options.role_resolver, timeout=options.role_resolver_timeout, challenge=options.challenge
    )
    pushes = Pushes(store)
    mounts = {None: options.config.collections} | {
        name: namespace.collections for name, namespace in options.config.namespaces.items()
    }
    router = APIRouter(route_class=JSONErrorRoute)
    add_route(
        router, "GET", "/health", _health, response_model=Health, operation_id="health", tags=["health"]
    )
    for namespace, collections in mounts.items():
        for config in collections:
            if not (config.holds_documents or store.native("read") or store.supports("get_bytes")):
                raise ValueError(
                    f"collection {config.name!r} holds blobs, and {type(store).__name__} stores text only"
                )
            Collection(config, namespace, store, admission, pushes).add_to(router)
    # The paths that no collection claims, which the application would answer or redirect in its own way.
    for mount in ("", *(f"/{name}" for name in options.config.namespaces)):
        for action, method in (("pull", "GET"), ("push", "POST"), ("list", "GET"), ("health", "GET")):
            for path in (f"{mount}/{action}", f"{mount}/{action}/{{path:path}}"):
                add_route(
                    router, method, path, _unknown_path, responses={400: {}, 404: {}}, include_in_schema=False
                )
    return router


def sync_application(options: SyncRouterOptions) -> FastAPI:
    """Return an application with the routes of `create_sync_router(options)` and its own `/openapi.json`.

    The routes are served at the root and again below `/v1`, where the SDK's `namespace=` option expects
    them. Every error has the form of the router's own errors.
    """
    application = FastAPI(title="Starfish", docs_url=None, redoc_url=None, redirect_slashes=False)
    router = create_sync_router(options)
    application.include_router(router)
    application.include_router(router, prefix=API_PREFIX, include_in_schema=False)
    application.add_exception_handler(HTTPException, _answer_http_exception)
    application.add_middleware(_AnswerCancelled)
    return application


class _AnswerCancelled:
    """Middleware that answers a request with a 503 when the server cancels it at the end of its drain."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except asyncio.CancelledError:
            if scope["type"] == "http" and not started:
                error = HTTPError(503, "shutting_down", "the server ended its drain", {"Connection": "close"})
                await error_response(scope, error)(scope, receive, send)
            raise


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer what no route of the router serves: an unknown path, or a method on `/openapi.json`."""
    status = getattr(error, "status_code", 404)
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "bad_request")
    return error_response(request.scope, HTTPError(status, code, headers=getattr(error, "headers", None)))


async def _unknown_path(request: Request) -> Response:
    path = request.path_params.get("path")
    if path is None or (is_key(path) and not has_encoded_slash(request)):
        raise HTTPError(404, "not_found", "no collection has this path")
    raise HTTPError(400, "invalid_path", "a segment of the path is not a key segment")


async def _health() -> Health:
    return Health(ok=True, ts=now_ms())
