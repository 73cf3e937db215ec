"""A retry budget keeps an outage from multiplying traffic."""

from __future__ import annotations

import asyncio
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from layers.scripted import Scripted
from starfish_server.errors import StoreTimeoutError, StoreUnavailableError
from starfish_server.layers import Retry, RetryBudget, RetryEvent
from starfish_server.layers.retry import policy
from starfish_server.storage.memory import MemoryObjectStore
from starfish_server.testing import Fault, FaultyStore, RecordingStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


def outage() -> FaultyStore:
    """Return a store of which every operation fails."""
    return FaultyStore(MemoryObjectStore(data={}), chance=1.0, faults=[Fault(StoreUnavailableError)])


async def test_a_thousand_calls_in_an_outage_make_at_most_a_fifth_more_attempts() -> None:
    store = RecordingStore(outage())
    budget = RetryBudget()
    layers = [Retry(store, initial=1e-6, budget=budget) for _ in range(2)]
    for n in range(1000):
        with pytest.raises(StoreUnavailableError):
            await layers[n % 2].get_string("k")
    assert len(store.calls) == 1100
    assert budget.tokens == 0


async def test_a_spent_budget_raises_immediately_and_says_so() -> None:
    store = Scripted(StoreUnavailableError("down"), StoreUnavailableError("down"))
    budget = RetryBudget(10, retry_cost=10)
    await budget.take(StoreUnavailableError("down"))
    with pytest.raises(StoreUnavailableError) as caught:
        await Retry(store, budget=budget).get_string("k")
    assert len(store.calls) == 1
    assert caught.value.__notes__[0].endswith("the retry budget is spent")


async def test_a_retry_after_a_timeout_costs_more() -> None:
    budget = RetryBudget(100, retry_cost=5, timeout_cost=10)
    assert await budget.take(StoreTimeoutError("late")) == 10
    assert await budget.take(StoreUnavailableError("down")) == 5
    assert budget.tokens == 85


async def test_a_retry_that_succeeds_gives_its_tokens_back() -> None:
    budget = RetryBudget(100)
    store = Scripted(StoreUnavailableError("down"), StoreTimeoutError("late"))
    await Retry(store, initial=1e-6, budget=budget).get_string("k")
    assert budget.tokens == 95  # the first retry, which failed, stays paid


async def test_a_retry_that_is_cancelled_before_it_is_made_gives_its_tokens_back() -> None:
    budget = RetryBudget(100)
    announced = asyncio.Event()
    store = Scripted(StoreUnavailableError("down"), StoreUnavailableError("busy", retry_after=50.0))
    retry = Retry(
        store,
        initial=1e-6,
        deadline=100.0,
        budget=budget,
        on_retry=lambda event: announced.set() if event.attempt == 2 else None,
    )
    call = asyncio.create_task(retry.get_string("k"))
    await announced.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert budget.tokens == 95  # the first retry, which failed, stays paid


class Stop(BaseException):
    """Ends a program, as `SystemExit` does."""


async def test_a_retry_that_a_hook_keeps_from_being_made_gives_its_tokens_back() -> None:
    def stop(_event: RetryEvent) -> None:
        raise Stop

    budget = RetryBudget(100)
    with pytest.raises(Stop):
        await Retry(outage(), budget=budget, on_retry=stop).get_string("k")
    assert budget.tokens == 100


async def test_calls_whose_first_attempt_succeeds_fill_the_budget_up_to_its_capacity() -> None:
    budget = RetryBudget(10, refund=2)
    await budget.take(StoreUnavailableError("down"))
    retry = Retry(Scripted(), budget=budget)
    seen = []
    for _ in range(4):
        await retry.get_string("k")
        seen.append(budget.tokens)
    assert seen == [7, 9, 10, 10]


async def test_the_last_attempt_pays_nothing() -> None:
    budget = RetryBudget(100)
    with pytest.raises(StoreUnavailableError):
        await Retry(outage(), attempts=2, initial=1e-6, budget=budget).get_string("k")
    assert budget.tokens == 95


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_threads")
def test_threads_lose_no_tokens() -> None:
    budget = RetryBudget(1_000_000)

    async def work() -> None:
        for _ in range(5000):
            budget.give_back(await budget.take(StoreUnavailableError("down")))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: asyncio.run(work()), range(8)))
    assert budget.tokens == 1_000_000


@pytest.mark.parametrize(
    "options", [{"capacity": 0}, {"retry_cost": 0}, {"timeout_cost": 501}, {"refund": -1}]
)
def test_figures_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be 1 or more|never allow"):
        RetryBudget(**options)


def test_repr_shows_what_is_left() -> None:
    assert repr(RetryBudget()) == "RetryBudget(500 of 500 tokens)"


async def end_a_retry_at(place: int) -> bool:
    """End a retry that waits while another gives its tokens back; return whether there is such a place."""
    budget = RetryBudget(100)
    retry = Retry(outage(), initial=1e6, maximum=1e6, deadline=1e9, budget=budget)
    abandoned: Any = retry.get_string("k")
    abandoned.send(None)
    assert budget.tokens == 95
    await budget.take(OSError())
    places = itertools.count()

    def collect(frame: FrameType, _event: str, _called: Any) -> None:
        if frame.f_code.co_filename == policy.__file__ and next(places) == place:
            sys.setprofile(None)
            abandoned.close()

    sys.setprofile(collect)
    budget.give_back(5)
    found = sys.getprofile() is None
    sys.setprofile(None)
    abandoned.close()
    assert budget.tokens == 100
    return found


@pytest.mark.timeout(20)
async def test_the_garbage_collector_may_end_a_retry_that_waits_anywhere() -> None:
    """It runs before or after a call, wherever there is one."""
    places = 0
    while await end_a_retry_at(places):
        places += 1
    assert places >= 2  # the beginning and the end of a method
