"""A document as it is stored: data, when each leaf of it last changed, and the hash of the whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

VERSION = 1


class CorruptDocumentError(ValueError):
    """What is stored at a document's key is not a document."""


def canonical_json(value: object) -> str:
    """JSON with keys sorted at every depth, no spaces, and non-ASCII characters as they are."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(data: dict[str, object]) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Author:
    """Who signed a document: the identity of the caller, and the signature that came with the push."""

    pubkey: str
    signature: str


@dataclass(frozen=True, slots=True)
class Document:
    """One version of a document.

    data: the JSON object.
    timestamps: mirrors `data`; where that has a leaf (anything but an object), the milliseconds since 1970
        of its last change.
    hash: of `data`, as `content_hash` gives it.
    timestamp: the document's own clock: milliseconds since 1970 of its last change, or one more than before
        where clocks disagree. It grows with every change, so a reader who has seen it misses no later one.
    author: of this version, if it was signed.
    """

    data: dict[str, object]
    timestamps: dict[str, object]
    hash: str
    timestamp: int
    author: Author | None = None

    @property
    def tag(self) -> str:
        """Of this version: the hash, and with an author a digest of who signed it and how."""
        if self.author is None:
            return self.hash
        signed = canonical_json([self.author.pubkey, self.author.signature])
        return f"{self.hash}-{hashlib.sha256(signed.encode()).hexdigest()}"

    def to_json(self) -> str:
        stored: dict[str, object] = {
            "v": VERSION,
            "data": self.data,
            "timestamps": self.timestamps,
            "hash": self.hash,
        }
        # A removal leaves no leaf to carry its time.
        if self.timestamp != _latest(self.timestamps):
            stored["timestamp"] = self.timestamp
        if self.author is not None:
            stored |= {"authorPubkey": self.author.pubkey, "authorSignature": self.author.signature}
        return json.dumps(stored, separators=(",", ":"), ensure_ascii=False)

    def changed_since(self, checkpoint: int) -> dict[str, object]:
        """The part of `data` whose leaves changed after `checkpoint`, in milliseconds; 0 gives all of it.

        An empty object has no leaf, and so no time: it is always given.
        """
        return _changed_since(self.data, self.timestamps, checkpoint) if checkpoint else self.data


def parse_document(stored: str) -> Document:
    """The document that was stored as this text. Raises `CorruptDocumentError`."""
    try:
        fields = json.loads(stored)
        if fields["v"] != VERSION:
            raise CorruptDocumentError("a document of another version")
        data, timestamps, hash_ = fields["data"], fields["timestamps"], fields["hash"]
        if not (isinstance(data, dict) and isinstance(timestamps, dict) and isinstance(hash_, str)):
            raise CorruptDocumentError("a document with a field of the wrong type")
        clock = max(_latest(timestamps), _latest(fields.get("timestamp")))
        return Document(data, timestamps, hash_, clock, _author(fields))
    except CorruptDocumentError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptDocumentError("not a document") from error


def next_version(
    previous: Document | None, data: dict[str, object], now: int, author: Author | None
) -> Document:
    """The document after `data` was pushed over `previous` at the time `now`, in milliseconds."""
    hash_ = content_hash(data)
    if previous is None:
        return Document(data, _stamped({}, {}, data, now), hash_, now, author)
    if hash_ == previous.hash:
        return Document(data, previous.timestamps, hash_, previous.timestamp, author)
    time = max(now, previous.timestamp + 1)
    return Document(data, _stamped(previous.data, previous.timestamps, data, time), hash_, time, author)


def _stamped(
    old: dict[str, object], old_times: dict[str, object], new: dict[str, object], time: int
) -> dict[str, object]:
    """Timestamps of `new`: leaves that are as in `old` keep theirs, the others get `time`."""
    times: dict[str, object] = {}
    for key, value in new.items():
        old_value, old_time = old.get(key), old_times.get(key)
        if isinstance(value, dict):
            times[key] = _stamped(
                old_value if isinstance(old_value, dict) else {},
                old_time if isinstance(old_time, dict) else {},
                value,
                time,
            )
        elif isinstance(old_time, int) and key in old and _same_leaf(old_value, value):
            times[key] = old_time
        else:
            times[key] = time
    return times


def _same_leaf(old: object, new: object) -> bool:
    # By their JSON, as the hash is: 1, 1.0 and true are three values.
    if isinstance(new, str):
        return old == new
    return not isinstance(old, dict) and canonical_json(old) == canonical_json(new)


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


def _author(fields: dict[str, object]) -> Author | None:
    pubkey, signature = fields.get("authorPubkey"), fields.get("authorSignature")
    if isinstance(pubkey, str) and isinstance(signature, str):
        return Author(pubkey, signature)
    return None
