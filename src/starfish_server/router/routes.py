"""The routes of a collection: pull, push and list. Each fills the `StoreContext` of its store calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request, Response

from starfish_server.context import StoreContext
from starfish_server.router.auth import PUBLIC, SELF
from starfish_server.router.config import JSON_TYPE, is_segment
from starfish_server.router.documents import MISSING, pulled
from starfish_server.router.pushes import HashMismatchError
from starfish_server.router.requests import (
    PushRequest,
    accepted_type,
    header_values,
    parse_push,
    read_body,
    refuse_parameters,
    requested_key,
)
from starfish_server.router.responses import (
    HTTPError,
    JSONResponse,
    Listing,
    PulledDocument,
    PushedDocument,
    errors,
    holds_tag,
)

if TYPE_CHECKING:
    from fastapi import APIRouter

    from starfish_server.router.auth import Authenticator, AuthResult
    from starfish_server.router.config import CollectionConfig, PathTemplate
    from starfish_server.router.pushes import Pushes
    from starfish_server.storage.base import AbstractObjectStore

# The largest integer that every JSON reader keeps exact.
MAX_SAFE_INTEGER = 2**53 - 1
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
# Options of the SDK's pulls that this server does not support; ignoring them would mislead the client.
UNSUPPORTED = ("full", "last", "limit", "withKeyring")
_AFTER = {"pattern": r"^(?!\.{1,2}$)[A-Za-z0-9._:@-]*$"}
_SEGMENT = {"type": "string", "maxLength": 255, "pattern": r"^(?!\.{1,2}$)[A-Za-z0-9._:@-]+$"}
Endpoint = Callable[..., Awaitable[Response]]
Responses = dict[int | str, dict[str, Any]]  # by status, what the OpenAPI document says of it


@dataclass(frozen=True)
class Collection:
    """A collection of the configuration over its store. `namespace` is its mount, or None."""

    config: CollectionConfig
    namespace: str | None
    store: AbstractObjectStore
    authenticator: Authenticator

    @cached_property
    def cache_headers(self) -> dict[str, str]:
        """Headers that make caches revalidate every response, and shared caches store public ones only."""
        public = PUBLIC in self.config.read_roles
        return {"Cache-Control": "no-cache" if public else "private, no-cache"}

    async def list_names(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
        after: Annotated[str, Query(max_length=255, json_schema_extra=_AFTER)] = "",
    ) -> Response:
        """Return the names after `after`, at most `limit` of them, and whether there are more."""
        parent, context = await self.admit(request, "list", self.config.path.parent)
        if after and not is_segment(after):
            raise HTTPError(400, "invalid_after", "after is not a key segment")
        names = await self._names(f"{parent}/" if parent else "", after, limit + 1, context)
        listing = {"items": names[:limit], "hasMore": len(names) > limit}
        return JSONResponse(listing, headers=self.cache_headers)

    async def _names(self, prefix: str, after: str, count: int, context: StoreContext) -> list[str]:
        """Return up to `count` keys directly under `prefix`, without it; deeper keys are left out."""
        names: list[str] = []
        start_after = prefix + after if after else None
        while True:
            keys = await self.store.list_keys(prefix, start_after=start_after, limit=count, context=context)
            tails = [key.removeprefix(prefix) for key in keys]
            names += filter(is_segment, tails)
            if len(keys) < count or len(names) >= count:
                return names[:count]
            # Skip the rest of a folder: "~" sorts after every character of a key.
            folder, slash, _ = tails[-1].partition("/")
            start_after = max(keys[-1], f"{prefix}{folder}/~") if slash else keys[-1]

    async def admit(self, request: Request, action: str, path: PathTemplate) -> tuple[str, StoreContext]:
        """Return the key of an admitted request and the context of its store calls.

        Raises a 400, 401, 403 or 503. A public route does not authenticate its callers.
        """
        key, params = requested_key(request, action, path)
        roles = self.config.write_roles if action == "push" else self.config.read_roles
        caller = None if PUBLIC in roles else await self.authenticator.find_caller(request)
        return key, self.context(action, params, roles, caller)

    def context(
        self, action: str, params: dict[str, str], roles: tuple[str, ...], caller: AuthResult | None
    ) -> StoreContext:
        """Return the context of store calls; raise a 403 for a caller who has none of `roles`."""
        if caller is None:
            return StoreContext(self.config.name, params, None, (), action, self.namespace)
        identity, given = caller.identity, tuple(role for role in caller.roles if role != SELF)
        if identity == params.get("identity"):
            given += (SELF,)
        if not set(given) & set(roles):
            raise HTTPError(403, "forbidden", f"{identity} has none of the roles of this collection")
        return StoreContext(self.config.name, params, identity, given, action, self.namespace)

    def endpoints(self) -> tuple[Endpoint, Responses, Endpoint, Responses, dict[str, Any]]:
        """Return the endpoint of a pull and its OpenAPI responses, those of a push, and a push's body."""
        raise NotImplementedError

    def add_to(self, router: APIRouter) -> None:
        """Add the routes that the configuration asks for."""
        config, path = self.config, self.config.path
        pull, pulled, push, pushed, body = self.endpoints()
        if not config.push_only:
            not_modified: Responses = {304: {"description": "`If-None-Match` holds the current `ETag`."}}
            self._add(router, "GET", "pull", path, pull, pulled | not_modified)
        if not config.pull_only:
            self._add(router, "POST", "push", path, push, pushed, {"required": True, "content": body})
        if config.listable:
            responses = described("One page of names.", model=Listing)
            self._add(router, "GET", "list", path.parent, self.list_names, responses)

    def _add(
        self,
        router: APIRouter,
        method: str,
        action: str,
        path: PathTemplate,
        endpoint: Endpoint,
        responses: Responses,
        body: dict[str, Any] | None = None,
    ) -> None:
        route = f"/{action}/{path.template}" if path.template else f"/{action}"
        name = f"{action}_{self.config.name}"
        if self.namespace is not None:
            # Neither name can hold a slash, so no two collections have the same operation id.
            route, name = f"/{self.namespace}{route}", f"{self.namespace}/{name}"
        fields = [
            {"name": field, "in": "path", "required": True, "schema": _SEGMENT} for field in path.fields
        ]
        add_route(
            router,
            method,
            route,
            endpoint,
            operation_id=name,
            tags=[self.config.name],
            responses=responses | errors(400, 401, 403, "default"),
            openapi_extra={"parameters": fields} | ({"requestBody": body} if body else {}),
        )


