"""Four processes race through a shared cache while Redis is killed and one of them is stopped."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from bisect import bisect_left
from pathlib import Path
from typing import Any

import pytest

from redis_server import RedisServer
from reliability.racing_caches import KEYS, MAX_DELAY, TTL
from starfish_server import FilesystemObjectStore, FilesystemStorageOptions
from waiting import eventually

PROCESSES = 4


class Racer:
    """One of the processes: whether it is connected, and how many operations it has done."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self.connected = False
        self.operations = 0
        self.listening = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            match line.strip():
                case b"connected":
                    self.connected = True
                case b"lost":
                    self.connected = False
                case count:
                    self.operations = int(count)

    async def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert await self.process.wait() == 0
        await self.listening


class Staleness:
    """Tells how long a value had been overwritten when it was read, from all writes of one key."""

    def __init__(self, writes: list[tuple[str, float, float]]) -> None:
        by_end = sorted(writes, key=lambda write: write[2])
        self._ended = {value: end for value, _, end in writes}
        self._ends = [end for _, _, end in by_end]
        self._latest_begin: list[float] = []
        for _, began, _ in by_end:
            self._latest_begin.append(max([began, *self._latest_begin[-1:]]))

    def is_stale(self, value: str, asked: float, delay: float) -> bool:
        """Whether a write that began after that of `value` ended was over `delay` before the read began."""
        over = bisect_left(self._ends, asked - delay)
        # A value whose write has not returned yet is new.
        return over > 0 and self._latest_begin[over - 1] > self._ended.get(value, float("inf"))


@pytest.mark.timeout(300)
async def test_no_process_reads_what_was_overwritten(tmp_path: Path, full: bool) -> None:
    operations = 100_000 if full else 8_000
    data, temporary = tmp_path / "data", tmp_path / "redis"
    data.mkdir()
    temporary.mkdir()
    first: dict[str, tuple[str, float, float]] = {}
    async with FilesystemObjectStore(FilesystemStorageOptions(base_dir=str(data), fsync=False)) as leaf:
        for key in KEYS:
            await leaf.put(key, "first")
            first[key] = ("first", 0.0, 0.0)
    outages: list[tuple[float, float]] = []
    with RedisServer(temporary) as redis:
        racers = [await start(redis.url, data, tmp_path, number) for number in range(PROCESSES)]

        def all_connected() -> bool:
            return all(racer.connected for racer in racers)

        def done() -> int:
            return sum(racer.operations for racer in racers)

        await eventually(all_connected)
        for part in range(1, 4):
            await eventually(lambda part=part: done() >= part * operations // 5)  # type: ignore[misc]
            if part == 2:
                racers[0].process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(1.5 * MAX_DELAY)
                racers[0].process.send_signal(signal.SIGCONT)
                continue
            began = time.monotonic()
            redis.kill()
            await eventually(lambda: not any(racer.connected for racer in racers))
            await asyncio.sleep(0.3)
            redis.start()
            await eventually(all_connected)
            outages.append((began, time.monotonic()))
        end = done() + operations // 5
        await eventually(lambda: done() >= max(end, operations))
        for racer in racers:
            await racer.end()
    logs: list[dict[str, Any]] = [json.loads(racer.log.read_text()) for racer in racers]
    assert [log["failures"] for log in logs] == [[]] * PROCESSES
    assert min(log["hits"] for log in logs) > 0
    assert sum(log["remote_hits"] for log in logs) > 0
    writes: dict[str, list[tuple[str, float, float]]] = {key: [first[key]] for key in KEYS}
    for log in logs:
        for key, value, began, ended in log["writes"]:
            writes[key].append((value, began, ended))
    staleness = {key: Staleness(of_key) for key, of_key in writes.items()}
    reads = [read for log in logs for read in log["reads"]]
    assert len(reads) + sum(map(len, writes.values())) >= operations
    stale = [
        (key, value, asked)
        for key, value, asked in reads
        if staleness[key].is_stale(value, asked, allowed(asked, outages))
    ]
    assert stale == []
    begun = {value: at for of_key in writes.values() for value, at, _ in of_key}
    ended = {value: at for of_key in writes.values() for value, _, at in of_key}
    own = [pair for log in logs for pair in log["own"]]
    assert [(found, wrote) for found, wrote in own if ended.get(found, begun[wrote]) < begun[wrote]] == []


def allowed(asked: float, outages: list[tuple[float, float]]) -> float:
    """Return how far a read may be behind: `ttl` while a process has no connection, else `max_delay`."""
    return TTL if any(began <= asked <= ended for began, ended in outages) else MAX_DELAY


async def start(url: str, data: Path, folder: Path, number: int) -> Racer:
    log = folder / f"log-{number}"
    program = [sys.executable, str(Path(__file__).with_name("racing_caches.py"))]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *program, url, str(data), str(number), str(log), stdin=pipe, stdout=pipe
    )
    return Racer(process, log)


def test_the_check_itself_finds_what_is_stale() -> None:
    staleness = Staleness([("a", 0.0, 1.0), ("b", 2.0, 3.0), ("c", 2.5, 3.5)])
    assert staleness.is_stale("a", 5.0, 1.0)
    assert not staleness.is_stale("a", 4.0, 1.0)  # it may be behind by so much
    assert not staleness.is_stale("b", 9.0, 1.0)  # b and c overlapped, so either may be the last
    assert not staleness.is_stale("not returned", 9.0, 1.0)
