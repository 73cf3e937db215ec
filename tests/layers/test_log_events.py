"""What layers log of failures they handle: one line each, no key, body or secret, and no work when off."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from layers.gated import GatedStore
from layers.processes import Processes, settled
from layers.scripted import Scripted
from layers.switched import Switched, memory
from layers.virtual_time import run
from redis_server import RedisServer
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers import Caching, CircuitBreaker, Fallback, Hedge, Mirror, Retry
from starfish_server.storage.memory import MemoryObjectStore
from waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from starfish_server.storage.base import AbstractObjectStore

HOSTILE = "first\nsecond\x1b[2J\u202e"
ESCAPED = r"first\nsecond\x1b[2J\u202e"


class DownError(StoreUnavailableError):
    """Counts how often its reason is read."""

    read = 0

    def __init__(self) -> None:
        super().__init__(HOSTILE, operation="get_string", key="the-key")

    @property
    def reason(self) -> str:
        DownError.read += 1
        return HOSTILE

    @reason.setter
    def reason(self, value: str) -> None:
        pass


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "starfish_server")
    DownError.read = 0


def retrying(*script: Exception | None) -> Retry:
    return Retry(Scripted(*script, data={"the-key": "the-body"}), initial=1e-6, attempts=3)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    usual = vars(logging.makeLogRecord({})) | {"message": "", "taskName": None}
    return {name: value for name, value in vars(record).items() if name not in usual}


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    return [(record.name, record.levelname, record.getMessage()) for record in caplog.records]


async def test_a_retry_says_why_the_attempt_failed(caplog: pytest.LogCaptureFixture) -> None:
    assert await retrying(DownError()).get_string("the-key") == "the-body"
    [record] = caplog.records
    assert (record.name, record.levelname) == ("starfish_server.layers.retry", "DEBUG")
    assert record.getMessage() == (
        f"get_string: attempt 1 failed, the next one follows in 0.000 s: DownError: {ESCAPED}"
    )
    assert fields(record).keys() == {"operation", "attempts", "wait", "error_type", "reason"}
    assert fields(record)["reason"] == ESCAPED


async def test_giving_up_says_after_how_many_attempts_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StoreUnavailableError):
        await retrying(*[DownError()] * 3).get_string("the-key")
    record = caplog.records[-1]
    assert (record.name, record.levelname) == ("starfish_server.layers.retry", "WARNING")
    assert record.getMessage().startswith("get_string: Retry gave up after 3 attempts in 0.")
    assert record.getMessage().endswith(f" s: DownError: {ESCAPED}")
    assert fields(record).keys() == {"operation", "attempts", "duration", "note", "error_type", "reason"}


async def test_the_text_of_another_librarys_error_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows what it shows; only errors of this library hold no secret."""
    await retrying(ConnectionError("password=hunter2")).get_string("the-key")
    assert "ConnectionError" in caplog.text
    assert "hunter2" not in caplog.text + repr([vars(record) for record in caplog.records])


def test_a_hedge_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = Hedge(Scripted(10.0, 0.1, data={"the-key": "v"}), delay=0.5, budget=1.0)
        await store.get_string("the-key")

    run(main())
    [record] = caplog.records
    assert logged(caplog) == [
        (
            "starfish_server.layers.hedge",
            "DEBUG",
            "get_string: no result after 0.500 s, a second attempt begins",
        )
    ]
    assert fields(record) == {"operation": "get_string", "delay": 0.5}


