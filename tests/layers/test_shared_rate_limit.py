"""`RateLimit(shared=RedisLimits(...))` against a real redis-server: one limit for many processes."""

from __future__ import annotations

import asyncio
import copy
import pickle
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from layers.limits import Fleet, caller, passed, refused
from redis_server import Proxy
from starfish_server import MemoryObjectStore, StoreClosedError, explain, load_stack
from starfish_server.layers import RateLimit, RedisLimits
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis_server import RedisServer

pytestmark = pytest.mark.timeout(60)


async def test_processes_share_one_burst(fleet: Fleet) -> None:
    layers = [fleet.rate() for _ in range(3)]
    assert [await passed(layer, 2) for layer in layers] == [2, 2, 1]


async def test_a_caller_that_waits_for_retry_after_passes(fleet: Fleet, server: RedisServer) -> None:
    layers = [fleet.rate(rate=0.01, burst=1) for _ in range(2)]
    await layers[0].get_string("k")
    with server.client() as client:
        (name,) = server.names()
        for number in range(6):
            layer = layers[number % 2]
            wait = await refused(layer)
            assert 0 < wait <= 100
            client.set(name, float(client.get(name)) - wait * 1e6)  # as if `wait` had passed
            await layer.get_string("k")


async def test_retry_after_is_what_is_left_by_the_clock_of_redis(fleet: Fleet, server: RedisServer) -> None:
    layer = fleet.rate(rate=0.01, burst=3)
    assert await passed(layer, 3) == 3
    with server.client() as client:
        (name,) = server.names()
        whole_at = float(client.get(name))

        def left() -> float:
            seconds, microseconds = map(int, client.time())
            return (whole_at - seconds * 1e6 - microseconds) / 1e6 - 200.0

        most = left()
        assert most >= await refused(layer) >= left()


async def test_operations_wait_for_their_turns_among_those_of_other_processes(fleet: Fleet) -> None:
    layers = [fleet.rate(rate=50.0, burst=1, max_wait=10.0) for _ in range(2)]
    loop = asyncio.get_running_loop()
    for layer in layers:
        await layer.get_string("k")
    began = loop.time()
    await asyncio.gather(*(layers[number % 2].get_string("k") for number in range(6)))
    assert loop.time() - began >= 5 / 50


async def test_a_wait_without_limit_is_possible(fleet: Fleet) -> None:
    layer = fleet.rate(rate=50.0, burst=1, max_wait=float("inf"))
    assert await passed(layer, 4) == 4


async def test_a_turn_that_is_cancelled_while_it_waits_is_given_back(
    fleet: Fleet, server: RedisServer
) -> None:
    layer = fleet.rate(rate=0.01, burst=1, max_wait=1000.0)
    await layer.get_string("k")
    (name,) = server.names()
    with server.client() as client:
        before = client.get(name)
        waiting = asyncio.ensure_future(layer.get_string("k"))
        await eventually(lambda: client.get(name) != before)
        waiting.cancel()
        await asyncio.wait([waiting])
        await eventually(lambda: client.get(name) == before)


async def test_callers_have_limits_of_their_own_and_names_are_hashed(
    fleet: Fleet, server: RedisServer
) -> None:
    names = ["alice", "bob", "None", "a\n\x00b", "\ud800", "x" * 100_000, "test:1:rate:*"]
    first, second = fleet.rate(burst=2), fleet.rate(burst=2)
    for name in names:
        counts = [await passed(layer, 2, caller(name)) for layer in (first, second)]
        assert counts == [2, 0]
    assert await passed(first, 3) == 2  # calls without a context share one limit
    found = server.names()
    assert len(found) == len(names) + 1
    for name in found:
        assert name.startswith("test:1:rate:")
        assert name.removeprefix("test:1:rate:").isalnum()
        assert len(name) < 60


async def test_limits_with_other_options_or_another_namespace_are_others(fleet: Fleet) -> None:
    assert await passed(fleet.rate(burst=2), 3) == 2
    assert await passed(fleet.rate(burst=3), 4) == 3
    assert await passed(fleet.rate(burst=2, rate=0.002), 3) == 2
    assert await passed(fleet.rate(burst=2, by="namespace"), 3) == 2
    assert await passed(fleet.rate(burst=2, limits={"namespace": "other"}), 3) == 2
    assert await passed(fleet.rate(burst=2, rate=1e-3), 3) == 0


async def test_an_int_and_a_float_of_one_rate_are_one_limit(fleet: Fleet) -> None:
    """One process has them from Python, another from TOML."""
    assert await passed(fleet.rate(rate=1, burst=100), 100) == 100
    assert await passed(fleet.rate(rate=1.0, burst=100), 100) < 50


async def test_a_caller_leaves_redis_when_its_burst_is_full_again(fleet: Fleet, server: RedisServer) -> None:
    layer = fleet.rate(rate=0.01, burst=3)
    await passed(layer, 2)
    (name,) = server.names()
    with server.client() as client:
        left: Any = client.pttl(name)
    assert 100_000 < left <= 200_000


