"""`starfish repair`, on stack files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cli.program import interrupted_at, starfish, starfish_on_a_terminal
from starfish_server import FilesystemObjectStore, FilesystemStorageOptions, load_stack
from starfish_server.cli.output import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STACK = """
[[layer]]
type = "Mirror"
pending_log = "pending.jsonl"
require = "first"

[[layer.replicas]]
leaf = {type = "filesystem", base_dir = "replica", fsync = false}

[leaf]
type = "filesystem"
base_dir = "first"
fsync = false
"""
LATER = 4e9
"""A time after every write of a test; 0 is before."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "replica"):
        (tmp_path / name).mkdir()
    (tmp_path / "stack.toml").write_text(STACK)
    return tmp_path


def leaf(folder: Path, name: str) -> FilesystemObjectStore:
    return FilesystemObjectStore(FilesystemStorageOptions(base_dir=str(folder / name), fsync=False))


def missed(folder: Path, **since: float) -> None:
    """Write the log of a mirror whose replica has missed writes of these keys."""
    lines = [json.dumps([1, key, seconds]) + "\n" for key, seconds in since.items()]
    (folder / "pending.jsonl").write_text("".join(lines))


async def unequal(folder: Path) -> None:
    """A replica that lacks one object, has one that was deleted, and one that was written later."""
    first, replica = leaf(folder, "first"), leaf(folder, "replica")
    await first.put("new", "text")
    await replica.put("deleted", "text")
    await first.put("other", "ours")
    await replica.put("other", "theirs, later")
    missed(folder, new=LATER, deleted=LATER, other=0.0)


async def test_what_is_pending_is_repaired_and_what_is_ahead_is_named(folder: Path) -> None:
    await unequal(folder)
    ended = starfish("repair", "stack.toml", cwd=folder)
    assert ended.out.decode() == (
        "pending.jsonl: 3 pending, 1 repaired, 1 deleted, 0 identical, 1 ahead, 0 failed, 1 still pending\n"
    )
    assert ended.err == "starfish: replica 1: other: ahead, it was written later; --force overwrites it\n"
    assert ended.code == ExitCode.FAILED
    replica = leaf(folder, "replica")
    assert await replica.list_keys("") == ["new", "other"]
    assert await replica.get_string("other") == "theirs, later"

    ended = starfish("repair", "stack.toml", "--force", "--json", cwd=folder)
    assert json.loads(ended.out) == {
        "pending_log": "pending.jsonl",
        "pending": 1,
        "repaired": [{"replica": 1, "key": "other"}],
        "deleted": [],
        "identical": [],
        "ahead": [],
        "failed": [],
        "still_pending": [],
        "interrupted": False,
    }
    assert (ended.code, await replica.get_string("other")) == (ExitCode.OK, "ours")
    assert starfish("repair", "stack.toml", cwd=folder).code == ExitCode.OK


async def test_a_dry_run_prints_what_is_pending_and_changes_nothing(folder: Path) -> None:
    await unequal(folder)
    ended = starfish("repair", "stack.toml", "--dry-run", cwd=folder)
    assert ended.out == b"1\tdeleted\tpending.jsonl\n1\tnew\tpending.jsonl\n1\tother\tpending.jsonl\n"
    assert ended.code == ExitCode.FAILED
    assert await leaf(folder, "replica").list_keys("") == ["deleted", "other"]
    ended = starfish("repair", "stack.toml", "-n", "--json", cwd=folder)
    assert [entry["key"] for entry in json.loads(ended.out)["pending"]] == ["deleted", "new", "other"]
    missed(folder)
    assert starfish("repair", "stack.toml", "-n", cwd=folder).code == ExitCode.OK


async def test_a_terminal_sees_how_far_it_is(folder: Path) -> None:
    await unequal(folder)
    ended = starfish_on_a_terminal("repair", "stack.toml", "--force", cwd=folder)
    assert b"repairing" in ended.out
    assert b"3 pending, 2 repaired, 1 deleted" in ended.out
    assert ended.code == ExitCode.OK


