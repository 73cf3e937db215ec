"""`Caching` in a forked child."""

from __future__ import annotations

import subprocess
import sys

PREAMBLE = """
import asyncio, os, signal, sys, threading
from starfish_server import MemoryObjectStore
from starfish_server.layers import Caching

def in_child(work):
    child = os.fork()
    if child == 0:
        signal.alarm(40)
        try:
            asyncio.run(work())
        except BaseException as error:
            print(error.__class__, error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return child

def exit_with(child):
    sys.exit(os.waitpid(child, 0)[1] != 0)
"""

WHILE_A_THREAD_CHANGES_THE_CACHE = """
begun, end = threading.Event(), threading.Event()
main = threading.get_ident()

def clock():
    if threading.get_ident() != main:
        begun.set()
        assert end.wait(40)
    return 0.0

store = Caching(MemoryObjectStore(data={"k": "v"}), clock=clock)
read = lambda: store.get_string("k")
asyncio.run(read())
thread = threading.Thread(target=lambda: asyncio.run(read()))
thread.start()
assert begun.wait(40)
child = in_child(read)
end.set()
thread.join()
exit_with(child)
"""

WHILE_A_WRITE_IS_IN_FLIGHT = """
class Slow(MemoryObjectStore):
    context_dependent = False

    async def put(self, *args, **options):
        await asyncio.get_running_loop().create_future()

store = Caching(Slow(data={"k": "v"}))

async def fork_during_a_put():
    put = asyncio.ensure_future(store.put("k", "new"))
    await asyncio.sleep(0)
    read = asyncio.ensure_future(store.get_string("k"))
    await asyncio.sleep(0)
    result = []
    thread = threading.Thread(target=lambda: result.append(in_child(twice)))
    thread.start()
    thread.join()
    put.cancel()
    await asyncio.wait([put, read])
    return result[0]

async def twice():
    assert [await store.get_string("k"), await store.get_string("k")] == ["v", "v"]
    assert store.stats().hits == 1, store.stats()

exit_with(asyncio.run(fork_during_a_put()))
"""


def run(program: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", PREAMBLE + program]
    done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_child_forked_while_a_thread_changes_the_cache_can_use_it() -> None:
    run(WHILE_A_THREAD_CHANGES_THE_CACHE)


def test_write_in_flight_in_the_parent_does_not_keep_the_key_out_of_the_childs_cache() -> None:
    run(WHILE_A_WRITE_IS_IN_FLIGHT)
