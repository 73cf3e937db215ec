"""`starfish cp`: its options, its progress and its report."""

import asyncio
import os
import time
from typing import Annotated
from urllib.parse import parse_qsl, unquote, urlsplit

import typer
from rich.filesize import decimal

from starfish_server.cli.copying import Copying, Tally
from starfish_server.cli.output import ExitCode, ProgressBar, print_error, print_failures, print_result
from starfish_server.cli.stores import AsJson, ContextFields, Jobs, context_of, open_source, print_left_out
from starfish_server.errors import BucketNotFoundError
from starfish_server.store_url import open_store


async def cp(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A store, as STORE of the other commands.")],
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="Another store.")],
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="Only keys that begin with this.")
    ] = "",
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            "-u",
            help="Skip an object, without reading it, if the one at the destination has the same size and is "
            "newer by a second. All others are read and compared.",
        ),
    ] = False,
    jobs: Jobs = 16,
    memory: Annotated[
        int,
        typer.Option("--memory", metavar="MIB", min=1, help="Approximate MiB of bodies in flight."),
    ] = 256,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Copy objects between any two stores, and read each back.

    Content type, cache control and metadata are copied; a warning on stderr names any that the destination
    loses. An identical object at the destination is skipped, one that differs is replaced, and nothing is
    deleted, so an interrupted copy can be run again. Objects that fail are reported on stderr, and the others
    are copied. Files of the source that are not objects, such as a link or a file whose name breaks the key
    rules, are reported as well. In both cases the exit code is 1.

    --update trusts times, so the clocks of both stores must agree. It misses a file that was replaced by an
    older one of the same size, as `cp -p` or a restored backup does: copy without it after that.

    Copying from a folder that does not exist, or from a prefix of a bucket without objects, is an error.

    Objects over 8 MiB are streamed. A store without native streams holds each object in memory.
    """
    above, below = _place(source), _place(destination)
    inside = below.startswith(above) and below != above and not destination.endswith(".toml")
    if inside and (below[len(above) :] + prefix).startswith(prefix):
        raise typer.BadParameter("the destination is inside the source, so copies would be copied again")
    reading, writing = context_of(context, "pull"), context_of(context, "push")
    began, tally = time.monotonic(), Tally()

    def state() -> tuple[int, int | None, str]:
        moved = f"{decimal(tally.moved)}, {_rate(tally.moved, time.monotonic() - began)}"
        return tally.listed - tally.pending, tally.listed if tally.all_listed else None, moved

    try:
        async with open_source(source) as origin, open_store(destination) as target:
            copying = Copying(origin, target, prefix, jobs, memory * 2**20, update, reading, writing, tally)
            with ProgressBar("copying", state):
                await copying.run()
    except (Exception, asyncio.CancelledError):
        if tally.listed:
            _report(tally, True, time.monotonic() - began, json)
        raise
    if not (tally.listed or tally.left_out or prefix) and (part := _prefix_of(source)):
        raise BucketNotFoundError(
            f"the source has no object below {part!r}; to copy a single object, give its key as --prefix"
        )
    _report(tally, False, time.monotonic() - began, json)
    return ExitCode.FAILED if tally.failures or tally.left_out else ExitCode.OK


def _place(url: str) -> str:
    """Return the endpoint of a store, and its URL or path without options, ending in "/"."""
    place, _, options = url.partition("?")
    place = place.removeprefix("file://").removeprefix("file:")
    place = place if "://" in place else os.path.abspath(place)  # noqa: PTH100 - of a str
    return f"{dict(parse_qsl(options)).get('endpoint')} {place.rstrip('/')}/"


def _prefix_of(url: str) -> str:
    """Return the prefix in the URL of a bucket, which is its folder; "" if it has none."""
    path = unquote(urlsplit(url).path).strip("/") if url.lower().startswith("s3://") else ""
    return f"{path}/" if path else ""


def _rate(size: int, seconds: float) -> str:
    return f"{decimal(round(size / max(seconds, 0.001)))}/s"


def _report(tally: Tally, interrupted: bool, seconds: float, json: bool) -> None:
    for key, warning in sorted(tally.warnings.items()):
        print_error(f"warning: {key}: {warning}")
    fields = {
        "copied": tally.copied,
        "identical": tally.identical,
        "bytes": tally.size,
        "seconds": round(seconds, 3),
        "failed": print_failures(tally.failures),
        "warnings": [{"key": key, "warning": text} for key, text in sorted(tally.warnings.items())],
        "left_out": print_left_out(tally.left_out),
        "interrupted": interrupted,
    }
    if interrupted:
        more = "" if tally.all_listed else " and all that were not listed yet"
        print_error(f"interrupted, {tally.pending} objects{more} are not copied: run it again to continue")
    text = (
        f"{tally.copied} copied ({tally.size} bytes), {tally.identical} already there, "
        f"{len(tally.failures)} failed, {len(tally.left_out)} left out, {seconds:.1f} s, "
        f"{_rate(tally.size, seconds)}"
    )
    print_result(json, fields, text)
