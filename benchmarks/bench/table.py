"""A row's figures as lines of text: for the terminal, and as a Markdown table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import units
from bench.goals import verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.growth import Growth
    from bench.measure import Figure
    from bench.row import Row

NOISY = "±"


def terminal(row: Row, figures: Sequence[Figure]) -> Iterator[str]:
    """A heading, a line for each entrant, and one for each goal."""
    yield f"{row.name}: {row.title}"
    for figure in figures:
        noise = NOISY if figure.noisy else ""
        spread = f"{units.shown(row, figure.fastest)} to {units.shown(row, figure.slowest)}"
        yield (
            f"    {figure.label:<30}{units.shown(row, figure.seconds):>14} {noise:1} {spread:<32}"
            f"CPU {units.cpu(figure):>9}  {units.memory(figure)} {units.moved(figure)}"
        ).rstrip()
    for verdict in verdicts(row, figures):
        yield f"  {verdict.goal}: {verdict.measured}, {verdict}"


def markdown(row: Row, figures: Sequence[Figure]) -> Iterator[str]:
    """A section: what the row is, its figures, its goals and its chart."""
    yield from (f"### {row.title}", "", f"{row.sentence} `make bench ROWS={row.name}`", "")
    memory = row.shows_memory and any(figure.memory is not None for figure in figures)
    moved = any(figure.moved is not None for figure in figures)
    further = [*(["memory"] if memory else []), *(["moved for one"] if moved else [])]
    columns = ["", row.unit, "fastest and slowest", "CPU for one", *further]
    yield line(columns)
    yield line(["---", *["---:"] * (len(columns) - 1)])
    for figure in figures:
        label = f"**{figure.label}**" if figure.role == "ours" else figure.label
        cells = [
            f"{label} (floor)" if figure.role == "floor" else label,
            marked(units.number(units.amount(row, figure.seconds)), figure),
            " – ".join(units.number(units.amount(row, each)) for each in (figure.fastest, figure.slowest)),
            units.cpu(figure),
        ]
        cells += [units.memory(figure)] if memory else []
        yield line(cells + ([units.moved(figure)] if moved else []))
    yield ""
    for verdict in verdicts(row, figures):
        yield f"- {verdict.goal}: {verdict.measured}, **{verdict}**"
    yield from ("", f"![{row.title}](../docs/charts/{row.name}.svg)", "")


def summary(rows: Sequence[Row], measured: dict[str, list[Figure]]) -> Iterator[str]:
    """The table of all goals."""
    yield line(["row", "starfish", "goal", "measured", ""])
    yield line(["---", "---:", "---", "---:", "---"])
    for row in rows:
        figures = measured.get(row.name, [])
        for number, verdict in enumerate(verdicts(row, figures)):
            ours = next(figure for figure in figures if figure.role == "ours")
            first = [row.title, marked(units.shown(row, ours.seconds), ours)] if number == 0 else ["", ""]
            met = str(verdict) if verdict.met else f"**{verdict}**"
            yield line([*first, verdict.goal, verdict.measured, met])
    yield ""


def marked(text: str, figure: Figure) -> str:
    """Return the text with a mark where the rounds were far apart."""
    return f"{text} {NOISY}" if figure.noisy else text


def points(growth: Growth, measured: Mapping[int, Sequence[Figure]]) -> Iterator[str]:
    """A heading, and a line for each contender."""
    row = growth.row
    yield f"{row.name}: {row.title}"
    labels = dict.fromkeys(figure.label for figures in measured.values() for figure in figures)
    for label in labels:
        found = [
            f"{value}: {units.shown(row, figure.seconds)}"
            for value, figures in measured.items()
            for figure in figures
            if figure.label == label
        ]
        yield f"    {label:<30}{', '.join(found)}"
    yield ""


def line(cells: Sequence[str]) -> str:
    """Return cells as a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
