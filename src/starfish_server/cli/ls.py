"""`starfish ls`."""

import asyncio
import sys
from typing import Annotated

import typer

from starfish_server.cli.arguments import AsJson, ContextFields, StoreName, context_of
from starfish_server.cli.exit_codes import ExitCode
from starfish_server.cli.output import json_line, line
from starfish_server.cli.stores import open_store


def ls(
    store: StoreName,
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin with this text.")
    ] = "",
    start_after: Annotated[
        str | None, typer.Option("--start-after", metavar="KEY", help="Only keys after this one.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="COUNT", min=0, help="At most so many; all by default.")
    ] = None,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """List keys, one a line, in byte order.

    Characters that are not printable are escaped; --json gives each key exactly.
    """
    keys = asyncio.run(_keys(store, prefix, start_after, limit, context))
    for key in keys:
        if json:
            json_line({"key": key})
        else:
            line(key)
    if sys.stdout.isatty() and not json:
        sys.stderr.write(f"{len(keys)} objects\n")
    return ExitCode.OK


async def _keys(
    store: str, prefix: str, start_after: str | None, limit: int | None, context: list[str] | None
) -> list[str]:
    async with open_store(store) as opened:
        return await opened.list_keys(
            prefix, start_after=start_after, limit=limit, context=context_of(context, "list")
        )
