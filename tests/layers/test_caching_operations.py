"""Operations that `Caching` does not know: no result of them is cached, and their writes drop what is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from starfish_server.layers.caching import Caching
from starfish_server.operations import Bodies, DeleteMany, GetString, Kind, Operation
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starfish_server.context import StoreContext
    from starfish_server.storage.base import AbstractObjectStore


class Added(Operation[None]):
    """An operation that a later version adds; it does its work on the dict that backs the leaf."""

    kind = Kind("added", "push", Bodies.NONE, writes=True)

    def __init__(self, work: Callable[[], None], *keys: str) -> None:
        self.context: StoreContext | None = None
        self.notes: dict[str, Any] | None = None
        self.work = work
        self.touched = keys

    @property
    def keys(self) -> tuple[str, ...]:
        return self.touched

    async def send(self, store: AbstractObjectStore) -> None:
        self.work()

    def rename(self, change: Callable[[str], str]) -> Added:
        return Added(self.work, *map(change, self.touched))

    def restore(self, result: None, change: Callable[[str], str]) -> None:
        return result


@dataclass(slots=True, eq=False)
class Length(Operation["int | None"]):
    """A read that a later version adds."""

    kind = Kind("length", "pull", Bodies.NONE, writes=False)
    key: str = field()
    context: StoreContext | None = None
    notes: dict[str, Any] | None = None

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, int | None]:
        return self.length(store)

    async def length(self, store: AbstractObjectStore) -> int | None:
        body = await store.get_string(self.key)
        return None if body is None else len(body)

    def rename(self, change: Callable[[str], str]) -> Length:
        return Length(change(self.key), self.context, self.notes)

    def restore(self, result: int | None, change: Callable[[str], str]) -> int | None:
        return result


class OddGetString(GetString):
    """A class of another package that is not quite `GetString`."""

    kind = Kind("get_string", "pull", Bodies.RESULT, writes=False)
    send, rename, restore = GetString.send, GetString.rename, GetString.restore


@pytest.fixture
def data() -> dict[str, str]:
    return {"k": "old", "other": "old"}


@pytest.fixture
async def store(data: dict[str, str]) -> Caching:
    """A cache that holds both objects, an absent one and a list."""
    store = Caching(MemoryObjectStore(data=data), negative_ttl=9.0, list_ttl=9.0)
    assert await contents(store) == ["old", "old", None, ["k", "other"]]
    return store


async def contents(store: Caching) -> list[object]:
    objects = [await store.get_string(key) for key in ("k", "other", "absent")]
    return [*objects, await store.list_keys("")]


async def test_unknown_write_drops_its_keys_and_their_lists(store: Caching, data: dict[str, str]) -> None:
    await store.perform(Added(lambda: data.update(k="new", absent="new"), "k", "absent"))
    assert await contents(store) == ["new", "old", "new", ["absent", "k", "other"]]
    assert store.stats().hits == 1


async def test_unknown_write_without_keys_drops_everything(store: Caching, data: dict[str, str]) -> None:
    await store.perform(Added(data.clear))
    assert await contents(store) == [None, None, None, []]
    assert store.stats().hits == 0


async def test_failed_unknown_write_without_keys_keeps_everything_out(
    store: Caching, data: dict[str, str]
) -> None:
    def fail() -> None:
        raise OSError("reset")

    with pytest.raises(OSError, match="reset"):
        await store.perform(Added(fail))
    await contents(store)
    data.update(k="landed late", new="landed late")
    assert await contents(store) == ["landed late", "old", None, ["k", "new", "other"]]


async def test_delete_many_of_no_keys_drops_nothing(store: Caching) -> None:
    await store.perform(DeleteMany([]))
    await contents(store)
    assert store.stats().hits == 4


async def test_result_of_an_unknown_read_is_not_cached(store: Caching, data: dict[str, str]) -> None:
    assert await store.perform(Length("k")) == 3
    data["k"] = "longer"
    assert await store.perform(Length("k")) == 6
    assert await store.perform(OddGetString("other")) == "old"
    data["other"] = "new"
    assert await store.perform(OddGetString("other")) == "new"


async def test_object_seen_by_an_unknown_read_is_never_older_afterwards(
    store: Caching, data: dict[str, str]
) -> None:
    data["k"] = "by another process"
    assert await store.perform(Length("k")) == 18
    assert await store.get_string("k") == "by another process"
