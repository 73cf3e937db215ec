"""Where the system refuses to start a thread, operations fail with an error of the store, and for good."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from starfish_server.errors import StoreUnavailableError
from storage.filesystem_support import make_store, present, temporary_files, visible_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import S3Server
    from starfish_server.storage.base import AbstractObjectStore
    from starfish_server.storage.s3 import S3ObjectStore

MIB = 1024 * 1024

OPERATIONS: dict[str, Callable[[AbstractObjectStore], Any]] = {
    "get_string": lambda store: store.get_string("k"),
    "get_bytes": lambda store: store.get_bytes("k"),
    "stat": lambda store: store.stat("k"),
    "read": lambda store: store.read("k"),
    "open": lambda store: store.open("k"),
    "list_keys": lambda store: store.list_keys("k"),
    "list_objects": lambda store: store.list_objects("k"),
    "put": lambda store: store.put("k", "x"),
    "put_bytes": lambda store: store.put_bytes("k", b"x", content_type="a/b"),
    "write": lambda store: store.write("k", "x"),
    "delete": lambda store: store.delete("k"),
    "delete_many": lambda store: store.delete_many(["k"]),
    "copy": lambda store: store.copy("k", "copied"),
    "upload": lambda store: store.upload("k", [b"x"]),
}


class _Busy(ThreadPoolExecutor):
    """Its one thread is held up until it is shut down; it could have a second one."""

    def __init__(self) -> None:
        super().__init__(2)
        self._shut_down = threading.Event()
        self.submit(self._shut_down.wait, 100)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._shut_down.set()
        super().shutdown(wait, cancel_futures=cancel_futures)


@contextmanager
def _no_thread_starts() -> Iterator[None]:
    """Afterwards, what waits for a thread is done."""
    executor = _Busy()
    asyncio.get_running_loop().set_default_executor(executor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse)
        yield
        executor.shutdown()


def _refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_operation_on_files_is_unavailable_and_never_done_later(
    tmp_path: Path, operation: str
) -> None:
    (tmp_path / "k").write_text("old")
    store = make_store(tmp_path)
    with _no_thread_starts():
        with pytest.raises(StoreUnavailableError, match="can't start new thread") as caught:
            await OPERATIONS[operation](store)
        key = {"delete_many": None, "copy": "copied"}.get(operation, "k")
        assert (caught.value.operation, caught.value.key) == (operation, key)
    assert visible_entries(tmp_path) == ["k"]
    assert (tmp_path / "k").read_text() == "old"


@pytest.mark.parametrize("batches", [1, 2])
async def test_an_upload_that_gets_no_thread_leaves_nothing(tmp_path: Path, batches: int) -> None:
    with ExitStack() as later:

        def chunks() -> Iterator[bytes]:
            yield b"x" * 5 * MIB
            later.enter_context(_no_thread_starts())
            yield from [b"x" * 5 * MIB] * (batches - 1)

        with pytest.raises(StoreUnavailableError, match="can't start new thread"):
            await make_store(tmp_path).upload("k", chunks())
        assert temporary_files(tmp_path) == []
    assert visible_entries(tmp_path) == []
    assert temporary_files(tmp_path) == []


async def test_a_reader_that_gets_no_thread_fails(tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(b"x" * 5 * MIB)
    reader = present(await make_store(tmp_path).open("k"))
    with _no_thread_starts(), pytest.raises(StoreUnavailableError, match="can't start new thread") as caught:
        await reader.read()
    assert (caught.value.operation, caught.value.key) == ("open", "k")


async def test_what_another_thread_has_taken_already_counts(tmp_path: Path) -> None:
    class Refusing(ThreadPoolExecutor):
        def submit(self, *work: Any, **options: Any) -> Future[Any]:
            super().submit(*work, **options).exception()
            raise RuntimeError("can't start new thread")

    asyncio.get_running_loop().set_default_executor(Refusing())
    async with make_store(tmp_path) as store:
        info = await store.write("k", "x")
        assert info == await store.stat("k")


@pytest.mark.usefixtures("no_waiting")
async def test_a_long_body_for_s3_that_gets_no_thread_is_unavailable(
    seaweedfs: S3Server, make_s3: Callable[..., S3ObjectStore]
) -> None:
    store = make_s3(seaweedfs)
    await store.put("k", "old")
    with _no_thread_starts(), pytest.raises(StoreUnavailableError, match="can't start new thread") as caught:
        await store.put_bytes("k", b"x" * 2 * MIB, content_type="a/b")
    assert (caught.value.operation, caught.value.key) == ("put_bytes", "k")
    assert await store.get_string("k") == "old"
