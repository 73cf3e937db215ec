"""The store of a command: its argument and its context, how it is opened, and what its lists leave out."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starfish_server.checks import decode_text
from starfish_server.cli.output import print_error
from starfish_server.context import StoreContext
from starfish_server.errors import BucketNotFoundError
from starfish_server.layers import Layer, Namespace
from starfish_server.layers.base import stores_of
from starfish_server.objects import ANY
from starfish_server.storage.filesystem import FilesystemObjectStore
from starfish_server.store_url import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.storage.base import AbstractObjectStore

StoreURL = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="A folder, s3://bucket/prefix?endpoint=URL&region=NAME, memory:, or a stack file (*.toml).",
    ),
]
StackFile = Annotated[str, typer.Argument(metavar="STACK", help="A stack file (*.toml).")]
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", metavar="COUNT", min=1, max=256, help="Objects in flight.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
ContextFields = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        metavar="FIELD=VALUE",
        help="A field of the context that the stack's layers see: identity, namespace, collection, role or "
        "params.NAME. Can be given several times.",
    ),
]


def split(option: str, given: list[str] | None) -> list[tuple[str, str]]:
    """Return name and value of each NAME=VALUE; anything else is a usage error."""
    parts = [text.partition("=") for text in given or ()]
    for part in parts:
        if not all(part):
            raise typer.BadParameter(f"{option} takes NAME=VALUE, not {''.join(part)!r}")
    return [(name, value) for name, _, value in parts]


def context_of(given: list[str] | None, action: str) -> StoreContext | None:
    """Return the context that `--context` describes, or None without it."""
    if not given:
        return None
    fields: dict[str, Any] = {"collection": "", "params": {}, "identity": None, "roles": (), "action": action}
    for name, value in split("--context", given):
        if name in {"identity", "namespace", "collection"}:
            fields[name] = value
        elif name == "role":
            fields["roles"] += (value,)
        elif name.startswith("params."):
            fields["params"][name.removeprefix("params.")] = value
        else:
            raise typer.BadParameter(
                f"--context has identity, namespace, collection, role and params.NAME, not {name!r}"
            )
    return StoreContext(**fields)


@asynccontextmanager
async def open_source(url: str) -> AsyncIterator[AbstractObjectStore]:
    """Open a store to read from. A folder that does not exist is an error here, not an empty store."""
    async with open_store(url) as store:
        for part in stores_of(store):
            if isinstance(part, FilesystemObjectStore) and not os.path.isdir(part.base_dir):  # noqa: ASYNC240, PTH112 - once, at the start
                raise BucketNotFoundError(_no_folder(part.base_dir))
        yield store


def _no_folder(path: str) -> str:
    if Path(path).exists():
        return f"{path!r} is a file, not a folder; put stores one file"
    advice = f"; options need a URL, as in {f'file://{path}'!r}" if "?" in path else ""
    return f"there is no folder {path!r}{advice}"


async def write_object(
    store: AbstractObjectStore,
    info: ObjectInfo,
    body: bytes | AsyncIterator[bytes],
    context: StoreContext | None,
    if_version: IfVersion = ANY,
) -> ObjectInfo:
    """Write a body with the key, type, cache control and metadata of `info`; chunks are streamed if possible.

    A body that is not UTF-8 is a `StoreDecodeError` on a store of text only.
    """
    options: dict[str, Any] = {"if_version": if_version, "context": context}
    options |= {name: getattr(info, name) for name in ("content_type", "cache_control", "metadata")}
    if not isinstance(body, bytes):
        if store.native("upload"):
            return await store.upload(info.key, body, **options)
        body = b"".join([chunk async for chunk in body])
    takes_bytes = store.native("write") or store.supports("put_bytes")
    text_or_bytes = body if takes_bytes else decode_text(body, "write", info.key)
    return await store.write(info.key, text_or_bytes, **options)


async def list_left_out(
    store: AbstractObjectStore, prefix: str, context: StoreContext | None
) -> dict[str, str]:
    """Return the keys and paths below a prefix that lists leave out, with reasons; most leaves have none."""
    full = prefix
    while isinstance(store, Layer):
        if isinstance(store, Namespace):
            full = store.prefix_of(context) + full
        store = store.inner
    unlistable = getattr(store, "unlistable", None)
    if unlistable is None:
        return {}
    return {path[len(full) - len(prefix) :]: reason for path, reason in await unlistable(full)}


def print_left_out(left_out: Mapping[str, str]) -> list[dict[str, str]]:
    """Print on stderr what lists leave out, and return it for JSON."""
    for path, reason in left_out.items():
        print_error(f"left out: {path}: {reason}")
    return [{"path": path, "reason": reason} for path, reason in left_out.items()]
