"""Charts in SVG, readable on light and dark pages: a row as bars, growth as lines."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.figure import Figure as Canvas

from bench import units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from bench.growth import Growth
    from bench.measure import Figure
    from bench.row import Role, Row

COLOURS: dict[Role, str] = {"ours": "#0969da", "seed": "#bf8700", "peer": "#8250df", "floor": "#8c959f"}
_FURTHER_COLOURS = ("#1a7f37", "#cf222e", "#bc4c00", "#6639ba")
_INK, _GRID = "#24292f", "#d0d7de"
_DARK = {_INK: "#e6edf3", _GRID: "#30363d"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, which readers can select
    "svg.hashsalt": "bench",  # the same figures make the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "axes.grid.axis": "y",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": _GRID,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def bars(row: Row, figures: Sequence[Figure]) -> str:
    """Return one bar for each contender, floors in grey."""
    with mpl.rc_context(_STYLE):
        canvas, axes = _canvas(row.title, height=0.8 + 0.27 * len(figures))
        amounts = [max(0.0, units.amount(row, figure.seconds)) for figure in figures]
        labels = [figure.label for figure in figures]
        drawn = axes.barh(labels, amounts, height=0.7, color=[COLOURS[figure.role] for figure in figures])
        axes.bar_label(drawn, [units.number(amount) for amount in amounts], padding=4)
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        better = "more is better" if units.higher_is_better(row) else "less is better"
        axes.set_xlabel(f"{row.unit}, {better}; floors are grey", loc="left")
        return _svg(canvas, row.title)


def lines(growth: Growth, points: Mapping[int, Sequence[Figure]]) -> str:
    """Return one line for each contender, over the values that were measured."""
    with mpl.rc_context(_STYLE):
        canvas, axes = _canvas(growth.row.title, height=3.9)
        colours = iter(_FURTHER_COLOURS)
        taken: set[str] = set()
        for label in dict.fromkeys(figure.label for figures in points.values() for figure in figures):
            measured = {
                value: figure
                for value, figures in points.items()
                for figure in figures
                if figure.label == label
            }
            amounts = [units.amount(growth.row, figure.seconds) for figure in measured.values()]
            colour = COLOURS[next(iter(measured.values())).role]
            colour = next(colours) if colour in taken else colour
            taken.add(colour)
            axes.plot(list(measured), amounts, color=colour, marker="o", markersize=4, label=label)
        if growth.logarithmic:
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
        else:
            axes.set_ylim(bottom=0)
        axes.set_xticks(list(points), [f"{value:,}" for value in points])
        axes.minorticks_off()
        axes.grid(visible=True)
        axes.set_xlabel(growth.across)
        axes.set_ylabel(f"{growth.row.unit}, less is better")
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False)
        return _svg(canvas, growth.row.title)


def _canvas(title: str, *, height: float) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(7.5, height), layout="constrained")
    axes = canvas.add_subplot()
    axes.set_title(title)
    return canvas, axes


def _svg(canvas: Canvas, title: str) -> str:
    """Return the picture with its two neutral colours as variables, which a dark page sets otherwise."""
    buffer = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None, "Title": title}
    canvas.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    names = {colour: f"--c{number}" for number, colour in enumerate(_DARK)}
    for colour, name in names.items():
        text = text.replace(colour, f"var({name})")
    light = ";".join(f"{name}:{colour}" for colour, name in names.items())
    dark = ";".join(f"{name}:{_DARK[colour]}" for colour, name in names.items())
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    return text.replace("<defs>", f"{style}\n <defs>", 1)
