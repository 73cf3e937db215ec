"""`put_if` under `Retry`: an answer that is lost neither loses a write nor doubles one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from layers.scripted import Versioned
from starfish_server.errors import (
    InvalidKeyError,
    StoreDecodeError,
    StoreNotSupportedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers.retry import Retry

if TYPE_CHECKING:
    from starfish_server.context import StoreContext
    from starfish_server.storage.base import AbstractObjectStore

LOST = StoreTimeoutError("answer lost")
REFUSED = StoreUnavailableError("not now")


def retry(store: AbstractObjectStore) -> Retry:
    return Retry(store, attempts=3, initial=1e-6)


async def test_a_write_that_was_done_is_not_repeated() -> None:
    store = Versioned(lost=[LOST])
    assert await retry(store).put_if("k", "ours", version=None) == "v1"
    assert (store.objects["k"], store.puts) == (("ours", 1), 1)


async def test_a_write_that_was_not_done_is_tried_again() -> None:
    store = Versioned(refused=[REFUSED])
    store.write("k", "before")
    assert await retry(store).put_if("k", "ours", version="v1") == "v2"
    assert (store.objects["k"], store.puts) == (("ours", 2), 2)


async def test_a_first_write_that_was_not_done_is_tried_again() -> None:
    store = Versioned(refused=[REFUSED, REFUSED])
    assert await retry(store).put_if("k", "ours", version=None) == "v1"
    assert store.puts == 3


async def test_another_writer_in_between_is_a_conflict_and_is_not_overwritten() -> None:
    class Raced(Versioned):
        async def get_versioned(
            self, key: str, *, context: StoreContext | None = None
        ) -> tuple[str, str] | None:
            if self.puts == 1 and key not in self.objects:
                self.write(key, "theirs")
            return await super().get_versioned(key)

    store = Raced(refused=[REFUSED])
    with pytest.raises(VersionConflictError) as caught:
        await retry(store).put_if("k", "ours", version=None)
    assert (caught.value.operation, caught.value.key) == ("put_if", "k")
    assert store.objects["k"] == ("theirs", 1)


async def test_an_object_deleted_in_between_is_a_conflict() -> None:
    store = Versioned(refused=[REFUSED])
    with pytest.raises(VersionConflictError):
        await retry(store).put_if("k", "ours", version="v1")
    assert store.objects == {}


async def test_a_write_that_lands_after_the_look_is_still_recognised_as_ours() -> None:
    """The first try is slow on the wire: it arrives between reading back and the second try."""

    class Late(Versioned):
        async def get_versioned(
            self, key: str, *, context: StoreContext | None = None
        ) -> tuple[str, str] | None:
            found = await super().get_versioned(key)
            if self.looks == 0:
                self.looks = 1
                self.write(key, "ours")
            return found

        looks = -1

    store = Late(refused=[LOST])
    store.write("k", "before")
    store.looks = 0
    assert await Retry(store, initial=1e-6).put_if("k", "ours", version="v1") == "v2"
    assert store.objects["k"] == ("ours", 2)


async def test_a_conflict_on_the_first_try_is_raised_at_once() -> None:
    store = Versioned()
    store.write("k", "ours")
    with pytest.raises(VersionConflictError, match=r"^changed$"):
        await retry(store).put_if("k", "ours", version=None)
    assert store.puts == 1


async def test_reading_back_is_tried_again_too() -> None:
    class Unreadable(Versioned):
        failures = 1

        async def get_versioned(
            self, key: str, *, context: StoreContext | None = None
        ) -> tuple[str, str] | None:
            if self.objects and self.failures:
                self.failures = 0
                raise REFUSED
            return await super().get_versioned(key)

    store = Unreadable(lost=[LOST])
    assert await retry(store).put_if("k", "ours", version=None) == "v1"
    assert store.puts == 1


async def test_without_a_way_to_read_back_the_lost_answer_is_raised_at_once() -> None:
    """Not the error of reading back, which says that nothing was written."""

    class WriteOnly(Versioned):
        looks = 0

        async def get_versioned(
            self, key: str, *, context: StoreContext | None = None
        ) -> tuple[str, str] | None:
            if not self.objects:
                return None
            self.looks += 1
            raise StoreNotSupportedError("cannot read")

    store = WriteOnly(lost=[StoreTimeoutError("answer lost")])
    with pytest.raises(StoreTimeoutError):
        await retry(retry(store)).put_if("k", "ours", version=None)
    assert (store.puts, store.looks) == (1, 1)


async def test_bytes_written_in_between_are_a_conflict() -> None:
    class Bytes(Versioned):
        async def get_versioned(
            self, key: str, *, context: StoreContext | None = None
        ) -> tuple[str, str] | None:
            raise StoreDecodeError("not text")

    with pytest.raises(VersionConflictError) as caught:
        await retry(Bytes(refused=[REFUSED])).put_if("k", "ours", version="v1")
    assert isinstance(caught.value.__cause__, StoreDecodeError)


async def test_an_error_that_another_try_cannot_help_is_raised_without_a_look() -> None:
    store = Versioned(refused=[InvalidKeyError("bad")])
    with pytest.raises(InvalidKeyError):
        await retry(store).put_if("k", "ours", version=None)
    assert store.puts == 1
