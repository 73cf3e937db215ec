"""What a `JsonLinesSink` does when its files are deleted, shared, inherited, or no files at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from layers.access_records import record
from starfish_server import MemoryObjectStore, StoreUnavailableError
from starfish_server.audit.chain import verify_audit_log
from starfish_server.audit.json_lines import JsonLinesSink
from starfish_server.errors import StackError
from starfish_server.layers.access_log import AccessLog

if TYPE_CHECKING:
    from collections.abc import Callable

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}


def keys(file: Path) -> list[str]:
    return [json.loads(line)["keys"][0] for line in file.read_text().splitlines()]


def rename_by_date(path: Path) -> None:
    path.rename(path.with_name("audit.jsonl-20260101"))


@pytest.mark.parametrize("remove", [Path.unlink, rename_by_date])
async def test_a_log_whose_file_was_deleted_or_renamed_goes_on_in_a_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, remove: Callable[[Path], None]
) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonLinesSink(path)
    await sink.keep(record("a"))
    remove(path)
    await sink.keep(record("b"))
    await sink.close()
    assert keys(path) == ["b"]
    assert caplog.messages == ["audit.jsonl: the file was deleted or renamed, the log continues in a new one"]


@pytest.mark.parametrize("backups", [None, 0])
async def test_a_chain_whose_file_was_deleted_shows_that_lines_are_missing(
    tmp_path: Path, backups: int | None
) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonLinesSink(path, chain=True, max_bytes=None if backups is None else 1, backups=backups)
    for key in ("a", "b"):
        await sink.keep(record(key))
    path.unlink()
    await sink.keep(record("c"))
    await sink.close()
    found = verify_audit_log(path)
    assert [problem.message for problem in found.problems] == [
        "lines 1 to 2 of the chain are missing before this one, 3"
    ]
    assert verify_audit_log(path, missing_start=True).ok


async def test_a_chain_whose_file_was_deleted_during_a_failure_does_not_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonLinesSink(path, chain=True)
    await sink.keep(record("a"))

    def refuse(file: int, data: bytes) -> int:
        path.unlink()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(OSError, match="No space left"):
        await sink.keep(record("b"))
    monkeypatch.undo()
    await sink.keep(record("c"))
    await sink.close()
    assert json.loads(path.read_text())["seq"] == 2


async def test_a_rotated_file_that_was_deleted_does_not_stop_the_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonLinesSink(path, max_bytes=1, backups=1)
    for key in ("a", "b", "c"):
        await sink.keep(record(key))
        path.with_name("audit.jsonl.1").unlink(missing_ok=True)
    await sink.close()
    assert keys(path) == ["c"]


async def test_a_sink_whose_lock_was_deleted_and_taken_over_writes_no_more(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    first = JsonLinesSink(path)
    await first.keep(record("a"))
    path.with_name("audit.jsonl.lock").unlink()
    second = JsonLinesSink(path)
    with pytest.raises(StackError, match="another sink or process writes"):
        await first.keep(record("b"))
    await second.keep(record("c"))
    await second.close()
    await first.keep(record("d"))
    await first.close()
    assert keys(path) == ["a", "c", "d"]


@pytest.mark.parametrize("chain", [True, False])
async def test_a_blank_last_line_is_not_taken_for_an_empty_chained_log(tmp_path: Path, chain: bool) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonLinesSink(path, chain=True)
    await sink.keep(record("a"))
    await sink.close()
    with path.open("ab") as file:
        file.write(b"\n" if chain else b"\n\n\n")
    with pytest.raises(StackError, match="is not of a hash chain"):
        JsonLinesSink(path, chain=True)


def test_a_second_process_on_one_log_gets_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonLinesSink(path)  # held until the end of the test
    script = (
        "import sys\nfrom starfish_server import StackError, load_stack\n"
        "sink = {'type': 'JsonLinesSink', 'path': sys.argv[1]}\n"
        "try: load_stack({'leaf': {'type': 'memory'}, 'layer': [{'type': 'AccessLog', 'sink': sink}]})\n"
        "except StackError as error: print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert ended.stdout.endswith(
        f"{path}: another sink or process writes this log (it holds {path}.lock); "
        'give each process its own path, as in "audit-{worker}.jsonl"\n'
    )
    assert ended.stdout.count("\n") == 1
    assert sink.dropped == 0


HOLDER = """
import os, signal, sys
from starfish_server.layers import JsonLinesSink

