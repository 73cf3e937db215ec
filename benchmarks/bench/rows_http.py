"""The rows of the HTTP server."""

from __future__ import annotations

from bench.plan import Plan
from bench.row import Contender, Entrant, Goal, Row, Unit, speed_at_least

OURS = Contender("starfish", "ours", "", "http_server:open_ours")
SEED = Contender("starfish 2.3.0", "seed", "starfish", "http_server:open_ours")
BARE = Contender("bare Starlette", "floor", "", "http_server:open_bare")
_HOW = (
    "1 KiB documents over HTTP, 32 clients, one uvicorn process with uvloop and httptools, a memory store. "
    "The floor is a Starlette route with the same store operations, and no checks."
)


def _row(name: str, title: str, layer: str, sentence: str, unit: Unit, goals: tuple[Goal, ...]) -> Row:
    return Row(
        name=name,
        title=title,
        sentence=f"{sentence} {_HOW}",
        unit=unit,
        place="none",
        plan=Plan(workload="layer", layer=layer, concurrency=32, seconds=2.0),
        entrants=tuple(Entrant(each, each.name, layer, uvloop=True) for each in (OURS, SEED, BARE)),
        goals=goals,
        on_demand=True,  # with one processor for the server and one for its clients
    )


_FAST = (speed_at_least(2, "starfish 2.3.0"), speed_at_least(0.8, "bare Starlette"))

ROWS = (
    _row("http-pull", "HTTP pull", "pull", "Pulls of", "op/s", _FAST),
    _row("http-push", "HTTP push", "push", "Pushes of", "op/s", _FAST),
    _row(
        "http-push-p99",
        "HTTP push, 99th percentile",
        "push p99",
        "The time that one push in a hundred takes:",
        "ms",
        (Goal(0.8, "starfish 2.3.0"),),
    ),
)
