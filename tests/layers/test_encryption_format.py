"""The format of encrypted objects stays the same, and a store inside that returns too little is noticed."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from layers.test_encryption import BODY, RING, SEGMENT, read, stream
from starfish_server import MemoryObjectStore
from starfish_server.errors import StoreIntegrityError
from starfish_server.layers.base import Layer
from starfish_server.layers.encryption import Encryption
from starfish_server.layers.encryption.key_ring import hkdf
from starfish_server.objects import ObjectReader, StoredObject
from starfish_server.operations import Read

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server import ObjectInfo
    from starfish_server.layers.base import T
    from starfish_server.operations import Operation

SEALED = SEGMENT + 16
# "a text" at "users/alice" under the key "2026" of `RING`, sealed by the first version of the layer.
WRITTEN = (
    "k1NGU0VBTAoBAG0AAAAAAAAABhuGgjcvkKkf8OAANPFwcjvkhuiTkH/1e3/AdPJJHTXFlNpLwGFAEgAEMjAyNgAZdGV4dC9wbGFp"
    "bjsgY2hhcnNldD11dGYtOAAAwFN1bgOR1XP6A5gwHDkrthTHfZ5kmO/4iE/k5CqVDQn4JOgi/Jc="
)
UPLOADED = (
    "k1NGU0VBTAoBAFf//////////3ciVNVCVwV7M6hALdGyMfWbesS9cm8di6bqSMnRk7hxlK0Nhx+nVwAEMjAyNgADYS9iAAAD/9GY"
    "Gj/Wb23DO0yyDiNrpBSSP9PbRCtiK54gPPca+s0FkaoM8g=="
)


@pytest.mark.parametrize(
    ("sealed", "content_type"), [(WRITTEN, "text/plain; charset=utf-8"), (UPLOADED, "a/b")]
)
async def test_an_object_of_the_first_version_is_read(sealed: str, content_type: str) -> None:
    data: dict[str, str | bytes] = {"users/alice": base64.b64decode(sealed)}
    leaf = MemoryObjectStore(data=data)
    store = Encryption(leaf, RING)
    assert await store.get_bytes("users/alice") == (b"a text", content_type)
    assert await read(store, "users/alice", 2, 4) == b"te"
    assert await stream(store, "users/alice") == b"a text"


@pytest.mark.parametrize(
    ("secret", "salt", "info", "derived"),
    [
        (
            b"\x0b" * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf",
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c",
        ),
        (b"\x0b" * 22, b"", b"", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"),
    ],
)
def test_keys_are_derived_as_in_the_examples_of_rfc_5869(
    secret: bytes, salt: bytes, info: bytes, derived: str
) -> None:
    assert hkdf(secret, salt, info).hex() == derived


class Returns(Layer):
    """Returns bodies cut by `cut`, with the info that `lie` makes of the true one."""

    context_dependent = False

    def __init__(
        self,
        inner: MemoryObjectStore,
        cut: Callable[[bytes], bytes],
        lie: Callable[[ObjectInfo], ObjectInfo] = lambda info: info,
    ) -> None:
        super().__init__(inner)
        self._cut, self._lie = cut, lie

    async def perform(self, operation: Operation[T]) -> T:
        result: Any = await self._inner.perform(operation)
        if isinstance(result, StoredObject) and not (isinstance(operation, Read) and operation.stop == 4096):
            return StoredObject(self._lie(result.info), self._cut(result.body))  # type: ignore[return-value]  # of a Read
        if isinstance(result, StoredObject):
            return StoredObject(self._lie(result.info), result.body)  # type: ignore[return-value]  # of a Read
        if isinstance(result, ObjectReader):
            chunks = iter([self._cut(await result.read())])

            async def fetch() -> bytes:
                return next(chunks, b"")

            return ObjectReader(self._lie(result.info), fetch)  # type: ignore[return-value]  # of an Open
        return result  # type: ignore[no-any-return]  # as it came


async def leaf_with(uploaded: bool) -> MemoryObjectStore:
    leaf = MemoryObjectStore(data={})
    if uploaded:
        await Encryption(leaf, RING).upload("k", [BODY], content_type="a/b")
    else:
        await Encryption(leaf, RING).put_bytes("k", BODY, content_type="a/b")
    return leaf


@pytest.mark.parametrize("uploaded", [False, True])
@pytest.mark.parametrize("kept", [SEALED, 2 * SEALED, 2 * SEALED + 5, 0])
async def test_a_body_that_is_cut_where_it_is_read_is_an_error(uploaded: bool, kept: int) -> None:
    leaf = await leaf_with(uploaded)
    header = len((await leaf.get_bytes("k") or (b"", ""))[0]) - len(BODY) - 4 * 16
    whole = Encryption(Returns(leaf, lambda body: body[: header + kept]), RING)
    part = Encryption(Returns(leaf, lambda body: body[:kept]), RING)
    with pytest.raises(StoreIntegrityError):
        await read(whole, "k")
    for reading in (read, stream):
        with pytest.raises(StoreIntegrityError):
            await reading(part, "k", 0, 3 * SEGMENT)


async def test_the_size_of_a_stream_is_not_believed_without_its_end() -> None:
    leaf = await leaf_with(uploaded=True)
    store = Encryption(Returns(leaf, bytes, lambda info: info.resized((info.size or 0) + 5)), RING)
    for reading in (store.stat("k"), read(store, "k", 5, 9), stream(store, "k", 5, 9)):
        with pytest.raises(StoreIntegrityError):
            await reading
