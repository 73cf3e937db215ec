"""A log handler that raises loses its message, and no operation fails because of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from layers.scripted import Scripted
from layers.switched import Switched, memory
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers import Caching, CircuitBreaker, Fallback, Mirror, Retry
from starfish_server.lifecycle import GracefulShutdown, GracefulShutdownOptions
from starfish_server.logs import SafeLogger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Broken(logging.Handler):
    """Raises instead of writing a record."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException = OSError("the log is broken")
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        raise self.error


@pytest.fixture(autouse=True)
def broken() -> Iterator[Broken]:
    """A handler that raises for every message of the package."""
    logger, handler = logging.getLogger("starfish_server"), Broken()
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


async def test_a_circuit_that_opens_raises_the_error_of_the_operation(broken: Broken) -> None:
    now = 0.0
    leaf = Scripted(StoreUnavailableError("down"), data={"k": "v"})
    store = CircuitBreaker(leaf, minimum_calls=1, probes=1, clock=lambda: now)
    with pytest.raises(StoreUnavailableError, match="down"):
        await store.get_string("k")
    now += 10.0
    assert await store.get_string("k") == "v"
    assert store.state == "closed"
    assert [record.levelname for record in broken.records] == ["WARNING", "DEBUG", "INFO"]


async def test_a_write_that_a_replica_missed_is_done(broken: Broken) -> None:
    replica = Switched(memory())
    replica.fails = "before"
    store = Mirror(memory(), replica, require="first")
    await store.put("k", "v", content_type="text/plain")
    assert store.pending() == {(1, "k")}
    assert len(broken.records) == 1


async def test_a_read_goes_to_the_backup(broken: Broken) -> None:
    store = Fallback(Scripted(StoreUnavailableError("down")), memory(k="v"))
    assert await store.get_string("k") == "v"
    assert len(broken.records) == 1


async def test_a_read_is_retried(broken: Broken) -> None:
    store = Retry(Scripted(StoreUnavailableError("down"), data={"k": "v"}), initial=1e-6)
    assert await store.get_string("k") == "v"
    assert len(broken.records) == 1


async def test_an_expired_object_is_served_in_an_outage(broken: Broken) -> None:
    now = 0.0
    backend = Switched(memory(k="v"))
    store = Caching(backend, ttl=1.0, stale_if_error=10.0, clock=lambda: now)
    await store.get_string("k")
    backend.fails, now = "before", 2.0
    assert await store.get_string("k") == "v"
    assert len(broken.records) == 1


async def test_a_shutdown_runs_its_steps(broken: Broken) -> None:
    ran = []
    options = GracefulShutdownOptions([lambda: 1 / 0, lambda: ran.append("last")])
    result = await GracefulShutdown(options).shutdown()
    assert ran == ["last"]
    assert [type(failure.error) for failure in result.failures] == [ZeroDivisionError]
    assert len(broken.records) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_handler_can_end_the_program(broken: Broken, error: type[BaseException]) -> None:
    broken.error = error()
    with pytest.raises(error):
        SafeLogger("starfish_server.any").warning("lost")


def test_the_exception_of_a_handler_is_printed_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    SafeLogger("starfish_server.any").warning("lost")
    shown = capsys.readouterr().err
    assert shown.startswith("--- Logging error ---\nTraceback")
    assert shown.endswith("OSError: the log is broken\n")


def test_no_exception_is_printed_if_logging_raises_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    SafeLogger("starfish_server.any").warning("lost")
    assert capsys.readouterr().err == ""


def test_a_closed_stderr_raises_no_exception_either(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise ValueError("I/O operation on closed file")

    monkeypatch.setattr("sys.stderr", Closed())
    SafeLogger("starfish_server.any").warning("lost")


@pytest.mark.parametrize(
    "write",
    [
        lambda log: log.warning("lost"),
        lambda log: log.log(logging.INFO, "lost"),
        lambda log: log.error("lost"),
        lambda log: log.failure(logging.INFO, "lost", OSError()),
    ],
)
def test_a_record_names_the_line_that_logs(broken: Broken, write: Callable[[SafeLogger], None]) -> None:
    write(SafeLogger("starfish_server.any"))
    [record] = broken.records
    assert (record.name, record.filename, record.funcName) == (
        "starfish_server.any",
        "test_logs.py",
        "<lambda>",
    )
