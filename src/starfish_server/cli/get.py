"""`starfish get`."""

import asyncio
import base64
import sys
from pathlib import Path
from typing import Annotated

import typer

from starfish_server.cli.arguments import AsJson, ContextFields, StoreName, context_of
from starfish_server.cli.exit_codes import ExitCode
from starfish_server.cli.objects import StoredObject, read_object
from starfish_server.cli.output import complain, json_line
from starfish_server.cli.stores import open_store


def get(
    store: StoreName,
    key: Annotated[str, typer.Argument(metavar="KEY")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the body to this file, not to stdout.")
    ] = None,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Print an object's body, byte for byte.

    On a terminal only text is printed. --json prints key, content_type, size and the body as `text` or, if it
    is not UTF-8, as `base64`. Exit code 3 if there is no such object.
    """
    found = asyncio.run(_read(store, key, context))
    if found is None:
        complain(f"no such object: {key}")
        return ExitCode.NO_OBJECT
    if output is not None:
        output.write_bytes(found.body)
    elif json:
        json_line(
            {"key": key, "content_type": found.content_type, "size": len(found.body)} | _body(found.body)
        )
    elif sys.stdout.isatty() and not _is_plain_text(found.body):
        complain(f"the object has {len(found.body)} bytes that are not plain text: use --output or a pipe")
        return ExitCode.FAILED
    else:
        sys.stdout.buffer.write(found.body)
        sys.stdout.buffer.flush()
    return ExitCode.OK


async def _read(store: str, key: str, context: list[str] | None) -> StoredObject | None:
    async with open_store(store) as opened:
        return await read_object(opened, key, context_of(context, "pull"))


def _body(body: bytes) -> dict[str, str]:
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def _is_plain_text(body: bytes) -> bool:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return False
    return text.translate(dict.fromkeys(map(ord, "\t\n\r"))).isprintable()
