"""The operations of the interface as layers see them, and the slots of the canonical order."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from enum import IntEnum

_SHOWN = 100  # characters of a key; one that no leaf has checked yet may have any length


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the interface.

    writes: whether it changes what is stored. idempotent: whether doing it twice is the same as once.
    """

    name: str
    writes: bool
    idempotent: bool = True


GET_STRING = Operation("get_string", writes=False)
GET_BYTES = Operation("get_bytes", writes=False)
GET_VERSIONED = Operation("get_versioned", writes=False)
LIST_KEYS = Operation("list_keys", writes=False)
PUT = Operation("put", writes=True)
PUT_BYTES = Operation("put_bytes", writes=True)
PUT_IF = Operation("put_if", writes=True, idempotent=False)
DELETE = Operation("delete", writes=True)
DELETE_MANY = Operation("delete_many", writes=True)
OPERATIONS = {
    operation.name: operation
    for operation in (
        *(GET_STRING, GET_BYTES, GET_VERSIONED, LIST_KEYS),
        *(PUT, PUT_BYTES, PUT_IF, DELETE, DELETE_MANY),
    )
}


class Slot(IntEnum):
    """A layer's place in the canonical order, outermost first; see `docs/layer-order.md`."""

    AUDIT = 1
    OBSERVE = 2
    GUARD = 3
    NAMESPACE = 4
    CACHE = 5
    REDUNDANCY = 6
    COMPRESSION = 7
    ENCRYPTION = 8
    BREAKER = 9
    RETRY = 10
    LIMIT = 11
    TIMEOUT = 12
    ATTEMPT = 13


def key_of(target: str | Sequence[str]) -> str | None:
    """The one key or prefix of a call, as its errors carry it; None for the keys of a `delete_many`."""
    return target if isinstance(target, str) else None


def describe(operation: Operation, target: str | Sequence[str]) -> str:
    """A call as messages name it: `put 'a/b'`, `delete_many of 3 keys`. A long key is cut."""
    if isinstance(target, str):
        return f"{operation.name} {target[:_SHOWN]!r}{'...' if len(target) > _SHOWN else ''}"
    return f"{operation.name} of {len(target) if isinstance(target, Sized) else 'unknown'} keys"
