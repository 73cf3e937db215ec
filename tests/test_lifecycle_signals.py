"""A signal starts a shutdown, and a second one forces the end: real processes and real signals."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from starfish_server.lifecycle import GracefulShutdown, GracefulShutdownOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

PRELUDE = """
import asyncio, os, signal, sys, threading, time
from starfish_server.lifecycle import GracefulShutdown, GracefulShutdownOptions

def say(*words): print(*words, flush=True)
"""
WORKER = """
async def main():
    shutdown = GracefulShutdown(GracefulShutdownOptions(on_shutdown={step}, timeout_s=600.0))
    shutdown.register()
    say("ready")
    result = await shutdown.wait()
    say("failures", len(result.failures))

asyncio.run(main())
"""
STEPS = """
async def hang():
    say("hanging")
    await asyncio.Event().wait()

def block():
    say("hanging")
    while True:
        time.sleep(0.01)  # not once: a signal just before it would have to wait for its end

async def block_the_loop():
    block()
"""
SERVER = """
import uvicorn
from contextlib import asynccontextmanager
from fastapi import FastAPI
from starfish_server import MemoryObjectStore

store = MemoryObjectStore(data={"k": "v"})
shutdown = GracefulShutdown(GracefulShutdownOptions(
    on_shutdown=lambda: say("steps"), stores=[store], timeout_s=600.0
))

@asynccontextmanager
async def lifespan(app):
    shutdown.register()
    yield
    result = await shutdown.shutdown()
    say("failures", len(result.failures))
    shutdown.unregister()

app = FastAPI(lifespan=lifespan if IN_LIFESPAN else None)

@app.get("/slow")
async def slow():
    say("request")
    await asyncio.to_thread(sys.stdin.readline)
    return await store.get_string("k")

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        say("ready", self.servers[0].sockets[0].getsockname()[1])

    def handle_exit(self, *signal):
        super().handle_exit(*signal)
        os.write(1, b"signal\\n")  # print() may have been interrupted, and cannot be entered again

server = Server(uvicorn.Config(app, port=0, log_level="critical"))

async def main():
    if not IN_LIFESPAN:
        shutdown.register()
    await server.serve()
    if not IN_LIFESPAN:
        result = await shutdown.shutdown()
        say("failures", len(result.failures))

asyncio.run(main())
"""


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python process with this code, and kill it in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_starts_the_shutdown_and_the_process_ends_by_itself(number: signal.Signals) -> None:
    with running(WORKER.format(step='lambda: say("step")')) as process:
        assert line(process) == ["ready"]
        process.send_signal(number)
        assert (line(process), line(process)) == (["step"], ["failures", "0"])
        assert process.wait() == 0


@pytest.mark.parametrize("awaited", ["shutdown.wait()", "stopped.wait()"])
def test_a_signal_that_does_not_wake_the_event_loop_starts_the_shutdown(awaited: str) -> None:
    """Another thread receives it, which has the effect of one just before the event loop goes to sleep."""
    code = f"""
    async def main():
        stopped = asyncio.Event()

        async def step():
            stopped.set()

        shutdown = GracefulShutdown(GracefulShutdownOptions(on_shutdown=step))
        shutdown.register()
        threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)).start()
        await {awaited}
        say("stopped", stopped.is_set())

    asyncio.run(main())
    """
    with running(code) as process:
        assert line(process) == ["stopped", "True"]
        assert process.wait() == 0


@pytest.mark.parametrize("step", ["hang", "block", "block_the_loop"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_immediately(step: str, second: signal.Signals) -> None:
    with running(STEPS + WORKER.format(step=step)) as process:
        assert line(process) == ["ready"]
        process.send_signal(signal.SIGTERM)
        assert line(process) == ["hanging"]
        process.send_signal(second)
        assert process.wait() == -second


def test_a_blocked_thread_does_not_keep_the_process_from_ending() -> None:
    code = WORKER.format(step="threading.Event().wait").replace("timeout_s=600.0", "timeout_s=0.3")
    with running(code) as process:
        assert line(process) == ["ready"]
        process.send_signal(signal.SIGTERM)
        assert line(process) == ["failures", "1"]
        assert process.wait() == 0


def test_a_signal_after_the_event_loop_ended_ends_the_process() -> None:
    code = """
    async def main():
        GracefulShutdown().register()

    asyncio.run(main())
    say("ready")
    while True:
        time.sleep(0.01)
    """
    with running(code) as process:
        assert line(process) == ["ready"]
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


@pytest.mark.parametrize("in_lifespan", [True, False])
def test_uvicorn_finishes_its_requests_before_the_steps_run(in_lifespan: bool) -> None:
    with running(f"IN_LIFESPAN = {in_lifespan}\n{SERVER}") as process:
        ready, port = line(process)
        assert ready == "ready"
        replies: list[bytes] = []

        def request() -> None:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/slow") as reply:
                replies.append(reply.read())

        client = threading.Thread(target=request)
        client.start()
        assert line(process) == ["request"]
        process.send_signal(signal.SIGTERM)
        assert line(process) == ["signal"]
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
        client.join()
        assert replies == [b'"v"']
        assert (line(process), line(process)) == (["steps"], ["failures", "0"])
        # uvicorn ends as the signal does by default once all is done, unless another handler is in force.
        assert process.wait() == (-signal.SIGTERM if in_lifespan else 0)


@pytest.fixture
def former() -> Iterator[object]:
    """A handler of this process that another party has set before."""

    def handler(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGUSR1, handler)
    yield handler
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def shutdown() -> Iterator[GracefulShutdown]:
    """A shutdown that SIGUSR1 starts."""
    shutdown = GracefulShutdown(GracefulShutdownOptions(signals=[signal.SIGUSR1]))
    yield shutdown
    shutdown.unregister()


async def test_the_former_handler_is_restored(former: object, shutdown: GracefulShutdown) -> None:
    shutdown.register()
    shutdown.register()
    assert signal.getsignal(signal.SIGUSR1) != former
    shutdown.unregister()
    assert signal.getsignal(signal.SIGUSR1) is former


async def test_a_handler_set_since_is_left_in_force(former: object, shutdown: GracefulShutdown) -> None:
    shutdown.register()

    def later(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGUSR1, later)
    shutdown.unregister()
    assert signal.getsignal(signal.SIGUSR1) is later


@pytest.mark.usefixtures("former")
async def test_the_steps_run_in_place_of_a_former_handler(shutdown: GracefulShutdown) -> None:
    shutdown.register()
    signal.raise_signal(signal.SIGUSR1)
    assert (await shutdown.wait()).ok


@pytest.mark.usefixtures("former")
async def test_a_signal_callback_of_the_event_loop_is_restored(shutdown: GracefulShutdown) -> None:
    loop = asyncio.get_running_loop()
    called = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, called.set)
    before = signal.getsignal(signal.SIGUSR1)
    shutdown.register()
    shutdown.unregister()
    assert signal.getsignal(signal.SIGUSR1) is before
    signal.raise_signal(signal.SIGUSR1)
    await called.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_closed_event_loop_is_refused_and_no_handler_is_set(
    former: object, shutdown: GracefulShutdown
) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        shutdown.register(loop)
    assert signal.getsignal(signal.SIGUSR1) is former


async def test_outside_the_main_thread_no_handler_is_set(former: object, shutdown: GracefulShutdown) -> None:
    async def main() -> None:
        shutdown.register()

    await asyncio.to_thread(lambda: asyncio.run(main()))
    assert signal.getsignal(signal.SIGUSR1) is former
