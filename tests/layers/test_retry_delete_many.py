"""`delete_many` retries the keys that failed and may succeed, and no others."""

from __future__ import annotations

import pytest

from layers.scripted import Scripted
from starfish_server.errors import (
    DeleteManyError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreError,
    StoreUnavailableError,
)
from starfish_server.layers.retry import Retry

DOWN = StoreUnavailableError("down")
DENIED = StoreAccessDeniedError("no")
KEYS = ["a", "b", "c", "d"]


async def deletion(
    *script: Exception | None, keys: list[str] | None = None
) -> tuple[Exception | None, list[object]]:
    """What a `delete_many` of four keys under three attempts raised, and the keys of each call inside."""
    store = Scripted(*script)
    try:
        await Retry(store, attempts=3, initial=1e-6).delete_many(keys or KEYS)
    except Exception as error:
        return error, [target for _, target in store.calls]
    return None, [target for _, target in store.calls]


def failures_of(error: Exception | None) -> dict[str, Exception]:
    assert isinstance(error, DeleteManyError)
    return error.failures


async def test_only_the_keys_that_failed_are_retried() -> None:
    error, calls = await deletion(DeleteManyError({"b": DOWN, "d": DOWN}), DeleteManyError({"d": DOWN}))
    assert error is None
    assert calls == [KEYS, ["b", "d"], ["d"]]


async def test_keys_that_failed_permanently_are_not_retried_and_raised_in_the_end() -> None:
    error, calls = await deletion(DeleteManyError({"a": DENIED, "b": DOWN}))
    assert failures_of(error) == {"a": DENIED}
    assert calls == [KEYS, ["b"]]


async def test_nothing_is_retried_when_every_failed_key_failed_permanently() -> None:
    only = DeleteManyError({"a": DENIED})
    error, calls = await deletion(only)
    assert error is only
    assert calls == [KEYS]


async def test_one_error_names_every_key_still_failed_in_the_order_given() -> None:
    last = StoreUnavailableError("still down")
    error, calls = await deletion(
        DeleteManyError({"a": DOWN, "b": DENIED, "c": DOWN, "d": DOWN}),
        DeleteManyError({"a": DENIED, "d": DOWN}),
        DeleteManyError({"d": last}),
    )
    assert list(failures_of(error).items()) == [("a", DENIED), ("b", DENIED), ("d", last)]
    assert calls == [KEYS, ["a", "c", "d"], ["d"]]
    assert "after 3 attempts" in error.__notes__[0] if error else None


async def test_a_call_that_failed_as_a_whole_is_retried_as_a_whole() -> None:
    error, calls = await deletion(DOWN, DOWN)
    assert error is None
    assert calls == [KEYS, KEYS, KEYS]


async def test_a_call_that_only_ever_fails_as_a_whole_raises_its_own_error() -> None:
    last = StoreUnavailableError("still down")
    error, _ = await deletion(DOWN, DOWN, last)
    assert error is last


@pytest.mark.parametrize("whole", [DOWN, StoreClosedError("closed")], ids=["down", "closed"])
async def test_a_whole_failure_after_a_partial_one_is_told_key_by_key(whole: StoreError) -> None:
    error, _ = await deletion(DeleteManyError({"a": DENIED, "b": DOWN}), whole, whole)
    assert failures_of(error) == {"a": DENIED, "b": whole}
    assert error is not None
    assert error.__cause__ is whole


async def test_duplicates_are_retried_once() -> None:
    _, calls = await deletion(DeleteManyError({"a": DOWN}), keys=["a", "a", "b"])
    assert calls == [["a", "a", "b"], ["a"]]


async def test_keys_from_a_generator_are_not_lost_for_the_second_attempt() -> None:
    store = Scripted(DOWN, data={"a": "1", "b": "2"})
    await Retry(store, initial=1e-6).delete_many(key for key in ("a", "b"))  # type: ignore[arg-type]  # not a list
    assert await store.list_keys("") == []


async def test_one_key_in_place_of_a_list_is_refused_and_nothing_deleted() -> None:
    store = Scripted(data={"a": "1", "b": "2"})
    with pytest.raises(TypeError):
        await Retry(store).delete_many("ab")  # type: ignore[arg-type]  # that is the test
    assert await store.list_keys("") == ["a", "b"]
