"""What a row of the table is: the work, who does it, and what it is held to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bench.plan import Plan

Place = Literal["s3", "s3 far", "s3 tls", "s3 counted", "files", "tree", "none"]
Unit = Literal["op/s", "MB/s", "ms", "us"]
Role = Literal["ours", "seed", "peer", "floor"]

BEST_PEER = "best peer"


@dataclass(frozen=True)
class Contender:
    """Whom a worker process runs as.

    environment: "" for this project's own Python, else the folder in `.venv-peers`.
    module: below `bench.contenders`, with the function that opens it.
    """

    name: str
    role: Role
    environment: str
    module: str


@dataclass(frozen=True)
class Entrant:
    """A contender in one row, under the name that the table shows.

    layer: what it measures, in rows over a memory leaf and in the import row.
    inline_reads: for this library's files.
    uvloop: whether its event loop is uvloop's.
    """

    contender: Contender
    label: str
    layer: str = ""
    inline_reads: bool = True
    uvloop: bool = False


@dataclass(frozen=True)
class Goal:
    """This library's time, CPU time, memory or traffic is at most this much.

    of: a label to compare with; None for an absolute limit, in MiB or in the row's unit of time.
    as_speed: said as times the speed, not as times the duration.
    ours: label of the entrant that is held to it.
    """

    at_most: float
    of: str | None = None
    metric: Literal["time", "cpu", "memory", "moved"] = "time"
    as_speed: bool = False
    ours: str = "starfish"


def speed_at_least(factor: float, of: str, *, ours: str = "starfish") -> Goal:
    return Goal(1 / factor, of, as_speed=True, ours=ours)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    name: what `make bench ROWS=` takes.
    title: as the table and the chart show it.
    sentence: what is measured.
    filled_by: who writes the objects that are read: each entrant its own, or one set for all.
    refilled: whether each run needs a new set of objects.
    on_demand: whether it is measured only when it is named.
    needs: a program on the PATH, without which a full run leaves it out.
    """

    name: str
    title: str
    sentence: str
    unit: Unit
    place: Place
    plan: Plan
    entrants: tuple[Entrant, ...]
    goals: tuple[Goal, ...] = ()
    filled_by: Literal["entrant", "coordinator", "nobody"] = "nobody"
    refilled: bool = False
    fsync: bool = False
    shows_memory: bool = False
    on_demand: bool = False
    needs: str = ""


def at_1_gib(row: Row) -> Row:
    """Return a row of 256 MiB with bodies of 1 GiB, measured on demand."""
    return replace(
        row,
        name=row.name.replace("256m", "1g"),
        title=row.title.replace("256 MiB", "1 GiB"),
        sentence=row.sentence.replace("256 MiB", "1 GiB"),
        plan=replace(row.plan, size=2**30),
        on_demand=True,
    )
