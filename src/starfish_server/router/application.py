"""`create_sync_router` makes the routes of a configuration, `sync_application` a whole application."""

from __future__ import annotations

import asyncio
from dataclasses import KW_ONLY
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, FastAPI, Request, Response
from opentelemetry.metrics import get_meter
from opentelemetry.trace import NoOpTracer, get_tracer
from pydantic import ConfigDict, Field, InstanceOf
from pydantic.dataclasses import dataclass
from starlette.exceptions import HTTPException

from starfish_server.router.auth import Authenticator, RoleResolver
from starfish_server.router.batch import BatchPull
from starfish_server.router.blobs import BlobCollection
from starfish_server.router.config import API_PREFIX, ConfigEndpointOptions, SyncConfig
from starfish_server.router.manifest import ConfigEndpoint
from starfish_server.router.probes import Probes
from starfish_server.router.pushes import Pushes
from starfish_server.router.responses import HTTPError, JSONErrorRoute, error_response
from starfish_server.router.routes import Collection, DocumentCollection, Endpoint
from starfish_server.storage.base import AbstractObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TRACER, _METER = get_tracer("starfish_server"), get_meter("starfish_server")


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class SyncRouterOptions:
    """What a router serves, and to whom. A wrong value is a `pydantic.ValidationError`, a `ValueError`.

    store: where documents and blobs are stored; closing it stays with the caller.
    config: the collections.
    role_resolver: a function of the `Request`, sync or async, that returns an `AuthResult`, or None for an
        unknown caller. It is not called on public routes. If it raises, the caller is unknown.
    role_resolver_timeout: seconds, 5.0 by default; a request whose resolver takes longer gets a 503.
    challenge: the authentication scheme that a 401 names, "Bearer" by default.
    config_endpoint: what `GET /config` shows, and to whom; None, the default, leaves that route out.
    """

    store: AbstractObjectStore
    config: InstanceOf[SyncConfig]
    role_resolver: RoleResolver
    _: KW_ONLY
    role_resolver_timeout: Annotated[float, Field(gt=0)] = 5.0
    challenge: str = "Bearer"
    config_endpoint: InstanceOf[ConfigEndpointOptions] | None = None


def create_sync_router(opts: SyncRouterOptions) -> APIRouter:
    """Return a router for all collections, those of a namespace mount under its name, and the probes.

    The probes are `GET /health` and `GET /ready`; with `config_endpoint` there is `GET /config` as well.
    Include the router in a FastAPI application, under a prefix or not.

    opts: the store, the collections and how callers are found.

    Raises `ValueError` for a collection of blobs over a store of text only.
    """
    router = APIRouter(route_class=JSONErrorRoute)
    _add_routes(opts, router)
    return router


def sync_application(opts: SyncRouterOptions) -> FastAPI:
    """Return an application with the routes of `create_sync_router` and its own `/openapi.json`.

    The routes are served at the root and again below `/v1`, where the SDK's `namespace=` option expects
    them. Every error has the form of the router's own errors.

    opts: as in `create_sync_router`.

    Raises `ValueError` as `create_sync_router` does.
    """
    versioned = APIRouter(prefix=API_PREFIX, include_in_schema=False, route_class=JSONErrorRoute)
    routers = (versioned, APIRouter(route_class=JSONErrorRoute))
    _add_routes(opts, *routers)
    routes = [route for router in routers for route in router.routes]
    application = _Application(
        _Direct(routes), title="Starfish", docs_url=None, redoc_url=None, redirect_slashes=False
    )
    # Not `include_router`, behind which FastAPI would match every route twice.
    application.router.routes += routes
    application.add_exception_handler(HTTPException, _answer_http_exception)
    return application


def _add_routes(options: SyncRouterOptions, *routers: APIRouter) -> None:
    """Add the routes to each router. The routers share the locks of pushes and the state of the probes."""
    authenticator = Authenticator(
        options.role_resolver, timeout=options.role_resolver_timeout, challenge=options.challenge
    )
    pushes = Pushes(options.store)
    mounts = {name: mount.collections for name, mount in options.config.namespaces.items()}
    parts: list[Probes | Collection | BatchPull | ConfigEndpoint] = [Probes(options.store)]
    for namespace, configs in ({None: options.config.collections} | mounts).items():
        collections = [
            DocumentCollection(config, namespace, options.store, authenticator, pushes)
            if config.holds_documents
            else BlobCollection(config, namespace, options.store, authenticator)
            for config in configs
        ]
        parts += [*collections, BatchPull(collections, namespace)]
    if options.config_endpoint is not None:
        parts.append(ConfigEndpoint(options.config_endpoint, options.config, authenticator))
    for router in routers:
        for part in parts:
            part.add_to(router)


