"""What `written_body` tells the hook of an `Around`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from starfish_server import MemoryObjectStore
from starfish_server.layers import Around, Operation, written_body

if TYPE_CHECKING:
    from starfish_server import AbstractObjectStore, StoreContext
    from starfish_server.layers.base import Proceed, Target

T = TypeVar("T")


class Bodies(Around):
    """Keeps what each operation would write."""

    def __init__(self, inner: AbstractObjectStore) -> None:
        super().__init__(inner)
        self.seen: dict[str, str | bytes | None] = {}

    async def around(
        self, operation: Operation, target: Target, context: StoreContext | None, proceed: Proceed[T]
    ) -> T:
        self.seen[operation.name] = written_body(proceed)
        return await proceed()


async def test_it_is_the_body_of_a_write_and_none_otherwise() -> None:
    store = Bodies(MemoryObjectStore(data={}))
    await store.put("a", "text")
    await store.put_bytes("b", b"bytes", content_type="image/png")
    await store.put_if("c", "new", version=None)
    await store.get_string("a")
    await store.delete("a")
    expected = {"put": "text", "put_bytes": b"bytes", "put_if": "new", "get_string": None, "delete": None}
    assert expected == store.seen
