"""A real redis-server for one test, and a TCP proxy in front of it that can hold back what passes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import pytest
import redis

from servers import free_ports

if TYPE_CHECKING:
    from pathlib import Path

INSTALL = "redis-server is not on PATH: apt-get install redis-server"


def need_redis_server() -> None:
    """Skip the test where there is no redis-server; in CI that is a failure."""
    if shutil.which("redis-server") is None:
        if os.environ.get("CI"):
            pytest.fail(INSTALL)
        pytest.skip(INSTALL)


class RedisServer:
    """`with RedisServer(folder) as server` runs redis-server on a free port, with nothing saved."""

    def __init__(self, folder: Path, *options: str, password: str = "") -> None:
        need_redis_server()
        # Below the ports that connections get: one of those could be taken while the server is down.
        (self.port,) = free_ports(1)
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = (*options, "--requirepass", password) if password else options
        self._password = password or None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        command += ["--appendonly", "no", "--dir", str(self._folder), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while self._process.poll() is None:
            with suppress(redis.ConnectionError), self.client() as client:
                client.ping()
                return
            time.sleep(0.02)
        raise AssertionError(f"redis-server ended with {self._process.returncode}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def client(self) -> redis.Redis:
        """Return a client of its own, to look into the server with."""
        return redis.Redis(port=self.port, password=self._password, protocol=2)

    def names(self, pattern: str = "*") -> list[str]:
        with self.client() as client:
            found: Any = client.keys(pattern)
            return sorted(name.decode() for name in found)

    def connections(self) -> int:
        """How many clients are connected, without the one that asks."""
        with self.client() as client:
            found: Any = client.client_list()
            return len(found) - 1


class Proxy:
    """`async with Proxy(port) as proxy` passes on what arrives at `proxy.url`; each way can be held.

    `to_server` and `to_client` are open at first.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.to_server = asyncio.Event()
        self.to_client = asyncio.Event()
        self.to_server.set()
        self.to_client.set()
        self.accepted = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Break all connections."""
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, server_writer}
        for source, target, gate in (
            (reader, server_writer, self.to_server),
            (server_reader, writer, self.to_client),
        ):
            task = asyncio.create_task(_pump(source, target, gate))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, gate: asyncio.Event) -> None:
    try:
        while data := await source.read(65536):
            await gate.wait()
            target.write(data)
            await target.drain()
    except (OSError, asyncio.CancelledError):
        pass
    finally:
        target.transport.abort()
