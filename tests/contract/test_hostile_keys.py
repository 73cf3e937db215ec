"""Ten thousand hostile keys: the same verdict and the same type of error on every leaf, before any I/O."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from obstore.store import HTTPStore

from contract.leaves import over_callbacks
from starfish_server import (
    FilesystemObjectStore,
    FilesystemStorageOptions,
    InvalidKeyError,
    MemoryObjectStore,
    StoreUnavailableError,
)
from starfish_server.storage.obstore import ObstoreObjectStore
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from starfish_server import AbstractObjectStore

PIECES = [
    *(
        "a",
        "b0",
        ".",
        "..",
        "...",
        "~",
        "-",
        ":",
        "@",
        "_",
        " ",
        "/",
        "//",
        "\\",
        "\n",
        "\r",
        "\t",
        "\0",
        "%2e",
        "%00",
    ),
    *(
        "é",
        "😀",
        "\u2028",
        "\u202e",
        "\ufeff",
        "\ud800",
        "\x1b[31m",
        "\x7f",
        "?",
        "#",
        "&",
        "<",
        "*",
        "'",
        '"',
        "$",
    ),
    *("x" * 254, "x" * 255, "x" * 256, "k.tmp", "k.__meta__", "Ａ", "ﬀ", "K", "ı", "٣"),
]
NOT_TEXT = [None, 7, b"k", ["k"], ("k",), object()]


def hostile_keys(count: int) -> list[Any]:
    choose = random.Random(20)
    made: list[Any] = [*NOT_TEXT, "", "k" * 1024, "/".join(["k"] * 513), "k\n", "/k", "k/", "a/../b", "a/./b"]
    while len(made) < count:
        made.append("".join(choose.choices([*PIECES, "/", "/", "a", "b"], k=choose.randint(1, 9))))
    return made


def is_allowed(key: Any) -> bool:
    """The rule again, written another way than in the package."""
    if not isinstance(key, str) or not 1 <= len(key.encode("utf-8", "surrogatepass")) <= 1024:
        return False
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:@-")
    return all(0 < len(s) <= 255 and s not in {".", ".."} and set(s) <= allowed for s in key.split("/"))


@pytest.fixture
def unreachable(tmp_path: Path) -> list[AbstractObjectStore]:
    """Every leaf, over backends that fail on any use: what is refused all the same was refused before I/O."""
    s3 = S3StorageOptions(
        access_key_id="a", secret_access_key="s", endpoint="http://127.0.0.1:1", bucket="b", max_attempts=1
    )
    (tmp_path / "file").touch()
    folder = FilesystemStorageOptions(base_dir=str(tmp_path / "file" / "not-a-folder"))
    return [
        MemoryObjectStore(data={}),
        over_callbacks(),
        FilesystemObjectStore(folder),
        ObstoreObjectStore(HTTPStore("http://127.0.0.1:1")),
        S3ObjectStore(s3),
    ]


def operations(store: AbstractObjectStore) -> list[Callable[[Any], Awaitable[object]]]:
    return [
        store.get_string,
        store.get_bytes,
        store.delete,
        lambda key: store.put(key, "v"),
        lambda key: store.put_bytes(key, b"v", content_type="a/b"),
        lambda key: store.delete_many(["fine", key]),
        store.stat,
        store.read,
        store.open,
        lambda key: store.write(key, b"v", if_version=None),
        lambda key: store.upload(key, [b"v"]),
        lambda key: store.copy(key, "fine"),
        lambda key: store.copy("fine", key),
    ]


async def test_hostile_keys_are_refused_alike_before_any_io(unreachable: list[AbstractObjectStore]) -> None:
    refused = [key for key in hostile_keys(10_000) if not is_allowed(key)]
    assert len(refused) > 8_000
    for number, key in enumerate(refused):
        for store in unreachable:
            for operation in operations(store) if number < 300 else [store.get_string]:
                with pytest.raises(InvalidKeyError):
                    await operation(key)


async def test_allowed_keys_of_the_same_kind_are_refused_by_no_leaf(
    unreachable: list[AbstractObjectStore], tmp_path: Path
) -> None:
    keys = [key for key in hostile_keys(10_000) if is_allowed(key)]
    assert len(keys) > 300
    *apart, s3 = unreachable
    async with FilesystemObjectStore(FilesystemStorageOptions(tmp_path / "store", fsync=False)) as files:
        for key in keys:
            for store in (*apart[:2], files):
                await store.put(key, key)
                assert await store.get_string(key) == key
                await store.delete(key)
            with pytest.raises(StoreUnavailableError):
                await s3.get_string(key)
