"""Conditional writes and copies under `Retry`: a lost reply neither loses a write nor repeats one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from starfish_server.storage.custom import CustomObjectStore

if TYPE_CHECKING:
    from starfish_server.layers.base import Layer
    from starfish_server.objects import ObjectInfo

LOST = StoreTimeoutError("answer lost")
REFUSED = StoreUnavailableError("not now")


def retry(store: Layer) -> Retry:
    return Retry(store, attempts=3, initial=1e-6)


def certain() -> StoreUnavailableError:
    """A failure that says for certain that nothing was written."""
    error = StoreUnavailableError("another conditional write is in progress")
    error.undetermined = False
    return error


async def version(store: Layer, key: str = "k") -> str:
    """Store "before" in `key` and return its version."""
    info = await store.inner.write(key, "before")
    assert info.version is not None
    return info.version


@pytest.mark.parametrize("body", ["ours", b"ours", bytearray(b"ours"), "ü"])
async def test_a_write_that_was_done_is_not_done_again(body: str | bytes) -> None:
    store = Versioned(lost=[LOST])
    written = await retry(store).write("k", body, if_version=None, metadata={"a": "b"})
    assert written == await store.stat("k")
    assert written.metadata == {"a": "b"}


async def test_a_write_that_was_not_done_is_retried() -> None:
    store = Versioned(refused=[REFUSED])
    await retry(store).write("k", "ours", if_version=await version(store))
    assert (await store.get_string("k"), store.writes) == ("ours", 2)


async def test_a_first_write_that_was_not_done_is_retried() -> None:
    store = Versioned(refused=[REFUSED, REFUSED])
    await retry(store).write("k", "ours", if_version=None)
    assert (await store.get_string("k"), store.writes) == ("ours", 3)


async def test_another_writer_in_between_is_a_conflict_and_is_not_overwritten() -> None:
    store = Versioned(refused=[REFUSED])
    store.before_retry = lambda: store.inner.put("k", "theirs")
    with pytest.raises(VersionConflictError) as caught:
        await retry(store).write("k", "ours", if_version=None)
    assert (caught.value.operation, caught.value.key) == ("write", "k")
    assert await store.get_string("k") == "theirs"


async def test_the_same_body_of_another_writer_is_a_conflict_after_failures_that_wrote_nothing() -> None:
    """As when two writers take a lock and the backend refuses one because the other is in progress."""
    store = Versioned(refused=[certain()])
    await store.inner.put("lock", "locked")
    with pytest.raises(VersionConflictError, match="nothing was written"):
        await retry(store).write("lock", "locked", if_version=None)


async def test_a_conflict_says_whether_an_earlier_attempt_may_have_written() -> None:
    for refused, undetermined in ((certain(), False), (REFUSED, True)):
        store = Versioned(refused=[refused])
        await store.inner.put("k", "theirs")
        with pytest.raises(VersionConflictError) as caught:
            await retry(store).write("k", "ours", if_version=None)
        assert caught.value.undetermined is undetermined


async def test_an_error_says_that_an_earlier_attempt_may_have_written() -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        await retry(Versioned(refused=[LOST, certain(), certain()])).put("k", "ours")
    assert caught.value.undetermined is True


async def test_an_error_that_is_retried_is_not_taken_for_a_check_of_arguments() -> None:
    store = Versioned(lost=[ValueError("unreadable reply")])
    written = await Retry(store, initial=1e-6, retry_on=[ValueError]).write("k", "ours", if_version=None)
    assert written == await store.stat("k")


async def test_one_undetermined_failure_among_others_is_enough_to_look() -> None:
    store = Versioned(lost=[LOST])

    async def refuse() -> None:
        store.refused.append(certain())

    store.before_retry = refuse
    assert await retry(store).write("k", "ours", if_version=None) == await store.stat("k")


@pytest.mark.parametrize(
    "ours", [{"content_type": "text/x"}, {"cache_control": "no-store"}, {"metadata": {"State": "ours"}}, {}]
)
@pytest.mark.parametrize(
    "theirs", [{"content_type": "text/y"}, {"cache_control": "no-cache"}, {"metadata": {"state": "theirs"}}]
)
async def test_the_same_body_of_another_writer_with_other_attributes_is_a_conflict(
    ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    store = Versioned(refused=[REFUSED])
    store.before_retry = lambda: store.inner.write("k", "ours", **theirs)
    with pytest.raises(VersionConflictError):
        await retry(store).write("k", "ours", if_version=None, **ours)


async def test_a_write_that_was_done_is_recognised_by_its_attributes_too() -> None:
    store = Versioned(lost=[LOST])
    attributes: Any = {"content_type": "text/x", "cache_control": "no-store", "metadata": {"State": "ours"}}
    info = await retry(store).write("k", "ours", if_version=None, **attributes)
    assert info == await store.stat("k")


async def test_a_store_that_tells_bodies_alone_is_compared_by_them() -> None:
    data: dict[str, str] = {}

    def write(key: str, body: str, if_version: None) -> ObjectInfo:
        if key in data:
            raise VersionConflictError("there is one")
        data[key] = body
        raise LOST

    store = CustomObjectStore(on_get=data.get, on_write=write)
    info = await Retry(store, initial=1e-6).write("k", "ours", content_type="text/x", if_version=None)
    assert info.size == 4


async def test_an_object_deleted_in_between_is_a_conflict() -> None:
    store = Versioned(refused=[REFUSED])
    with pytest.raises(VersionConflictError):
        await retry(store).write("k", "ours", if_version="v1")
    assert await store.list_keys("") == []


async def test_a_write_that_lands_late_is_still_recognised_as_ours() -> None:
    """The first attempt is slow on the wire: it arrives while the back-off lasts."""
    store = Versioned(refused=[LOST])
    before = await version(store)
    store.before_retry = lambda: store.inner.put("k", "ours")
    assert await retry(store).write("k", "ours", if_version=before) == await store.stat("k")


async def test_a_conflict_on_the_first_attempt_is_raised_immediately() -> None:
    store = Versioned()
    await store.inner.put("k", "ours")
    with pytest.raises(VersionConflictError, match="there is an object already, nothing was written"):
        await retry(store).write("k", "ours", if_version=None)
    assert store.writes == 1


async def test_a_look_that_fails_transiently_is_retried() -> None:
    store = Versioned(lost=[LOST], unreadable=[REFUSED])
    assert await retry(store).write("k", "ours", if_version=None) == await store.stat("k")


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
        await retry(store).write("k", "ours", if_version=None)
    assert caught.value.__cause__ is error


async def test_a_permanent_error_is_raised_without_a_look() -> None:
    store = Versioned(refused=[InvalidKeyError("bad")])
    with pytest.raises(InvalidKeyError):
        await retry(store).write("k", "ours", if_version=None)
    assert store.writes == 1


async def test_an_unconditional_write_or_copy_is_simply_done_again() -> None:
    store = Versioned(lost=[LOST])
    await retry(store).write("k", "ours")
    store.lost.append(LOST)
    await retry(store).copy("k", "target")
    assert (await store.get_string("target"), store.writes) == ("ours", 4)


async def test_a_conditional_copy_that_was_not_done_is_retried() -> None:
    store = Versioned(refused=[REFUSED])
    before = await version(store, "target")
    await store.inner.put("k", "ours")
    await retry(store).copy("k", "target", if_version=before)
    assert await store.get_string("target") == "ours"


async def test_a_conflict_of_a_copy_that_may_have_been_done_raises_the_failure_that_left_it_open() -> None:
    lost = StoreTimeoutError("answer lost")
    store = Versioned(lost=[lost])

    async def refuse() -> None:
        store.refused.append(certain())

    store.before_retry = refuse
    await store.inner.put("k", "ours")
    with pytest.raises(StoreTimeoutError) as caught:
        await retry(store).copy("k", "target", if_version=None)
    assert caught.value is lost
    assert store.writes == 3
    assert lost.__notes__[0].endswith(": the target has changed, perhaps by an earlier attempt")


async def test_a_conflict_of_a_copy_that_was_certainly_not_done_is_raised_as_it_is() -> None:
    store = Versioned(refused=[certain()])
    await store.inner.put("k", "ours")
    with pytest.raises(VersionConflictError, match="there is an object already, nothing was written"):
        await retry(store).copy("k", "k", if_version=None)
