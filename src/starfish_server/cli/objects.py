"""`starfish get` and `starfish put`: whole objects, from stores of bytes and from stores of text only."""

import asyncio
import base64
import mimetypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from starfish_server.checks import DEFAULT_BYTES_TYPE, DEFAULT_TEXT_TYPE, decode_text
from starfish_server.cli.arguments import AsJson, ContextFields, StoreURL, context_of
from starfish_server.cli.output import ExitCode, print_error, print_json, print_line
from starfish_server.cli.sources import open_source
from starfish_server.context import StoreContext
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.store_url import open_store


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A body with its content type, which is None from a store of text only."""

    body: bytes
    content_type: str | None

    def matches(self, other: "StoredObject | None") -> bool:
        """Return whether both are the same, as far as their stores tell."""
        if other is None or self.body != other.body:
            return False
        types = {self.content_type, other.content_type}
        return len(types) == 1 or None in types


async def read_object(
    store: AbstractObjectStore, key: str, context: StoreContext | None
) -> StoredObject | None:
    """Return the object, or None. Of a store of text only, the body is the text in UTF-8."""
    if store.supports("get_bytes"):
        found = await store.get_bytes(key, context=context)
        return None if found is None else StoredObject(*found)
    text = await store.get_string(key, context=context)
    return None if text is None else StoredObject(text.encode(), None)


async def write_object(
    store: AbstractObjectStore,
    key: str,
    stored: StoredObject,
    context: StoreContext | None,
    *,
    cache_control: str | None = None,
) -> None:
    """Put the object. A body that is not UTF-8 is a `StoreDecodeError` on a store of text only."""
    if store.supports("put_bytes"):
        await store.put_bytes(
            key,
            stored.body,
            content_type=stored.content_type or DEFAULT_TEXT_TYPE,
            cache_control=cache_control,
            context=context,
        )
    else:
        text = decode_text(stored.body, "put", key)
        await store.put(
            key, text, content_type=stored.content_type, cache_control=cache_control, context=context
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
            {"key": key, "content_type": found.content_type, "size": len(found.body)} | _body(found.body)
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
    stored = StoredObject(body, content_type or _guessed_type(key if file == "-" else file))
    asyncio.run(_write(store, key, stored, cache_control, context))
    if json:
        print_json({"key": key, "content_type": stored.content_type, "size": len(body)})
    elif sys.stdout.isatty():
        print_line(f"{key}: {len(body)} bytes, {stored.content_type}")
    return ExitCode.OK


async def _read(store: str, key: str, context: list[str] | None) -> StoredObject | None:
    async with open_source(store) as opened:
        return await read_object(opened, key, context_of(context, "pull"))


async def _write(
    store: str, key: str, stored: StoredObject, cache_control: str | None, context: list[str] | None
) -> None:
    async with open_store(store) as opened:
        await write_object(opened, key, stored, context_of(context, "push"), cache_control=cache_control)


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
