"""A TCP relay that delivers everything a fixed time later, as from far away, and counts the bytes.

`python -m bench.relay HOST PORT SECONDS` prints its own port. For each line of its standard input it prints
how many bytes it has carried, both ways.

The delay is the same for all, so what arrives first leaves first: one queue and one timer serve all
connections, where a timer for each piece would cost more than the piece.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable


class DelayLine:
    """Runs calls a fixed time after they were handed in, in order."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.carried = 0
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()

    def later(self, call: Callable[[], None]) -> None:
        due = self._loop.time() + self._seconds
        self._queue.append((due, call))
        if len(self._queue) == 1:
            self._loop.call_at(due, self._deliver)

    def _deliver(self) -> None:
        queue = self._queue
        now = self._loop.time()
        while queue and queue[0][0] <= now:
            queue[0][1]()
            queue.popleft()
        if queue:
            self._loop.call_at(queue[0][0], self._deliver)


class End(asyncio.Protocol):
    """One end of a relayed connection: what it receives leaves through the other end, later."""

    def __init__(self, line: DelayLine) -> None:
        self._line = line
        self.transport: asyncio.Transport | None = None
        self.other: End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._line.carried += len(data)
        self._line.later(lambda: self._send_on(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._line.later(self._close_other)

    def _send_on(self, data: bytes) -> None:
        if self.other and self.other.transport:
            self.other.transport.write(data)

    def _close_other(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.close()


class Entrance(End):
    """The end that a client connects to; it opens the end at the server and holds data back until then."""

    def __init__(self, line: DelayLine, host: str, port: int) -> None:
        super().__init__(line)
        self._host, self._port = host, port
        self._waiting: list[bytes] = []
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        _, exit_end = await loop.create_connection(lambda: End(self._line), self._host, self._port)
        exit_end.other, self.other = self, exit_end
        for data in self._waiting:
            self._send_on(data)

    def _send_on(self, data: bytes) -> None:
        if self.other is None:
            self._waiting.append(data)
        else:
            super()._send_on(data)


async def relay(host: str, port: int, seconds: float) -> None:
    line = DelayLine(seconds)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Entrance(line, host, port), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        while await asyncio.to_thread(sys.stdin.readline):
            print(line.carried, flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(relay(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
