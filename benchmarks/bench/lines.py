"""Growth as a line plot: a line for each contender, both axes logarithmic where sizes span magnitudes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench import svg, units
from bench.bars import COLOURS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.growth import Growth
    from bench.measure import Figure
    from bench.row import Role

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 70, 200, 56, 46, 380
# Contenders of one role apart: the first of a role has its colour.
_MORE = ["#1a7f37", "#cf222e", "#bc4c00", "#6639ba"]


class Axis:
    """Values to places between two ends of the picture."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, logarithmic: bool) -> None:
        self._logarithmic = logarithmic
        self._start, self._end = start, end
        low, high = min(values), max(values)
        if logarithmic:
            low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
        else:
            low = min(0.0, low)
        self._low, self._high = low, high if high > low else low + 1

    def at(self, value: float) -> float:
        low, high = self._low, self._high
        if self._logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self._start + (value - low) / (high - low) * (self._end - self._start)

    def ticks(self) -> list[float]:
        if self._logarithmic:
            first, last = round(math.log10(self._low)), round(math.log10(self._high))
            return [10.0**power for power in range(first, last + 1)]
        return [self._low + (self._high - self._low) * step / 4 for step in range(5)]


def chart(growth: Growth, points: Mapping[int, Sequence[Figure]]) -> str:
    return svg.picture(growth.row.title, _HEIGHT, _parts(growth, points))


def _parts(growth: Growth, points: Mapping[int, Sequence[Figure]]) -> Iterator[str]:
    row = growth.row
    yield svg.text(8, 40, f"{row.unit}, less is better", "small")
    lines: dict[str, list[tuple[int, float]]] = {}
    roles: dict[str, Role] = {}
    for value, figures in points.items():
        for figure in figures:
            lines.setdefault(figure.label, []).append((value, units.amount(row, figure.seconds)))
            roles[figure.label] = figure.role
    if not lines:
        return
    right, foot = svg.WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    amounts = [amount for line in lines.values() for _, amount in line]
    across = Axis(list(points), _LEFT, right, logarithmic=growth.logarithmic)
    up = Axis(amounts, foot, _TOP, logarithmic=growth.logarithmic)
    for tick in up.ticks():
        yield svg.rule(_LEFT, up.at(tick), right, up.at(tick))
        yield svg.text(_LEFT - 8, up.at(tick) + 4, _tick(tick), "end small")
    for mark in points if len(points) < 12 else across.ticks():
        yield svg.text(across.at(mark), foot + 18, _tick(mark), "middle small")
    yield svg.text((_LEFT + right) / 2, foot + 36, growth.across, "middle small")
    colours = _colours(roles)
    for place, (label, line) in enumerate(lines.items()):
        places = [(across.at(value), up.at(amount)) for value, amount in line]
        yield svg.line(places, colours[label])
        yield from (svg.dot(*each, colours[label]) for each in places)
        yield svg.dot(right + 20, _TOP + 10 + 22 * place, colours[label])
        yield svg.text(right + 30, _TOP + 14 + 22 * place, label)


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _colours(roles: Mapping[str, Role]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    more = iter(_MORE * len(roles))
    for label, role in roles.items():
        chosen[label] = next(more) if COLOURS[role] in chosen.values() else COLOURS[role]
    return chosen
