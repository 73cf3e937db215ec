from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from layers.access_records import record
from starfish_server.audit.chain import verify_audit_log
from starfish_server.audit.json_lines import JsonLinesSink
from starfish_server.errors import StackError, StoreClosedError
from starfish_server.layers.access_log import AccessLog
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable


def keys(*files: Path) -> list[str]:
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [json.loads(line)["keys"][0] for line in lines]


async def write(path: Path, names: list[str], **options: Any) -> None:
    sink = JsonLinesSink(path, **options)
    for name in names:
        sink(record(name))
    await sink.close()


async def test_every_accepted_record_is_in_the_file_after_close(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    names = [f"k{number}" for number in range(5_000)]
    log = AccessLog(MemoryObjectStore({}), sink=JsonLinesSink(path, max_queued=7), sink_timeout=600.0)
    await asyncio.gather(*(log.put(name, "v") for name in names))
    await log.close()
    assert keys(path) == names


async def test_a_new_sink_goes_on_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    await write(path, ["a", "b"])
    await write(path, ["c"])
    assert keys(path) == ["a", "b", "c"]


async def test_the_file_is_not_for_everybody_to_read(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    await write(path, ["a"])
    assert path.stat().st_mode & 0o007 == 0


async def test_a_file_is_rotated_before_it_passes_its_size(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    size = len(record("k00").to_json()) + 1
    names = [f"k{number:02}" for number in range(25)]
    await write(path, names[:13], max_bytes=2 * size)
    await write(path, names[13:], max_bytes=2 * size)
    files = [*(path.with_name(f"audit.jsonl.{number}") for number in range(1, 13)), path]
    assert [file.stat().st_size for file in files] == [*[2 * size] * 12, size]
    assert keys(*files) == names


@pytest.mark.parametrize("backups", [0, 1, 2, 3, 4, 8, 20])
async def test_old_files_past_backups_are_deleted_and_no_other(tmp_path: Path, backups: int) -> None:
    path, rotations = tmp_path / "audit.jsonl", 9
    await write(path, [f"k{number}" for number in range(rotations + 1)], max_bytes=1, backups=backups)
    kept = range(max(0, rotations - backups) + 1, rotations + 1)
    expected = {"audit.jsonl", "audit.jsonl.lock", *(f"audit.jsonl.{number}" for number in kept)}
    assert set(os.listdir(tmp_path)) == expected


async def test_others_can_read_no_file_of_the_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    before = os.umask(0o022)
    try:
        await write(path, ["a", "b"], max_bytes=1)
        with path.open("ab") as file:
            file.write(b'{"keys":["c')
        await write(path, ["d"])
    finally:
        os.umask(before)
    modes = {name: os.stat(tmp_path / name).st_mode & 0o777 for name in os.listdir(tmp_path)}
    names = ("audit.jsonl", "audit.jsonl.1", "audit.jsonl.lock", "audit.jsonl.torn")
    assert modes == dict.fromkeys(names, 0o640)


async def test_an_unfinished_line_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit.jsonl"
    await write(path, ["a"])
    with path.open("ab") as file:
        file.write(b'{"keys":["b')
    await write(path, ["c"])
    assert keys(path) == ["a", "c"]
    assert path.with_name("audit.jsonl.torn").read_bytes() == b'{"keys":["b\n'
    assert caplog.messages == ["audit.jsonl: 11 bytes of an unfinished line moved aside"]


async def test_a_file_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    first = JsonLinesSink(path)
    with pytest.raises(StackError, match="another sink or process"):
        JsonLinesSink(tmp_path / "." / "audit.jsonl")
    await first.close()
    await JsonLinesSink(path).close()


async def test_a_forked_child_is_refused_and_does_not_keep_the_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonLinesSink(path)
    ready, done = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests' threads may still be ending
        child = os.fork()
    if child == 0:
        try:
            sink(record())
        except RuntimeError:
            os.write(done, b"refused")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(ready, 7) == b"refused"
        await sink.close()
        await JsonLinesSink(path).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)  # noqa: ASYNC222 - it was killed
        os.close(ready)
        os.close(done)


async def test_records_after_close_are_refused_and_close_twice_is_fine(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "audit.jsonl")
    await sink.close()
    await sink.close()
    with pytest.raises(StoreClosedError):
        sink(record())


async def test_keep_returns_when_the_record_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonLinesSink(path, fsync=True)
    await sink.keep(record("a"))
    assert keys(path) == ["a"]
    await sink.close()


@pytest.mark.parametrize("fsync", [True, False])
async def test_with_fsync_a_record_is_forced_to_the_disk_before_keep_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: bool
) -> None:
    path = tmp_path / "audit.jsonl"
    forced: list[tuple[str, int]] = []

    def force(file: int, real: Callable[[int], None] = os.fsync) -> None:
        real(file)
        forced.append((os.path.basename(os.readlink(f"/proc/self/fd/{file}")), os.fstat(file).st_size))

    monkeypatch.setattr(os, "fsync", force)
    sink = JsonLinesSink(path, fsync=fsync)
    assert [name for name, _ in forced] == ([tmp_path.name] if fsync else [])  # the folder: its new entry
    await sink.keep(record("a"))
    assert forced[1:] == ([("audit.jsonl", path.stat().st_size)] if fsync else [])
    await sink.close()


def test_what_is_queued_is_written_at_the_end_of_a_process_that_forgot_to_close(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    script = (
        "import sys\nfrom layers.access_records import record\n"
        "from starfish_server.audit.json_lines import JsonLinesSink\n"
        "sink = JsonLinesSink(sys.argv[1])\n"
        "for number in range(50_000): sink(record(f'k{number}'))\n"
    )
    tests = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", script, path], check=True, env=os.environ | {"PYTHONPATH": tests})
    assert keys(path) == [f"k{number}" for number in range(50_000)]


async def test_a_hundred_thousand_keys_are_one_line_with_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    names = [f"users/{number:06}/document" for number in range(100_000)]
    log = AccessLog(MemoryObjectStore({}), sink=JsonLinesSink(path, max_bytes=1_000, chain=True))
    await log.put("a", "v")
    await log.delete_many(names)
    await log.close()
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["keys"] == names
    assert verify_audit_log(path).ok


@pytest.mark.parametrize(
    "options",
    [
        {"max_bytes": 0},
        {"backups": 3},
        {"max_bytes": 10, "backups": -1},
        {"key": b"k" * 16},
        {"chain": True, "key": b"short"},
        {"max_queued": 0},
        {"when_full": "block"},
    ],
)
async def test_options_that_make_no_sense_are_refused_and_leave_no_lock(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"must|needs|is"):
        JsonLinesSink(tmp_path / "audit.jsonl", **options)
    await JsonLinesSink(tmp_path / "audit.jsonl").close()


def test_a_key_that_is_neither_bytes_nor_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="key must be bytes or str, not int"):
        JsonLinesSink(tmp_path / "audit.jsonl", chain=True, key=cast("bytes", 1234567890123456))


def test_a_missing_folder_is_an_error_immediately(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        JsonLinesSink(tmp_path / "none" / "audit.jsonl")


async def test_the_key_is_not_shown(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "audit.jsonl", chain=True, key=b"top-secret-of-the-audit")
    assert repr(sink) == f"JsonLinesSink({str(tmp_path / 'audit.jsonl')!r}, chain=True)"
    await sink.close()
