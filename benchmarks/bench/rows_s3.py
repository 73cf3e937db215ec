"""The rows over S3: SeaweedFS on loopback."""

from __future__ import annotations

from dataclasses import replace

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
from bench.row import BEST_PEER, Entrant, Goal, Row, at_1_gib, speed_at_least

MIB = 2**20
LISTED = 10_000
ALL = entrants(OURS, SEED, OBSTORE, OPENDAL, AIOBOTOCORE, S3FS, BY_HAND)
UVLOOP = Entrant(OURS, "starfish, uvloop", uvloop=True)
WITH_BATCH_DELETE = entrants(OURS, SEED, OBSTORE, AIOBOTOCORE, S3FS, BY_HAND)

GET = Row(
    name="s3-get",
    title="S3 get 1 KiB, 32 in flight",
    sentence="Gets of 1 KiB, 32 in flight at any time, connections already open.",
    unit="op/s",
    place="s3",
    plan=Plan(workload="get", objects=256, concurrency=32, seconds=0.8),
    entrants=(*ALL, *entrants(NEWEST)),
    goals=(speed_at_least(1.15, BEST_PEER), speed_at_least(3.5, SEED.name), Goal(145, metric="cpu")),
    filled_by="entrant",
)
PUT = Row(
    name="s3-put",
    title="S3 put 1 KiB, 32 in flight",
    sentence="Puts of 1 KiB to new keys, 32 in flight at any time, connections already open.",
    unit="op/s",
    place="s3",
    plan=Plan(workload="put", concurrency=32, seconds=0.8),
    entrants=ALL,
    goals=(speed_at_least(1.0, BEST_PEER), speed_at_least(3.0, SEED.name)),
)
GET_LARGE = Row(
    name="s3-get-64m",
    title="S3 get 64 MiB",
    sentence="One body of 64 MiB read into memory, and the most memory held beyond it.",
    unit="MB/s",
    place="s3",
    plan=Plan(workload="get_bytes", size=64 * MIB),
    entrants=ALL,
    goals=(speed_at_least(0.9, BEST_PEER), Goal(16, metric="memory")),
    filled_by="coordinator",
    shows_memory=True,
)
PUT_LARGE = Row(
    name="s3-put-64m",
    title="S3 put 64 MiB",
    sentence="One body of 64 MiB stored from memory, and the most memory held beyond it.",
    unit="MB/s",
    place="s3",
    plan=Plan(workload="put_bytes", size=64 * MIB),
    entrants=ALL,
    goals=(speed_at_least(1.0, BEST_PEER), Goal(16, metric="memory")),
    shows_memory=True,
)
OPEN = Row(
    name="s3-open-256m",
    title="S3 open, 256 MiB",
    sentence="One body of 256 MiB read chunk by chunk, none of them kept, and the most memory held.",
    unit="MB/s",
    place="s3",
    plan=Plan(workload="stream", size=256 * MIB),
    entrants=entrants(OURS, OBSTORE),
    goals=(speed_at_least(1.0, OBSTORE.name), Goal(16, metric="memory")),
    filled_by="coordinator",
    shows_memory=True,
)
UPLOAD = Row(
    name="s3-upload-256m",
    title="S3 upload, 256 MiB",
    sentence="One body of 256 MiB stored from chunks of 1 MiB, and the most memory held.",
    unit="MB/s",
    place="s3",
    plan=Plan(workload="upload", size=256 * MIB),
    entrants=entrants(OURS, OBSTORE),
    goals=(speed_at_least(1.0, OBSTORE.name), Goal(64, metric="memory")),
    shows_memory=True,
)
STORES = Row(
    name="s3-stores",
    title="1,000 stores opened",
    sentence="1,000 stores over one bucket, opened and not used, and the most memory held.",
    unit="ms",
    place="s3",
    plan=Plan(workload="open_stores", count=1_000),
    entrants=entrants(OURS, CANONICAL, OBSTORE, OPENDAL),
    shows_memory=True,
)
IN_FLIGHT = Row(
    name="s3-get-10000",
    title="S3 get 1 KiB, 10,000 in flight",
    sentence="10,000 gets of 1 KiB begun at the same time over 64 connections, and the most memory held.",
    unit="ms",
    place="s3",
    plan=Plan(workload="get_all", objects=10_000),
    entrants=entrants(OURS, CANONICAL, OBSTORE, AIOBOTOCORE, BY_HAND),
    filled_by="entrant",
    shows_memory=True,
)
FLAME = Row(
    name="flame",
    title="Where a get through the canonical stack over S3 spends its time",
    sentence="Gets of 1 KiB, 32 in flight at any time; the processor time of the process, sampled.",
    unit="us",
    place="s3",
    plan=Plan(workload="get", objects=256, concurrency=32, seconds=10.0),
    entrants=entrants(CANONICAL),
    filled_by="entrant",
)


