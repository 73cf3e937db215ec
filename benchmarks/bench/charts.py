"""Charts in SVG, readable on light and dark pages: a row as bars, growth as lines."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.figure import Figure as Canvas

from bench import units

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes

    from bench.flame import Node
    from bench.growth import Growth
    from bench.measure import Figure
    from bench.row import Role, Row

COLOURS: dict[Role, str] = {"ours": "#0969da", "seed": "#bf8700", "peer": "#8250df", "floor": "#8c959f"}
_FURTHER_COLOURS = ("#1a7f37", "#cf222e", "#bc4c00", "#6639ba")
_PACKAGES = {"starfish_server": "#0969da", "aiohttp": "#8250df", "botocore": "#bf8700", "asyncio": "#1a7f37"}
_LETTERS = 150  # that fit into the whole width of an icicle
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
    measured: dict[str, dict[int, float]] = {}
    roles: dict[str, Role] = {}
    for value, figures in points.items():
        for figure in figures:
            roles[figure.label] = figure.role
            measured.setdefault(figure.label, {})[value] = units.amount(growth.row, figure.seconds)
    colours = dict(zip(roles, _distinct(COLOURS[role] for role in roles.values()), strict=True))
    return curves(
        growth.row.title,
        growth.across,
        f"{growth.row.unit}, less is better",
        {label: (colours[label], line) for label, line in measured.items()},
        logarithmic=growth.logarithmic,
    )


def _distinct(colours: Iterable[str]) -> Iterator[str]:
    """Replace a colour that came before."""
    further = iter(_FURTHER_COLOURS)
    taken: set[str] = set()
    for colour in colours:
        yield next(further) if colour in taken else colour
        taken.add(colour)


def curves(
    title: str,
    across: str,
    upward: str,
    named: Mapping[str, tuple[str, Mapping[int, float]]],
    *,
    logarithmic: bool = True,
    from_zero: bool = False,
    limits: Mapping[str, float] | None = None,
) -> str:
    """Return lines, each a colour and its points by label, and limits as dotted ones.

    logarithmic: whether both axes are; with `from_zero` only the one across.
    """
    with mpl.rc_context(_STYLE):
        canvas, axes = _canvas(title, height=3.9)
        for label, (colour, points) in named.items():
            axes.plot(
                list(points), list(points.values()), color=colour, marker="o", markersize=4, label=label
            )
        for label, limit in (limits or {}).items():
            axes.axhline(limit, color=_FURTHER_COLOURS[1], linestyle=":", label=label)
        if logarithmic:
            axes.set_xscale("log")
        if logarithmic and not from_zero:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
        else:
            axes.set_ylim(bottom=0)
        values = dict.fromkeys(value for _, points in named.values() for value in points)
        axes.set_xticks(list(values), [f"{value:,}" for value in values])
        axes.minorticks_off()
        axes.grid(visible=True)
        axes.set_xlabel(across)
        axes.set_ylabel(upward)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False)
        return _svg(canvas, title)


def icicle(title: str, root: Node) -> str:
    """Return a box for each call, as wide as the time in it, above the boxes of what it called."""
    boxes = list(root.walk())
    deepest = max(depth for _, depth, _ in boxes)
    with mpl.rc_context(_STYLE):
        canvas, axes = _canvas(title, height=1.0 + 0.17 * deepest)
        for node, depth, left in boxes:
            package = node.name.partition(":")[0].partition(".")[0]
            colour = _PACKAGES.get(package, COLOURS["floor"])
            axes.barh(depth, node.samples, 0.9, left, color=colour, alpha=0.55, edgecolor=_GRID)
            name = node.name.rpartition(":")[2]
            fits = int(_LETTERS * node.samples / root.samples)
            name = name if len(name) <= fits else name.rpartition(".")[2]
            if len(name) <= fits:
                axes.text(left + root.samples / 400, depth, name, va="center", fontsize=6)
        axes.invert_yaxis()
        axes.set_axis_off()
        axes.set_xlim(0, root.samples)
        known = [axes.barh(0, 0, color=colour, alpha=0.55) for colour in _PACKAGES.values()]
        names = [name.replace("_", " ") for name in _PACKAGES]
        axes.legend(known, names, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, frameon=False)
        return _svg(canvas, title)


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
