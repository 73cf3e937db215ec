"""An application that serves a router and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from starfish_server.router.routes import create_sync_router

if TYPE_CHECKING:
    from starfish_server.router.routes import SyncRouterOptions


def sync_application(options: SyncRouterOptions) -> FastAPI:
    """A FastAPI application with the routes of `create_sync_router(options)` and its own `/openapi.json`."""
    application = FastAPI(title="Starfish", docs_url=None, redoc_url=None)
    application.include_router(create_sync_router(options))
    return application
