"""`starfish repair`: brings the replicas of a stack's mirrors up to date."""

import asyncio
from collections.abc import Iterable
from typing import Annotated

import typer

from starfish_server.cli.arguments import AsJson, StackFile
from starfish_server.cli.output import ExitCode, one_line, print_cells, print_error, print_json, print_line
from starfish_server.cli.progress import progress
from starfish_server.cli.sources import open_source
from starfish_server.errors import StackError
from starfish_server.layers import Mirror, RepairReport
from starfish_server.layers.base import stores_of
from starfish_server.storage.base import AbstractObjectStore

Entries = Iterable[tuple[int, str]]


def repair(
    stack: StackFile,
    force: Annotated[
        bool, typer.Option("--force", help="Also overwrite newer objects of a replica.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only print what is pending: replica, key, log.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="COUNT", min=1, max=256, help="Objects in flight.")
    ] = 8,
    json: AsJson = False,
) -> int:
    """Bring the replicas of every Mirror in a stack up to date with its first store.

    Only the keys in the pending log of each Mirror are copied or deleted. If a replica has an object that was
    written after the write it missed, the object is ahead: it is reported on stderr and left alone. Exit code
    1 if anything is still pending; run it again to continue, even after Ctrl-C. Exit code 4, and nothing is
    done, while another process writes through the Mirror: run repair in that process.
    """
    try:
        left = asyncio.run(_repair(stack, force, dry_run, jobs, json))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED if left else ExitCode.OK


async def _repair(stack: str, force: bool, dry_run: bool, jobs: int, json: bool) -> bool:
    """Repair the mirrors, outermost first, and return whether anything is left."""
    left = False
    async with open_source(stack) as store:
        for path, mirror in _mirrors(stack, store).items():
            pending = mirror.pending()
            left |= bool(pending) if dry_run else await _repair_one(path, mirror, force, jobs, json)
            if dry_run:
                _print_pending(path, pending, json)
    return left


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


async def _repair_one(path: str, mirror: Mirror, force: bool, jobs: int, json: bool) -> bool:
    report, pending = RepairReport(), mirror.pending()
    interrupted = False
    try:
        async with progress("repairing", lambda: (report.done, len(pending))):
            await mirror.repair(force=force, concurrency=jobs, report=report)
    except asyncio.CancelledError:
        interrupted = True
        raise
    finally:
        left = mirror.pending()
        _print_report(path, len(pending), report, left, interrupted, json)
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
    for (number, key), error in sorted(report.failed.items()):
        print_error(f"replica {number}: {key}: {one_line(error)}")
    if interrupted:
        print_error(f"interrupted, {len(left)} are pending: run it again to continue")
    if json:
        failed = [
            {"replica": number, "key": key, "error": one_line(error)}
            for (number, key), error in sorted(report.failed.items())
        ]
        print_json(
            {
                "pending_log": path,
                "pending": pending,
                "repaired": _entries(report.repaired),
                "deleted": _entries(report.deleted),
                "identical": _entries(report.identical),
                "ahead": _entries(report.ahead),
                "failed": failed,
                "still_pending": _entries(left),
                "interrupted": interrupted,
            }
        )
    else:
        print_line(
            f"{path}: {pending} pending, {len(report.repaired)} repaired, {len(report.deleted)} deleted, "
            f"{len(report.identical)} identical, {len(report.ahead)} ahead, {len(report.failed)} failed, "
            f"{len(left)} still pending"
        )


def _entries(entries: Entries) -> list[dict[str, object]]:
    return [{"replica": number, "key": key} for number, key in sorted(entries)]
