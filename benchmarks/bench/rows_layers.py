"""The rows over a memory leaf: what one layer adds, or what a call takes in all."""

from __future__ import annotations

from bench.plan import Plan
from bench.row import Contender, Entrant, Goal, Row, speed_at_least

CALLS = Plan(workload="layer", objects=20_000)
OURS = Contender("starfish", "ours", "", "layers:open_layer")
NEWEST = Contender("starfish, newest Python", "ours", "newest", "layers:open_layer")
WRAPPER = Contender("py-key-value", "peer", "shared", "py_key_value:open_layer")
BODIES = Contender("starfish", "ours", "", "layers:open_body_layer")
CODEC = Contender("codec", "floor", "", "layer_floors:open_codec")
FLOOR = Contender("floor", "floor", "", "layer_floors:open_floor")
FRAME = ("a coroutine", "an operation")  # what any layer that is a coroutine, or renames, cannot do without
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
    newest: tuple[str, ...] = (),
) -> Row:
    """`ours` are layers with the most microseconds that each may take, where there is a goal.

    newest: those of them that are measured on the newest Python, too.
    """
    entered = (
        *(Entrant(OURS, layer, layer) for layer in ours),
        *(Entrant(NEWEST, f"{layer}, newest Python", layer) for layer in newest),
        *(Entrant(WRAPPER, f"py-key-value {wrapper}", wrapper) for wrapper in peers),
        *(Entrant(FLOOR, floor, floor) for floor in (*floors, *FRAME)),
        PASS_THROUGH,
    )
    goals = tuple(Goal(limit, ours=layer) for layer, limit in ours.items() if limit is not None)
    return Row(f"layer-{name}", title, sentence, "us", "none", CALLS, entered, goals)


def _body_row(
    name: str,
    title: str,
    sentence: str,
    ours: tuple[str, ...],
    *goals: Goal,
    plan: Plan,
    floors: tuple[str, ...] = (),
) -> Row:
    """A row of what layers add to the writes and reads of bodies, beside the codec alone."""
    entered = (
        *(Entrant(BODIES, layer, layer) for layer in ours),
        *(Entrant(CODEC, floor, floor) for floor in floors),
    )
    return Row(f"layer-{name}", title, sentence, "us", "none", plan, entered, goals)


ROWS = (
    _row(
        "namespace",
        "Namespace",
        "What a get through a prefix takes more than one without.",
        {"namespace": 0.45},
        peers=("prefix",),
    ),
    _row(
        "retry",
        "Retry, no failure",
        "What a get that succeeds takes more under retries.",
        {"retry": 0.36},
        peers=("retry",),
    ),
    _row(
        "timeout",
        "Timeout",
        "What a get takes more with a time limit.",
        {"timeout": 3.96},
        peers=("timeout",),
        floors=("asyncio.timeout",),
    ),
    _row(
        "tracing",
        "Tracing, no SDK",
        "What a get takes more with a span that nobody collects.",
        {"tracing": 0.94},
        floors=("span",),
    ),
    _row(
        "log-off",
        "Access log, filtered out",
        "What a get takes more when its record is not wanted.",
        {"access log, filtered out": 0.2},
        peers=("log off",),
    ),
    _row(
        "log",
        "Access log, written",
        "What a get takes more when its record is handed to a function, or to a logger without handlers.",
        {"access log, to a function": 4.35, "access log, to logging": 9.95},
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
        "outages",
        "The layers against outages and overload, nothing wrong",
        "What a get that succeeds takes more through each.",
        {"circuit breaker": 0.5, "fallback": 0.3, "hedge": 1.5, "rate limit": 0.8, "mirror": None},
    ),
    _body_row(
        "mirror",
        "Mirror, write of 1 KiB",
        "What a write takes more that goes to a replica in memory, too.",
        ("mirror, write",),
        plan=Plan(workload="layer", objects=5_000),
    ),
    _body_row(
        "encryption",
        "Encryption of 1 KiB",
        "What a write and a read take more; the floor is AES-256-GCM alone.",
        ("encryption, write", "encryption, read"),
        Goal(15, ours="encryption, write"),
        Goal(15, ours="encryption, read"),
        plan=Plan(workload="layer", objects=5_000),
        floors=("AESGCM, write", "AESGCM, read"),
    ),
    _body_row(
        "encryption-64m",
        "Encryption of 64 MiB",
        "What a write and a read take more; the floor is AES-256-GCM on one buffer.",
        ("encryption, write", "encryption, read"),
        speed_at_least(0.8, "AESGCM, write", ours="encryption, write"),
        speed_at_least(0.8, "AESGCM, read", ours="encryption, read"),
        plan=Plan(workload="layer", objects=3, size=64 * 2**20),
        floors=("AESGCM, write", "AESGCM, read"),
    ),
    _body_row(
        "compression",
        "Compression of 64 KiB of JSON",
        "What a write and a read take more; the floor is zstd alone.",
        ("compression, write", "compression, read"),
        Goal(1.2, "zstd, write", ours="compression, write"),
        Goal(1.2, "zstd, read", ours="compression, read"),
        plan=Plan(workload="layer", objects=500, size=64 * 1024),
        floors=("zstd, write", "zstd, read"),
    ),
    _row(
        "cache-hit",
        "Cache hit",
        "A get that the cache answers, in all.",
        {"cache hit": 0.97},
        peers=("cache hit",),
    ),
    _row(
        "canonical",
        "The canonical stack, cache hit",
        "AccessLog, Tracing, Namespace, Caching, Retry and Timeout: a get that the cache answers, in all.",
        {"canonical stack": 2.3},
        newest=("canonical stack",),
        peers=("five wrappers",),
    ),
)