@pytest.mark.parametrize("value", [b"", b"text", b"nan", b"inf", b"-inf", b"1e300", None], ids=str)
async def test_what_other_programs_write_locks_nobody_out(
    fleet: Fleet, server: RedisServer, value: bytes | None
) -> None:
    """The same happens when the clock of Redis is set back."""
    layer, other = fleet.rate(burst=3), fleet.rate(burst=3)
    assert await passed(layer, 4) == 3
    with server.client() as client:
        (name,) = server.names()
        if value is None:
            client.delete(name)
            client.rpush(name, "a list")
        else:
            client.set(name, value)
    assert await passed(layer, 4) == 3
    assert await passed(other, 1) == 0


async def test_without_redis_each_process_has_the_limit_for_itself(fleet: Fleet) -> None:
    layers = [fleet.rate(limits={"url": "redis://127.0.0.1:1/0"}) for _ in range(2)]
    assert [await passed(layer, 10) for layer in layers] == [5, 5]
    assert await refused(layers[0]) > 900


async def test_when_redis_dies_processes_count_alone_and_together_again_when_it_is_back(
    fragile: RedisServer,
) -> None:
    async with Fleet(fragile.url) as fleet:
        layers = [fleet.rate() for _ in range(2)]
        assert [await passed(layer, 3) for layer in layers] == [3, 2]
        fragile.kill()
        assert [await passed(layer, 10) for layer in layers] == [5, 5]
        fragile.start()
        await eventually(fleet.connected)
        assert [await passed(layer, 3) for layer in layers] == [3, 2]


async def test_a_redis_that_hangs_costs_one_timeout_and_is_asked_again_later(fragile: RedisServer) -> None:
    """With one timeout for each operation, this would take longer than a test may."""
    async with Fleet(fragile.url) as fleet:
        layer = fleet.rate(rate=1.0, burst=1000, limits={"timeout": 0.5})
        await layer.get_string("k")
        fragile.signal(signal.SIGSTOP)
        assert await passed(layer, 300) == 300
        fragile.signal(signal.SIGCONT)
        with fragile.client() as client:
            client.flushall()
        while not fragile.names():
            await layer.get_string("k")
            await asyncio.sleep(0.01)


async def test_while_packets_are_lost_no_operation_fails_and_local_limits_hold(server: RedisServer) -> None:
    async with Proxy(server.port) as proxy, Fleet(proxy.url) as fleet:
        generous = fleet.rate(rate=1e6, burst=1_000_000, limits={"timeout": 0.02})
        strict = fleet.rate(limits={"timeout": 0.02})

        async def disturb() -> None:
            for number in range(20):
                gate = proxy.to_client if number % 2 else proxy.to_server
                gate.clear()
                await asyncio.sleep(0.03)
                if number % 3 == 0:
                    proxy.cut()
                gate.set()
                await asyncio.sleep(0.02)

        disturbing = asyncio.ensure_future(disturb())
        count = 0
        while not disturbing.done():
            assert await passed(generous, 1) == 1
            count += await passed(strict, 1)
            await asyncio.sleep(0)
        await disturbing
        assert 5 <= count <= 10  # the burst of Redis, and that of the process


async def test_a_full_redis_leaves_local_limits(fleet: Fleet, server: RedisServer) -> None:
    layer = fleet.rate()
    with server.client() as client:
        client.config_set("maxmemory", 1)
        client.config_set("maxmemory-policy", "noeviction")
        try:
            assert await passed(layer, 10) == 5
        finally:
            client.config_set("maxmemory", 0)


async def test_nothing_is_left_after_close(server: RedisServer) -> None:
    before, tasks = server.connections(), asyncio.all_tasks()
    async with Fleet(server.url) as fleet:
        layer = fleet.rate()
        await layer.get_string("k")
        assert server.connections() == before + 1
        await layer.close()
        with pytest.raises(StoreClosedError):
            await layer.get_string("k")
        assert asyncio.all_tasks() == tasks
    await eventually(lambda: server.connections() == before)


async def test_closing_one_layer_leaves_the_limits_of_another(fleet: Fleet) -> None:
    shared = fleet.limits()
    one, two = (RateLimit(MemoryObjectStore(data={}), rate=0.001, burst=5, shared=shared) for _ in range(2))
    assert [await passed(one, 2), await passed(two, 2)] == [2, 2]
    await one.close()
    assert await passed(two, 2) == 1
    await two.close()


def test_each_event_loop_has_its_own_connection(server: RedisServer) -> None:
    before = server.connections()
    layer = RateLimit(
        MemoryObjectStore(data={}),
        rate=0.001,
        burst=5,
        shared=RedisLimits(server.url, namespace="test", timeout=10.0),
    )
    assert [asyncio.run(passed(layer, 2)) for _ in range(3)] == [2, 2, 1]
    assert server.connections() == before


