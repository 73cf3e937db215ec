"""The steps of a shutdown: each runs once and within the time limit, even if others fail."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from layers.virtual_time import run
from starfish_server import MemoryObjectStore, StoreClosedError
from starfish_server.lifecycle import GracefulShutdown, GracefulShutdownOptions, ShutdownResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT = 10.0  # virtual seconds, or more than any step here takes


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Set after the test, so that no thread that blocks on it outlives the test for long."""
    event = threading.Event()
    yield event
    event.set()


class Part:
    """A replica manager and a queue that note when they are stopped."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name = name
        self._notes = notes

    async def stop(self) -> None:
        self._notes.append(self._name)

    def close(self) -> None:
        self._notes.append(self._name)


def failed_steps(result: ShutdownResult) -> dict[str, type[BaseException]]:
    return {failure.step: type(failure.error) for failure in result.failures}


async def test_a_store_is_closed_by_the_callback() -> None:
    store = MemoryObjectStore(data={})
    result = await GracefulShutdown(GracefulShutdownOptions(on_shutdown=store.close)).shutdown()
    assert (result.ok, result.failures) == (True, ())
    with pytest.raises(StoreClosedError):
        await store.get_string("k")


async def test_without_options_there_is_nothing_to_do() -> None:
    assert (await GracefulShutdown().shutdown()).ok


async def test_replicas_stop_first_then_the_queue_then_callbacks_in_order_then_stores() -> None:
    notes: list[str] = []

    class Store(MemoryObjectStore):
        async def close(self) -> None:
            notes.append("store")

    async def second() -> None:
        notes.append("second")

    await GracefulShutdown(
        GracefulShutdownOptions(
            on_shutdown=[lambda: notes.append("first"), second],
            stores=[Store(data={})],
            replica_manager=Part("replicas", notes),
            queue=Part("queue", notes),
        )
    ).shutdown()
    assert notes == ["replicas", "queue", "first", "second", "store"]


async def test_concurrent_and_later_callers_share_one_run_and_its_result() -> None:
    runs: list[None] = []

    async def count() -> None:
        runs.append(None)
        await asyncio.sleep(0)

    shutdown = GracefulShutdown(GracefulShutdownOptions(on_shutdown=count))
    first, *others = await asyncio.gather(*(shutdown.shutdown() for _ in range(5)))
    others.append(await shutdown.shutdown())
    assert (len(runs), [other is first for other in others]) == (1, [True] * 5)


async def test_a_caller_in_another_thread_and_loop_gets_the_same_result() -> None:
    shutdown = GracefulShutdown(GracefulShutdownOptions(on_shutdown=lambda: 1 / 0))
    other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(shutdown.shutdown())))
    assert await shutdown.shutdown() is await other


async def test_a_cancelled_caller_leaves_the_run_going() -> None:
    begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def step() -> None:
        begun.set()
        await go_on.wait()
        done.set()

    shutdown = GracefulShutdown(GracefulShutdownOptions(on_shutdown=step))
    caller = asyncio.create_task(shutdown.shutdown())
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    assert ((await shutdown.wait()).ok, done.is_set()) == (True, True)


def test_an_event_loop_that_ends_waits_for_the_steps_still_to_come() -> None:
    notes: list[str] = []
    shutdown = GracefulShutdown(
        GracefulShutdownOptions(on_shutdown=[asyncio.Event().wait, lambda: notes.append("last")])
    )

    async def main() -> asyncio.Task[ShutdownResult]:
        task = asyncio.create_task(shutdown.shutdown())
        for _ in range(3):
            await asyncio.sleep(0)
        return task

    asyncio.run(main())
    assert notes == ["last"]


def raise_system_exit() -> None:
    raise SystemExit(3)


def raise_error() -> None:
    raise OSError("no space left")


async def raise_async() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (raise_error, OSError),
        (raise_system_exit, SystemExit),
        (raise_async, KeyboardInterrupt),
    ],
)
async def test_a_step_that_raises_is_returned_and_logged_and_the_next_runs(
    step: Callable[[], object], error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryObjectStore(data={})
    result = await GracefulShutdown(GracefulShutdownOptions(on_shutdown=step, stores=[store])).shutdown()
    assert failed_steps(result) == {"on_shutdown[0]": error}
    with pytest.raises(StoreClosedError):
        await store.get_string("k")
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in errors] == ["shutdown: on_shutdown[0] failed"]


def test_a_step_that_hangs_lets_the_others_run_and_is_cancelled_at_the_limit() -> None:
    notes: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            notes.append("cancelled")

    async def step() -> None:
        notes.append("next")

    shutdown = GracefulShutdown(GracefulShutdownOptions(on_shutdown=[hang, step], timeout_s=TIMEOUT))
    result, seconds = run(shutdown.shutdown())
    assert (failed_steps(result), notes) == ({"on_shutdown[0]": TimeoutError}, ["next", "cancelled"])
    assert seconds == pytest.approx(TIMEOUT)


def test_a_step_that_is_slow_but_in_time_is_not_cut_short() -> None:
    async def slow() -> None:
        await asyncio.sleep(TIMEOUT * 0.9)

    async def step() -> None: ...

    shutdown = GracefulShutdown(GracefulShutdownOptions(on_shutdown=[slow, step, step], timeout_s=TIMEOUT))
    result, _ = run(shutdown.shutdown())
    assert result.ok


def test_a_step_that_ignores_cancellation_does_not_delay_the_end() -> None:
    give_up = asyncio.Event()

    async def stubborn() -> None:
        while not give_up.is_set():
            try:
                await give_up.wait()
            except asyncio.CancelledError:
                continue

    async def main() -> ShutdownResult:
        result = await GracefulShutdown(options).shutdown()
        give_up.set()
        return result

    options = GracefulShutdownOptions(on_shutdown=stubborn, timeout_s=TIMEOUT)
    result, seconds = run(main())
    assert failed_steps(result) == {"on_shutdown[0]": TimeoutError}
    assert TIMEOUT < seconds < TIMEOUT + 0.1


def test_a_plain_callback_that_blocks_delays_neither_the_loop_nor_the_end(
    released: threading.Event,
) -> None:
    store = MemoryObjectStore(data={})
    shutdown = GracefulShutdown(
        GracefulShutdownOptions(on_shutdown=lambda: released.wait(600), stores=[store], timeout_s=TIMEOUT)
    )
    result, seconds = run(shutdown.shutdown())
    assert failed_steps(result) == {"on_shutdown[0]": TimeoutError}
    assert seconds == pytest.approx(TIMEOUT)
    with pytest.raises(StoreClosedError):
        asyncio.run(store.get_string("k"))


def test_ten_steps_that_hang_still_keep_the_limit() -> None:
    shutdown = GracefulShutdown(
        GracefulShutdownOptions(on_shutdown=[asyncio.Event().wait] * 10, timeout_s=TIMEOUT)
    )
    result, seconds = run(shutdown.shutdown())
    assert len(result.failures) == 10
    assert seconds == pytest.approx(TIMEOUT)


async def test_what_a_plain_callback_returns_is_awaited_on_the_loop() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def close() -> None:
        loops.append(asyncio.get_running_loop())

    await GracefulShutdown(GracefulShutdownOptions(on_shutdown=lambda: close())).shutdown()
    assert loops == [asyncio.get_running_loop()]


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), float("nan")])
def test_a_time_limit_that_cannot_be_kept_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout_s must be more than 0 and finite"):
        GracefulShutdownOptions(timeout_s=timeout)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, 0, 1000, "TERM"])
def test_a_signal_that_cannot_be_handled_is_refused(number: signal.Signals) -> None:
    with pytest.raises(ValueError, match=r"no process can handle SIG|not a valid Signals"):
        GracefulShutdownOptions(signals=[signal.SIGTERM, number])


def test_a_callback_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match=r"on_shutdown\[0\] must be callable"):
        GracefulShutdownOptions(on_shutdown="close")  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("option", ["queue", "replica_manager"])
def test_a_part_that_cannot_be_stopped_is_refused(option: str) -> None:
    with pytest.raises(AttributeError):
        GracefulShutdownOptions(**{option: object()})  # type: ignore[arg-type]  # that is the test


def test_options_of_another_type_are_refused() -> None:
    store = MemoryObjectStore(data={})
    message = r"GracefulShutdown takes GracefulShutdownOptions\(on_shutdown=\.\.\.\), not method"
    with pytest.raises(TypeError, match=message):
        GracefulShutdown(store.close)  # type: ignore[arg-type]  # that is the test


def test_one_store_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(TypeError, match=r"stores is a list of stores; write \[store\]"):
        GracefulShutdownOptions(stores=MemoryObjectStore(data={}))  # type: ignore[arg-type]  # that is the test


async def test_a_plain_callback_runs_even_if_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    options = GracefulShutdownOptions(on_shutdown=lambda: notes.append("flushed"))
    assert (await GracefulShutdown(options).shutdown()).ok
    assert notes == ["flushed"]
