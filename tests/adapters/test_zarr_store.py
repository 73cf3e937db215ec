"""zarr's own suite of stores, and its state machines, on `StarfishStore`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from zarr.core.buffer import Buffer, cpu
from zarr.core.sync import sync
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests

from adapters.stores import STORES, new_store
from starfish_server import MemoryObjectStore
from starfish_server.adapters.zarr import StarfishStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hypothesis.stateful import RuleBasedStateMachine
    from zarr.abc.store import Store

PREFIX = "arrays/zarr"


@pytest.mark.parametrize("name", STORES, scope="class")
class TestStarfishStore(StoreTests[StarfishStore, cpu.Buffer]):
    store_cls = StarfishStore
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, name: str, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
        with new_store(name, request) as store:
            yield {"store": store, "prefix": PREFIX}

    async def set(self, store: StarfishStore, key: str, value: Buffer) -> None:
        await store.store.write(f"{PREFIX}/{key}", value.to_bytes())

    async def get(self, store: StarfishStore, key: str) -> Buffer:
        found = await store.store.read(f"{PREFIX}/{key}")
        assert found is not None
        return cpu.Buffer.from_bytes(found.body)

    def test_store_repr(self, store: StarfishStore) -> None:
        assert repr(store) == f"StarfishStore({store.store!r}, {PREFIX!r})"

    def test_store_supports_writes(self, store: StarfishStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: StarfishStore) -> None:
        assert store.supports_listing

    # Stores hold connections and credentials, so they are not pickled.
    test_serializable_store = None  # type: ignore[assignment]  # takes the test out of the suite


@pytest.mark.filterwarnings("ignore:The data type", "ignore:Numcodecs codecs")
@pytest.mark.parametrize("machine", [ZarrStoreStateMachine, ZarrHierarchyStateMachine])
@pytest.mark.parametrize("name", ["memory", "stack"])
def test_state_machine(
    name: str,
    machine: Callable[[Store], RuleBasedStateMachine],
    request: pytest.FixtureRequest,
    full: bool,
) -> None:
    chosen = settings(
        max_examples=100 if full else 4,
        stateful_step_count=50 if full else 20,
        derandomize=not full,
        suppress_health_check=list(HealthCheck),
    )
    with new_store(name, request) as inner:
        store = sync(StarfishStore.open(inner, PREFIX))
        run_state_machine_as_test(lambda: machine(store), settings=chosen)  # type: ignore[arg-type]  # makes one


async def test_what_is_not_a_store_is_refused() -> None:
    with pytest.raises(TypeError, match="StarfishStore takes a store, not dict"):
        StarfishStore({})  # type: ignore[arg-type]  # the mistake


async def test_equal_are_zarr_stores_over_one_store_with_the_same_prefix() -> None:
    inner = MemoryObjectStore(data={})
    assert StarfishStore(inner, "a") == StarfishStore(inner, "a/")
    assert StarfishStore(inner, "a") != StarfishStore(inner, "b")
    assert StarfishStore(inner, "a") != StarfishStore(MemoryObjectStore(data={}), "a")
