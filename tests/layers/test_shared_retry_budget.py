"""`RetryBudget(shared=RedisLimits(...))` against a real redis-server: one budget for many processes."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest

from layers.limits import Fleet
from layers.scripted import Scripted
from starfish_server import MemoryObjectStore, StoreContext
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers import Retry, RetryBudget
from starfish_server.testing import Fault, FaultyStore, RecordingStore
from waiting import eventually

if TYPE_CHECKING:
    from redis_server import RedisServer

pytestmark = pytest.mark.timeout(60)

DOWN = StoreUnavailableError("down")


def made(fleet: Fleet, capacity: int = 50, **options: Any) -> RetryBudget:
    """A budget of a process of its own."""
    return RetryBudget(capacity, shared=fleet.limits(**options))


def scripts_run(server: RedisServer) -> int:
    with server.client() as client:
        stats: Any = client.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_processes_draw_on_one_budget_in_an_outage(fleet: Fleet) -> None:
    leaf = FaultyStore(MemoryObjectStore(data={}), chance=1.0, faults=[Fault(StoreUnavailableError)])
    store = RecordingStore(leaf)
    layers = [Retry(store, initial=1e-6, budget=made(fleet)) for _ in range(3)]
    for number in range(60):
        with pytest.raises(StoreUnavailableError):
            await layers[number % 3].get_string("k")
    assert len(store.calls) == 60 + 10  # 50 tokens, five for each retry


async def test_operations_that_succeed_at_first_never_ask_redis(fleet: Fleet, server: RedisServer) -> None:
    budget = made(fleet)
    await budget.take(DOWN)
    retry, before = Retry(Scripted(), budget=budget), scripts_run(server)
    for _ in range(100):
        await retry.get_string("k")
    assert scripts_run(server) == before
    assert budget.tokens == 50


async def test_a_retry_asks_redis_once(fleet: Fleet, server: RedisServer) -> None:
    budget, before = made(fleet), scripts_run(server)
    await Retry(Scripted(DOWN, DOWN), initial=1e-6, budget=budget).get_string("k")
    assert scripts_run(server) == before + 2


async def test_what_successes_added_is_told_with_the_next_retry(fleet: Fleet) -> None:
    one, two = made(fleet, 10), made(fleet, 10)
    assert [await one.take(DOWN), await one.take(DOWN), await one.take(DOWN)] == [5, 5, 0]
    assert await two.take(DOWN) == 0
    for _ in range(7):
        two.give_back()
    assert await one.take(DOWN) == 0  # not told yet
    assert await two.take(DOWN) == 5
    assert two.tokens == 2
    assert await one.take(DOWN) == 0


async def test_a_retry_that_succeeds_gives_its_tokens_back_to_all(fleet: Fleet) -> None:
    one, two = made(fleet, 10), made(fleet, 10)
    await Retry(Scripted(DOWN), initial=1e-6, budget=one).get_string("k")
    assert [await two.take(DOWN), await two.take(DOWN)] == [5, 0]
    assert await one.take(DOWN) == 5


async def test_two_concurrent_retries_tell_what_was_added_once(fleet: Fleet) -> None:
    one, two = made(fleet, 100), made(fleet, 100)
    for _ in range(20):
        await one.take(DOWN)
    for _ in range(5):
        one.give_back()
    assert sorted(await asyncio.gather(*(one.take(DOWN) for _ in range(3)))) == [0, 0, 5]
    assert await two.take(DOWN) == 0


async def test_the_budget_is_never_over_its_capacity_nor_under_zero(fleet: Fleet) -> None:
    one, two = made(fleet, 10), made(fleet, 10)
    assert [await one.take(DOWN), await two.take(DOWN)] == [5, 5]
    for budget in (one, two):
        for _ in range(30):
            budget.give_back()
    taken = [await budget.take(DOWN) for budget in (one, two, one, two)]
    assert sum(taken) <= 15
    assert min(one.tokens, two.tokens) >= 0


async def test_without_redis_each_process_has_the_budget_for_itself(fleet: Fleet) -> None:
    budgets = [made(fleet, 10, url="redis://127.0.0.1:1/0") for _ in range(2)]
    for budget in budgets:
        assert [await budget.take(DOWN) for _ in range(3)] == [5, 5, 0]


async def test_when_redis_dies_each_process_goes_on_with_what_was_left(fragile: RedisServer) -> None:
    async with Fleet(fragile.url) as fleet:
        one, two = made(fleet, 20), made(fleet, 20)
        assert [await one.take(DOWN), await two.take(DOWN)] == [5, 5]
        fragile.kill()
        assert [await two.take(DOWN) for _ in range(3)] == [5, 5, 0]
        fragile.start()
        await eventually(fleet.connected)
        assert await two.take(DOWN) == 5  # of 20 again, less the 10 that it took alone
        assert two.tokens == 5


async def test_a_redis_that_hangs_costs_one_timeout_and_no_more(fragile: RedisServer) -> None:
    """With one timeout for each retry, this would take longer than a test may."""
    async with Fleet(fragile.url) as fleet:
        budget = made(fleet, 2000, timeout=0.5)
        await budget.take(DOWN)
        fragile.signal(signal.SIGSTOP)
        assert [await budget.take(DOWN) for _ in range(300)] == [5] * 300
        assert budget.tokens == 2000 - 301 * 5
        fragile.signal(signal.SIGCONT)


async def test_a_retry_that_is_cancelled_while_it_asks_forgets_nothing(fragile: RedisServer) -> None:
    async with Fleet(fragile.url) as fleet:
        budget = made(fleet, 10)
        assert [await budget.take(DOWN), await budget.take(DOWN)] == [5, 5]
        for _ in range(5):
            budget.give_back()
        fragile.signal(signal.SIGSTOP)
        taking = asyncio.ensure_future(budget.take(DOWN))
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.wait([taking])
        fragile.kill()
        await eventually(lambda: not fleet.connected())
        fragile.start()
        await eventually(fleet.connected)
        with fragile.client() as client:
            client.set("test:1:budget", 0)
        assert await budget.take(DOWN) == 5


@pytest.mark.parametrize("value", [b"", b"text", b"nan", b"inf", b"-inf", None], ids=str)
async def test_what_other_programs_write_gives_no_more_than_the_capacity(
    fleet: Fleet, server: RedisServer, value: bytes | None
) -> None:
    with server.client() as client:
        if value is None:
            client.rpush("test:1:budget", "a list")
        else:
            client.set("test:1:budget", value)
    budget = made(fleet, 10)
    assert sum([await budget.take(DOWN) for _ in range(5)]) in (0, 10)
    for _ in range(10):
        budget.give_back()
    assert await budget.take(DOWN) == 5


async def test_the_budget_expires_and_says_nothing_of_anybody(fleet: Fleet, server: RedisServer) -> None:
    await made(fleet).take(DOWN)
    assert server.names() == ["test:1:budget"]
    with server.client() as client:
        left: Any = client.pttl("test:1:budget")
    assert 0 < left <= 3_600_000


async def test_closing_the_layer_ends_the_connection(server: RedisServer) -> None:
    before, tasks = server.connections(), asyncio.all_tasks()
    async with Fleet(server.url) as fleet:
        budget = made(fleet)
        retry = Retry(Scripted(DOWN), initial=1e-6, budget=budget)
        await retry.get_string("k")
        assert server.connections() == before + 1
        await retry.close()
        assert asyncio.all_tasks() == tasks
        await eventually(lambda: server.connections() == before)


def test_what_is_no_redis_limits_is_refused() -> None:
    with pytest.raises(TypeError, match="RedisLimits"):
        RetryBudget(shared="redis://localhost")  # type: ignore[arg-type]


def test_repr_shows_where_it_is_shared_and_no_password(fleet: Fleet) -> None:
    budget = made(fleet, 500, url="redis://:hunter2@h:1/2")
    assert repr(budget) == (
        "RetryBudget(500 of 500 tokens, shared=RedisLimits('redis://h:1/2', namespace='test', timeout=10.0))"
    )


class Gated(MemoryObjectStore):
    """Fails reads in flight when it is opened."""

    context_dependent = False

    def __init__(self) -> None:
        super().__init__(data={})
        self.reading, self.opened = asyncio.Event(), asyncio.Event()

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        self.reading.set()
        await self.opened.wait()
        raise DOWN


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_retry_after_the_close_leaves_no_connection_behind(fleet: Fleet, retries: int) -> None:
    leaf, limits = Gated(), fleet.limits()
    inner = FaultyStore(leaf, {"get_string": [Fault(StoreUnavailableError)] * retries})
    store = Retry(inner, initial=1e-6, budget=RetryBudget(shared=limits))
    reading = asyncio.create_task(store.get_string("k"))
    await leaf.reading.wait()
    await store.close()
    leaf.opened.set()
    with pytest.raises(StoreUnavailableError):
        await reading
    assert asyncio.all_tasks() == {asyncio.current_task()}
