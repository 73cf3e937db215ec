"""Limits and breakers in a child that was forked while a thread of the parent changed them."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, logging, os, signal, sys, threading
from starfish_server import MemoryObjectStore, StoreUnavailableError
from starfish_server.layers import CircuitBreaker, RateLimit, RetryBudget

class Down(MemoryObjectStore):
    async def get_string(self, key, **_):
        raise StoreUnavailableError("down")

def fail():
    try:
        asyncio.run(breaker.get_string("k"))
    except StoreUnavailableError:
        pass

logging.disable()
breaker = CircuitBreaker(Down(data={}), minimum_calls=1)
fail()
assert breaker.state == "open"
limit = RateLimit(MemoryObjectStore(data={}), rate=1, burst=9)
budget = RetryBudget()
asyncio.run(budget.take(OSError()))
work, stop_in = {
    "RateLimit": (lambda: asyncio.run(limit.get_string("k")), "get"),
    "RetryBudget": (budget.give_back, None),
    "CircuitBreaker": (fail, "monotonic"),
}[sys.argv[1]]
stopped, go_on = threading.Event(), threading.Event()
lines = []

def stop_inside(frame, event, _):  # at the first line after that of the lock
    if frame.f_code.co_name == "give_back" and not stopped.is_set():
        lines.extend([frame.f_lineno] if event == "line" else [])
        if len(lines) == 3:
            stopped.set()
            go_on.wait(40)
        return stop_inside

def stop(frame, event, called):
    if event == "c_call" and called.__name__ == stop_in and "starfish_server" in frame.f_code.co_filename:
        sys.setprofile(None)
        stopped.set()
        go_on.wait(40)

def in_thread():
    if stop_in is None:
        sys.settrace(stop_inside)
    else:
        sys.setprofile(stop)
    work()

thread = threading.Thread(target=in_thread)
thread.start()
assert stopped.wait(40)
child = os.fork()
if child == 0:
    signal.alarm(40)
    work()
    os._exit(0)
go_on.set()
thread.join()
sys.exit(os.waitpid(child, 0)[1] != 0)
"""


@pytest.mark.parametrize("changed", ["RateLimit", "RetryBudget", "CircuitBreaker"])
def test_child_forked_while_a_thread_changes_it_can_use_it(changed: str) -> None:
    succeed(PROGRAM, changed)


PROBE_IN_FLIGHT = """
import asyncio, logging, os, signal, sys, threading
from starfish_server import MemoryObjectStore, StoreUnavailableError
from starfish_server.layers import CircuitBreaker

class Leaf(MemoryObjectStore):
    down = True
    async def get_string(self, key, **options):
        if self.down:
            raise StoreUnavailableError("down")
        if os.getpid() == parent:
            await asyncio.get_running_loop().create_future()
        return await super().get_string(key, **options)

def fork():
    child = os.fork()
    if not child:
        signal.alarm(40)
        os._exit(asyncio.run(breaker.get_string("k")) != "v")
    results.append(os.waitpid(child, 0)[1])

async def main():
    try:
        await breaker.get_string("k")
    except StoreUnavailableError:
        leaf.down = False
    await asyncio.sleep(0.001)
    probe = asyncio.ensure_future(breaker.get_string("k"))
    await asyncio.sleep(0)
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    probe.cancel()
    await asyncio.wait([probe])

logging.disable()
parent, results = os.getpid(), []
leaf = Leaf(data={"k": "v"})
breaker = CircuitBreaker(leaf, minimum_calls=1, open_seconds=1e-6, probes=1)
asyncio.run(main())
sys.exit(results != [0])
"""


def test_probe_in_flight_in_the_parent_does_not_keep_a_forked_child_from_the_store() -> None:
    succeed(PROBE_IN_FLIGHT)


def succeed(program: str, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