async def test_a_key_that_fails_is_named_and_stays_pending(folder: Path) -> None:
    await leaf(folder, "first").put("a", "text")
    await leaf(folder, "first").put("b", "text")
    await leaf(folder, "replica").put("b/c", "a folder where an object should be")
    missed(folder, a=LATER, b=LATER)
    ended = starfish("repair", "stack.toml", cwd=folder)
    assert b"1 repaired, 0 deleted, 0 identical, 0 ahead, 1 failed, 1 still pending" in ended.out
    assert ended.err.startswith("starfish: replica 1: b: ")
    assert ended.code == ExitCode.FAILED


async def test_a_log_that_another_process_writes_is_left_to_it(folder: Path) -> None:
    await unequal(folder)
    server = load_stack(folder / "stack.toml")
    await server.put("served", "text")
    ended = starfish("repair", "stack.toml", cwd=folder)
    assert "another process or Mirror uses it" in ended.err
    assert ended.code == ExitCode.UNAVAILABLE
    assert await leaf(folder, "replica").list_keys("") == ["deleted", "other", "served"]
    assert starfish("repair", "stack.toml", "--dry-run", cwd=folder).code == ExitCode.FAILED
    await server.close()
    assert starfish("repair", "stack.toml", "--force", cwd=folder).code == ExitCode.OK


async def test_every_mirror_of_the_stack_is_repaired(folder: Path) -> None:
    (folder / "second").mkdir()
    nested = """
[[layer]]
type = "Mirror"
pending_log = "outer.jsonl"
[[layer.replicas]]
leaf = {type = "filesystem", base_dir = "second"}
"""
    (folder / "stack.toml").write_text(nested + STACK)
    await leaf(folder, "first").put("k", "text")
    missed(folder, k=LATER)
    (folder / "pending.jsonl").rename(folder / "outer.jsonl")
    missed(folder, k=LATER)
    ended = starfish("repair", "stack.toml", cwd=folder)
    assert [line.partition(",")[0] for line in ended.out.decode().splitlines()] == [
        "outer.jsonl: 1 pending",
        "pending.jsonl: 1 pending",
    ]
    assert ended.code == ExitCode.OK
    for name in ("replica", "second"):
        assert await leaf(folder, name).get_string("k") == "text"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[text.index("[leaf]") :], "there is no Mirror in this stack"),
        (lambda text: text.replace('pending_log = "pending.jsonl"', ""), "in the memory of the process"),
    ],
)
def test_a_stack_with_nothing_to_repair_is_a_mistake(
    folder: Path, change: Callable[[str], str], reason: str
) -> None:
    (folder / "stack.toml").write_text(change(STACK))
    ended = starfish("repair", "stack.toml", cwd=folder)
    assert reason in ended.err
    assert ended.code == ExitCode.USAGE


async def test_the_folder_of_a_disk_that_is_not_mounted_deletes_nothing(folder: Path) -> None:
    await leaf(folder, "replica").put("k", "text")
    missed(folder, k=LATER)
    (folder / "first").rmdir()
    ended = starfish("repair", "stack.toml", cwd=folder)
    assert "there is no folder" in ended.err
    assert (ended.code, await leaf(folder, "replica").list_keys("")) == (ExitCode.FAILED, ["k"])


async def test_after_an_interrupt_the_rest_is_pending_and_is_repaired_by_the_next_run(folder: Path) -> None:
    first, replica = leaf(folder, "first"), leaf(folder, "replica")
    keys = [f"k{number}" for number in range(4)]
    for key in keys:
        await first.put(key, "text")
    missed(folder, **dict.fromkeys(keys, LATER))
    code, _, err = interrupted_at("k2", "repair", "stack.toml", "-j", "1", cwd=folder)
    assert (code, "2 are pending: run it again to continue" in err) == (ExitCode.INTERRUPTED, True)
    left = starfish("repair", "stack.toml", "-n", cwd=folder).out.splitlines()
    assert (len(left), await replica.list_keys("")) == (2, keys[:2])
    assert starfish("repair", "stack.toml", cwd=folder).code == ExitCode.OK
    assert await replica.list_keys("") == keys
