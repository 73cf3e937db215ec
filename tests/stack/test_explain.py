"""`explain`: the tree, the settings, no secrets, and what the stack can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from starfish_server import CustomObjectStore, MemoryObjectStore, StoreBuilder, explain
from starfish_server.layers import Layer, Namespace, ReadOnly, Retry, Timeout, Tracing

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore


class Vault(Layer):
    """Keeps a secret. It should not show."""

    def __init__(self, inner: AbstractObjectStore, *, api_token: str, region: str) -> None:
        super().__init__(inner)
        self._settings: dict[str, object] = {"api_token": api_token, "region": region}

    def settings(self) -> dict[str, object]:
        return self._settings


def test_shows_each_store_with_its_settings_and_what_it_adds_outermost_first() -> None:
    store = StoreBuilder().layer(Namespace, "t/").layer(Retry, attempts=2).layer(Timeout, seconds=1.5)
    lines = explain(store.over(MemoryObjectStore(data={}))).splitlines()
    assert lines[0].startswith("Namespace(")
    assert lines[2].startswith("└─ Retry(attempts=2, ")
    assert lines[4].startswith("   └─ Timeout(seconds=1.5")
    assert lines[5].strip().startswith("Cancels an operation that takes longer")
    assert lines[6] == "      └─ MemoryObjectStore(0 objects)"
    assert lines[7].strip() == "A leaf that keeps objects in a dict"


def test_masks_settings_that_are_secrets_by_their_name() -> None:
    text = explain(Vault(MemoryObjectStore(data={}), api_token="s3cr3t", region="eu"))
    assert "s3cr3t" not in text
    assert text.splitlines()[:2] == ["Vault(api_token=***, region='eu')", "     Keeps a secret"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("key", False), ("api_key", False), ("hash_key", False), ("passwd", False), ("record_key", True)],
)
def test_masks_keys_but_not_how_keys_are_recorded(name: str, shown: bool) -> None:
    class Keeping(Layer):
        def settings(self) -> dict[str, object]:
            return {name: "v4lue"}

    assert ("v4lue" in explain(Keeping(MemoryObjectStore(data={})))) is shown


def test_tells_what_the_stack_can_do() -> None:
    lines = explain(CustomObjectStore(on_get=lambda key, ctx: None)).splitlines()
    assert lines[-3] == "can: get_string, stat, read, open"
    assert lines[-2].startswith("cannot: ")
    assert "put_bytes" in lines[-2]
    assert lines[-1] == "what it returns depends on the caller: yes"


def test_a_read_only_stack_cannot_write() -> None:
    lines = explain(ReadOnly(MemoryObjectStore(data={}))).splitlines()
    assert "can: get_string, list_keys, get_bytes, stat, read, open, list_objects" in lines


def test_tracing_of_attempts_is_not_described_as_one_of_operations_alone() -> None:
    lines = explain(Tracing(MemoryObjectStore(data={}), per_attempt=True)).splitlines()
    assert lines[1].strip() == "One span per operation, or per attempt with `per_attempt=True`"


def test_a_builder_without_a_leaf_is_refused() -> None:
    with pytest.raises(TypeError, match=r"explain takes a store, not StoreBuilder.*\.over\(leaf\)"):
        explain(StoreBuilder())  # type: ignore[arg-type]  # that is the test


def test_a_layer_over_two_stores_shows_both_branches() -> None:
    class Both(Layer):
        """Wraps two stores."""

        def __init__(self, inner: AbstractObjectStore, second: AbstractObjectStore) -> None:
            super().__init__(inner, second)

    leaves = MemoryObjectStore(data={}), MemoryObjectStore(data={"k": "v"})
    lines = explain(Timeout(Both(Retry(leaves[0]), leaves[1]))).splitlines()
    assert [line for line in lines if "─" in line or "│" in line] == [
        "└─ Both()",
        "   │    Wraps two stores",
        lines[4],
        lines[5],
        "   │  └─ MemoryObjectStore(0 objects)",
        "   │          A leaf that keeps objects in a dict",
        "   └─ MemoryObjectStore(1 objects)",
    ]
    assert lines[4].startswith("   ├─ Retry(attempts=4, ")
    assert lines[5].startswith("   │       ")
