"""`GET /config`: what clients may know of the collections, and nothing of roles, keys or paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request, Response  # noqa: TC002 - FastAPI evaluates the annotations
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from starfish_server.router.auth import PUBLIC, SELF
from starfish_server.router.responses import HTTPError, JSONResponse, errors
from starfish_server.router.routes import add_route, described

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastapi import APIRouter

    from starfish_server.router.auth import Authenticator
    from starfish_server.router.config import CollectionConfig, ConfigEndpointOptions, SyncConfig


class ShownCollection(BaseModel):
    """What a client needs to know of a collection."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    name: str
    max_body_bytes: int
    encryption: str
    allowed_mime_types: tuple[str, ...]
    pull_only: bool = False
    push_only: bool = False


class ShownMount(BaseModel):
    """The collections of a namespace."""

    collections: list[ShownCollection]


class Manifest(ShownMount):
    """The collections at the root, and those of each namespace."""

    namespaces: dict[str, ShownMount] = {}


@dataclass(frozen=True)
class ConfigEndpoint:
    """The route `GET /config`, as `ConfigEndpointOptions` say."""

    options: ConfigEndpointOptions
    config: SyncConfig
    authenticator: Authenticator

    def add_to(self, router: APIRouter) -> None:
        """Add the route."""
        responses = described("The collections.", model=Manifest) | errors("default")
        add_route(
            router, "GET", "/config", self.show, operation_id="config", tags=["config"], responses=responses
        )

    async def show(self, request: Request) -> Response:
        """Return the collections that the caller may know of."""
        roles = await self._roles(request) if self.options.auth == "role-filtered" else None
        shown = {"collections": _shown(self.config.collections, roles)}
        mounts = {
            name: {"collections": collections}
            for name, mount in self.config.namespaces.items()
            if (collections := _shown(mount.collections, roles))
        }
        content = shown | ({"namespaces": mounts} if mounts else {})
        return JSONResponse(content, headers={"Cache-Control": "private, no-cache"})

    async def _roles(self, request: Request) -> set[str]:
        try:
            caller = await self.authenticator.find_caller(request)
        except HTTPError as error:
            if error.status not in (401, 403):  # an outage must not pass for a server without collections
                raise
            return {PUBLIC}
        return {PUBLIC, SELF, *caller.roles}


def _shown(collections: Iterable[CollectionConfig], roles: set[str] | None) -> list[dict[str, object]]:
    """Return the collections that a caller with `roles` may pull, list or push; all of them if it is None."""
    return [
        ShownCollection.model_validate(collection, from_attributes=True).model_dump(
            mode="json", by_alias=True, exclude_defaults=True
        )
        for collection in collections
        if roles is None or not roles.isdisjoint(_admitted(collection))
    ]


def _admitted(collection: CollectionConfig) -> tuple[str, ...]:
    """Return the roles that may pull, list or push the collection, as far as it is served."""
    readers = () if collection.push_only and not collection.listable else collection.read_roles
    return readers if collection.pull_only else (*readers, *collection.write_roles)
