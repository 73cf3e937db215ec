"""`RateLimit` keeps each caller to its rate, exactly, in bounded memory."""

from __future__ import annotations

import asyncio
import random
import sys
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from layers.scripted import Scripted
from layers.virtual_time import run
from starfish_server.context import StoreContext
from starfish_server.errors import StoreOverloadedError
from starfish_server.layers.rate_limit import RateLimit
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from types import FrameType


class Clock:
    now = 1_000_000.3

    def __call__(self) -> float:
        return self.now


def made(**options: Any) -> tuple[RateLimit, Scripted, Clock]:
    leaf, clock = Scripted(), Clock()
    return RateLimit(leaf, clock=clock, **({"rate": 10.0, "burst": 3} | options)), leaf, clock


def caller(identity: str | None, **fields: Any) -> StoreContext:
    return StoreContext(**({"collection": "notes", "params": {}, "roles": (), "action": "pull"} | fields),
                        identity=identity)  # fmt: skip


async def refused(layer: RateLimit, context: StoreContext | None = None) -> float:
    """Return the `retry_after` of a refusal."""
    with pytest.raises(StoreOverloadedError) as caught:
        await layer.get_string("k", context=context)
    assert caught.value.retry_after is not None
    return caught.value.retry_after


async def allowed(layer: RateLimit, context: StoreContext | None = None) -> int:
    """Return how many operations pass before one is refused."""
    for count in range(1000):
        try:
            await layer.get_string("k", context=context)
        except StoreOverloadedError:
            return count
    raise AssertionError("nothing was refused")


async def test_a_burst_passes_and_one_more_is_refused_before_it_is_sent() -> None:
    layer, leaf, _ = made()
    assert await allowed(layer) == 3
    assert len(leaf.calls) == 3
    with pytest.raises(StoreOverloadedError) as caught:
        await layer.put("a", "b", context=None)
    assert str(caught.value) == "put 'a': over 10 operations a second for one identity"
    assert (caught.value.operation, caught.value.key) == ("put", "a")
    assert caught.value.undetermined is False


async def test_after_a_pause_the_burst_is_whole_again_and_no_more() -> None:
    layer, _, clock = made()
    await allowed(layer)
    clock.now += 0.2
    assert await allowed(layer) == 2
    clock.now += 3600.0
    assert await allowed(layer) == 3


@pytest.mark.parametrize("rate", [0.01, 0.3, 3.0, 7.0, 999.0, 1000.0])
@pytest.mark.parametrize("burst", [1, 3, 1000])
async def test_retry_after_is_right_to_the_millisecond(rate: float, burst: int) -> None:
    layer, _, clock = made(rate=rate, burst=burst)
    for _ in range(burst):
        await layer.get_string("k")
    for _ in range(100):
        wait = await refused(layer)
        if wait > 0.001:
            clock.now += wait - 0.001
            assert await refused(layer) == pytest.approx(0.001, abs=1e-6)
            clock.now += 0.001
        else:
            clock.now += wait
        await layer.get_string("k")


async def test_a_refusal_costs_nothing() -> None:
    layer, _, clock = made()
    await allowed(layer)
    for _ in range(100):
        await refused(layer)
    clock.now += 0.1
    assert await allowed(layer) == 1


async def test_a_rate_under_one_still_lets_one_through() -> None:
    layer, _, clock = made(rate=0.5, burst=1)
    assert await allowed(layer) == 1
    assert await refused(layer) == pytest.approx(2.0)
    clock.now += 2.0
    assert await allowed(layer) == 1


async def test_any_stretch_of_time_has_at_most_the_burst_and_the_rate() -> None:
    layer, _, clock = made(rate=10.0, burst=5)
    chance = random.Random(3)
    passed: list[float] = []
    for _ in range(2000):
        clock.now += chance.choice([0.0, 0.01, 0.3])
        try:
            await layer.get_string("k")
        except StoreOverloadedError:
            continue
        passed.append(clock.now)
    for first, began in enumerate(passed):
        for count, ended in enumerate(passed[first:], 1):
            assert count <= 5 + 10.0 * (ended - began) + 1e-3


@pytest.mark.parametrize(
    ("by", "one", "other"),
    [
        ("identity", caller("alice"), caller("bob")),
        ("namespace", caller("a", namespace="t1"), caller("a", namespace="t2")),
        ("collection", caller("a", collection="x"), caller("a", collection="y")),
        ("params.team", caller("a", params={"team": "x"}), caller("a", params={"team": "y"})),
    ],
)
async def test_callers_are_told_apart_by_a_field(by: str, one: StoreContext, other: StoreContext) -> None:
    layer, _, _ = made(by=by)
    assert await allowed(layer, one) == 3
    assert await allowed(layer, other) == 3
    assert await allowed(layer, one) == 0


