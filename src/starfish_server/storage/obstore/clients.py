"""The obstore store behind a leaf: which ones are accepted, how one is made, and a copy without retries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, MemoryStore, S3Store, from_url

from starfish_server.errors import StackError
from starfish_server.storage.obstore.errors import store_error

if TYPE_CHECKING:
    from collections.abc import Mapping

_KINDS = (AzureStore, GCSStore, HTTPStore, LocalStore, MemoryStore, S3Store)


def without_retries(store: Any) -> Any:
    """Return a store with the same settings that makes one attempt; a store without retries as it is."""
    if not hasattr(store, "retry_config"):
        return store
    arguments, options = store.__getnewargs_ex__()  # what pickle makes an equal store from
    retry_config = {**(store.retry_config or {}), "max_retries": 0}
    return type(store)(*arguments, **{**options, "retry_config": retry_config})


def check_client(store: Any) -> None:
    """Raise `TypeError` or `ValueError` unless `store` is an obstore store without a prefix of its own."""
    if not isinstance(store, _KINDS):
        raise TypeError(
            "ObstoreObjectStore takes a store of obstore.store, such as GCSStore('bucket'), "
            f"not {type(store).__name__}"
        )
    if isinstance(store, LocalStore):
        if store.prefix is None:
            raise ValueError("a LocalStore without a folder is the whole file system: give it a folder")
    elif getattr(store, "prefix", None):
        raise ValueError(
            f"this {type(store).__name__} has a prefix: make it without one and use the Namespace layer, "
            "which is checked against keys that lead out of it"
        )


def client_from_url(
    url: str,
    options: Mapping[str, Any] | None,
    client_options: Mapping[str, Any] | None,
    max_retries: int | None,
) -> Any:
    """Return obstore's store of a URL. Raises `StackError`, which repeats nothing of the URL or options."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StackError("the URL cannot be read") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise StackError("the URL must hold neither credentials nor a query: use options")
    if parts.scheme in {"gs", "s3", "s3a", "az", "azure"} and parts.path.strip("/"):
        raise StackError("the URL must not have a prefix: use the Namespace layer")
    given: dict[str, Any] = {"config": dict(options or {}), "client_options": dict(client_options or {})}
    given["retry_config"] = None if max_retries is None else {"max_retries": max_retries}
    try:
        # A store that lacks these settings refuses even empty ones.
        return from_url(url, **{name: value for name, value in given.items() if value})
    except Exception as error:  # noqa: BLE001 - obstore also raises errors of Python
        failure = store_error(error, None) if type(error).__module__ == "obstore.exceptions" else error
        reason = getattr(failure, "reason", type(error).__name__)
    advice = "its settings are options, or variables such as AZURE_STORAGE_ACCOUNT_NAME"
    raise StackError(f"obstore cannot make this store: {reason}; {advice}")


def named(store: Any) -> str:
    """Return the kind of a store and its bucket or folder, without anything that may be a secret."""
    kind = type(store).__name__
    if isinstance(store, LocalStore):
        return f"{kind}({str(store.prefix)!r})"
    if isinstance(store, HTTPStore):
        return f"{kind}({urlsplit(store.url).hostname!r})"
    config = getattr(store, "config", {})
    place = config.get("bucket") or config.get("container_name")
    return f"{kind}({place!r})" if place else kind
