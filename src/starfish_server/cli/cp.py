"""`starfish cp`."""

import asyncio
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from starfish_server.cli.arguments import AsJson, ContextFields, context_of
from starfish_server.cli.copying import Copying, Tally
from starfish_server.cli.exit_codes import ExitCode
from starfish_server.cli.output import complain, json_line, line, one_line
from starfish_server.cli.stores import open_store


def cp(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A store, named as STORE is elsewhere.")],
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="Another store.")],
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="Only keys that begin with this.")
    ] = "",
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="COUNT", min=1, max=256, help="Objects at a time.")
    ] = 16,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Copy objects between any two stores, with their content types, and read each back.

    Run it again to go on where it stopped: an object that is already there with the same bytes and content
    type is left alone, one that differs is replaced, and nothing is deleted. Objects that fail are named on
    stderr, and the others are copied. Each object is held in memory as a whole, and Cache-Control, which no
    store can tell, is not copied.
    """
    began = time.monotonic()
    tally = asyncio.run(_copy(source, destination, prefix, jobs, context))
    seconds = time.monotonic() - began
    for key, warning in sorted(tally.retyped.items()):
        complain(f"warning: {key}: {warning}")
    for key, failure in sorted(tally.failures.items()):
        complain(f"{key}: {one_line(failure)}")
    if json:
        json_line(
            {
                "copied": tally.copied,
                "identical": tally.identical,
                "bytes": tally.size,
                "seconds": round(seconds, 3),
                "failed": [{"key": key, "error": one_line(e)} for key, e in sorted(tally.failures.items())],
            }
        )
    else:
        line(
            f"{tally.copied} copied ({tally.size} bytes), {tally.identical} already there, "
            f"{len(tally.failures)} failed, {seconds:.1f} s"
        )
    return ExitCode.FAILED if tally.failures else ExitCode.OK


async def _copy(source: str, destination: str, prefix: str, jobs: int, context: list[str] | None) -> Tally:
    console = Console(stderr=True)
    columns = (TextColumn("copying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    reading, writing = context_of(context, "pull"), context_of(context, "push")
    async with open_store(source) as origin, open_store(destination) as target:
        copying = Copying(origin, target, prefix, jobs, reading, writing)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("copying", total=None)
            return await copying.run(
                lambda count: progress.update(task, total=count), lambda: progress.advance(task)
            )
