"""Which failures are retried, how often, and what is raised in the end."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import pickle
from dataclasses import dataclass
from typing import Any

import pytest

from layers.scripted import Scripted
from starfish_server.context import retries_outside
from starfish_server.errors import (
    InvalidKeyError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreError,
    StoreNotSupportedError,
    StoreOverloadedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers import Retry, RetryEvent
from starfish_server.layers.base import Layer, Operation, T
from starfish_server.operations import Bodies, GetString, Kind
from starfish_server.storage.custom import CustomObjectStore
from starfish_server.storage.memory import MemoryObjectStore
from starfish_server.testing import Fault, FaultyStore


def quick(inner: Scripted | Layer, attempts: int = 4, **options: object) -> Retry:
    return Retry(inner, attempts=attempts, initial=1e-6, maximum=1e-6, **options)  # type: ignore[arg-type]  # per test


def down(times: int) -> list[Exception]:
    return [StoreUnavailableError(f"down {n}") for n in range(1, times + 1)]


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailableError("down"),
        StoreTimeoutError("late"),
        StoreOverloadedError("slow down"),
        ConnectionResetError("reset"),
        TimeoutError("late"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_transient_failure_is_retried(error: Exception) -> None:
    store = Scripted(error, data={"k": "v"})
    assert await quick(store).get_string("k") == "v"
    assert store.calls == [("get_string", "k"), ("get_string", "k")]


@pytest.mark.parametrize(
    "error",
    [
        InvalidKeyError("bad"),
        StoreAccessDeniedError("no"),
        StoreClosedError("closed"),
        StoreNotSupportedError("cannot"),
        VersionConflictError("changed"),
        ValueError("bad"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_permanent_failure_is_raised_immediately(error: Exception) -> None:
    store = Scripted(error)
    with pytest.raises(type(error)) as caught:
        await quick(store).get_string("k")
    assert caught.value is error
    assert len(store.calls) == 1


async def test_retry_on_adds_types_but_never_a_closed_store() -> None:
    store = Scripted(LookupError("odd"), StoreClosedError("closed"))
    with pytest.raises(StoreClosedError):
        await quick(store, retry_on=(LookupError, StoreError)).get_string("k")
    assert len(store.calls) == 2


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_attempts_on_the_wire_are_exactly_those_asked_for(attempts: int) -> None:
    store = Scripted(*down(20))
    with pytest.raises(StoreUnavailableError):
        await quick(store, attempts).put("k", "v")
    assert len(store.calls) == attempts


async def test_the_last_error_is_raised_as_it_came_and_says_attempts_and_time() -> None:
    errors = down(3)
    errors[2].__cause__ = cause = OSError("wire")
    with pytest.raises(StoreUnavailableError) as caught:
        await quick(Scripted(*errors), 3).get_string("k")
    assert caught.value is errors[2]
    assert caught.value.__cause__ is cause
    (note,) = caught.value.__notes__
    assert note.startswith("Retry gave up after 3 attempts in 0.")
    assert pickle.loads(pickle.dumps(caught.value)).args == ("down 3",)


async def test_an_error_that_is_raised_again_and_again_keeps_one_note() -> None:
    error = StoreUnavailableError("down")
    error.add_note("from the backend")
    retry = quick(Scripted(*[error] * 6), 2)
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            await retry.get_string("k")
    assert error.__notes__[0] == "from the backend"
    assert len(error.__notes__) == 2


async def test_a_retry_inside_another_one_leaves_the_attempts_to_it() -> None:
    store = Scripted(*down(20))
    with pytest.raises(StoreUnavailableError):
        await quick(Layer(quick(store, 3)), 5).get_string("k")
    assert len(store.calls) == 5


async def test_one_error_object_that_two_operations_share_is_retried_in_both() -> None:
    """As a leaf raises it that shares one read in flight: `b` meets the error that `a` gives up on."""
    error = StoreUnavailableError("down")
    b_waits, a_ended = asyncio.Event(), asyncio.Event()

    class Shared(Scripted):
        async def perform(self, operation: Operation[T]) -> T:
            if operation.key == "b" and not b_waits.is_set():
                b_waits.set()
                await a_ended.wait()
                raise error
            return await super().perform(operation)

    retry = quick(Shared(error, error, data={"b": "v"}), 2)
    b = asyncio.create_task(retry.get_string("b"))
    await b_waits.wait()
    with pytest.raises(StoreUnavailableError):
        await retry.get_string("a")
    a_ended.set()
    assert await b == "v"


async def test_the_same_error_object_in_a_later_operation_is_retried() -> None:
    error = StoreUnavailableError("down")
    store = Scripted(error, error, error)
    retry = quick(store, 2)
    with pytest.raises(StoreUnavailableError):
        await retry.get_string("k")
    assert await retry.get_string("k") is None
    assert len(store.calls) == 4


async def test_an_operation_that_is_not_idempotent_is_not_retried() -> None:
    @dataclass(slots=True, eq=False)
    class Append(Operation[None]):
        kind = Kind("append", "push", Bodies.WRITTEN, writes=True)
        idempotent = False
        key: str = "k"
        context: None = None
        notes: dict[str, Any] | None = None
        send = rename = restore = None  # type: ignore[assignment]  # it fails before any is called

    store = Scripted(*down(1))
    with pytest.raises(StoreUnavailableError):
        await quick(store).perform(Append())
    assert len(store.calls) == 1


async def test_what_is_inside_learns_that_its_failures_are_retried() -> None:
    seen: list[bool] = []

    class Looking(Scripted):
        async def perform(self, operation: Operation[T]) -> T:
            seen.append(bool(retries_outside.get()))
            return await super().perform(operation)

    store = Looking(*down(1))
    hook: list[bool] = []
    await quick(store, on_retry=lambda _: hook.append(bool(retries_outside.get()))).get_string("k")
    await store.get_string("k")
    assert seen == [True, True, False]
    assert hook == [False]
    assert not retries_outside.get()


@pytest.mark.parametrize("script", [[60.0], [*down(1), 60.0]], ids=["first", "later"])
async def test_an_attempt_may_be_closed_in_another_context(script: list[Any]) -> None:
    store = Scripted(*script)
    reading = quick(store).get_string("k")
    context = contextvars.copy_context()
    waits_for = context.run(reading.send, None)
    while len(store.calls) < len(script):
        await asyncio.wait([waits_for])
        waits_for = context.run(reading.send, None)
    reading.close()


async def test_observers_see_attempts_and_the_seconds_between_them() -> None:
    operation = GetString("k").observed()
    await Retry(Scripted(*down(2)), initial=0.001).perform(operation)
    assert operation.notes is not None
    assert operation.notes["attempts"] == 3
    assert 0 < operation.notes["waited"] <= 0.003


async def test_each_retry_is_logged_at_debug_and_giving_up_at_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "starfish_server")
    with pytest.raises(StoreUnavailableError):
        await quick(Scripted(*down(2)), 2).put("the-key", "the-body")
    retried, gave_up = caplog.records
    assert (retried.levelname, gave_up.levelname) == ("DEBUG", "WARNING")
    assert retried.message == (
        "put: attempt 1 failed, the next one follows in 0.000 s: StoreUnavailableError: down 1"
    )
    assert gave_up.message.startswith("put: Retry gave up after 2 attempts in 0.")
    assert {"operation": "put", "attempts": 2, "error_type": "StoreUnavailableError"}.items() <= vars(
        gave_up
    ).items()
    assert "the-key" not in caplog.text
    assert "the-body" not in caplog.text


async def test_on_retry_is_told_of_each_back_off() -> None:
    events: list[RetryEvent] = []
    errors = down(2)
    await quick(Scripted(*errors), on_retry=events.append).put("k", "v")
    assert [(e.operation.name, e.operation.key, e.attempt, e.error) for e in events] == [
        ("put", "k", 1, errors[0]),
        ("put", "k", 2, errors[1]),
    ]


async def test_a_hook_that_raises_is_logged_and_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def on_retry(event: RetryEvent) -> None:
        raise RuntimeError("hook")

    assert await quick(Scripted(*down(1), data={"k": "v"}), on_retry=on_retry).get_string("k") == "v"
    assert [r.message for r in caplog.records] == ["on_retry failed; the operation continues"]


async def test_cancellation_during_back_off_passes_immediately() -> None:
    waiting = asyncio.Event()
    store = Scripted(StoreUnavailableError("down", retry_after=20.0))
    task = asyncio.create_task(Retry(store, on_retry=lambda _: waiting.set()).get_string("k"))
    await waiting.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(store.calls) == 1


async def test_cancellation_of_a_later_attempt_is_not_retried() -> None:
    store = Scripted(*down(1), 30.0)
    task = asyncio.create_task(quick(store).get_string("k"))
    await store.called_twice.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(store.calls) == 2


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"attempts": 0}, ValueError),
        ({"attempts": True}, TypeError),
        ({"initial": 0}, ValueError),
        ({"maximum": float("nan")}, ValueError),
        ({"deadline": "30"}, TypeError),
        ({"initial": 10**400}, ValueError),
        ({"maximum": 10**400}, ValueError),
        ({"deadline": 10**400}, ValueError),
        ({"retry_on": ConnectionError}, TypeError),
        ({"retry_on": (asyncio.CancelledError,)}, TypeError),
        ({"retry_on": (InvalidKeyError,)}, ValueError),
        ({"on_retry": asyncio.sleep}, TypeError),
        ({"on_retry": "print"}, TypeError),
        ({"budget": 500}, TypeError),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Retry(Scripted(), **options)  # type: ignore[arg-type]  # that is the test


def test_repr_shows_the_settings() -> None:
    shown = repr(Retry(Layer(Scripted()), attempts=2, retry_on=(LookupError,)))
    assert shown.startswith(
        "Retry(attempts=2, initial=0.1, maximum=5.0, deadline=30.0, retry_on=['LookupError'], Layer("
    )


async def test_a_task_that_outlives_the_attempt_that_started_it_has_retries_of_its_own() -> None:
    flaky = FaultyStore(MemoryObjectStore({"k": "v"}), {"get_string": [Fault(StoreUnavailableError)]})
    ended = asyncio.Event()
    started: list[asyncio.Task[str | None]] = []

    async def later() -> str | None:
        await ended.wait()
        return await Retry(flaky, initial=0.001).get_string("k")

    async def on_get(key: str) -> str:
        started.append(asyncio.create_task(later()))
        return key

    assert await Retry(CustomObjectStore(on_get=on_get)).get_string("a") == "a"
    ended.set()
    assert await started[0] == "v"
