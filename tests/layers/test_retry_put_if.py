"""`put_if` under `Retry`: a lost reply neither loses a write nor repeats one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from layers.scripted import Versioned
from starfish_server.errors import (
    InvalidKeyError,
    StoreAccessDeniedError,
    StoreDecodeError,
    StoreNotSupportedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers.retry import Retry

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore

LOST = StoreTimeoutError("answer lost")
REFUSED = StoreUnavailableError("not now")


def retry(store: AbstractObjectStore) -> Retry:
    return Retry(store, attempts=3, initial=1e-6)


async def test_a_write_that_was_done_is_not_done_again() -> None:
    store = Versioned(lost=[LOST])
    assert await retry(store).put_if("k", "ours", version=None) == "v1"
    assert store.objects["k"] == ("ours", 1)


async def test_a_write_that_was_not_done_is_retried() -> None:
    store = Versioned(refused=[REFUSED])
    store.write("k", "before")
    assert await retry(store).put_if("k", "ours", version="v1") == "v2"
    assert (store.objects["k"], store.puts) == (("ours", 2), 2)


async def test_a_first_write_that_was_not_done_is_retried() -> None:
    store = Versioned(refused=[REFUSED, REFUSED])
    assert await retry(store).put_if("k", "ours", version=None) == "v1"
    assert store.puts == 3


async def test_another_writer_in_between_is_a_conflict_and_is_not_overwritten() -> None:
    store = Versioned(refused=[REFUSED])
    store.before_retry = lambda: store.write("k", "theirs")
    with pytest.raises(VersionConflictError) as caught:
        await retry(store).put_if("k", "ours", version=None)
    assert (caught.value.operation, caught.value.key) == ("put_if", "k")
    assert store.objects["k"] == ("theirs", 1)


async def test_the_same_body_of_another_writer_is_a_conflict_after_failures_that_wrote_nothing() -> None:
    """As when two writers take a lock and the backend refuses one because the other is in progress."""
    refused = StoreUnavailableError("another conditional write is in progress")
    refused.undetermined = False
    store = Versioned(refused=[refused])
    store.write("lock", "locked")
    with pytest.raises(VersionConflictError, match="changed"):
        await retry(store).put_if("lock", "locked", version=None)


async def test_one_undetermined_failure_among_others_is_enough_to_look() -> None:
    refused = StoreUnavailableError("another conditional write is in progress")
    refused.undetermined = False
    store = Versioned(lost=[LOST], refused=[])
    store.before_retry = lambda: store.refused.append(refused)
    assert await retry(store).put_if("k", "ours", version=None) == "v1"


async def test_an_object_deleted_in_between_is_a_conflict() -> None:
    store = Versioned(refused=[REFUSED])
    with pytest.raises(VersionConflictError):
        await retry(store).put_if("k", "ours", version="v1")
    assert store.objects == {}


async def test_a_write_that_lands_late_is_still_recognised_as_ours() -> None:
    """The first attempt is slow on the wire: it arrives while the back-off lasts."""
    store = Versioned(refused=[LOST])
    store.write("k", "before")
    store.before_retry = lambda: store.write("k", "ours")
    assert await retry(store).put_if("k", "ours", version="v1") == "v2"
    assert store.objects["k"] == ("ours", 2)


async def test_a_conflict_on_the_first_attempt_is_raised_at_once() -> None:
    store = Versioned()
    store.write("k", "ours")
    with pytest.raises(VersionConflictError, match=r"changed$"):
        await retry(store).put_if("k", "ours", version=None)
    assert store.puts == 1


async def test_a_look_that_fails_transiently_is_retried() -> None:
    store = Versioned(lost=[LOST], unreadable=[REFUSED])
    assert await retry(store).put_if("k", "ours", version=None) == "v1"
    assert store.objects["k"] == ("ours", 1)


@pytest.mark.parametrize(
    "error",
    [
        StoreNotSupportedError("cannot read"),
        StoreAccessDeniedError("may not read"),
        StoreDecodeError("not text"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_conflict_that_cannot_be_looked_into_is_raised_with_the_reason(error: Exception) -> None:
    store = Versioned(lost=[LOST], unreadable=[error])
    with pytest.raises(VersionConflictError, match="an earlier attempt may have written it") as caught:
        await retry(store).put_if("k", "ours", version=None)
    assert caught.value.__cause__ is error


async def test_a_permanent_error_is_raised_without_a_look() -> None:
    store = Versioned(refused=[InvalidKeyError("bad")])
    with pytest.raises(InvalidKeyError):
        await retry(store).put_if("k", "ours", version=None)
    assert store.puts == 1
