"""Whether a row's figures meet its goals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.row import BEST_PEER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.measure import Figure
    from bench.row import Goal, Row

MICROSECONDS = 1e6
MIB = 2**20
ROUNDING = 1e-9


@dataclass(frozen=True)
class Verdict:
    """One goal in words, and what was measured.

    missed_by: fraction of the goal; 0.0 where it is met.
    """

    goal: str
    measured: str
    missed_by: float

    @property
    def met(self) -> bool:
        return self.missed_by == 0.0

    def __str__(self) -> str:
        return "met" if self.met else f"missed by {max(self.missed_by, 0.01):.0%}"


def verdicts(row: Row, figures: Sequence[Figure]) -> list[Verdict]:
    """One for each goal whose contenders were measured."""
    found = ((goal, _verdict(goal, row, figures)) for goal in row.goals)
    several = len({goal.ours for goal in row.goals}) > 1
    return [
        replace(verdict, goal=f"{goal.ours}: {verdict.goal}") if several else verdict
        for goal, verdict in found
        if verdict is not None
    ]


def best_peer(figures: Iterable[Figure]) -> Figure | None:
    """The fastest that is neither this library, nor the one it replaces, nor a floor."""
    return min((each for each in figures if each.role == "peer"), key=lambda each: each.seconds, default=None)


def _verdict(goal: Goal, row: Row, figures: Sequence[Figure]) -> Verdict | None:
    by_label = {figure.label: figure for figure in figures}
    ours = by_label.get(goal.ours)
    other = best_peer(figures) if goal.of == BEST_PEER else by_label.get(goal.of or "")
    if ours is None or (goal.of is not None and other is None):
        return None
    if other is None:
        return _absolute(goal, row, ours)
    ratio = ours.seconds / other.seconds
    if goal.metric == "moved":
        if ours.moved is None or other.moved is None:
            return None
        ratio = ours.moved / other.moved
    name = f"{BEST_PEER}, {other.label}" if goal.of == BEST_PEER else other.label
    if goal.as_speed:
        speed = f"{1 / ratio:.2f}"
        missed = _missed(1 - float(speed) * goal.at_most)
        return Verdict(f"≥ {1 / goal.at_most:.3g}x the speed of {name}", f"{speed}x", missed)
    what = "bytes" if goal.metric == "moved" else "time"
    shown = f"{ratio:.2f}"
    missed = _missed(float(shown) / goal.at_most - 1)
    return Verdict(f"≤ {goal.at_most:.3g}x the {what} of {name}", f"{shown}x", missed)


def _absolute(goal: Goal, row: Row, ours: Figure) -> Verdict | None:
    if goal.metric == "memory":
        if ours.memory is None:
            return None
        over = row.plan.workload in ("get_bytes", "put_bytes")
        value, unit, what = ours.memory / MIB, "MiB", " over the body" if over else " of memory"
    else:
        scale, unit = (1e3, "ms") if row.unit == "ms" else (MICROSECONDS, "us")
        seconds, what = (ours.cpu, " of CPU") if goal.metric == "cpu" else (ours.seconds, "")
        value = seconds * scale
    shown = f"{value:.3g}"
    missed = _missed(float(shown) / goal.at_most - 1)
    return Verdict(f"≤ {goal.at_most:g} {unit}{what}", f"{shown} {unit}", missed)


def _missed(by: float) -> float:
    """Return the fraction by which the figure that is shown misses its goal."""
    return by if by > ROUNDING else 0.0
