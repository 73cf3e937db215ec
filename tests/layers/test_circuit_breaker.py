"""`CircuitBreaker` opens at a rate of failures, lets few probes through, and never gets stuck."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any

import pytest

from layers.virtual_time import run
from starfish_server.errors import (
    CircuitOpenError,
    DeleteManyError,
    InvalidKeyError,
    StoreAccessDeniedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers.base import Layer, Operation
from starfish_server.layers.circuit_breaker import CircuitBreaker
from starfish_server.storage.memory import MemoryObjectStore
from starfish_server.testing import Fault, FaultyStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Backend(Layer):
    """Raises `error` if it is set, and waits for `gate` first; counts what is inside."""

    def __init__(self) -> None:
        super().__init__(MemoryObjectStore(data={"k": "v"}))
        self.error: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls = 0

    async def perform(self, operation: Operation[Any]) -> Any:
        self.calls += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return await self._inner.perform(operation)


def made(**options: Any) -> tuple[CircuitBreaker, Backend, Clock]:
    backend, clock = Backend(), Clock()
    return CircuitBreaker(backend, clock=clock, **({"minimum_calls": 4} | options)), backend, clock


async def fail(breaker: CircuitBreaker, backend: Backend, times: int = 1) -> None:
    before, backend.error = backend.error, StoreUnavailableError("down")
    for _ in range(times):
        with pytest.raises(StoreUnavailableError):
            await breaker.get_string("k")
    backend.error = before


async def half_open(**options: Any) -> tuple[CircuitBreaker, Backend, Clock]:
    breaker, backend, clock = made(**options)
    await fail(breaker, backend, 4)
    assert breaker.state == "open"
    clock.now += 10.0
    assert breaker.state == "half_open"
    return breaker, backend, clock


async def start(breaker: CircuitBreaker, count: int) -> list[asyncio.Task[str | None]]:
    tasks = [asyncio.create_task(breaker.get_string("k")) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_the_circuit_opens_at_the_failure_rate_and_sends_nothing_more() -> None:
    breaker, backend, clock = made()
    await breaker.get_string("k")
    await breaker.get_string("k")
    await fail(breaker, backend)
    assert breaker.state == "closed"
    await fail(breaker, backend)
    assert breaker.state == "open"
    clock.now += 2.5
    with pytest.raises(CircuitOpenError) as caught:
        await breaker.put("a", "b")
    assert backend.calls == 4
    assert (caught.value.operation, caught.value.key) == ("put", "a")
    assert caught.value.retry_after == pytest.approx(7.5)
    assert caught.value.undetermined is False
    assert str(caught.value) == "put 'a': the circuit is open after too many failures; nothing was sent"


async def test_fewer_outcomes_than_the_minimum_never_open_it() -> None:
    breaker, backend, _ = made(minimum_calls=5)
    await fail(breaker, backend, 4)
    assert breaker.state == "closed"


async def test_a_success_that_reaches_the_minimum_opens_it_too() -> None:
    breaker, backend, _ = made()
    await fail(breaker, backend, 3)
    await breaker.get_string("k")
    assert breaker.state == "open"


async def test_outcomes_older_than_the_window_do_not_count() -> None:
    breaker, backend, clock = made(window=30.0)
    await fail(breaker, backend, 3)
    clock.now += 29.9
    assert breaker.state == "closed"
    clock.now += 0.1
    await fail(breaker, backend, 3)
    assert breaker.state == "closed"
    await fail(breaker, backend)
    assert breaker.state == "open"


async def test_outcomes_within_the_window_count() -> None:
    breaker, backend, clock = made(window=30.0)
    for _ in range(3):
        await fail(breaker, backend)
        clock.now += 9.9
    assert breaker.state == "closed"
    await fail(breaker, backend)
    assert breaker.state == "open"


@pytest.mark.parametrize("kind", [StoreAccessDeniedError, VersionConflictError])
async def test_a_refusal_of_the_backend_is_a_success(kind: type[Exception]) -> None:
    breaker, backend, _ = made()
    backend.error = kind("no")
    for _ in range(4):
        with pytest.raises(kind):
            await breaker.get_string("k")
    await fail(breaker, backend, 3)
    assert breaker.state == "closed"
    await fail(breaker, backend)
    assert breaker.state == "open"


async def test_a_miss_is_a_success() -> None:
    breaker, backend, _ = made()
    for _ in range(10):
        assert await breaker.get_string("missing") is None
    await fail(breaker, backend, 9)
    assert breaker.state == "closed"


@pytest.mark.parametrize("error", [InvalidKeyError("bad"), KeyError("a mistake"), asyncio.CancelledError()])
async def test_what_says_nothing_about_the_backend_does_not_count(error: BaseException) -> None:
    breaker, backend, _ = made()
    backend.error = error
    for _ in range(100):
        with pytest.raises(type(error)):
            await breaker.get_string("k")
    await fail(breaker, backend, 4)
    assert breaker.state == "open"


@pytest.mark.parametrize(
    "error",
    [
        StoreTimeoutError("slow"),
        DeleteManyError({"a": StoreAccessDeniedError("no"), "b": StoreUnavailableError("down")}),
    ],
)
async def test_every_kind_of_unavailability_counts(error: Exception) -> None:
    breaker, backend, _ = made()
    backend.error = error
    for _ in range(4):
        with pytest.raises(type(error)):
            await breaker.delete_many(["a", "b"])
    assert breaker.state == "open"


async def test_half_open_lets_few_through_and_closes_when_they_succeed() -> None:
    breaker, backend, _ = await half_open(probes=3)
    backend.gate.clear()
    tasks = await start(breaker, 10)
    assert backend.calls == 4 + 3
    backend.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[:3] == ["v"] * 3
    assert {type(outcome) for outcome in outcomes[3:]} == {CircuitOpenError}
    assert breaker.state == "closed"
    await fail(breaker, backend, 3)
    assert breaker.state == "closed", "failures of before count"


async def test_a_failed_probe_opens_the_circuit_for_the_whole_time() -> None:
    breaker, backend, clock = await half_open()
    assert await breaker.get_string("k") == "v"
    await fail(breaker, backend)
    assert breaker.state == "open"
    clock.now += 9.9
    with pytest.raises(CircuitOpenError):
        await breaker.get_string("k")
    clock.now += 0.2
    assert await breaker.get_string("k") == "v"


@pytest.mark.parametrize("error", [asyncio.CancelledError(), InvalidKeyError("bad"), KeyError("a mistake")])
async def test_a_probe_without_a_verdict_is_given_back(error: BaseException) -> None:
    breaker, backend, _ = await half_open(probes=1)
    backend.error = error
    for _ in range(10):
        with pytest.raises(type(error)):
            await breaker.get_string("k")
    assert breaker.state == "half_open"
    backend.error = None
    assert await breaker.get_string("k") == "v"
    assert breaker.state == "closed"


async def test_a_probe_that_is_cancelled_from_outside_is_given_back() -> None:
    breaker, backend, _ = await half_open(probes=1)
    backend.gate.clear()
    (probe,) = await start(breaker, 1)
    probe.cancel()
    await asyncio.wait([probe])
    backend.gate.set()
    assert await breaker.get_string("k") == "v"
    assert breaker.state == "closed"


class Stop(BaseException):
    """Ends a program, as `SystemExit` does."""


async def test_a_probe_that_a_log_filter_ends_is_given_back(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: logging.LogRecord) -> bool:
        raise Stop

    breaker, _, _ = await half_open(probes=1)
    logger = logging.getLogger(CircuitBreaker.__module__)
    caplog.set_level(logging.DEBUG, logger.name)
    logger.addFilter(broken)
    try:
        with pytest.raises(Stop):
            await breaker.get_string("k")
    finally:
        logger.removeFilter(broken)
    assert await breaker.get_string("k") == "v"
    assert breaker.state == "closed"


async def test_a_slow_probe_of_an_earlier_trial_neither_decides_nor_adds_to_the_probes() -> None:
    breaker, backend, clock = await half_open(probes=2)
    backend.gate.clear()
    (slow,) = await start(breaker, 1)
    backend.gate = asyncio.Event()
    backend.gate.set()
    await fail(breaker, backend)
    clock.now += 10.0
    backend.gate.clear()
    more = await start(breaker, 5)
    assert backend.calls == 4 + 2 + 1, "two in flight, the slow one included"
    slow.cancel()
    backend.gate.set()
    await asyncio.wait([slow, *more])
    assert await breaker.get_string("k") == "v"
    assert breaker.state == "closed"


async def test_a_slow_probe_of_an_earlier_trial_does_not_keep_the_circuit_from_closing() -> None:
    breaker, backend, clock = await half_open(probes=2)
    backend.gate.clear()
    (slow,) = await start(breaker, 1)
    backend.gate = asyncio.Event()
    backend.gate.set()
    await fail(breaker, backend)
    clock.now += 10.0
    assert [await breaker.get_string("k") for _ in range(2)] == ["v", "v"]
    assert breaker.state == "closed"
    slow.cancel()


async def test_the_garbage_collector_may_end_a_probe_anywhere() -> None:
    breaker, backend, clock = await half_open(probes=2)
    backend.gate.clear()
    abandoned = breaker.get_string("k")
    abandoned.send(None)
    backend.gate.set()

    class Collecting(Clock):
        def __call__(self) -> float:
            abandoned.close()
            return super().__call__()

    clock.__class__ = Collecting
    assert await breaker.get_string("k") == "v"
    assert await breaker.get_string("k") == "v"
    assert breaker.state == "closed"


async def test_an_operation_that_began_before_the_circuit_opened_decides_nothing_later() -> None:
    breaker, backend, clock = made()
    backend.gate.clear()
    slow = await start(breaker, 4)
    held, backend.gate = backend.gate, asyncio.Event()
    backend.gate.set()
    await fail(breaker, backend, 4)
    clock.now += 10.0
    backend.error = StoreUnavailableError("down")
    held.set()
    await asyncio.wait(slow)
    assert breaker.state == "half_open"
    backend.error = None
    for _ in range(3):
        await breaker.get_string("k")
    assert breaker.state == "closed"


async def test_a_stream_counts_when_it_opens_and_when_a_chunk_fails() -> None:
    faults = [Fault(StoreUnavailableError, after_bytes=1)] * 4
    leaf = FaultyStore(MemoryObjectStore(data={"k": "v"}), {"open": faults})
    breaker = CircuitBreaker(leaf, minimum_calls=7)
    for _ in range(4):
        assert breaker.state == "closed"
        reader = await breaker.open("k")
        assert reader is not None
        with pytest.raises(StoreUnavailableError):
            await reader.read()
    assert breaker.state == "open"


async def test_a_chunk_that_fails_in_a_probe_opens_the_circuit() -> None:
    clock = Clock()
    faults = [Fault(StoreUnavailableError)] * 4 + [Fault(StoreUnavailableError, after_bytes=1)]
    leaf = FaultyStore(MemoryObjectStore(data={"k": "v"}), {"open": faults})
    breaker = CircuitBreaker(leaf, minimum_calls=4, clock=clock)
    for _ in range(4):
        with pytest.raises(StoreUnavailableError):
            await breaker.open("k")
    clock.now += 10.0
    reader = await breaker.open("k")
    assert reader is not None
    assert breaker.state == "half_open"
    with pytest.raises(StoreUnavailableError):
        await reader.read()
    assert breaker.state == "open"


async def test_a_signed_url_passes_an_open_circuit_and_counts_for_nothing() -> None:
    class Signing(MemoryObjectStore):
        context_dependent = False

        async def signed_url(self, key: str, **_: Any) -> str:
            return f"memory:{key}"

    clock = Clock()
    leaf = FaultyStore(Signing(data={}), {"get_string": [Fault(StoreUnavailableError)] * 4})
    breaker = CircuitBreaker(leaf, minimum_calls=4, clock=clock)
    for _ in range(4):
        await breaker.signed_url("k")
        with pytest.raises(StoreUnavailableError):
            await breaker.get_string("k")
    assert breaker.state == "open"
    assert await breaker.signed_url("k") == "memory:k"
    clock.now += 10.0
    for _ in range(3):
        await breaker.signed_url("k")
    assert breaker.state == "half_open"


async def schedule(seed: int) -> int:
    """Play one random schedule and return how often the circuit opened; raises if a rule is broken."""
    chance = random.Random(seed)
    clock = asyncio.get_running_loop().time
    probes = chance.randrange(1, 5)

    class Random(Layer):
        """Counts the operations that began while the circuit was not closed."""

        healthy = False
        inside = most = 0

        async def perform(self, operation: Operation[Any]) -> Any:
            probe = breaker.state != "closed"
            self.inside += probe
            self.most = max(self.most, self.inside)
            try:
                await asyncio.sleep(chance.choice([0.0, 0.01, 1.0, 15.0]))
                if not self.healthy and chance.random() < 0.7:
                    raise chance.choice([StoreUnavailableError, InvalidKeyError, KeyError])("no")
            finally:
                self.inside -= probe

    backend = Random(MemoryObjectStore(data={}))
    breaker = CircuitBreaker(
        backend,
        failure_rate=chance.uniform(0.1, 0.9),
        minimum_calls=chance.randrange(1, 10),
        window=chance.choice([1.0, 30.0]),
        open_seconds=chance.choice([0.1, 5.0]),
        probes=probes,
        clock=clock,
    )
    opened, before = 0, "closed"
    tasks = []
    for _ in range(60):
        tasks.append(asyncio.create_task(breaker.get_string("k")))
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
        await asyncio.sleep(chance.choice([0.0, 0.0, 0.1, 3.0]))
        opened += breaker.state == "open" != before
        before = breaker.state
        assert backend.most <= probes
    await asyncio.wait(tasks)
    for task in tasks:
        task.cancelled() or task.exception()
    backend.healthy = True
    await asyncio.sleep(40.0)  # longer than the window and than it stays open
    for _ in range(probes):
        await breaker.get_string("k")
    assert breaker.state == "closed"
    assert backend.most <= probes
    return opened


def test_random_schedules_never_leave_it_stuck_and_never_exceed_the_probes(full: bool) -> None:
    schedules = 1000 if full else 100
    assert sum(run(schedule(seed))[0] for seed in range(schedules)) > schedules // 2


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"failure_rate": 0.0}, ValueError),
        ({"failure_rate": 1.1}, ValueError),
        ({"minimum_calls": 0}, ValueError),
        ({"window": -1}, ValueError),
        ({"open_seconds": "10"}, TypeError),
        ({"probes": 0}, ValueError),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        made(**options)


def test_repr_shows_the_settings() -> None:
    shown = "failure_rate=0.5, minimum_calls=20, window=30.0, open_seconds=10.0, probes=3"
    assert repr(CircuitBreaker(MemoryObjectStore(data={}))).startswith(f"CircuitBreaker({shown}, ")


async def test_a_source_of_an_upload_that_fails_says_nothing_of_the_backend() -> None:
    store = CircuitBreaker(MemoryObjectStore({}), minimum_calls=1)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        raise StoreUnavailableError("another store is down")

    with pytest.raises(StoreUnavailableError, match="another store"):
        await store.upload("k", chunks())
    assert store.state == "closed"
    with pytest.raises(TypeError, match="chunks"):
        await store.upload("k", 5)  # type: ignore[arg-type]  # that it is refused is the test


async def test_an_upload_that_is_refused_for_its_chunks_gives_its_probe_back() -> None:
    breaker, _, _ = await half_open(probes=1)
    with pytest.raises(TypeError, match="chunks"):
        await breaker.upload("k", 5)  # type: ignore[arg-type]  # that it is refused is the test
    assert await breaker.get_string("k") == "v"
    assert breaker.state == "closed"
