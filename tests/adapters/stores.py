"""The stores that the adapters are tested on: leaves, and a stack over one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from fsspec.asyn import get_loop, sync
from opentelemetry.sdk.trace import TracerProvider

from contract.leaves import over_s3
from starfish_server import MemoryObjectStore, StoreBuilder
from starfish_server.adapters.fsspec import StarfishFileSystem
from starfish_server.layers import Namespace, Timeout, Tracing
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions
from starfish_server.testing import RecordingStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from starfish_server import AbstractObjectStore

# moto and not SeaweedFS, which goes on listing folders whose objects are gone.
STORES = ["memory", "stack", "filesystem", "moto"]
CONDITIONAL = ["memory", "stack", "moto"]  # those with conditional writes of bytes


@contextmanager
def new_store(name: str, request: pytest.FixtureRequest) -> Iterator[AbstractObjectStore]:
    """A new, empty store; what it needs are fixtures of the test."""
    store = _made(name, request)
    yield store
    sync(get_loop(), store.close)


def _made(name: str, request: pytest.FixtureRequest) -> AbstractObjectStore:
    match name:
        case "filesystem":
            folder = request.getfixturevalue("tmp_path_factory").mktemp("store")
            return FilesystemObjectStore(FilesystemStorageOptions(base_dir=str(folder)))
        case "moto":
            return over_s3(request.getfixturevalue("moto"))
        case "stack":
            return (
                StoreBuilder()
                .layer(Tracing, tracer_provider=TracerProvider())
                .layer(Namespace, prefix="tenants/{namespace}/", without_context="system/")
                .layer(Timeout)
                .over(MemoryObjectStore(data={}))
            )
    return MemoryObjectStore(data={})


def made_of(*bodies: tuple[str, bytes]) -> tuple[RecordingStore, StarfishFileSystem]:
    """A file system with these objects, and the store that records what it asks for."""
    store = RecordingStore(MemoryObjectStore(data={}))
    fs = StarfishFileSystem(store=store)
    for name, body in bodies:
        fs.pipe_file(name, body)
    store.calls.clear()
    return store, fs
