"""What `starfish doctor` tries on a store, one behaviour a function.

Each check returns what it saw, or raises: `WrongAnswerError` if the store answered something else than it
should, `StoreNotSupportedError` if it lacks the operation, or whatever the store raised.
"""

# ruff: noqa: D103 - a check is named by its function

from __future__ import annotations

import itertools
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starfish_server.errors import StoreNotSupportedError, VersionConflictError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starfish_server.context import StoreContext
    from starfish_server.storage.base import AbstractObjectStore

_ROUNDS = 20


class WrongAnswerError(Exception):
    """The store did not do what it should."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A store, and a new prefix in it that the checks keep to."""

    store: AbstractObjectStore
    context: StoreContext | None
    prefix: str = field(default_factory=lambda: f"starfish-doctor-{secrets.token_hex(8)}/")
    used: set[str] = field(default_factory=set)

    def key(self, name: str) -> str:
        """A key under the prefix, which will be cleaned up."""
        key = self.prefix + name
        self.used.add(key)
        return key

    async def put(self, name: str, body: str) -> str:
        key = self.key(name)
        await self.store.put(key, body, context=self.context)
        return key

    async def list(
        self, under: str, *, start_after: str | None = None, limit: int | None = None
    ) -> list[str]:
        """Keys below `under`, without it; `start_after` is below it as well."""
        base = f"{self.prefix}{under}/"
        after = None if start_after is None else base + start_after
        keys = await self.store.list_keys(base, start_after=after, limit=limit, context=self.context)
        return [key.removeprefix(base) for key in keys]

    async def clean_up(self) -> str:
        """Delete all that the checks wrote, whatever the list says."""
        await self.store.delete_many(sorted(self.used), context=self.context)
        left = await self.store.list_keys(self.prefix, context=self.context)
        await self.store.delete_many(left, context=self.context)
        if left:
            raise WrongAnswerError(f"{len(left)} objects were still there after they were deleted")
        return f"nothing left under {self.prefix}"


async def write_and_read(trial: Trial) -> str:
    body = "text\r\nwith \u2028 separators, \x00 and \U0001f420"
    key = await trial.put("text", body)
    _expect(await trial.store.get_string(key, context=trial.context), body, "the text read back")
    return "text comes back as it was written"


async def overwrite(trial: Trial) -> str:
    key = await trial.put("overwritten", "old")
    await trial.put("overwritten", "new")
    _expect(await trial.store.get_string(key, context=trial.context), "new", "the text after a second write")
    return "the last write wins at once"


async def missing_object(trial: Trial) -> str:
    _expect(
        await trial.store.get_string(trial.key("missing"), context=trial.context), None, "a missing object"
    )
    return "a missing object is no error"


async def bytes_and_content_type(trial: Trial) -> str:
    key, sent = trial.key("bytes"), (bytes(range(256)), "image/png")
    await trial.store.put_bytes(key, sent[0], content_type=sent[1], context=trial.context)
    _expect(await trial.store.get_bytes(key, context=trial.context), sent, "bytes and content type")
    return "kept exactly"


async def order(trial: Trial) -> str:
    names = ["a-b", "a.b", "a/b", "a0"]
    for name in reversed(names):
        await trial.put(f"order/{name}", "")
    _expect(await trial.list("order"), names, "the list")
    return "byte order, complete, right after the writes"


async def start_after(trial: Trial) -> str:
    for name in ("a-b", "a.b", "a/b", "a0"):
        await trial.put(f"after/{name}", "")
    _expect(await trial.list("after", start_after="a.b"), ["a/b", "a0"], "the list after an existing key")
    _expect(await trial.list("after", start_after="a/a"), ["a/b", "a0"], "the list after a missing key")
    return "exact"


async def paging(trial: Trial) -> str:
    names = [f"{number:02}" for number in range(7)]
    for name in names:
        await trial.put(f"pages/{name}", "")
    pages: list[str] = []
    for _ in names:
        page = await trial.list("pages", start_after=pages[-1] if pages else None, limit=3)
        pages += page
        if len(page) < 3:
            break
    _expect(pages, names, "pages of three, put together,")
    return "pages fit together"


async def conditional_writes(trial: Trial) -> str:
    store, key = trial.store, trial.key("conditional")
    if not store.supports("put_if"):
        raise StoreNotSupportedError("no put_if", operation="put_if", key=key)
    first = await store.put_if(key, "1", version=None, context=trial.context)
    await _expect_conflict(store.put_if(key, "again", version=None, context=trial.context), "a second create")
    second = await store.put_if(key, "2", version=first, context=trial.context)
    await _expect_conflict(
        store.put_if(key, "3", version=first, context=trial.context), "a write with an old version"
    )
    _expect(await store.get_versioned(key, context=trial.context), ("2", second), "the object in the end")
    return "a stale write is refused"


async def bulk_delete(trial: Trial) -> str:
    keys = [await trial.put(f"bulk/{number:02}", "") for number in range(25)]
    await trial.store.delete_many([*keys, trial.key("bulk/missing")], context=trial.context)
    _expect(await trial.list("bulk"), [], "the list after the deletion")
    return "25 objects and a missing one in one call"


async def single_delete(trial: Trial) -> str:
    key = await trial.put("deleted", "")
    await trial.store.delete(key, context=trial.context)
    await trial.store.delete(key, context=trial.context)
    _expect(await trial.store.get_string(key, context=trial.context), None, "a deleted object")
    return "gone at once; a second time is no error"


async def latency(trial: Trial) -> str:
    key, body = trial.key("latency"), "x" * 1024
    writes, reads = [], []
    for _ in range(_ROUNDS):
        laps = [time.perf_counter()]
        await trial.store.put(key, body, context=trial.context)
        laps.append(time.perf_counter())
        await trial.store.get_string(key, context=trial.context)
        laps.append(time.perf_counter())
        write, read = (after - before for before, after in itertools.pairwise(laps))
        writes.append(write)
        reads.append(read)
    return f"put {_percentiles(writes)}; get {_percentiles(reads)}"


CHECKS: dict[str, tuple[Callable[[Trial], Awaitable[str]], str]] = {
    "write and read": (write_and_read, "nothing else can be checked until this works"),
    "overwrite": (overwrite, "readers see old objects; look for a cache between here and the store"),
    "missing object": (missing_object, "without the right to list, some services refuse instead: grant it"),
    "bytes and content type": (bytes_and_content_type, "images and other blobs cannot be kept faithfully"),
    "order": (order, "lists differ from other stores'; sort them, and do not page through them"),
    "start_after": (start_after, "pages lose or repeat keys: list without start_after and limit"),
    "paging": (paging, "pages lose or repeat keys: list without start_after and limit"),
    "conditional writes": (conditional_writes, "run one server process only, or lose updates"),
    "bulk delete": (bulk_delete, "delete objects one by one, or grant the right to delete"),
    "delete": (single_delete, "grant the right to delete objects"),
    "latency": (latency, "the store failed under twenty small writes in a row"),
}
"""Each check by its name, with what to do if it fails."""


def _expect(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        raise WrongAnswerError(f"{what} is {_shown(got)}, not {_shown(wanted)}")


async def _expect_conflict(write: Awaitable[str], what: str) -> None:
    try:
        await write
    except VersionConflictError:
        return
    raise WrongAnswerError(f"{what} was not refused")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _percentiles(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    half, most = ordered[len(ordered) // 2], ordered[len(ordered) * 9 // 10]
    return f"p50 {half * 1000:.1f} ms, p90 {most * 1000:.1f} ms, max {ordered[-1] * 1000:.1f} ms"
