"""Collections over HTTP: routes that pull, push and list documents, with the caller in each store call."""

from __future__ import annotations

try:
    import fastapi  # noqa: F401 - imported to say clearly what is missing
    import pydantic  # noqa: F401 - as above
except ImportError as error:
    raise ImportError(
        "starfish_server.router needs FastAPI and pydantic: pip install 'starfish-server[http]'"
    ) from error

from starfish_server.router.application import SyncRouterOptions, create_sync_router, sync_application
from starfish_server.router.auth import AuthResult, BearerTokens
from starfish_server.router.config import CollectionConfig, ConfigEndpointOptions, NamespaceConfig, SyncConfig

__all__ = [
    "AuthResult",
    "BearerTokens",
    "CollectionConfig",
    "ConfigEndpointOptions",
    "NamespaceConfig",
    "SyncConfig",
    "SyncRouterOptions",
    "create_sync_router",
    "sync_application",
]
