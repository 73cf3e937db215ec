"""What `StarfishFileSystem` promises beyond fsspec's own suite."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest

from starfish_server import (
    MemoryObjectStore,
    StoreContext,
    StoreError,
    StoreUnavailableError,
    encode_key,
    errors,
)
from starfish_server.adapters.fsspec import StarfishFileSystem
from starfish_server.adapters.os_errors import os_errors
from starfish_server.layers import Timeout
from starfish_server.testing import Fault, FaultyStore, RecordingStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTEXT = StoreContext("files", {}, "alice", ("owner",), "pull", namespace="alice")
BODY = bytes(range(256)) * 4096  # 1 MiB


def made_of(*bodies: tuple[str, bytes]) -> tuple[RecordingStore, StarfishFileSystem]:
    """A file system with these objects, and the store that records what it asks for."""
    store = RecordingStore(MemoryObjectStore(data={}))
    fs = StarfishFileSystem(store=store)
    for name, body in bodies:
        fs.pipe_file(name, body)
    store.calls.clear()
    return store, fs


def reads(store: RecordingStore) -> list[tuple[int, int | None]]:
    return [(call.start, call.stop) for call in store.calls if call.name == "read"]  # type: ignore[attr-defined]


def moved(store: RecordingStore, size: int) -> int:
    """Bytes that the reads of an object of this size moved."""
    return sum((size if stop is None else min(stop, size)) - start for start, stop in reads(store))


def down(operation: str) -> StarfishFileSystem:
    """A file system over a store that is unavailable for that operation."""
    inner = MemoryObjectStore(data={"folder/name": "text"})
    faults = [Fault(error=StoreUnavailableError)] * 3
    return StarfishFileSystem(store=FaultyStore(inner, {operation: faults}))


def test_a_url_opens_a_file_of_the_store() -> None:
    store = MemoryObjectStore(data={"a/b.txt": "text"})
    with fsspec.open("starfish://a/b.txt", "r", store=store) as file:
        assert file.read() == "text"


async def test_an_asynchronous_file_system_is_awaited() -> None:
    fs = StarfishFileSystem(store=MemoryObjectStore(data={}), asynchronous=True)
    await fs._pipe_file("a/b", b"0123456789")
    assert await fs._cat_file("a/b", start=2, end=4) == b"23"


def test_a_store_serves_two_event_loops() -> None:
    async def use(fs: StarfishFileSystem) -> bytes:
        await fs._pipe_file("k", b"async")
        return await fs._cat_file("k")

    store = Timeout(MemoryObjectStore(data={}))
    assert asyncio.run(use(StarfishFileSystem(store=store, asynchronous=True))) == b"async"
    assert StarfishFileSystem(store=store).cat_file("k") == b"async"


def test_what_is_not_a_store_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a store, not dict"):
        StarfishFileSystem({})  # type: ignore[arg-type]  # the mistake


def test_file_systems_over_different_stores_are_different() -> None:
    first, second = MemoryObjectStore(data={}), MemoryObjectStore(data={})
    assert repr(first) == repr(second)
    assert StarfishFileSystem(store=first) == StarfishFileSystem(store=first)
    assert StarfishFileSystem(store=first) != StarfishFileSystem(store=second)
    assert StarfishFileSystem(store=first) != StarfishFileSystem(store=first, context=CONTEXT)


def test_the_context_reaches_every_operation(tmp_path: Path) -> None:
    store = RecordingStore(MemoryObjectStore(data={}))
    fs = StarfishFileSystem(store=store, context=CONTEXT)
    with fs.open("a/b", "wb", block_size=4) as file:
        file.write(b"01234567")
    fs.cat_file("a/b", start=-2)
    fs.copy("a/b", "a/c")
    fs.get_file("a/c", str(tmp_path / "c"))
    fs.put_file(str(tmp_path / "c"), "a/d")
    fs.find("a")
    fs.ls("a")
    fs.info("a")
    fs.rm("a/b")
    fs.rm("a", recursive=True)
    assert {call.context for call in store.calls} == {CONTEXT}
    assert {call.name for call in store.calls} >= {"upload", "read", "copy", "open", "stat", "delete_many"}


# Names and folders


def test_info_tells_what_the_store_knows() -> None:
    _, fs = made_of(("a/b", b"body"))
    info = fs.info("a/b")
    assert (info["name"], info["size"], info["type"]) == ("a/b", 4, "file")
    assert info["content_type"] == "application/octet-stream"
    assert info["version"]
    assert info["mtime"] > 0
    assert fs.info("/a/") == {"name": "a", "size": 0, "type": "directory"}


def test_a_folder_is_listed_by_one_request_for_one_level() -> None:
    store, fs = made_of(("a/b", b""), ("a/c/d", b""), ("ab", b""))
    assert fs.ls("a", detail=False) == ["a/b", "a/c"]
    assert [(call.name, call.delimiter) for call in store.calls] == [("list_objects", "/")]  # type: ignore[attr-defined]


def test_a_tree_is_found_by_one_flat_listing() -> None:
    store, fs = made_of(("a/b", b""), ("a/c/d", b""), ("a/c/e/f", b""), ("ab", b""))
    assert fs.find("a") == ["a/b", "a/c/d", "a/c/e/f"]
    assert [call.name for call in store.calls] == ["list_objects"]
    assert fs.find("a", withdirs=True) == ["a", "a/b", "a/c", "a/c/d", "a/c/e", "a/c/e/f"]
    assert fs.find("", withdirs=True)[:2] == ["a", "a/b"]
    assert fs.find("a", maxdepth=1) == ["a/b"]
    assert fs.find("ab") == ["ab"]


def test_a_tree_is_removed_by_one_request() -> None:
    store, fs = made_of(("a/b", b""), ("a/c/d", b""), ("ab", b""))
    fs.rm("a", recursive=True)
    assert [call.name for call in store.calls if call.writes] == ["delete_many"]
    assert fs.find("") == ["ab"]


@pytest.mark.parametrize("name", ["my file, 2026 (é).csv", "~", "a//b", "..", "k=v/ä"])
def test_names_of_any_text_under_portable_keys(name: str) -> None:
    store = MemoryObjectStore(data={})
    fs = StarfishFileSystem(store=store, encode_keys=True)
    path = f"ordner ä/{name}"
    fs.pipe_file(path, b"body")
    assert fs.cat_file(path) == b"body"
    assert fs.find("") == fs.find("ordner ä") == [path]
    assert fs.info(path)["name"] == path
    assert fs.ls("", detail=False) == ["ordner ä"]


def test_encoded_names_are_keys_of_encode_key() -> None:
    data: dict[str, str] = {}
    StarfishFileSystem(store=MemoryObjectStore(data=data), encode_keys=True).pipe_file("a b", b"")
    assert list(data) == [encode_key("a b")]


# Errors


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_an_oserror_or_not_implemented(name: str) -> None:
    kind = getattr(errors, name)
    error: StoreError = kind({"k": StoreError("no")}) if name == "DeleteManyError" else kind("why", key="k")
    with pytest.raises((OSError, NotImplementedError)) as caught, os_errors("a/path"):
        raise error
    assert caught.value is error or caught.value.__cause__ is error
    assert isinstance(caught.value, StoreError) or getattr(caught.value, "filename", None) == "a/path"


def test_what_is_missing_is_a_file_not_found_error(tmp_path: Path) -> None:
    _, fs = made_of()
    uses: list[Callable[[], object]] = [
        lambda: fs.info("a"),
        lambda: fs.ls("a"),
        lambda: fs.open("a"),
        lambda: fs.cat_file("a"),
        lambda: fs.cat_file("a", start=-8),
        lambda: fs.copy("a", "b"),
        lambda: fs.rm("a"),
        lambda: fs.get_file("a", str(tmp_path / "a")),
    ]
    for use in uses:
        with pytest.raises(FileNotFoundError):
            use()
    assert not (tmp_path / "a").exists()
    assert not fs.exists("a")


def test_a_key_that_no_object_can_have_is_missing_but_cannot_be_written() -> None:
    _, fs = made_of()
    assert not fs.exists("a b")
    assert not fs.isdir("a b")
    with pytest.raises(FileNotFoundError, match="invalid key"):
        fs.cat_file("a b")
    with pytest.raises(OSError, match="invalid key"):
        fs.pipe_file("a b", b"")


@pytest.mark.parametrize(
    ("operation", "method"),
    [
        ("stat", "exists"),
        ("stat", "isfile"),
        ("stat", "isdir"),
        ("list_objects", "find"),
        ("list_objects", "ls"),
        ("list_objects", "glob"),
        ("list_objects", "du"),
    ],
)
def test_a_failure_is_never_taken_for_a_missing_file(operation: str, method: str) -> None:
    path = "folder/*" if method == "glob" else "folder"
    with pytest.raises(OSError, match="injected fault"):
        getattr(down(operation), method)(path)


def test_a_folder_is_not_opened_as_a_file() -> None:
    _, fs = made_of(("a/b", b""))
    with pytest.raises(IsADirectoryError):
        fs.open("a")


def test_urls_are_signed_where_the_store_signs() -> None:
    class Signing(RecordingStore):
        async def signed(self) -> str:
            return "https://host/a?signature"

        def perform(self, operation: Any) -> Any:
            return self.signed() if operation.name == "signed_url" else super().perform(operation)

    assert StarfishFileSystem(Signing(MemoryObjectStore(data={}))).sign("a", 60) == "https://host/a?signature"
    with pytest.raises(NotImplementedError):
        made_of()[1].sign("a")


# Reading


def test_a_range_moves_only_its_bytes() -> None:
    store, fs = made_of(("a", BODY))
    assert fs.cat_file("a", start=1000, end=1500) == BODY[1000:1500]
    assert fs.cat_ranges(["a", "a"], [0, 7], [2, 9]) == [BODY[:2], BODY[7:9]]
    assert sorted(reads(store)) == [(0, 2), (7, 9), (1000, 1500)]


@pytest.mark.parametrize(
    ("start", "stop"), [(-8, None), (-8, -4), (4, -4), (None, -1), (-(2**30), None), (8, 4), (2**30, None)]
)
def test_a_range_counts_as_a_slice(start: int | None, stop: int | None) -> None:
    _, fs = made_of(("a", BODY))
    assert fs.cat_file("a", start=start, end=stop) == BODY[start:stop]


def test_offsets_may_be_integers_of_numpy() -> None:
    _, fs = made_of(("a", BODY))
    assert fs.cat_ranges(["a"], np.array([5]), np.array([9])) == [BODY[5:9]]
    assert fs.cat_file("a", start=np.int64(-3)) == BODY[-3:]


def test_the_end_of_an_object_takes_one_request_once_its_size_is_known() -> None:
    store, fs = made_of(("a", BODY))
    for _ in range(3):
        assert fs.cat_file("a", start=-8) == BODY[-8:]
    assert [call.name for call in store.calls] == ["stat", "read", "read", "read"]


def test_the_end_of_an_object_that_was_replaced_is_that_of_the_new_one() -> None:
    _, fs = made_of(("a", BODY))
    fs.cat_file("a", start=-8)
    for body in (b"shorter", BODY + b"longer"):
        fs.pipe_file("a", body)
        assert fs.cat_file("a", start=-3) == body[-3:]


def test_a_member_of_an_archive_moves_little_more_than_its_bytes() -> None:
    """As a column of a parquet file: the footer is read first, then what it points to."""
    store, fs = made_of()
    with fs.open("a.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for number in range(16):
            archive.writestr(f"{number}", BODY)
    size = fs.size("a.zip")
    store.calls.clear()
    with fs.open("a.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("7") == BODY
    assert size > 16 * len(BODY)
    assert moved(store, size) < 1.4 * len(BODY)


def test_a_file_that_is_read_in_order_takes_few_requests() -> None:
    store, fs = made_of(("a", BODY * 8))
    with fs.open("a") as file:
        while file.read(1000):
            pass
    assert len(reads(store)) <= 9
    assert moved(store, 8 * len(BODY)) == 8 * len(BODY)


def test_a_file_that_is_replaced_while_it_is_read_is_an_error() -> None:
    _, fs = made_of(("a", BODY))
    with fs.open("a") as file:
        assert file.read(4) == BODY[:4]
        fs.pipe_file("a", BODY[::-1])
        file.seek(500_000)
        with pytest.raises(OSError, match="replaced while it was read"):
            file.read(4)


def test_a_whole_object_is_streamed_to_a_local_file_and_back(tmp_path: Path) -> None:
    store, fs = made_of(("a", BODY))
    fs.get_file("a", str(tmp_path / "a"))
    fs.put_file(str(tmp_path / "a"), "b", content_type="image/png")
    assert [call.name for call in store.calls] == ["open", "upload"]
    assert fs.cat_file("b") == BODY
    assert fs.info("b")["content_type"] == "image/png"


# Writing


def test_a_small_file_is_one_write_and_a_large_one_an_upload() -> None:
    store, fs = made_of()
    for size in (10, 100):
        with fs.open("a", "wb", block_size=32, metadata={"author": "alice"}) as file:
            for _ in range(size):
                file.write(b"x")
        assert fs.cat_file("a") == b"x" * size
        assert fs.info("a")["metadata"] == {"author": "alice"}
    assert [call.name for call in store.calls if call.writes] == ["write", "upload"]


@pytest.mark.parametrize("size", [10, 100])
def test_a_file_whose_writing_raises_leaves_nothing(size: int) -> None:
    _, fs = made_of()
    with pytest.raises(LookupError), fs.open("a", "wb", block_size=32) as file:  # noqa: PT012 - the last one raises
        file.write(b"x" * size)
        raise LookupError("the source broke")
    assert fs.find("") == []


@pytest.mark.parametrize("writes", [1, 5])
def test_an_upload_that_fails_raises_and_leaves_nothing(writes: int) -> None:
    inner = MemoryObjectStore(data={})
    fs = StarfishFileSystem(store=FaultyStore(inner, {"upload": [Fault(error=StoreUnavailableError)]}))
    with pytest.raises(OSError, match="injected fault"), fs.open("a", "wb", block_size=32) as file:  # noqa: PT012
        for _ in range(writes):
            file.write(b"x" * 40)
    assert fs.find("") == []


@pytest.mark.parametrize("size", [10, 100])
def test_files_of_a_transaction_appear_together_at_its_end(size: int) -> None:
    _, fs = made_of()
    with fs.transaction:
        for name in "ab":
            with fs.open(name, "wb", block_size=32) as file:
                file.write(b"x" * size)
        assert fs.find("") == []
    assert fs.find("") == ["a", "b"]
    assert fs.cat_file("b") == b"x" * size


@pytest.mark.parametrize("size", [10, 100])
def test_a_transaction_that_raises_writes_nothing(size: int) -> None:
    _, fs = made_of()
    with pytest.raises(LookupError), fs.transaction, fs.open("a", "wb", block_size=32) as file:  # noqa: PT012
        file.write(b"x" * size)
        raise LookupError
    assert fs.find("") == []


@pytest.mark.parametrize("size", [10, 100])
def test_an_exclusive_file_does_not_replace_one_that_came_meanwhile(size: int) -> None:
    _, fs = made_of()
    file = fs.open("a", "xb", block_size=32)
    fs.pipe_file("a", b"first")
    with pytest.raises(FileExistsError), file:
        file.write(b"x" * size)
    assert fs.cat_file("a") == b"first"


def test_nothing_is_appended() -> None:
    with pytest.raises(NotImplementedError, match="'ab'"):
        made_of()[1].open("a", "ab")


def test_without_the_extra_the_import_says_how_to_install_it() -> None:
    for extra in ("fsspec", "zarr"):
        code = f"import sys; sys.modules[{extra!r}] = None; import starfish_server.adapters.{extra}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"pip install 'starfish-server[{extra}]'" in done.stderr
