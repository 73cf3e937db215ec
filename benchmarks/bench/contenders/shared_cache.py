"""A cache shared through Redis: what a hit takes, beside a bare GET, and how late a write shows elsewhere.

Needs redis-server on the PATH. Run as a program, it is the process that reads, until its input ends.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import redis.asyncio

from bench.layered import adds
from bench.sample import Sample
from starfish_server import FilesystemObjectStore, FilesystemStorageOptions, MemoryObjectStore
from starfish_server.layers import Caching, RedisCache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.plan import Plan

    Run = Callable[[int], Awaitable[Sample]]


def start_redis() -> tuple[str, str]:
    """Start a redis-server that ends with this process; return its URL and a folder that is removed then."""
    folder = tempfile.mkdtemp(prefix="starfish-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    socket = f"{folder}/socket"
    command = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    atexit.register(server.wait)
    atexit.register(server.kill)
    client = redis.Redis(unix_socket_path=socket)
    for _ in range(500):
        try:
            client.ping()
        except redis.ConnectionError:
            time.sleep(0.02)
        else:
            break
    client.close()
    return f"unix://{socket}", folder


async def open_hit(plan: Plan) -> Run:
    """A get that Redis answers: the first level is too small to hold the body."""
    url, _ = await asyncio.to_thread(start_redis)
    data: dict[str, str | bytes] = {"k": b"x" * plan.size}
    leaf = MemoryObjectStore(data=data)
    shared = RedisCache(url, namespace="bench", timeout=5.0)
    store = Caching(leaf, shared=shared, ttl=3600.0, max_object_bytes=1)

    async def get() -> Any:
        return await store.get_bytes("k")

    while not store.stats().remote_hits:
        await get()
    return adds(get, None, plan.objects)


async def open_bare_get(plan: Plan) -> Run:
    """The same GET with redis-py alone."""
    url, _ = await asyncio.to_thread(start_redis)
    client = redis.asyncio.Redis.from_url(url)
    await client.set("k", b"x" * plan.size)

    async def get() -> Any:
        return await client.get("k")

    return adds(get, None, plan.objects)


async def open_delay(plan: Plan) -> Run:
    """Writes here, and a process that reads in a tight loop: the 99.9th percentile of the delay."""
    url, folder = await asyncio.to_thread(start_redis)
    store = cached(url, folder)
    await store.put("k", "0")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, url, folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # that Redis is gone, at the end
        limit=2**26,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    await child.stdout.readline()
    last = 0

    async def run(number: int) -> Sample:
        nonlocal last
        returned: dict[str, float] = {}
        for _ in range(plan.objects):
            last += 1
            await store.put("k", str(last))
            returned[str(last)] = time.monotonic()
            await asyncio.sleep(0.002)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{last}\n".encode())
        seen: dict[str, float] = json.loads(await child.stdout.readline())
        delays = sorted(max(0.0, seen[value] - at) for value, at in returned.items() if value in seen)
        return Sample(delays[int(0.999 * (len(delays) - 1))], 0.0, 1)

    return run


def cached(url: str, folder: str) -> Caching:
    leaf = FilesystemObjectStore(FilesystemStorageOptions(base_dir=f"{folder}/data", fsync=False))
    return Caching(leaf, shared=RedisCache(url, namespace="bench", timeout=5.0), ttl=3600.0)


async def read(url: str, folder: str) -> None:
    """Read again and again; for each line of input, tell when each value was read first."""
    store = cached(url, folder)
    seen: dict[str, float] = {}
    print("ready", flush=True)

    async def answer() -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):
            while line.strip() not in seen:  # noqa: ASYNC110 - seen below
                await asyncio.sleep(0.001)
            print(json.dumps(seen), flush=True)
            seen.clear()

    answering = asyncio.ensure_future(answer())
    while not answering.done():
        value = await store.get_string("k")
        seen.setdefault(str(value), time.monotonic())
        await asyncio.sleep(0)
    await store.close()


if __name__ == "__main__":
    asyncio.run(read(*sys.argv[1:]))
