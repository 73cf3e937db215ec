"""What a folder of files does that other leaves do not."""

import errno
import os
from pathlib import Path

import pytest

from starfish_server.errors import (
    DeleteManyError,
    InvalidKeyError,
    KeyConflictError,
    StoreClosedError,
    StoreDecodeError,
)
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions
from storage.filesystem_support import make_store, take_away_xattrs, temporary_files, visible_entries


@pytest.mark.parametrize(
    "text", ["a\r\nb\rc\n", "\ufeffwith a BOM", "a\0b", "a\u2028b\x85c", "\N{GRINNING FACE}", "", "\x1a"]
)
async def test_text_reads_back_exactly(tmp_path: Path, text: str) -> None:
    async with make_store(tmp_path) as store:
        await store.put("k", text)
        assert await store.get_string("k") == text
        assert (tmp_path / "k").read_bytes() == text.encode()


async def test_a_lone_surrogate_is_refused_before_any_write(tmp_path: Path) -> None:
    async with make_store(tmp_path / "base") as store:
        with pytest.raises(StoreDecodeError, match="surrogate at index 1"):
            await store.put("k", "a\ud800")
    assert not (tmp_path / "base").exists()


async def test_reading_does_not_make_the_folder(tmp_path: Path) -> None:
    async with make_store(tmp_path / "base") as store:
        assert await store.get_string("k") is None
        assert await store.get_bytes("k") is None
        assert await store.list_keys("") == []
        await store.delete("k")
        await store.delete_many(["k"])
    assert not (tmp_path / "base").exists()


async def test_the_first_write_makes_the_folder_and_its_parents(tmp_path: Path) -> None:
    async with make_store(tmp_path / "a" / "b", fsync=True) as store:
        await store.put("k", "x")
    assert (tmp_path / "a" / "b" / "k").read_text() == "x"


async def test_a_relative_folder_is_resolved_when_the_options_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = FilesystemStorageOptions("base")
    monkeypatch.chdir("/")
    async with FilesystemObjectStore(options) as store:
        await store.put("k", "x")
    assert (tmp_path / "base" / "k").exists()


@pytest.mark.parametrize(("path", "error"), [("", ValueError), ("a\0b", ValueError), (b"x", TypeError)])
def test_options_refuse_what_is_no_path(path: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="base_dir"):
        FilesystemStorageOptions(path)


async def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    async with make_store(tmp_path / "link") as store:
        await store.put("k", "x")
        assert await store.list_keys("") == ["k"]
    assert (tmp_path / "real" / "k").exists()


@pytest.mark.parametrize("key", ["a.tmp", "a.__meta__", ".__meta__", "a.lock", ".hidden", "d.__meta__/x.tmp"])
async def test_no_key_is_special(tmp_path: Path, key: str) -> None:
    async with make_store(tmp_path) as store:
        await store.put(key, '{"contentType": "image/png"}')
        assert await store.get_string(key) == '{"contentType": "image/png"}'
        assert await store.get_bytes(key) == (b'{"contentType": "image/png"}', "text/plain; charset=utf-8")
        assert await store.list_keys("") == [key]
        await store.delete(key)
    assert visible_entries(tmp_path) == []


async def test_a_segment_and_a_key_of_the_greatest_length_are_stored(tmp_path: Path) -> None:
    keys = ["s" * 255, "/".join(["a"] * 512), "/".join(["b" * 255] * 4)]
    async with make_store(tmp_path) as store:
        for key in keys:
            await store.put_bytes(key, key.encode(), content_type="a/b")
            assert await store.get_bytes(key) == (key.encode(), "a/b")
        assert await store.list_keys("") == sorted(keys)
        await store.delete_many(keys)
    assert visible_entries(tmp_path) == []


@pytest.mark.parametrize(("first", "second"), [("a", "a/b"), ("a/b", "a"), ("a", "a/b/c/d"), ("a/b/c", "a")])
async def test_a_key_below_another_is_a_conflict_that_leaves_nothing(
    tmp_path: Path, first: str, second: str
) -> None:
    async with make_store(tmp_path) as store:
        await store.put(first, "x")
        before = visible_entries(tmp_path)
        with pytest.raises(KeyConflictError) as caught:
            await store.put_bytes(second, b"y", content_type="a/b")
        assert (caught.value.operation, caught.value.key) == ("put_bytes", second)
        assert isinstance(caught.value.__cause__, OSError)
        assert visible_entries(tmp_path) == before
        assert temporary_files(tmp_path) == []
        assert await store.get_string(second) is None
        assert await store.get_bytes(second) is None
        await store.delete(second)
        assert await store.list_keys("") == [first]


