"""`starfish rotate`: re-encrypts objects sealed with an old key."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from starfish_server.cli.arguments import AsJson, ContextFields, StackFile, context_of
from starfish_server.cli.output import ExitCode, one_line, print_error, print_json, print_line
from starfish_server.cli.progress import progress
from starfish_server.cli.sources import LeftOut, list_left_out, open_source, print_left_out
from starfish_server.context import StoreContext
from starfish_server.errors import StackError
from starfish_server.layers import Mirror
from starfish_server.layers.base import stores_of
from starfish_server.storage.base import AbstractObjectStore

if TYPE_CHECKING:
    from starfish_server.layers import Encryption, RotationReport


def rotate(
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
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="COUNT", min=1, max=256, help="Objects in flight.")
    ] = 8,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Re-encrypt with the active key the objects that another key of a stack's Encryption sealed.

    Objects sealed with the active key are skipped, so an interrupted rotation can be run again. An object
    that is replaced or deleted during the rotation is left alone. Objects that fail are reported on stderr
    and stay unchanged; files that are not objects are reported as well. In both cases, or if a replica of a
    Mirror is behind, the exit code is 1. Retire the old key after exit code 0.
    """
    try:
        complete = asyncio.run(_rotate(stack, prefix, exclusive, jobs, context_of(context, "push"), json))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return ExitCode.OK if complete else ExitCode.FAILED


async def _rotate(
    stack: str, prefix: str, exclusive: bool, jobs: int, context: StoreContext | None, json: bool
) -> bool:
    """Rotate every Encryption, outermost first, and return whether no object is left."""
    complete = True
    async with open_source(stack) as store:
        from starfish_server.layers import Encryption

        layers = dict.fromkeys(part for part in stores_of(store) if isinstance(part, Encryption))
        if not layers:
            raise StackError(f"{stack}: there is no Encryption in this stack")
        for layer in layers:
            complete &= await _rotate_one(layer, prefix, exclusive, jobs, context, json)
        return complete & _replicas_are_up_to_date(store)


async def _rotate_one(
    layer: "Encryption", prefix: str, exclusive: bool, jobs: int, context: StoreContext | None, json: bool
) -> bool:
    from starfish_server.layers import RotationReport

    began = time.monotonic()
    report = RotationReport()
    left_out: list[LeftOut] = []
    interrupted = False
    try:
        async with progress(
            "encrypting", lambda: (report.done, report.listed if report.all_listed else None)
        ):
            await layer.rotate(prefix, concurrency=jobs, exclusive=exclusive, context=context, report=report)
        left_out += await list_left_out(layer, prefix, context)
    except asyncio.CancelledError:
        interrupted = True
        raise
    finally:
        if report.listed or report.all_listed:
            _print_report(report, left_out, interrupted, time.monotonic() - began, json)
    return not report.failed and not left_out


def _replicas_are_up_to_date(store: AbstractObjectStore) -> bool:
    """Name on stderr how many objects of replicas are not known to be sealed with the active key."""
    pending = sum(len(part.pending()) for part in stores_of(store) if isinstance(part, Mirror))
    if pending:
        print_error(f"{pending} objects of replicas are pending: run starfish repair")
    return not pending


def _print_report(
    report: "RotationReport", left_out: list[LeftOut], interrupted: bool, seconds: float, json: bool
) -> None:
    for key, error in sorted(report.failed.items()):
        print_error(f"{key}: {one_line(error)}")
    print_left_out(left_out)
    if interrupted:
        print_error("interrupted: run it again to continue")
    if json:
        print_json(
            {
                "reencrypted": report.reencrypted,
                "current": report.current,
                "gone": report.gone,
                "failed": [{"key": key, "error": one_line(e)} for key, e in sorted(report.failed.items())],
                "left_out": [{"path": path, "reason": reason} for path, reason in left_out],
                "seconds": round(seconds, 3),
                "interrupted": interrupted,
            }
        )
    else:
        print_line(
            f"{report.reencrypted} re-encrypted, {report.current} already current, {report.gone} gone, "
            f"{len(report.failed)} failed, {len(left_out)} left out, {seconds:.1f} s"
        )
