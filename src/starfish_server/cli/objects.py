"""`starfish get`, `put`, `stat` and `url`: one object."""

import base64
import codecs
import mimetypes
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import typer

from starfish_server.checks import DEFAULT_BYTES_TYPE
from starfish_server.cli.output import (
    ExitCode,
    described,
    print_cells,
    print_error,
    print_json,
    print_line,
    print_result,
    read_chunk,
)
from starfish_server.cli.stores import (
    AsJson,
    ContextFields,
    StoreURL,
    context_of,
    open_source,
    split,
    write_object,
)
from starfish_server.errors import StoreNotSupportedError
from starfish_server.objects import ANY, ObjectInfo, ObjectReader
from starfish_server.store_url import open_store

_SPACES = dict.fromkeys(map(ord, "\t\n\r"))

Key = Annotated[str, typer.Argument(metavar="KEY")]


async def get(
    store: StoreURL,
    key: Key,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the body to this file, not to stdout.")
    ] = None,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Print an object's body, byte for byte.

    The body is streamed. An output file is replaced once the whole body is there. On a terminal only text is
    printed. --json prints key, content_type, size and the body as `text` or, if it is not UTF-8, as `base64`.
    Exit code 3 if there is no such object.
    """
    asked = context_of(context, "pull")
    async with open_source(store) as opened:
        reader = await opened.open(key, context=asked)
        if reader is None:
            return _no_object(key)
        async with reader:
            if output is not None:
                with _replacing(output) as file:
                    async for chunk in reader:
                        file.write(chunk)
            elif json:
                body = await reader.read()
                fields = {"key": key, "content_type": reader.info.content_type, "size": len(body)}
                print_json(fields | _as_json(body))
            elif not await _print_body(reader):
                print_error("the object is not plain text: use --output or a pipe")
                return ExitCode.FAILED
    return ExitCode.OK


async def put(
    store: StoreURL,
    key: Key,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to store; - is stdin.")] = "-",
    content_type: Annotated[
        str | None,
        typer.Option(
            "--content-type",
            "-t",
            metavar="TYPE",
            help="By default guessed from the name of the file or key.",
        ),
    ] = None,
    cache_control: Annotated[
        str | None, typer.Option("--cache-control", metavar="TEXT", help="Cache-Control to store with it.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata",
            "-m",
            metavar="NAME=VALUE",
            help="Metadata to store with it. Can be given several times.",
        ),
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Only if there is no object with this key; else exit code 5.")
    ] = False,
    if_version: Annotated[
        str | None,
        typer.Option(
            "--if-version",
            metavar="VERSION",
            help="Only if the object still has this version, as stat shows it; else exit code 5.",
        ),
    ] = None,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Store a file, or stdin, as one object. An object with the same key is replaced.

    The body is streamed. For a store without native streams it is held in memory.
    """
    if create and if_version is not None:
        raise typer.BadParameter("give either --create or --if-version")
    kind = content_type or _guessed_type(key if file == "-" else file)
    sent = ObjectInfo(key, None, kind, cache_control, dict(split("--metadata", metadata)))
    condition = None if create else ANY if if_version is None else if_version
    asked = context_of(context, "push")
    with nullcontext(sys.stdin.buffer) if file == "-" else _open(file, "rb") as source:
        async with open_store(store) as opened:
            info = await write_object(opened, sent, _chunks(source), asked, condition)
    if json:
        print_json({"key": key, "content_type": kind, "size": info.size, "version": info.version})
    elif sys.stdout.isatty():
        print_line(f"{key}: {info.size} bytes, {kind}")
    return ExitCode.OK


async def stat(store: StoreURL, key: Key, context: ContextFields = None, json: AsJson = False) -> int:
    """Show an object's size, type, time, version and metadata. Exit code 3 if there is no such object."""
    asked = context_of(context, "pull")
    async with open_source(store) as opened:
        found = await opened.stat(key, context=asked)
    if found is None:
        return _no_object(key)
    fields = described(found)
    if json:
        print_json(fields)
        return ExitCode.OK
    del fields["metadata"]
    fields |= {f"metadata.{name}": text for name, text in found.metadata.items()}
    for name, value in fields.items():
        print_cells([name, value], (14,))
    return ExitCode.OK


async def url(
    store: StoreURL,
    key: Key,
    method: Annotated[
        Literal["GET", "PUT"],
        typer.Option("--method", case_sensitive=False, help="GET reads the object, PUT writes it."),
    ] = "GET",
    expires: Annotated[
        int, typer.Option("--expires", metavar="SECONDS", min=1, max=604_800, help="How long it works.")
    ] = 900,
    content_type: Annotated[
        str | None,
        typer.Option("--content-type", "-t", metavar="TYPE", help="For PUT: the type the request must have."),
    ] = None,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Print a URL that lets anyone read or write one object until it expires. Folders have no such URLs."""
    if method == "GET" and content_type is not None:
        raise typer.BadParameter("--content-type is for --method put")
    asked = context_of(context, "pull" if method == "GET" else "push")
    async with open_store(store) as opened:
        if not opened.supports("signed_url"):
            reason = "this store has no signed URLs; an S3 store has, unless a layer changes its bodies"
            raise StoreNotSupportedError(reason, operation="signed_url", key=key)
        signed = await opened.signed_url(
            key, method=method, expires=expires, content_type=content_type, context=asked
        )
    print_result(json, {"key": key, "url": signed, "method": method, "expires": expires}, signed)
    return ExitCode.OK


def _no_object(key: str) -> ExitCode:
    print_error(f"no such object: {key}")
    return ExitCode.NO_OBJECT


async def _print_body(reader: ObjectReader) -> bool:
    """Print the body on stdout, and return whether all of it was printed: a terminal gets plain text only."""
    on_terminal = sys.stdout.isatty()
    # Bytes that are not UTF-8 become surrogates, which are not printable.
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    async for chunk in reader:
        if on_terminal and not decoder.decode(chunk).translate(_SPACES).isprintable():
            return False
        sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
    return True


def _as_json(body: bytes) -> dict[str, str]:
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def _open(path: str | Path, mode: str) -> IO[Any]:
    """Open a file. Ctrl-C ends the wait for the other end of a named pipe."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # Ctrl-C is ignored, as by what a shell script runs in the background
        return open(path, mode)  # noqa: PTH123 - the name as it was given
    signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's would not end it
    try:
        return open(path, mode)  # noqa: PTH123 - the name as it was given
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that replaces `path` once it is complete; a device or a pipe is written directly."""
    if not path.parent.is_dir() or (path.exists() and not path.is_file()):
        with _open(path, "wb") as file:
            yield file
        return
    path = path.resolve()
    part = path.with_name(f".starfish-{secrets.token_hex(8)}")
    try:
        with part.open("xb") as file:
            yield file
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await read_chunk(file):
        yield chunk


def _guessed_type(name: str) -> str:
    guessed, encoding = mimetypes.guess_type(name)
    return guessed if guessed and not encoding else DEFAULT_BYTES_TYPE