sink = JsonLinesSink(sys.argv[1])
child = os.fork()
if child == 0:
    os.write(1, b"%d\\n" % os.getpid())
signal.pause()
"""


async def test_a_forked_child_does_not_keep_the_log_of_a_parent_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    parent = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE)  # noqa: ASYNC220
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        parent.kill()
        parent.wait(60)
        await JsonLinesSink(path).close()
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


def test_standard_output_into_a_pipe_is_written_as_a_stream(tmp_path: Path) -> None:
    script = (
        "import asyncio\nfrom layers.access_records import record\n"
        "from starfish_server.layers import JsonLinesSink\n"
        "async def main():\n"
        "    sink = JsonLinesSink('/dev/stdout')\n"
        "    await sink.keep(record('a'))\n"
        "    sink(record('b'))\n"
        "    await sink.close()\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, env=ENVIRONMENT, cwd=tmp_path
    )
    assert [json.loads(line)["keys"] for line in ended.stdout.splitlines()] == [["a"], ["b"]]
    assert os.listdir(tmp_path) == []


async def test_a_named_pipe_is_written_as_a_stream_by_several_sinks(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(pipe.read_text().splitlines()))
    keeper = os.open(pipe, os.O_RDWR)  # so that neither end waits for the other
    reader.start()
    sinks = [JsonLinesSink(pipe), JsonLinesSink(pipe)]
    for number, sink in enumerate(sinks):
        await sink.keep(record(f"k{number}"))
    os.close(keeper)
    for sink in sinks:
        await sink.close()
    reader.join(60)
    assert [json.loads(line)["keys"] for line in lines] == [["k0"], ["k1"]]
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("options", [{"max_bytes": 100}, {"fsync": True}, {"chain": True}])
def test_a_stream_cannot_be_rotated_forced_or_chained(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^/dev/null is not a regular file: it cannot have max_bytes"):
        JsonLinesSink("/dev/null", **options)


def test_a_pipe_without_a_reader_is_an_error_immediately(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        JsonLinesSink(tmp_path / "pipe")


async def test_a_strict_write_fails_while_another_process_holds_the_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    store = AccessLog(MemoryObjectStore(data={}), sink=JsonLinesSink(path), on_sink_failure="fail")
    path.with_name("audit.jsonl.lock").unlink()
    other = JsonLinesSink(path)
    with pytest.raises(StoreUnavailableError, match="nothing was done"):
        await store.put("k", "v")
    await other.close()
    await store.put("k", "v")
    await store.close()


async def test_each_process_writes_the_first_log_that_no_other_one_writes(tmp_path: Path) -> None:
    template = str(tmp_path / "audit-{worker}.jsonl")
    sinks = [JsonLinesSink(template, chain=True) for _ in range(3)]
    await sinks[1].keep(record("a"))
    await sinks[1].close()
    again = JsonLinesSink(template, chain=True)
    await again.keep(record("b"))
    for sink in (sinks[0], sinks[2], again):
        await sink.close()
    logs = {name for name in os.listdir(tmp_path) if name.endswith(".jsonl")}
    assert logs == {"audit-0.jsonl", "audit-1.jsonl", "audit-2.jsonl"}
    assert keys(tmp_path / "audit-1.jsonl") == ["a", "b"]
    assert verify_audit_log(tmp_path / "audit-1.jsonl").ok


def test_a_log_of_the_wrong_chain_is_refused_whatever_its_number(tmp_path: Path) -> None:
    (tmp_path / "audit-0.jsonl").write_text("{}\n")
    with pytest.raises(StackError, match="not of a hash chain"):
        JsonLinesSink(str(tmp_path / "audit-{worker}.jsonl"), chain=True)
