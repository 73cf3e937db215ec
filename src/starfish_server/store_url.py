"""`open_store`: a store by its URL."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from starfish_server.errors import StackError
from starfish_server.stack_file import load_stack

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore

SERVER_TABLES = ("sync", "auth")
"""Tables of the configuration of `starfish serve`, which is a stack file too."""

_FORMS = (
    "use a folder's path, file:///folder, s3://bucket/prefix, gs://bucket, az://container, memory: "
    "or a stack file (*.toml)"
)
_SERVER = "an S3 server other than AWS is named as in s3://bucket?endpoint=http://host:9000"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# The options of a URL by its scheme; those not in _TEXTS are true or false.
_OPTIONS = {
    "file": {"fsync", "inline_reads", "portable_keys"},
    "memory": {"portable_keys"},
    "s3": {"endpoint", "region", "addressing_style", "anonymous", "portable_keys"},
}
_TEXTS = {"endpoint", "region", "addressing_style"}


def open_store(url: str | os.PathLike[str]) -> AbstractObjectStore:
    """Open the store that `url` names. The caller closes it.

    url: one of these. A path whose name has a colon is written as "./a:b"; a "~" at the start of a path is
        the home folder.

    - "data" or "file:///var/data": the files below a folder, which is made on the first write. Options:
      `fsync`, `inline_reads`, `portable_keys`
    - "s3://bucket/prefix": the objects of a bucket below a prefix. Options: `endpoint`, `region`,
      `addressing_style`, `anonymous`, `portable_keys`. Without `endpoint`, AWS_ENDPOINT_URL_S3 or
      AWS_ENDPOINT_URL is used, without `region`, AWS_REGION or AWS_DEFAULT_REGION
    - "gs://bucket" or "az://container": Google Cloud Storage or Azure Blob Storage, by
      `ObstoreObjectStore.from_url`, which takes settings and credentials from variables named GOOGLE_... or
      AZURE_... A prefix is refused: use the `Namespace` layer
    - "memory:": a new dict. Option: `portable_keys`
    - "stack.toml" or "file:///etc/stack.toml": what `load_stack` makes of that file

    Options are the query of a URL, as in "s3://bucket?region=eu-west-1&anonymous=true". Credentials come from
    the standard chain (environment, profiles, roles) and never from a URL.

    Raises `StackError` for an invalid URL, without repeating it, since it may hold credentials nonetheless,
    and `ImportError` if the extra that the store needs is missing.
    """
    text = os.fspath(url)
    if not isinstance(text, str):
        raise TypeError(f"url must be a str or a path, not {type(url).__name__}")
    if not isinstance(url, str) or not _SCHEME.match(text):
        text = os.path.expanduser(text)  # noqa: PTH111 - pathlib makes "." of ""
        return load_stack(text, other_tables=SERVER_TABLES) if text.endswith(".toml") else _folder(text)
    try:
        parts = urlsplit(text)
    except ValueError:
        raise StackError(f"the URL cannot be read; {_FORMS}") from None
    if parts.scheme in {"http", "https"}:
        raise StackError(f"the URL names no store; {_SERVER}")
    if "@" in parts.netloc or ":" in parts.netloc:
        if parts.scheme == "s3":
            variables = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            raise StackError(f"an s3 URL must not hold credentials (set {variables}) or a port; {_SERVER}")
        raise StackError("a URL must not hold credentials")
    try:
        match parts.scheme:
            case "file":
                return _file(parts)
            case "s3":
                return _s3(parts)
            case "gs" | "az":
                from starfish_server.storage.obstore import ObstoreObjectStore

                return ObstoreObjectStore.from_url(text)
            case "memory" if not (parts.netloc or parts.path):
                from starfish_server.storage.memory import MemoryObjectStore

                return MemoryObjectStore(data={}, **_options(parts))
    except (ValueError, TypeError) as error:
        raise StackError(f"{parts.scheme} URL: {error}") from None
    raise StackError(f"the URL names no store; {_FORMS}")


def _folder(path: str, **options: bool) -> AbstractObjectStore:
    from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions

    if not path:
        raise StackError(f"the URL is empty; {_FORMS}")
    try:
        return FilesystemObjectStore(FilesystemStorageOptions(base_dir=path, **options))
    except ValueError as error:
        raise StackError(f"{path!r}: {error}") from error


def _file(url: SplitResult) -> AbstractObjectStore:
    path = unquote(url.path)
    if url.netloc not in {"", "localhost"} or not path:
        raise StackError("a file URL is file:///folder, or file:folder below the current folder")
    if path.endswith(".toml") and not url.query:
        return load_stack(path, other_tables=SERVER_TABLES)
    return _folder(path, **_options(url))


def _s3(url: SplitResult) -> AbstractObjectStore:
    from starfish_server.layers import Namespace
    from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

    environment = {
        "endpoint": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
    }
    options: dict[str, Any] = {name: value for name, value in environment.items() if value}
    options |= _options(url)
    store = S3ObjectStore(S3StorageOptions(bucket=url.netloc, **options))
    prefix = unquote(url.path).strip("/")
    return Namespace(store, f"{prefix}/") if prefix else store


def _options(url: SplitResult) -> dict[str, Any]:
    """Return the options of the store in the query of its URL."""
    known = sorted(_OPTIONS[url.scheme])
    given = parse_qsl(url.query, keep_blank_values=True)
    for name, text in given:
        if name not in known:
            raise StackError(f"the options of {url.scheme} URLs are {', '.join(known)}")
        if name not in _TEXTS and text not in {"true", "false"}:
            raise StackError(f"{url.scheme} URL: {name} must be true or false")
    options = {name: text if name in _TEXTS else text == "true" for name, text in given}
    if len(options) < len(given):
        raise StackError(f"{url.scheme} URL: an option is given twice")
    if url.fragment:
        raise StackError(f"{url.scheme} URL: it must not have a fragment (#)")
    return options