async def test_a_breaker_logs_each_change_and_names_its_store(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    leaf = Scripted(DownError(), data={})
    store = CircuitBreaker(leaf, minimum_calls=1, probes=1, clock=lambda: now)
    with pytest.raises(DownError):
        await store.get_string("the-key")
    now += 10.0
    await store.get_string("the-key")
    of_memory = "of MemoryObjectStore(0 objects)"
    assert logged(caplog) == [
        (
            "starfish_server.layers.circuit_breaker",
            "WARNING",
            f"the circuit {of_memory} is open for 10 s: 1 of 1 operations failed",
        ),
        (
            "starfish_server.layers.circuit_breaker",
            "DEBUG",
            f"the circuit {of_memory} is half-open: a probe passes",
        ),
        (
            "starfish_server.layers.circuit_breaker",
            "INFO",
            f"the circuit {of_memory} is closed: its probes succeeded",
        ),
    ]
    assert [fields(record) for record in caplog.records] == [
        {"state": state, "store": "MemoryObjectStore(0 objects)"} for state in ("open", "half_open", "closed")
    ]


class Named(MemoryObjectStore):
    def __repr__(self) -> str:
        return f"Named('https://alice:hunter2@host', {HOSTILE})"


async def test_the_repr_of_a_store_forges_no_line_and_shows_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Named):
        async def get_string(self, key: str, **_: object) -> str | None:
            raise StoreUnavailableError("down")

    with pytest.raises(StoreUnavailableError):
        await CircuitBreaker(Broken(data={}), minimum_calls=1).get_string("k")
    [record] = caplog.records
    shown = rf"Named('https://***@host', {ESCAPED})"
    assert vars(record)["store"] == shown
    assert record.getMessage() == f"the circuit of {shown} is open for 10 s: 1 of 1 operations failed"


async def test_a_mirror_names_the_replica_that_is_behind(caplog: pytest.LogCaptureFixture) -> None:
    replicas = [Switched(memory()), Switched(memory())]
    replicas[1].fails = "before"
    await Mirror(memory(), *replicas, require="first").put("the-key", "v")
    [record] = caplog.records
    assert logged(caplog) == [
        (
            "starfish_server.layers.mirror",
            "WARNING",
            "put: missed by replicas [2]: StoreUnavailableError: down",
        )
    ]
    assert fields(record) == {
        "operation": "put",
        "replicas": [2],
        "error_type": "StoreUnavailableError",
        "reason": "down",
    }


async def test_a_read_from_the_backup_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    first = Switched(memory())
    first.fails = "before"
    await Fallback(first, memory()).get_string("the-key")
    [record] = caplog.records
    assert logged(caplog) == [
        (
            "starfish_server.layers.fallback",
            "DEBUG",
            "get_string: the backup is used: StoreUnavailableError: down",
        )
    ]
    assert fields(record).keys() == {"operation", "error_type", "reason"}


async def test_an_expired_result_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    leaf = GatedStore({"k": "v"})
    store = Caching(leaf, ttl=1.0, stale_if_error=60.0, clock=lambda: now)
    await store.get_string("k")
    now += 2.0
    leaf.failure = StoreUnavailableError("down")
    assert await store.get_string("k") == "v"
    [record] = caplog.records
    assert logged(caplog) == [
        (
            "starfish_server.layers.caching",
            "DEBUG",
            "get_string: an expired result is returned: StoreUnavailableError: down",
        )
    ]
    assert fields(record).keys() == {"operation", "error_type", "reason"}


async def test_a_shared_cache_that_is_lost_is_logged(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with RedisServer(tmp_path, password="opensesame") as redis:
        async with Processes(redis.url) as process:
            await settled(process(memory(k="v")))
            redis.kill()
            await eventually(lambda: caplog.records[-1].levelname == "WARNING")
    began, lost = caplog.records
    address = f"redis://127.0.0.1:{redis.port}/0"
    assert {began.name, lost.name} == {"starfish_server.redis"}
    assert (began.levelname, began.getMessage()) == ("INFO", f"shared cache at {address} is used")
    assert lost.getMessage().startswith(f"shared cache at {address} is not used: ")
    assert fields(lost).keys() == {"address", "error_type"}
    assert "sesame" not in caplog.text


def off() -> list[AbstractObjectStore]:
    down = Scripted(*[DownError()] * 9)
    return [
        Retry(Scripted(DownError()), initial=1e-6),
        Retry(Scripted(*[DownError()] * 3), initial=1e-6, attempts=3),
        Fallback(down, memory()),
        Mirror(memory(), down, require="first"),
    ]


@pytest.mark.parametrize("position", range(4))
async def test_nothing_is_made_for_a_line_that_is_off(
    caplog: pytest.LogCaptureFixture, position: int
) -> None:
    store = off()[position]
    caplog.set_level(logging.CRITICAL, "starfish_server")
    await asyncio.gather(store.put("the-key", "v"), store.get_string("the-key"), return_exceptions=True)
    assert (caplog.records, DownError.read) == ([], 0)
