"""`starfish rotate`, on stack files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cli.program import Ended, interrupted_at, starfish, starfish_on_a_terminal
from starfish_server import FilesystemObjectStore, FilesystemStorageOptions, StoreContext, load_stack
from starfish_server.cli.output import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from starfish_server import AbstractObjectStore

SECRETS = {"SECRET_2025": "o" * 32, "SECRET_2026": "n" * 32}
OLD = 'secrets = {"2025" = "${SECRET_2025}"}, active = "2025"'
BOTH = 'secrets = {"2025" = "${SECRET_2025}", "2026" = "${SECRET_2026}"}, active = "2026"'
NEW = 'secrets = {"2026" = "${SECRET_2026}"}, active = "2026"'
ACME, EMCA = (StoreContext("notes", {}, "alice", (), "push", namespace=name) for name in ("acme", "emca"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "data").mkdir()
    return tmp_path


def stack(folder: Path, keys: str, more: str = "") -> str:
    """Write a stack file: Encryption inside a namespace and compression."""
    text = f"""
[[layer]]
type = "Namespace"
prefix = "tenants/{{namespace}}/"
[[layer]]
type = "Compression"
[[layer]]
type = "Encryption"
keys = {{type = "KeyRing", {keys}}}
{more}
[leaf]
type = "filesystem"
base_dir = "data"
fsync = false
"""
    (folder / "stack.toml").write_text(text)
    return "stack.toml"


def rotate(folder: Path, *options: str) -> Ended:
    return starfish("rotate", "stack.toml", *options, cwd=folder, env=SECRETS)


async def fill(store: AbstractObjectStore, count: int = 2) -> None:
    async with store:
        for context in (ACME, EMCA):
            for number in range(count):
                await store.put(f"k{number}", "text " * 1000, context=context)


async def test_what_an_old_key_sealed_is_read_with_the_new_key_alone(folder: Path) -> None:
    await fill(load_stack(stack(folder, OLD)))
    async with load_stack(stack(folder, BOTH)) as store:
        await store.put("new", "text", context=ACME)
    ended = rotate(folder)
    assert ended.out.startswith(b"4 re-encrypted, 1 already current, 0 gone, 0 failed, 0 left out, ")
    assert (ended.code, ended.err) == (ExitCode.OK, "")
    assert rotate(folder).out.startswith(b"0 re-encrypted, 5 already current")
    async with load_stack(stack(folder, NEW)) as store:
        for context in (ACME, EMCA):
            assert await store.get_string("k1", context=context) == "text " * 1000


async def test_a_terminal_sees_how_far_it_is(folder: Path) -> None:
    await fill(load_stack(stack(folder, OLD)))
    ended = starfish_on_a_terminal("rotate", stack(folder, BOTH), cwd=folder)
    assert b"encrypting" in ended.out
    assert b"4 re-encrypted, 0 already current" in ended.out
    assert ended.code == ExitCode.OK


async def test_one_tenant_is_rotated_by_its_prefix(folder: Path) -> None:
    await fill(load_stack(stack(folder, OLD)))
    stack(folder, BOTH)
    assert rotate(folder, "--prefix", "tenants/acme/").out.startswith(b"2 re-encrypted, 0 already current")
    assert rotate(folder).out.startswith(b"2 re-encrypted, 2 already current")


async def test_what_fails_and_what_no_list_names_is_not_passed_over(folder: Path) -> None:
    await fill(load_stack(stack(folder, OLD)))
    leaf = FilesystemObjectStore(FilesystemStorageOptions(base_dir="data", fsync=False))
    await leaf.put("plain", "not encrypted")
    (folder / "data" / "not a key").write_text("no object")
    stack(folder, BOTH)
    ended = rotate(folder, "--json")
    found = json.loads(ended.out)
    del found["seconds"]
    assert found == {
        "reencrypted": 4,
        "current": 0,
        "gone": 0,
        "failed": [
            {
                "key": "plain",
                "error": "open 'plain': it is not encrypted; allow_plain=True would return it as it is",
            }
        ],
        "left_out": [{"path": "not a key", "reason": found["left_out"][0]["reason"]}],
        "interrupted": False,
    }
    assert "starfish: plain: open 'plain': it is not encrypted" in ended.err
    assert "left out: not a key" in ended.err
    assert ended.code == ExitCode.FAILED
    assert await leaf.get_string("plain") == "not encrypted"


async def test_every_encryption_of_the_stack_is_rotated(folder: Path) -> None:
    (folder / "backup").mkdir()
    backup = """
[[layer]]
type = "Fallback"
[layer.backup.leaf]
type = "filesystem"
base_dir = "backup"
[[layer.backup.layer]]
type = "Encryption"
keys = {type = "KeyRing", %s}
"""

    def outside(keys: str) -> str:
        path = stack(folder, keys)
        text = (folder / path).read_text()
        where = text.index('[[layer]]\ntype = "Encryption"')
        (folder / path).write_text("check_order = false\n" + text[:where] + backup % keys + text[where:])
        return path

    async with load_stack(outside(OLD)) as store:
        await store.put("k", "text", context=ACME)
    copied = starfish("cp", "data", "backup", cwd=folder)
    assert copied.code == ExitCode.OK
    outside(BOTH)
    ended = rotate(folder)
    assert [line[:14] for line in ended.out.splitlines()] == [b"1 re-encrypted", b"1 re-encrypted"]
    assert ended.code == ExitCode.OK


async def test_a_replica_that_is_behind_is_not_forgotten(folder: Path) -> None:
    (folder / "replica").mkdir()
    (folder / "replica" / "tenants").write_text("a file where a folder should be")
    mirror = """
[[layer]]
type = "Mirror"
require = "first"
pending_log = "pending.jsonl"
[[layer.replicas]]
leaf = {type = "filesystem", base_dir = "replica"}
"""
    await fill(load_stack(stack(folder, OLD)), 1)
    stack(folder, BOTH, mirror)
    ended = rotate(folder)
    assert ended.out.startswith(b"2 re-encrypted")
    assert "2 objects of replicas are pending: run starfish repair" in ended.err
    assert ended.code == ExitCode.FAILED
    (folder / "replica" / "tenants").unlink()
    assert starfish("repair", "stack.toml", cwd=folder, env=SECRETS).code == ExitCode.OK
    assert rotate(folder).code == ExitCode.OK


def test_a_stack_without_encryption_is_a_mistake(folder: Path) -> None:
    ended = starfish("rotate", "data", cwd=folder)
    assert (ended.code, ended.err) == (
        ExitCode.USAGE,
        "starfish: data: there is no Encryption in this stack\n",
    )


async def test_an_interrupted_rotation_is_continued(folder: Path) -> None:
    await fill(load_stack(stack(folder, OLD)))
    command = ("rotate", stack(folder, BOTH), "-j", "1")
    code, _, err = interrupted_at("tenants/emca/k0", *command, cwd=folder, env=SECRETS)
    assert (code, err) == (ExitCode.INTERRUPTED, "starfish: interrupted: run it again to continue\n")
    assert rotate(folder).out.startswith(b"2 re-encrypted, 2 already current, 0 gone, 0 failed")