async def test_calls_without_a_context_or_the_field_share_one_limit() -> None:
    layer, _, _ = made()
    assert await allowed(layer, None) == 3
    assert await allowed(layer, caller(None)) == 0


async def test_invented_identities_neither_flush_a_limit_nor_grow_the_table() -> None:
    layer = RateLimit(MemoryObjectStore(data={}), rate=0.001, burst=3, clock=(clock := Clock()))
    assert await allowed(layer, caller("alice")) == 3
    tracemalloc.start()
    passed = 0
    for n in range(100_500):
        try:
            await layer.get_string("k", context=caller(f"invented{n}" + "x" * 500))
        except StoreOverloadedError:
            continue
        passed += 1
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 30e6
    assert passed == 99_999 + 3, "the others share one limit"
    assert await allowed(layer, caller("alice")) == 0
    clock.now += 10_000.0
    assert await allowed(layer, caller("a newcomer after the storm")) == 3


async def test_a_caller_with_a_long_debt_does_not_keep_others_in_the_table() -> None:
    leaf = MemoryObjectStore(data={})
    layer = RateLimit(leaf, rate=1.0, burst=1000, clock=(clock := Clock()))
    for _ in range(1000):
        await layer.get_string("k", context=caller("heavy"))
    for n in range(120_000):
        clock.now += 0.005
        await layer.get_string("k", context=caller(f"light{n}"))


def test_an_operation_waits_for_its_turn_up_to_max_wait() -> None:
    async def main() -> list[float]:
        leaf = Scripted()
        loop = asyncio.get_running_loop()
        layer = RateLimit(leaf, rate=10.0, burst=2, max_wait=0.5, clock=loop.time)
        outcomes = await asyncio.gather(*[layer.get_string("k") for _ in range(9)], return_exceptions=True)
        late = [error.retry_after for error in outcomes if isinstance(error, StoreOverloadedError)]
        assert late == pytest.approx([0.6, 0.6])
        return leaf.times

    assert run(main())[0] == pytest.approx([0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_an_operation_cancelled_while_it_waits_gives_its_turn_back() -> None:
    async def main() -> list[float]:
        leaf = Scripted()
        loop = asyncio.get_running_loop()
        layer = RateLimit(leaf, rate=1.0, burst=1, max_wait=10.0, clock=loop.time)
        await layer.get_string("k")
        waiting: list[asyncio.Task[Any]] = [asyncio.create_task(layer.get_string("k")) for _ in range(5)]
        await asyncio.sleep(0.5)
        for task in reversed(waiting):
            task.cancel()
            await asyncio.wait([task])
        await layer.get_string("k")
        return leaf.times

    assert run(main())[0] == pytest.approx([0.0, 1.0])


def test_cancelling_an_early_turn_never_lets_two_through_at_a_later_one() -> None:
    async def main() -> list[float]:
        leaf = Scripted()
        loop = asyncio.get_running_loop()
        layer = RateLimit(leaf, rate=1.0, burst=1, max_wait=10.0, clock=loop.time)
        waiting = [asyncio.create_task(layer.get_string("k")) for _ in range(4)]
        await asyncio.sleep(0.5)
        waiting[1].cancel()
        waiting += [asyncio.create_task(layer.get_string("k")) for _ in range(2)]
        await asyncio.wait(waiting)
        return leaf.times

    times = run(main())[0]
    assert all(later - earlier > 0.999 for earlier, later in pairwise(times))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"rate": 0}, ValueError),
        ({"burst": 0}, ValueError),
        ({"burst": 0.5}, TypeError),
        ({"by": "roles"}, ValueError),
        ({"max_wait": -1.0}, ValueError),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        made(**options)


def test_repr_shows_the_settings() -> None:
    layer = RateLimit(MemoryObjectStore(data={}), rate=5, burst=2, by="namespace", max_wait=1)
    assert repr(layer).startswith("RateLimit(rate=5.0, burst=2, by='namespace', max_wait=1.0, Memory")


@pytest.mark.timeout(20)
async def test_the_garbage_collector_may_end_an_operation_that_waits_anywhere() -> None:
    layer, _, _ = made(rate=0.001, burst=1, max_wait=1e6)
    await layer.get_string("k")
    abandoned: Any = layer.get_string("k")
    abandoned.send(None)

    def collect(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and called.__name__ == "get" and frame.f_code.co_name == "perform":
            sys.setprofile(None)
            abandoned.close()

    sys.setprofile(collect)
    await layer.get_string("k", context=caller("alice"))
    assert sys.getprofile() is None
