from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from layers.access_records import hostile_text, record
from starfish_server.audit.chain import (
    AuditVerification,
    chained_line,
    link_of,
    verify_audit_log,
)
from starfish_server.audit.json_lines import JsonLinesSink
from starfish_server.errors import StackError

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"0123456789abcdef"


async def write(
    path: Path, count: int = 6, *, max_bytes: int | None = None, key: bytes | None = None
) -> None:
    sink = JsonLinesSink(path, chain=True, max_bytes=max_bytes, key=key)
    for number in range(count):
        sink(record(f"k{number}"))
    await sink.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """An audit log of six chained lines."""
    path = tmp_path / "audit.jsonl"
    asyncio.run(write(path))
    return path


def rewrite(path: Path, order: list[int]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[number] for number in order))


def shown(found: AuditVerification) -> list[tuple[int, str]]:
    return [(problem.line, problem.message) for problem in found.problems]


def test_an_untouched_log_is_ok(log: Path) -> None:
    found = verify_audit_log(log)
    assert (found.ok, found.lines, found.files, found.problems) == (True, 6, (log,), ())
    assert verify_audit_log(log, last_hash=found.last_hash).ok


def test_a_removed_line_shows(log: Path) -> None:
    rewrite(log, [0, 1, 3, 4, 5])
    found = verify_audit_log(log)
    assert not found.ok
    assert shown(found) == [(3, "lines 3 to 3 of the chain are missing before this one, 4")]
    assert str(found.problems[0]) == f"{log}:3: lines 3 to 3 of the chain are missing before this one, 4"


def test_a_removed_start_shows(log: Path) -> None:
    rewrite(log, [2, 3, 4, 5])
    assert shown(verify_audit_log(log)) == [(1, "lines 1 to 2 of the chain are missing before this one, 3")]
    assert verify_audit_log(log, missing_start=True).ok


def test_a_changed_line_shows(log: Path) -> None:
    log.write_bytes(log.read_bytes().replace(b'"keys":["k2"]', b'"keys":["kX"]'))
    assert shown(verify_audit_log(log)) == [(3, "changed, or not of this chain")]


def test_a_reordered_line_shows(log: Path) -> None:
    rewrite(log, [0, 2, 1, 3, 4, 5])
    assert [line for line, _ in shown(verify_audit_log(log))] == [2, 3, 4]
    assert shown(verify_audit_log(log))[1][1] == "out of order: line 2 of the chain comes after line 3"


def test_a_repeated_line_shows(log: Path) -> None:
    rewrite(log, [0, 1, 1, 2, 3, 4, 5])
    assert shown(verify_audit_log(log)) == [(3, "out of order: line 2 of the chain comes after line 2")]


def test_a_line_replaced_with_its_hash_shows_at_the_next(log: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    before = link_of(lines[0], None)
    assert before is not None
    lines[1], _ = chained_line(record("forged").to_json(), before, None)
    log.write_bytes(b"".join(lines))
    assert shown(verify_audit_log(log)) == [(3, "does not follow the line before it, which was replaced")]


def test_a_line_without_a_newline_shows_as_unfinished(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-20])
    assert shown(verify_audit_log(log)) == [(6, "unfinished")]


def test_a_cut_end_shows_only_with_the_hash_of_a_line_kept_elsewhere(log: Path) -> None:
    kept = verify_audit_log(log).last_hash
    rewrite(log, [0, 1, 2, 3])
    assert verify_audit_log(log).ok
    assert shown(verify_audit_log(log, last_hash=kept)) == [
        (4, "the line with last_hash is gone: lines were cut off")
    ]


async def test_a_hash_kept_elsewhere_still_holds_when_the_log_has_grown(log: Path) -> None:
    kept = verify_audit_log(log).last_hash
    await write(log)
    assert verify_audit_log(log, last_hash=kept).ok


async def test_the_chain_goes_on_through_rotations_and_restarts(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    for _ in range(4):
        await write(log, max_bytes=1_200)
    found = verify_audit_log(log)
    assert (found.ok, found.lines) == (True, 24)
    assert len(found.files) > 10
    found.files[4].unlink()
    (problem,) = verify_audit_log(log).problems
    assert (problem.file, problem.line) == (found.files[5], 1)


def test_the_chain_goes_on_after_a_crash_in_the_middle_of_a_line(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-20])
    asyncio.run(write(log, 2))
    found = verify_audit_log(log)
    assert (found.ok, found.lines) == (True, 7)
    assert found.unfinished_bytes > 100


def test_a_chain_that_ends_badly_is_not_continued(log: Path) -> None:
    with log.open("a") as file:
        file.write("{}\n")
    with pytest.raises(StackError, match="is not of a hash chain made without a key"):
        JsonLinesSink(log, chain=True)
    assert log.read_text().endswith("{}\n")
    log.write_text("")
    asyncio.run(write(log))
    assert verify_audit_log(log).ok


@pytest.mark.parametrize("key", [None, KEY])
async def test_a_chain_is_not_continued_by_a_sink_without_one(tmp_path: Path, key: bytes | None) -> None:
    log = tmp_path / "audit.jsonl"
    await write(log, key=key)
    with pytest.raises(StackError, match=r"is a chained log: open it with chain=True \(and its key\)"):
        JsonLinesSink(log)
    await write(log, key=key)
    assert verify_audit_log(log, key=key).lines == 12


def test_the_chain_goes_on_after_a_crash_in_the_middle_of_a_rotation(log: Path) -> None:
    log.rename(log.with_name("audit.jsonl.1"))
    asyncio.run(write(log, 2))
    found = verify_audit_log(log)
    assert (found.ok, found.lines, len(found.files)) == (True, 8, 2)


async def test_with_a_key_the_chain_can_be_made_and_checked_only_with_it(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    await write(log, key=KEY)
    assert verify_audit_log(log, key=KEY).ok
    assert not verify_audit_log(log).ok
    assert not verify_audit_log(log, key=KEY[::-1]).ok
    with pytest.raises(StackError, match="made with this key"):
        JsonLinesSink(log, chain=True, key=KEY[::-1])
    with pytest.raises(StackError, match="not of a hash chain made without a key"):
        JsonLinesSink(log, chain=True)


def test_any_change_of_one_byte_shows(log: Path) -> None:
    whole = log.read_bytes()
    for place in range(0, len(whole), 7):
        log.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not verify_audit_log(log).ok


async def test_hostile_texts_do_not_break_the_chain(tmp_path: Path) -> None:
    chance = random.Random(3)
    log = tmp_path / "audit.jsonl"
    sink = JsonLinesSink(log, chain=True, key=KEY)
    for _ in range(1_000):
        sink(record(hostile_text(chance)))
    await sink.close()
    assert verify_audit_log(log, key=KEY).ok


def test_a_log_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verify_audit_log(tmp_path / "audit.jsonl")


def test_a_thoroughly_broken_log_shows_its_first_hundred_problems(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    log.write_text("x\n" * 1_000)
    found = verify_audit_log(log)
    assert (found.ok, found.lines, len(found.problems)) == (False, 1_000, 100)


def test_an_emptied_log_shows_with_the_hash_of_a_line_kept_elsewhere(log: Path) -> None:
    kept = verify_audit_log(log).last_hash
    log.write_bytes(b"")
    assert verify_audit_log(log).last_hash is None
    assert [str(problem) for problem in verify_audit_log(log, last_hash=kept).problems] == [
        f"{log}:0: the line with last_hash is gone: lines were cut off"
    ]
