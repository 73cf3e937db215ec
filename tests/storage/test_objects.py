"""`ObjectInfo` is immutable, and an `ObjectReader` ends cleanly."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, fields, replace
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

import pytest

from starfish_server import MemoryObjectStore, ObjectInfo, ObjectReader
from starfish_server.objects import reader_of

if TYPE_CHECKING:
    from collections.abc import Callable

COPIES: dict[str, Callable[[ObjectInfo], ObjectInfo]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda info: cast("ObjectInfo", pickle.loads(pickle.dumps(info))),
    "replace": replace,
    "renamed": lambda info: info.renamed(str),
}


def info() -> ObjectInfo:
    return ObjectInfo("k", 1, "text/plain", None, {"author": "alice"}, "v1")


async def test_a_caller_cannot_change_the_metadata_of_a_stored_object() -> None:
    store = MemoryObjectStore(data={})
    written = await store.write("k", b"x", metadata={"author": "alice"})
    with pytest.raises(TypeError, match="read-only"):
        cast("dict[str, str]", written.metadata)["author"] = "mallory"
    found = await store.stat("k")
    assert found is not None
    assert found.metadata == {"author": "alice"}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_copies_are_equal_and_read_only_too(make: Callable[[ObjectInfo], ObjectInfo]) -> None:
    copied = make(info())
    assert copied == info()
    with pytest.raises(TypeError, match="read-only"):
        cast("Any", copied.metadata).clear()


def test_does_not_see_later_changes_of_the_mapping_it_was_given() -> None:
    metadata = {"author": "alice"}
    made = ObjectInfo("k", metadata=metadata)
    metadata["author"] = "mallory"
    assert made.metadata == {"author": "alice"}


def test_metadata_is_a_dict_to_other_programs() -> None:
    assert json.dumps(info().metadata) == '{"author": "alice"}'
    assert asdict(info())["metadata"] == dict(info().metadata) == {"author": "alice"}


def test_no_field_can_be_replaced() -> None:
    with pytest.raises(FrozenInstanceError):
        info().key = "other"  # type: ignore[misc]  # that it is refused is the test


def test_each_parameter_is_a_field_of_its_name() -> None:
    assert list(signature(ObjectInfo).parameters) == [field.name for field in fields(ObjectInfo)]
    values: Any = ("k", 1, "text/plain", "no-store", {"author": "alice"}, "v1", None)
    assert tuple(getattr(ObjectInfo(*values), field.name) for field in fields(ObjectInfo)) == values


def test_a_dataclass_derived_from_it_has_the_same_defaults() -> None:
    @dataclass(frozen=True)
    class Owned(ObjectInfo):
        owner: str = "nobody"

    assert Owned("k", owner="alice").owner == "alice"
    assert Owned("k").size is None
    assert replace(Owned("k"), size=1) == Owned("k", 1)


async def test_a_fetch_that_is_abandoned_ends_immediately_and_the_reader_can_still_be_closed() -> None:
    closed: list[bool] = []

    async def close() -> None:
        await asyncio.sleep(0)
        closed.append(True)

    reader = ObjectReader(info(), asyncio.Event().wait, close)  # type: ignore[arg-type]  # it never returns
    fetching = reader.next_chunk()
    fetching.send(None)
    fetching.close()
    with pytest.raises(ValueError, match="closed before the end"):
        await reader.next_chunk()
    await reader.aclose()
    assert closed == [True]


async def test_a_reader_whose_caller_gave_up_does_not_pass_for_one_at_its_end() -> None:
    chunks = iter([b"first"])

    async def fetch() -> bytes:
        if chunk := next(chunks, b""):
            return chunk
        return await asyncio.Event().wait() and b""

    reader = ObjectReader(info(), fetch)
    assert await reader.next_chunk() == b"first"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.next_chunk(), 0.01)
    with pytest.raises(ValueError, match="closed before the end of the body"):
        await reader.read()


async def test_a_reader_at_its_end_may_be_read_again() -> None:
    reader = reader_of(info(), b"body")
    assert await reader.read() == b"body"
    await reader.aclose()
    assert await reader.read() == b""
