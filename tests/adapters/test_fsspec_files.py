"""Files of `StarfishFileSystem`: what reading moves, and what writing makes visible."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from adapters.stores import made_of
from starfish_server import CustomObjectStore, MemoryObjectStore, ObjectInfo, StoreUnavailableError
from starfish_server.adapters.fsspec import StarfishFileSystem
from starfish_server.testing import Fault, FaultyStore, RecordingStore

if TYPE_CHECKING:
    from pathlib import Path

BODY = bytes(range(256)) * 4096  # 1 MiB


def reads(store: RecordingStore) -> list[tuple[int, int | None]]:
    return [(call.start, call.stop) for call in store.calls if call.name == "read"]  # type: ignore[attr-defined]


def moved(store: RecordingStore, size: int) -> int:
    """Bytes that the reads of an object of this size moved."""
    return sum((size if stop is None else min(stop, size)) - start for start, stop in reads(store))


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


def test_the_end_of_an_object_that_was_deleted_is_missing() -> None:
    _, fs = made_of(("a", BODY))
    fs.cat_file("a", start=-8)
    fs.rm("a")
    with pytest.raises(FileNotFoundError):
        fs.cat_file("a", start=-8)


def test_an_object_of_unknown_size_is_read_but_not_opened() -> None:
    store = CustomObjectStore(on_get={"a": "text"}.get, on_stat=lambda key: ObjectInfo(key, None))
    fs = StarfishFileSystem(store=store)
    assert fs.cat_file("a", start=-3, end=-1) == b"ex"
    with pytest.raises(NotImplementedError, match="size"):
        fs.open("a")
    with fs.open("a", size=4) as file:
        assert file.read() == b"text"


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
