"""`starfish get` and `starfish put`: whole objects, from stores of bytes and from stores of text only."""

import asyncio
import base64
import mimetypes
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from starfish_server.checks import DEFAULT_BYTES_TYPE, decode_text
from starfish_server.cli.arguments import AsJson, ContextFields, StoreURL, context_of
from starfish_server.cli.output import ExitCode, print_error, print_json, print_line
from starfish_server.cli.sources import open_source
from starfish_server.context import StoreContext
from starfish_server.objects import StoredObject
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.store_url import open_store


async def write_object(
    store: AbstractObjectStore,
    key: str,
    body: bytes,
    *,
    content_type: str | None,
    cache_control: str | None = None,
    metadata: Mapping[str, str] | None = None,
    context: StoreContext | None = None,
) -> None:
    """Write the object. A body that is not UTF-8 is a `StoreDecodeError` on a store of text only."""
    takes_bytes = store.native("write") or store.supports("put_bytes")
    await store.write(
        key,
        body if takes_bytes else decode_text(body, "write", key),
        content_type=content_type,
        cache_control=cache_control,
        metadata=metadata,
        context=context,
    )


def get(
    store: StoreURL,
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
        print_error(f"no such object: {key}")
        return ExitCode.NO_OBJECT
    if output is not None:
        output.write_bytes(found.body)
    elif json:
        print_json(
            {"key": key, "content_type": found.info.content_type, "size": len(found.body)} | _body(found.body)
        )
    elif sys.stdout.isatty() and not _is_plain_text(found.body):
        print_error(f"the object has {len(found.body)} bytes that are not plain text: use --output or a pipe")
        return ExitCode.FAILED
    else:
        sys.stdout.buffer.write(found.body)
        sys.stdout.buffer.flush()
    return ExitCode.OK


def put(
    store: StoreURL,
    key: Annotated[str, typer.Argument(metavar="KEY")],
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="The file to store; - is stdin.")] = "-",
    content_type: Annotated[
        str | None,
        typer.Option(
            "--content-type",
            "-t",
            metavar="TYPE",
            help="By default the type that the name of the file or key suggests.",
        ),
    ] = None,
    cache_control: Annotated[
        str | None, typer.Option("--cache-control", metavar="TEXT", help="Cache-Control to store with it.")
    ] = None,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Store a file, or stdin, as one object. An object with the same key is replaced."""
    body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    content_type = content_type or _guessed_type(key if file == "-" else file)
    asyncio.run(_write(store, key, body, content_type, cache_control, context))
    if json:
        print_json({"key": key, "content_type": content_type, "size": len(body)})
    elif sys.stdout.isatty():
        print_line(f"{key}: {len(body)} bytes, {content_type}")
    return ExitCode.OK


async def _read(store: str, key: str, context: list[str] | None) -> StoredObject | None:
    async with open_source(store) as opened:
        return await opened.read(key, context=context_of(context, "pull"))


async def _write(
    store: str,
    key: str,
    body: bytes,
    content_type: str,
    cache_control: str | None,
    context: list[str] | None,
) -> None:
    async with open_store(store) as opened:
        await write_object(
            opened,
            key,
            body,
            content_type=content_type,
            cache_control=cache_control,
            context=context_of(context, "push"),
        )


def _guessed_type(name: str) -> str:
    guessed, encoding = mimetypes.guess_type(name)
    return guessed if guessed and not encoding else DEFAULT_BYTES_TYPE


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
