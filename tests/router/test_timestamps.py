"""A client that pulls since its last checkpoint misses no change, even if clocks disagree."""

from __future__ import annotations

import json

import pytest
from starfish_protocol.hash import compute_hash

from starfish_server.router.documents import Document, next_version, parse_document


def version(previous: Document | None, data: dict[str, object], now: int) -> Document:
    """Return the next version as it is stored and read again."""
    return parse_document(next_version(previous, data, compute_hash(data), now).to_json())


def test_a_leaf_keeps_its_time_until_it_changes() -> None:
    first = version(None, {"a": 1, "b": {"c": [1], "d": None}}, 100)
    second = version(first, {"a": 1, "b": {"c": [2], "d": None}, "e": {}}, 200)
    assert second.timestamps == {"a": 100, "b": {"c": 200, "d": 100}, "e": {}}


@pytest.mark.parametrize(
    ("old", "new"), [(1, 1.0), (1, True), (0, False), ([1], [1.0]), (None, 0), (0.0, -0.0)]
)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_values_that_python_holds_equal_are_changes(old: object, new: object, depth: int) -> None:
    times: object = 200
    for _ in range(depth):
        old, new, times = {"a": old}, {"a": new}, {"a": times}
    assert version(version(None, {"a": old}, 100), {"a": new}, 200).timestamps == {"a": times}


@pytest.mark.parametrize("times", ['{"b":{"c":5}}', '{"b":5}', "{}"])
def test_an_unchanged_leaf_without_a_time_of_its_own_is_always_returned(times: str) -> None:
    stored = parse_document(f'{{"v":1,"data":{{"b":{{"c":1,"d":2}}}},"timestamps":{times},"hash":"h"}}')
    changed = version(stored, {"b": {"c": 1, "d": 2}, "e": 1}, 200).changed_since(100)
    assert '"d": 2' in json.dumps(changed)


@pytest.mark.parametrize("now", [100, 50])
def test_a_change_in_the_same_millisecond_or_by_a_slow_clock_is_later(now: int) -> None:
    first = version(None, {"a": 1}, 100)
    second = version(first, {"a": 2}, now)
    assert second.timestamp == 101
    assert second.changed_since(first.timestamp) == {"a": 2}


@pytest.mark.parametrize("now", [200, 150])
def test_a_change_after_a_removal_is_later_than_what_was_removed(now: int) -> None:
    seen = version(version(None, {"a": 1}, 100), {"a": 1, "b": 1}, 200)
    removed = version(seen, {"a": 1}, now)
    changed = version(removed, {"a": 2}, now)
    assert (seen.timestamp, removed.timestamp, changed.timestamp) == (200, 201, 202)
    assert changed.changed_since(removed.timestamp) == changed.changed_since(seen.timestamp) == {"a": 2}


def test_pushing_the_same_data_again_changes_no_time() -> None:
    first = version(None, {"a": 1}, 100)
    assert version(first, {"a": 1}, 200) == first


def test_a_document_that_another_server_stored_is_as_old_as_its_latest_change() -> None:
    stored = '{"v":1,"data":{"a":1,"b":{"c":2}},"timestamps":{"a":100,"b":{"c":200}},"hash":"h"}'
    assert parse_document(stored).timestamp == 200


def test_a_document_that_a_3_x_pre_release_stored_is_as_old_as_its_write() -> None:
    stored = parse_document('{"v":1,"data":{"a":1},"ts":200,"hash":"h"}')
    assert (stored.data, stored.hash, stored.timestamp) == ({"a": 1}, "h", 200)
    assert stored.changed_since(200) == {"a": 1}  # nothing says when each leaf changed
    changed = version(stored, {"a": 1, "b": 2}, 100)
    assert (changed.timestamp, changed.timestamps) == (201, {"a": 201, "b": 201})
    assert "ts" not in changed.to_json().replace("timestamps", "")


def test_an_object_in_place_of_a_leaf_is_new_throughout() -> None:
    first = version(None, {"a": 1, "b": {"c": 1}}, 100)
    second = version(first, {"a": {"x": 1}, "b": 2}, 200)
    assert second.changed_since(100) == {"a": {"x": 1}, "b": 2}


def test_an_empty_object_in_place_of_a_leaf_is_a_change() -> None:
    first = version(None, {"a": 1, "b": 1}, 100)
    assert version(first, {"a": {}, "b": 1}, 200).changed_since(100) == {"a": {}}


def test_an_encrypted_document_is_always_returned_whole() -> None:
    data: dict[str, object] = {"_encrypted": "c2VjcmV0", "note": 1}
    assert version(version(None, data, 100), data, 200).changed_since(200) == data


def test_leaves_without_a_time_are_always_returned() -> None:
    stored = '{"v":1,"data":{"old":1,"list":[1,2],"in":{"x":1}},"timestamps":{"list":[5,6]},"hash":"h"}'
    assert parse_document(stored).changed_since(100) == {"old": 1, "list": [1, 2], "in": {"x": 1}}
