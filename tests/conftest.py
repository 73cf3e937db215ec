"""Fixtures of all tests. The S3 servers start once, on first use; where one cannot start, tests fail."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from faulty_proxy import FaultyProxy
from servers import AZURITE, AzureServer, S3Server, start_azurite, start_moto, start_seaweedfs
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import AsyncIterator, Callable, Iterator


def pytest_configure() -> None:
    """Run in the background by a shell, this process and the programs it starts would ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart() -> None:
    """Remove what colours, widens or narrows the output that tests compare; pytest itself has read it."""
    for name in ("COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR"):
        os.environ.pop(name, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the reliability tests at full size")
    parser.addoption(
        "--uvloop", action="store_true", help="only async tests, each on an event loop of uvloop"
    )


def pytest_asyncio_loop_factories(config: pytest.Config) -> dict[str, Callable[[], AbstractEventLoop]]:
    if config.getoption("--uvloop"):
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--uvloop"):  # the others have no event loop, or set its clock, which uvloop refuses
        items[:] = [
            item
            for item in items
            if item.get_closest_marker("asyncio") and "set_forward" not in getattr(item, "fixturenames", ())
        ]


@pytest.fixture(scope="module", autouse=True)
def leaks_show_here() -> Iterator[None]:
    """Collect what the tests of a module leaked, so that its warning fails this module, not a later one."""
    yield
    gc.collect()


def pytest_collection_finish() -> None:
    """Leave what was imported out of the later collections, which would take a quarter of a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture
async def set_forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`set_forward(seconds)` sets the clock of the event loop forward."""
    loop = asyncio.get_running_loop()
    now, passed = loop.time, 0.0

    def forward(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(loop, "time", lambda: now() + passed)
    return forward


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the reliability tests run at full size."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Server]:
    """A SeaweedFS server; `seaweedfs.make_bucket()` gives a new bucket."""
    with start_seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """A moto server; `moto.make_bucket()` gives a new bucket."""
    with start_moto() as server:
        yield server


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzureServer]:
    """An Azurite server; `azurite.make_container()` gives obstore's store of a new container."""
    if not AZURITE.exists():
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("Azurite is not installed: `make .venv/azurite/ready` installs it from the npm registry")
    with start_azurite() as server:
        yield server


@pytest.fixture
async def make_s3() -> AsyncIterator[Callable[..., S3ObjectStore]]:
    """`make_s3(server, **options)`: a store with the server's keys, on a new bucket unless one is named."""
    stores: list[S3ObjectStore] = []

    def make(server: S3Server, **changes: Any) -> S3ObjectStore:
        options: dict[str, Any] = {
            "access_key_id": server.access_key_id,
            "secret_access_key": server.secret_access_key,
            "endpoint": server.endpoint,
        } | changes
        if "bucket" not in options:
            options["bucket"] = server.make_bucket()
        stores.append(S3ObjectStore(S3StorageOptions(**options)))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
async def proxy(seaweedfs: S3Server) -> AsyncIterator[FaultyProxy]:
    """A faulty proxy in front of SeaweedFS."""
    async with FaultyProxy(seaweedfs.endpoint) as faulty:
        yield faulty
