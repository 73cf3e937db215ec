"""The rows of the cache that processes share through Redis."""

from __future__ import annotations

from bench.plan import Plan
from bench.row import Contender, Entrant, Goal, Row

HIT = Contender("starfish", "ours", "", "shared_cache:open_hit")
BARE_GET = Contender("redis-py", "floor", "", "shared_cache:open_bare_get")
DELAY = Contender("starfish", "ours", "", "shared_cache:open_delay")

ROWS = (
    Row(
        name="shared-hit",
        title="Shared cache, a hit from Redis",
        sentence="A get of 1 KiB that Redis answers, in all; the floor is a GET with redis-py alone.",
        unit="us",
        place="none",
        plan=Plan(workload="layer", objects=10_000),
        entrants=(Entrant(HIT, "starfish", "hit"), Entrant(BARE_GET, "redis-py GET", "get")),
        goals=(Goal(1.5, "redis-py GET"),),
        needs="redis-server",
    ),
    Row(
        name="shared-delay",
        title="Shared cache, coherence delay",
        sentence="From the return of a write until another process reads the new value; "
        "the 99.9th percentile of 1,000 writes.",
        unit="ms",
        place="none",
        plan=Plan(workload="layer", objects=1_000),
        entrants=(Entrant(DELAY, "starfish", "delay"),),
        goals=(Goal(50.0),),
        needs="redis-server",
    ),
)
