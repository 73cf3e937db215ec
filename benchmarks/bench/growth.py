"""How cost grows: the same work measured for a range of sizes, a line for each contender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.plan import Plan
from bench.registry import BY_HAND, OBSTORE, ONE_HOP, OPENDAL, OURS, SEED, entrants
from bench.row import Contender, Entrant, Row

if TYPE_CHECKING:
    from collections.abc import Callable

STACK = Contender("starfish", "ours", "", "layers:open_stack")
WRAPPERS = Contender("py-key-value", "peer", "shared", "py_key_value:open_stack")


@dataclass(frozen=True)
class Growth:
    """One plot.

    across: what grows; values: the points, in order.
    row: the work at one point, whose unit is that of the plot.
    logarithmic: whether both axes are.
    """

    name: str
    title: str
    sentence: str
    across: str
    values: tuple[int, ...]
    row: Callable[[int], Row]
    logarithmic: bool = True


def _concurrency(at_once: int) -> Row:
    return Row(
        name=f"growth-concurrency-{at_once}",
        title="",
        sentence="",
        unit="us",
        place="s3",
        plan=Plan(workload="get", objects=256, concurrency=at_once, seconds=0.3),
        entrants=entrants(OURS, SEED, OBSTORE, OPENDAL, BY_HAND),
        filled_by="entrant",
    )


def _objects_in_files(objects: int) -> Row:
    return Row(
        name=f"growth-file-objects-{objects}",
        title="",
        sentence="",
        unit="us",
        place="tree",
        plan=Plan(
            workload="get_in_turn",
            prefix="all/",
            objects=objects,
            per_folder=1_000,
            read=100,
            size=0,
            seconds=0.1,
        ),
        entrants=entrants(OURS, OBSTORE, ONE_HOP),
    )


def _objects_in_s3(objects: int) -> Row:
    return Row(
        name=f"growth-s3-objects-{objects}",
        title="",
        sentence="",
        unit="us",
        place="s3",
        plan=Plan(workload="get", objects=objects, read=100, size=1, concurrency=8, seconds=0.3),
        entrants=entrants(OURS, OBSTORE, BY_HAND),
        filled_by="coordinator",
    )


def _keys_in_files(keys: int) -> Row:
    return Row(
        name=f"growth-file-list-{keys}",
        title="",
        sentence="",
        unit="ms",
        place="tree",
        plan=Plan(workload="list_all", prefix="all/", objects=keys, per_folder=1_000),
        entrants=entrants(OURS, OBSTORE, ONE_HOP),
    )


def _keys_in_s3(keys: int) -> Row:
    return Row(
        name=f"growth-s3-list-{keys}",
        title="",
        sentence="",
        unit="ms",
        place="s3",
        plan=Plan(workload="list_all", objects=keys),
        entrants=entrants(OURS, OBSTORE, BY_HAND),
        filled_by="coordinator",
    )


def _depth(layers: int) -> Row:
    return Row(
        name=f"growth-depth-{layers}",
        title="",
        sentence="",
        unit="us",
        place="none",
        plan=Plan(workload="layer", objects=5_000, depth=layers),
        entrants=(
            Entrant(STACK, "Layer, passing through", "pass-through"),
            Entrant(STACK, "Around, one hook", "one hook"),
            Entrant(STACK, "Timeout", "timeout"),
            Entrant(WRAPPERS, "py-key-value, prefix", "prefix"),
        ),
    )


GROWTH = (
    Growth(
        "growth-concurrency",
        "S3 get 1 KiB: time for one, by how many are under way",
        "Wall time divided by gets, over a pool as large as the concurrency, at least 64.",
        "gets at once",
        tuple(2**power for power in range(11)),
        _concurrency,
    ),
    Growth(
        "growth-depth",
        "Memory get: time by the number of layers",
        "A get through that many layers of the same kind.",
        "layers",
        tuple(range(13)),
        _depth,
        logarithmic=False,
    ),
    Growth(
        "growth-file-objects",
        "File get, warm: time by the number of objects stored",
        "Gets of 100 empty objects, evenly spread over those stored, one after another.",
        "objects stored",
        (100, 1_000, 10_000, 100_000),
        _objects_in_files,
    ),
    Growth(
        "growth-s3-objects",
        "S3 get: time by the number of objects stored",
        "Gets of 100 small objects, evenly spread over those stored, 8 at once.",
        "objects stored",
        (100, 1_000, 10_000),
        _objects_in_s3,
    ),
    Growth(
        "growth-file-list",
        "File list: time by the number of keys",
        "All keys, 1,000 to a folder.",
        "keys listed",
        (10, 100, 1_000, 10_000, 100_000),
        _keys_in_files,
    ),
    Growth(
        "growth-s3-list",
        "S3 list: time by the number of keys",
        "All keys under a prefix.",
        "keys listed",
        (10, 100, 1_000, 10_000),
        _keys_in_s3,
    ),
)
