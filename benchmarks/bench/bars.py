"""A row as a bar chart: this library, its peers, and the floors in grey."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import svg, units

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.measure import Figure
    from bench.row import Role, Row

COLOURS: dict[Role, str] = {"ours": "#0969da", "seed": "#bf8700", "peer": "#8250df", "floor": "#8c959f"}
_LEFT, _RIGHT, _TOP, _STEP, _THICK = 230, 90, 56, 26, 18


def chart(row: Row, figures: Sequence[Figure]) -> str:
    height = _TOP + _STEP * len(figures) + 8
    return svg.picture(row.title, height, _parts(row, figures))


def _parts(row: Row, figures: Sequence[Figure]) -> Iterator[str]:
    better = "more is better" if units.higher_is_better(row) else "less is better"
    yield svg.text(8, 40, f"{row.unit}, {better}; floors are grey", "small")
    amounts = [max(0.0, units.amount(row, figure.seconds)) for figure in figures]
    scale = (svg.WIDTH - _LEFT - _RIGHT) / (max(amounts, default=0.0) or 1.0)
    for place, (figure, amount) in enumerate(zip(figures, amounts, strict=True)):
        y = _TOP + _STEP * place
        yield svg.text(_LEFT - 8, y + 14, figure.label, "end")
        yield svg.bar(_LEFT, y, max(1.0, amount * scale), _THICK, COLOURS[figure.role])
        yield svg.text(_LEFT + amount * scale + 6, y + 14, units.number(amount))
