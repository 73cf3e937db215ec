"""`Document`: the stored form of a document, what a pull sends of it, and the version after a push."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import AliasChoices, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel
from pydantic_core import to_json as as_json

from starfish_server.router.responses import to_json

canonical_json = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, sort_keys=True, separators=(",", ":")
).encode
"""Returns JSON with keys sorted at every depth, no spaces, and non-ASCII characters as they are."""

MISSING = b'{"data":{},"hash":"","timestamp":0}'
"""The JSON of a pull where no document is stored."""

# How `Document.to_json` begins the part that a pull sends; in a signed one, its author follows.
_SENT = re.compile(rb',"crc32":([0-9]{1,10}),"hash":"([0-9a-f]{64})","timestamp":[0-9]+,"data":')
_ABSENT = object()
_Object = dict[str, object]


class CorruptDocumentError(ValueError):
    """The object at a document's key is not a document."""


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
    seg: always False. A 3.x pre-release has true there for a log, whose items are in other objects.

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
        times, sent = to_json(self.timestamps), to_json(self.version() | {"data": self.data})[1:]
        return f'{{"v":1,"timestamps":{times.decode()},"crc32":{zlib.crc32(sent)},{sent.decode()}'

    def version(self) -> dict[str, object]:
        """Return the fields that a pull sends besides `data`."""
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
        if checkpoint == 0 or isinstance(self.data.get("_encrypted"), str):
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
    return to_json(document.version() | {"data": document.changed_since(checkpoint)}), document.tag


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
    """Return the document that a push of `data` makes of `previous`; None is no document.

    hash_: the hash of `data`.
    now: the time of the push, in milliseconds since 1970.
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


def _stamped(old: _Object, old_times: _Object, new: _Object, time: int, *, whole: bool = False) -> _Object:
    """Return the timestamps of `new`: leaves that are as in `old` keep theirs, the others get `time`.

    whole: compare each object in `new` as a whole first. Only at the top, so that each leaf is compared twice
        at most, however deep it is.
    """
    times: _Object = {}
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


def _changed_since(data: _Object, times: _Object, checkpoint: int) -> _Object:
    changed: _Object = {}
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
