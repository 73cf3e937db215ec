"""A fork at a bad moment."""

from __future__ import annotations

import subprocess
import sys

FORK_DURING_A_FIRST_USE = """
import asyncio, os, signal, sys, threading
from aiohttp import ClientSession
from starfish_server.storage.s3.sessions import Sessions
from starfish_server.storage.s3.credentials import CredentialSource

begun, end = threading.Event(), threading.Event()

def open_credentials():
    if not begun.is_set():
        begun.set()
        assert end.wait(10.0)
    return CredentialSource()

sessions = Sessions(ClientSession, open_credentials, 30.0)

async def use():
    assert await sessions.current() is await sessions.current()
    await sessions.close()

thread = threading.Thread(target=asyncio.run, args=(use(),))
thread.start()
assert begun.wait(10.0)
child = os.fork()
if child == 0:
    signal.alarm(10)
    asyncio.run(use())
    os._exit(0)
end.set()
thread.join()
sys.exit(os.waitpid(child, 0)[1])
"""


def test_a_child_forked_while_another_thread_opens_its_session_can_open_its_own() -> None:
    program = [sys.executable, "-W", "ignore", "-c", FORK_DURING_A_FIRST_USE]
    assert subprocess.run(program, timeout=60, check=False).returncode == 0
