"""A document as it is stored: its data, when each leaf of it last changed, and the hash of the whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

VERSION = 1
# The SDK encrypts a whole document into one text under this key.
_ENCRYPTED = "_encrypted"


class CorruptDocumentError(ValueError):
    """The object at a document's key is not a document."""


def canonical_json(value: object) -> str:
    """Return JSON with keys sorted at every depth, no spaces, and non-ASCII characters as they are."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(data: dict[str, object]) -> str:
    """Return the SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Author:
    """The signer of a document: the caller's identity, and the signature that came with the push."""

    pubkey: str
    signature: str


@dataclass(frozen=True, slots=True)
class Document:
    """One version of a document.

    data: the JSON object.
    timestamps: has the shape of `data`; in place of each leaf (anything but an object) stand the milliseconds
        since 1970 of its last change.
    hash: of `data`, as `content_hash` gives it.
    timestamp: the document's own clock: milliseconds since 1970 of its last change, or one more than before
        where clocks disagree. It grows with every change, so a reader that has seen it misses no later one.
    author: of this version, if it was signed.
    """

    data: dict[str, object]
    timestamps: dict[str, object]
    hash: str
    timestamp: int
    author: Author | None = None

    @property
    def tag(self) -> str:
        """The entity tag of this version: the hash, and with an author a digest of identity and signature."""
        if self.author is None:
            return self.hash
        signed = canonical_json([self.author.pubkey, self.author.signature])
        return f"{self.hash}-{hashlib.sha256(signed.encode()).hexdigest()}"

    def to_json(self) -> str:
        """Return the text that is stored."""
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
        """Return the part of `data` whose leaves changed after `checkpoint`, in milliseconds; 0 returns all.

        An empty object has no leaf, and so no time: it is always included. A document that the SDK encrypted
        is always returned whole, because its readers decrypt what they pull and do not merge it.
        """
        if checkpoint == 0 or isinstance(self.data.get(_ENCRYPTED), str):
            return self.data
        return _changed_since(self.data, self.timestamps, checkpoint)


def parse_document(stored: str | bytes) -> Document:
    """Return the document that was stored as this text or its UTF-8, or raise `CorruptDocumentError`."""
    try:
        fields = json.loads(stored if isinstance(stored, str) else stored.decode())
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
    previous: Document | None, data: dict[str, object], hash_: str, now: int, author: Author | None = None
) -> Document:
    """Return the document after `data`, of that hash, was pushed over `previous` at `now` (milliseconds)."""
    if previous is None:
        return Document(data, _stamped({}, {}, data, now), hash_, now, author)
    if hash_ == previous.hash:
        return Document(data, previous.timestamps, hash_, previous.timestamp, author)
    time = max(now, previous.timestamp + 1)
    return Document(data, _stamped(previous.data, previous.timestamps, data, time), hash_, time, author)


def _stamped(
    old: dict[str, object], old_times: dict[str, object], new: dict[str, object], time: int
) -> dict[str, object]:
    """Return the timestamps of `new`: leaves that are as in `old` keep theirs, the others get `time`."""
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
    # Compared as JSON, like the hash: 1, 1.0 and true are three values.
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
