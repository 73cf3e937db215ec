"""What `StarfishFileSystem` promises beyond fsspec's own suite."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec.asyn import sync

from adapters.stores import made_of
from starfish_server import (
    CustomObjectStore,
    DeleteManyError,
    MemoryObjectStore,
    StoreAccessDeniedError,
    StoreContext,
    StoreError,
    StoreUnavailableError,
    encode_key,
    errors,
)
from starfish_server.adapters.fsspec import StarfishFileSystem
from starfish_server.adapters.os_errors import os_errors
from starfish_server.layers import Compression, Timeout
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions
from starfish_server.testing import Fault, FaultyStore, RecordingStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTEXT = StoreContext("files", {}, "alice", ("owner",), "pull", namespace="alice")


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


@pytest.mark.parametrize("protocol", ["simplecache", "filecache", "dir"])
def test_a_file_system_that_wraps_another_reads_the_store_of_that_one(protocol: str) -> None:
    for body in (b"first", b"second"):
        _, fs = made_of(("folder/a", body))
        options = {"path": "folder"} if protocol == "dir" else {}
        wrapping = fsspec.filesystem(protocol, fs=fs, **options)
        assert wrapping.cat("a" if options else "folder/a") == body


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


def test_a_listing_may_be_narrowed_to_names_that_begin_alike() -> None:
    bodies = (("a/2025-1", b""), ("a/2026-1", b""), ("a/2026/b", b""), ("a/x/2026", b""))
    store, fs = made_of(*bodies)
    assert fs.find("a", prefix="2026") == ["a/2026-1", "a/2026/b"]
    assert [call.prefix for call in store.calls] == ["a/2026"]
    assert fs.find("a/2025-1", prefix="2") == []
    assert fs.find("a", prefix="2026", withdirs=True) == ["a/2026", "a/2026-1", "a/2026/b"]
    assert fs.find("a", prefix="2026", maxdepth=1) == ["a/2026-1"]


def test_encoded_names_that_begin_alike_are_found() -> None:
    fs = StarfishFileSystem(store=MemoryObjectStore(data={}), encode_keys=True)
    fs.pipe({"ä/.x": b"", "ä/é": b""})
    assert fs.find("ä", prefix=".") == ["ä/.x"]
    assert fs.find("ä", prefix="é") == fs.glob("ä/é*") == ["ä/é"]


def test_many_objects_are_removed_by_one_request() -> None:
    """Objects named by the caller are looked up first; those that a pattern finds are not."""
    names = [f"a/{number}" for number in range(100)]
    store, fs = made_of(*((name, b"") for name in [*names, "b"]))
    fs.rm(names[2:10])
    assert [call.name for call in store.calls] == ["stat"] * 8 + ["delete_many"]
    store.calls.clear()
    fs.rm("a/*")
    assert [call.name for call in store.calls if call.writes] == ["delete_many"]
    assert len(store.calls) < 10
    assert fs.find("") == ["b"]


@pytest.mark.parametrize("path", [["ab", "missing"], ["ab", "missing*"], "missing*"])
def test_nothing_is_removed_if_a_name_has_no_object(path: str | list[str]) -> None:
    _, fs = made_of(("a/b", b""), ("ab", b""))
    with pytest.raises(FileNotFoundError):
        fs.rm(path)
    assert fs.find("") == ["a/b", "ab"]


@pytest.mark.parametrize("path", [["ab", "a"], "a", "a/", "a*", ["ab", "a*"], ""])
def test_nothing_is_removed_if_a_name_or_pattern_matches_a_folder(path: str | list[str]) -> None:
    _, fs = made_of(("a/b", b""), ("ab", b""))
    with pytest.raises(IsADirectoryError, match="recursive=True"):
        fs.rm(path)
    assert fs.find("") == ["a/b", "ab"]


def test_a_pattern_removes_an_object_named_like_a_folder() -> None:
    _, fs = made_of(("a", b""), ("a/b", b""))
    fs.rm("a*")
    assert fs.find("") == ["a/b"]


def test_a_single_object_is_removed_by_its_literal_name() -> None:
    _, fs = made_of(("ab", b""), ("a/b", b""))
    with pytest.raises(FileNotFoundError):
        fs.rm_file("a*")
    with pytest.raises(IsADirectoryError):
        fs.rm_file("a")
    fs.rm_file("ab")
    assert fs.find("") == ["a/b"]


def test_a_deletion_that_is_denied_is_a_permission_error() -> None:
    denied = DeleteManyError({"a": StoreAccessDeniedError("no"), "b": StoreUnavailableError("down")})
    inner = MemoryObjectStore(data={"a": "", "b": ""})
    fs = StarfishFileSystem(store=FaultyStore(inner, {"delete_many": [Fault(error=lambda _: denied)]}))
    with pytest.raises(PermissionError, match="2 keys were not deleted: 'a': no"):
        fs.rm(["a", "b"])


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
    fs.pipe_file(path, value=b"body")
    assert fs.cat_file(path) == b"body"
    assert fs.find("") == fs.find("ordner ä") == [path]
    assert fs.info(path)["name"] == path
    assert fs.ls("", detail=False) == ["ordner ä"]


def test_encoded_names_are_keys_of_encode_key() -> None:
    data: dict[str, str] = {}
    StarfishFileSystem(store=MemoryObjectStore(data=data), encode_keys=True).pipe_file("a b", b"")
    assert list(data) == [encode_key("a b")]


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


def test_a_walk_of_a_missing_folder_finds_nothing() -> None:
    """Newer versions of fsspec yield the folder itself, as an empty one."""
    _, fs = made_of(("a/b", b""))
    assert list(fs.walk("missing")) in ([], [("missing", [], [])])


def test_a_folder_is_moved() -> None:
    _, fs = made_of(("a/b", b"1"), ("a/c/d", b"2"))
    fs.mv("a", "z", recursive=True)
    assert fs.find("") == ["z/b", "z/c/d"]


@pytest.mark.parametrize(
    ("source", "target", "left"),
    [
        ("a", "starfish://a", ["a", "d/x", "d/y/z"]),
        ("d/x", "d/", ["a", "d/x", "d/y/z"]),
        ("d", "/d/", ["a", "d/x", "d/y/z"]),
        ("d", "d/old", ["a", "d/old/x", "d/old/y/z"]),
    ],
)
def test_what_is_moved_onto_or_into_itself_is_not_lost(source: str, target: str, left: list[str]) -> None:
    _, fs = made_of(("a", b"1"), ("d/x", b"2"), ("d/y/z", b"3"))
    fs.mv(source, target, recursive=source == "d")
    assert fs.find("") == left


def test_what_lies_too_deep_to_be_moved_stays() -> None:
    _, fs = made_of(("a/1", b""), ("a/2", b""), ("a/b/c", b""))
    fs.mv("a", "z", recursive=True, maxdepth=1)
    assert fs.find("") == ["a/b/c", "z/1", "z/2"]


@pytest.mark.parametrize(
    ("sources", "targets"), [(["a", "b"], ["b", "a"]), (["a", "b"], ["c", "c"]), ("d/", "d/y")]
)
def test_nothing_is_moved_if_an_object_would_be_lost(sources: Any, targets: Any) -> None:
    store, fs = made_of(("a", b"1"), ("b", b"2"), ("d/x", b"3"), ("d/y/z", b"4"))
    with pytest.raises(OSError, match="nothing was moved"):
        fs.mv(sources, targets, recursive=sources == "d/")
    assert not any(call.writes for call in store.calls)


@pytest.mark.parametrize(
    ("source", "error"), [("d", IsADirectoryError), ("*", IsADirectoryError), ("missing", FileNotFoundError)]
)
def test_nothing_is_moved_without_recursive_if_a_folder_matches(source: str, error: type[OSError]) -> None:
    store, fs = made_of(("a", b"1"), ("d/x", b"2"))
    with pytest.raises(error):
        fs.mv(source, "new/")
    assert not any(call.writes for call in store.calls)


def test_a_name_of_the_root_is_copied_into_a_folder(tmp_path: Path) -> None:
    """As names of other folders do. fsspec alone would write to the key of the folder, or write nothing."""
    _, fs = made_of(("top.txt", b"1"), ("a/b", b"2"), ("folder/c", b"3"))
    fs.cp("top.txt", "folder/")
    fs.cp("top.t*", "new")
    fs.mv("a", "folder", recursive=True)
    assert fs.find("") == ["folder/a/b", "folder/c", "folder/top.txt", "new/top.txt", "top.txt"]
    fs.get("top.txt", str(tmp_path))
    fs.get("top.*", f"{tmp_path}/matches/")
    fs.get("folder", f"{tmp_path}/", recursive=True)
    local = fsspec.filesystem("dir", path=str(tmp_path), fs=fsspec.filesystem("file"))
    assert local.find("") == ["folder/a/b", "folder/c", "folder/top.txt", "matches/top.txt", "top.txt"]


def test_a_name_of_the_root_is_copied_to_a_new_name(tmp_path: Path) -> None:
    _, fs = made_of(("top.txt", b"1"), ("a/b", b"2"), ("z/c", b"3"))
    fs.cp("top.txt", "copy.txt")
    fs.cp("a", "copy", recursive=True)
    fs.cp("a/", "z", recursive=True)
    fs.get("top.txt", f"{tmp_path}/copy.txt")
    assert fs.find("") == ["a/b", "copy.txt", "copy/b", "top.txt", "z/b", "z/c"]
    assert (tmp_path / "copy.txt").read_bytes() == b"1"


def test_no_name_leads_out_of_the_local_folder_that_it_is_copied_to(tmp_path: Path) -> None:
    """An encoded name may have any segments, and only newer versions of fsspec check them."""
    fs = StarfishFileSystem(store=MemoryObjectStore(data={}), encode_keys=True)
    fs.pipe({"a/../../outside": b"", "a/b": b""})
    for source in ("a", "a/*", ""):
        with pytest.raises(ValueError, match="outside the destination"):
            fs.get(source, f"{tmp_path}/x/y/", recursive=True)
    assert not [path for path in tmp_path.rglob("*") if path.name == "outside"]


def test_a_single_file_is_not_copied_to_or_from_a_local_folder(tmp_path: Path) -> None:
    _, fs = made_of(("a", b"1"))
    with pytest.raises(IsADirectoryError):
        fs.get_file("a", str(tmp_path))
    with pytest.raises(IsADirectoryError):
        fs.put_file(str(tmp_path), "b")
    assert fs.find("") == ["a"]


def test_the_whole_store_is_copied_into_a_folder() -> None:
    _, fs = made_of(("top.txt", b"1"), ("a/b", b"2"))
    fs.cp("", "copy", recursive=True)
    assert fs.find("copy") == ["copy/a/b", "copy/top.txt"]


def test_modified_is_the_time_of_the_last_write() -> None:
    store, fs = made_of(("a/b", b""))
    assert fs.modified("a/b") == sync(fs.loop, store.stat, "a/b").modified
    with pytest.raises(FileNotFoundError):
        fs.modified("missing")
    with pytest.raises(IsADirectoryError):
        fs.modified("a")


def test_modified_is_not_implemented_for_a_store_without_times() -> None:
    fs = StarfishFileSystem(store=CustomObjectStore(on_get={"a": "text"}.get))
    with pytest.raises(NotImplementedError, match="time"):
        fs.modified("a")


def test_sizes_are_added_up_from_one_flat_listing() -> None:
    store, fs = made_of(("a/b", b"12"), ("a/c/d", b"345"))
    assert fs.du("a") == 5
    assert fs.du("a", total=False) == {"a/b": 2, "a/c/d": 3}
    assert [call.name for call in store.calls] == ["list_objects"] * 2


def test_sizes_missing_from_a_listing_are_requested_from_the_objects() -> None:
    fs = StarfishFileSystem(store=Compression(MemoryObjectStore(data={}), algorithm="gzip"))
    fs.pipe_file("a/b", b"x" * 5000)
    assert fs.find("a", detail=True)["a/b"]["size"] is None
    assert fs.du("a") == 5000


def test_a_folder_is_not_opened_as_a_file() -> None:
    _, fs = made_of(("a/b", b""))
    with pytest.raises(IsADirectoryError):
        fs.open("a")


@pytest.mark.parametrize("kind", ["memory", "filesystem", "stack"])
def test_what_holds_a_live_store_is_not_pickled(kind: str, tmp_path: Path) -> None:
    """A pickled memory store would be a copy, whose writes are lost."""
    leaf = FilesystemObjectStore(FilesystemStorageOptions(base_dir=str(tmp_path)))
    store = {"memory": MemoryObjectStore(data={}), "filesystem": leaf, "stack": Timeout(leaf)}[kind]
    fs = StarfishFileSystem(store=store)
    fs.pipe_file("a", b"body")
    for what in (fs, fs.get_mapper("a"), fs.open("a"), fsspec.open("starfish://a", store=store)):
        with pytest.raises(TypeError, match="make one in each process"):
            pickle.dumps(what)
    with pytest.raises(TypeError, match="make one in each process"):
        fs.to_json()


def test_urls_are_signed_where_the_store_signs() -> None:
    class Signing(RecordingStore):
        async def signed(self) -> str:
            return "https://host/a?signature"

        def perform(self, operation: Any) -> Any:
            return self.signed() if operation.name == "signed_url" else super().perform(operation)

    assert StarfishFileSystem(Signing(MemoryObjectStore(data={}))).sign("a", 60) == "https://host/a?signature"
    with pytest.raises(NotImplementedError):
        made_of()[1].sign("a")


def test_without_the_extra_the_import_says_how_to_install_it() -> None:
    for extra in ("fsspec", "zarr"):
        code = f"import sys; sys.modules[{extra!r}] = None; import starfish_server.adapters.{extra}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"pip install 'starfish-server[{extra}]'" in done.stderr
