"""All rows, in the order of the table: of the leaves, layers, shared cache, server and import."""

from __future__ import annotations

from bench import rows_files, rows_http, rows_layers, rows_s3, rows_shared
from bench.plan import Plan
from bench.row import Contender, Entrant, Goal, Role, Row


def _importing(label: str, role: Role, environment: str, package: str) -> Entrant:
    return Entrant(Contender(label, role, environment, "imports:open_import"), label, package)


IMPORT = Row(
    name="import",
    title="Import",
    sentence="What `import` takes over bare asyncio in a new process, and the memory it adds.",
    unit="ms",
    place="none",
    plan=Plan(workload="import"),
    entrants=(
        _importing("starfish", "ours", "", "starfish_server"),
        _importing("starfish 2.3.0", "seed", "starfish", "starfish_server"),
        _importing("obstore", "peer", "shared", "obstore"),
        _importing("opendal", "peer", "shared", "opendal"),
        _importing("aiobotocore", "peer", "shared", "aiobotocore.session"),
        _importing("s3fs", "peer", "shared", "s3fs"),
        _importing("py-key-value", "peer", "shared", "key_value.aio.stores.memory"),
    ),
    goals=(Goal(8), Goal(1, metric="memory")),
    shows_memory=True,
)


ROWS = (*rows_s3.ROWS, *rows_files.ROWS, *rows_layers.ROWS, *rows_shared.ROWS, *rows_http.ROWS, IMPORT)
