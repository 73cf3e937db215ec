"""Limits in a child that was forked while a thread of the parent changed them."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, signal, sys, threading
from starfish_server import MemoryObjectStore
from starfish_server.layers import RateLimit, RetryBudget

limit = RateLimit(MemoryObjectStore(data={}), rate=1, burst=9)
budget = RetryBudget()
asyncio.run(budget.take(OSError()))
work, stop_in = {
    "RateLimit": (lambda: asyncio.run(limit.get_string("k")), "get"),
    "RetryBudget": (budget.give_back, "min"),
}[sys.argv[1]]
stopped, go_on = threading.Event(), threading.Event()

def stop(frame, event, called):
    if event == "c_call" and called.__name__ == stop_in and "starfish_server" in frame.f_code.co_filename:
        sys.setprofile(None)
        stopped.set()
        go_on.wait(10)

def in_thread():
    sys.setprofile(stop)
    work()

thread = threading.Thread(target=in_thread)
thread.start()
assert stopped.wait(10)
child = os.fork()
if child == 0:
    signal.alarm(10)
    work()
    os._exit(0)
go_on.set()
thread.join()
sys.exit(os.waitpid(child, 0)[1] != 0)
"""


@pytest.mark.parametrize("limit", ["RateLimit", "RetryBudget"])
def test_child_forked_while_a_thread_changes_a_limit_can_use_it(limit: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, limit]
    done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
