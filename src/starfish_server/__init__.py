"""Object stores behind one small async interface, wrapped by composable layers."""

from typing import TYPE_CHECKING

from starfish_server.builder import StoreBuilder
from starfish_server.errors import (
    BucketNotFoundError,
    ContextRequiredError,
    DeleteManyError,
    InvalidKeyError,
    KeyConflictError,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StackError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreDecodeError,
    StoreError,
    StoreNotSupportedError,
    StoreOverloadedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.explain import explain
from starfish_server.lifecycle import GracefulShutdown, GracefulShutdownOptions
from starfish_server.stack_file import load_stack
from starfish_server.storage.base import AbstractObjectStore, StoreContext
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions
from starfish_server.storage.memory import CustomObjectStore, MemoryObjectStore

if TYPE_CHECKING:
    from starfish_server.router import CollectionConfig as CollectionConfig
    from starfish_server.router import SyncConfig as SyncConfig

__all__ = [
    "AbstractObjectStore",
    "BucketNotFoundError",
    "CollectionConfig",
    "ContextRequiredError",
    "CustomObjectStore",
    "DeleteManyError",
    "FilesystemObjectStore",
    "FilesystemStorageOptions",
    "GracefulShutdown",
    "GracefulShutdownOptions",
    "InvalidKeyError",
    "KeyConflictError",
    "MemoryObjectStore",
    "ObjectTooLargeError",
    "ReadOnlyStoreError",
    "StackError",
    "StoreAccessDeniedError",
    "StoreBuilder",
    "StoreClosedError",
    "StoreContext",
    "StoreDecodeError",
    "StoreError",
    "StoreNotSupportedError",
    "StoreOverloadedError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "SyncConfig",
    "VersionConflictError",
    "explain",
    "load_stack",
]


def __getattr__(name: str) -> object:
    """The names that need the extra `[http]`, imported on first use."""
    if name in {"CollectionConfig", "SyncConfig"}:
        from starfish_server import router

        return getattr(router, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
