"""`starfish rotate`: re-encrypts objects sealed with an old key."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from starfish_server.cli.arguments import AsJson, ContextFields, Jobs, StackFile, context_of
from starfish_server.cli.output import ExitCode, print_error, print_failures, print_result, progress
from starfish_server.cli.sources import list_left_out, open_source, print_left_out
from starfish_server.context import StoreContext
from starfish_server.errors import StackError
from starfish_server.layers import Mirror
from starfish_server.layers.base import stores_of

if TYPE_CHECKING:
    from starfish_server.layers import Encryption, RotationReport


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
    """Re-encrypt with the active key the objects that another key of a stack's Encryption sealed.

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
    interrupted = False
    try:
        async with progress(
            "encrypting", lambda: (report.done, report.listed if report.all_listed else None, "")
        ):
            await layer.rotate(prefix, concurrency=jobs, exclusive=exclusive, context=context, report=report)
        left_out = await list_left_out(layer, prefix, context)
    except asyncio.CancelledError:
        interrupted = True
        raise
    finally:
        if report.listed or report.all_listed:
            _print_report(report, left_out, interrupted, time.monotonic() - began, json)
    return not report.failed and not left_out


def _print_report(
    report: "RotationReport", left_out: dict[str, str], interrupted: bool, seconds: float, json: bool
) -> None:
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
