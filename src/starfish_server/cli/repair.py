"""`starfish repair`: brings the replicas of a stack's mirrors up to date."""

import asyncio
from collections.abc import Iterable
from typing import Annotated

import typer

from starfish_server.cli.arguments import AsJson, Jobs, StackFile
from starfish_server.cli.output import (
    ExitCode,
    one_line,
    print_cells,
    print_error,
    print_json,
    print_result,
    progress,
)
from starfish_server.cli.sources import open_source
from starfish_server.errors import StackError
from starfish_server.layers import Mirror, RepairReport
from starfish_server.layers.base import stores_of
from starfish_server.storage.base import AbstractObjectStore

Entries = Iterable[tuple[int, str]]


async def repair(
    stack: StackFile,
    force: Annotated[
        bool, typer.Option("--force", help="Also overwrite newer objects of a replica.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only print what is pending: replica, key, log.")
    ] = False,
    jobs: Jobs = 8,
    json: AsJson = False,
) -> int:
    """Bring the replicas of every Mirror in a stack up to date with its first store.

    Only the keys in the pending log of each Mirror are copied or deleted. If a replica has an object that was
    written after the write it missed, the object is ahead: it is reported on stderr and left alone. Exit code
    1 if anything is still pending; run it again to continue, even after Ctrl-C. Exit code 4, and nothing is
    done, while another process writes through the Mirror: run repair in that process.
    """
    left = False
    async with open_source(stack) as store:
        for path, mirror in _mirrors(stack, store).items():
            pending = mirror.pending()
            if dry_run:
                _print_pending(path, pending, json)
                left |= bool(pending)
            else:
                left |= await _repair(path, mirror, force, jobs, json)
    return ExitCode.FAILED if left else ExitCode.OK


def _mirrors(stack: str, store: AbstractObjectStore) -> dict[str, Mirror]:
    """Return the mirrors by their pending logs."""
    mirrors = [part for part in stores_of(store) if isinstance(part, Mirror)]
    if not mirrors:
        raise StackError(f"{stack}: there is no Mirror in this stack")
    found = {mirror.settings().get("pending_log"): mirror for mirror in mirrors}
    if None in found:
        raise StackError(
            f"{stack}: a Mirror without a pending_log keeps what is pending in the memory of the process "
            "that writes; repair it there"
        )
    return {str(path): mirror for path, mirror in found.items()}


async def _repair(path: str, mirror: Mirror, force: bool, jobs: int, json: bool) -> bool:
    """Repair one mirror, report what was done even if interrupted, and return whether anything is left."""
    report, pending = RepairReport(), len(mirror.pending())
    interrupted = False
    try:
        async with progress("repairing", lambda: (report.done, pending, "")):
            await mirror.repair(force=force, concurrency=jobs, report=report)
    except asyncio.CancelledError:
        interrupted = True
        raise
    finally:
        left = mirror.pending()
        _print_report(path, pending, report, left, interrupted, json)
    return bool(left)


def _print_pending(path: str, pending: Entries, json: bool) -> None:
    if json:
        print_json({"pending_log": path, "pending": _entries(pending)})
        return
    for number, key in sorted(pending):
        print_cells([number, key, path], (2, 40))


def _print_report(
    path: str, pending: int, report: RepairReport, left: set[tuple[int, str]], interrupted: bool, json: bool
) -> None:
    for number, key in sorted(report.ahead):
        print_error(f"replica {number}: {key}: ahead, it was written later; --force overwrites it")
    failed = [(number, key, one_line(error)) for (number, key), error in sorted(report.failed.items())]
    for number, key, error in failed:
        print_error(f"replica {number}: {key}: {error}")
    if interrupted:
        print_error(f"interrupted, {len(left)} are pending: run it again to continue")
    done = {name: getattr(report, name) for name in ("repaired", "deleted", "identical", "ahead")}
    fields = {
        "pending_log": path,
        "pending": pending,
        **{name: _entries(entries) for name, entries in done.items()},
        "failed": [{"replica": number, "key": key, "error": error} for number, key, error in failed],
        "still_pending": _entries(left),
        "interrupted": interrupted,
    }
    counts = ", ".join(f"{len(entries)} {name}" for name, entries in done.items())
    text = f"{path}: {pending} pending, {counts}, {len(failed)} failed, {len(left)} still pending"
    print_result(json, fields, text)


def _entries(entries: Entries) -> list[dict[str, object]]:
    return [{"replica": number, "key": key} for number, key in sorted(entries)]
