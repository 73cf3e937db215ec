"""Nothing planted below the folder leads out of it, or makes an operation wait."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from starfish_server.errors import StoreAccessDeniedError
from starfish_server.storage.filesystem import FilesystemObjectStore
from storage.filesystem_support import make_store, temporary_files


def _link_to_file(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "secret")


def _dangling_link(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "missing")


def _link_to_folder(place: Path, outside: Path) -> None:
    place.symlink_to(outside)


def _fifo(place: Path, outside: Path) -> None:
    os.mkfifo(place)


def _socket(place: Path, outside: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))


def _device(place: Path, outside: Path) -> None:
    if os.geteuid() == 0:
        os.mknod(place, 0o20600, os.makedev(1, 5))  # /dev/zero
    else:
        os.mkfifo(place)


OPERATIONS: dict[str, Callable[[FilesystemObjectStore, str], object]] = {
    "get_string": lambda store, key: store.get_string(key),
    "get_bytes": lambda store, key: store.get_bytes(key),
    "put": lambda store, key: store.put(key, "mine"),
    "put_bytes": lambda store, key: store.put_bytes(key, b"mine", content_type="a/b"),
    "delete": lambda store, key: store.delete(key),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("key", ["k", "k/secret", "d/k", "d/k/secret"])
@pytest.mark.parametrize(
    "plant",
    [_link_to_file, _dangling_link, _link_to_folder, _fifo, _socket, _device],
    ids=lambda p: p.__name__,
)
async def test_what_is_planted_is_refused_and_left_alone(
    tmp_path: Path, plant: Callable[[Path, Path], None], key: str, operation: str
) -> None:
    outside, base = tmp_path / "outside", tmp_path / "base"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (base / "d").mkdir(parents=True)
    planted = base / key.removesuffix("/secret")
    plant(planted, outside)
    before = os.lstat(planted)
    async with make_store(base) as store:
        with pytest.raises(StoreAccessDeniedError) as caught:
            await OPERATIONS[operation](store, key)  # type: ignore[misc]  # coroutines of several results
        assert (caught.value.operation, caught.value.key) == (operation, key)
        assert isinstance(caught.value.__cause__, OSError)
        if (base / "~staging").exists():
            assert temporary_files(base) == []
    assert os.lstat(planted).st_ino == before.st_ino
    assert sorted(os.listdir(outside)) == ["secret"]
    assert (outside / "secret").read_text() == "secret"


async def test_a_put_refuses_a_link_where_the_system_cannot_say_whether_a_link_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As musl on Linux before 5.8: there `access` that follows no links fails, and `os.access` says no."""
    access = os.access

    def as_musl(*place: Any, follow_symlinks: bool = True, **options: Any) -> bool:
        return follow_symlinks and access(*place, **options)

    monkeypatch.setattr(os, "access", as_musl)
    async with make_store(tmp_path) as store:
        await store.put("other", "v")
        link = tmp_path / "k"
        link.symlink_to("other")
        with pytest.raises(StoreAccessDeniedError):
            await store.put("k", "mine")
        assert link.is_symlink()


@pytest.mark.parametrize("name", ["~staging", "~locks"])
async def test_a_link_in_place_of_a_reserved_folder_is_refused(tmp_path: Path, name: str) -> None:
    outside, base = tmp_path / "outside", tmp_path / "base"
    outside.mkdir()
    base.mkdir()
    (base / name).symlink_to(outside)
    async with make_store(base) as store:
        with pytest.raises(StoreAccessDeniedError):
            await store.put("k", "x")
    assert os.listdir(outside) == []
    assert not (base / "k").exists()


async def test_a_legacy_side_file_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text('{"contentType": "secret/type"}')
    base = tmp_path / "base"
    base.mkdir()
    (base / "k").write_text("x")
    (base / "k.__meta__").symlink_to(tmp_path / "outside")
    async with make_store(base) as store:
        assert await store.get_bytes("k") == (b"x", "application/octet-stream")
