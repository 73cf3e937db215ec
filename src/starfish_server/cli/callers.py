"""Who calls a server: bearer tokens, each with an identity and roles."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from starfish_server.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starfish_server.router import AuthResult

_SHORTEST_TOKEN = 16


class HasHeaders(Protocol):
    """What is asked of a request."""

    @property
    def headers(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    caller: AuthResult


class BearerTokens:
    """Callers by their tokens. Holds digests only, so that no token can leak from here.

    A token has at least 16 characters, and is one caller's only; else it is a `StackError`.
    """

    def __init__(self, tokens: Iterable[tuple[str, AuthResult]]) -> None:
        self._known: list[_Known] = []
        for token, caller in tokens:
            if len(token) < _SHORTEST_TOKEN:
                raise StackError(f"the token of {caller.identity} has under {_SHORTEST_TOKEN} characters")
            digest = _digest(token)
            if any(known.digest == digest for known in self._known):
                raise StackError(f"the token of {caller.identity} is another caller's as well")
            self._known.append(_Known(digest, caller))

    async def resolve(self, request: HasHeaders) -> AuthResult | None:
        """The caller whose token is in the Authorization header, or None.

        Compared with every token, each in constant time, so that the time taken tells nothing.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        digest = _digest(token.strip())
        found = None
        for known in self._known:
            if hmac.compare_digest(known.digest, digest) and scheme.lower() == "bearer":
                found = known.caller
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
