"""`starfish put`."""

import asyncio
import mimetypes
import sys
from pathlib import Path
from typing import Annotated

import typer

from starfish_server.checks import DEFAULT_BYTES_TYPE
from starfish_server.cli.arguments import AsJson, ContextFields, StoreName, context_of
from starfish_server.cli.exit_codes import ExitCode
from starfish_server.cli.objects import StoredObject, write_object
from starfish_server.cli.output import json_line, line
from starfish_server.cli.stores import open_store


def put(
    store: StoreName,
    key: Annotated[str, typer.Argument(metavar="KEY")],
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="What to store; - is stdin.")] = "-",
    content_type: Annotated[
        str | None,
        typer.Option(
            "--content-type", "-t", metavar="TYPE", help="By default what the file's or key's name says."
        ),
    ] = None,
    cache_control: Annotated[
        str | None, typer.Option("--cache-control", metavar="TEXT", help="Cache-Control to store with it.")
    ] = None,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Store a file, or stdin, as one object, in place of what was there."""
    body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    stored = StoredObject(body, content_type or _guessed_type(key if file == "-" else file))
    asyncio.run(_write(store, key, stored, cache_control, context))
    if json:
        json_line({"key": key, "content_type": stored.content_type, "size": len(body)})
    elif sys.stdout.isatty():
        line(f"{key}: {len(body)} bytes, {stored.content_type}")
    return ExitCode.OK


async def _write(
    store: str, key: str, stored: StoredObject, cache_control: str | None, context: list[str] | None
) -> None:
    async with open_store(store) as opened:
        await write_object(opened, key, stored, context_of(context, "push"), cache_control=cache_control)


def _guessed_type(name: str) -> str:
    guessed, encoding = mimetypes.guess_type(name)
    return guessed if guessed and not encoding else DEFAULT_BYTES_TYPE
