"""Pushes of documents, which lose no other caller's update."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from starfish_server.errors import StoreNotSupportedError, VersionConflictError
from starfish_server.logs import SafeLogger
from starfish_server.router.config import JSON_TYPE
from starfish_server.router.documents import next_version, parse_document
from starfish_server.router.responses import HTTPError

if TYPE_CHECKING:
    from starfish_server.context import StoreContext
    from starfish_server.router.documents import Document
    from starfish_server.router.requests import PushRequest
    from starfish_server.storage.base import AbstractObjectStore

_log = SafeLogger(__package__)

# A conflict while the base still matches means that another writer stored the same data each time.
MAX_ATTEMPTS = 10


class HashMismatchError(HTTPError):
    """A push was not based on the stored document.

    current_hash: the hash of the stored document, or empty if there is none.
    """

    def __init__(self, current_hash: str) -> None:
        super().__init__(409, "hash_mismatch", "baseHash is not the hash of the stored document")
        self.current_hash = current_hash


class Pushes:
    """Writes documents to a store without losing updates.

    With conditional writes this works across any number of processes. Without them, a lock per key protects
    only the pushes of this object, and a warning is logged once.
    """

    def __init__(self, store: AbstractObjectStore) -> None:
        self._store = store
        self._conditional = store.supports("conditional_write")
        self._proven = False
        self._warned = False
        # A lock lives as long as a push holds or awaits it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def push(self, key: str, pushed: PushRequest, context: StoreContext) -> Document:
        """Return the document as stored.

        Raises a 409 if `baseHash` is not the current hash, and a 503 if other writers conflict every time.
        """
        if self._conditional:
            try:
                return await self._push_if_unchanged(key, pushed, context)
            except StoreNotSupportedError:
                # The service itself does not support conditions. This push was not stored.
                if self._proven:  # an earlier success proves support, so an intermediary refused
                    raise
                self._conditional = False
        return await self._push_locked(key, pushed, context)

    async def _push_if_unchanged(self, key: str, pushed: PushRequest, context: StoreContext) -> Document:
        for _ in range(MAX_ATTEMPTS):
            found = await self._store.read(key, context=context)
            if found is not None and found.info.version is None:
                raise StoreNotSupportedError("the object has no version", operation="read", key=key)
            stored, version = (None, None) if found is None else (found.body, found.info.version)
            document = _successor(stored, pushed, context)
            try:
                await self._store.write(
                    key, document.to_json(), content_type=JSON_TYPE, if_version=version, context=context
                )
            except VersionConflictError:
                continue
            except StoreNotSupportedError:
                # The service may have stored it before it turned out to ignore the condition.
                now = await self._store.read(key, context=context)
                if now is not None and now.body == document.to_json().encode():
                    return document
                raise
            self._proven = True
            return document
        raise HTTPError(503, "contended", f"{MAX_ATTEMPTS} attempts met another writer")

    async def _push_locked(self, key: str, pushed: PushRequest, context: StoreContext) -> Document:
        if not self._warned:
            self._warned = True
            _log.warning(
                "%s has no conditional writes: concurrent pushes are kept apart within this process only,"
                " and a second process on the same data could lose updates",
                type(self._store).__name__,
            )
        async with self._locks.setdefault(key, asyncio.Lock()):
            stored = await self._store.get_string(key, context=context)
            document = _successor(stored, pushed, context)
            await self._store.put(key, document.to_json(), content_type=JSON_TYPE, context=context)
            return document


def _successor(stored: str | bytes | None, pushed: PushRequest, context: StoreContext) -> Document:
    previous = None if stored is None else parse_document(stored)
    if (pushed.base_hash or None) != (previous.hash if previous else None):
        raise HashMismatchError(previous.hash if previous else "")
    signed = pushed.author_signature is not None and context.identity is not None
    author = (context.identity, pushed.author_signature) if signed else (None, None)
    return next_version(previous, pushed.data, pushed.hash, time.time_ns() // 1_000_000, author)
