"""`starfish get`, `put`, `stat` and `url`: one object, of stores of bytes and of stores of text only."""

import asyncio
import base64
import mimetypes
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from starfish_server.checks import DEFAULT_BYTES_TYPE, decode_text
from starfish_server.cli.arguments import AsJson, ContextFields, StoreURL, context_of
from starfish_server.cli.output import ExitCode, described, print_cells, print_error, print_json, print_line
from starfish_server.cli.sources import open_source
from starfish_server.context import StoreContext
from starfish_server.errors import StoreNotSupportedError
from starfish_server.objects import ObjectInfo, StoredObject
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


def stat(
    store: StoreURL,
    key: Annotated[str, typer.Argument(metavar="KEY")],
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Show what is known of an object besides its body. Exit code 3 if there is no such object."""
    found = asyncio.run(_stat(store, key, context))
    if found is None:
        print_error(f"no such object: {key}")
        return ExitCode.NO_OBJECT
    if json:
        print_json(described(found))
        return ExitCode.OK
    fields = described(found)
    del fields["metadata"]
    for name, value in (fields | {f"metadata.{name}": text for name, text in found.metadata.items()}).items():
        print_cells([name, value], (14,))
    return ExitCode.OK


class Method(StrEnum):
    """What a signed URL lets people do."""

    GET = "GET"
    PUT = "PUT"


def url(
    store: StoreURL,
    key: Annotated[str, typer.Argument(metavar="KEY")],
    method: Annotated[
        Method, typer.Option("--method", case_sensitive=False, help="GET reads the object, PUT writes it.")
    ] = Method.GET,
    expires: Annotated[
        int, typer.Option("--expires", metavar="SECONDS", min=1, max=604_800, help="How long it works.")
    ] = 900,
    content_type: Annotated[
        str | None,
        typer.Option("--content-type", "-t", metavar="TYPE", help="For PUT: what the request must have."),
    ] = None,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Print a URL that lets anyone read or write one object until it expires. S3 has them, folders do not."""
    signed = asyncio.run(_sign(store, key, method, expires, content_type, context))
    if json:
        print_json({"key": key, "url": signed, "method": method, "expires": expires})
    else:
        print_line(signed)
    return ExitCode.OK


async def _stat(store: str, key: str, context: list[str] | None) -> ObjectInfo | None:
    async with open_source(store) as opened:
        return await opened.stat(key, context=context_of(context, "pull"))


async def _sign(
    store: str, key: str, method: str, expires: float, content_type: str | None, context: list[str] | None
) -> str:
    asked = context_of(context, "pull" if method == "GET" else "push")
    async with open_store(store) as opened:
        if not opened.supports("signed_url"):
            reason = "this store has no signed URLs; an S3 store has, unless a layer changes its bodies"
            raise StoreNotSupportedError(reason, operation="signed_url", key=key)
        return await opened.signed_url(
            key, method=method, expires=expires, content_type=content_type, context=asked
        )


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
