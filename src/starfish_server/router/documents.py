"""Documents: their stored form, and pushes that lose no other caller's update."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal
from weakref import WeakValueDictionary

from pydantic import AliasChoices, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel
from pydantic_core import to_json as as_json

from starfish_server.errors import StoreNotSupportedError, VersionConflictError
from starfish_server.router.config import JSON_TYPE
from starfish_server.router.responses import HTTPError, to_json

if TYPE_CHECKING:
    from starfish_server.context import StoreContext
    from starfish_server.router.requests import PushRequest
    from starfish_server.storage.base import AbstractObjectStore

_log = logging.getLogger(__package__)

# The SDK encrypts a whole document into one text under this key.
_ENCRYPTED = "_encrypted"
# A conflict while the base still matches means that another writer stored the same data each time.
MAX_ATTEMPTS = 10

canonical_json = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, sort_keys=True, separators=(",", ":")
).encode
"""Returns JSON with keys sorted at every depth, no spaces, and non-ASCII characters as they are."""

MISSING = b'{"data":{},"hash":"","timestamp":0}'
"""The JSON of a pull where no document is stored."""

# How `Document.to_json` begins the part that a pull sends; in a signed one, its author follows.
_SENT = re.compile(rb',"crc32":([0-9]{1,10}),"hash":"([0-9a-f]{64})","timestamp":[0-9]+,"data":')
_ABSENT = object()


class CorruptDocumentError(ValueError):
    """The object at a document's key is not a document."""


class HashMismatchError(HTTPError):
    """A push was not based on the stored document.

    current_hash: the hash of the stored document, or empty if there is none.
    """

    def __init__(self, current_hash: str) -> None:
        super().__init__(409, "hash_mismatch", "baseHash is not the hash of the stored document")
        self.current_hash = current_hash


@dataclass(frozen=True)
class Document:
    """One version of a document.

    data: the JSON object.
    hash: the SHA-256 of its canonical JSON, in hexadecimal.
    timestamps: has the shape of `data`; in place of each leaf (anything but an object) stand the milliseconds
        since 1970 of its last change.
    timestamp: the document's own clock: milliseconds since 1970 of its last change, or one more than before
        if clocks disagree. It grows with every change, so a reader can use it as a checkpoint.
    author_pubkey, author_signature: identity and signature of the caller who signed this version, or None.
    seg: never true, as it is in a 3.x pre-release's log whose items are in other objects.

    A 3.x pre-release has `ts` in place of both kinds of timestamps.
    """

    __pydantic_config__ = ConfigDict(alias_generator=to_camel)

    data: dict[str, object]
    hash: str
    timestamps: dict[str, object] = field(default_factory=dict)
    timestamp: Annotated[int, Field(validation_alias=AliasChoices("timestamp", "ts"))] = 0
    author_pubkey: str | None = None
    author_signature: str | None = None
    v: Literal[1] = 1
    seg: Literal[False] = False

    @property
    def tag(self) -> str:
        """The entity tag of this version: the hash, and with an author a digest of identity and signature."""
        if self.author_signature is None:
            return self.hash
        signed = canonical_json([self.author_pubkey, self.author_signature])
        return f"{self.hash}-{hashlib.sha256(signed.encode()).hexdigest()}"

    def to_json(self) -> str:
        """Return the text that is stored.

        What a pull sends comes last, after its checksum, so that `pulled` can copy it unparsed.
        """
        times, sent = to_json(self.timestamps), to_json(self._version() | {"data": self.data})[1:]
        return f'{{"v":1,"timestamps":{times.decode()},"crc32":{zlib.crc32(sent)},{sent.decode()}'

    def pulled(self, checkpoint: int) -> dict[str, object]:
        """Return the JSON of a pull after `checkpoint`."""
        return self._version() | {"data": self.changed_since(checkpoint)}

    def _version(self) -> dict[str, object]:
        version: dict[str, object] = {"hash": self.hash, "timestamp": self.timestamp}
        if self.author_signature is not None:
            version["authorPubkey"] = self.author_pubkey
            version["authorSignature"] = self.author_signature
        return version

    def changed_since(self, checkpoint: int) -> dict[str, object]:
        """Return the part of `data` whose leaves changed after `checkpoint`, in milliseconds; 0 returns all.

        An empty object has no leaf, and so no time: it is always included. A document that the SDK encrypted
        is always returned whole, because its readers decrypt what they pull and do not merge it.
        """
        if checkpoint == 0 or isinstance(self.data.get(_ENCRYPTED), str):
            return self.data
        return _changed_since(self.data, self.timestamps, checkpoint)


