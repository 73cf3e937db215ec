"""`MemoryObjectStore`: its dict is shared, separate, or the caller's own."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading

from starfish_server import MemoryObjectStore

FORK_DURING_A_PUT = """
import asyncio, os, signal, sys, threading
from starfish_server import MemoryObjectStore

begun, end = threading.Event(), threading.Event()

class Slow(dict):
    def __setitem__(self, key, value):
        begun.set()
        assert end.wait(100.0)
        super().__setitem__(key, value)

put = MemoryObjectStore(data=Slow()).put("k", "v")
thread = threading.Thread(target=asyncio.run, args=(put,))
thread.start()
assert begun.wait(100.0)
child = os.fork()
if child == 0:
    signal.alarm(40)
    asyncio.run(MemoryObjectStore(data={}).put("k", "v"))
    os._exit(0)
end.set()
thread.join()
sys.exit(os.waitpid(child, 0)[1])
"""


async def test_stores_without_data_share_one_dict() -> None:
    await MemoryObjectStore().put("memory/shared", "v")
    assert await MemoryObjectStore().get_string("memory/shared") == "v"
    await MemoryObjectStore().delete("memory/shared")
    assert await MemoryObjectStore().get_string("memory/shared") is None


async def test_an_empty_dict_makes_a_separate_store() -> None:
    one, other = MemoryObjectStore(data={}), MemoryObjectStore(data={})
    await one.put("k", "v")
    assert await other.get_string("k") is None
    assert await MemoryObjectStore().get_string("k") is None


async def test_a_dict_passed_in_stays_the_live_backing() -> None:
    data: dict[str, str] = {"before": "1"}
    store = MemoryObjectStore(data=data)
    await store.put("put", "2", content_type="application/json")
    data["after"] = "3"
    assert data == {"before": "1", "put": "2", "after": "3"}
    assert await store.list_keys("") == ["after", "before", "put"]
    assert await store.get_bytes("after") == (b"3", "text/plain; charset=utf-8")


async def test_bytes_without_a_type_read_as_octet_stream() -> None:
    data: dict[str, str | bytes] = {"raw": b"\x00"}
    assert await MemoryObjectStore(data=data).get_bytes("raw") == (b"\x00", "application/octet-stream")


async def test_text_and_bytes_share_the_keys() -> None:
    data: dict[str, str | bytes] = {}
    store = MemoryObjectStore(data=data)
    await store.put_bytes("k", b"bytes", content_type="image/png")
    await store.put("k", "text")
    assert data == {"k": "text"}
    assert type(await store.get_string("k")) is str


async def test_text_of_another_class_is_stored_by_its_characters() -> None:
    class Named(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "its name"

    data: dict[str, str] = {"live": Named("value")}
    store = MemoryObjectStore(data=data)
    await store.put("put", Named("value"))
    await store.write("written", Named("value"), if_version=None)
    assert [await store.get_string(key) for key in ("live", "put", "written")] == ["value"] * 3


async def test_two_stores_over_one_dict_see_each_others_content_types() -> None:
    data: dict[str, str] = {}
    await MemoryObjectStore(data=data).put("k", "{}", content_type="application/json")
    assert await MemoryObjectStore(data=data).get_bytes("k") == (b"{}", "application/json")


def test_a_store_can_be_made_over_a_dict_to_which_another_thread_writes() -> None:
    data = {f"key-{number}": "value" for number in range(10_000)}
    writing = threading.Event()
    ended = threading.Event()

    def write() -> None:
        for number in itertools.count():
            data[f"other-{number % 1000}"] = "value"
            writing.set()
            if ended.is_set():
                return
            del data[f"other-{number % 1000}"]

    thread = threading.Thread(target=write)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        assert writing.wait(100.0)
        for _ in range(50):
            MemoryObjectStore(data)
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        thread.join()


def test_repr_shows_no_content() -> None:
    assert repr(MemoryObjectStore(data={"k": "secret"})) == "MemoryObjectStore(1 objects)"
    assert repr(MemoryObjectStore()) == "MemoryObjectStore(shared)"


def test_a_child_forked_while_another_thread_writes_can_write() -> None:
    program = [sys.executable, "-W", "ignore", "-c", FORK_DURING_A_PUT]
    assert subprocess.run(program, timeout=60, check=False).returncode == 0
