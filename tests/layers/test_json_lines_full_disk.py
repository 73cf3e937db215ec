"""What a `JsonLinesSink` does when the disk takes only a part of a batch."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from typing import TYPE_CHECKING

import pytest

from layers.access_records import record
from starfish_server.audit.chain import verify_audit_log
from starfish_server.audit.json_lines import JsonLinesSink

if TYPE_CHECKING:
    from pathlib import Path


def keys(file: Path) -> list[str]:
    return [json.loads(line)["keys"][0] for line in file.read_text().splitlines()]


class FullDisk:
    """Takes the place of `os.write`: a part of a batch gets through, then the disk is full.

    Before that, `whole` writes succeed. No write returns until `gate` is set.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, whole: int = 0) -> None:
        self.full = True
        self.whole = whole
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, file: int, data: memoryview) -> int:
        self.entered.set()
        assert self.gate.wait(60)
        if self.whole or not self.full:
            self.whole = max(0, self.whole - 1)
            return self._write(file, data)
        if len(data) > 100:
            return self._write(file, data[: len(data) - 100])
        raise OSError(28, "No space left on device")


async def test_a_full_disk_fails_keep_and_the_log_goes_on_whole_and_chained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonLinesSink(path, chain=True)
    await sink.keep(record("a"))
    disk = FullDisk(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        await sink.keep(record("b"))
    disk.full = False
    await sink.keep(record("c"))
    await sink.close()
    assert keys(path) == ["a", "c"]
    assert verify_audit_log(path).ok
    assert "1 access records lost: OSError(28, 'No space left on device')" in caplog.messages


async def test_the_chain_goes_on_after_the_part_of_a_batch_that_reached_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonLinesSink(path, chain=True)
    disk = FullDisk(monkeypatch, whole=1)
    disk.gate.clear()
    first = asyncio.ensure_future(sink.keep(record("first")))
    await asyncio.to_thread(disk.entered.wait)
    batch = [asyncio.ensure_future(sink.keep(record(key))) for key in ("a", "b")]
    await asyncio.sleep(0)  # both are queued, for one batch
    disk.gate.set()
    await first
    await asyncio.wait(batch)
    assert all(isinstance(each.exception(), OSError) for each in batch)
    disk.full = False
    await sink.keep(record("c"))
    await sink.close()
    assert keys(path) == ["first", "a", "c"]
    assert verify_audit_log(path).ok


async def test_close_raises_if_the_last_records_were_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = JsonLinesSink(tmp_path / "audit.jsonl")
    FullDisk(monkeypatch)
    sink(record("a"))
    with pytest.raises(OSError, match="No space left"):
        await sink.close()
