"""Stores by name: a URL, or a stack file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from starfish_server.errors import StackError
from starfish_server.layers import Namespace
from starfish_server.stack_file import load_stack
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.storage.base import AbstractObjectStore

SERVER_TABLES = ("sync", "auth")
"""Tables of a server's configuration, which is a stack file besides."""

_FORMS = "file:///folder, s3://bucket/prefix, memory: or a stack file that ends in .toml"
_S3_OPTIONS = {
    "endpoint": str,
    "region": str,
    "addressing_style": str,
    "anonymous": bool,
    "portable_keys": bool,
}


def open_store(name: str) -> AbstractObjectStore:
    """The store of that name; closing it stays with the caller.

    Credentials come from the standard chain (environment, profiles, roles) and never from a URL. No error
    repeats what could be some: people put them there all the same. `StackError` for anything wrong.
    """
    try:
        url = urlsplit(name)
    except ValueError:
        raise StackError(f"not a store's name: it is {_FORMS}") from None
    if name.endswith(".toml") and url.scheme in {"", "file"} and not url.query:
        return load_stack(url.path if url.scheme else name, other_tables=SERVER_TABLES)
    if "@" in url.netloc or ":" in url.netloc:
        raise StackError(
            "credentials do not belong in a URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    try:
        match url.scheme:
            case "file":
                return _filesystem(url)
            case "s3":
                return _s3(url)
            case "memory" if not (url.netloc or url.path or url.query):
                return MemoryObjectStore()
    except (ValueError, TypeError) as error:
        raise StackError(f"{url.scheme} URL: {error}") from None
    raise StackError(f"not a store's name: it is {_FORMS}")


def _filesystem(url: SplitResult) -> AbstractObjectStore:
    if url.netloc not in {"", "localhost"} or not url.path:
        raise StackError("a file URL is file:///folder, or file:folder for one below the current folder")
    options = _options(url, {"fsync": bool})
    return FilesystemObjectStore(FilesystemStorageOptions(base_dir=unquote(url.path), **options))


def _s3(url: SplitResult) -> AbstractObjectStore:
    from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

    environment = {
        "endpoint": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
    }
    options = {name: value for name, value in environment.items() if value} | _options(url, _S3_OPTIONS)
    store = S3ObjectStore(S3StorageOptions(bucket=url.netloc, **options))
    prefix = unquote(url.path).strip("/")
    return Namespace(store, f"{prefix}/") if prefix else store


def _options(url: SplitResult, known: Mapping[str, type]) -> dict[str, Any]:
    """The URL's query as options of these types."""
    given = parse_qsl(url.query, keep_blank_values=True)
    options: dict[str, Any] = {}
    for name, text in given:
        if name not in known:
            raise StackError(
                f"{url.scheme} URLs take {', '.join(known)}, each once; credentials come from the environment"
            )
        if name in options:
            raise StackError(f"{url.scheme} URL: {name} is given twice")
        options[name] = _flag(name, text) if known[name] is bool else text
    if url.fragment:
        raise StackError(f"{url.scheme} URLs have no fragment (#)")
    return options


def _flag(name: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise StackError(f"{name} is true or false")
    return text == "true"
