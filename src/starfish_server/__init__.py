"""Object stores behind one small async interface, wrapped by composable layers.

The interface and the errors are imported immediately, all else on first use, so that a program imports only
what its own stores need.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from starfish_server import errors
from starfish_server.context import StoreContext
from starfish_server.errors import *  # noqa: F403 - all of them, as their `__all__` says
from starfish_server.explain import explain
from starfish_server.objects import ANY, ObjectInfo, ObjectList, ObjectReader, StoredObject
from starfish_server.storage.base import AbstractObjectStore

if TYPE_CHECKING:
    __version__: str

    from starfish_server.builder import StoreBuilder
    from starfish_server.bulk import copy_all, delete_prefix, scan
    from starfish_server.keys import decode_key, encode_key
    from starfish_server.lifecycle import GracefulShutdown, GracefulShutdownOptions
    from starfish_server.router import CollectionConfig, SyncConfig
    from starfish_server.stack_file import load_stack
    from starfish_server.storage.custom import CustomObjectStore
    from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions
    from starfish_server.storage.memory import MemoryObjectStore
    from starfish_server.store_url import open_store

__all__ = [
    "ANY",
    "AbstractObjectStore",
    "CollectionConfig",
    "CustomObjectStore",
    "FilesystemObjectStore",
    "FilesystemStorageOptions",
    "GracefulShutdown",
    "GracefulShutdownOptions",
    "MemoryObjectStore",
    "ObjectInfo",
    "ObjectList",
    "ObjectReader",
    "StoreBuilder",
    "StoreContext",
    "StoredObject",
    "SyncConfig",
    "copy_all",
    "decode_key",
    "delete_prefix",
    "encode_key",
    "explain",
    "load_stack",
    "open_store",
    "scan",
]
__all__ += errors.__all__

_NAMES = {
    "builder": ("StoreBuilder",),
    "bulk": ("copy_all", "delete_prefix", "scan"),
    "keys": ("decode_key", "encode_key"),
    "lifecycle": ("GracefulShutdown", "GracefulShutdownOptions"),
    "router": ("CollectionConfig", "SyncConfig"),
    "stack_file": ("load_stack",),
    "storage.custom": ("CustomObjectStore",),
    "storage.filesystem": ("FilesystemObjectStore", "FilesystemStorageOptions"),
    "storage.memory": ("MemoryObjectStore",),
    "store_url": ("open_store",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}


if not TYPE_CHECKING:  # to a type checker it would mean that the module has every name

    def __getattr__(name: str) -> object:
        if name == "__version__":
            value = import_module("importlib.metadata").version("starfish-server")
        elif name in _HOMES:
            value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
