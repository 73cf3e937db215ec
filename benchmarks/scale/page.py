"""The tables of `docs/scale.md` and its charts, from the results of `make scale`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.charts import COLOURS, curves
from bench.table import line
from bench.units import number
from scale.redis_costs import COMMANDS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from scale.fleet import Budget
    from scale.results import Point, Results

S3_READS, S3_WRITES = 5_500, 3_500  # a second and partitioned prefix
REDIS_CLIENTS = 10_000  # `maxclients` of Redis
POOL = 64  # `max_connections` of `S3StorageOptions`
MONTH, DAY = 30 * 86_400, 86_400
SHOWN = (1, 4, 100, 10_000)
BUDGETS: dict[Budget, str] = {
    "none": "no `RetryBudget`",
    "each": "one of 500 tokens in each",
    "small": "one of 10 tokens in each",
    "one": "one of 500 tokens in all",
}


def write(results: Results, page: Path, pictures: Path) -> None:
    """Replace the tables of the page, each between two marks, and the charts."""
    text = page.read_text()
    for name, table in TABLES.items():
        lines = "\n".join(line(cells) for cells in table(results))
        between = re.compile(rf"(<!-- {name}, by make scale -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)
        text = between.sub(lambda found, lines=lines: found[1] + lines + found[2], text)  # type: ignore[misc]  # mypy
    page.write_text(text)
    pictures.mkdir(parents=True, exist_ok=True)
    for name, chart in CHARTS.items():
        (pictures / f"{name}.svg").write_text(chart(results))


def _bill(results: Results) -> Iterator[Sequence[str]]:
    yield ("stack", "GET", "PUT", "LIST", "bodies sent", "audit log", "requests", "to the internet")
    yield ("---", *["---:"] * 7)
    for name, usage in results.bills.items():
        requests = (f"{usage.per_million(each):,.0f}" for each in (usage.gets, usage.puts, usage.lists))
        sizes = (f"{usage.per_million(each) / 1e6:,.0f} MB" for each in (usage.bytes_out, usage.audit_bytes))
        yield (name, *requests, *sizes, f"${usage.request_dollars:.2f}", f"${usage.egress_dollars:.2f}")


@dataclass(frozen=True)
class _Line:
    """A line of the table of fleets: what it shows of a point, whose caches share Redis or not."""

    label: str
    shared: bool
    show: Callable[[Results, Point], str]


_LINES = (
    _Line("operations a second", False, lambda _, point: f"{point.rate(point.counts.operations):,.0f}"),
    _Line("audit log a day", False, lambda results, point: _size(results.audit_bytes(point) * DAY)),
    _Line("connections to the bucket, at most", False, lambda _, point: f"{point.processes * POOL:,}"),
    _Line("**each process caches for itself**: hits", False, lambda _, point: f"{point.hits:.0%}"),
    _Line("hits that are out of date", False, lambda _, point: f"{point.stale:.0%}"),
    _Line("GET a second", False, lambda _, point: number(point.rate(point.counts.gets))),
    _Line("PUT a second", False, lambda _, point: number(point.rate(point.counts.puts))),
    _Line("requests a month", False, lambda _, point: f"${point.request_dollars * MONTH:,.0f}"),
    _Line("**all share Redis**: hits", True, lambda _, point: f"{point.hits:.0%}"),
    _Line("hits in Redis", True, lambda _, point: f"{point.remote_hits:.0%}"),
    _Line("GET a second", True, lambda _, point: number(point.rate(point.counts.gets))),
    _Line("requests a month", True, lambda _, point: f"${point.request_dollars * MONTH:,.0f}"),
    _Line("TIME and ROLE a second", True, lambda _, point: f"{point.processes * COMMANDS_PER_SECOND:,.0f}"),
    _Line("messages to processes a second", True, lambda _, point: number(point.deliveries)),
    _Line("their bytes a second", True, lambda results, point: _size(results.message_bytes(point))),
    _Line("cores of Redis", True, lambda results, point: f"{results.redis_load(point):,.3g}"),
)


def _fleets(results: Results) -> Iterator[Sequence[str]]:
    shown = [processes for processes in SHOWN if processes in results.apart]
    yield ("processes", *(f"{processes:,}" for processes in shown))
    yield ("---", *["---:"] * len(shown))
    for each in _LINES:
        points = results.shared if each.shared else results.apart
        yield (each.label, *(each.show(results, points[processes]) for processes in shown))


def _limits(results: Results) -> Iterator[Sequence[str]]:
    """The first fleet that was simulated to be over each limit."""

    def first(points: dict[int, Point], is_over: Callable[[Point], bool]) -> str:
        over = [processes for processes, point in points.items() if is_over(point)]
        return f"{min(over):,}" if over else "-"

    def reads(point: Point) -> bool:
        return point.rate(point.counts.gets) > S3_READS

    def writes(point: Point) -> bool:
        return point.rate(point.counts.puts) > S3_WRITES

    yield ("limit", "each for itself", "all share Redis")
    yield ("---", "---:", "---:")
    apart, shared = results.apart, results.shared
    yield (f"S3: {S3_READS:,} GET a second and prefix", first(apart, reads), first(shared, reads))
    yield (f"S3: {S3_WRITES:,} PUT a second and prefix", first(apart, writes), first(shared, writes))
    yield ("Redis: one core busy", "-", first(shared, lambda point: results.redis_load(point) > 1.0))
    clients = first(shared, lambda point: point.processes >= REDIS_CLIENTS)
    yield (f"Redis: {REDIS_CLIENTS:,} clients", "-", clients)
    audit = first(apart, lambda point: results.audit_bytes(point) * DAY > 1e12)
    yield ("audit log: 1 TB a day", audit, audit)


def _storms(results: Results) -> Iterator[Sequence[str]]:
    yield ("processes", *BUDGETS.values())
    yield ("---", *["---:"] * len(BUDGETS))
    for processes, storms in results.storms.items():
        yield (f"{processes:,}", *(f"{storms[budget]:.2f}" for budget in BUDGETS))


def _checked(results: Results) -> Iterator[Sequence[str]]:
    yield ("fleet", "processes", "operations", "hits", "hits in Redis", "requests to the bucket", "messages")
    yield ("---", *["---:"] * 6)
    for each in results.checked:
        pairs = [
            f"{getattr(each.simulated, name)} / {getattr(each.measured, name)}"
            for name in ("answered", "remote_hits", "requests", "messages")
        ]
        yield (each.name, f"{each.processes}", f"{each.measured.operations}", *pairs)


def _size(count: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


TABLES = {"bill": _bill, "fleets": _fleets, "limits": _limits, "storms": _storms, "checked": _checked}
OURS, OTHER, THIRD, FOURTH = COLOURS["ours"], COLOURS["seed"], COLOURS["peer"], COLOURS["floor"]


def _requests(results: Results) -> str:
    def gets(points: dict[int, Point]) -> dict[int, float]:
        return {processes: point.rate(point.counts.gets) for processes, point in points.items()}

    lines = {
        "each for itself": (OTHER, gets(results.apart)),
        "all share Redis": (OURS, gets(results.shared)),
    }
    limits = {"5,500 for one prefix": S3_READS}
    return curves("GET a second, by processes", "processes", "GET a second", lines, limits=limits)


def _redis(results: Results) -> str:
    points = {processes: results.redis_load(point) for processes, point in results.shared.items()}
    lines = {"the fleet": (OURS, points)}
    return curves(
        "Redis, by processes", "processes", "cores of Redis", lines, limits={"all that one Redis uses": 1.0}
    )


def _storm_chart(results: Results) -> str:
    colours = dict(zip(BUDGETS, (FOURTH, OTHER, THIRD, OURS), strict=True))
    lines = {
        label.replace("`", ""): (colours[budget], {n: storms[budget] for n, storms in results.storms.items()})
        for budget, label in BUDGETS.items()
    }
    title = "Requests for one operation in an outage, by processes"
    return curves(title, "processes", "requests", lines, from_zero=True)


CHARTS = {"scale-requests": _requests, "scale-redis": _redis, "scale-storms": _storm_chart}
