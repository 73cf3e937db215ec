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
    "RetryBudget": (budget.give_back, "min"),
    "CircuitBreaker": (fail, "monotonic"),
}[sys.argv[1]]
stopped, go_on = threading.Event(), threading.Event()

def stop(frame, event, called):
    if event == "c_call" and called.__name__ == stop_in and "starfish_server" in frame.f_code.co_filename:
        sys.setprofile(None)
        stopped.set()
        go_on.wait(40)

def in_thread():
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
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, changed]
    done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
