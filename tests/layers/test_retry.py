"""Which failures are tried again, how often, and what is raised in the end."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from layers.scripted import Scripted
from starfish_server.errors import (
    DeleteManyError,
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
from starfish_server.layers.base import CallRecord, Layer
from starfish_server.layers.retry import Retry, RetryEvent


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
async def test_what_failed_in_passing_is_tried_again(error: Exception) -> None:
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
async def test_what_another_try_cannot_help_is_raised_at_once(error: Exception) -> None:
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
    assert note.startswith("Retry gave up on get_string 'k' after 3 attempts in 0.")
    assert pickle.loads(pickle.dumps(caught.value)).args == ("down 3",)


async def test_an_outer_retry_does_not_start_over() -> None:
    store = Scripted(*down(20))
    with pytest.raises(StoreUnavailableError):
        await quick(Layer(quick(store, 3)), 5).get_string("k")
    assert len(store.calls) == 3


async def test_an_outer_retry_does_not_start_over_on_keys_of_a_delete_many() -> None:
    class Rewrapping(Layer):
        async def delete_many(self, keys: list[str], *, context: object = None) -> None:
            try:
                await self.inner.delete_many(keys)
            except DeleteManyError as error:
                raise DeleteManyError(error.failures) from error

    store = Scripted(*[DeleteManyError({"a": StoreUnavailableError("down")}) for _ in range(20)])
    with pytest.raises(DeleteManyError):
        await quick(Rewrapping(quick(store, 3)), 5).delete_many(["a"])
    assert len(store.calls) == 3


async def test_the_same_error_object_in_a_later_operation_is_tried_again() -> None:
    error = StoreUnavailableError("down")
    store = Scripted(error, error, error)
    retry = quick(store, 2)
    with pytest.raises(StoreUnavailableError):
        await retry.get_string("k")
    assert await retry.get_string("k") is None
    assert len(store.calls) == 4


async def test_the_leaf_is_told_that_its_retries_are_taken_over() -> None:
    store = Scripted()
    Retry(Layer(store))
    assert store.retries_taken_over == 1


async def test_observers_see_attempts_and_the_time_between_them() -> None:
    record = CallRecord()
    try:
        await Retry(Scripted(*down(2)), initial=0.001).get_string("k")
    finally:
        record.close()
    assert record.attempts == 3
    assert 0 < record.waited <= 0.003


async def test_on_retry_is_told_of_each_back_off() -> None:
    events: list[RetryEvent] = []
    errors = down(2)
    await quick(Scripted(*errors), on_retry=events.append).put("k", "v")
    assert [(e.operation, e.target, e.attempt, e.error) for e in events] == [
        ("put", "k", 1, errors[0]),
        ("put", "k", 2, errors[1]),
    ]


async def test_a_hook_that_raises_is_logged_and_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def on_retry(event: RetryEvent) -> None:
        raise RuntimeError("hook")

    assert await quick(Scripted(*down(1), data={"k": "v"}), on_retry=on_retry).get_string("k") == "v"
    assert [r.message for r in caplog.records] == ["on_retry failed; the operation goes on"]


async def test_cancellation_during_back_off_passes_at_once() -> None:
    waiting = asyncio.Event()
    store = Scripted(StoreUnavailableError("down", retry_after=20.0))
    task = asyncio.create_task(Retry(store, on_retry=lambda _: waiting.set()).get_string("k"))
    await waiting.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 1)
    assert len(store.calls) == 1


async def test_cancellation_of_a_repeated_try_is_not_tried_again() -> None:
    store = Scripted(*down(1), 30.0)
    task = asyncio.create_task(quick(store).get_string("k"))
    await asyncio.wait_for(store.called_twice.wait(), 5)
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
