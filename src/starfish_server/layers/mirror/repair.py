"""The repair of one object for `Mirror.repair`, and the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from starfish_server.bulk import copy_object
from starfish_server.errors import StoreNotSupportedError, VersionConflictError
from starfish_server.objects import ANY
from starfish_server.operations import Delete, Open, Stat

if TYPE_CHECKING:
    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.storage.base import AbstractObjectStore

Outcome = Literal["identical", "repaired", "deleted", "ahead"]


@dataclass(slots=True)
class RepairReport:
    """What `Mirror.repair` did, by the number of the replica (from 1) and the key.

    repaired: copied from the first store.
    deleted: deleted, as in the first store.
    identical: nothing to do; the replica has the same object as the first store.
    ahead: left alone, since the replica has another object that was written later; still pending.
    failed: the errors of those that could not be repaired; still pending.
    """

    repaired: set[tuple[int, str]] = field(default_factory=set)
    deleted: set[tuple[int, str]] = field(default_factory=set)
    identical: set[tuple[int, str]] = field(default_factory=set)
    ahead: set[tuple[int, str]] = field(default_factory=set)
    failed: dict[tuple[int, str], Exception] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Entries handled, including those that are ahead or failed."""
        return sum(map(len, (self.repaired, self.deleted, self.identical, self.ahead, self.failed)))


async def repair_object(
    first: AbstractObjectStore, replica: AbstractObjectStore, key: str, since: float, *, force: bool
) -> Outcome:
    """Copy the first store's object to the replica, never the other way round.

    since: when the missed write began. force: overwrite an object that is newer than that.

    Raises `VersionConflictError` if another process changed the first store's object during the repair: the
    replica may not have the latest one.
    """
    ours, theirs = await first.perform(Stat(key)), await replica.perform(Stat(key))
    outcome: Outcome
    if await _identical(first, replica, ours, theirs):
        outcome = "identical"
    elif theirs is not None and not force and _is_newer(theirs, since):
        return "ahead"
    elif ours is None:
        await replica.perform(Delete(key))
        outcome = "deleted"
    else:
        expected = ANY if force else _expected(replica, theirs)
        try:
            await _copy_if(first, replica, key, expected)
        except VersionConflictError:
            if _state(await replica.perform(Stat(key))) == _state(theirs):
                raise  # it was the first store's object that changed
            return "ahead"
        outcome = "repaired"
    if _state(await first.perform(Stat(key))) != _state(ours):
        raise VersionConflictError(
            "the object was changed while it was repaired", operation="repair", key=key
        )
    return outcome


async def copy_or_delete(
    first: AbstractObjectStore,
    replica: AbstractObjectStore,
    key: str,
    context: StoreContext | None = None,
    if_version: IfVersion = ANY,
) -> None:
    """Stream the first store's object to a replica, or delete it there if there is none."""
    if not await copy_object(first, replica, key, if_version=if_version, context=context):
        await replica.perform(Delete(key, context))


async def _copy_if(
    first: AbstractObjectStore, replica: AbstractObjectStore, key: str, if_version: IfVersion
) -> None:
    try:
        await copy_or_delete(first, replica, key, if_version=if_version)
    except StoreNotSupportedError:
        if if_version is ANY:
            raise
        await copy_or_delete(first, replica, key)  # the service turned out to ignore conditions


def _expected(replica: AbstractObjectStore, theirs: ObjectInfo | None) -> IfVersion:
    """Return the condition that keeps the write from overwriting an object that was not compared."""
    if not replica.supports("conditional_write"):
        return ANY
    return None if theirs is None else theirs.version or ANY


def _is_newer(info: ObjectInfo, since: float) -> bool:
    return info.modified is not None and info.modified.timestamp() > since


def _state(info: ObjectInfo | None) -> object:
    return None if info is None else (info.version, info.size, info.modified)


async def _identical(
    first: AbstractObjectStore,
    replica: AbstractObjectStore,
    ours: ObjectInfo | None,
    theirs: ObjectInfo | None,
) -> bool:
    """Return whether both have the same object, or none. Compares bodies in bounded memory."""
    if ours is None or theirs is None:
        return ours is theirs
    if (ours.size, ours.content_type, ours.cache_control) != (
        theirs.size,
        theirs.content_type,
        theirs.cache_control,
    ):
        return False
    if replica.native("write") and ours.metadata != theirs.metadata:
        return False
    return await _equal_bodies(first, replica, ours.key)


async def _equal_bodies(one: AbstractObjectStore, other: AbstractObjectStore, key: str) -> bool:
    if (first := await one.perform(Open(key))) is None:
        return False
    async with first:
        if (second := await other.perform(Open(key))) is None:
            return False
        async with second:
            ahead, behind = b"", b""
            while True:
                ahead, behind = ahead or await first.next_chunk(), behind or await second.next_chunk()
                length = min(len(ahead), len(behind))
                if ahead[:length] != behind[:length] or not length:
                    return not ahead and not behind
                ahead, behind = ahead[length:], behind[length:]
