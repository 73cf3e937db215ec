"""`make demo`: the main job on real input, through bare leaves, the canonical stack and the embedded server.

Stores this repository's Markdown and Python files. Ends non-zero if anything that comes back differs.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from demo import leaves, serving, stack
from servers import start_seaweedfs

REPOSITORY = Path(__file__).resolve().parents[2]


def repository_files() -> dict[str, bytes]:
    """Every Markdown and Python file outside hidden folders, by its path in the repository."""
    found = (path for pattern in ("*.md", "*.py") for path in REPOSITORY.rglob(pattern))
    relative = ((path, path.relative_to(REPOSITORY)) for path in found)
    return {
        name.as_posix(): path.read_bytes()
        for path, name in relative
        if not any(part.startswith(".") for part in name.parts)
    }


async def run(console: Console) -> list[str]:
    files = repository_files()
    with tempfile.TemporaryDirectory(prefix="starfish-demo-") as folder, start_seaweedfs() as server:
        console.rule("Leaves")
        problems = await leaves.run(server, files, f"{folder}/objects", console)
        console.rule("The canonical stack, over S3 that fails one request in ten")
        problems += await stack.run(server, files, Path(folder) / "audit.jsonl", console)
        console.rule("The embedded server")
        served = Path(folder) / "served"
        served.mkdir()
        return problems + await serving.run(served, console)


def main() -> int:
    console = Console(width=120, highlight=False)
    problems = asyncio.run(run(console))
    for problem in problems:
        console.print(f"[red]{problem}")
    console.print("[red]FAILED" if problems else "[green]All that came back is identical.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
