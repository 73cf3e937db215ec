"""Write the tables of `benchmarks/README.md` and the charts of the docs from the results of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import charts, table
from bench.flame import shares
from bench.growth import GROWTH
from bench.measure import NOISE
from bench.rows import ROWS
from bench.rows_s3 import FLAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.results import Results

MARK = "<!-- Everything below is written by make bench. -->"


def write(results: Results, readme: Path, pictures: Path) -> None:
    """Replace the part of `readme` below the mark, and the chart of each row in the folder `pictures`."""
    above = readme.read_text().partition(MARK)[0] if readme.exists() else ""
    readme.write_text(above + MARK + "\n\n" + "\n".join(_sections(results)))
    pictures.mkdir(parents=True, exist_ok=True)
    for row in ROWS:
        if figures := results.rows.get(row.name):
            (pictures / f"{row.name}.svg").write_text(charts.bars(row, figures))
    for growth in GROWTH:
        if points := results.growth.get(growth.row.name):
            (pictures / f"{growth.row.name}.svg").write_text(charts.lines(growth, points))
    if results.flame is not None:
        (pictures / f"{FLAME.name}.svg").write_text(charts.icicle(FLAME.title, results.flame))


def _sections(results: Results) -> Iterator[str]:
    yield from ("## Machine", "")
    yield from (f"- {fact}: {value}" for fact, value in results.machine.items())
    yield from ("", "## Goals", "")
    yield from table.summary(ROWS, results.rows)
    yield from ("## Rows", "")
    yield from (f"{table.NOISY}: fastest and slowest differ by more than {NOISE:.0%} of the median.", "")
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
    if results.flame is not None:
        sentence = f"{FLAME.sentence} Most of it: {shares(results.flame)}. `make bench ROWS={FLAME.name}`"
        yield from (f"## {FLAME.title}", "", sentence, "")
        yield from (f"![{FLAME.title}](../docs/charts/{FLAME.name}.svg)", "")
