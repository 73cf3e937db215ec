"""Callers by bearer tokens: which tokens are accepted, and what never shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from router.application import client_of, make_app, one_collection
from starfish_server.router import AuthResult, BearerTokens

if TYPE_CHECKING:
    from starfish_server.testing import RecordingStore

TOKEN = "token-of-alice-0123"
ALICE, BOB = AuthResult("alice", ["member"]), AuthResult("bob", ["member"])
MEMBERS = one_collection(readRoles=["member"])


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer", 401),
        ("Bearer tökén-of-alice-0123", 401),
        ("", 401),
    ],
)
async def test_the_header_must_carry_a_known_token(store: RecordingStore, header: str, status: int) -> None:
    tokens = BearerTokens([("token-of-bob-012345", BOB), (TOKEN, ALICE)])
    async with client_of(make_app(store, MEMBERS, role_resolver=tokens.resolve)) as client:
        response = await client.get("/pull/notes/a", headers={b"Authorization": header.encode("latin-1")})
    assert response.status_code == status
    assert [call.context.identity for call in store.calls if call.context] == ["alice"] * (status == 200)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "fewer than 16 characters"),
        ("token-of-alice", "fewer than 16 characters"),
        (f"{TOKEN}\n", "a line break"),
        (f" {TOKEN}", "a space"),
        (f"{TOKEN} ", "a space"),
        (f"{TOKEN[:9]} {TOKEN[9:]}", "a space"),
        ("tökén-of-alice-0123", "not visible ASCII"),
        (f"{TOKEN}\x00", "not visible ASCII"),
        (f"{TOKEN}\x7f", "not visible ASCII"),
    ],
)
def test_a_token_that_no_header_can_match_is_refused_by_name_and_not_shown(token: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"the token of alice .*{message}") as raised:
        BearerTokens([(token, ALICE)])
    assert not token or token not in str(raised.value)


@pytest.mark.parametrize("token", [None, b"token-of-alice-0123", 1])
def test_a_token_is_text(token: Any) -> None:
    with pytest.raises(TypeError, match="the token of alice must be a str"):
        BearerTokens([(token, ALICE)])


def test_a_token_belongs_to_one_caller() -> None:
    with pytest.raises(ValueError, match="the token of bob is another caller's as well") as raised:
        BearerTokens([(TOKEN, ALICE), (TOKEN, BOB)])
    assert TOKEN not in str(raised.value)


def test_the_representation_shows_neither_tokens_nor_their_digests() -> None:
    assert repr(BearerTokens([(TOKEN, ALICE)])) == "BearerTokens(1 tokens)"
