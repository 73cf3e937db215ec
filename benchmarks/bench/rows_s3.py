"""The rows over S3: SeaweedFS on loopback, most of them over TLS as well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.plan import Plan
from bench.registry import (
    ADAPTERS,
    AIOBOTOCORE,
    BY_HAND,
    CANONICAL,
    NEWEST,
    OBSTORE,
    OPENDAL,
    OURS,
    S3FS,
    SEED,
    entrants,
)
from bench.row import BEST_PEER, Contender, Entrant, Goal, Row, at_1_gib, speed_at_least

MIB = 2**20
LISTED = 10_000
ALL = (OURS, SEED, OBSTORE, OPENDAL, AIOBOTOCORE, S3FS, BY_HAND)
WITH_BATCH_DELETE = (OURS, SEED, OBSTORE, AIOBOTOCORE, S3FS, BY_HAND)
UVLOOP = Entrant(OURS, "starfish, uvloop", uvloop=True)
IN_MEMORY = Goal(16, metric="memory")


def _row(
    name: str,
    title: str,
    sentence: str,
    plan: Plan,
    contenders: tuple[Contender, ...],
    *goals: Goal,
    unit: Any = "op/s",
    place: Any = "s3",
    **options: Any,
) -> Row:
    return Row(
        f"s3-{name}", title, sentence, unit, place, plan, entrants(*contenders), goals=goals, **options
    )


def _large(
    name: str, title: str, sentence: str, plan: Plan, contenders: tuple[Contender, ...], *goals: Goal
) -> Row:
    """A row of one large body, with the memory that it takes."""
    filled_by = "coordinator" if plan.workload in ("get_bytes", "stream") else "nobody"
    options: dict[str, Any] = {"filled_by": filled_by, "shows_memory": True}
    return _row(name, title, sentence, plan, contenders, *goals, unit="MB/s", **options)


def _and_tls(row: Row, *goals: Goal) -> tuple[Row, Row]:
    """The row, and the same over TLS, on uvloop too; without goals, beside obstore alone."""
    peers = [each for each in row.entrants if each.contender is not NEWEST]
    if not goals:
        peers = [each for each in peers if each.contender in (OURS, OBSTORE)]
    over_tls = replace(
        row,
        name=f"{row.name}-tls",
        title=f"{row.title}, over TLS",
        sentence=f"The same over TLS, with a certificate that is checked. {row.sentence}",
        place="s3 tls",
        entrants=(*peers, UVLOOP),
        goals=goals,
    )
    return row, over_tls


GET = _row(
    "get",
    "S3 get 1 KiB, 32 in flight",
    "Gets of 1 KiB, 32 in flight at any time, connections already open.",
    Plan(workload="get", objects=256, concurrency=32, seconds=0.8),
    (*ALL, NEWEST),
    speed_at_least(1.15, BEST_PEER),
    speed_at_least(3.5, SEED.name),
    Goal(145, metric="cpu"),
    filled_by="entrant",
)
PUT = _row(
    "put",
    "S3 put 1 KiB, 32 in flight",
    "Puts of 1 KiB to new keys, 32 in flight at any time, connections already open.",
    Plan(workload="put", concurrency=32, seconds=0.8),
    ALL,
    speed_at_least(1.0, BEST_PEER),
    speed_at_least(3.0, SEED.name),
)
GET_FAR = _row(
    "get-far",
    "S3 get 1 KiB, 20 ms away, 256 in flight",
    "The same gets through a relay that adds 10 ms each way, 256 in flight at any time.",
    Plan(workload="get", objects=256, concurrency=256, seconds=1.0),
    ALL,
    speed_at_least(1.05, BEST_PEER),
    place="s3 far",
    filled_by="entrant",
)
STAT = _row(
    "stat",
    "S3 stat, 32 in flight",
    "Stats of objects of 1 KiB, 32 in flight at any time, connections already open.",
    Plan(workload="stat", objects=256, concurrency=32, seconds=0.8),
    (OURS, OBSTORE, BY_HAND),
    speed_at_least(1.0, OBSTORE.name),
    filled_by="entrant",
)
READ = _row(
    "read",
    "S3 read of 64 KiB out of 64 MiB, 8 in flight",
    "Ranges of 64 KiB all over an object of 64 MiB, 8 in flight at any time.",
    Plan(workload="read", size=64 * MIB, part=64 * 1024, concurrency=8, seconds=0.8),
    (OURS, OBSTORE, BY_HAND),
    speed_at_least(1.0, OBSTORE.name),
    filled_by="coordinator",
)
LIST = _row(
    "list",
    "S3 list 10,000 keys",
    "All 10,000 keys under a prefix, page after page.",
    Plan(workload="list_all", objects=LISTED),
    ALL,
    Goal(1.0, OBSTORE.name),
    unit="ms",
    filled_by="coordinator",
)
LIST_OBJECTS = _row(
    "list-objects",
    "S3 list 10,000 objects with sizes",
    "All 10,000 objects under a prefix, each with its size.",
    Plan(workload="list_objects", objects=LISTED),
    (OURS, OBSTORE),
    Goal(1.1, OBSTORE.name),
    unit="ms",
    filled_by="coordinator",
)
DELETE = _row(
    "delete",
    "S3 delete 10,000 keys",
    "10,000 objects of 1 KiB deleted in batches of 1,000.",
    Plan(workload="delete_many", objects=LISTED),
    WITH_BATCH_DELETE,
    Goal(1.0, OBSTORE.name),
    unit="ms",
    filled_by="coordinator",
    refilled=True,
)
GET_LARGE = _large(
    "get-64m",
    "S3 get 64 MiB",
    "One body of 64 MiB read into memory, and the most memory held beyond it.",
    Plan(workload="get_bytes", size=64 * MIB),
    ALL,
    speed_at_least(0.9, BEST_PEER),
    IN_MEMORY,
)
PUT_LARGE = _large(
    "put-64m",
    "S3 put 64 MiB",
    "One body of 64 MiB stored from memory, and the most memory held beyond it.",
    Plan(workload="put_bytes", size=64 * MIB),
    ALL,
    speed_at_least(1.0, BEST_PEER),
    IN_MEMORY,
)
OPEN = _large(
    "open-256m",
    "S3 open, 256 MiB",
    "One body of 256 MiB read chunk by chunk, none of them kept, and the most memory held.",
    Plan(workload="stream", size=256 * MIB),
    (OURS, OBSTORE),
    speed_at_least(1.0, OBSTORE.name),
    IN_MEMORY,
)
UPLOAD = _large(
    "upload-256m",
    "S3 upload, 256 MiB",
    "One body of 256 MiB stored from chunks of 1 MiB, and the most memory held.",
    Plan(workload="upload", size=256 * MIB),
    (OURS, OBSTORE),
    speed_at_least(1.0, OBSTORE.name),
    Goal(64, metric="memory"),
)
STORES = _row(
    "stores",
    "1,000 stores opened",
    "1,000 stores over one bucket, opened and not used, and the most memory held.",
    Plan(workload="open_stores", count=1_000),
    (OURS, CANONICAL, OBSTORE, OPENDAL),
    unit="ms",
    shows_memory=True,
)
IN_FLIGHT = _row(
    "get-10000",
    "S3 get 1 KiB, 10,000 in flight",
    "10,000 gets of 1 KiB begun at the same time over 64 connections, and the most memory held.",
    Plan(workload="get_all", objects=256, count=10_000),
    (OURS, CANONICAL, OBSTORE, AIOBOTOCORE, BY_HAND),
    unit="ms",
    filled_by="entrant",
    shows_memory=True,
)
ZARR = _row(
    "zarr",
    "One chunk of 80 kB of a zarr shard of 32 MB, on S3",
    "An array opened and one chunk of its shard read, and the bytes that a relay carried.",
    Plan(workload="read_chunk", size=32_000_000, part=80_000, read=10),
    ADAPTERS,
    Goal(1.1, OBSTORE.name),
    Goal(1.1, OBSTORE.name, metric="moved"),
    unit="ms",
    place="s3 counted",
    filled_by="coordinator",
)
PARQUET = replace(
    ZARR,
    name="s3-parquet",
    title="One column of ten of a parquet file of 16 MB, on S3",
    sentence="A column read by pyarrow out of four row groups, and the bytes that a relay carried.",
    plan=Plan(workload="read_column", size=16_000_000, part=1_600_000, read=5),
)
FLAME = Row(
    "flame",
    "Where a get through the canonical stack over S3 spends its time",
    "Gets of 1 KiB, 32 in flight at any time; the processor time of the process, sampled.",
    "us",
    "s3",
    Plan(workload="get", objects=256, concurrency=32, seconds=10.0),
    entrants(CANONICAL),
    filled_by="entrant",
)

ROWS = (
    *_and_tls(GET, speed_at_least(1.05, BEST_PEER), speed_at_least(1.05, BEST_PEER, ours=UVLOOP.label)),
    *_and_tls(PUT, speed_at_least(1.0, BEST_PEER), speed_at_least(1.0, BEST_PEER, ours=UVLOOP.label)),
    GET_FAR,
    *_and_tls(STAT),
    *_and_tls(READ),
    *_and_tls(LIST),
    *_and_tls(LIST_OBJECTS),
    *_and_tls(DELETE),
    *_and_tls(GET_LARGE, speed_at_least(1.2, BEST_PEER), IN_MEMORY),
    *_and_tls(PUT_LARGE, speed_at_least(1.0, BEST_PEER), IN_MEMORY),
    *_and_tls(OPEN),
    at_1_gib(OPEN),
    *_and_tls(UPLOAD),
    at_1_gib(UPLOAD),
    STORES,
    IN_FLIGHT,
    ZARR,
    PARQUET,
)
