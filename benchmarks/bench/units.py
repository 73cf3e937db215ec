"""Figures as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.measure import Figure
    from bench.row import Row

MIB = 2**20


def amount(row: Row, seconds: float) -> float:
    """Seconds for one operation, in the unit of the row."""
    match row.unit:
        case "op/s":
            return 1 / seconds
        case "MB/s":
            return row.plan.size / seconds / 1e6
        case "ms":
            return seconds * 1e3
        case "us":
            return seconds * 1e6


def higher_is_better(row: Row) -> bool:
    return row.unit.endswith("/s")


def shown(row: Row, seconds: float) -> str:
    return f"{number(amount(row, seconds))} {row.unit}"


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def moved(figure: Figure) -> str:
    return "" if figure.moved is None else f"{figure.moved / 1e3:,.0f} kB"


def cpu(figure: Figure) -> str:
    microseconds = figure.cpu * 1e6
    return f"{number(microseconds / 1e3)} ms" if microseconds >= 10_000 else f"{number(microseconds)} us"


def memory(figure: Figure) -> str:
    return "" if figure.memory is None else f"{max(0.0, figure.memory / MIB):.1f} MiB"