HAMMERING = """
import asyncio, sys, time
from starfish_server import MemoryObjectStore, StoreOverloadedError
from starfish_server.layers import RateLimit, RedisLimits

async def main():
    shared = RedisLimits(sys.argv[1], namespace="test", timeout=float(sys.argv[2]))
    layer = RateLimit(MemoryObjectStore(data={}), rate=200.0, burst=20, shared=shared)
    while not shared.connected:
        await layer.get_string("k")
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < 1.0 or count < 40:
        try:
            await layer.get_string("k")
            count += 1
        except StoreOverloadedError:
            await asyncio.sleep(0)
    print(began, time.monotonic(), count, flush=True)
    await layer.close()

asyncio.run(main())
"""
PROCESSES = 3


async def hammered(url: str, timeout: float, disturb: Callable[[], Awaitable[None]]) -> tuple[int, float]:
    """How many operations several processes passed together, and in how many seconds."""
    command = [sys.executable, "-c", HAMMERING, url, str(timeout)]
    pipe = asyncio.subprocess.PIPE
    children = [
        await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe) for _ in range(PROCESSES)
    ]
    for child in children:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"ready\n"
    outputs, _ = await asyncio.gather(
        asyncio.gather(*(child.communicate(b"go\n") for child in children)), disturb()
    )
    assert [child.returncode for child in children] == [0] * PROCESSES
    told = [output.split() for output, _ in outputs]
    took = max(float(end) for _, end, _ in told) - min(float(began) for began, _, _ in told)
    return sum(int(count) for _, _, count in told), took


async def test_a_fleet_of_processes_holds_the_rate(server: RedisServer) -> None:
    total, took = await hammered(server.url, 10.0, lambda: asyncio.sleep(0))
    assert 100 <= total <= 20 + 200 * took + 1


@pytest.mark.parametrize("stopped", [False, True], ids=["killed and restarted", "stopped and continued"])
async def test_a_fleet_whose_redis_goes_and_comes_back_fails_nothing_and_holds_local_limits(
    fragile: RedisServer, stopped: bool
) -> None:
    async def disturb() -> None:
        await asyncio.sleep(0.2)
        if stopped:
            fragile.signal(signal.SIGSTOP)
            await asyncio.sleep(0.4)
            fragile.signal(signal.SIGCONT)
        else:
            fragile.kill()
            await asyncio.sleep(0.2)
            await asyncio.to_thread(fragile.start)

    total, took = await hammered(fragile.url, 0.05, disturb)
    of_one = 20 + 200 * took
    assert 100 <= total <= (PROCESSES + 2) * of_one  # of each alone, and of Redis before and after


def test_a_forked_child_has_a_connection_of_its_own(server: RedisServer) -> None:
    code = """if True:
        import asyncio, os, signal, sys
        from starfish_server import MemoryObjectStore
        from starfish_server.layers import RateLimit, RedisLimits

        limits = RedisLimits(sys.argv[1], namespace="test", timeout=10.0)
        layer = RateLimit(MemoryObjectStore(data={}), rate=0.001, burst=2, shared=limits)

        async def once():
            await layer.get_string("k")

        async def in_child():
            assert not limits.connected
            await once()
            await layer.close()

        async def in_parent():
            await once()
            pid = os.fork()
            if pid == 0:
                signal.alarm(40)
                try:
                    asyncio.events._set_running_loop(None)
                    asyncio.run(in_child())
                except BaseException as error:
                    print(repr(error), file=sys.stderr)
                    os._exit(1)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            try:
                await once()
            except Exception as error:
                assert "over 0.001" in str(error)
            else:
                raise AssertionError("the child's turn was not counted")
            await layer.close()

        asyncio.run(in_parent())
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, server.url],
        timeout=50,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"url": "http://localhost"}, ValueError),
        ({"url": 1}, TypeError),
        ({"namespace": "a:b"}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("inf")}, ValueError),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        RedisLimits(**{"url": "redis://localhost", "namespace": "n"} | options)


def test_what_is_no_redis_limits_is_refused() -> None:
    with pytest.raises(TypeError, match="RedisLimits"):
        RateLimit(MemoryObjectStore(), rate=1, burst=1, shared="redis://localhost")  # type: ignore[arg-type]


def test_no_password_is_shown() -> None:
    limits = RedisLimits("redis://user:hunter2@localhost:6380/3", namespace="n")
    store = RateLimit(MemoryObjectStore(), rate=1, burst=1, shared=limits)
    for shown in (repr(limits), repr(store), explain(store), repr(store.settings())):
        assert "hunter2" not in shown
    assert "RedisLimits('redis://localhost:6380/3', namespace='n', timeout=0.05)" in explain(store)
    for work in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            work(limits)


def test_a_stack_file_names_it_as_a_part_of_a_layer_and_of_a_budget() -> None:
    shared = {"type": "RedisLimits", "url": "redis://h:1/2", "namespace": "n"}
    budget = {"type": "RetryBudget", "shared": shared}
    store = load_stack(
        {
            "leaf": {"type": "memory"},
            "layer": [
                {"type": "RateLimit", "rate": 5, "burst": 5, "shared": shared},
                {"type": "Retry", "budget": budget},
            ],
        }
    )
    assert explain(store).count("RedisLimits('redis://h:1/2', namespace='n'") == 2
