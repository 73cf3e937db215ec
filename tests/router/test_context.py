"""The context of every store call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from router.application import as_caller, pushed
from starfish_server import StoreContext

if TYPE_CHECKING:
    import httpx

    from starfish_server.testing import RecordingStore


def context(
    collection: str,
    action: str,
    params: dict[str, str],
    *,
    identity: str | None = None,
    roles: tuple[str, ...] = (),
    namespace: str | None = None,
) -> StoreContext:
    return StoreContext(collection, params, identity, roles, action, namespace)


ALICE = {"identity": "alice"}
BLOB = {"content": b"x", "headers": {"Content-Type": "image/png"}}


@pytest.mark.parametrize(
    ("method", "path", "caller", "operations", "expected"),
    [
        ("GET", "/pull/notes/a", "", ["get_string"], context("notes", "pull", {"id": "a"})),
        ("POST", "/push/notes/a", "", ["read", "write"], context("notes", "push", {"id": "a"})),
        ("GET", "/list/notes", "", ["list_keys"], context("notes", "list", {})),
        ("GET", "/pull/pictures/p", "", ["open"], context("pictures", "pull", {"id": "p"})),
        ("POST", "/push/pictures/p", "", ["write"], context("pictures", "push", {"id": "p"})),
        (
            "GET",
            "/pull/users/alice/profile",
            "alice x y",
            ["get_string"],
            context("profile", "pull", ALICE, identity="alice", roles=("x", "y", "self")),
        ),
        (
            "GET",
            "/pull/users/alice/profile",
            "bob admin self",
            ["get_string"],
            context("profile", "pull", ALICE, identity="bob", roles=("admin",)),
        ),
        (
            "GET",
            "/list/users/alice/diary",
            "alice",
            ["list_keys"],
            context("diary", "list", ALICE, identity="alice", roles=("self",)),
        ),
        (
            "POST",
            "/acme/push/users/alice/profile",
            "alice",
            ["read", "write"],
            context("profile", "push", ALICE, identity="alice", roles=("self",), namespace="acme"),
        ),
        (
            "GET",
            "/acme/pull/notes/a",
            "alice",
            ["get_string"],
            context("notes", "pull", {"id": "a"}, namespace="acme"),
        ),
    ],
)
async def test_every_store_call_carries_the_context_of_the_request(
    client: httpx.AsyncClient,
    store: RecordingStore,
    method: str,
    path: str,
    caller: str,
    operations: list[str],
    expected: StoreContext,
) -> None:
    headers = as_caller(caller)
    if "push/pictures" in path:
        await client.post(path, content=b"x", headers=headers | {"Content-Type": "image/png"})
    elif method == "POST":
        await client.post(path, json=pushed({"n": 1}), headers=headers)
    else:
        await client.get(path, headers=headers)
    assert [call.name for call in store.calls] == operations
    assert {call.context for call in store.calls} == {expected}
