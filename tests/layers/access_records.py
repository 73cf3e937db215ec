"""Records for the tests of sinks, and texts that try to forge lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starfish_server.audit.records import AccessRecord
from starfish_server.context import StoreContext

if TYPE_CHECKING:
    import random

_PIECES = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA1)),
    "\u2028", "\u2029", "\u202a", "\u202e", "\u2066", "\u2069", "\u200f", "\ufeff", "\ud800", "\ud801",
    "\x1b[2J", "\r\n", '"', "\\", "\\n", "'", "{", "}", '","hash":"', "\U0001f600", "é", "a", " ", "=",
    "%s", "%(x)s",
]  # fmt: skip


def record(key: str = "k", context: StoreContext | None = None) -> AccessRecord:
    by = context or StoreContext("notes", {}, "alice", (), "push")
    return AccessRecord(
        1_700_000_000.25, "put", by.action, (key,), None, by.collection, by.namespace, by.identity, by.roles,
        by.params, "ok", None, 0.0015, 3, 1, None,
    )  # fmt: skip


def hostile_text(chance: random.Random) -> str:
    return "".join(chance.choices(_PIECES, k=chance.randrange(1, 12)))


def hostile_record(chance: random.Random) -> AccessRecord:
    texts = [hostile_text(chance) for _ in range(8)]
    context = StoreContext(
        texts[0], {texts[1]: texts[2]}, texts[3], (texts[4], texts[5]), texts[6], namespace=texts[7]
    )
    return record(hostile_text(chance), context)
