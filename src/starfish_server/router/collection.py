"""One collection as it is served: who may ask, and the context that its store calls carry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from starfish_server.checks import is_key
from starfish_server.context import StoreContext
from starfish_server.router.paths import check_requested_path, requested_params
from starfish_server.router.refusal import Refusal
from starfish_server.router.roles import PUBLIC, Callers

if TYPE_CHECKING:
    from fastapi import Request

    from starfish_server.router.config import CollectionConfig
    from starfish_server.router.pushes import Pushes
    from starfish_server.storage.base import AbstractObjectStore


@dataclass(frozen=True)
class Collection:
    """A collection of the configuration with what its handlers need. `namespace` is its mount, or None."""

    config: CollectionConfig
    namespace: str | None
    store: AbstractObjectStore
    callers: Callers
    pushes: Pushes

    @cached_property
    def cache_headers(self) -> dict[str, str]:
        """Whoever keeps an answer asks again before using it; shared caches keep public ones only."""
        public = PUBLIC in self.config.read_roles
        return {"Cache-Control": "no-cache" if public else "private, no-cache"}

    async def admit(self, request: Request, action: str) -> tuple[str, StoreContext]:
        """The object's key and the context of its store calls, for a pull or a push that is allowed."""
        path = self.config.path
        params = requested_params(request, path.fields)
        key = path.key(params)
        check_requested_path(request, f"{action}/{key}")
        if not is_key(key):
            raise Refusal(400, "invalid_path")
        return key, await self._context(request, action, params)

    async def admit_listing(self, request: Request) -> tuple[str, StoreContext]:
        """The prefix of the listed keys and the context of the store calls, for a list that is allowed."""
        path = self.config.path
        params = requested_params(request, path.parent_fields)
        parent = path.parent(params)
        check_requested_path(request, f"list/{parent}" if parent else "list")
        if parent and not is_key(parent):
            raise Refusal(400, "invalid_path")
        return f"{parent}/" if parent else "", await self._context(request, "list", params)

    async def _context(self, request: Request, action: str, params: dict[str, str]) -> StoreContext:
        roles = self.config.write_roles if action == "push" else self.config.read_roles
        caller = await self.callers.admit(request, roles, params)
        return StoreContext(
            collection=self.config.name,
            params=params,
            identity=caller.identity,
            roles=caller.roles,
            action=action,
            namespace=self.namespace,
        )
