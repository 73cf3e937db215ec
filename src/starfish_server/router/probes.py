"""The probes: `GET /health`, whether this process lives, and `GET /ready`, which part of it cannot serve."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from fastapi import Request, Response  # noqa: TC002 - FastAPI reads the annotations

from starfish_server.context import StoreContext
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers.base import Layer, stores_of
from starfish_server.layers.namespace import Namespace
from starfish_server.logs import SafeLogger
from starfish_server.router.responses import Health, JSONResponse, Ready, http_error
from starfish_server.router.routes import Responses, add_route

if TYPE_CHECKING:
    from fastapi import APIRouter

    from starfish_server.storage.base import AbstractObjectStore

_log = SafeLogger(__package__)

_KEY = "starfish-ready"
_CONTEXT = StoreContext("ready", {}, None, (), "pull")  # callbacks of a custom leaf may expect one
# Below a layer with several stores, namespaces and callbacks may need a caller.
_CALLER = replace(_CONTEXT, identity="starfish-ready", namespace="starfish-ready")
_SECONDS = 2.0
_CACHED_SECONDS = 1.0


class Probes:
    """Answers `/health` at once, and `/ready` after asking the backend for one object that need not exist.

    It asks below the layers that have one store inside, so a probe leaves no record in an audit log, needs no
    permission, and is not answered by a cache. A `Mirror` or `Fallback` with several stores is asked as a
    whole, and then each of its leaves is. A probe is answered within 2 seconds, even if the backend hangs. A
    check begins at most once a second and never before the last one has ended, so that callers without a
    token cannot load the backend.
    """

    def __init__(self, store: AbstractObjectStore) -> None:
        while isinstance(store, Layer) and len(store.inners) == 1:
            store = store.inner
        self._parts = {"store": store}
        if isinstance(store, Layer):
            leaves = (part for part in stores_of(store) if not isinstance(part, Layer))
            self._parts |= {f"leaf {number}": leaf for number, leaf in enumerate(leaves, 1)}
        self._codes: dict[str, str] = {}
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._began = -_CACHED_SECONDS

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        ready: Responses = {status: {"model": Ready} for status in (200, 503)}
        health: Responses = {200: {"model": Health}}
        add_route(router, "GET", "/ready", self.ready, responses=ready, operation_id="ready", tags=["health"])
        add_route(
            router, "GET", "/health", self.health, responses=health, operation_id="health", tags=["health"]
        )

    async def health(self, request: Request) -> Response:
        return JSONResponse({"ok": True, "ts": time.time_ns() // 1_000_000})

    async def ready(self, request: Request) -> Response:
        """Return 200 if requests can be served, else 503, with "ok" or an error code for each part."""
        if getattr(request.app.state, "draining", False):
            return _response({"server": "shutting_down"}, ready=False)
        now = time.monotonic()
        checking = [check for check in self._checks.values() if not check.done()]
        if not checking and now - self._began >= _CACHED_SECONDS:
            self._began = now
            self._checks = {part: asyncio.create_task(self._check(part)) for part in self._parts}
            checking = list(self._checks.values())
        if checking:
            await asyncio.wait(checking, timeout=max(0.0, self._began + _SECONDS - now))
        codes = {
            part: self._codes.get(part, "store_timeout") if check.done() else "store_timeout"
            for part, check in self._checks.items()
        }
        return _response(codes, ready=codes["store"] == "ok")

    async def _check(self, part: str) -> None:
        code, store = "ok", self._parts[part]
        namespaced = any(isinstance(inside, Namespace) for inside in stores_of(store))
        try:
            async with asyncio.timeout(_SECONDS):
                try:
                    await store.stat(_KEY, context=_CALLER if namespaced else _CONTEXT)
                except Exception as error:
                    if not namespaced or isinstance(error, StoreUnavailableError):
                        raise
                    await store.stat(_KEY)  # this caller may have no namespace
        except Exception as error:  # noqa: BLE001 - whatever it is, requests would meet it too
            code = http_error(error).code
            if self._codes.get(part) != code:
                _log.failure(logging.WARNING, "not ready: %(part)s: %(failure)s", error, part=part)
        self._codes[part] = code


def _response(checks: dict[str, str], *, ready: bool) -> Response:
    headers = {"Cache-Control": "no-store"}
    return JSONResponse({"ready": ready, "checks": checks}, 200 if ready else 503, headers)
