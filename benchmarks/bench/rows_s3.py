"""The rows over S3: SeaweedFS on loopback."""

from __future__ import annotations

from bench.plan import Plan
from bench.registry import AIOBOTOCORE, BY_HAND, OBSTORE, OPENDAL, OURS, S3FS, SEED, entrants
from bench.row import BEST_PEER, Goal, Row, speed_at_least

MIB = 2**20
LISTED = 10_000
ALL = entrants(OURS, SEED, OBSTORE, OPENDAL, AIOBOTOCORE, S3FS, BY_HAND)
WITH_BATCH_DELETE = entrants(OURS, SEED, OBSTORE, AIOBOTOCORE, S3FS, BY_HAND)

ROWS = (
    Row(
        name="s3-get",
        title="S3 get 1 KiB, 32 at once",
        sentence="Gets of 1 KiB, 32 under way at any time, connections already open.",
        unit="op/s",
        place="s3",
        plan=Plan(workload="get", objects=256, concurrency=32, seconds=0.8),
        entrants=ALL,
        goals=(
            speed_at_least(1.0, BEST_PEER),
            speed_at_least(3.5, SEED.name),
            Goal(300, metric="cpu"),
        ),
        filled_by="entrant",
    ),
    Row(
        name="s3-put",
        title="S3 put 1 KiB, 32 at once",
        sentence="Puts of 1 KiB to new keys, 32 under way at any time, connections already open.",
        unit="op/s",
        place="s3",
        plan=Plan(workload="put", concurrency=32, seconds=0.8),
        entrants=ALL,
        goals=(speed_at_least(0.95, BEST_PEER), speed_at_least(3.0, SEED.name)),
    ),
    Row(
        name="s3-get-far",
        title="S3 get 1 KiB, 20 ms away, 256 at once",
        sentence="The same gets through a relay that adds 10 ms each way, 256 under way at any time.",
        unit="op/s",
        place="s3 far",
        plan=Plan(workload="get", objects=256, concurrency=256, seconds=1.0),
        entrants=ALL,
        goals=(speed_at_least(1.0, BEST_PEER),),
        filled_by="entrant",
    ),
    Row(
        name="s3-list",
        title="S3 list 10,000 keys",
        sentence="All 10,000 keys under a prefix, page after page.",
        unit="ms",
        place="s3",
        plan=Plan(workload="list_all", objects=LISTED),
        entrants=ALL,
        goals=(Goal(1.2, OBSTORE.name),),
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
        goals=(Goal(1.05, OBSTORE.name),),
        filled_by="coordinator",
        refilled=True,
    ),
    Row(
        name="s3-get-64m",
        title="S3 get 64 MiB",
        sentence="One body of 64 MiB read into memory, and the most memory held beyond it.",
        unit="MB/s",
        place="s3",
        plan=Plan(workload="get_bytes", size=64 * MIB),
        entrants=ALL,
        goals=(speed_at_least(0.95, BEST_PEER), Goal(16, metric="memory")),
        filled_by="entrant",
        shows_memory=True,
    ),
    Row(
        name="s3-put-64m",
        title="S3 put 64 MiB",
        sentence="One body of 64 MiB stored from memory, and the most memory held beyond it.",
        unit="MB/s",
        place="s3",
        plan=Plan(workload="put_bytes", size=64 * MIB),
        entrants=ALL,
        goals=(speed_at_least(0.95, BEST_PEER), Goal(16, metric="memory")),
        shows_memory=True,
    ),
)
