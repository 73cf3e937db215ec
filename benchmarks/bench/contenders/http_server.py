"""One uvicorn process over a memory store, and 32 clients here that pull and push documents of 1 KiB.

Run as a program, it is the server: `python -m bench.contenders.http_server ours|bare`, "ours" being the
`starfish_server` that this Python has installed. Needs uvloop and httptools.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.plan import Plan

    Run = Callable[[int], Awaitable[Sample]]

COLLECTION = {
    "name": "notes",
    "storagePath": "notes/{id}",
    "readRoles": ["public"],
    "writeRoles": ["public"],
    "maxBodyBytes": 100_000,
    "encryption": "none",
}
DATA = {f"field{number}": {"text": "x" * 40, "n": number, "t": 1.5} for number in range(13)}


async def open_server(plan: Plan, *, kind: str) -> Run:
    """Start a server, and clients of it; `plan.layer` says what they do and what is told of it."""
    port, process = await asyncio.to_thread(_start, kind)
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(_Connection, "127.0.0.1", port))[1] for _ in range(plan.concurrency)
    ]
    clients = [_Client(connection, number) for number, connection in enumerate(connections)]
    for client in clients:
        await client.push()

    async def run(number: int) -> Sample:
        cpu = _cpu_of(process)
        began = time.perf_counter()
        end = began + plan.seconds
        pushes = plan.layer != "pull"
        times = [
            taken
            for each in await asyncio.gather(*(c.repeat(end, pushes) for c in clients))
            for taken in each
        ]
        if plan.layer == "push p99":
            return Sample(sorted(times)[int(0.99 * (len(times) - 1))], 0.0, 1)
        return Sample(time.perf_counter() - began, _cpu_of(process) - cpu, len(times))

    return run


def _cpu_of(process: int) -> float:
    """CPU seconds of a server; the clients' are not counted."""
    times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def _start(kind: str) -> tuple[int, int]:
    """Start a server that ends with this process, and return its port and process id."""
    command = [sys.executable, "-m", __name__, kind]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    atexit.register(server.wait)
    atexit.register(server.kill)
    assert server.stdout is not None
    return int(server.stdout.readline()), server.pid


open_ours = partial(open_server, kind="ours")
open_bare = partial(open_server, kind="bare")


class _Connection(asyncio.Protocol):
    """One request at a time over a connection that is kept."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._received = b""
        self._reply: asyncio.Future[bytes] | None = None

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        self._received = b""
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._reply

    def connection_lost(self, error: Exception | None) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or self._reply is None:
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            self._reply.set_exception(RuntimeError(self._received.decode()))
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) == length:
            self._reply.set_result(body)


class _Client:
    """A caller with a document of its own."""

    def __init__(self, connection: _Connection, number: int) -> None:
        self._connection = connection
        self._path = f"notes/{number}"
        self._pushes = 0
        self._hash: str | None = None

    async def push(self) -> None:
        self._pushes += 1
        data = DATA | {"field0": {"text": "x" * 40, "n": self._pushes, "t": 1.5}}
        body = json.dumps({"data": data, "baseHash": self._hash}).encode()
        head = (
            f"POST /push/{self._path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._hash = json.loads(await self._connection.ask(head.encode() + body))["hash"]

    async def pull(self) -> None:
        await self._connection.ask(f"GET /pull/{self._path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    async def repeat(self, end: float, pushes: bool) -> list[float]:
        """Push or pull until it is `end`, at least once, and return how long each took."""
        act, times = self.push if pushes else self.pull, []
        while True:
            began = time.perf_counter()
            await act()
            now = time.perf_counter()
            times.append(now - began)
            if now >= end:
                return times


def _ours() -> Any:
    from fastapi import FastAPI

    from starfish_server import MemoryObjectStore, SyncConfig
    from starfish_server.router import SyncRouterOptions, create_sync_router

    async def resolve(request: Any) -> None:
        return None

    config = SyncConfig.model_validate({"version": 1, "collections": [COLLECTION]})
    options = SyncRouterOptions(store=MemoryObjectStore(data={}), config=config, role_resolver=resolve)
    try:
        from starfish_server.router import sync_application
    except ImportError:  # 2.3.0 has the router alone
        app = FastAPI()
        app.include_router(create_sync_router(options))
        return app
    return sync_application(options)


def _bare() -> Any:
    """Starlette alone with the same operations on the same store: no checks, no timestamps of leaves."""
    import hashlib

    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from starfish_server import MemoryObjectStore

    store = MemoryObjectStore(data={})

    async def pull(request: Any) -> Any:
        return Response(
            await store.get_string(f"notes/{request.path_params['id']}"), media_type="application/json"
        )

    async def push(request: Any) -> Any:
        key = f"notes/{request.path_params['id']}"
        pushed = json.loads(await request.body())
        found = await store.read(key)
        if (found and json.loads(found.body)["hash"]) != pushed["baseHash"]:
            return Response(status_code=409)
        digest = hashlib.sha256(json.dumps(pushed["data"], sort_keys=True).encode()).hexdigest()
        stored = json.dumps({"data": pushed["data"], "hash": digest})
        version = None if found is None else found.info.version
        await store.write(key, stored, content_type="application/json", if_version=version)
        return JSONResponse({"hash": digest, "timestamp": time.time_ns() // 1_000_000})

    return Starlette(
        routes=[Route("/pull/notes/{id}", pull), Route("/push/notes/{id}", push, methods=["POST"])]
    )


def main(kind: str) -> None:
    import socket

    import uvicorn

    app = _bare() if kind == "bare" else _ours()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            lifespan="off",
            access_log=False,
            log_level="warning",
            timeout_keep_alive=3600,  # while the others take their turn
        )
        uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main(sys.argv[1])
