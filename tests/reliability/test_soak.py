"""Two workers on S3 with the whole stack under mixed load: no reply of 500, and memory that stays."""

from __future__ import annotations

import asyncio
import collections
import random
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import httpx
import pytest

from cli.program import running, starfish
from cli.test_workers import Workers

if TYPE_CHECKING:
    from servers import S3Server

CLIENTS = 8
KEYS = 40
TOKEN = "a-token-for-the-soak"
CONFIG = """
[[layer]]
type = "AccessLog"
sink = {type = "JsonLinesSink", path = "audit-{worker}.jsonl", chain = true, max_bytes = 100000000}

[[layer]]
type = "Metrics"

[[layer]]
type = "SizeLimit"
max_bytes = 1000000

[[layer]]
type = "RateLimit"
rate = 100000.0
burst = 100000

[[layer]]
type = "Namespace"
prefix = "soak/{collection}/"

[[layer]]
type = "Caching"
ttl = 1.0

[[layer]]
type = "Compression"

[[layer]]
type = "Encryption"
keys = {type = "KeyRing", secrets = {"2026" = "${SOAK_KEY}"}, active = "2026"}

[[layer]]
type = "CircuitBreaker"

[[layer]]
type = "Retry"

[[layer]]
type = "ConcurrencyLimit"

[[layer]]
type = "Timeout"

[leaf]
type = "s3"
bucket = "${SOAK_BUCKET}"
endpoint = "${SOAK_ENDPOINT}"
access_key_id = "${SOAK_ID}"
secret_access_key = "${SOAK_SECRET}"

[[sync.collections]]
name = "notes"
storagePath = "notes/{id}"
readRoles = ["member"]
writeRoles = ["member"]
maxBodyBytes = 100000
listable = true

[[sync.collections]]
name = "pictures"
storagePath = "pictures/{id}"
readRoles = ["public"]
writeRoles = ["member"]
maxBodyBytes = 1000000
allowedMimeTypes = ["image/*"]

[[auth.token]]
identity = "alice"
roles = ["member"]
token = "${SOAK_TOKEN}"
"""


def environment(server: S3Server) -> dict[str, str]:
    return {
        "SOAK_BUCKET": server.make_bucket(),
        "SOAK_ENDPOINT": server.endpoint,
        "SOAK_ID": server.access_key_id,
        "SOAK_SECRET": server.secret_access_key,
        "SOAK_KEY": "k" * 32,
        "SOAK_TOKEN": TOKEN,
    }


class Load:
    """What one client asks, at random, and how often it was answered with each status."""

    def __init__(self, client: httpx.AsyncClient, seed: int) -> None:
        self._client = client
        self._chance = random.Random(seed)
        self.statuses: collections.Counter[int] = collections.Counter()

    async def run(self, end: float) -> None:
        acts = (self.push, self.push, self.pull, self.pull, self.pull, self.list, self.picture, self.wrong)
        while time.monotonic() < end:
            await self._chance.choice(acts)()

    async def _ask(self, method: str, path: str, **options: object) -> httpx.Response:
        response = await self._client.request(method, path, **options)  # type: ignore[arg-type]  # as given
        self.statuses[response.status_code] += 1
        return response

    async def push(self) -> None:
        path = f"notes/{self._chance.randrange(KEYS)}"
        pulled = (await self._ask("GET", f"/pull/{path}")).json()
        data = {"text": "x" * self._chance.randrange(5000), "n": self._chance.random()}
        await self._ask("POST", f"/push/{path}", json={"data": data, "baseHash": pulled.get("hash") or None})

    async def pull(self) -> None:
        await self._ask("GET", f"/pull/notes/{self._chance.randrange(KEYS)}?checkpoint=1")

    async def list(self) -> None:
        # One worker may have taken all connections at the start; new ones reach the other, too.
        await self._ask("GET", "/list/notes", headers={"Connection": "close"})

    async def picture(self) -> None:
        path = f"pictures/{self._chance.randrange(KEYS)}"
        body = self._chance.randbytes(self._chance.randrange(200_000))
        await self._ask("POST", f"/push/{path}", content=body, headers={"Content-Type": "image/png"})
        await self._ask("GET", f"/pull/{path}", headers={"Range": "bytes=100-1000"})

    async def wrong(self) -> None:
        await self._ask("GET", "/pull/notes/1", headers={"Authorization": "Bearer wrong"})
        await self._ask(
            "POST", "/push/notes/1", content=b"{" * 1000, headers={"Content-Type": "application/json"}
        )
        await self._ask("GET", "/ready")


def memory(pids: list[int]) -> int:
    """Bytes that the processes hold together."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return sum(pages) * 4096


async def soak(folder: Path, server: S3Server, seconds: float) -> tuple[collections.Counter[int], float]:
    """Return the statuses, and by what fraction memory grew after the first third."""
    (folder / "server.toml").write_text(CONFIG)
    command = ("serve", "--config", "server.toml", "--port", "0", "--workers", "2", "--access-log")
    with running(*command, cwd=folder, env=environment(server)) as process:
        workers = await asyncio.to_thread(Workers, process)
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(
            base_url=f"http://{workers.host}:{workers.port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            limits=limits,
            timeout=60.0,
        ) as client:
            end = time.monotonic() + seconds
            loads = [Load(client, seed) for seed in range(CLIENTS)]
            running_loads = asyncio.gather(*(load.run(end) for load in loads))
            held = []
            while not running_loads.done():
                held.append(memory(workers.pids()))
                await asyncio.wait([running_loads], timeout=seconds / 100)
            await running_loads
        assert await asyncio.to_thread(workers.end) == 0
        assert len(workers.pids()) == 2, workers.printed
    part = len(held) // 6
    grown = median(held[-part:]) / median(held[2 * part : 3 * part]) - 1
    return sum((load.statuses for load in loads), collections.Counter()), grown


@pytest.mark.timeout(1500)
async def test_workers_under_mixed_load_fail_never_and_grow_no_more(
    tmp_path: Path, seaweedfs: S3Server, full: bool
) -> None:
    statuses, grown = await soak(tmp_path, seaweedfs, 1200 if full else 20)
    assert [status for status in statuses if status >= 500] == []
    assert {200, 206, 400, 401} <= set(statuses)
    assert grown < (0.05 if full else 0.3)
    assert all((tmp_path / f"audit-{worker}.jsonl").stat().st_size for worker in (0, 1))
    assert starfish("audit", "verify", "audit-0.jsonl", "audit-1.jsonl", cwd=tmp_path).code == 0
