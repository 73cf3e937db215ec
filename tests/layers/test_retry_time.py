"""Back-off and deadline, exactly, on a virtual clock."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from layers.scripted import Scripted
from layers.virtual_time import run
from starfish_server.errors import (
    DeleteManyError,
    StoreAccessDeniedError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from starfish_server.layers import Retry, RetryEvent
from starfish_server.layers.timeout import Timeout


def down(times: int, retry_after: float | None = None) -> list[Exception]:
    return [StoreUnavailableError("down", retry_after=retry_after) for _ in range(times)]


async def failure(retry: Retry, key: str = "k") -> BaseException:
    with pytest.raises(StoreUnavailableError) as caught:
        await retry.get_string(key)
    return caught.value


def waits(events: list[RetryEvent]) -> list[float]:
    return [event.wait for event in events]


def test_back_off_is_uniform_up_to_a_doubling_bound_and_a_maximum() -> None:
    bounds = [0.1, 0.2, 0.4, 0.5, 0.5]
    samples: list[list[float]] = []
    for _ in range(300):
        events: list[RetryEvent] = []
        store = Scripted(*down(20))
        run(failure(Retry(store, attempts=6, maximum=0.5, on_retry=events.append)))
        samples.append(waits(events))
    for column, bound in zip(zip(*samples, strict=True), bounds, strict=True):
        assert 0 <= min(column) < 0.1 * bound
        assert 0.9 * bound < max(column) <= bound
        assert 0.4 * bound < sum(column) / len(column) < 0.6 * bound


def test_time_between_attempts_is_the_back_off() -> None:
    events: list[RetryEvent] = []
    store = Scripted(*down(3))
    run(Retry(store, on_retry=events.append).get_string("k"))
    between = [later - sooner for sooner, later in zip(store.times, store.times[1:], strict=False)]
    assert between == pytest.approx(waits(events))


def test_retry_after_of_the_server_is_waited_for() -> None:
    store = Scripted(*down(1, retry_after=7.0))
    _, took = run(Retry(store).get_string("k"))
    assert took == pytest.approx(7.0)


def test_a_longer_back_off_is_not_cut_to_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[RetryEvent] = []
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    run(
        Retry(Scripted(*down(1, retry_after=0.5)), initial=2.0, on_retry=events.append).get_string("k"),
    )
    assert waits(events) == [2.0]


@pytest.mark.parametrize("retry_after", [31.0, float("inf"), 10**400])
def test_a_retry_after_past_the_deadline_gives_up_immediately(retry_after: float) -> None:
    store = Scripted(*down(1, retry_after=retry_after))
    error, took = run(failure(Retry(store)))
    assert (took, len(store.calls)) == (0.0, 1)
    (note,) = error.__notes__
    assert note.endswith("after 1 attempt in 0.000 s: the deadline of 30 s leaves no time for another")


@pytest.mark.parametrize("retry_after", ["1", "Wed, 21 Oct 2015 07:28:00 GMT", float("nan"), -7.0, 0])
def test_a_retry_after_that_is_no_number_of_seconds_is_ignored(retry_after: Any) -> None:
    store = Scripted(*down(1, retry_after=retry_after))
    _, took = run(Retry(store).get_string("k"))
    assert 0.0 <= took <= 0.1
    assert len(store.calls) == 2


def test_retry_after_of_a_key_in_delete_many_is_waited_for() -> None:
    (busy,) = down(1, retry_after=3.0)
    denied = StoreAccessDeniedError("no")
    store = Scripted(DeleteManyError({"a": busy, "b": denied}))

    async def main() -> None:
        with pytest.raises(DeleteManyError):
            await Retry(store).delete_many(["a", "b"])

    _, took = run(main())
    assert took == pytest.approx(3.0)


def test_the_first_attempt_ends_at_the_deadline() -> None:
    store = Scripted(3.0)
    error, took = run(failure(Retry(store, deadline=1.0)))
    assert took == pytest.approx(1.0)
    assert isinstance(error, StoreTimeoutError)
    assert str(error) == "get_string 'k': the deadline of 1 s has passed"
    assert len(store.calls) == 1


def test_each_event_loop_has_deadlines_of_its_own() -> None:
    retry = Retry(Scripted(*[3.0] * 3), deadline=1.0)

    async def main() -> list[BaseException]:
        first = await failure(retry)
        loop = asyncio.get_running_loop()
        # Not the default executor: to end it, the loop waits for some of its time, which is virtual.
        with ThreadPoolExecutor() as threads:
            second, _ = await loop.run_in_executor(threads, lambda: run(failure(retry)))
        return [first, second, await failure(retry)]

    errors, _ = run(main())
    assert [type(error) for error in errors] == [StoreTimeoutError] * 3


def test_without_a_deadline_attempts_take_as_long_as_they_take() -> None:
    store = Scripted(*down(1), 1e6, data={"k": "v"})
    found, took = run(Retry(store, deadline=math.inf).get_string("k"))
    assert found == "v"
    assert took == pytest.approx(1e6)


def test_a_retry_after_as_good_as_never_gives_up_even_without_a_deadline() -> None:
    store = Scripted(*down(1, retry_after=10**400))
    _, took = run(failure(Retry(store, deadline=math.inf)))
    assert (took, len(store.calls)) == (0.0, 1)


def test_no_back_off_ends_after_the_deadline() -> None:
    for _ in range(50):
        store = Scripted(*down(1000))
        _, took = run(failure(Retry(store, attempts=1000, initial=1.0, deadline=12.0)))
        assert took < 12.0
        assert len(store.calls) < 1000


def test_a_later_attempt_ends_at_the_deadline() -> None:
    (first,) = down(1)
    error, took = run(failure(Retry(Scripted(first, 100.0), deadline=8.0)))
    assert took == pytest.approx(8.0)
    assert isinstance(error, StoreTimeoutError)
    assert str(error) == "get_string 'k': the deadline of 8 s has passed"
    assert error.__cause__ is first
    assert "after 2 attempts in 8.000 s" in error.__notes__[0]


def test_a_delete_many_that_ends_at_the_deadline_names_every_key_left() -> None:
    denied = StoreAccessDeniedError("no")
    store = Scripted(DeleteManyError({"a": denied, "b": StoreUnavailableError("down")}), 100.0)

    async def main() -> DeleteManyError:
        with pytest.raises(DeleteManyError) as caught:
            await Retry(store, deadline=8.0).delete_many(["a", "b", "c"])
        return caught.value

    error, took = run(main())
    assert took == pytest.approx(8.0)
    assert error.failures["a"] is denied
    assert isinstance(error.failures["b"], StoreTimeoutError)
    assert list(error.failures) == ["a", "b"]


def test_with_a_timeout_inside_nothing_runs_past_the_deadline() -> None:
    """Each attempt ends at its own limit, the last one at the deadline at the latest."""
    store = Scripted(*[1000.0] * 100)
    retry = Retry(Timeout(store, seconds=4.0), attempts=100, deadline=15.0)
    error, took = run(failure(retry))
    assert isinstance(error, StoreTimeoutError)
    assert 11.0 < took <= 15.0 + 1e-9
    assert len(store.calls) >= 3


def test_a_timeout_inside_keeps_its_own_message() -> None:
    store = Scripted(*[1000.0] * 4)
    error, took = run(failure(Retry(Timeout(store, seconds=2.0))))
    assert str(error) == "get_string 'k': took longer than 2 s"
    assert 8.0 <= took <= 8.7