def pulled(stored: str, checkpoint: int = 0) -> tuple[bytes, str]:
    """Return the JSON of a pull of a stored document after `checkpoint`, and its entity tag.

    The whole of a document that is as `Document.to_json` wrote it is copied; anything else is parsed. Raises
    `CorruptDocumentError`.
    """
    text = stored.encode()
    match = None if checkpoint else _SENT.match(text, text.find(b',"crc32":'))
    if match is not None:
        sent = text[match.end(1) + 1 :]
        if zlib.crc32(sent) == int(match[1]):
            return b"{" + sent, match[2].decode()
    document = parse_document(text)
    return to_json(document.pulled(checkpoint)), document.tag


_parse = TypeAdapter(Document).validate_json


def parse_document(stored: str | bytes) -> Document:
    """Return the document that was stored as this text or its UTF-8, or raise `CorruptDocumentError`."""
    try:
        document = _parse(stored)
    except ValueError as error:
        raise CorruptDocumentError("not a document") from error
    if document.timestamp:
        return document
    # Another server stored it, with times of its parts only.
    return replace(document, timestamp=_latest(document.timestamps))


def next_version(
    previous: Document | None,
    data: dict[str, object],
    hash_: str,
    now: int,
    author: tuple[str | None, str | None] = (None, None),
) -> Document:
    """Return the document after `data`, of that hash, was pushed over `previous` at `now` (milliseconds).

    author: identity and signature of the caller, if the push was signed.
    """
    if previous is None:
        times, time = _stamped({}, {}, data, now), now
    elif hash_ == previous.hash:
        times, time = previous.timestamps, previous.timestamp
    else:
        time = max(now, previous.timestamp + 1)
        times = _stamped(previous.data, previous.timestamps, data, time, whole=True)
    return Document(data, hash_, times, time, *author)


def _stamped(
    old: dict[str, object],
    old_times: dict[str, object],
    new: dict[str, object],
    time: int,
    *,
    whole: bool = False,
) -> dict[str, object]:
    """Return the timestamps of `new`: leaves that are as in `old` keep theirs, the others get `time`.

    whole: compare each object in `new` as a whole first. Only at the top, so that each leaf is compared twice
        at most, however deep it is.
    """
    times: dict[str, object] = {}
    for key, value in new.items():
        old_value, old_time, kind = old.get(key, _ABSENT), old_times.get(key), type(value)
        if isinstance(value, dict):
            if not (isinstance(old_value, dict) and isinstance(old_time, dict)):
                old_value = old_time = {}
            unchanged = whole and old_value == value and as_json(old_value) == as_json(value)
            times[key] = old_time if unchanged else _stamped(old_value, old_time, value, time)
        else:
            # Compared as JSON, like the hash: 1, 1.0 and true are three values; 0.0 and -0.0 are two.
            same = type(old_value) is kind and old_value == value
            if same and kind in (float, list):
                same = repr(old_value) == repr(value) or canonical_json(old_value) == canonical_json(value)
            times[key] = old_time if same and type(old_time) is int else time
    return times


def _changed_since(data: dict[str, object], times: dict[str, object], checkpoint: int) -> dict[str, object]:
    changed: dict[str, object] = {}
    for key, value in data.items():
        time = times.get(key)
        if isinstance(value, dict) and value and isinstance(time, dict):
            if inside := _changed_since(value, time, checkpoint):
                changed[key] = inside
        elif not isinstance(time, int) or time > checkpoint:
            changed[key] = value
    return changed


def _latest(times: object) -> int:
    if isinstance(times, dict):
        return max(map(_latest, times.values()), default=0)
    return times if isinstance(times, int) else 0


def now_ms() -> int:
    """Return the milliseconds since 1970."""
    return time.time_ns() // 1_000_000


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
    return next_version(previous, pushed.data, pushed.hash, now_ms(), author)