async def test_a_delete_removes_empty_folders_and_no_others(tmp_path: Path) -> None:
    async with make_store(tmp_path) as store:
        await store.put("a/b/c/d", "x")
        await store.put("a/e", "x")
        await store.delete("a/b/c/d")
        assert visible_entries(tmp_path) == ["a", "a/e"]
        await store.delete("a/e")
        assert visible_entries(tmp_path) == []
        assert os.listdir(tmp_path) != []


async def test_a_key_may_take_the_place_of_deleted_ones_below_it(tmp_path: Path) -> None:
    async with make_store(tmp_path) as store:
        await store.put("x1/x2", "below")
        await store.delete("x1/x2")
        await store.put("x1", "here")
        assert await store.get_string("x1") == "here"


async def test_a_key_may_take_the_place_of_a_tree_of_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "x1" / "a" / "b").mkdir(parents=True)
    (tmp_path / "x1" / "c").mkdir()
    async with make_store(tmp_path) as store:
        await store.put("x1", "here")
        assert await store.get_string("x1") == "here"


async def test_the_first_file_below_a_folder_keeps_a_key_from_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much more there is, it is not read."""
    for number in range(30):
        (tmp_path / "d" / f"{number}").mkdir(parents=True)
        (tmp_path / "d" / f"{number}" / "k").touch()
    before = visible_entries(tmp_path)
    scans = 0
    scandir = os.scandir

    def counting(path: int) -> object:
        nonlocal scans
        scans += 1
        return scandir(path)

    async with make_store(tmp_path) as store:
        monkeypatch.setattr(os, "scandir", counting)
        with pytest.raises(KeyConflictError):
            await store.put("d", "x")
    assert scans == 2
    assert visible_entries(tmp_path) == before


async def test_delete_many_says_which_keys_failed_and_removes_the_others(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    async with make_store(tmp_path, fsync=True) as store:
        await store.put("a/b", "x")
        await store.put("c", "x")
        with pytest.raises(DeleteManyError) as caught:
            await store.delete_many(["link", "a/b", "link/etc", "c", "c", "none"])
    assert list(caught.value.failures) == ["link", "link/etc"]
    assert visible_entries(tmp_path) == ["link"]


async def test_delete_many_with_a_bad_key_deletes_nothing(tmp_path: Path) -> None:
    async with make_store(tmp_path) as store:
        await store.put("a", "x")
        with pytest.raises(InvalidKeyError):
            await store.delete_many(["a", "../a"])
        assert await store.list_keys("") == ["a"]


async def test_every_operation_is_refused_after_close(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.put("k", "x")
    await store.close()
    await store.close()
    operations = [
        store.get_string("../k"),
        store.get_bytes("k"),
        store.put("k", "x"),
        store.put_bytes("k", b"x", content_type="a/b"),
        store.list_keys(""),
        store.delete("k"),
        store.delete_many(["k"]),
    ]
    for operation in operations:
        with pytest.raises(StoreClosedError):
            await operation
    assert os.listdir(tmp_path / "~staging") == []


def test_repr_names_the_folder(tmp_path: Path) -> None:
    assert repr(make_store(tmp_path)) == f"FilesystemObjectStore({str(tmp_path)!r})"


def test_what_it_returns_does_not_depend_on_the_caller(tmp_path: Path) -> None:
    assert make_store(tmp_path).context_dependent is False


@pytest.mark.parametrize("content_type", ["5", '"a/b\\r\\nSet-Cookie: c"', "[" * 50_000])
async def test_a_type_that_cannot_be_one_in_a_side_file_changed_by_hand_is_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content_type: str
) -> None:
    take_away_xattrs(monkeypatch)
    async with make_store(tmp_path) as store:
        await store.put_bytes("k", b"x", content_type="a/b")
        (side_file,) = (tmp_path / "~attributes").iterdir()
        side_file.write_text(side_file.read_text().replace('"a/b"', content_type))
        assert await store.get_bytes("k") == (b"x", "application/octet-stream")


@pytest.mark.parametrize("lists", [False, True])
async def test_attributes_are_read_where_a_file_system_cannot_list_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: bool
) -> None:
    def list_none(_: int) -> list[str]:
        if lists:
            return []
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "listxattr", list_none)
    async with make_store(tmp_path) as store:
        await store.write("k", b"x", content_type="a/b", cache_control="no-store", metadata={"a": "b"})
        info = await store.stat("k")
    assert info is not None
    assert (info.content_type, info.cache_control, dict(info.metadata)) == ("a/b", "no-store", {"a": "b"})
