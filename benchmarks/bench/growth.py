"""How cost grows: the same work measured for a range of sizes, a line for each contender."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from bench.plan import Plan
from bench.registry import BY_HAND, OBSTORE, ONE_HOP, OPENDAL, OURS, SEED, entrants
from bench.row import Contender, Entrant, Row

STACK = Contender("starfish", "ours", "", "layers:open_stack")
WRAPPERS = Contender("py-key-value", "peer", "shared", "py_key_value:open_stack")


@dataclass(frozen=True, kw_only=True)
class Growth:
    """One plot.

    row: the work, but for its size.
    varies: the field of the row's plan that grows; across: what that is called; values: the points, in order.
    logarithmic: whether both axes are.
    """

    row: Row
    varies: Literal["concurrency", "depth", "objects"]
    across: str
    values: tuple[int, ...]
    logarithmic: bool = True

    def at(self, value: int) -> Row:
        """The row at one point."""
        changed: dict[str, Any] = {self.varies: value}
        return replace(self.row, name=f"{self.row.name}-{value}", plan=replace(self.row.plan, **changed))


GROWTH = (
    Growth(
        row=Row(
            name="growth-concurrency",
            title="S3 get 1 KiB: time for one, by how many are in flight",
            sentence="Wall time divided by gets, over a pool as large as the concurrency, at least 64.",
            unit="us",
            place="s3",
            plan=Plan(workload="get", objects=256, seconds=0.3),
            entrants=entrants(OURS, SEED, OBSTORE, OPENDAL, BY_HAND),
            filled_by="entrant",
        ),
        varies="concurrency",
        across="gets in flight",
        values=tuple(2**power for power in range(11)),
    ),
    Growth(
        row=Row(
            name="growth-depth",
            title="Memory get: time by the number of layers",
            sentence="A get through that many layers of the same kind.",
            unit="us",
            place="none",
            plan=Plan(workload="layer", objects=5_000),
            entrants=(
                Entrant(STACK, "Layer, passing through", "pass-through"),
                Entrant(STACK, "a layer with one hook", "one hook"),
                Entrant(STACK, "Timeout", "timeout"),
                Entrant(WRAPPERS, "py-key-value, prefix", "prefix"),
            ),
        ),
        varies="depth",
        across="layers",
        values=tuple(range(13)),
        logarithmic=False,
    ),
    Growth(
        row=Row(
            name="growth-file-objects",
            title="File get, warm: time by the number of objects stored",
            sentence="Gets of 100 empty objects, evenly spread over those stored, one after another.",
            unit="us",
            place="tree",
            plan=Plan(workload="get_in_turn", prefix="all/", per_folder=1_000, read=100, size=0, seconds=0.1),
            entrants=entrants(OURS, OBSTORE, ONE_HOP),
        ),
        varies="objects",
        across="objects stored",
        values=(100, 1_000, 10_000, 100_000),
    ),
    Growth(
        row=Row(
            name="growth-s3-objects",
            title="S3 get: time by the number of objects stored",
            sentence="Gets of 100 small objects, evenly spread over those stored, 8 in flight.",
            unit="us",
            place="s3",
            plan=Plan(workload="get", read=100, size=1, concurrency=8, seconds=0.3),
            entrants=entrants(OURS, OBSTORE, BY_HAND),
            filled_by="coordinator",
        ),
        varies="objects",
        across="objects stored",
        values=(100, 1_000, 10_000),
    ),
    Growth(
        row=Row(
            name="growth-file-list",
            title="File list: time by the number of keys",
            sentence="All keys, 1,000 to a folder.",
            unit="ms",
            place="tree",
            plan=Plan(workload="list_all", prefix="all/", per_folder=1_000),
            entrants=entrants(OURS, OBSTORE, ONE_HOP),
        ),
        varies="objects",
        across="keys listed",
        values=(10, 100, 1_000, 10_000, 100_000),
    ),
    Growth(
        row=Row(
            name="growth-s3-list",
            title="S3 list: time by the number of keys",
            sentence="All keys under a prefix.",
            unit="ms",
            place="s3",
            plan=Plan(workload="list_all"),
            entrants=entrants(OURS, OBSTORE, BY_HAND),
            filled_by="coordinator",
        ),
        varies="objects",
        across="keys listed",
        values=(10, 100, 1_000, 10_000),
    ),
)