def _over_tls(row: Row, *goals: Goal, entrants: tuple[Entrant, ...] = ALL) -> Row:
    return replace(
        row,
        name=f"{row.name}-tls",
        title=f"{row.title}, over TLS",
        sentence=f"The same over TLS, with a certificate that is checked. {row.sentence}",
        place="s3 tls",
        entrants=entrants,
        goals=goals,
    )


ROWS = (
    GET,
    _over_tls(
        GET,
        speed_at_least(1.05, BEST_PEER),
        speed_at_least(1.05, BEST_PEER, ours=UVLOOP.label),
        entrants=(*ALL, UVLOOP),
    ),
    PUT,
    _over_tls(
        PUT,
        speed_at_least(1.0, BEST_PEER),
        speed_at_least(1.0, BEST_PEER, ours=UVLOOP.label),
        entrants=(*ALL, UVLOOP),
    ),
    replace(
        GET,
        name="s3-get-far",
        title="S3 get 1 KiB, 20 ms away, 256 in flight",
        sentence="The same gets through a relay that adds 10 ms each way, 256 in flight at any time.",
        place="s3 far",
        plan=Plan(workload="get", objects=256, concurrency=256, seconds=1.0),
        entrants=ALL,
        goals=(speed_at_least(1.05, BEST_PEER),),
    ),
    Row(
        name="s3-stat",
        title="S3 stat, 32 in flight",
        sentence="Stats of objects of 1 KiB, 32 in flight at any time, connections already open.",
        unit="op/s",
        place="s3",
        plan=Plan(workload="stat", objects=256, concurrency=32, seconds=0.8),
        entrants=entrants(OURS, OBSTORE, BY_HAND),
        goals=(speed_at_least(1.0, OBSTORE.name),),
        filled_by="entrant",
    ),
    Row(
        name="s3-read",
        title="S3 read of 64 KiB out of 64 MiB, 8 in flight",
        sentence="Ranges of 64 KiB all over an object of 64 MiB, 8 in flight at any time.",
        unit="op/s",
        place="s3",
        plan=Plan(workload="read", size=64 * MIB, part=64 * 1024, concurrency=8, seconds=0.8),
        entrants=entrants(OURS, OBSTORE, BY_HAND),
        goals=(speed_at_least(1.0, OBSTORE.name),),
        filled_by="coordinator",
    ),
    Row(
        name="s3-list",
        title="S3 list 10,000 keys",
        sentence="All 10,000 keys under a prefix, page after page.",
        unit="ms",
        place="s3",
        plan=Plan(workload="list_all", objects=LISTED),
        entrants=ALL,
        goals=(Goal(1.0, OBSTORE.name),),
        filled_by="coordinator",
    ),
    Row(
        name="s3-list-objects",
        title="S3 list 10,000 objects with sizes",
        sentence="All 10,000 objects under a prefix, each with its size.",
        unit="ms",
        place="s3",
        plan=Plan(workload="list_objects", objects=LISTED),
        entrants=entrants(OURS, OBSTORE),
        goals=(Goal(1.1, OBSTORE.name),),
        filled_by="coordinator",
    ),
    Row(
        name="s3-delete",
        title="S3 delete 10,000 keys",
        sentence="10,000 objects of 1 KiB deleted in batches of 1,000.",
        unit="ms",
        place="s3",
        plan=Plan(workload="delete_many", objects=LISTED),
        entrants=WITH_BATCH_DELETE,
        goals=(Goal(1.0, OBSTORE.name),),
        filled_by="coordinator",
        refilled=True,
    ),
    GET_LARGE,
    _over_tls(GET_LARGE, speed_at_least(1.2, BEST_PEER), Goal(16, metric="memory")),
    PUT_LARGE,
    _over_tls(PUT_LARGE, speed_at_least(1.0, BEST_PEER), Goal(16, metric="memory")),
    OPEN,
    at_1_gib(OPEN),
    UPLOAD,
    at_1_gib(UPLOAD),
    STORES,
    IN_FLIGHT,
    Row(
        name="s3-zarr",
        title="One chunk of 80 kB of a zarr shard of 32 MB, on S3",
        sentence="An array opened and one chunk of its shard read, and the bytes that a relay carried.",
        unit="ms",
        place="s3 counted",
        plan=Plan(workload="read_chunk", size=32_000_000, part=80_000, read=10),
        entrants=entrants(*ADAPTERS),
        goals=(Goal(1.1, OBSTORE.name), Goal(1.1, OBSTORE.name, metric="moved")),
        filled_by="coordinator",
    ),
    Row(
        name="s3-parquet",
        title="One column of ten of a parquet file of 16 MB, on S3",
        sentence="A column read by pyarrow out of four row groups, and the bytes that a relay carried.",
        unit="ms",
        place="s3 counted",
        plan=Plan(workload="read_column", size=16_000_000, part=1_600_000, read=5),
        entrants=entrants(*ADAPTERS),
        goals=(Goal(1.1, OBSTORE.name), Goal(1.1, OBSTORE.name, metric="moved")),
        filled_by="coordinator",
    ),
)
