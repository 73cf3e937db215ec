"""What stacks ask of a bucket, counted by a real S3 server, and what that costs at list prices."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import urllib.request
from collections import Counter
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from bench.contenders.layers import json_of
from scale.fleet import Fleet
from servers import start_seaweedfs
from starfish_server import AbstractObjectStore, StoreBuilder, StoreContext
from starfish_server.layers import (
    AccessLog,
    Caching,
    Compression,
    Encryption,
    JsonLinesSink,
    KeyRing,
    Namespace,
    Retry,
    Timeout,
    Tracing,
)
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import S3Server

# Amazon S3 Standard in us-east-1, in dollars: "Requests & data retrievals" and "Data transfer", first tier.
DOLLARS_PER_WRITE = 0.005 / 1_000  # PUT, COPY, POST, LIST
DOLLARS_PER_READ = 0.0004 / 1_000  # GET and all others; DELETE is free
DOLLARS_PER_BYTE_OUT = 0.09 / 1e9  # to the internet; nothing within the region

WORK = Fleet(processes=1, rate=50.0, writes=0.1, keys=1_000, seconds=100.0)
LIST_EVERY = 100
LISTED = 100
BODY = json_of(4096).decode()
CONTEXT = StoreContext("notes", {}, "alice", ("member",), "pull", namespace="t1")
MILLION = 1e6


@dataclass(frozen=True)
class Usage:
    """What one stack asked of the bucket for a number of operations.

    bytes_out: of bodies that the bucket sent.
    audit_bytes: that the audit log took.
    """

    operations: int
    gets: int
    puts: int
    lists: int
    bytes_out: int
    audit_bytes: int = 0

    def per_million(self, amount: float) -> float:
        return amount * MILLION / self.operations

    @property
    def request_dollars(self) -> float:
        """Dollars for the requests of a million operations."""
        return self.per_million((self.puts + self.lists) * DOLLARS_PER_WRITE + self.gets * DOLLARS_PER_READ)

    @property
    def egress_dollars(self) -> float:
        """Dollars for the bodies of a million operations, if they leave the region for the internet."""
        return self.per_million(self.bytes_out * DOLLARS_PER_BYTE_OUT)


class Clock:
    """A clock that shows when the operation at hand begins, so that a cache ages as in the real run."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(leaf: AbstractObjectStore, clock: Clock, audit: Path) -> AbstractObjectStore:
    return StoreBuilder().layer(Retry).layer(Timeout).over(leaf)


def cached(leaf: AbstractObjectStore, clock: Clock, audit: Path) -> AbstractObjectStore:
    return _guarded(clock, audit).layer(Retry).layer(Timeout).over(leaf)


def sealed(leaf: AbstractObjectStore, clock: Clock, audit: Path) -> AbstractObjectStore:
    keys = KeyRing({"2026": os.urandom(32)}, active="2026")
    builder = _guarded(clock, audit).layer(Compression).layer(Encryption, keys)
    return builder.layer(Retry).layer(Timeout).over(leaf)


def _guarded(clock: Clock, audit: Path) -> StoreBuilder:
    return (
        StoreBuilder()
        .layer(AccessLog, sink=JsonLinesSink(audit, chain=True))
        .layer(Tracing)
        .layer(Namespace, "{namespace}/")
        .layer(Caching, ttl=WORK.ttl, clock=clock)
    )


STACKS: dict[str, Callable[[AbstractObjectStore, Clock, Path], AbstractObjectStore]] = {
    each.__name__: each for each in (plain, cached, sealed)
}


async def count(fleet: Fleet = WORK) -> dict[str, Usage]:
    """Make the operations through each stack, over a bucket of its own."""
    with start_seaweedfs() as server, tempfile.TemporaryDirectory(prefix="starfish-scale-") as folder:
        return {name: await _count(name, fleet, server, Path(folder) / f"{name}.jsonl") for name in STACKS}


async def _count(name: str, fleet: Fleet, server: S3Server, audit: Path) -> Usage:
    bucket, clock = server.make_bucket(), Clock()
    options = S3StorageOptions(
        bucket=bucket,
        region="us-east-1",
        endpoint=server.endpoint,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
    )
    async with STACKS[name](S3ObjectStore(options), clock, audit) as store:
        clock.now = -2 * fleet.ttl  # what is written here is not cached any more when the work begins
        for key in range(fleet.keys):
            await store.put(f"k{key}", BODY, context=CONTEXT)
        before = await _served(server, bucket)
        made = 0
        for made, call in enumerate(fleet.calls(1), start=1):
            clock.now = call.at
            if made % LIST_EVERY == 0:
                await store.list_keys("k", limit=LISTED, context=CONTEXT)
            elif call.writes:
                await store.put(f"k{call.key}", BODY, context=CONTEXT)
            else:
                await store.get_string(f"k{call.key}", context=CONTEXT)
        used = await _served(server, bucket)
        used.subtract(before)
    # The records of the puts before the work are as long as the others.
    audited = sum(map(os.path.getsize, glob(str(audit)))) * made // (made + fleet.keys)
    return Usage(made, used["GET"], used["PUT"], used["LIST"], used["sent"], audited)


async def _served(server: S3Server, bucket: str) -> Counter[str]:
    """Return how many requests of each type the server has had for a bucket, and the bytes it has sent."""
    served, earlier = _read_metrics(server, bucket), None
    while served != earlier:  # it counts a request after the reply
        await asyncio.sleep(0.1)
        served, earlier = _read_metrics(server, bucket), served
    return served


def _read_metrics(server: S3Server, bucket: str) -> Counter[str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(server.metrics, timeout=10.0) as reply:
        lines: list[str] = reply.read().decode().splitlines()
    served: Counter[str] = Counter()
    for line in lines:
        if f'bucket="{bucket}"' not in line:
            continue
        if line.startswith("SeaweedFS_s3_bucket_traffic_sent_bytes_total"):
            served["sent"] = int(float(line.split()[-1]))
        elif found := re.match(r'SeaweedFS_s3_request_total\{.*type="(\w+)"', line):
            served[found[1]] += int(float(line.split()[-1]))
    return served
