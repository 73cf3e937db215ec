"""A fleet of real processes over a real Redis, which makes the operations of the simulated one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.registry import ROOT
from redis_server import RedisServer
from scale.simulation import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scale.fleet import Fleet


async def measure(fleet: Fleet, seed: int) -> Counts:
    """Return what the processes of a fleet counted, and its Redis."""
    with tempfile.TemporaryDirectory(prefix="starfish-scale-") as folder:
        if not fleet.shared:
            return await _run(fleet, seed, "")
        with RedisServer(Path(folder)) as redis:
            counts = await _run(fleet, seed, redis.url)
            counts.messages = _calls(redis, "publish")
            counts.commands += _calls(redis, "evalsha") - fleet.processes  # of the first read of each
            return counts


async def _run(fleet: Fleet, seed: int, redis_url: str) -> Counts:
    children = [await _start(fleet, seed, number, redis_url) for number in range(fleet.processes)]
    try:
        async with asyncio.timeout(fleet.seconds + 60.0):
            for child in children:
                assert child.stdout is not None
                assert await child.stdout.readline() == b"ready\n"
            replies = await asyncio.gather(*(child.communicate(b"\n") for child in children))
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
                await child.wait()
    return together(json.loads(output) for output, _ in replies)


def together(counted: Iterable[dict[str, Any]]) -> Counts:
    """Return the sum of what several processes counted."""
    processes = list(counted)
    names = [each.name for each in fields(Counts) if each.type == "int"]
    return Counts(**{name: sum(each[name] for each in processes) for name in names})


async def _start(fleet: Fleet, seed: int, number: int, redis_url: str) -> asyncio.subprocess.Process:
    words = ["-m", "scale.process", json.dumps(asdict(fleet)), str(seed), str(number), redis_url]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *words),
        env=os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


def _calls(redis: RedisServer, command: str) -> int:
    with redis.client() as client:
        statistics = client.info("commandstats")
        assert isinstance(statistics, dict)
        found = statistics.get(f"cmdstat_{command}", {"calls": 0})
        return int(found["calls"])
