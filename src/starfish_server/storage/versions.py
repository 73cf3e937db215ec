"""Versions for conditional writes, on leaves whose backend has none of its own."""

from __future__ import annotations

import hashlib

from starfish_server.errors import VersionConflictError

__all__ = ["check_version", "conflict", "version_of"]


def version_of(body: bytes) -> str:
    """The version of an object with this body. As with S3's ETag, the same body has the same version."""
    return hashlib.sha256(body).hexdigest()


def check_version(version: str | None) -> None:
    """Raise `TypeError` unless `version` is one that `get_versioned` may have returned, or None."""
    if version is not None and not isinstance(version, str):
        raise TypeError(f"version must be a str, or None for no object, not {type(version).__name__}")


def conflict(key: str, version: str | None, found: bool) -> VersionConflictError:
    """The error of a `put_if` that found another version, or an object where none was expected."""
    if version is None:
        why = "there is an object already"
    else:
        why = "it has changed" if found else "it is no longer there"
    return VersionConflictError(
        f"{key!r} was not written: {why}; read it again and decide anew", operation="put_if", key=key
    )
