"""`starfish repair` and `starfish rotate`: bring the objects of a stack up to date with its settings."""

import asyncio
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from starfish_server.cli.output import (
    ExitCode,
    ProgressBar,
    one_line,
    print_cells,
    print_error,
    print_failures,
    print_json,
    print_result,
)
from starfish_server.cli.stores import (
    AsJson,
    ContextFields,
    Jobs,
    StackFile,
    context_of,
    list_left_out,
    open_source,
    print_left_out,
)
from starfish_server.context import StoreContext
from starfish_server.errors import StackError
from starfish_server.layers import Mirror, RepairReport
from starfish_server.layers.base import stores_of
from starfish_server.storage.base import AbstractObjectStore

if TYPE_CHECKING:
    from starfish_server.layers import Encryption


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
            if not dry_run:
                await _repair(path, mirror, force, jobs, json)
            elif json:
                print_json({"pending_log": path, "pending": _entries(mirror.pending())})
            else:
                for number, key in sorted(mirror.pending()):
                    print_cells([number, key, path], (2, 40))
            left |= bool(mirror.pending())
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


async def _repair(path: str, mirror: Mirror, force: bool, jobs: int, json: bool) -> None:
    """Repair one mirror, and report what was done even if interrupted."""
    report, pending = RepairReport(), len(mirror.pending())
    try:
        with ProgressBar("repairing", lambda: (report.done, pending, "")):
            await mirror.repair(force=force, concurrency=jobs, report=report)
    finally:
        left, interrupted = mirror.pending(), _is_interrupted()
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


def _entries(entries: Iterable[tuple[int, str]]) -> list[dict[str, object]]:
    return [{"replica": number, "key": key} for number, key in sorted(entries)]


async def rotate(
    stack: StackFile,
    prefix: Annotated[
        str,
        typer.Option(
            "--prefix", metavar="TEXT", help="Only keys that begin with this; a Namespace's prefix included."
        ),
    ] = "",
    exclusive: Annotated[
        bool,
        typer.Option(
            "--exclusive", help="Nothing else writes to the store: for stores without conditional writes."
        ),
    ] = False,
    jobs: Jobs = 8,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Re-encrypt with the active key what an older key sealed.

    Objects sealed with the active key are skipped, so an interrupted rotation can be run again. An object
    that is replaced or deleted during the rotation is left alone. Objects that fail are reported on stderr
    and stay unchanged; files that are not objects are reported as well. In both cases, or if a replica of a
    Mirror is behind, the exit code is 1. Retire the old key after exit code 0.
    """
    writing = context_of(context, "push")
    async with open_source(stack) as store:
        from starfish_server.layers import Encryption

        parts = list(stores_of(store))
        layers = dict.fromkeys(part for part in parts if isinstance(part, Encryption))
        if not layers:
            raise StackError(f"{stack}: there is no Encryption in this stack")
        complete = True
        for layer in layers:
            complete &= await _rotate(layer, prefix, exclusive, jobs, writing, json)
        # A replica may still hold what was sealed with the old key.
        pending = sum(len(part.pending()) for part in parts if isinstance(part, Mirror))
        if pending:
            print_error(f"{pending} objects of replicas are pending: run starfish repair")
    return ExitCode.OK if complete and not pending else ExitCode.FAILED


async def _rotate(
    layer: "Encryption", prefix: str, exclusive: bool, jobs: int, context: StoreContext | None, json: bool
) -> bool:
    """Rotate one layer, report what was done even if interrupted, and return whether nothing is left."""
    from starfish_server.layers import RotationReport

    began = time.monotonic()
    report = RotationReport()
    left_out: dict[str, str] = {}
    try:
        with ProgressBar(
            "encrypting", lambda: (report.done, report.listed if report.all_listed else None, "")
        ):
            await layer.rotate(prefix, concurrency=jobs, exclusive=exclusive, context=context, report=report)
        left_out = await list_left_out(layer, prefix, context)
    finally:
        if report.listed or report.all_listed:
            interrupted, seconds = _is_interrupted(), time.monotonic() - began
            fields = {
                "reencrypted": report.reencrypted,
                "current": report.current,
                "gone": report.gone,
                "failed": print_failures(report.failed),
                "left_out": print_left_out(left_out),
                "seconds": round(seconds, 3),
                "interrupted": interrupted,
            }
            if interrupted:
                print_error("interrupted: run it again to continue")
            text = (
                f"{report.reencrypted} re-encrypted, {report.current} already current, {report.gone} gone, "
                f"{len(report.failed)} failed, {len(left_out)} left out, {seconds:.1f} s"
            )
            print_result(json, fields, text)
    return not report.failed and not left_out


def _is_interrupted() -> bool:
    return isinstance(sys.exception(), asyncio.CancelledError)
