"""What a fleet takes of a real Redis: processor time of commands, operations and messages."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis_server import RedisServer
from starfish_server import MemoryObjectStore
from starfish_server.layers import Caching, RedisCache

if TYPE_CHECKING:
    import redis

    from scale.simulation import Counts

CHANNEL = "scale:1"  # of the namespace "scale"
MAX_DELAY = 1.0  # the default of `RedisCache`
COMMANDS_PER_SECOND = (
    8 / MAX_DELAY
)  # of a process that does nothing: TIME and ROLE, four times in `max_delay`


@dataclass(frozen=True)
class RedisCosts:
    """Processor seconds of Redis.

    command: for TIME, ROLE or GET. delivery: for a message to one process.
    miss: for a read that fills an entry. write: for a write, without its messages.
    message_bytes: of a message, as a process receives it.
    """

    command: float
    delivery: float
    miss: float
    write: float
    message_bytes: int

    def load(self, processes: int, seconds: float, counts: Counts) -> float:
        """Return the processor seconds that a fleet takes of Redis in one second."""
        operations = (
            counts.remote_hits * self.command
            + (counts.gets * self.miss + counts.puts * self.write)
            + counts.messages * processes * self.delivery
        )
        return processes * COMMANDS_PER_SECOND * self.command + operations / seconds


def measure_costs(processes: int = 200, rounds: int = 100) -> RedisCosts:
    with tempfile.TemporaryDirectory(prefix="starfish-scale-") as folder, ExitStack() as opened:
        server = opened.enter_context(RedisServer(Path(folder)))
        client = opened.enter_context(server.client())
        message, miss, write = asyncio.run(_operations(server, client, 20 * rounds))
        frame = _frame(b"message", CHANNEL.encode(), message)
        peers = [
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(processes)
        ]
        time_and_role = _frame(b"TIME") + _frame(b"ROLE")
        before = _used(client)
        for _ in range(rounds):
            for peer in peers:
                peer.sendall(time_and_role)
            for peer in peers:
                peer.recv(4096)
        commands = (_used(client) - before) / (2 * rounds * processes)
        for peer in peers:
            peer.sendall(_frame(b"SUBSCRIBE", CHANNEL.encode()))
            peer.recv(4096)
        before = _used(client)
        for _ in range(rounds):
            client.publish(CHANNEL, message)
            for peer in peers:
                peer.recv(len(frame), socket.MSG_WAITALL)
        delivery = (_used(client) - before) / (rounds * processes)
        return RedisCosts(commands, delivery, miss, write - 2 * delivery, len(frame))


async def _operations(server: RedisServer, client: redis.Redis, number: int) -> tuple[bytes, float, float]:
    """Return the message of a write, and what a miss and a write take."""
    keys = [f"k{each:04}" for each in range(number)]
    shared = RedisCache(server.url, namespace="scale", timeout=5.0)
    async with Caching(MemoryObjectStore(data=dict.fromkeys(keys, "a body")), shared=shared) as store:
        await store.get_string("connect")
        used = [_used(client)]
        for perform in (store.get_string, partial(store.put, body="a body")):
            for key in keys:
                await perform(key)
            used.append(_used(client))
        subscription: Any = client.pubsub()  # type: ignore[no-untyped-call]  # of the package
        subscription.subscribe(CHANNEL)
        await store.put(keys[0], "a body")
        messages = (found["data"] for found in subscription.listen() if found["type"] == "message")
        message: bytes = next(messages)
        subscription.close()
    return message, (used[1] - used[0]) / number, (used[2] - used[1]) / number


def _frame(*parts: bytes) -> bytes:
    """Return parts as Redis sends and takes them."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _used(client: redis.Redis) -> float:
    info: Any = client.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])
