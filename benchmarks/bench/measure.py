"""Measures a row: all entrants in turn, round after round, and the medians of what they took."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING

from bench.filling import shared_bodies
from bench.flame import EVENT_LOOP, Node, tree
from bench.objects import Bucket
from bench.registry import python_of
from bench.worker import UVLOOP
from bench.worker_process import WorkerError, WorkerProcess

if TYPE_CHECKING:
    from bench.growth import Growth
    from bench.objects import Folder
    from bench.plan import Plan
    from bench.row import Entrant, Role, Row
    from bench.sample import Sample
    from bench.stage import Stage

NOISE = 0.2
GROWTH_ROUNDS = 3


@dataclass(frozen=True)
class Figure:
    """What one entrant took for one operation: medians over the rounds, in seconds.

    memory: bytes at most.
    moved: bytes over the network, both ways; None where they were not counted.
    """

    label: str
    role: Role
    seconds: float
    fastest: float
    slowest: float
    cpu: float
    memory: int | None
    moved: float | None = None

    @property
    def noisy(self) -> bool:
        """Whether the fastest and the slowest round are further apart than a fifth of the median."""
        return self.slowest - self.fastest > NOISE * abs(self.seconds)


@dataclass
class _Seat:
    """An entrant with its process, its place and what it has done so far."""

    entrant: Entrant
    worker: WorkerProcess
    plan: Plan
    place: Bucket | Folder | None
    warm_up: list[Sample] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Measure:
    """How much to measure.

    rounds: timed runs of each entrant.
    quick: as little as shows that all works.
    peers: whether those take part that need an environment of their own.
    """

    rounds: int
    quick: bool = False
    peers: bool = True

    def row(self, row: Row, stage: Stage) -> list[Figure]:
        """Entrants that cannot run are left out, with a word on standard error."""
        if self.quick:
            row = replace(row, plan=row.plan.quick())
        if not self.peers:
            own = tuple(each for each in row.entrants if not each.contender.environment)
            row = replace(row, entrants=own)
        return _measure(row, stage, 1 if self.quick else self.rounds)

    def profile(self, row: Row, stage: Stage) -> Node:
        """Where the processor time of a run of the row's only entrant goes, connections being open."""
        if self.quick:
            row = replace(row, plan=replace(row.plan.quick(), seconds=1.0))  # else it has no samples
        with ExitStack() as processes:
            (seat,) = _take_seats(row, stage, processes)
            label = seat.entrant.label
            seat.worker.run(label, 0)
            return tree(seat.worker.profile(label, 1), below=EVENT_LOOP)

    def growth(self, growth: Growth, stage: Stage) -> dict[int, list[Figure]]:
        """The points of each value, in fewer rounds than a row; only the first two values if quick."""
        values = growth.values[:2] if self.quick else growth.values
        fewer = replace(self, rounds=min(self.rounds, GROWTH_ROUNDS))
        return {value: fewer.row(growth.at(value), stage) for value in values}


def _measure(row: Row, stage: Stage, rounds: int) -> list[Figure]:
    with ExitStack() as processes:
        seats = _take_seats(row, stage, processes)
        # Writing objects anew for a warm-up would take longer than the runs.
        for number in range(1 if row.refilled else 0, rounds + 1):
            turn = number % max(1, len(seats))
            for seat in seats[turn:] + seats[:turn]:
                try:
                    _run(row, seat, stage, number)
                except WorkerError as error:
                    _say(row, seat.entrant, str(error))
                    seats = [other for other in seats if other is not seat]
    for seat in seats:
        stage.leave(seat.place)
    return [_figure(seat) for seat in seats]


def _run(row: Row, seat: _Seat, stage: Stage, number: int) -> None:
    if row.refilled:
        assert isinstance(seat.place, Bucket)
        body = b"x" * seat.plan.size
        stage.fill(seat.place, ((key, body) for key in seat.plan.keys(number)))
    before = stage.carried(row)
    sample = seat.worker.run(seat.entrant.label, number)
    if before is not None:
        sample.moved = (stage.carried(row) or 0) - before
    (seat.samples if number else seat.warm_up).append(sample)


def _take_seats(row: Row, stage: Stage, processes: ExitStack) -> list[_Seat]:
    seats: list[_Seat] = []
    workers: dict[tuple[str, str, str], WorkerProcess] = {}
    shared = row.filled_by == "coordinator" and not row.refilled
    for entrant in row.entrants:
        python = python_of(entrant.contender)
        if python is None:
            _say(row, entrant, f"needs `make .venv-peers/{entrant.contender.environment}/ready`")
            continue
        name = "" if shared else re.sub(r"\W+", "-", entrant.label) + "/"
        prefix = f"{row.name}/{name}" if row.place.startswith("s3") else row.plan.prefix
        own_plan = replace(row.plan, prefix=prefix, layer=entrant.layer)
        place = stage.place(row, entrant, own_plan)
        if shared and not seats:
            assert isinstance(place, Bucket)
            stage.fill(place, shared_bodies(own_plan))
        # What leaves nothing behind can share a process; connections and memory are each contender's own.
        which = (python, entrant.contender.module, "" if place is None else entrant.label)
        if which not in workers:
            environment = stage.environment(row) | ({UVLOOP: "yes"} if entrant.uvloop else {})
            process = WorkerProcess(python, entrant.contender.module, environment)
            workers[which] = processes.enter_context(process)
        worker = workers[which]
        try:
            worker.open(entrant.label, own_plan, place, fill=row.filled_by == "entrant")
        except WorkerError as error:
            _say(row, entrant, str(error))
        else:
            seats.append(_Seat(entrant, worker, own_plan, place))
    return seats


def _figure(seat: _Seat) -> Figure:
    times = [sample.seconds / sample.operations for sample in seat.samples]
    # The first run takes what later ones find already there, so it counts too.
    moved = [each.moved / each.operations for each in seat.samples if each.moved is not None]
    memory = [each.memory for each in seat.warm_up + seat.samples if each.memory is not None]
    return Figure(
        label=seat.entrant.label,
        role=seat.entrant.contender.role,
        seconds=median(times),
        fastest=min(times),
        slowest=max(times),
        cpu=median(sample.cpu / sample.operations for sample in seat.samples),
        memory=max(memory, default=None),
        moved=median(moved) if moved else None,
    )


def _say(row: Row, entrant: Entrant, what: str) -> None:
    print(f"{row.name}: without {entrant.label}: {what}", file=sys.stderr)