@dataclass(frozen=True)
class DocumentCollection(Collection):
    """A collection of JSON documents."""

    pushes: Pushes

    async def pull_document(
        self, request: Request, checkpoint: Annotated[int, Query(ge=0, le=MAX_SAFE_INTEGER)] = 0
    ) -> Response:
        """Return the document, or what changed in it after `checkpoint`.

        A missing document is empty, and so is its hash.
        """
        key, context = await self.admit(request, "pull", self.config.path)
        refuse_parameters(request, UNSUPPORTED)
        stored = await self.store.get_string(key, context=context)
        if stored is None:
            return JSONResponse(MISSING, headers=self.cache_headers)
        content, tag = pulled(stored, checkpoint)
        headers = self.cache_headers | {"ETag": f'"{tag}"'}
        known = header_values(request, b"if-none-match")
        if known and holds_tag(known[0], headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return JSONResponse(content, headers=headers)

    async def push_document(self, request: Request) -> Response:
        """Store the document in place of the one whose hash is `baseHash`."""
        key, context = await self.admit(request, "push", self.config.path)
        accepted_type(request, self.config.allowed_mime_types)
        pushed = parse_push(await read_body(request, self.config.max_body_bytes))
        try:
            document = await self.pushes.push(key, pushed, context)
        except HashMismatchError as error:
            # With the hash, a caller that may not pull could overwrite a document it cannot see.
            if not self.config.push_only and {PUBLIC, *context.roles} & set(self.config.read_roles):
                error.fields["currentHash"] = error.current_hash
            raise
        return JSONResponse({"hash": document.hash, "timestamp": document.timestamp})

    def endpoints(self) -> tuple[Endpoint, Responses, Endpoint, Responses, dict[str, Any]]:
        return (
            self.pull_document,
            described("The document.", model=PulledDocument),
            self.push_document,
            described("Stored.", model=PushedDocument) | errors(409, 413, 415),
            {JSON_TYPE: {"schema": PushRequest.model_json_schema()}},
        )


def add_route(router: APIRouter, method: str, path: str, endpoint: Endpoint, **options: Any) -> None:
    """Add a route to the router; a GET answers HEAD as well."""
    router.add_api_route(path, endpoint, methods=[method], response_model=None, **options)
    if method == "GET":
        # A route of its own, left out of the document: two methods of one route would share the operation id.
        router.add_api_route(path, endpoint, methods=["HEAD"], response_model=None, include_in_schema=False)


def described(description: str, **described: Any) -> Responses:
    """Return what the OpenAPI document says of a 200."""
    return {200: {"description": description, **described}}