class _Direct:
    """The routes whose endpoints can be called without FastAPI.

    They are those of the application itself, which have no dependencies. A request without a query leaves
    nothing to validate, unless the route takes headers as parameters.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes: dict[tuple[str, str], list[JSONErrorRoute]] = {}
        for route in routes:
            if isinstance(route, JSONErrorRoute) and not route.dependant.header_params:
                for method in route.methods or ():
                    # The first segment of a route has no field, so `find` can look it up.
                    self._routes.setdefault((method, route.path.split("/", 2)[1]), []).append(route)

    def find(self, scope: Scope) -> Endpoint | None:
        if scope["type"] != "http" or scope["query_string"] or scope.get("root_path"):
            return None
        path = scope["path"]
        for route in self._routes.get((scope["method"], path[1:].partition("/")[0]), ()):
            if match := route.path_regex.match(path):
                scope.update(route=route, endpoint=route.endpoint, path_params=match.groupdict())
                return route.endpoint
        return None


class _Application(FastAPI):
    """Calls endpoints before FastAPI, unless requests may be observed or the user changed the application."""

    def __init__(self, direct: _Direct, **options: Any) -> None:
        super().__init__(**options)
        self._direct = direct
        self._plain_stack: ASGIApp | None = None
        self.add_middleware(_Front, direct=direct)

    def build_middleware_stack(self) -> ASGIApp:
        stack = super().build_middleware_stack()
        changed = len(self.user_middleware) > 1 or self.root_path or getattr(self, "max_body_size", None)
        self._plain_stack = None if changed else stack  # instrumentation returns another one
        return stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stack = self.middleware_stack
        if stack is not None and stack is self._plain_stack and not _observed():
            endpoint = self._direct.find(scope)
            if endpoint is not None:
                scope["app"] = self
                await _call(endpoint, scope, receive, send)
                return
        await super().__call__(scope, receive, send)


class _Front:
    """Middleware that calls endpoints itself where FastAPI has nothing to do, and answers cancelled requests.

    A request that FastAPI observes is left to it, for the name of its route. A request that the server
    cancels at the end of its drain gets a 503.
    """

    def __init__(self, app: ASGIApp, direct: _Direct) -> None:
        self._app = app
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = None if "fastapi.telemetry" in scope else self._direct.find(scope)
        if endpoint is not None:
            await _call(endpoint, scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except asyncio.CancelledError:
            if scope["type"] == "http" and not started:
                await _drained(scope)(scope, receive, send)
            raise


async def _call(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    try:
        response = await endpoint(Request(scope, receive))
    except asyncio.CancelledError:
        await _drained(scope)(scope, receive, send)
        raise
    except Exception as error:  # noqa: BLE001 - nothing but its code may reach the client
        response = error_response(scope, error)
    await response(scope, receive, send)


def _observed() -> bool:
    """Return whether OpenTelemetry may have a provider; FastAPI's own check takes six times as long.

    Until a provider is set, tracer and meter are proxies. If OpenTelemetry renames their private attributes,
    every request goes through FastAPI. A provider of logs does not matter: FastAPI logs what routes raise,
    and these raise nothing.
    """
    return not (
        isinstance(getattr(_TRACER, "_tracer", None), NoOpTracer)
        and getattr(_METER, "_real_meter", _METER) is None
    )


def _drained(scope: Scope) -> Response:
    error = HTTPError(503, "shutting_down", "the server ended its drain", {"Connection": "close"})
    return error_response(scope, error)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer a request that no route serves: an unknown path, or a method on `/openapi.json`."""
    status = getattr(error, "status_code", 404)
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "bad_request")
    reason = "no route serves this path" if status == 404 else "no route serves it like this"
    headers = getattr(error, "headers", None)
    return error_response(request.scope, HTTPError(status, code, reason, headers))
