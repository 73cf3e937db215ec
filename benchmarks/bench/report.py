"""Writes what people read: the README's tables and the charts in the docs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import bars, lines, table
from bench.growth import GROWTH
from bench.rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.results import Results

MARK = "<!-- Everything below is written by make bench. -->"


def write(results: Results, readme: Path, charts: Path) -> None:
    """Replaces what is below the mark in `readme`, and the charts of all that was measured."""
    above = readme.read_text().partition(MARK)[0] if readme.exists() else ""
    readme.write_text(above + MARK + "\n\n" + "\n".join(_sections(results)))
    charts.mkdir(parents=True, exist_ok=True)
    for row in ROWS:
        if figures := results.rows.get(row.name):
            (charts / f"{row.name}.svg").write_text(bars.chart(row, figures))
    for growth in GROWTH:
        if points := results.growth.get(growth.row.name):
            (charts / f"{growth.row.name}.svg").write_text(lines.chart(growth, points))


def _sections(results: Results) -> Iterator[str]:
    yield from ("## Machine", "")
    yield from (f"- {fact}: {value}" for fact, value in results.machine.items())
    yield from ("", "## Goals", "")
    yield from table.summary(ROWS, results.rows)
    yield from ("## Rows", "")
    for row in ROWS:
        if figures := results.rows.get(row.name):
            yield from table.markdown(row, figures)
    yield from ("## Growth", "")
    for growth in GROWTH:
        if growth.row.name in results.growth:
            yield from (
                f"### {growth.row.title}",
                "",
                f"{growth.row.sentence} `make bench ROWS={growth.row.name}`",
                "",
            )
            yield from (f"![{growth.row.title}](../docs/charts/{growth.row.name}.svg)", "")
