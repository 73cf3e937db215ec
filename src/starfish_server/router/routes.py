"""`create_sync_router`: the routes of a configuration, each with its handler."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from starfish_server.checks import is_key
from starfish_server.router.blobs import pull_blob, push_blob
from starfish_server.router.collection import Collection
from starfish_server.router.config import CollectionConfig, SyncConfig
from starfish_server.router.documents import pull_document, push_document
from starfish_server.router.listing import list_items
from starfish_server.router.openapi import Described, describe_list, describe_pull, describe_push
from starfish_server.router.paths import has_encoded_slash
from starfish_server.router.pushes import Pushes, now_ms
from starfish_server.router.refusal import Refusal
from starfish_server.router.responses import answering
from starfish_server.router.roles import Callers, RoleResolver
from starfish_server.router.wire import Health
from starfish_server.storage.base import AbstractObjectStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass(frozen=True, kw_only=True)
class SyncRouterOptions:
    """What `create_sync_router` serves, and to whom.

    store: where documents and blobs are kept; closing it stays with the caller.
    config: the collections.
    role_resolver: a function of the `Request`, sync or async, that gives an `AuthResult`, or None for a
        caller it does not know. Not asked on public routes. One that raises leaves the caller unknown.
    role_resolver_timeout: seconds until a request whose resolver has not answered gets a 503.
    challenge: the authentication scheme that a 401 names.

    Raises `TypeError` or `ValueError` for what is not that.
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
    """The routes of every collection, of every namespace mount under its name, and `GET /health`.

    Include it in a FastAPI application, under a prefix or not. Raises `ValueError` for a collection of blobs
    over a store that holds none.
    """
    callers = Callers(
        options.role_resolver, timeout=options.role_resolver_timeout, challenge=options.challenge
    )
    pushes = Pushes(options.store)

    def mount(prefix: str, namespace: str | None, collections: tuple[CollectionConfig, ...]) -> APIRouter:
        mounted = APIRouter(prefix=prefix)
        for config in collections:
            _check_store(options.store, config)
            _add_collection(mounted, Collection(config, namespace, options.store, callers, pushes))
        _add_unknown_paths(mounted)
        return mounted

    router = APIRouter()
    router.add_api_route(
        "/health", _health, methods=["GET"], name="health", operation_id="health", tags=["health"]
    )
    router.include_router(mount("", None, options.config.collections))
    for name, namespace in options.config.namespaces.items():
        router.include_router(mount(f"/{name}", name, namespace.collections))
    return router


def _check_store(store: AbstractObjectStore, config: CollectionConfig) -> None:
    if not config.holds_documents and not store.supports("get_bytes"):
        raise ValueError(
            f"collection {config.name!r} holds blobs, and {type(store).__name__} has no get_bytes"
        )


def _add_collection(router: APIRouter, collection: Collection) -> None:
    config = collection.config
    pull, push = (pull_document, push_document) if config.holds_documents else (pull_blob, push_blob)

    def add(
        method: str, action: str, template: str, handler: Callable[..., Awaitable[Response]], about: Described
    ) -> None:
        name = "_".join(filter(None, (action, collection.namespace, config.name)))
        router.add_api_route(
            f"/{action}/{template}" if template else f"/{action}",
            answering(partial(handler, collection), about.statuses),
            methods=[method],
            name=name,
            operation_id=name,
            tags=[config.name],
            response_model=None,
            responses=about.responses,
            openapi_extra=about.extra,
        )

    if not config.push_only:
        add("GET", "pull", config.storage_path, pull, describe_pull(config))
    if not config.pull_only:
        add("POST", "push", config.storage_path, push, describe_push(config))
    if config.listable:
        add("GET", "list", config.path.parent_template, list_items, describe_list(config))


def _add_unknown_paths(router: APIRouter) -> None:
    """Answer for what no collection claims: a bad segment may have kept a path from its route."""
    for action, method in (("pull", "GET"), ("push", "POST"), ("list", "GET")):
        router.add_api_route(
            f"/{action}/{{path:path}}",
            answering(_unknown_path, {400, 404}),
            methods=[method],
            include_in_schema=False,
        )


async def _unknown_path(request: Request) -> Response:
    if is_key(request.path_params["path"]) and not has_encoded_slash(request):
        raise Refusal(404, "not_found")
    raise Refusal(400, "invalid_path")


async def _health() -> Health:
    return Health(ts=now_ms())
