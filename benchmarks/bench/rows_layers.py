"""The rows over a memory leaf: what one layer adds, or what a call takes in all."""

from __future__ import annotations

from bench.plan import Plan
from bench.row import Contender, Entrant, Goal, Row

CALLS = Plan(workload="layer", objects=20_000)
OURS = Contender("starfish", "ours", "", "layers:open_layer")
WRAPPER = Contender("py-key-value", "peer", "shared", "py_key_value:open_layer")
FLOOR = Contender("floor", "floor", "", "layer_floors:open_floor")
PASS_THROUGH = Entrant(
    Contender("starfish", "floor", "", "layers:open_layer"), "pass-through", "pass-through"
)


def _row(
    name: str,
    title: str,
    sentence: str,
    ours: dict[str, float | None],
    *,
    peers: tuple[str, ...] = (),
    floors: tuple[str, ...] = (),
) -> Row:
    """`ours` are layers with the most microseconds that each may take, where there is a goal."""
    return Row(
        name=f"layer-{name}",
        title=title,
        sentence=sentence,
        unit="us",
        place="none",
        plan=CALLS,
        entrants=(
            *(Entrant(OURS, layer, layer) for layer in ours),
            *(Entrant(WRAPPER, f"py-key-value {wrapper}", wrapper) for wrapper in peers),
            *(Entrant(FLOOR, floor, floor) for floor in floors),
            PASS_THROUGH,
        ),
        goals=tuple(Goal(limit, ours=layer) for layer, limit in ours.items() if limit is not None),
    )


ROWS = (
    _row(
        "namespace",
        "Namespace",
        "What a get through a prefix takes more than one without.",
        {"namespace": 0.8},
        peers=("prefix",),
    ),
    _row(
        "retry",
        "Retry, no failure",
        "What a get that succeeds takes more under retries.",
        {"retry": 0.6},
        peers=("retry",),
    ),
    _row(
        "timeout",
        "Timeout",
        "What a get takes more with a time limit.",
        {"timeout": 6.0},
        peers=("timeout",),
        floors=("asyncio.timeout",),
    ),
    _row(
        "tracing",
        "Tracing, no SDK",
        "What a get takes more with a span that nobody collects.",
        {"tracing": 4.0},
        floors=("span",),
    ),
    _row(
        "log-off",
        "Access log, filtered out",
        "What a get takes more when its record is not wanted.",
        {"access log, filtered out": 0.6},
        peers=("log off",),
    ),
    _row(
        "log",
        "Access log, written",
        "What a get takes more when its record is handed to a function, or to a logger without handlers.",
        {"access log, to a function": 12.0, "access log, to logging": 12.0},
        peers=("log to nowhere",),
        floors=("log record",),
    ),
    _row(
        "others",
        "The other layers",
        "What a get takes more through each.",
        {
            "concurrency limit": 1.0,
            **dict.fromkeys(("read only", "size limit", "authorize", "metrics")),
        },
    ),
    _row(
        "cache-hit",
        "Cache hit",
        "A get that the cache answers, in all.",
        {"cache hit": 1.5},
        peers=("cache hit",),
    ),
    _row(
        "canonical",
        "The canonical stack, cache hit",
        "AccessLog, Tracing, Namespace, Caching, Retry and Timeout: a get that the cache answers, in all.",
        {"canonical stack": 12.0},
        peers=("five wrappers",),
    ),
)
